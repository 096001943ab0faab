//! Which usage records are meant: containerd's filter expressions.
//!
//! An expression is a list of `field`, `field==value`, `field!=value` or `field~=regex`, separated by
//! commas; all must hold. Of several expressions one must. A field is one or more names joined by
//! dots; a name or value may be quoted with `"`, a regex also with `/` or `|`.

use std::iter::Peekable;
use std::str::Chars;

use regex::{Regex, RegexBuilder};

/// How large a regex may be when compiled, in bytes. A few `\w+` fit; a few characters more, such as
/// `\w{60}`, would be megabytes.
const MAX_REGEX: usize = 256 << 10;

/// How many of them all expressions may have together.
const MAX_REGEXES: usize = 200;

/// A filter that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid filter `{filter}`: {reason}")]
pub struct FilterError {
    /// The expression.
    pub filter: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Several expressions, of which one must hold; none at all hold for everything.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    expressions: Vec<Vec<Term>>,
}

#[derive(Clone, Debug)]
struct Term {
    field: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filter {
    /// Reads expressions.
    ///
    /// # Errors
    /// Names the first that is malformed.
    pub fn parse<S: AsRef<str>>(expressions: &[S]) -> Result<Filter, FilterError> {
        let mut left = MAX_REGEXES;
        let parse = |text: &S| {
            let text = text.as_ref();
            parse(text, &mut left).map_err(|reason| FilterError {
                filter: text.to_owned(),
                reason,
            })
        };
        Ok(Filter {
            expressions: expressions.iter().map(parse).collect::<Result<_, _>>()?,
        })
    }

    /// Whether it holds for something. `field` answers the value of a field (`""` for a flag) or
    /// `None` where there is none.
    pub fn matches(&self, field: impl Fn(&[String]) -> Option<String>) -> bool {
        let holds = |terms: &Vec<Term>| terms.iter().all(|term| term.matches(field(&term.field)));
        self.expressions.is_empty() || self.expressions.iter().any(holds)
    }
}

impl Term {
    fn matches(&self, value: Option<String>) -> bool {
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.is_some_and(|value| value == *wanted),
            Test::NotEqual(wanted) => value.unwrap_or_default() != *wanted,
            Test::Matches(regex) => regex.is_match(&value.unwrap_or_default()),
        }
    }
}

struct Input<'a>(Peekable<Chars<'a>>);

/// Reads an expression, with no more than `left` regexes.
fn parse(text: &str, left: &mut usize) -> Result<Vec<Term>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut input = Input(text.chars().peekable());
    let mut terms = Vec::new();
    loop {
        let term = input.term()?;
        if matches!(term.test, Test::Matches(_)) {
            let too_many = || format!("more than {MAX_REGEXES} regexes");
            *left = left.checked_sub(1).ok_or_else(too_many)?;
        }
        terms.push(term);
        input.skip_space();
        match input.0.next() {
            None => return Ok(terms),
            Some(',') => {}
            Some(other) => return Err(format!("unexpected `{other}`")),
        }
    }
}

