//! Source policies, as data: which sources a build may use, and what is used in their place.

use std::collections::BTreeMap;

use llb::SourceOp;
use regex::{Regex, RegexBuilder};

use crate::FrontendError;

/// A list of rules; the last that matches a source decides.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// In order.
    pub rules: Vec<Rule>,
}

/// What is done with sources that match.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Which sources.
    pub selector: Selector,
    /// What.
    pub action: Action,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The source may be used.
    Allow,
    /// It may not.
    Deny,
    /// Another is used.
    Convert {
        /// The other's identifier, in which `${1}` is the first part that matched; empty: that of the
        /// selector.
        identifier: String,
        /// Attributes that are set.
        attrs: BTreeMap<String, String>,
    },
}

/// Which sources a rule is about.
#[derive(Clone, Debug)]
pub struct Selector {
    identifier: String,
    pattern: Option<Regex>,
    constraints: Vec<Constraint>,
}

/// How the identifier of a selector is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// `*` stands for anything.
    Wildcard,
    /// As it is.
    Exact,
    /// A regular expression, which need not match the whole.
    Regex,
}

/// What an attribute of a source must be.
#[derive(Clone, Debug)]
pub struct Constraint {
    /// The attribute; one that is not there is empty.
    pub key: String,
    /// What it is compared with.
    pub condition: Condition,
}

/// How an attribute is compared.
#[derive(Clone, Debug)]
pub enum Condition {
    /// It is this.
    Equal(String),
    /// It is not this.
    NotEqual(String),
    /// It matches.
    Matches(Regex),
}

impl Selector {
    /// Reads a selector.
    ///
    /// # Errors
    /// When the identifier is no pattern of that kind.
    pub fn new(
        identifier: &str,
        kind: Match,
        constraints: Vec<Constraint>,
        patterns: &mut Patterns,
    ) -> Result<Selector, FrontendError> {
        let pattern = match kind {
            Match::Exact => None,
            Match::Regex => Some(patterns.read(identifier)?),
            Match::Wildcard if identifier.contains("**") => {
                return Err(FrontendError::invalid(format!(
                    "error matching source policy: failed to translate wildcard \"{identifier}\" to \
                     regexp: invalid wildcard: \"**\""
                )));
            }
            Match::Wildcard => {
                let quoted = regex::escape(identifier).replace("\\*", "(.*)");
                Some(patterns.read(&format!("^{quoted}$"))?)
            }
        };
        Ok(Selector {
            identifier: identifier.to_owned(),
            pattern,
            constraints,
        })
    }

    /// Whether the rule is about `source`.
    pub fn matches(&self, source: &SourceOp) -> bool {
        let holds = |constraint: &Constraint| {
            let value = source.attrs.get(&constraint.key).map_or("", String::as_str);
            match &constraint.condition {
                Condition::Equal(wanted) => value == wanted,
                Condition::NotEqual(wanted) => value != wanted,
                Condition::Matches(pattern) => pattern.is_match(value),
            }
        };
        self.constraints.iter().all(holds)
            && (self.identifier == source.identifier
                || self
                    .pattern
                    .as_ref()
                    .is_some_and(|pattern| pattern.is_match(&source.identifier)))
    }

    /// The identifier that names the sources, as it was given.
    pub fn identifier(&self) -> &str {
        &self.identifier
    }

    /// `template` with the parts of `identifier` that matched.
    pub fn expand(&self, identifier: &str, template: &str) -> String {
        match &self.pattern {
            None => template.to_owned(),
            Some(pattern) => pattern.replace_all(identifier, template).into_owned(),
        }
    }
}

/// Reads the patterns of one policy, which together may take only so much memory.
///
/// A few characters such as `\w{60}` are megabytes when compiled, and a policy has many rules.
#[derive(Debug)]
pub struct Patterns {
    /// Bytes that further patterns may take.
    left: usize,
}

/// What a pattern may take is tried in these steps (bytes), and counted as the one it fits in. Names with
/// a few `\w+`, as people write them, fit in the third.
const STEPS: [usize; 4] = [16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// What all patterns of a policy may take: thousands of plain ones, or 256 with `\w+` in them.
const TOGETHER: usize = 64 << 20;

impl Patterns {
    /// For the patterns of a new policy.
    pub fn new() -> Patterns {
        Patterns { left: TOGETHER }
    }

    /// Reads a pattern.
    ///
    /// # Errors
    /// When it cannot be read, in BuildKit's words, or is too large.
    pub fn read(&mut self, pattern: &str) -> Result<Regex, FrontendError> {
        let invalid = |error: &dyn std::fmt::Display| {
            FrontendError::invalid(format!(
                "error matching source policy: invalid regex \"{pattern}\": {error}"
            ))
        };
        for size in STEPS {
            let compiled = RegexBuilder::new(pattern)
                .size_limit(size)
                .dfa_size_limit(size)
                .build();
            match compiled {
                Ok(regex) => {
                    let left = self.left.checked_sub(size);
                    let more = "the patterns of the policy are too large together; write character \
                                classes such as `[a-z0-9]` in place of `\\w`";
                    self.left = left.ok_or_else(|| invalid(&more))?;
                    return Ok(regex);
                }
                Err(regex::Error::CompiledTooBig(_)) => {}
                Err(error) => return Err(invalid(&error)),
            }
        }
        Err(invalid(&format!(
            "compiled it is larger than {} bytes",
            STEPS[STEPS.len() - 1]
        )))
    }
}

impl Default for Patterns {
    fn default() -> Patterns {
        Patterns::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_bounded_each_and_together() {
        let mut patterns = Patterns::new();
        for usual in [
            r"^docker-image://docker\.io/library/(.*)$",
            r"^docker-image://[\w./-]+:\w+$",
            r"[^@]+@sha256:[0-9a-f]{64}",
        ] {
            patterns.read(usual).unwrap();
        }
        let large = patterns.read(r"\w{60}").unwrap_err();
        assert!(
            large.to_string().contains("larger than 1048576 bytes"),
            "{large}"
        );
        let malformed = patterns.read("(").unwrap_err();
        assert!(
            malformed.to_string().contains("invalid regex \"(\""),
            "{malformed}"
        );

        let refused = (0..1000).find_map(|_| patterns.read(r"\w{10}").err());
        let refused = refused.unwrap();
        assert!(
            refused.to_string().contains("too large together"),
            "{refused}"
        );
        let mut plain = Patterns::new();
        (0..1000).for_each(|n| drop(plain.read(&format!("^docker-image://{n}/(.*)$")).unwrap()));
    }
}
