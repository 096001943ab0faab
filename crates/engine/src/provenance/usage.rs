//! What the machine has done so far and how busy it is, as the kernel tells it (BuildKit:
//! `executor/resources`).

use std::fs;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

/// Parts of a second in which the kernel counts the time of processors: it is fixed for programs.
const TICKS: f64 = 100.0;

/// One look at the machine. What the kernel does not tell is left out.
pub(super) fn sample() -> Value {
    let mut sample = Map::new();
    sample.insert(
        "timestamp".to_owned(),
        json!(super::stamp(SystemTime::now())),
    );
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let stat = read("/proc/stat");
    let mut add = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            sample.insert(key.to_owned(), value);
        }
    };
    add("cpuStat", processors(&stat));
    add("procStat", processes(&stat));
    add("memoryStat", memory(&read("/proc/meminfo")));
    for (key, name) in [
        ("cpuPressure", "cpu"),
        ("memoryPressure", "memory"),
        ("ioPressure", "io"),
    ] {
        add(key, pressure(&read(&format!("/proc/pressure/{name}"))));
    }
    Value::Object(sample)
}

/// Seconds of all processors, by what they were used for.
fn processors(stat: &str) -> Option<Value> {
    let names = [
        "user",
        "nice",
        "system",
        "idle",
        "iowait",
        "irq",
        "softirq",
        "steal",
        "guest",
        "guestNice",
    ];
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks = line.split_whitespace().map(|ticks| ticks.parse::<f64>());
    let seconds = names.into_iter().zip(ticks).map(|(name, ticks)| {
        let seconds = ticks.unwrap_or_default() / TICKS;
        (name.to_owned(), json!(seconds))
    });
    Some(Value::Object(seconds.collect()))
}

fn processes(stat: &str) -> Option<Value> {
    let count = |name: &str| {
        let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
        let (_, count) = lines.find(|(key, _)| *key == name)?;
        count.trim().parse::<u64>().ok()
    };
    Some(json!({
        "contextSwitches": count("ctxt")?,
        "processCreated": count("processes")?,
        "processesRunning": count("procs_running")?,
    }))
}

/// Kilobytes, by what they are used for.
fn memory(info: &str) -> Option<Value> {
    let size = |name: &str| {
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        let (_, size) = lines.find(|(key, _)| *key == name)?;
        size.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(json!({
        "total": size("MemTotal")?,
        "free": size("MemFree"),
        "available": size("MemAvailable"),
        "buffers": size("Buffers"),
        "cached": size("Cached"),
        "active": size("Active"),
        "inactive": size("Inactive"),
        "swap": size("SwapTotal"),
        "dirty": size("Dirty"),
        "writeback": size("Writeback"),
        "slab": size("Slab"),
    }))
}

/// How long work had to wait for something: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and a line
/// for `full`.
fn pressure(text: &str) -> Option<Value> {
    let lines = text.lines().filter_map(|line| {
        let (kind, fields) = line.split_once(' ')?;
        let fields = fields.split_whitespace().filter_map(|field| {
            let (name, value) = field.split_once('=')?;
            let value = match name {
                "total" => json!(value.parse::<u64>().ok()?),
                _ => json!(value.parse::<f64>().ok()?),
            };
            Some((name.to_owned(), value))
        });
        Some((kind.to_owned(), Value::Object(fields.collect())))
    });
    let lines: Map<String, Value> = lines.collect();
    (!lines.is_empty()).then_some(Value::Object(lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        let stat = "cpu  100 250 3 4 5 6 7 8 9 10\ncpu0 1 1 1 1 1 1 1 1 1 1\nctxt 11\nbtime 1\n\
                    processes 12\nprocs_running 13\n";
        let used = processors(stat).unwrap();
        assert_eq!((&used["user"], &used["nice"]), (&json!(1.0), &json!(2.5)));
        assert_eq!(used["guestNice"], json!(0.1));
        assert_eq!(processes(stat).unwrap()["processesRunning"], json!(13));
        let memory = memory("MemTotal:  24684084 kB\nActive(anon): 1 kB\nActive: 7 kB\n").unwrap();
        assert_eq!(
            (&memory["total"], &memory["active"]),
            (&json!(24_684_084), &json!(7))
        );
        assert_eq!(memory["slab"], Value::Null);
        let pressure = pressure("some avg10=1.50 avg60=0.00 avg300=0.00 total=99\n").unwrap();
        assert_eq!(
            pressure,
            json!({ "some": { "avg10": 1.5, "avg60": 0.0, "avg300": 0.0, "total": 99 } })
        );
    }

    #[test]
    fn where_nothing_is_told_nothing_is_said() {
        assert!(processors("").is_none() && processes("").is_none());
        assert!(memory("").is_none() && pressure("").is_none());
        assert!(sample()["timestamp"].is_string());
    }
}
