//! What templates look into.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::json;

/// A value as Go has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// A number with a name: printed by that, in JSON the number.
    Named(i64, String),
    /// Text in JSON, something else when it is printed.
    Time {
        json: String,
        text: String,
    },
    List(Vec<Value>),
    Map(BTreeMap<String, Value>),
    Struct(Vec<Field>),
}

/// A field of a structure.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    /// In templates.
    pub(crate) name: &'static str,
    /// In JSON.
    pub(crate) key: &'static str,
    /// Whether it is left out of JSON when it is empty.
    pub(crate) omit_empty: bool,
    pub(crate) value: Value,
}

/// A structure: `"Name" "key": value`, or `"Name" "key" ? value` for what is left out when it is empty.
macro_rules! fields {
    (@omit :) => { false };
    (@omit ?) => { true };
    ($($name:literal $key:literal $omit:tt $value:expr),* $(,)?) => {
        $crate::template::Value::Struct(vec![$($crate::template::Field {
            name: $name,
            key: $key,
            omit_empty: $crate::template::fields!(@omit $omit),
            value: $crate::template::Value::from($value),
        }),*])
    };
}
pub(crate) use fields;

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Value {
        Value::Text(text.clone())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Value {
        Value::Bool(flag)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Int(number)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Value {
        Value::Int(number.into())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

impl From<&Vec<String>> for Value {
    /// No list at all if there is nothing in it, as Go's decoders leave it.
    fn from(list: &Vec<String>) -> Value {
        match list.is_empty() {
            true => Value::Null,
            false => Value::List(list.iter().map(Value::from).collect()),
        }
    }
}

impl From<&BTreeMap<String, String>> for Value {
    fn from(map: &BTreeMap<String, String>) -> Value {
        let pairs = map.iter().map(|(key, value)| (key.clone(), value.into()));
        match map.is_empty() {
            true => Value::Null,
            false => Value::Map(pairs.collect()),
        }
    }
}

impl Value {
    /// Whether a condition holds.
    pub(crate) fn is_true(&self) -> bool {
        match self {
            Value::Null => false,
            Value::Bool(flag) => *flag,
            Value::Int(number) | Value::Named(number, _) => *number != 0,
            Value::Float(number) => *number != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::List(list) => !list.is_empty(),
            Value::Map(map) => !map.is_empty(),
            Value::Time { .. } | Value::Struct(_) => true,
        }
    }

    /// In JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        match self {
            Value::Null => serde_json::Value::Null,
            Value::Bool(flag) => json!(flag),
            Value::Int(number) | Value::Named(number, _) => json!(number),
            Value::Float(number) => json!(number),
            Value::Text(text) | Value::Time { json: text, .. } => json!(text),
            Value::List(list) => list.iter().map(Value::json).collect(),
            Value::Map(map) => {
                let pairs = map.iter().map(|(key, value)| (key.clone(), value.json()));
                serde_json::Value::Object(pairs.collect())
            }
            Value::Struct(fields) => {
                let shown = fields
                    .iter()
                    .filter(|field| !field.omit_empty || !field.value.is_empty());
                let pairs = shown.map(|field| (field.key.to_owned(), field.value.json()));
                serde_json::Value::Object(pairs.collect())
            }
        }
    }

    /// What JSON leaves out where it may.
    fn is_empty(&self) -> bool {
        !matches!(self, Value::Time { .. } | Value::Struct(_)) && !self.is_true()
    }

    /// As Go prints it.
    pub(crate) fn print(&self) -> String {
        let mut text = String::new();
        self.print_into(&mut text);
        text
    }

    fn print_into(&self, out: &mut String) {
        // Writing to a string cannot fail.
        let _ = match self {
            Value::Null => write!(out, "<nil>"),
            Value::Bool(flag) => write!(out, "{flag}"),
            Value::Int(number) => write!(out, "{number}"),
            Value::Float(number) => write!(out, "{number}"),
            Value::Text(text) | Value::Named(_, text) | Value::Time { text, .. } => {
                write!(out, "{text}")
            }
            Value::List(list) => return print_all(out, "[", list.iter(), "]"),
            Value::Struct(fields) => {
                return print_all(out, "{", fields.iter().map(|field| &field.value), "}");
            }
            Value::Map(map) => {
                out.push_str("map[");
                for (number, (key, value)) in map.iter().enumerate() {
                    let space = if number > 0 { " " } else { "" };
                    let _ = write!(out, "{space}{key}:");
                    value.print_into(out);
                }
                write!(out, "]")
            }
        };
    }
}

fn print_all<'a>(
    out: &mut String,
    open: &str,
    values: impl Iterator<Item = &'a Value>,
    close: &str,
) {
    out.push_str(open);
    for (number, value) in values.enumerate() {
        if number > 0 {
            out.push(' ');
        }
        value.print_into(out);
    }
    out.push_str(close);
}
