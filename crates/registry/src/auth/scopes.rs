//! Scopes: `repository:<path>:<actions>`.

use std::collections::{BTreeMap, BTreeSet};

/// Whether all that `challenge` names is among the resources of `scopes`.
pub(super) fn scope_is_of(challenge: &str, scopes: &[String]) -> bool {
    let resource = |scope: &str| scope.rsplit_once(':').map(|(r, _)| r.to_owned());
    challenge
        .split_whitespace()
        .all(|wanted| scopes.iter().any(|own| resource(own) == resource(wanted)))
}

/// The scopes `own` and those of a challenge, one entry for each resource, sorted.
pub(super) fn merge_scopes(own: &[String], challenge: &str) -> Vec<String> {
    let mut actions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for scope in own
        .iter()
        .map(String::as_str)
        .chain(challenge.split_whitespace())
    {
        let (resource, verbs) = scope.rsplit_once(':').unwrap_or((scope, ""));
        actions
            .entry(resource)
            .or_default()
            .extend(verbs.split(','));
    }
    actions
        .into_iter()
        .map(|(resource, verbs)| {
            format!(
                "{resource}:{}",
                verbs.into_iter().collect::<Vec<_>>().join(",")
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_of_one_resource_are_joined() {
        let own = [
            "repository:b:pull".to_owned(),
            "repository:a:pull".to_owned(),
        ];
        let merged = merge_scopes(&own, "repository:a:push,pull registry:catalog:*");
        assert_eq!(
            merged,
            [
                "registry:catalog:*",
                "repository:a:pull,push",
                "repository:b:pull"
            ]
        );
    }
}
