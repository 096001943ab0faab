//! One line of comma-separated values.

/// A line that cannot be split.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CsvError {
    /// Nothing to split.
    #[error("EOF")]
    Empty,
    /// A quote inside a field that does not start with one.
    #[error("parse error on line 1, column {0}: bare \" in non-quoted field")]
    BareQuote(usize),
    /// A quoted field that is not closed, or goes on after its close.
    #[error("parse error on line 1, column {0}: extraneous or missing \" in quoted-field")]
    Quote(usize),
}

/// The fields of `line`; quoted fields may hold commas, `""` is a quote in them.
pub(crate) fn csv_fields(line: &str) -> Result<Vec<String>, CsvError> {
    let line = line
        .strip_suffix('\n')
        .map_or(line, |line| line.strip_suffix('\r').unwrap_or(line));
    if line.is_empty() {
        return Err(CsvError::Empty);
    }
    let mut fields = Vec::new();
    let mut at = 0;
    loop {
        let rest = &line[at..];
        if !rest.starts_with('"') {
            let end = rest.find(',').unwrap_or(rest.len());
            if let Some(quote) = rest[..end].find('"') {
                return Err(CsvError::BareQuote(at + quote + 1));
            }
            fields.push(rest[..end].to_owned());
            at += end;
        } else {
            let (field, length) = quoted(rest, at)?;
            fields.push(field);
            at += length;
        }
        match line.as_bytes().get(at) {
            // Only a comma can follow a field.
            Some(_) => at += 1,
            None => return Ok(fields),
        }
    }
}

/// The quoted field at the start of `rest`, and its length with quotes.
fn quoted(rest: &str, at: usize) -> Result<(String, usize), CsvError> {
    let mut field = String::new();
    let mut position = 1;
    loop {
        let Some(quote) = rest[position..].find('"') else {
            return Err(CsvError::Quote(at + position + 1));
        };
        field.push_str(&rest[position..position + quote]);
        position += quote + 1;
        match rest.as_bytes().get(position) {
            None | Some(b',') => return Ok((field, position)),
            Some(b'"') => {
                field.push('"');
                position += 1;
            }
            Some(_) => return Err(CsvError::Quote(at + position)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_fields_hold_commas() {
        for (line, want) in [
            ("a,b=1", vec!["a", "b=1"]),
            ("\"a,b\",c", vec!["a,b", "c"]),
            ("\"a\"\"b\"", vec!["a\"b"]),
            ("a,", vec!["a", ""]),
            (",", vec!["", ""]),
            ("a\n", vec!["a"]),
        ] {
            assert_eq!(csv_fields(line).unwrap(), want, "{line}");
        }
        for (line, want) in [
            ("", CsvError::Empty),
            ("a\"b", CsvError::BareQuote(2)),
            ("\"a", CsvError::Quote(2)),
            ("\"a\"b", CsvError::Quote(3)),
        ] {
            assert_eq!(csv_fields(line), Err(want), "{line}");
        }
    }
}
