//! `key=value` lists in flags.

use anyhow::bail;

use crate::error::hinted;

/// The fields of `text`, a line of comma-separated values; `"` around a field protects commas, and
/// `""` in it is one quote.
pub(super) fn split(text: &str) -> anyhow::Result<Vec<String>> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut chars = text.chars().peekable();
    let mut is_quoted = false;
    while let Some(char) = chars.next() {
        match char {
            '"' if is_quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if is_quoted || field.is_empty() => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(std::mem::take(&mut field)),
            char => field.push(char),
        }
    }
    if is_quoted {
        bail!("`{text}` has a quote without an end");
    }
    fields.push(field);
    Ok(fields)
}

/// The `key=value` fields of `text`, keys in lower case.
pub(super) fn pairs(text: &str) -> anyhow::Result<Vec<(String, String)>> {
    let fields = split(text)?;
    let pair = |field: &String| match field.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_lowercase(), value.to_owned())),
        None => Err(hinted(
            format!("`{field}` in `{text}` is no field"),
            "write KEY=VALUE, separated by commas",
        )),
    };
    fields.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_protect_commas() {
        assert_eq!(split("a,b").unwrap(), ["a", "b"]);
        assert_eq!(
            split(r#"type=x,"name=a,b",c"#).unwrap(),
            ["type=x", "name=a,b", "c"]
        );
        assert_eq!(split(r#""a""b""#).unwrap(), [r#"a"b"#]);
        assert_eq!(split("").unwrap(), [""]);
        assert!(split(r#""a"#).is_err());
    }

    #[test]
    fn fields_are_pairs() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            pairs("Type=local,dest=/A=b").unwrap(),
            [pair("type", "local"), pair("dest", "/A=b")]
        );
        assert!(pairs("type=local,dest").is_err());
    }
}
