//! A description of devices as it lies on the disk: JSON or YAML, version 0.3.0 to 1.1.0 of the
//! interface.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;

use serde::Deserialize;

/// The largest description that is read. Those of graphics cards have some hundred kilobytes.
const MAX_SIZE: u64 = 4 << 20;
/// The most files of one directory that are read.
const MAX_FILES: usize = 1000;

/// The versions that there are.
const VERSIONS: [&str; 8] = [
    "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0",
];

/// One file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct File {
    cdi_version: String,
    /// `vendor/class`.
    pub(super) kind: String,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) devices: Vec<Device>,
    /// For every container that gets any of the devices.
    #[serde(default, rename = "containerEdits")]
    pub(super) edits: Edits,
}

/// One device.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(default, rename = "containerEdits")]
    pub(super) edits: Edits,
}

/// What changes in a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Edits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<Node>,
    pub(super) mounts: Vec<Mount>,
    pub(super) additional_gids: Vec<u32>,
    /// Not carried out: a device that has one is refused.
    pub(super) hooks: Vec<Unread>,
    /// Not carried out: a device that has one is refused.
    pub(super) net_devices: Vec<Unread>,
    /// Not carried out: a device that has one is refused.
    pub(super) intel_rdt: Option<Unread>,
}

/// Something that is there.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Unread {}

/// A device node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Node {
    pub(super) path: String,
    pub(super) host_path: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) major: i64,
    pub(super) minor: i64,
    pub(super) file_mode: Option<u32>,
    /// Of `rwm`; empty is all.
    pub(super) permissions: String,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

/// Something of the machine that is shown in the container.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    #[serde(default)]
    pub(super) options: Vec<String>,
    #[serde(default, rename = "type")]
    pub(super) kind: String,
}

/// The descriptions in a directory, by name; what cannot be read is told in the log and left out.
pub(super) fn read_all(directory: &Path) -> Vec<File> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries
        .take(MAX_FILES)
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let extension = path.extension().and_then(|text| text.to_str());
            matches!(extension, Some("json" | "yaml")) && path.is_file()
        })
        .collect();
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        match read(&path) {
            Ok(file) => files.push(file),
            Err(reason) => {
                let path = path.display();
                tracing::warn!(%path, reason, "a description of devices is left out");
            }
        }
    }
    files
}

fn read(path: &Path) -> Result<File, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    file.take(MAX_SIZE + 1)
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_SIZE {
        return Err(format!("it has more than {MAX_SIZE} bytes"));
    }
    parse(&text)
}

/// Reads a description; JSON is YAML, too.
pub(super) fn parse(text: &str) -> Result<File, String> {
    let file: File = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
    if !VERSIONS.contains(&file.cdi_version.trim_start_matches('v')) {
        return Err(format!("version `{}` is not known", file.cdi_version));
    }
    let is_kind = file
        .kind
        .split_once('/')
        .is_some_and(|(vendor, class)| is_name(vendor, "_-.") && is_name(class, "_-."));
    if !is_kind || file.kind.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!("`{}` is no kind of devices", file.kind));
    }
    let mut names = BTreeSet::new();
    for device in &file.devices {
        if !is_name(&device.name, "_-.:") {
            return Err(format!("`{}` is no name of a device", device.name));
        }
        if !names.insert(&device.name) {
            return Err(format!("device `{}` is there twice", device.name));
        }
    }
    if names.is_empty() {
        return Err("it has no devices".to_owned());
    }
    Ok(file)
}

/// Letters, digits, and `also` between them.
fn is_name(text: &str, also: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(plain)
        && text.ends_with(plain)
        && text.chars().all(|c| plain(c) || also.contains(c))
}
