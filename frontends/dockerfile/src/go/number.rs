//! `strconv` and sizes.

use super::quote;

/// A text that is no number, in `strconv`'s words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("strconv.{function}: parsing {text}: {reason}", text = quote(.text), reason = if *.range { "value out of range" } else { "invalid syntax" })]
pub(crate) struct NumberError {
    function: &'static str,
    text: String,
    /// Whether it is a number, but not one of the wanted size.
    pub(crate) range: bool,
}

/// `strconv.ParseInt` of a type of `bits` bits.
pub(crate) fn parse_i64(text: &str, bits: u32) -> Result<i64, NumberError> {
    let error = |range| NumberError {
        function: "ParseInt",
        text: text.to_owned(),
        range,
    };
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(error(false));
    }
    let limit = 1i128 << (bits - 1);
    let value: i128 = digits.parse().map_err(|_| error(true))?;
    let value = if negative { -value } else { value };
    if value < -limit || value >= limit {
        return Err(error(true));
    }
    i64::try_from(value).map_err(|_| error(true))
}

/// `strconv.ParseUint` in `radix` of a type of `bits` bits.
pub(crate) fn parse_u64(text: &str, radix: u32, bits: u32) -> Result<u64, NumberError> {
    let error = |range| NumberError {
        function: "ParseUint",
        text: text.to_owned(),
        range,
    };
    if text.is_empty() || !text.chars().all(|c| c.is_digit(radix)) {
        return Err(error(false));
    }
    let value = u64::from_str_radix(text, radix).map_err(|_| error(true))?;
    if bits < 64 && value >> bits != 0 {
        return Err(error(true));
    }
    Ok(value)
}

/// `strconv.ParseBool`.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A text that is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid size: '{0}'")]
pub(crate) struct SizeError(pub(crate) String);

/// Bytes of a size such as `64m`, `1.5GiB`; units are powers of 1024.
pub(crate) fn ram_in_bytes(text: &str) -> Result<i64, SizeError> {
    let error = || SizeError(text.to_owned());
    let at = text
        .rfind(|c: char| c.is_ascii_digit() || matches!(c, '.' | ' '))
        .ok_or_else(error)?;
    let (number, suffix) = text.split_at(at + 1);
    let number: f64 = number
        .strip_suffix(' ')
        .unwrap_or(number)
        .parse()
        .map_err(|_| error())?;
    if number.is_nan() || number < 0.0 {
        return Err(error());
    }
    let suffix = suffix.to_lowercase();
    let (unit, rest) = match suffix.char_indices().nth(1) {
        Some((at, _)) => suffix.split_at(at),
        None => (suffix.as_str(), ""),
    };
    let power = match (unit, rest) {
        ("" | "b", "") => 0,
        ("k", "" | "b" | "ib") => 1,
        ("m", "" | "b" | "ib") => 2,
        ("g", "" | "b" | "ib") => 3,
        ("t", "" | "b" | "ib") => 4,
        ("p", "" | "b" | "ib") => 5,
        _ => return Err(error()),
    };
    // Saturates, as the conversion of a float does.
    Ok((number * 1024f64.powi(power)) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fail_in_strconvs_words() {
        assert_eq!(parse_i64("-12", 32), Ok(-12));
        for (text, want) in [
            ("x", "strconv.ParseInt: parsing \"x\": invalid syntax"),
            ("", "strconv.ParseInt: parsing \"\": invalid syntax"),
            (
                "99999999999",
                "strconv.ParseInt: parsing \"99999999999\": value out of range",
            ),
        ] {
            assert_eq!(parse_i64(text, 32).unwrap_err().to_string(), want);
        }
        assert_eq!(parse_u64("755", 8, 32), Ok(0o755));
        assert!(parse_u64("788", 8, 32).is_err());
    }

    #[test]
    fn sizes_have_binary_units() {
        for (text, want) in [
            ("10", Some(10)),
            ("1k", Some(1024)),
            ("1.5 MiB", Some(1_572_864)),
            ("2GB", Some(2 << 30)),
            ("x", None),
            ("1kx", None),
            ("-1", None),
        ] {
            assert_eq!(ram_in_bytes(text).ok(), want, "{text}");
        }
    }
}
