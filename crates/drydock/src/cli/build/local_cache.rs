//! Build caches in directories here: OCI layouts, where an index names the build cache by a tag.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::report::Response;
use super::request::Cache;

/// The tag of a build cache, unless another is given.
const LATEST: &str = "latest";
/// The annotation that carries the tag.
const TAG: &str = "org.opencontainers.image.ref.name";
/// What is answered for a build cache that was written.
const MANIFEST: &str = "cache.manifest";

/// The imports that can be asked for: a directory without a build cache is only warned of, as it is
/// so before the first build.
pub(super) fn imports(all: Vec<Cache>, stores: &mut BTreeMap<String, PathBuf>) -> Vec<Cache> {
    let usable = |mut cache: Cache| {
        if cache.kind != "local" {
            return Some(cache);
        }
        let source = cache.attrs.get("src").cloned().unwrap_or_default();
        if !cache.attrs.contains_key("digest") {
            let tag = cache.attrs.get("tag").map_or(LATEST, String::as_str);
            let Some(digest) = tagged(Path::new(&source), tag) else {
                eprintln!("WARNING: local build cache import at {source} not found");
                return None;
            };
            cache.attrs.insert("digest".to_owned(), digest);
        }
        stores.insert(source.clone(), PathBuf::from(source));
        Some(cache)
    };
    all.into_iter().filter_map(usable).collect()
}

/// The exports, whose directories are there now.
pub(super) fn exports(
    all: Vec<Cache>,
    stores: &mut BTreeMap<String, PathBuf>,
) -> anyhow::Result<Vec<Cache>> {
    for (directory, _) in destinations(&all) {
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("failed to create `{}`", directory.display()))?;
        stores.insert(directory.to_string_lossy().into_owned(), directory);
    }
    Ok(all)
}

/// The directories that are written, and the tags that the build caches get there.
pub(super) fn destinations(all: &[Cache]) -> Vec<(PathBuf, String)> {
    let local = all.iter().filter(|cache| cache.kind == "local");
    let destination = |cache: &Cache| {
        let tag = cache.attrs.get("tag").map_or(LATEST, String::as_str);
        Some((PathBuf::from(cache.attrs.get("dest")?), tag.to_owned()))
    };
    local.filter_map(destination).collect()
}

/// Names what was written in the indexes.
pub(super) fn note(written: &[(PathBuf, String)], response: &Response) -> anyhow::Result<()> {
    let Some(manifest) = response.get(MANIFEST) else {
        return Ok(());
    };
    let manifest: Value = serde_json::from_str(manifest).context("failed to read the answer")?;
    for (directory, tag) in written {
        put(directory, tag, manifest.clone())
            .with_context(|| format!("failed to write the index in `{}`", directory.display()))?;
    }
    Ok(())
}

fn index(directory: &Path) -> Value {
    std::fs::read(directory.join("index.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_else(|| json!({ "schemaVersion": 2, "manifests": [] }))
}

fn has_tag(manifest: &Value, tag: &str) -> bool {
    manifest["annotations"][TAG] == tag
}

fn tagged(directory: &Path, tag: &str) -> Option<String> {
    let index = index(directory);
    let mut manifests = index["manifests"].as_array()?.iter();
    let found = manifests.find(|manifest| has_tag(manifest, tag))?;
    Some(found["digest"].as_str()?.to_owned())
}

fn put(directory: &Path, tag: &str, mut manifest: Value) -> anyhow::Result<()> {
    let mut index = index(directory);
    manifest["annotations"] = json!({ TAG: tag });
    if let Some(manifests) = index["manifests"].as_array_mut() {
        manifests.retain(|other| !has_tag(other, tag));
        manifests.push(manifest);
    }
    let write = |name: &str, value: &Value| -> anyhow::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        serde_json::to_writer(&mut file, value)?;
        file.persist(directory.join(name))?;
        Ok(())
    };
    write("oci-layout", &json!({ "imageLayoutVersion": "1.0.0" }))?;
    write("index.json", &index)
}
