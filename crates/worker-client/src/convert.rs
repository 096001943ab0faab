//! Wire messages to checked types and back.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use oci::{Digest, Platform};
use proto::worker as wire;
use rpc::tunnel;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Channel;
use wire::worker_client::WorkerClient;

use crate::{CacheEntry, Description, Export, GcPolicy, UsageRecord, WorkerError};

/// What is told of a long call while it runs.
#[derive(Clone, Debug)]
pub enum OpNews {
    /// An item of progress has changed.
    Item(Item),
    /// Something was printed.
    Output {
        /// 1 stdout, 2 stderr.
        stream: i64,
        /// What.
        data: Bytes,
        /// When.
        time: SystemTime,
    },
    /// Somebody should know something.
    Warning {
        /// 1 for a lint.
        level: i64,
        /// One line.
        short: String,
        /// More lines.
        detail: Vec<String>,
        /// Where it is explained.
        url: String,
    },
}

/// One item of progress, e.g. a layer that is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Names the item within its vertex.
    pub id: String,
    /// What is shown.
    pub name: String,
    /// Bytes done.
    pub current: i64,
    /// Bytes in all, 0 when not known.
    pub total: i64,
    /// When it began.
    pub started: Option<SystemTime>,
    /// When it ended.
    pub completed: Option<SystemTime>,
}

/// How a long call ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) ids: Vec<Digest>,
    pub(crate) response: BTreeMap<String, String>,
    pub(crate) documents: Vec<Bytes>,
    pub(crate) links: Vec<(Digest, Digest)>,
}

/// Reads the events of a long call to the end.
pub(crate) async fn follow(
    mut stream: impl Stream<Item = Result<wire::OpEvent, tonic::Status>> + Unpin,
    mut news: impl FnMut(OpNews),
) -> Result<Outcome, WorkerError> {
    use wire::op_event::Event;
    while let Some(event) = stream.next().await {
        match event?.event {
            Some(Event::Progress(p)) => news(OpNews::Item(Item {
                id: p.id,
                name: p.name,
                current: p.current,
                total: p.total,
                started: p.started.and_then(time),
                completed: p.completed.and_then(time),
            })),
            Some(Event::Log(log)) => news(OpNews::Output {
                stream: log.stream,
                data: log.data,
                time: log.time.and_then(time).unwrap_or_else(SystemTime::now),
            }),
            Some(Event::Warning(w)) => news(OpNews::Warning {
                level: w.level,
                short: w.short,
                detail: w.detail,
                url: w.url,
            }),
            Some(Event::Done(done)) => {
                let ids = done
                    .ids
                    .iter()
                    .map(|id| digest(id))
                    .collect::<Result<_, _>>()?;
                let link = |link: &wire::KeyLink| Ok((digest(&link.key)?, digest(&link.id)?));
                let links = done.links.iter().map(link);
                return Ok(Outcome {
                    ids,
                    response: done.response,
                    documents: done.documents,
                    links: links.collect::<Result<_, WorkerError>>()?,
                });
            }
            None => {
                return Err(WorkerError::protocol(
                    "the worker sent an event without content",
                ));
            }
        }
    }
    Err(WorkerError::protocol(
        "the worker ended a call without a result",
    ))
}

/// Opens the tunnel through which the worker calls clients' sessions, and serves them in it for as
/// long as the connection lives.
pub(crate) async fn serve_sessions(
    client: &mut WorkerClient<Channel>,
    sessions: impl tunnel::Inner,
) -> Result<(), WorkerError> {
    let (outgoing, requests) = tunnel::outgoing::<wire::Bytes>();
    let incoming = client.sessions(requests).await?.into_inner();
    let stream = tunnel::Tunnel::new(incoming, outgoing);
    tokio::spawn(async move {
        if let Err(error) = tunnel::serve_over(stream, sessions).await {
            tracing::debug!(%error, "the worker's session tunnel ended");
        }
    });
    Ok(())
}

pub(crate) fn description(answer: wire::DescribeResponse) -> Result<Description, WorkerError> {
    let platforms: Vec<Platform> = answer.platforms.into_iter().map(platform).collect();
    if platforms.is_empty() {
        return Err(WorkerError::protocol("the worker names no platform"));
    }
    Ok(Description {
        id: answer.id,
        labels: answer.labels,
        platforms,
        gc_policies: answer.gc_policies.into_iter().map(gc_policy).collect(),
    })
}

fn gc_policy(policy: wire::GcPolicy) -> GcPolicy {
    GcPolicy {
        all: policy.all,
        keep_duration: Duration::from_nanos(u64::try_from(policy.keep_duration_ns).unwrap_or(0)),
        reserved_space: policy.reserved_space,
        filters: policy.filters,
        max_used_space: policy.max_used_space,
        min_free_space: policy.min_free_space,
    }
}

