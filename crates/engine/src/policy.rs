//! What source policies make of a source.

use frontend::policy::{Action, Policy};
use llb::SourceOp;

use crate::BuildError;

/// A source that is changed more often is changed for ever.
const MOST_CHANGES: usize = 20;

/// What takes the place of `source` under `policies`; `None` when it may be used as it is.
///
/// # Errors
/// When it is denied.
pub(crate) fn apply<'p>(
    policies: impl Iterator<Item = &'p Policy> + Clone,
    source: &SourceOp,
) -> Result<Option<SourceOp>, BuildError> {
    let mut current = source.clone();
    for _ in 0..=MOST_CHANGES {
        match change(policies.clone(), &current)? {
            Some(changed) => current = changed,
            None => return Ok(Some(current).filter(|current| current != source)),
        }
    }
    Err(BuildError::user(
        "too many mutations on a single source: too many operations",
    ))
}

/// The first change that the policies make.
fn change<'p>(
    policies: impl Iterator<Item = &'p Policy>,
    source: &SourceOp,
) -> Result<Option<SourceOp>, BuildError> {
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
                        "" => rule.selector.identifier(),
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
    use std::collections::BTreeMap;

    use frontend::policy::{Condition, Constraint, Match, Patterns, Rule, Selector};

    use super::*;

    fn rule(identifier: &str, kind: Match, action: Action) -> Rule {
        Rule {
            selector: Selector::new(identifier, kind, Vec::new(), &mut Patterns::new()).unwrap(),
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
        let with = |rules| apply([Policy { rules }].iter(), &image("alpine:3"));
        assert!(with(vec![deny(), allow()]).unwrap().is_none());
        let error = with(vec![allow(), deny()]).unwrap_err();
        assert!(error.message.contains("denied by policy"));
        assert!(
            apply(
                [Policy {
                    rules: vec![deny()]
                }]
                .iter(),
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
        let changed = apply([Policy { rules }].iter(), &image("golang:1.19")).unwrap();
        assert_eq!(changed, Some(image("go:1.19-alpine")));
    }

    #[test]
    fn what_changes_for_ever_is_refused() {
        let rules = vec![rule("^(.*)$", Match::Regex, convert("${1}x"))];
        let error = apply([Policy { rules }].iter(), &image("a")).unwrap_err();
        assert!(error.message.starts_with("too many mutations"));
    }

    #[test]
    fn constraints_compare_attributes() {
        let constraint = Constraint {
            key: "k".to_owned(),
            condition: Condition::NotEqual("v".to_owned()),
        };
        let selector =
            Selector::new("*", Match::Wildcard, vec![constraint], &mut Patterns::new()).unwrap();
        let action = Action::Deny;
        let policies = [Policy {
            rules: vec![Rule { selector, action }],
        }];
        assert!(apply(policies.iter(), &image("a")).is_err());
        let mut source = image("a");
        source.attrs.insert("k".to_owned(), "v".to_owned());
        assert!(apply(policies.iter(), &source).unwrap().is_none());
    }
}
