//! Source policies of the wire, checked.

use frontend::FrontendError;
use frontend::policy::{Action, Condition, Constraint, Match, Policy, Rule, Selector, regex};
use proto::sourcepolicy as wire;

/// The most rules of a policy: far more than anybody writes.
const MAX_RULES: usize = 10_000;

/// Reads a policy.
///
/// # Errors
/// When a rule is not whole, or its pattern is none.
pub fn read_policy(policy: wire::Policy) -> Result<Policy, FrontendError> {
    if policy.version > 1 {
        return Err(FrontendError::invalid(format!(
            "unsupported source policy version {}",
            policy.version
        )));
    }
    if policy.rules.len() > MAX_RULES {
        return Err(FrontendError::invalid(format!(
            "invalid source policy: more than {MAX_RULES} rules"
        )));
    }
    let rules = policy.rules.into_iter().map(rule);
    Ok(Policy {
        rules: rules.collect::<Result<_, _>>()?,
    })
}

fn rule(rule: wire::Rule) -> Result<Rule, FrontendError> {
    let invalid = |what: &str| FrontendError::invalid(format!("invalid source policy: {what}"));
    let selector = rule
        .selector
        .ok_or_else(|| invalid("a rule has no selector"))?;
    let action = match wire::PolicyAction::try_from(rule.action) {
        Ok(wire::PolicyAction::Allow) => Action::Allow,
        Ok(wire::PolicyAction::Deny) => Action::Deny,
        Ok(wire::PolicyAction::Convert) => {
            let updates = rule
                .updates
                .ok_or_else(|| invalid("missing destination for convert rule"))?;
            Action::Convert {
                identifier: updates.identifier,
                attrs: updates.attrs,
            }
        }
        Err(_) => return Err(invalid(&format!("unknown action {}", rule.action))),
    };
    let kind = match wire::MatchType::try_from(selector.match_type) {
        Ok(wire::MatchType::Wildcard) => Match::Wildcard,
        Ok(wire::MatchType::Exact) => Match::Exact,
        Ok(wire::MatchType::Regex) => Match::Regex,
        Err(_) => {
            return Err(invalid(&format!(
                "unknown match type {}",
                selector.match_type
            )));
        }
    };
    let constraints = selector.constraints.into_iter().map(constraint);
    let constraints = constraints.collect::<Result<_, _>>()?;
    Ok(Rule {
        selector: Selector::new(&selector.identifier, kind, constraints)?,
        action,
    })
}

fn constraint(constraint: wire::AttrConstraint) -> Result<Constraint, FrontendError> {
    let condition = match wire::AttrMatch::try_from(constraint.condition) {
        Ok(wire::AttrMatch::Equal) => Condition::Equal(constraint.value),
        Ok(wire::AttrMatch::Notequal) => Condition::NotEqual(constraint.value),
        Ok(wire::AttrMatch::Matches) => Condition::Matches(regex(&constraint.value)?),
        Err(_) => {
            return Err(FrontendError::invalid(format!(
                "invalid source policy: unknown attr condition {}",
                constraint.condition
            )));
        }
    };
    Ok(Constraint {
        key: constraint.key,
        condition,
    })
}
