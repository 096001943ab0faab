//! Annotations on manifests and indexes, as attributes name them.

use std::collections::BTreeMap;

use oci::Platform;

use crate::error::OptionError;

/// Annotations of one object.
pub(crate) type Map = BTreeMap<String, String>;

/// All annotations that attributes ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// On the index itself.
    pub(crate) index: Map,
    /// On the descriptor of the index.
    pub(crate) index_descriptor: Map,
    /// On each manifest; by platform, `None` for all.
    manifest: BTreeMap<Option<String>, Map>,
    /// On each manifest's descriptor; by platform, `None` for all.
    manifest_descriptor: BTreeMap<Option<String>, Map>,
}

impl Annotations {
    /// Takes the attribute `key` if it names an annotation: `annotation[-<type>][[<platform>]].<k>`.
    pub(crate) fn take(&mut self, key: &str, value: &str) -> Result<bool, OptionError> {
        let Some(parsed) = split(key) else {
            return Ok(false);
        };
        let invalid = |detail| OptionError::Annotation {
            key: key.to_owned(),
            detail,
        };
        let platform = match parsed.platform {
            None => None,
            Some(text) => {
                let platform: Platform = text
                    .parse()
                    .map_err(|_| invalid("the platform is not valid"))?;
                Some(platform.to_string())
            }
        };
        let map = match (parsed.kind, &platform) {
            ("" | "manifest", _) => self.manifest.entry(platform).or_default(),
            ("manifest-descriptor", _) => self.manifest_descriptor.entry(platform).or_default(),
            ("index", _) => &mut self.index,
            ("index-descriptor", _) => &mut self.index_descriptor,
            _ => return Err(invalid("the annotation type is not known")),
        };
        map.insert(parsed.name.to_owned(), value.to_owned());
        Ok(true)
    }

    /// What is on the manifest for `platform`.
    pub(crate) fn manifest(&self, platform: Option<&Platform>) -> Map {
        select(&self.manifest, platform)
    }

    /// What is on the descriptor of the manifest for `platform`.
    pub(crate) fn manifest_descriptor(&self, platform: Option<&Platform>) -> Map {
        select(&self.manifest_descriptor, platform)
    }

    /// Whether any is outside of manifests: those need an OCI index.
    pub(crate) fn beyond_manifests(&self) -> bool {
        !self.index.is_empty()
            || !self.index_descriptor.is_empty()
            || self.manifest_descriptor.values().any(|map| !map.is_empty())
    }

    /// The platforms that are named.
    pub(crate) fn platforms(&self) -> impl Iterator<Item = &str> {
        self.manifest
            .keys()
            .chain(self.manifest_descriptor.keys())
            .flatten()
            .map(String::as_str)
    }
}

fn select(by_platform: &BTreeMap<Option<String>, Map>, platform: Option<&Platform>) -> Map {
    let mut found = by_platform.get(&None).cloned().unwrap_or_default();
    if let Some(platform) = platform
        && let Some(own) = by_platform.get(&Some(platform.to_string()))
    {
        found.extend(own.clone());
    }
    found
}

struct Parsed<'a> {
    kind: &'a str,
    platform: Option<&'a str>,
    name: &'a str,
}

fn split(key: &str) -> Option<Parsed<'_>> {
    let rest = key.strip_prefix("annotation")?;
    let end = rest.find(['[', '.'])?;
    let (kind, rest) = rest.split_at(end);
    let kind = match kind.strip_prefix('-') {
        Some(kind) if !kind.is_empty() => kind,
        None if kind.is_empty() => "",
        _ => return None,
    };
    let (platform, rest) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (platform, rest) = rest.split_once(']')?;
            (Some(platform), rest)
        }
        None => (None, rest),
    };
    let name = rest.strip_prefix('.')?;
    (!name.is_empty() && !name.contains(char::is_whitespace)).then_some(Parsed {
        kind,
        platform,
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_key_is_read() {
        let mut all = Annotations::default();
        for (key, value) in [
            ("annotation.a.b/c", "1"),
            ("annotation-manifest[linux/amd64].d", "2"),
            ("annotation[linux/arm64].d", "3"),
            ("annotation-manifest-descriptor[linux/arm64].e", "4"),
            ("annotation-index.f", "5"),
            ("annotation-index-descriptor.g", "6"),
        ] {
            assert_eq!(all.take(key, value), Ok(true), "{key}");
        }
        for other in [
            "annotations",
            "annotation",
            "name",
            "annotation-x",
            "annotation.",
        ] {
            assert_eq!(all.take(other, ""), Ok(false), "{other}");
        }
        assert!(all.take("annotation-config.a", "").is_err());
        assert!(all.take("annotation[no/such/pl/atform].a", "").is_err());

        let arm: Platform = "linux/arm64".parse().unwrap();
        assert_eq!(
            all.manifest(None),
            Map::from([("a.b/c".into(), "1".into())])
        );
        assert_eq!(all.manifest(Some(&arm)).len(), 2);
        assert_eq!(all.manifest(Some(&arm))["d"], "3");
        assert_eq!(all.manifest_descriptor(Some(&arm))["e"], "4");
        assert!(all.beyond_manifests());
        assert_eq!(all.index["f"], "5");
        assert_eq!(all.index_descriptor["g"], "6");
    }
}
