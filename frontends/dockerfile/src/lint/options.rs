//! `check=` options.

use std::collections::BTreeSet;

use super::Rule;
use crate::go;

/// Which rules apply, and whether breaking one fails the build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LintOptions {
    /// Rules that do not apply.
    pub skip: BTreeSet<String>,
    /// Whether no rule applies but the experimental ones that were asked for.
    pub skip_all: bool,
    /// Experimental rules that apply.
    pub experimental: BTreeSet<String>,
    /// Whether all experimental rules apply.
    pub experimental_all: bool,
    /// Whether a broken rule fails the build.
    pub error: bool,
}

/// Options that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LintOptionsError {
    /// No such option, or no `=`.
    #[error("invalid check option {}", go::quote(.0))]
    Option(String),
    /// Not a bool.
    #[error("failed to parse check option {}: strconv.ParseBool: parsing {}: invalid syntax", go::quote(.option), go::quote(.value))]
    Bool {
        /// The whole option.
        option: String,
        /// Its value.
        value: String,
    },
}

impl LintOptions {
    /// Parses `skip=A,B;error=true;experimental=all`.
    ///
    /// # Errors
    /// When an option is not known or not of this form.
    pub fn parse(text: &str) -> Result<LintOptions, LintOptionsError> {
        let mut options = LintOptions::default();
        let text = text.trim();
        if text.is_empty() {
            return Ok(options);
        }
        for part in text.splitn(3, ';') {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| LintOptionsError::Option(part.to_owned()))?;
            let value = value.trim();
            let rules = || {
                value
                    .split(',')
                    .map(|rule| rule.trim().to_owned())
                    .collect()
            };
            match (key.trim(), value) {
                ("skip", "all") => options.skip_all = true,
                ("skip", _) => options.skip = rules(),
                ("experimental", "all") => options.experimental_all = true,
                ("experimental", _) => options.experimental = rules(),
                ("error", _) => {
                    options.error =
                        go::parse_bool(value).ok_or_else(|| LintOptionsError::Bool {
                            option: part.to_owned(),
                            value: value.to_owned(),
                        })?;
                }
                (key, _) => return Err(LintOptionsError::Option(key.to_owned())),
            }
        }
        Ok(options)
    }

    /// Whether `rule` applies.
    pub(super) fn allows(&self, rule: Rule) -> bool {
        if rule.is_experimental() {
            self.experimental_all || self.experimental.contains(rule.name())
        } else {
            !self.skip_all && !self.skip.contains(rule.name())
        }
    }

    /// These options and those of a comment; a comment cannot make a broken rule an error.
    pub(super) fn merged(&self, other: &LintOptions) -> LintOptions {
        LintOptions {
            skip: self.skip.union(&other.skip).cloned().collect(),
            skip_all: self.skip_all || other.skip_all,
            experimental: self
                .experimental
                .union(&other.experimental)
                .cloned()
                .collect(),
            experimental_all: self.experimental_all || other.experimental_all,
            error: self.error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_separated_by_semicolons() {
        let options = LintOptions::parse(" skip=A, B ;error=true").unwrap();
        assert!(options.error && options.skip.contains("B"));
        for (text, want) in [
            ("skip", "invalid check option \"skip\""),
            ("foo=1", "invalid check option \"foo\""),
            (
                "error=x",
                "failed to parse check option \"error=x\": strconv.ParseBool: parsing \"x\": invalid syntax",
            ),
        ] {
            assert_eq!(LintOptions::parse(text).unwrap_err().to_string(), want);
        }
    }
}
