//! What is attested of an image: in-toto statements, as blobs of a manifest in the image's index.

use std::collections::BTreeMap;

use bytes::Bytes;
use oci::{
    Descriptor, Digest, ImageConfig, Manifest, Platform, Reference, RootFs, media_type as media,
};
use serde::Serialize;
use serde_json::Value;

use crate::error::ExportError;
use crate::image::{BuiltImage, SourceRef};
use crate::options::ImageOptions;

const ARTIFACT_TYPE: &str = "application/vnd.docker.attestation.manifest.v1+json";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "in-toto.io/predicate-type";
/// The content of [`media::OCI_EMPTY`].
const EMPTY: &[u8] = b"{}";

/// Something that is attested of a result.
#[derive(Clone, Debug, PartialEq)]
pub struct Attestation {
    /// What kind of thing is said, a URI.
    pub predicate_type: String,
    /// What is said, JSON.
    pub predicate: Value,
    /// Who it is said of; none for the image itself.
    pub subjects: Vec<Subject>,
    /// Whether it is kept only where it can be part of an image.
    pub inline_only: bool,
    /// The name of the file that holds it in exports of files, e.g. `provenance.json`.
    pub file_name: String,
}

/// Whom a statement is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// A package URL or a path.
    pub name: String,
    /// `sha256` to hex digits.
    pub digest: BTreeMap<String, String>,
}

impl Subject {
    /// `name`, whose content has this digest.
    pub fn new(name: impl Into<String>, digest: &Digest) -> Subject {
        let digest = BTreeMap::from([("sha256".to_owned(), digest.hex())]);
        Subject {
            name: name.into(),
            digest,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Statement<'a> {
    #[serde(rename = "_type")]
    kind: &'static str,
    predicate_type: &'a str,
    subject: Vec<Subject>,
    predicate: &'a Value,
}

/// A manifest of statements, to be put in an index.
pub(crate) struct Made {
    pub(crate) manifest: Manifest,
    pub(crate) blobs: Vec<(&'static str, Bytes)>,
    /// Of its descriptor.
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) platform: Platform,
}

/// The attestations that this export carries out.
pub(crate) fn kept<'a>(
    all: &'a [Attestation],
    options: &'a ImageOptions,
) -> impl Iterator<Item = &'a Attestation> {
    all.iter()
        .filter(|attestation| options.attestation_inline || !attestation.inline_only)
}

/// Makes the manifest of what is attested of `image`; `None` when that is nothing.
pub(crate) fn manifest(
    source: &SourceRef,
    image: &BuiltImage,
    names: &[String],
    options: &ImageOptions,
) -> Result<Option<Made>, ExportError> {
    let itself = subjects(image, names)?;
    let mut blobs = Vec::new();
    let mut layers = Vec::new();
    for attestation in kept(&source.attestations, options) {
        let bytes = statement(attestation, &itself, Form::Compact)?;
        let mut layer = Descriptor::new(media::IN_TOTO, Digest::of(&bytes), bytes.len() as u64);
        layer
            .annotations
            .insert(PREDICATE.to_owned(), attestation.predicate_type.clone());
        layers.push(layer);
        blobs.push((media::IN_TOTO, Bytes::from(bytes)));
    }
    if layers.is_empty() {
        return Ok(None);
    }
    let platform = unknown();
    let (config_type, config) = if options.oci_artifact {
        (media::OCI_EMPTY, Bytes::from_static(EMPTY))
    } else {
        (media::OCI_CONFIG, stand_in_config(&layers, &platform)?)
    };
    let mut config_descriptor =
        Descriptor::new(config_type, Digest::of(&config), config.len() as u64);
    if options.oci_artifact {
        config_descriptor.data = Some("e30=".to_owned());
    }
    blobs.push((config_type, config));
    let image_manifest = &image.manifest;
    let subject = Descriptor::new(
        image_manifest.media_type.clone(),
        image_manifest.digest,
        image_manifest.size,
    );
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media::OCI_MANIFEST.to_owned()),
        artifact_type: options.oci_artifact.then(|| ARTIFACT_TYPE.to_owned()),
        config: config_descriptor,
        layers,
        subject: options.oci_artifact.then_some(subject),
        annotations: BTreeMap::new(),
    };
    let annotations = BTreeMap::from([
        (
            "vnd.docker.reference.type".to_owned(),
            "attestation-manifest".to_owned(),
        ),
        (
            "vnd.docker.reference.digest".to_owned(),
            image_manifest.digest.to_string(),
        ),
    ]);
    Ok(Some(Made {
        manifest,
        blobs,
        annotations,
        platform,
    }))
}

/// How JSON is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// For programs.
    Compact,
    /// For people.
    Indented,
}

/// The statement's bytes; `itself` is what an attestation without subjects is about.
pub(crate) fn statement(
    attestation: &Attestation,
    itself: &[Subject],
    form: Form,
) -> Result<Vec<u8>, ExportError> {
    let subject = match attestation.subjects.as_slice() {
        [] => itself.to_vec(),
        named => named.to_vec(),
    };
    let statement = Statement {
        kind: STATEMENT_TYPE,
        predicate_type: &attestation.predicate_type,
        subject,
        predicate: &attestation.predicate,
    };
    match form {
        Form::Compact => serde_json::to_vec(&statement),
        Form::Indented => serde_json::to_vec_pretty(&statement),
    }
    .map_err(ExportError::Manifest)
}

/// The image as the subject of a statement: once for each name, as a package URL.
fn subjects(image: &BuiltImage, names: &[String]) -> Result<Vec<Subject>, ExportError> {
    let digest = &image.manifest.digest;
    if names.is_empty() {
        return Ok(vec![Subject::new("_", digest)]);
    }
    names
        .iter()
        .map(|name| match Reference::parse(name) {
            Ok(reference) => Ok(Subject::new(
                package_url(&reference.with_default_tag(), &image.platform),
                digest,
            )),
            Err(source) => Err(ExportError::Name {
                name: name.clone(),
                source,
            }),
        })
        .collect()
}

/// `pkg:docker/<name>@<version>?platform=<platform>`.
fn package_url(reference: &Reference, platform: &Platform) -> String {
    let mut short = reference.clone();
    (short.tag, short.digest) = (None, None);
    let version = reference.tag.clone().unwrap_or_default();
    let platform = platform.to_string().replace('/', "%2F");
    let name = short.familiar().replace(':', "%3A");
    match &reference.digest {
        Some(digest) if version.is_empty() => {
            format!("pkg:docker/{name}?digest={digest}&platform={platform}")
        }
        _ => format!("pkg:docker/{name}@{version}?platform={platform}"),
    }
}

fn unknown() -> Platform {
    Platform {
        os: "unknown".to_owned(),
        architecture: "unknown".to_owned(),
        ..Platform::default()
    }
}

/// The config of a manifest that must look like an image's.
fn stand_in_config(layers: &[Descriptor], platform: &Platform) -> Result<Bytes, ExportError> {
    let config = ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        rootfs: RootFs {
            diff_ids: layers.iter().map(|layer| layer.digest).collect(),
            ..RootFs::default()
        },
        ..ImageConfig::default()
    };
    serde_json::to_vec(&config)
        .map(Bytes::from)
        .map_err(ExportError::Manifest)
}
