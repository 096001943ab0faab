//! The debug address: what the daemon does, over HTTP, for operators and their monitors.
//!
//! Nothing can be changed here, and nothing of a build's content is told. The protocol is the little
//! of HTTP/1.1 that a `GET` without a body needs.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::parts::Probe;

/// A request's head is a few hundred bytes.
const MAX_HEAD: usize = 8 << 10;
/// How long a client may take to ask and to read.
const LIMIT: Duration = Duration::from_secs(10);
/// Clients that are served at a time.
const MAX_CLIENTS: usize = 16;

/// What there is, with a word about it.
const PAGES: [(&str, &str); 6] = [
    ("/metrics", "numbers, for Prometheus"),
    ("/healthz", "whether the daemon answers"),
    ("/debug/vars", "the same numbers, as JSON"),
    ("/debug/pprof/goroutine", "threads, and what each waits for"),
    ("/debug/pprof/heap", "memory by kind"),
    ("/debug/pprof/cmdline", "how the daemon was called"),
];

/// Binds `address`.
pub(super) async fn bind(address: &str) -> anyhow::Result<TcpListener> {
    let place = address.strip_prefix("tcp://").unwrap_or(address);
    // As in Go, an address without a host is that of all hosts.
    let place = match place.strip_prefix(':') {
        Some(port) => format!("0.0.0.0:{port}"),
        None => place.to_owned(),
    };
    let listener = TcpListener::bind(&place).await;
    let listener = listener.with_context(|| format!("failed to listen on `{address}`"))?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "debug address");
    }
    Ok(listener)
}

/// Answers until it is dropped.
pub(super) async fn serve(listener: TcpListener, probe: Probe) {
    let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        // Never closed.
        let Ok(place) = clients.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "failed to accept on the debug address");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let probe = probe.clone();
        tokio::spawn(async move {
            // A client that does not ask, or breaks, is its own affair.
            let _ = tokio::time::timeout(LIMIT, answer(stream, &probe)).await;
            drop(place);
        });
    }
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    probe: &Probe,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < MAX_HEAD {
        let mut chunk = [0; 1024];
        match stream.read(&mut chunk).await? {
            0 => break,
            count => head.extend_from_slice(&chunk[..count]),
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split_whitespace();
    let (status, kind, body) = match (words.next(), words.next()) {
        (Some("GET" | "HEAD"), Some(target)) => {
            let path = target.split('?').next().unwrap_or_default();
            match page(path, probe) {
                Some((kind, body)) => ("200 OK", kind, body),
                None => (
                    "404 Not Found",
                    "text/plain",
                    "404 page not found\n".to_owned(),
                ),
            }
        }
        (Some(_), Some(_)) => ("405 Method Not Allowed", "text/plain", String::new()),
        _ => ("400 Bad Request", "text/plain", String::new()),
    };
    let length = body.len();
    let head_only = head.starts_with("HEAD");
    let mut response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    if !head_only {
        response.push_str(&body);
    }
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

fn page(path: &str, probe: &Probe) -> Option<(&'static str, String)> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    Some(match path {
        "/metrics" => ("text/plain; version=0.0.4", metrics(&numbers(probe))),
        "/healthz" => ("text/plain", "ok\n".to_owned()),
        "/debug/vars" => ("application/json", vars(&numbers(probe))),
        "/debug/pprof/goroutine" | "/debug/pprof/threadcreate" => ("text/plain", threads()),
        "/debug/pprof/heap" | "/debug/pprof/allocs" => {
            ("text/plain", read("/proc/self/smaps_rollup"))
        }
        "/debug/pprof/cmdline" => ("text/plain", read("/proc/self/cmdline").replace('\0', "\n")),
        "/" | "/debug" | "/debug/" | "/debug/pprof" | "/debug/pprof/" => {
            let lines = PAGES.iter().map(|(path, what)| format!("{path}\t{what}\n"));
            ("text/plain", lines.collect())
        }
        _ => return None,
    })
}

/// A number that is told.
struct Number {
    name: &'static str,
    help: &'static str,
    value: f64,
    counts: bool,
}

fn numbers(probe: &Probe) -> Vec<Number> {
    let gauge = |name, help, value: u64| Number {
        name,
        help,
        #[expect(clippy::cast_precision_loss, reason = "what is told is never so large")]
        value: value as f64,
        counts: false,
    };
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let process = Process::read();
    vec![
        gauge(
            "drydock_builds_running",
            "Builds that run.",
            count(probe.builds()),
        ),
        gauge(
            "drydock_sessions",
            "Clients with a session.",
            count(probe.sessions()),
        ),
        gauge(
            "drydock_containers_running",
            "Containers of users that run.",
            count(probe.containers()),
        ),
        gauge(
            "drydock_calls_running",
            "Calls that are not answered yet.",
            count(probe.calls()),
        ),
        gauge(
            "process_resident_memory_bytes",
            "Memory in use.",
            process.resident,
        ),
        gauge(
            "process_virtual_memory_bytes",
            "Address space in use.",
            process.virtual_size,
        ),
        gauge("process_threads", "Threads.", process.threads),
        gauge("process_open_fds", "Open files.", process.open_files),
        Number {
            name: "process_cpu_seconds_total",
            help: "Time of processors that was used.",
            value: process.cpu_seconds,
            counts: true,
        },
    ]
}

/// What the kernel says of this process.
#[derive(Default)]
struct Process {
    resident: u64,
    virtual_size: u64,
    threads: u64,
    open_files: u64,
    cpu_seconds: f64,
}

impl Process {
    fn read() -> Process {
        let mut process = Process::default();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        for line in status.lines() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let number = value.split_whitespace().next();
            let number: u64 = number.and_then(|n| n.parse().ok()).unwrap_or(0);
            match key {
                "VmRSS" => process.resident = number << 10,
                "VmSize" => process.virtual_size = number << 10,
                "Threads" => process.threads = number,
                _ => {}
            }
        }
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        process.open_files = u64::try_from(files).unwrap_or(0);
        // The name in parentheses may hold anything: fields count from behind it.
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|f| f.parse().ok()).unwrap_or(0.0);
        #[expect(clippy::cast_precision_loss, reason = "a hundred, nearly always")]
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        process.cpu_seconds = (ticks(11) + ticks(12)) / per_second.max(1.0);
        process
    }
}

fn metrics(numbers: &[Number]) -> String {
    let mut text = String::new();
    for number in numbers {
        let Number {
            name, help, value, ..
        } = number;
        let kind = if number.counts { "counter" } else { "gauge" };
        // A string takes everything.
        let _ = writeln!(
            text,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
        );
    }
    text
}

fn vars(numbers: &[Number]) -> String {
    let all = numbers
        .iter()
        .map(|number| (number.name.to_owned(), serde_json::json!(number.value)));
    let mut text = serde_json::Value::Object(all.collect()).to_string();
    text.push('\n');
    text
}

/// The threads, with their states and where in the kernel they wait.
fn threads() -> String {
    let mut text = String::new();
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else {
        return text;
    };
    for thread in threads.flatten() {
        let read = |name: &str| {
            let text = std::fs::read_to_string(thread.path().join(name)).unwrap_or_default();
            text.trim().to_owned()
        };
        let status = read("status");
        let state = status.lines().find_map(|line| line.strip_prefix("State:"));
        let _ = writeln!(
            text,
            "thread {} {:?} [{}] {}",
            thread.file_name().to_string_lossy(),
            read("comm"),
            state.unwrap_or_default().trim(),
            read("wchan"),
        );
    }
    text
}
