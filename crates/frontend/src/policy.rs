//! Source policies, as data: which sources a build may use, and what is used in their place.

use std::collections::BTreeMap;

use llb::SourceOp;
use regex::Regex;

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
    ) -> Result<Selector, FrontendError> {
        let pattern = match kind {
            Match::Exact => None,
            Match::Regex => Some(regex(identifier)?),
            Match::Wildcard if identifier.contains("**") => {
                return Err(FrontendError::invalid(format!(
                    "error matching source policy: failed to translate wildcard \"{identifier}\" to \
                     regexp: invalid wildcard: \"**\""
                )));
            }
            Match::Wildcard => {
                let quoted = regex::escape(identifier).replace("\\*", "(.*)");
                Some(regex(&format!("^{quoted}$"))?)
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

/// A pattern of a policy.
///
/// # Errors
/// When it cannot be read, in BuildKit's words.
pub fn regex(pattern: &str) -> Result<Regex, FrontendError> {
    Regex::new(pattern).map_err(|error| {
        FrontendError::invalid(format!(
            "error matching source policy: invalid regex \"{pattern}\": {error}"
        ))
    })
}
