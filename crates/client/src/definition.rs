//! What clients read from files to send it: graphs, and rules for sources.

use std::sync::Arc;

use prost::Message as _;
use proto::{pb, sourcepolicy};
use serde_json::Value;

/// What was read is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is no message.
    #[error("failed to decode the definition")]
    Message(#[from] prost::DecodeError),
    /// It is no graph.
    #[error("failed to read the graph")]
    Graph(#[from] llb::DecodeError),
    /// It is no JSON.
    #[error("failed to read the source policy")]
    Json(#[from] serde_json::Error),
    /// A member of a policy is not as it should be.
    #[error("`{member}` of the source policy is {value}")]
    Member {
        /// Which.
        member: &'static str,
        /// What it is.
        value: String,
    },
}

/// Reads a graph as `pb.Definition`; `None` when nothing is in it. With `ignore_cache` none of its
/// ops is to be found rather than run.
///
/// # Errors
/// When it is no graph.
pub fn read_graph(bytes: &[u8], ignore_cache: bool) -> Result<Option<Arc<llb::Graph>>, ReadError> {
    let mut definition = pb::Definition::decode(bytes)?;
    if definition.def.is_empty() {
        return Ok(None);
    }
    if ignore_cache {
        for op in &definition.def {
            let digest = oci::Digest::of(op).to_string();
            definition.metadata.entry(digest).or_default().ignore_cache = true;
        }
    }
    Ok(Some(Arc::new(llb::Graph::from_definition(&definition)?)))
}

/// Rules for the sources of a build.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourcePolicy(pub(crate) sourcepolicy::Policy);

impl SourcePolicy {
    /// Reads a policy as BuildKit's clients write it.
    ///
    /// # Errors
    /// When it is no JSON, or a word in it is not known.
    pub fn from_json(text: &[u8]) -> Result<SourcePolicy, ReadError> {
        let json: Value = serde_json::from_slice(text)?;
        let rules = json["rules"].as_array().into_iter().flatten().map(rule);
        Ok(SourcePolicy(sourcepolicy::Policy {
            version: json["version"].as_i64().unwrap_or(0),
            rules: rules.collect::<Result<_, _>>()?,
        }))
    }
}

fn rule(json: &Value) -> Result<sourcepolicy::Rule, ReadError> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let selector = json.get("selector").map(|selector| {
        let constraints = selector["constraints"].as_array().into_iter().flatten();
        let constraint = |constraint: &Value| {
            Ok(sourcepolicy::AttrConstraint {
                key: text(&constraint["key"]),
                value: text(&constraint["value"]),
                condition: word(
                    &constraint["condition"],
                    "condition",
                    &["EQUAL", "NOTEQUAL", "MATCHES"],
                )?,
            })
        };
        Ok::<_, ReadError>(sourcepolicy::Selector {
            identifier: text(&selector["identifier"]),
            match_type: word(
                selector.get("matchType").unwrap_or(&selector["match_type"]),
                "match_type",
                &["WILDCARD", "EXACT", "REGEX"],
            )?,
            constraints: constraints
                .map(constraint)
                .collect::<Result<_, ReadError>>()?,
        })
    });
    let updates = json.get("updates").map(|updates| sourcepolicy::Update {
        identifier: text(&updates["identifier"]),
        attrs: updates["attrs"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), text(value)))
            .collect(),
    });
    Ok(sourcepolicy::Rule {
        action: word(&json["action"], "action", &["ALLOW", "DENY", "CONVERT"])?,
        selector: selector.transpose()?,
        updates,
    })
}

/// The number of a word of an enum, which may be given as a number, too; what is not there is 0.
fn word(value: &Value, member: &'static str, words: &[&str]) -> Result<i32, ReadError> {
    let place = match value {
        Value::Null => Some(0),
        Value::String(text) => words.iter().position(|word| word == text),
        other => other.as_u64().and_then(|n| usize::try_from(n).ok()),
    };
    let known = place.filter(|place| *place < words.len());
    let known = known.and_then(|place| i32::try_from(place).ok());
    known.ok_or_else(|| ReadError::Member {
        member,
        value: value.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_as_clients_write_it() {
        let text = r#"{"rules":[{"action":"CONVERT","selector":{"identifier":"docker-image://a",
            "matchType":"EXACT","constraints":[{"key":"k","value":"v","condition":1}]},
            "updates":{"identifier":"docker-image://b","attrs":{"x":"y"}}}]}"#;
        let policy = SourcePolicy::from_json(text.as_bytes()).unwrap().0;
        let rule = &policy.rules[0];
        assert_eq!(rule.action(), sourcepolicy::PolicyAction::Convert);
        let selector = rule.selector.as_ref().unwrap();
        assert_eq!(selector.match_type(), sourcepolicy::MatchType::Exact);
        let condition = selector.constraints[0].condition();
        assert_eq!(condition, sourcepolicy::AttrMatch::Notequal);
        assert_eq!(rule.updates.as_ref().unwrap().attrs["x"], "y");
        let wrong = SourcePolicy::from_json(br#"{"rules":[{"action":"SHRUG"}]}"#);
        assert!(wrong.unwrap_err().to_string().contains("SHRUG"));
    }

    #[test]
    fn nothing_is_no_graph() {
        assert!(read_graph(b"", false).unwrap().is_none());
        assert!(read_graph(b"\xff", false).is_err());
    }
}
