//! Requests and answers of the wire in the words of [`frontend`].

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use frontend::{
    Bridge, CacheImport, FileRange, FileStat, HttpChecksum, LayoutStore, ResolveImage, ResolveMode,
    ResolveSource, ResolvedSource, SourceLocation, Warning,
};
use oci::{Digest, Platform};
use proto::{apicaps, frontend as wire, fsutil, pb, types};
use tonic::Status;

use crate::build::Facts;

/// What of BuildKit's gateway API there is (BuildKit: `frontend/gateway/pb/caps.go`).
const FRONTEND_CAPABILITIES: &[&str] = &[
    "solve.base",
    "solve.inlinereturn",
    "resolveimage",
    "resolveimage.resolvemode",
    "readfile",
    "return",
    "returnmap",
    "readdir",
    "statfile",
    "importcaches",
    "proto.refarray",
    "reference.output",
    "frontend.inputs",
    "gateway.solve.metadata",
    "gateway.exec",
    "gateway.exec.extrahosts",
    "gateway.exec.secretenv",
    "gateway.exec.signals",
    "gateway.exec.filesystem",
    "frontend.caps",
    "gateway.solve.evaluate",
    "gateway.evaluate",
    "gateway.warnings",
    "reference.attestations",
    "source.metaresolver",
    "source.metaresolver.http.checksumrequest",
];

/// The answer to a ping.
pub(crate) fn pong(bridge: &dyn Bridge, facts: &Facts) -> wire::PongResponse {
    let capability = |id: &&str| apicaps::ApiCap {
        id: (*id).to_owned(),
        enabled: true,
        ..apicaps::ApiCap::default()
    };
    let llb = llb::CAPABILITIES.iter();
    wire::PongResponse {
        frontend_api_caps: FRONTEND_CAPABILITIES.iter().map(capability).collect(),
        llb_caps: llb
            .filter(|id| bridge.has_capability(id))
            .map(capability)
            .collect(),
        workers: vec![types::WorkerRecord {
            id: facts.worker.clone(),
            labels: facts.labels.clone(),
            platforms: facts.platforms.iter().map(platform_to_wire).collect(),
            ..types::WorkerRecord::default()
        }],
    }
}

/// A definition's graph; an empty definition is the empty filesystem.
pub(crate) fn graph(definition: pb::Definition) -> Result<Option<Arc<llb::Graph>>, Status> {
    if definition.def.is_empty() {
        return Ok(None);
    }
    let graph = llb::Graph::from_definition(&definition)
        .map_err(|error| Status::unknown(rpc::status::chain(&error)))?;
    Ok(Some(Arc::new(graph)))
}

/// Graphs under names; an input without a definition is an empty filesystem, which has no graph.
pub(crate) fn inputs(
    definitions: BTreeMap<String, pb::Definition>,
) -> Result<BTreeMap<String, Arc<llb::Graph>>, Status> {
    let mut inputs = BTreeMap::new();
    for (name, definition) in definitions {
        if let Some(graph) = graph(definition)? {
            inputs.insert(name, graph);
        }
    }
    Ok(inputs)
}

pub(crate) fn cache_imports(entries: Vec<wire::CacheOptionsEntry>) -> Vec<CacheImport> {
    let import = |entry: wire::CacheOptionsEntry| CacheImport {
        kind: entry.r#type,
        attrs: entry.attrs,
    };
    entries.into_iter().map(import).collect()
}

pub(crate) fn range(range: wire::FileRange) -> Result<FileRange, Status> {
    let number = |n| u64::try_from(n).map_err(|_| Status::invalid_argument("invalid file range"));
    Ok(FileRange {
        offset: number(range.offset)?,
        length: number(range.length)?,
    })
}

pub(crate) fn stat(stat: FileStat) -> fsutil::Stat {
    fsutil::Stat {
        path: stat.path,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        size: stat.size,
        mod_time: stat.mod_time,
        linkname: stat.linkname,
        devmajor: stat.dev_major,
        devminor: stat.dev_minor,
        xattrs: stat
            .xattrs
            .into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect(),
    }
}

fn platform(platform: pb::Platform) -> Platform {
    Platform {
        architecture: platform.architecture,
        os: platform.os,
        variant: platform.variant,
        os_version: platform.os_version,
        os_features: platform.os_features,
    }
}

pub(crate) fn platform_to_wire(platform: &Platform) -> pb::Platform {
    pb::Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}

fn resolve_mode(text: &str) -> Result<ResolveMode, Status> {
    Ok(match text {
        "" | "default" => ResolveMode::Default,
        "pull" => ResolveMode::ForcePull,
        "local" => ResolveMode::PreferLocal,
        other => {
            let text = format!("invalid resolvemode: {other}");
            return Err(Status::invalid_argument(text));
        }
    })
}

