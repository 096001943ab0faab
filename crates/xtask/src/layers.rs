//! The table of DESIGN: a crate depends only on crates of lower rank, and only *wire* crates name
//! generated types.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::shell;

/// Where a crate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rank {
    /// Depends on lower numbers.
    Product(u8),
    /// May depend on anything, and only tests may depend on it.
    Development,
}

/// A crate, its rank, and whether it may name generated types.
const TABLE: &[(&str, Rank, bool)] = &[
    ("drydock-oci", Rank::Product(0), false),
    ("drydock-proto", Rank::Product(0), true),
    ("drydock-sys", Rank::Product(0), false),
    ("drydock-llb", Rank::Product(1), true),
    ("drydock-fstree", Rank::Product(1), false),
    ("drydock-content", Rank::Product(1), false),
    ("drydock-registry", Rank::Product(1), false),
    ("drydock-executor", Rank::Product(1), false),
    ("drydock-rpc", Rank::Product(1), true),
    ("drydock-layer", Rank::Product(2), false),
    ("drydock-snapshot", Rank::Product(2), false),
    ("drydock-filesync", Rank::Product(2), true),
    ("drydock-solver", Rank::Product(2), false),
    ("drydock-frontend", Rank::Product(2), false),
    ("drydock-spans", Rank::Product(2), true),
    ("drydock-refs", Rank::Product(3), false),
    ("drydock-session", Rank::Product(3), true),
    ("drydock-worker-client", Rank::Product(3), true),
    ("drydock-client", Rank::Product(3), true),
    ("drydock-dockerfile", Rank::Product(3), false),
    ("drydock-gateway", Rank::Product(3), true),
    ("drydock-source", Rank::Product(4), false),
    ("drydock-exporter", Rank::Product(4), false),
    ("drydock-buildcache", Rank::Product(4), false),
    ("drydock-worker", Rank::Product(5), true),
    ("drydock-engine", Rank::Product(5), false),
    ("drydock-control", Rank::Product(6), true),
    ("drydock", Rank::Product(7), false),
    ("drydock-testing", Rank::Development, true),
    ("drydock-tests", Rank::Development, true),
    ("xtask", Rank::Development, true),
];

/// The crate of generated types.
const PROTO: &str = "drydock-proto";

/// Checks every crate of the workspace.
pub(crate) fn run() -> anyhow::Result<()> {
    let arguments = ["metadata", "--format-version=1", "--no-deps", "--quiet"];
    let metadata = shell::output(&mut shell::cargo(arguments))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is no JSON")?;
    let faults = faults(&metadata)?;
    for fault in &faults {
        eprintln!("{fault}");
    }
    match faults.len() {
        0 => Ok(()),
        count => bail!("{count} dependencies are against the table of layers"),
    }
}

fn faults(metadata: &Value) -> anyhow::Result<Vec<String>> {
    let table: BTreeMap<&str, (Rank, bool)> = TABLE
        .iter()
        .map(|&(name, rank, wire)| (name, (rank, wire)))
        .collect();
    let mut faults = Vec::new();
    for package in metadata["packages"]
        .as_array()
        .context("no packages in cargo metadata")?
    {
        let name = package["name"]
            .as_str()
            .context("a package without a name")?;
        let Some(&(rank, wire)) = table.get(name) else {
            faults.push(format!("`{name}` is not in the table of layers"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let Some(other) = dependency["name"].as_str() else {
                continue;
            };
            let is_for_tests = dependency["kind"] == "dev";
            let Some(&(other_rank, _)) = table.get(other) else {
                continue;
            };
            if let Some(fault) = fault((name, rank, wire), (other, other_rank), is_for_tests) {
                faults.push(fault);
            }
        }
    }
    Ok(faults)
}

/// What is wrong with one dependency, if anything.
fn fault(
    (name, rank, wire): (&str, Rank, bool),
    (other, other_rank): (&str, Rank),
    is_for_tests: bool,
) -> Option<String> {
    if other == PROTO && !wire && !is_for_tests {
        return Some(format!(
            "`{name}` is no wire crate, but depends on `{PROTO}`"
        ));
    }
    match (rank, other_rank) {
        (Rank::Development, _) => None,
        (Rank::Product(_), Rank::Development) if is_for_tests => None,
        (Rank::Product(_), Rank::Development) => {
            Some(format!("`{name}` depends on `{other}`, which is for tests"))
        }
        // A test may look from above; the product must not.
        (Rank::Product(_), Rank::Product(_)) if is_for_tests => None,
        (Rank::Product(rank), Rank::Product(other_rank)) => (other_rank >= rank)
            .then(|| format!("`{name}` (rank {rank}) depends on `{other}` (rank {other_rank})")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(name: &str, dependency: &str, kind: Option<&str>, expected: &[&str]) {
        let metadata = json!({ "packages": [
            { "name": name, "dependencies": [{ "name": dependency, "kind": kind }] },
        ]});
        assert_eq!(faults(&metadata).unwrap(), expected);
    }

    #[test]
    fn a_crate_depends_on_lower_ranks() {
        check("drydock-llb", "drydock-oci", None, &[]);
        check("drydock-llb", "serde", None, &[]);
        let up = "`drydock-oci` (rank 0) depends on `drydock-llb` (rank 1)";
        check("drydock-oci", "drydock-llb", None, &[up]);
        let beside = "`drydock-llb` (rank 1) depends on `drydock-rpc` (rank 1)";
        check("drydock-llb", "drydock-rpc", None, &[beside]);
        check("drydock-oci", "drydock-llb", Some("dev"), &[]);
    }

    #[test]
    fn only_wire_crates_name_generated_types() {
        check("drydock-rpc", "drydock-proto", None, &[]);
        let fault = "`drydock-engine` is no wire crate, but depends on `drydock-proto`";
        check("drydock-engine", "drydock-proto", None, &[fault]);
    }

    #[test]
    fn what_is_for_tests_stays_there() {
        check("drydock-oci", "drydock-testing", Some("dev"), &[]);
        let fault = "`drydock-oci` depends on `drydock-testing`, which is for tests";
        check("drydock-oci", "drydock-testing", None, &[fault]);
    }

    #[test]
    fn a_new_crate_must_be_in_the_table() {
        check(
            "drydock-new",
            "serde",
            None,
            &["`drydock-new` is not in the table of layers"],
        );
    }
}
