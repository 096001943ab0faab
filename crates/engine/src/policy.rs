//! Source policies: which sources a build may use, and what is used in their place.

use std::collections::BTreeMap;

use llb::SourceOp;
use regex::Regex;

use crate::BuildError;

/// A source that is changed more often is changed for ever.
const MOST_CHANGES: usize = 20;

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
    ) -> Result<Selector, BuildError> {
        let pattern = match kind {
            Match::Exact => None,
            Match::Regex => Some(regex(identifier)?),
            Match::Wildcard if identifier.contains("**") => {
                return Err(BuildError::user(format!(
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

    fn matches(&self, source: &SourceOp) -> bool {
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

    /// `template` with the parts of `identifier` that matched.
    fn expand(&self, identifier: &str, template: &str) -> String {
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
pub fn regex(pattern: &str) -> Result<Regex, BuildError> {
    Regex::new(pattern).map_err(|error| {
        BuildError::user(format!(
            "error matching source policy: invalid regex \"{pattern}\": {error}"
        ))
    })
}

/// What takes the place of `source` under `policies`; `None` when it may be used as it is.
///
/// # Errors
/// When it is denied.
pub(crate) fn apply(
    policies: &[Policy],
    source: &SourceOp,
) -> Result<Option<SourceOp>, BuildError> {
    let mut current = source.clone();
    for _ in 0..=MOST_CHANGES {
        match change(policies, &current)? {
            Some(changed) => current = changed,
            None => return Ok(Some(current).filter(|current| current != source)),
        }
    }
    Err(BuildError::user(
        "too many mutations on a single source: too many operations",
    ))
}

/// The first change that the policies make.
fn change(policies: &[Policy], source: &SourceOp) -> Result<Option<SourceOp>, BuildError> {
    for policy in policies {
        let mut denied = false;
        for rule in &policy.rules {
            if !rule.selector.matches(source) {
                continue;
            }
            match &rule.action {
                Action::Allow => denied = false,
                Action::Deny => denied = true,
                Action::Convert { identifier, attrs } => {
                    let template = match identifier.as_str() {
                        "" => &rule.selector.identifier,
                        given => given,
                    };
                    let mut changed = source.clone();
                    let identifier = rule.selector.expand(&source.identifier, template);
                    if !identifier.is_empty() {
                        changed.identifier = identifier;
                    }
                    changed.attrs.extend(attrs.clone());
                    if changed != *source {
                        return Ok(Some(changed));
                    }
                }
            }
        }
        if denied {
            return Err(BuildError::user(format!(
                "source \"{}\" denied by policy: source denied by policy",
                source.identifier
            )));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(identifier: &str, kind: Match, action: Action) -> Rule {
        Rule {
            selector: Selector::new(identifier, kind, Vec::new()).unwrap(),
            action,
        }
    }

    fn image(name: &str) -> SourceOp {
        SourceOp {
            identifier: format!("docker-image://docker.io/library/{name}"),
            attrs: BTreeMap::new(),
        }
    }

    fn convert(to: &str) -> Action {
        Action::Convert {
            identifier: to.to_owned(),
            attrs: BTreeMap::new(),
        }
    }

    #[test]
    fn the_last_rule_decides() {
        let alpine = "docker-image://docker.io/library/alpine:*";
        let deny = || rule(alpine, Match::Wildcard, Action::Deny);
        let allow = || rule(alpine, Match::Wildcard, Action::Allow);
        let with = |rules| apply(&[Policy { rules }], &image("alpine:3"));
        assert!(with(vec![deny(), allow()]).unwrap().is_none());
        let error = with(vec![allow(), deny()]).unwrap_err();
        assert!(error.message.contains("denied by policy"));
        assert!(
            apply(
                &[Policy {
                    rules: vec![deny()]
                }],
                &image("busybox")
            )
            .unwrap()
            .is_none()
        );
    }

    #[test]
    fn what_matched_goes_into_what_is_used_instead() {
        let golang = "docker-image://docker.io/library/golang:*";
        let to = "docker-image://docker.io/library/go:${1}-alpine";
        let rules = vec![rule(golang, Match::Wildcard, convert(to))];
        let changed = apply(&[Policy { rules }], &image("golang:1.19")).unwrap();
        assert_eq!(changed, Some(image("go:1.19-alpine")));
    }

    #[test]
    fn what_changes_for_ever_is_refused() {
        let rules = vec![rule("^(.*)$", Match::Regex, convert("${1}x"))];
        let error = apply(&[Policy { rules }], &image("a")).unwrap_err();
        assert!(error.message.starts_with("too many mutations"));
    }

    #[test]
    fn constraints_compare_attributes() {
        let constraint = Constraint {
            key: "k".to_owned(),
            condition: Condition::NotEqual("v".to_owned()),
        };
        let selector = Selector::new("*", Match::Wildcard, vec![constraint]).unwrap();
        let action = Action::Deny;
        let policies = [Policy {
            rules: vec![Rule { selector, action }],
        }];
        assert!(apply(&policies, &image("a")).is_err());
        let mut source = image("a");
        source.attrs.insert("k".to_owned(), "v".to_owned());
        assert!(apply(&policies, &source).unwrap().is_none());
    }
}
