//! Image configs as the frontend changes them.

use llb::builder::DEFAULT_PATH;
use oci::{History, ImageConfig, Platform, RootFs};

/// The comment of every history entry that this frontend writes.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// Reads a config. Keys that BuildKit does not know are dropped, as it drops them.
pub(crate) fn read(data: &[u8]) -> Result<ImageConfig, serde_json::Error> {
    let mut image: ImageConfig = serde_json::from_slice(data)?;
    image.other.clear();
    image.config.other.clear();
    Ok(image)
}

/// The config of an image without layers.
pub(crate) fn empty(platform: &Platform) -> ImageConfig {
    let mut image = ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
        variant: platform.variant.clone(),
        rootfs: RootFs::default(),
        ..ImageConfig::default()
    };
    image.config.working_dir = "/".to_owned();
    // On Windows the system sets it.
    if platform.os != "windows" {
        image.config.env = vec![format!("PATH={DEFAULT_PATH}")];
    }
    image
}

/// Sets a variable; one that is there keeps its place.
pub(crate) fn set_env(env: &mut Vec<String>, key: &str, value: &str) {
    let entry = format!("{key}={value}");
    let is_key = |item: &&mut String| item.split('=').next() == Some(key);
    match env.iter_mut().find(is_key) {
        Some(item) => *item = entry,
        None => env.push(entry),
    }
}

/// Adds a history entry; `created` is RFC 3339.
pub(crate) fn record(image: &mut ImageConfig, text: String, layer: bool, created: Option<&str>) {
    image.history.push(History {
        created: created.map(str::to_owned),
        created_by: text,
        comment: COMMENT.to_owned(),
        empty_layer: !layer,
        ..History::default()
    });
}

/// Whether the image has no layers at all; images of schema 1 have none but in their history.
pub(crate) fn is_scratch(image: &ImageConfig) -> bool {
    image.rootfs.diff_ids.is_empty() && image.history.iter().all(|entry| entry.empty_layer)
}

/// The shell that takes the text of shell-form commands.
pub(crate) fn shell(image: &ImageConfig) -> Vec<String> {
    let words: &[&str] = match image.os.as_str() {
        _ if !image.config.shell.is_empty() => return image.config.shell.clone(),
        "windows" => &["cmd", "/S", "/C"],
        _ => &["/bin/sh", "-c"],
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Shell and text of a shell-form command.
pub(crate) fn with_shell(image: &ImageConfig, words: &[String]) -> Vec<String> {
    let mut line = shell(image);
    line.push(words.join(" "));
    line
}

/// Writes a config as Go's `encoding/json` would.
pub(crate) fn write(image: &ImageConfig) -> String {
    let mut value = serde_json::to_value(image).unwrap_or_default();
    if image.rootfs.diff_ids.is_empty()
        && let Some(rootfs) = value
            .get_mut("rootfs")
            .and_then(|rootfs| rootfs.as_object_mut())
    {
        // A list that was never set is `null` in Go.
        rootfs.insert("diff_ids".to_owned(), serde_json::Value::Null);
    }
    // These can only be in strings, where Go escapes them.
    value
        .to_string()
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}
