//! Flags of instructions: `--name` or `--name=value`.

use crate::go;

/// A flag that an instruction does not take like this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FlagError {
    /// No such flag.
    #[error("unknown flag: {flag}{hint}")]
    Unknown {
        /// With its dashes.
        flag: String,
        /// What may have been meant.
        hint: String,
    },
    /// The same flag twice.
    #[error("duplicate flag specified: {0}")]
    Duplicate(String),
    /// A value is missing.
    #[error("missing a value on flag: {0}")]
    MissingValue(String),
    /// Not `true` or `false`.
    #[error("expecting boolean value for flag {flag}, not: {value}")]
    NotBool {
        /// With its dashes.
        flag: String,
        /// What is there.
        value: String,
    },
}

/// How a flag's value is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Text,
    Texts,
}

/// The flags that an instruction takes, and what was given.
pub(super) struct Flags<'a> {
    known: Vec<(&'static str, Kind)>,
    given: &'a [String],
    values: Vec<(&'static str, String)>,
}

impl<'a> Flags<'a> {
    pub(super) fn new(given: &'a [String]) -> Flags<'a> {
        Flags {
            known: Vec::new(),
            given,
            values: Vec::new(),
        }
    }

    pub(super) fn bools(mut self, names: &[&'static str]) -> Flags<'a> {
        self.known
            .extend(names.iter().map(|name| (*name, Kind::Bool)));
        self
    }

    pub(super) fn texts(mut self, names: &[&'static str]) -> Flags<'a> {
        self.known
            .extend(names.iter().map(|name| (*name, Kind::Text)));
        self
    }

    pub(super) fn lists(mut self, names: &[&'static str]) -> Flags<'a> {
        self.known
            .extend(names.iter().map(|name| (*name, Kind::Texts)));
        self
    }

    /// Reads what was given.
    pub(super) fn read(mut self) -> Result<Flags<'a>, FlagError> {
        for word in self.given {
            if word == "--" {
                break;
            }
            let (flag, value) = match word.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (word.as_str(), None),
            };
            let name = flag.strip_prefix("--").unwrap_or(flag);
            let Some((name, kind)) = self.known.iter().copied().find(|(known, _)| *known == name)
            else {
                let known = self.known.iter().map(|(known, _)| *known);
                let hint = crate::suggest::nearest(name, known, true);
                let hint = crate::suggest::suffix(hint.as_deref());
                return Err(FlagError::Unknown {
                    flag: flag.to_owned(),
                    hint,
                });
            };
            if kind != Kind::Texts && self.values.iter().any(|(known, _)| *known == name) {
                return Err(FlagError::Duplicate(flag.to_owned()));
            }
            let value = match (kind, value) {
                (Kind::Bool, Some("")) | (Kind::Text | Kind::Texts, None) => {
                    return Err(FlagError::MissingValue(flag.to_owned()));
                }
                (Kind::Bool, value) => match value.unwrap_or("true").to_lowercase().as_str() {
                    "true" => "true",
                    "false" => "false",
                    _ => {
                        return Err(FlagError::NotBool {
                            flag: flag.to_owned(),
                            value: value.unwrap_or_default().to_owned(),
                        });
                    }
                },
                (Kind::Text | Kind::Texts, Some(value)) => value,
            };
            self.values.push((name, value.to_owned()));
        }
        Ok(self)
    }

    /// The value of a flag, if it was given.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The value of a flag; empty when it was not given.
    pub(super) fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().to_owned()
    }

    /// The value of a bool flag, if it was given.
    pub(super) fn bool(&self, name: &str) -> Option<bool> {
        self.get(name).map(|value| value == "true")
    }

    /// All values of a flag.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let values = self.values.iter().filter(|(known, _)| *known == name);
        values.map(|(_, value)| value.clone()).collect()
    }
}

/// A device of `RUN --device`: `name[,required[=bool]]`.
pub(super) fn read_device(text: &str) -> Result<llb::CdiDevice, String> {
    let fields = go::csv_fields(text).map_err(|e| format!("failed to parse csv devices: {e}"))?;
    let mut name = String::new();
    let mut required = false;
    for field in fields {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("required", None) => required = true,
            ("required", Some(value)) => {
                required = go::parse_bool(value)
                    .ok_or_else(|| format!("invalid value for {key}: {value}"))?;
            }
            ("name", Some(value)) if name.is_empty() => value.clone_into(&mut name),
            ("name", Some(_)) => return Err(format!("device name already set to {name}")),
            _ if name.is_empty() => name = field,
            (_, None) => return Err(format!("invalid field '{field}' must be a key=value pair")),
            (_, Some(_)) => {
                let hint = crate::suggest::hint(&key, &["name", "required"], true);
                return Err(format!("unexpected key '{key}' in '{field}'{hint}"));
            }
        }
    }
    Ok(llb::CdiDevice {
        name,
        optional: !required,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> String {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let flags = Flags::new(&words)
            .bools(&["link"])
            .texts(&["chown"])
            .lists(&["exclude"]);
        match flags.read() {
            Ok(flags) => format!("{:?} {:?}", flags.bool("link"), flags.list("exclude")),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn flags_are_read_by_their_kind() {
        for (words, want) in [
            (
                &["--link", "--exclude=a", "--exclude=b"][..],
                r#"Some(true) ["a", "b"]"#,
            ),
            (&["--link=FALSE"], "Some(false) []"),
            (&["--link="], "missing a value on flag: --link"),
            (
                &["--link=x"],
                "expecting boolean value for flag --link, not: x",
            ),
            (&["--chown"], "missing a value on flag: --chown"),
            (
                &["--chown=a", "--chown=b"],
                "duplicate flag specified: --chown",
            ),
            (
                &["--chmown=a"],
                "unknown flag: --chmown (did you mean chown?)",
            ),
            (&["--zzz"], "unknown flag: --zzz"),
        ] {
            assert_eq!(read(words), want);
        }
    }

    #[test]
    fn devices_have_a_name() {
        let device = read_device("vendor.com/class=x,required").unwrap();
        assert_eq!(
            (device.name.as_str(), device.optional),
            ("vendor.com/class=x", false)
        );
        assert_eq!(
            read_device("a,name=b").unwrap_err(),
            "device name already set to a"
        );
    }
}
