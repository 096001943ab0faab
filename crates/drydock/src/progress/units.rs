//! Sizes for people.

const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

/// `count` bytes in decimal units: `123B`, `1.23kB`.
pub(crate) fn bytes(count: i64) -> String {
    let mut unit = 0;
    let mut value = count as f64;
    while value.abs() >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count}B")
    } else {
        format!("{value:.2}{}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn units_are_decimal() {
        assert_eq!(bytes(0), "0B");
        assert_eq!(bytes(999), "999B");
        assert_eq!(bytes(1234), "1.23kB");
        assert_eq!(bytes(45_000_000), "45.00MB");
        assert_eq!(bytes(i64::MAX), "9.22EB");
    }
}
