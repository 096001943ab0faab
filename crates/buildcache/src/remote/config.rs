//! The config as it is written.

use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub(super) struct Config {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) layers: Vec<Layer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) records: Vec<Record>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Layer {
    pub(super) blob: String,
    // BuildKit leaves out what is zero, and takes what is left out for zero; -1 is "none".
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) parent: i64,
}

#[derive(Default, Serialize, Deserialize)]
pub(super) struct Record {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) layers: Vec<Outcome>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) chains: Vec<Chained>,
    #[serde(default)]
    pub(super) digest: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) inputs: Vec<Vec<Input>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Outcome {
    #[serde(default)]
    pub(super) layer: i64,
    #[serde(default, rename = "createdAt")]
    pub(super) created_at: String,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Chained {
    pub(super) layers: Vec<i64>,
    #[serde(default, rename = "createdAt")]
    pub(super) created_at: String,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Input {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) selector: String,
    #[serde(default)]
    pub(super) link: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}
