//! `frontend.subrequests.describe`: which subrequests there are.

use frontend::BuildResult;
use serde_json::{Value, json};

use super::{json, outline, targets};
use crate::go::Table;

/// The request.
pub(super) const NAME: &str = "frontend.subrequests.describe";
const VERSION: &str = "1.0.0";

pub(super) fn answer() -> BuildResult {
    let target = json!([{"name": "target", "description": "Target build stage"}]);
    let all = [
        (
            outline::NAME,
            outline::VERSION,
            "List all parameters current build target supports",
            target,
        ),
        (
            targets::NAME,
            targets::VERSION,
            "List all targets current build supports",
            json!([]),
        ),
        (
            NAME,
            VERSION,
            "List available subrequest types",
            Value::Null,
        ),
    ];
    let mut table = Table::new(1);
    table.row(["NAME", "VERSION", "DESCRIPTION"]);
    let mut requests = Vec::new();
    for (name, version, description, opts) in all {
        table.row([name.trim_start_matches("frontend."), version, description]);
        requests.push(json!({
            "name": name,
            "version": version,
            "type": "rpc",
            "description": description,
            "opts": opts,
            "inputs": null,
            "metadata": [
                {"name": "result.json", "description": ""},
                {"name": "result.txt", "description": ""},
            ],
            "refs": null,
        }));
    }
    super::metadata(&[
        ("result.json", &json::pretty(&Value::Array(requests))),
        ("result.txt", &table.render()),
        ("version", VERSION),
    ])
}