impl Input<'_> {
    fn term(&mut self) -> Result<Term, String> {
        let mut field = vec![self.name()?];
        while self.0.next_if_eq(&'.').is_some() {
            field.push(self.name()?);
        }
        self.skip_space();
        let Some(first) = self.0.next_if(|char| matches!(char, '=' | '!' | '~')) else {
            return Ok(Term {
                field,
                test: Test::Present,
            });
        };
        if self.0.next() != Some('=') {
            return Err("expected an operator (`==`, `!=` or `~=`)".to_owned());
        }
        let value = self.value(first == '~')?;
        let test = match first {
            '=' => Test::Equal(value),
            '!' => Test::NotEqual(value),
            _ => Test::Matches(regex(&value)?),
        };
        Ok(Term { field, test })
    }

    fn name(&mut self) -> Result<String, String> {
        self.skip_space();
        if let Some(quote) = self.0.next_if_eq(&'"') {
            return self.quoted(quote);
        }
        let mut name = String::new();
        while let Some(char) = self
            .0
            .next_if(|char| char.is_ascii_alphanumeric() || *char == '_')
        {
            name.push(char);
        }
        if name.is_empty() {
            Err("expected a field".to_owned())
        } else {
            Ok(name)
        }
    }

    fn value(&mut self, is_regex: bool) -> Result<String, String> {
        self.skip_space();
        let is_quote = |char: &char| *char == '"' || (is_regex && matches!(char, '/' | '|'));
        if let Some(quote) = self.0.next_if(is_quote) {
            return self.quoted(quote);
        }
        let mut value = String::new();
        while let Some(char) = self.0.next_if(|char| *char != ',' && !char.is_whitespace()) {
            value.push(char);
        }
        if value.is_empty() {
            Err("expected a value".to_owned())
        } else {
            Ok(value)
        }
    }

    /// The rest of a quoted text, with Go's escapes.
    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let mut text = String::new();
        loop {
            match self.0.next().ok_or("unterminated quote")? {
                char if char == quote => return Ok(text),
                '\\' => text.push(self.escape(quote)?),
                char => text.push(char),
            }
        }
    }

    fn escape(&mut self, quote: char) -> Result<char, String> {
        let first = self.0.next().ok_or("unterminated quote")?;
        let digits = match first {
            char if char == quote || char == '\\' => return Ok(char),
            'a' => return Ok('\x07'),
            'b' => return Ok('\x08'),
            'f' => return Ok('\x0c'),
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            'v' => return Ok('\x0b'),
            '0'..='7' => return self.number(&first.to_string(), 2, 8),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            other => return Err(format!("unknown escape `\\{other}`")),
        };
        self.number("", digits, 16)
    }

    /// The character whose number is `start` with `count` more digits.
    fn number(&mut self, start: &str, count: usize, radix: u32) -> Result<char, String> {
        let digits: String = start.chars().chain(self.0.by_ref().take(count)).collect();
        let code = u32::from_str_radix(&digits, radix)
            .ok()
            .and_then(char::from_u32);
        code.ok_or_else(|| format!("invalid escape `{digits}`"))
    }

    fn skip_space(&mut self) {
        while self.0.next_if(|char| char.is_whitespace()).is_some() {}
    }
}

fn regex(pattern: &str) -> Result<Regex, String> {
    let mut regex = RegexBuilder::new(pattern);
    let regex = regex.size_limit(MAX_REGEX).dfa_size_limit(MAX_REGEX);
    regex.build().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(expressions: &[&str]) -> bool {
        Filter::parse(expressions)
            .unwrap()
            .matches(|field| match field {
                [name] if name == "id" => Some("abc".to_owned()),
                [name] if name == "type" => Some("source.local".to_owned()),
                [name] if name == "private" => Some(String::new()),
                [name, key] if name == "labels" && key == "a b" => Some("x,y".to_owned()),
                _ => None,
            })
    }

    #[test]
    fn expressions_hold_as_in_containerd() {
        for true_one in [
            &[][..],
            &[""],
            &["id"],
            &["id==abc"],
            &["id==abc,type==source.local"],
            &["id==other", "private"],
            &["id!=other"],
            &["missing!=x"],
            &["type~=^source"],
            &["type~=/lo.al$/"],
            &["id~=\"a\\x62c\""],
            &["labels.\"a b\"==\"x,\\171\""],
            &["id == abc , private"],
        ] {
            assert!(holds(true_one), "{true_one:?}");
        }
        for false_one in [
            &["missing"][..],
            &["missing==x"],
            &["id==abc,shared"],
            &["id~=^b"],
            &["id!=abc"],
        ] {
            assert!(!holds(false_one), "{false_one:?}");
        }
    }

    #[test]
    fn what_a_filter_takes_is_bounded() {
        let large = Filter::parse(&[r"id~=\w{60}"]).unwrap_err();
        assert!(large.reason.contains("size limit"), "{large}");
        Filter::parse(&[r"id~=^\w+-\w+$"]).unwrap();
        let many = |count: usize| Filter::parse(&vec![r"id~=\w+"; count]);
        many(MAX_REGEXES).unwrap();
        let refused = many(MAX_REGEXES + 1).unwrap_err();
        assert!(
            refused.reason.contains("more than 200 regexes"),
            "{refused}"
        );
        let listed = vec!["id~=a"; MAX_REGEXES + 1].join(",");
        Filter::parse(&[listed]).unwrap_err();
    }

    #[test]
    fn malformed_expressions_are_refused() {
        for bad in [
            "==",
            "id=abc",
            "id==",
            "id==a b",
            "id,",
            "id==/a/x/ y",
            "id~=(",
            "\"id",
            "id~=\"\\q\"",
        ] {
            assert!(Filter::parse(&[bad]).is_err(), "{bad}");
        }
    }
}
