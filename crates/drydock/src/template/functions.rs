//! What templates can call.

use std::cmp::Ordering;

use super::{TemplateError, Value};

/// A function, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Function(&'static str);

const NAMES: [&str; 15] = [
    "and", "eq", "ge", "gt", "index", "json", "le", "len", "lt", "ne", "not", "or", "print",
    "printf", "println",
];

impl Function {
    pub(super) fn named(name: &str) -> Result<Function, TemplateError> {
        let found = NAMES.into_iter().find(|known| *known == name);
        let unknown = || TemplateError::new(format!("function {name:?} not defined"));
        found.map(Function).ok_or_else(unknown)
    }

    /// Whether the value of an argument is that of the call, whatever follows.
    pub(super) fn is_decided_by(self, argument: &Value) -> bool {
        match self.0 {
            "and" => !argument.is_true(),
            "or" => argument.is_true(),
            _ => false,
        }
    }

    pub(super) fn call(self, mut arguments: Vec<Value>) -> Result<Value, TemplateError> {
        let wrong = |text: &str| TemplateError::new(format!("error calling {}: {text}", self.0));
        let missing = || wrong("not enough arguments");
        match self.0 {
            "print" => Ok(Value::Text(print(&arguments))),
            "println" => {
                let words: Vec<String> = arguments.iter().map(Value::print).collect();
                Ok(Value::Text(words.join(" ") + "\n"))
            }
            "printf" => match arguments.split_first() {
                Some((Value::Text(format), rest)) => Ok(Value::Text(printf(format, rest))),
                Some(_) => Err(wrong("the format is no string")),
                None => Err(missing()),
            },
            "and" | "or" => arguments.pop().ok_or_else(missing),
            "eq" => {
                let (first, others) = arguments.split_first().ok_or_else(missing)?;
                if others.is_empty() {
                    return Err(missing());
                }
                Ok(Value::Bool(
                    others.iter().any(|other| is_equal(first, other)),
                ))
            }
            "index" => {
                let mut value = first(&mut arguments).ok_or_else(missing)?;
                for key in arguments {
                    value = index(value, &key).map_err(|text| wrong(&text))?;
                }
                Ok(value)
            }
            name => {
                let value = first(&mut arguments).ok_or_else(missing)?;
                match (name, first(&mut arguments)) {
                    ("not", None) => Ok(Value::Bool(!value.is_true())),
                    ("json", None) => Ok(Value::Text(value.json().to_string())),
                    ("len", None) => length(&value).ok_or_else(|| wrong("it has no length")),
                    ("not" | "json" | "len", Some(_)) => Err(wrong("too many arguments")),
                    (_, None) => Err(missing()),
                    ("ne", Some(other)) => Ok(Value::Bool(!is_equal(&value, &other))),
                    (name, Some(other)) => {
                        let order = compare(&value, &other);
                        let order =
                            order.ok_or_else(|| wrong("incompatible types for comparison"))?;
                        Ok(Value::Bool(match name {
                            "lt" => order.is_lt(),
                            "le" => order.is_le(),
                            "gt" => order.is_gt(),
                            _ => order.is_ge(),
                        }))
                    }
                }
            }
        }
    }
}

fn first(arguments: &mut Vec<Value>) -> Option<Value> {
    (!arguments.is_empty()).then(|| arguments.remove(0))
}

/// With spaces between what is no text.
fn print(arguments: &[Value]) -> String {
    let mut text = String::new();
    let mut was_text = true;
    for (number, argument) in arguments.iter().enumerate() {
        let is_text = matches!(argument, Value::Text(_));
        if number > 0 && !is_text && !was_text {
            text.push(' ');
        }
        text.push_str(&argument.print());
        was_text = is_text;
    }
    text
}

fn length(value: &Value) -> Option<Value> {
    let length = match value {
        Value::Text(text) => text.len(),
        Value::List(list) => list.len(),
        Value::Map(map) => map.len(),
        // Go has no lists that are not there: they are empty.
        Value::Null => 0,
        _ => return None,
    };
    i64::try_from(length).ok().map(Value::Int)
}

fn index(value: Value, key: &Value) -> Result<Value, String> {
    match (value, key) {
        (Value::List(mut list), Value::Int(at)) => {
            let found = usize::try_from(*at).ok().filter(|at| *at < list.len());
            let at = found.ok_or_else(|| format!("index out of range: {at}"))?;
            Ok(list.swap_remove(at))
        }
        (Value::Map(mut map), Value::Text(key)) => Ok(map
            .remove(key)
            .unwrap_or_else(|| Value::Text(String::new()))),
        (Value::Null, _) => Err("index of untyped nil".to_owned()),
        (value, _) => Err(format!("can't index {} so", value.print())),
    }
}

fn is_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Named(number, name), other) | (other, Value::Named(number, name)) => {
            *other == Value::Int(*number) || *other == Value::Text(name.clone()) || a == b
        }
        _ => a == b,
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers of templates are small")]
fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Int(a) | Value::Named(a, _), Value::Int(b) | Value::Named(b, _)) => Some(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
        (Value::Int(a), Value::Float(b)) => (*a as f64).partial_cmp(b),
        (Value::Float(a), Value::Int(b)) => a.partial_cmp(&(*b as f64)),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        (Value::Time { json: a, .. }, Value::Time { json: b, .. }) => Some(a.cmp(b)),
        _ => None,
    }
}

/// The verbs `%v`, `%s`, `%d`, `%q`, `%t`, `%f`, `%x` with `-`, `0`, a width and a precision.
fn printf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let flags = after.find(|c: char| !matches!(c, '-' | '0'..='9' | '.' | '+' | '#'));
        let Some(end) = flags else {
            out.push_str("%!(NOVERB)");
            return out;
        };
        let verb = after[end..].chars().next().unwrap_or('%');
        rest = &after[end + verb.len_utf8()..];
        if verb == '%' {
            out.push('%');
            continue;
        }
        match arguments.next() {
            Some(argument) => out.push_str(&formatted(argument, verb, &after[..end])),
            None => out.push_str(&format!("%!{verb}(MISSING)")),
        }
    }
    out.push_str(rest);
    out
}

fn formatted(value: &Value, verb: char, flags: &str) -> String {
    /// Nobody's terminal is wider.
    const MAX_WIDTH: usize = 1000;
    let (width, precision) = match flags.split_once('.') {
        Some((width, precision)) => (width, precision.parse::<usize>().ok()),
        None => (flags, None),
    };
    let left = width.contains('-');
    let digits = width.trim_start_matches(['-', '+', '#']);
    let zeros = digits.starts_with('0') && !left;
    let width = digits.parse::<usize>().unwrap_or(0).min(MAX_WIDTH);
    let precision = precision.map(|precision| precision.min(MAX_WIDTH));
    let text = match (verb, value) {
        ('q', value) => format!("{:?}", value.print()),
        ('x', Value::Int(number)) => format!("{number:x}"),
        ('x', Value::Text(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('f', Value::Float(number)) => format!("{number:.*}", precision.unwrap_or(6)),
        ('s', value) => {
            let text = value.print();
            text.chars().take(precision.unwrap_or(usize::MAX)).collect()
        }
        (_, value) => value.print(),
    };
    match (left, zeros) {
        (true, _) => format!("{text:<width$}"),
        (false, true) => format!("{text:0>width$}"),
        (false, false) => format!("{text:>width$}"),
    }
}
