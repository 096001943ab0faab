//! What a client wants attested.

use std::collections::BTreeMap;

use crate::BuildError;

/// How much is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// What the result is made of.
    Min,
    /// Also each step, its source, and all arguments.
    Max,
}

/// The form of what is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// SLSA 0.2.
    V02,
    /// SLSA 1.
    V1,
}

/// How provenance is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// How much.
    pub mode: Mode,
    /// In which form.
    pub version: Version,
    /// The URI of the builder.
    pub builder_id: String,
    /// The name of the file that it is in, in outputs of files.
    pub file_name: String,
    /// Whether whoever asks says that the build can be repeated.
    pub reproducible: bool,
    /// Whether it is only for images.
    pub inline_only: bool,
    /// Whether it tells how busy the machine was.
    pub usage: bool,
}

impl Ask {
    /// All that can be told.
    pub fn max() -> Ask {
        Ask {
            mode: Mode::Max,
            version: Version::V1,
            builder_id: String::new(),
            file_name: "provenance.json".to_owned(),
            reproducible: false,
            inline_only: false,
            usage: false,
        }
    }

    /// What the options of a frontend ask for; `None` when that is nothing.
    ///
    /// # Errors
    /// When a parameter makes no sense, in BuildKit's words.
    pub fn parse(attrs: &BTreeMap<String, String>) -> Result<Option<Ask>, BuildError> {
        let asked = attrs.iter().filter_map(|(key, value)| {
            let kind = key
                .strip_prefix("attest:")
                .or_else(|| key.strip_prefix("build-arg:BUILDKIT_ATTEST_"))?;
            Some((kind.to_lowercase(), value))
        });
        let mut ask = None;
        for (kind, value) in asked {
            match kind.as_str() {
                "provenance" => ask = Some(Ask::of(value)?),
                // Frontends make it.
                "sbom" => {}
                _ => {
                    return Err(BuildError::user(format!(
                        "invalid attestation type \"{kind}\""
                    )));
                }
            }
        }
        Ok(ask)
    }

    fn of(parameters: &str) -> Result<Ask, BuildError> {
        let mut ask = Ask::max();
        for parameter in parameters.split(',').filter(|p| !p.is_empty()) {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match key {
                "mode" => {
                    ask.mode = match value {
                        "min" => Mode::Min,
                        "max" | "full" => Mode::Max,
                        _ => return Err(BuildError::user(format!("invalid mode \"{value}\""))),
                    }
                }
                "version" => {
                    ask.version = match value {
                        "v1" => Version::V1,
                        "v0.2" => Version::V02,
                        _ => {
                            return Err(BuildError::user(format!(
                                "invalid provenance SLSA version: {value}"
                            )));
                        }
                    }
                }
                "builder-id" => value.clone_into(&mut ask.builder_id),
                "filename" if !value.is_empty() => value.clone_into(&mut ask.file_name),
                "reproducible" => ask.reproducible = flag(key, value)?,
                "inline-only" => ask.inline_only = flag(key, value)?,
                // What is no boolean is no, too, as in BuildKit.
                "capture-usage" => ask.usage = flag(key, value).unwrap_or_default(),
                _ => {}
            }
        }
        Ok(ask)
    }
}

/// A boolean as Go reads it.
fn flag(name: &str, value: &str) -> Result<bool, BuildError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(BuildError::user(format!(
            "failed to parse {name} flag \"{value}\""
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(key: &str, value: &str) -> Result<Option<Ask>, String> {
        let attrs = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        Ask::parse(&attrs).map_err(|error| error.message)
    }

    #[test]
    fn what_buildx_asks_for_by_default() {
        let ask = parse("attest:provenance", "mode=min,inline-only=true");
        let ask = ask.unwrap().unwrap();
        assert_eq!((ask.mode, ask.inline_only), (Mode::Min, true));
        assert_eq!(parse("build-arg:A", "x").unwrap(), None);
        assert!(
            parse("build-arg:BUILDKIT_ATTEST_PROVENANCE", "")
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(parse("attest:provenance", "mode=all").is_err());
        assert!(parse("attest:provenance", "version=v3").is_err());
        assert!(parse("attest:other", "").is_err());
    }
}
