//! The grammar of each instruction's arguments.

use super::words::{cut_blanks, split_blanks, split_quoted};
use super::{Arguments, Node, Pair, ParseError, flags};
use crate::span::LineSpan;

/// How deep `ONBUILD` may nest before its use is judged; BuildKit refuses the second level later.
const MAX_NESTING: usize = 16;

/// Parses one logical line.
pub(super) fn parse_instruction(
    line: &str,
    escape: char,
    depth: usize,
) -> Result<Node, ParseError> {
    if depth > MAX_NESTING {
        return Err(ParseError::TooDeep);
    }
    let trimmed = line.trim();
    let (keyword, rest) = cut_blanks(trimmed).unwrap_or((trimmed, ""));
    let (flags, rest) = flags::take_flags(rest, escape);
    let rest = rest.trim();
    let arguments = match keyword.to_lowercase().as_str() {
        "add" | "copy" | "volume" => json_or(rest, split_all)?,
        "run" | "cmd" | "entrypoint" | "shell" => json_or(rest, whole)?,
        "arg" => Arguments::Words(split_quoted(rest, escape)),
        "env" => pairs(rest, "ENV", escape)?,
        "label" => pairs(rest, "LABEL", escape)?,
        "expose" | "from" => split_all(rest),
        "user" | "workdir" | "stopsignal" | "maintainer" => whole(rest),
        "healthcheck" => probe(rest)?,
        "onbuild" if !rest.is_empty() => {
            Arguments::Trigger(Box::new(parse_instruction(rest, escape, depth + 1)?))
        }
        // Unknown words are refused when the instruction is given its type.
        _ => Arguments::Words(Vec::new()),
    };
    Ok(Node {
        keyword: keyword.to_owned(),
        flags,
        arguments,
        original: line.to_owned(),
        heredocs: Vec::new(),
        span: LineSpan::default(),
        comments: Vec::new(),
    })
}

fn whole(rest: &str) -> Arguments {
    let rest = (!rest.is_empty()).then(|| rest.to_owned());
    Arguments::Words(rest.into_iter().collect())
}

fn split_all(rest: &str) -> Arguments {
    Arguments::Words(if rest.is_empty() {
        Vec::new()
    } else {
        split_blanks(rest)
    })
}

fn json_or(rest: &str, other: fn(&str) -> Arguments) -> Result<Arguments, ParseError> {
    Ok(json_strings(rest)?.map_or_else(|| other(rest), Arguments::Json))
}

/// The strings of a JSON array; `None` when the text is no JSON array at all.
fn json_strings(rest: &str) -> Result<Option<Vec<String>>, ParseError> {
    if !rest.starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(rest) else {
        return Ok(None);
    };
    values
        .into_iter()
        .map(|value| match value {
            serde_json::Value::String(text) => Ok(text),
            _ => Err(ParseError::NotStrings),
        })
        .collect::<Result<Vec<_>, _>>()
        .map(Some)
}

fn pairs(rest: &str, name: &'static str, escape: char) -> Result<Arguments, ParseError> {
    let words = split_quoted(rest, escape);
    let Some(first) = words.first() else {
        return Ok(Arguments::Pairs(Vec::new()));
    };
    if !first.contains('=') {
        let (key, value) = cut_blanks(rest).ok_or(ParseError::MissingValue(name))?;
        let pair = Pair {
            key: key.to_owned(),
            value: value.to_owned(),
            legacy: true,
        };
        return Ok(Arguments::Pairs(vec![pair]));
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) => Ok(Pair {
                key: key.to_owned(),
                value: value.to_owned(),
                legacy: false,
            }),
            None => Err(ParseError::MissingEquals(word)),
        })
        .collect::<Result<Vec<_>, _>>()
        .map(Arguments::Pairs)
}

fn probe(rest: &str) -> Result<Arguments, ParseError> {
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    let (kind, command) = rest.split_at(end);
    if kind.is_empty() {
        return Ok(Arguments::Words(Vec::new()));
    }
    let command = json_or(command.trim_start(), whole)?;
    let json = command.is_json();
    let (Arguments::Words(command) | Arguments::Json(command)) = command else {
        // `json_or` gives one of the two.
        return Ok(Arguments::Words(Vec::new()));
    };
    Ok(Arguments::Probe {
        kind: kind.to_owned(),
        command,
        json,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> String {
        match parse_instruction(line, '\\', 0) {
            Ok(node) => format!("{:?} {:?}", node.flags, node.arguments),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn each_instruction_has_its_own_grammar() {
        for (line, want) in [
            ("RUN --x a  b", r#"["--x"] Words(["a  b"])"#),
            (r#"RUN ["a", "b c"]"#, r#"[] Json(["a", "b c"])"#),
            (r#"RUN ["a", b]"#, r#"[] Words(["[\"a\", b]"])"#),
            (
                "RUN [1]",
                "when using JSON array syntax, arrays must be comprised of strings only",
            ),
            ("COPY a  b /c", r#"[] Words(["a", "b", "/c"])"#),
            ("ARG a b=1", r#"[] Words(["a", "b=1"])"#),
            ("RUN", "[] Words([])"),
            (
                "ENV k  v w",
                r#"[] Pairs([Pair { key: "k", value: "v w", legacy: true }])"#,
            ),
            (
                "ENV a=1 b",
                "Syntax error - can't find = in \"b\". Must be of the form: name=value",
            ),
            (
                "HEALTHCHECK --x CMD a b",
                r#"["--x"] Probe { kind: "CMD", command: ["a b"], json: false }"#,
            ),
        ] {
            assert_eq!(arguments(line), want, "{line}");
        }
    }
}
