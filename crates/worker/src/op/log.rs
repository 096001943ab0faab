//! How much of what a step prints is passed on.
//!
//! All of it, unless whoever runs the daemon sets a limit: BuildKit's `BUILDKIT_STEP_LOG_MAX_SIZE` (bytes
//! of each stream of a step) and `BUILDKIT_STEP_LOG_MAX_SPEED` (bytes a second), where -1 is none.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

/// Of what was cut off, so much of the end is shown when the step ends.
const TAIL: usize = 256 << 10;

/// Limits of what a step may print to one stream; none by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes in all.
    pub size: Option<u64>,
    /// Bytes for each second that has begun.
    pub speed: Option<u64>,
}

impl LogLimits {
    /// What the values of `BUILDKIT_STEP_LOG_MAX_SIZE` and `BUILDKIT_STEP_LOG_MAX_SPEED` mean.
    ///
    /// # Errors
    /// Names the one that is no number.
    pub fn parse(size: Option<&str>, speed: Option<&str>) -> Result<LogLimits, String> {
        let limit = |name: &str, value: Option<&str>| match value.map(str::parse::<i64>) {
            None => Ok(None),
            Some(_) if value == Some("") => Ok(None),
            // No limit.
            Some(Ok(-1)) => Ok(None),
            Some(Ok(value)) if value >= 0 => Ok(Some(value.unsigned_abs())),
            Some(_) => Err(format!(
                "{name} is {:?}, which is neither a number of bytes nor -1 for no limit",
                value.unwrap_or_default()
            )),
        };
        Ok(LogLimits {
            size: limit("BUILDKIT_STEP_LOG_MAX_SIZE", size)?,
            speed: limit("BUILDKIT_STEP_LOG_MAX_SPEED", speed)?,
        })
    }

    /// How much may have been printed after `time`, and the limit in words.
    fn after(&self, time: Duration) -> Option<(u64, String)> {
        let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
        let by_speed = self
            .speed
            .map(|speed| (speed.saturating_mul(seconds), format!("{}/s", units(speed))));
        let by_size = self.size.map(|size| (size, units(size)));
        match (by_speed, by_size) {
            (Some(speed), Some(size)) if speed.0 > size.0 => Some(size),
            (Some(speed), _) => Some(speed),
            (None, size) => size,
        }
    }
}

/// Bytes as BuildKit writes them, e.g. `1.5MiB`.
fn units(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    #[expect(
        clippy::cast_precision_loss,
        reason = "for people, who read no more digits"
    )]
    let mut number = bytes as f64;
    let mut unit = 0;
    while number >= 1024.0 {
        (number, unit) = (number / 1024.0, unit + 1);
    }
    format!("{number}{}", UNITS[unit])
}

/// One stream of a step, with the limits applied.
#[derive(Debug, Default)]
pub(super) struct Clipped {
    limits: LogLimits,
    printed: u64,
    is_clipping: bool,
    /// The end of what came since something was cut off for the first time.
    tail: Option<VecDeque<u8>>,
}

impl Clipped {
    pub(super) fn new(limits: LogLimits) -> Clipped {
        Clipped {
            limits,
            ..Clipped::default()
        }
    }

    /// What is passed on of `data`, which came `time` after the step began.
    pub(super) fn take(&mut self, data: &[u8], time: Duration) -> Bytes {
        let before = self.printed;
        self.printed += data.len() as u64;
        let Some((limit, words)) = self.limits.after(time) else {
            return Bytes::copy_from_slice(data);
        };
        let room = usize::try_from(limit.saturating_sub(before)).unwrap_or(usize::MAX);
        let is_cut = room < data.len();
        if is_cut && self.tail.is_none() {
            self.tail = Some(VecDeque::new());
        }
        if let Some(tail) = &mut self.tail {
            tail.extend(&data[data.len().saturating_sub(TAIL)..]);
            let over = tail.len().saturating_sub(TAIL);
            tail.drain(..over);
        }
        let mut shown = data[..room.min(data.len())].to_vec();
        if is_cut && !self.is_clipping {
            shown.extend_from_slice(
                format!("\n[output clipped, log limit {words} reached]\n").as_bytes(),
            );
        }
        self.is_clipping = is_cut;
        shown.into()
    }

    /// What is shown at the end of the step.
    pub(super) fn rest(self) -> Bytes {
        self.tail.map(Vec::from).unwrap_or_default().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn text(bytes: &Bytes) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn without_limits_all_is_passed_on() {
        let limits = LogLimits::parse(Some("-1"), None).unwrap();
        assert_eq!(limits, LogLimits::default());
        let mut all = Clipped::new(limits);
        assert_eq!(all.take(&[b'a'; 1 << 20], SECOND).len(), 1 << 20);
        assert_eq!(all.rest().len(), 0);
    }

    #[test]
    fn a_limit_of_the_size_cuts_and_the_end_is_shown() {
        let mut clipped = Clipped::new(LogLimits::parse(Some("1536"), Some("-1")).unwrap());
        assert_eq!(clipped.take(&[b'a'; 1000], SECOND).len(), 1000);
        let cut = clipped.take(&[b'b'; 1000], SECOND);
        assert!(text(&cut).ends_with("b\n[output clipped, log limit 1.5KiB reached]\n"));
        assert_eq!(cut.iter().filter(|byte| **byte == b'b').count(), 536);
        // Said once.
        assert_eq!(clipped.take(b"ccc", SECOND).len(), 0);
        clipped.take(&[b'd'; TAIL], SECOND);
        clipped.take(b"end", SECOND);
        let rest = clipped.rest();
        assert_eq!(rest.len(), TAIL);
        assert!(text(&rest).starts_with("ddd") && text(&rest).ends_with("dend"));
    }

    #[test]
    fn a_limit_of_the_speed_lets_on_with_time() {
        let mut clipped = Clipped::new(LogLimits::parse(None, Some("10")).unwrap());
        let cut = clipped.take(b"0123456789ab", SECOND / 2);
        assert_eq!(
            text(&cut),
            "0123456789\n[output clipped, log limit 10B/s reached]\n"
        );
        assert_eq!(text(&clipped.take(b"later", 3 * SECOND)), "later");
        let both = LogLimits::parse(Some("25"), Some("10")).unwrap();
        assert_eq!(both.after(2 * SECOND).unwrap(), (20, "10B/s".to_owned()));
        assert_eq!(both.after(3 * SECOND).unwrap(), (25, "25B".to_owned()));
    }

    #[test]
    fn what_is_no_limit_is_refused() {
        for value in ["1k", "-2", "x"] {
            assert!(LogLimits::parse(Some(value), None).is_err(), "{value}");
        }
    }
}
