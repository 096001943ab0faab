//! The attributes of an export, checked.

use std::collections::BTreeMap;

use crate::annotations::Annotations;
use crate::epoch::{self, Epoch};
use crate::error::OptionError;

/// What an export makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An image in the store, in a registry, or both.
    Image,
    /// An OCI layout.
    Oci,
    /// What `docker load` takes, which is an OCI layout too.
    Docker,
}

impl Kind {
    /// The name that attributes give it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Image => "image",
            Kind::Oci => "oci",
            Kind::Docker => "docker",
        }
    }
}

/// How new layers are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CompressionKind {
    /// Not at all.
    Uncompressed,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// How layers are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    /// The method.
    pub kind: CompressionKind,
    /// The method's level; `None` for its default.
    pub level: Option<i32>,
    /// Whether layers that already have blobs of another kind are compressed again.
    pub force: bool,
}

/// Options of the exports that make an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOptions {
    /// What is made.
    pub kind: Kind,
    /// References, separated by commas; `*` takes the frontend's.
    pub name: String,
    /// How layers are compressed.
    pub compression: Compression,
    /// OCI rather than Docker media types.
    pub oci_types: bool,
    /// Attestations as OCI artifacts.
    pub oci_artifact: bool,
    /// Attestations that are meant for images only are kept.
    pub attestation_inline: bool,
    /// Layers of a non-distributable media type keep it.
    pub prefer_nondist: bool,
    /// What times are clamped to.
    pub epoch: Epoch,
    /// Whether files in new layers are clamped too.
    pub rewrite_timestamp: bool,
    /// Annotations on manifests and indexes.
    pub annotations: Annotations,
    /// `image`: names are pushed.
    pub push: bool,
    /// `image`: names are pushed without tag.
    pub push_by_digest: bool,
    /// `image`: no certificate is checked when pushing, and plain HTTP is tried.
    pub insecure: bool,
    /// `image`: the image is kept under its names.
    pub store: bool,
    /// `image`: files of the current platform's image are made ready.
    pub unpack: bool,
    /// `image`: `name@digest` is stored too.
    pub name_canonical: bool,
    /// `image`: `<prefix>@<digest>` is stored.
    pub dangling_prefix: String,
    /// `image`: only when there is no name.
    pub dangling_empty_only: bool,
    /// `image`: the stored image may lack layers that are not here.
    pub allow_incomplete: bool,
    /// `oci`, `docker`: one tar, rather than blobs into the client's store.
    pub tar: bool,
    /// Attributes that are not known: they belong to the result's metadata.
    pub metadata: BTreeMap<String, Vec<u8>>,
}

impl ImageOptions {
    /// Reads the attributes of an export of this `kind`.
    ///
    /// # Errors
    /// When a value cannot be read, or two contradict each other.
    pub fn parse(
        kind: Kind,
        attrs: &BTreeMap<String, String>,
    ) -> Result<ImageOptions, OptionError> {
        let mut options = ImageOptions::new(kind);
        let mut given = Given::default();
        for (key, value) in attrs {
            if !options.annotations.take(key, value)? && !given.take(&mut options, key, value)? {
                options
                    .metadata
                    .insert(key.clone(), value.clone().into_bytes());
            }
        }
        options.oci_types = given.oci_types.unwrap_or(true);
        options.oci_artifact = given.oci_artifact.unwrap_or(options.oci_types);
        options.check()?;
        Ok(options)
    }

    fn new(kind: Kind) -> ImageOptions {
        ImageOptions {
            kind,
            name: String::new(),
            compression: Compression {
                kind: CompressionKind::Gzip,
                level: None,
                force: false,
            },
            oci_types: true,
            oci_artifact: true,
            attestation_inline: kind == Kind::Image,
            prefer_nondist: false,
            epoch: Epoch::Unset,
            rewrite_timestamp: false,
            annotations: Annotations::default(),
            push: false,
            push_by_digest: false,
            insecure: false,
            store: true,
            unpack: false,
            name_canonical: false,
            dangling_prefix: String::new(),
            dangling_empty_only: false,
            allow_incomplete: false,
            tar: true,
            metadata: BTreeMap::new(),
        }
    }

    fn check(&self) -> Result<(), OptionError> {
        let conflict = |option: &str| OptionError::Conflict {
            option: option.to_owned(),
            other: "oci-mediatypes=false".to_owned(),
        };
        if !self.oci_types {
            if self.compression.kind == CompressionKind::Zstd {
                return Err(conflict("compression=zstd"));
            }
            if self.oci_artifact {
                return Err(conflict("oci-artifact=true"));
            }
            if self.annotations.beyond_manifests() {
                return Err(OptionError::NoAnnotations);
            }
        }
        if self.unpack && self.rewrite_timestamp {
            return Err(OptionError::Conflict {
                option: "rewrite-timestamp".to_owned(),
                other: "unpack".to_owned(),
            });
        }
        Ok(())
    }
}

/// Options whose default depends on others.
#[derive(Default)]
struct Given {
    oci_types: Option<bool>,
    oci_artifact: Option<bool>,
}