pub(crate) fn resolve_image(
    request: wire::ResolveImageConfigRequest,
) -> Result<ResolveImage, Status> {
    let layout = match request.resolver_type {
        0 => None,
        1 => Some(LayoutStore {
            session: request.session_id,
            store: request.store_id,
        }),
        other => {
            let text = format!("invalid resolver type {other}");
            return Err(Status::invalid_argument(text));
        }
    };
    Ok(ResolveImage {
        reference: request.r#ref,
        platform: request.platform.map(platform),
        mode: resolve_mode(&request.resolve_mode)?,
        log_name: request.log_name,
        layout,
    })
}

pub(crate) fn resolve_source(
    request: wire::ResolveSourceMetaRequest,
) -> Result<ResolveSource, Status> {
    let source = request
        .source
        .ok_or_else(|| Status::invalid_argument("source is required"))?;
    let mode = source.attrs.get("image.resolvemode");
    let mode = match request.resolve_mode.as_str() {
        "" => mode.map_or("", String::as_str),
        given => given,
    };
    let http_checksum = match request.http.and_then(|http| http.checksum_request) {
        None => None,
        Some(wanted) => Some(HttpChecksum {
            algorithm: match wanted.algo {
                0 => "sha256".to_owned(),
                1 => "sha384".to_owned(),
                2 => "sha512".to_owned(),
                other => {
                    let text = format!("unsupported checksum algorithm {other}");
                    return Err(Status::unknown(text));
                }
            },
            suffix: wanted.suffix,
        }),
    };
    Ok(ResolveSource {
        git_objects: request.git.is_some_and(|git| git.return_object),
        http_checksum,
        mode: resolve_mode(mode)?,
        identifier: source.identifier,
        attrs: source.attrs,
        platform: request.platform.map(platform),
        log_name: request.log_name,
    })
}

/// How a client wants to be told of a source.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// An image's config is left out.
    no_config: bool,
    /// What followed a file when it was hashed.
    suffix: Bytes,
}

impl Shown {
    pub(crate) fn of(request: &wire::ResolveSourceMetaRequest) -> Shown {
        let checksum = request.http.as_ref();
        let checksum = checksum.and_then(|http| http.checksum_request.as_ref());
        Shown {
            no_config: request.image.as_ref().is_some_and(|image| image.no_config),
            suffix: checksum
                .map(|wanted| wanted.suffix.clone())
                .unwrap_or_default(),
        }
    }

    /// What is known of a source.
    pub(crate) fn source(self, found: ResolvedSource) -> wire::ResolveSourceMetaResponse {
        let text = |digest: Digest| digest.to_string();
        let image = found
            .image_digest
            .map(|digest| wire::ResolveSourceImageResponse {
                digest: text(digest),
                config: found
                    .image_config
                    .filter(|_| !self.no_config)
                    .unwrap_or_default(),
                attestation_chain: None,
            });
        let git = found
            .git_checksum
            .map(|checksum| wire::ResolveSourceGitResponse {
                checksum,
                r#ref: found.git_ref.unwrap_or_default(),
                commit_checksum: found.git_commit_checksum.unwrap_or_default(),
                commit_object: found.git_commit_object.unwrap_or_default(),
                tag_object: found.git_tag_object.unwrap_or_default(),
            });
        let http = found
            .http_digest
            .map(|digest| wire::ResolveSourceHttpResponse {
                checksum: text(digest),
                filename: found.http_filename.unwrap_or_default(),
                last_modified: found
                    .http_last_modified
                    .map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
                checksum_response: found.http_checksum.map(|digest| wire::ChecksumResponse {
                    digest,
                    suffix: self.suffix,
                }),
            });
        wire::ResolveSourceMetaResponse {
            source: Some(pb::SourceOp {
                identifier: found.identifier,
                attrs: found.attrs,
            }),
            image,
            git,
            http,
        }
    }
}

pub(crate) fn warning(request: wire::WarnRequest) -> Result<Warning, Status> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let vertex = request
        .digest
        .parse()
        .map_err(|_| Status::invalid_argument(format!("invalid digest \"{}\"", request.digest)))?;
    let position = |p: Option<pb::Position>| p.map(|p| (p.line, p.character)).unwrap_or_default();
    let ranges = request.ranges.into_iter();
    let ranges = ranges
        .map(|r| (position(r.start), position(r.end)))
        .collect();
    Ok(Warning {
        vertex,
        level: request.level,
        short: text(&request.short),
        detail: request.detail.iter().map(|line| text(line)).collect(),
        url: request.url,
        location: request.info.map(|info| SourceLocation {
            filename: info.filename,
            language: info.language,
            data: Arc::from(&*info.data),
            ranges,
        }),
    })
}
