//! Sizes and durations as people write them.

use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// An amount of disk: bytes, or a part of the whole disk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum DiskSpace {
    Bytes(u64),
    Percent(u64),
}

impl Default for DiskSpace {
    fn default() -> DiskSpace {
        DiskSpace::Bytes(0)
    }
}

impl DiskSpace {
    /// Parses `10GB`, `512MiB`, `10%` or a number of bytes.
    pub(crate) fn parse(text: &str) -> Option<DiskSpace> {
        match text.trim().strip_suffix('%') {
            Some(part) => part.trim().parse().ok().map(DiskSpace::Percent),
            None => parse_bytes(text).map(DiskSpace::Bytes),
        }
    }

    /// The amount on a disk of `total` bytes.
    pub(crate) fn of_disk(self, total: u64) -> u64 {
        match self {
            DiskSpace::Bytes(bytes) => bytes,
            DiskSpace::Percent(part) => total / 100 * part.min(100),
        }
    }
}

/// Parses a size. `kB`, `MB` and so on are decimal in BuildKit's configuration; a bare `k`, `m` or
/// `g` too; `KiB` and so on are binary.
pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .find(|char: char| !char.is_ascii_digit() && char != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let unit = unit.trim().to_ascii_lowercase();
    let base: f64 = if unit.contains('i') { 1024.0 } else { 1000.0 };
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    // Saturates; a size beyond u64 is as good as the largest one.
    Some((number * base.powi(power)) as u64)
}

/// Parses `1h30m`, `90s`, `100ms`, or a number of seconds.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|char: char| !char.is_ascii_digit() && char != '.')?;
        let (number, tail) = rest.split_at(end);
        let end = tail
            .find(|char: char| char.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * seconds;
        rest = tail;
    }
    Duration::try_from_secs_f64(total).ok()
}

/// A scalar of the configuration file that is a number or text.
pub(super) struct Scalar(pub(super) String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar, D::Error> {
        struct ScalarVisitor;
        impl Visitor<'_> for ScalarVisitor {
            type Value = Scalar;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number or a string")
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar(value.to_owned()))
            }
        }
        deserializer.deserialize_any(ScalarVisitor)
    }
}

impl<'de> Deserialize<'de> for DiskSpace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DiskSpace, D::Error> {
        let Scalar(text) = Scalar::deserialize(deserializer)?;
        DiskSpace::parse(&text)
            .ok_or_else(|| D::Error::custom(format!("`{text}` is no disk space")))
    }
}

/// Reads a duration for `#[serde(deserialize_with)]`.
pub(super) fn duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    let Scalar(text) = Scalar::deserialize(deserializer)?;
    match parse_duration(&text) {
        Some(duration) => Ok(Some(duration)),
        None => Err(D::Error::custom(format!("`{text}` is no duration"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal_or_binary() {
        assert_eq!(parse_bytes("512"), Some(512));
        assert_eq!(parse_bytes("10GB"), Some(10_000_000_000));
        assert_eq!(parse_bytes("1.5 kb"), Some(1500));
        assert_eq!(parse_bytes("64m"), Some(64_000_000));
        assert_eq!(parse_bytes("1KiB"), Some(1024));
        assert_eq!(parse_bytes("ten"), None);
        assert_eq!(parse_bytes("1x"), None);
    }

    #[test]
    fn disk_space_may_be_a_part() {
        assert_eq!(DiskSpace::parse("10%"), Some(DiskSpace::Percent(10)));
        assert_eq!(DiskSpace::Percent(10).of_disk(1000), 100);
        assert_eq!(DiskSpace::Percent(900).of_disk(1000), 1000);
    }

    #[test]
    fn durations_are_units_or_seconds() {
        assert_eq!(parse_duration("90"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(parse_duration("100ms"), Some(Duration::from_millis(100)));
        assert_eq!(parse_duration("48h"), Some(Duration::from_secs(172_800)));
        assert_eq!(parse_duration("soon"), None);
        assert_eq!(parse_duration("5"), Some(Duration::from_secs(5)));
    }
}
