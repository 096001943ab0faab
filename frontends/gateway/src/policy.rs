//! Source policies of the wire, checked.

use frontend::FrontendError;
use frontend::policy::{Action, Condition, Constraint, Match, Patterns, Policy, Rule, Selector};
use proto::sourcepolicy as wire;

/// The most rules of a policy, and the most conditions of one rule: far more than anybody writes.
const MAX_RULES: usize = 1000;

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
    let mut patterns = Patterns::new();
    let rules = policy
        .rules
        .into_iter()
        .map(|each| rule(each, &mut patterns));
    Ok(Policy {
        rules: rules.collect::<Result<_, _>>()?,
    })
}

fn rule(rule: wire::Rule, patterns: &mut Patterns) -> Result<Rule, FrontendError> {
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
    if selector.constraints.len() > MAX_RULES {
        return Err(invalid(&format!(
            "a rule has more than {MAX_RULES} constraints"
        )));
    }
    let constraints = selector.constraints.into_iter();
    let constraints = constraints.map(|each| constraint(each, patterns));
    let constraints = constraints.collect::<Result<_, _>>()?;
    Ok(Rule {
        selector: Selector::new(&selector.identifier, kind, constraints, patterns)?,
        action,
    })
}

fn constraint(
    constraint: wire::AttrConstraint,
    patterns: &mut Patterns,
) -> Result<Constraint, FrontendError> {
    let condition = match wire::AttrMatch::try_from(constraint.condition) {
        Ok(wire::AttrMatch::Equal) => Condition::Equal(constraint.value),
        Ok(wire::AttrMatch::Notequal) => Condition::NotEqual(constraint.value),
        Ok(wire::AttrMatch::Matches) => Condition::Matches(patterns.read(&constraint.value)?),
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