impl Given {
    fn take(
        &mut self,
        options: &mut ImageOptions,
        key: &str,
        value: &str,
    ) -> Result<bool, OptionError> {
        let image = options.kind == Kind::Image;
        let flag = || flag(key, value);
        match key {
            "name" => value.clone_into(&mut options.name),
            "compression" => options.compression.kind = compression_kind(value)?,
            "compression-level" => options.compression.level = Some(number(key, value)?),
            "force-compression" => options.compression.force = flag()?,
            "oci-mediatypes" => self.oci_types = Some(flag()?),
            "oci-artifact" => self.oci_artifact = Some(flag()?),
            "attestation-inline" => options.attestation_inline = flag()?,
            "prefer-nondist-layers" => options.prefer_nondist = flag()?,
            epoch::ATTR => options.epoch = Epoch::parse(value)?,
            "rewrite-timestamp" => options.rewrite_timestamp = flag()?,
            "tar" if !image => options.tar = flag()?,
            "push" if image => options.push = flag()?,
            "push-by-digest" if image => options.push_by_digest = flag()?,
            "registry.insecure" if image => options.insecure = flag()?,
            "store" if image => options.store = flag()?,
            "unpack" if image => options.unpack = flag()?,
            "name-canonical" if image => options.name_canonical = flag()?,
            "dangling-name-prefix" if image => value.clone_into(&mut options.dangling_prefix),
            // The attribute's name is spelt so (BuildKit: exporter/containerimage/exptypes/keys.go).
            "danging-name-empty-only" if image => options.dangling_empty_only = flag()?,
            "unsafe-internal-store-allow-incomplete" if image => {
                options.allow_incomplete = flag()?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// What becomes of files that the client's directory has and the result has not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TreeMode {
    /// They stay.
    #[default]
    Copy,
    /// They go.
    Delete,
}

/// What an export of a tree makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeKind {
    /// Files in a directory of the client.
    Local,
    /// One tar.
    Tar,
}

/// Options of the exports that make a tree: `local` and `tar`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeOptions {
    /// What is made.
    pub kind: TreeKind,
    /// The time of change that all files get.
    pub epoch: Epoch,
    /// In front of the names of attestation files.
    pub attestation_prefix: String,
    /// A directory for each platform; `None` where the result is for several.
    pub platform_split: Option<bool>,
    /// `local` only.
    pub mode: TreeMode,
}

impl TreeOptions {
    /// Reads the attributes; those that are not known are passed over.
    ///
    /// # Errors
    /// When a value cannot be read.
    pub fn parse(
        kind: TreeKind,
        attrs: &BTreeMap<String, String>,
    ) -> Result<TreeOptions, OptionError> {
        let mut options = TreeOptions {
            kind,
            epoch: Epoch::Unset,
            attestation_prefix: String::new(),
            platform_split: None,
            mode: TreeMode::Copy,
        };
        for (key, value) in attrs {
            match key.as_str() {
                epoch::ATTR => options.epoch = Epoch::parse(value)?,
                "attestation-prefix" => value.clone_into(&mut options.attestation_prefix),
                "platform-split" => options.platform_split = Some(flag(key, value)?),
                "mode" => {
                    options.mode = match value.as_str() {
                        "" | "copy" => TreeMode::Copy,
                        "delete" => TreeMode::Delete,
                        _ => return Err(OptionError::Mode(value.clone())),
                    };
                }
                _ => {}
            }
        }
        Ok(options)
    }

    /// Whether each platform gets a directory. In a tar of several it always does (BuildKit:
    /// exporter/tar/export.go).
    pub(crate) fn split(&self, multi_platform: bool) -> bool {
        match self.kind {
            TreeKind::Local => self.platform_split.unwrap_or(multi_platform),
            TreeKind::Tar => multi_platform,
        }
    }
}

fn compression_kind(value: &str) -> Result<CompressionKind, OptionError> {
    match value {
        "uncompressed" => Ok(CompressionKind::Uncompressed),
        "gzip" => Ok(CompressionKind::Gzip),
        "zstd" => Ok(CompressionKind::Zstd),
        _ => Err(OptionError::Compression(value.to_owned())),
    }
}

/// The spellings of Go's `strconv.ParseBool`; an attribute without a value is on.
fn flag(key: &str, value: &str) -> Result<bool, OptionError> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(OptionError::Flag {
            key: key.to_owned(),
            value: value.to_owned(),
        }),
    }
}

fn number(key: &str, value: &str) -> Result<i32, OptionError> {
    value.parse().map_err(|_| OptionError::Number {
        key: key.to_owned(),
        value: value.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: Kind, attrs: &[(&str, &str)]) -> Result<ImageOptions, OptionError> {
        let attrs = attrs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        ImageOptions::parse(kind, &attrs)
    }

    #[test]
    fn unknown_attributes_are_metadata() {
        let options = parse(
            Kind::Image,
            &[("containerimage.config", "{}"), ("push", "")],
        )
        .unwrap();
        assert!(options.push && options.oci_types && options.oci_artifact && options.store);
        assert_eq!(options.metadata["containerimage.config"], b"{}");
        let options = parse(Kind::Oci, &[("push", "true")]).unwrap();
        assert!(!options.push && !options.attestation_inline);
        assert!(options.metadata.contains_key("push"));
    }

    #[test]
    fn contradictions_are_refused() {
        for (attrs, want) in [
            (
                vec![("oci-mediatypes", "false"), ("compression", "zstd")],
                r#"exporter option "compression=zstd" conflicts with "oci-mediatypes=false""#,
            ),
            (
                vec![("oci-mediatypes", "0"), ("oci-artifact", "1")],
                r#"exporter option "oci-artifact=true" conflicts with "oci-mediatypes=false""#,
            ),
            (
                vec![("oci-mediatypes", "0"), ("annotation-index.a", "b")],
                r#"cannot export annotations with "oci-mediatypes=false""#,
            ),
            (
                vec![("push", "maybe")],
                "non-bool value specified for push: `maybe`",
            ),
            (
                vec![("compression", "lzma")],
                "unsupported compression type `lzma`",
            ),
        ] {
            assert_eq!(parse(Kind::Image, &attrs).unwrap_err().to_string(), want);
        }
    }
}