pub(crate) fn digest(text: &str) -> Result<Digest, WorkerError> {
    text.parse()
        .map_err(|_| WorkerError::protocol(format!("the worker sent the digest `{text}`")))
}

fn platform(platform: wire::Platform) -> Platform {
    Platform {
        os: platform.os,
        architecture: platform.architecture,
        variant: platform.variant,
        os_version: platform.os_version,
        os_features: platform.os_features,
    }
}

pub(crate) fn platform_to_wire(platform: &Platform) -> wire::Platform {
    wire::Platform {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}

pub(crate) fn selector(selector: &llb::Selector) -> wire::Selector {
    wire::Selector {
        path: selector.path.clone(),
        wildcard: selector.wildcard,
        follow_links: selector.follow_links,
        include: selector.include.clone(),
        exclude: selector.exclude.clone(),
        required: selector.required.clone(),
    }
}

pub(crate) fn resources(resources: &llb::LinuxResources) -> wire::LinuxResources {
    wire::LinuxResources {
        memory: resources.memory,
        memory_swap: resources.memory_swap,
        cpu_shares: resources.cpu_shares,
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota,
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
    }
}

/// What a worker says of a source.
pub(crate) fn resolved_source(
    asked: &frontend::ResolveSource,
    answer: wire::ResolveSourceResponse,
) -> Result<frontend::ResolvedSource, WorkerError> {
    use wire::resolve_source_response::Source;
    let known = frontend::ResolvedSource {
        identifier: asked.identifier.clone(),
        attrs: asked.attrs.clone(),
        ..frontend::ResolvedSource::default()
    };
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(match answer.source {
        None => known,
        Some(Source::Git(git)) => frontend::ResolvedSource {
            git_checksum: Some(git.checksum),
            git_ref: Some(git.r#ref),
            git_commit_checksum: given(git.commit_checksum),
            git_commit_object: Some(git.commit_object),
            git_tag_object: Some(git.tag_object),
            ..known
        },
        Some(Source::Http(http)) => frontend::ResolvedSource {
            http_digest: Some(digest(&http.digest)?),
            http_filename: Some(http.filename),
            http_last_modified: http.last_modified.map(|time| time.seconds),
            http_checksum: given(http.checksum),
            ..known
        },
    })
}

pub(crate) fn file_stat(stat: wire::FileStat) -> frontend::FileStat {
    frontend::FileStat {
        path: stat.path,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        size: stat.size,
        mod_time: stat.mod_time,
        linkname: stat.linkname,
        dev_major: stat.devmajor,
        dev_minor: stat.devminor,
        xattrs: stat
            .xattrs
            .into_iter()
            .map(|(name, value)| (name, value.to_vec()))
            .collect(),
    }
}

pub(crate) fn export_to_wire(export: Export) -> wire::ExportRequest {
    let refs = export.refs.into_iter().map(|r| wire::ExportRef {
        key: r.key,
        id: r.id.map(|id| id.to_string()).unwrap_or_default(),
        platform: Some(platform_to_wire(&r.platform)),
        config: r.config.unwrap_or_default(),
        attestations: r.attestations.into_iter().map(attestation).collect(),
    });
    wire::ExportRequest {
        job: export.job,
        kind: export.kind,
        attrs: export.attrs,
        session: export.session,
        target: export.target,
        refs: refs.collect(),
        multi_platform: export.multi_platform,
        metadata: export.metadata,
        inline_cache: export.inline_cache.iter().map(cache_entry).collect(),
    }
}

pub(crate) fn cache_entry(entry: &CacheEntry) -> wire::CacheEntry {
    wire::CacheEntry {
        id: entry.id.to_string(),
        keys: entry.keys.iter().map(ToString::to_string).collect(),
        output_ids: entry.output_ids.iter().map(ToString::to_string).collect(),
        results: entry.results,
    }
}

fn attestation(attestation: crate::ExportAttestation) -> wire::ExportAttestation {
    wire::ExportAttestation {
        predicate_type: attestation.predicate_type,
        predicate: attestation.predicate,
        inline_only: attestation.inline_only,
        file_name: attestation.file_name,
    }
}

pub(crate) fn usage(record: wire::UsageRecord) -> UsageRecord {
    UsageRecord {
        id: record.id,
        mutable: record.mutable,
        in_use: record.in_use,
        size: record.size,
        parents: record.parents,
        created: record.created.and_then(time),
        last_used: record.last_used.and_then(time),
        usage_count: record.usage_count,
        description: record.description,
        record_type: record.record_type,
        shared: record.shared,
    }
}

/// A duration on the wire; one of more than 292 years is that.
pub(crate) fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// A wire timestamp; one before the epoch or out of range is none.
fn time(stamp: prost_types::Timestamp) -> Option<SystemTime> {
    SystemTime::try_from(stamp).ok()
}
