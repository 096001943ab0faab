//! The calls about builds that ended.

use std::collections::BTreeMap;
use std::time::SystemTime;

use futures::{Stream, StreamExt};
use proto::content::ReadContentRequest;
use proto::content::content_client::ContentClient;
use proto::control as wire;
use tokio::sync::mpsc;

use crate::progress::Progress;
use crate::{CallFailed, Client};

/// Which builds are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildFilter {
    /// Only the build of that name.
    pub build_ref: String,
    /// Only those that match one of these; terms are joined by commas, such as `status==error`.
    pub filter: Vec<String>,
    /// Only the newest; 0 for all.
    pub limit: i32,
    /// Only those that run.
    pub active_only: bool,
}

/// What a daemon remembers of a build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildRecord {
    /// The build's name.
    pub build_ref: String,
    /// The frontend that was asked for.
    pub frontend: String,
    /// When it began.
    pub created: Option<SystemTime>,
    /// When it ended; `None` while it runs.
    pub completed: Option<SystemTime>,
    /// Why it failed; empty when it did not.
    pub error: String,
    /// Whether it stays until it is deleted.
    pub pinned: bool,
    /// Counts the changes of the record.
    pub generation: i32,
    /// How many steps it had.
    pub total_steps: i32,
    /// How many of them were found instead of made.
    pub cached_steps: i32,
    /// The digest of the image that its first exporter made; empty when there is none.
    pub result: String,
    /// The predicate types and the digests of what is attested of its results.
    pub attestations: Vec<(String, String)>,
    /// The frontend's options.
    pub attrs: BTreeMap<String, String>,
    /// The types of its exporters, and their options.
    pub exporters: Vec<(String, BTreeMap<String, String>)>,
    /// What the exporters said.
    pub response: BTreeMap<String, String>,
    /// The gRPC code of its failure; 0 when there is none.
    pub error_code: i32,
    /// The whole failure.
    pub whole_error: Option<Blob>,
    /// Its progress.
    pub logs: Option<Blob>,
    /// Its trace.
    pub trace: Option<Blob>,
    /// What it made.
    pub made: Option<Made>,
    /// What it made for each platform.
    pub made_for: BTreeMap<String, Made>,
    /// How many steps ended.
    pub completed_steps: i32,
    /// How many warnings there were.
    pub warnings: i32,
}

/// Names something that the daemon keeps, which [`Client::read_blob`] reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blob {
    /// What it is.
    pub media_type: String,
    /// Its digest.
    pub digest: String,
    /// Its size in bytes.
    pub size: i64,
    /// What else is known of it.
    pub annotations: BTreeMap<String, String>,
}

/// What a build made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// By its first exporter.
    pub first: Option<Blob>,
    /// What is attested of it.
    pub attestations: Vec<Blob>,
    /// By each exporter.
    pub by_exporter: BTreeMap<i64, Blob>,
}

impl Client {
    /// Asks for the builds that the daemon remembers, and for those that run.
    pub async fn builds(&self, filter: BuildFilter) -> Result<Vec<BuildRecord>, CallFailed> {
        let request = wire::BuildHistoryRequest {
            active_only: filter.active_only,
            r#ref: filter.build_ref,
            early_exit: true,
            filter: filter.filter,
            limit: filter.limit,
        };
        let answer = self.control().listen_build_history(request).await?;
        let mut events = answer.into_inner();
        let mut builds = Vec::new();
        while let Some(event) = events.message().await? {
            builds.extend(event.record.map(record));
        }
        Ok(builds)
    }

    /// Tells of builds as they begin, end and are forgotten, after those that there are. The first
    /// of a pair is `STARTED`, `COMPLETE` or `DELETED`.
    pub async fn follow_builds(
        &self,
        filter: BuildFilter,
    ) -> Result<impl Stream<Item = Result<(String, BuildRecord), CallFailed>> + use<>, CallFailed>
    {
        let request = wire::BuildHistoryRequest {
            active_only: filter.active_only,
            r#ref: filter.build_ref,
            early_exit: false,
            filter: filter.filter,
            limit: filter.limit,
        };
        let events = self.control().listen_build_history(request).await?;
        Ok(events.into_inner().map(|event| {
            let event = event?;
            let kind = event.r#type().as_str_name().to_owned();
            Ok((kind, record(event.record.unwrap_or_default())))
        }))
    }

    /// Tells `progress` of a build from its beginning to its end.
    pub async fn replay(
        &self,
        build_ref: &str,
        progress: mpsc::Sender<Progress>,
    ) -> Result<(), CallFailed> {
        let request = wire::StatusRequest {
            r#ref: build_ref.to_owned(),
        };
        let mut messages = self.control().status(request).await?.into_inner();
        while let Some(message) = messages.message().await? {
            if progress.send(message.into()).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Pins or unpins the record of a build.
    pub async fn pin_build(&self, build_ref: &str, pinned: bool) -> Result<(), CallFailed> {
        self.update_build(wire::UpdateBuildHistoryRequest {
            r#ref: build_ref.to_owned(),
            pinned,
            ..wire::UpdateBuildHistoryRequest::default()
        })
        .await
    }

    /// Has the daemon keep the trace of a build that ended, without waiting for more of it.
    pub async fn finalize_build(&self, build_ref: &str) -> Result<(), CallFailed> {
        self.update_build(wire::UpdateBuildHistoryRequest {
            r#ref: build_ref.to_owned(),
            finalize: true,
            ..wire::UpdateBuildHistoryRequest::default()
        })
        .await
    }

    /// Removes the record of a build.
    pub async fn delete_build(&self, build_ref: &str) -> Result<(), CallFailed> {
        self.update_build(wire::UpdateBuildHistoryRequest {
            r#ref: build_ref.to_owned(),
            delete: true,
            ..wire::UpdateBuildHistoryRequest::default()
        })
        .await
    }

    async fn update_build(
        &self,
        request: wire::UpdateBuildHistoryRequest,
    ) -> Result<(), CallFailed> {
        self.control().update_build_history(request).await?;
        Ok(())
    }

    /// The output of all steps of a build, from its beginning; goes on until the build has ended.
    pub async fn build_output(
        &self,
        build_ref: &str,
    ) -> Result<impl Stream<Item = Result<Vec<u8>, CallFailed>> + use<>, CallFailed> {
        let request = wire::StatusRequest {
            r#ref: build_ref.to_owned(),
        };
        let responses = self.control().status(request).await?.into_inner();
        Ok(responses.map(|response| {
            let logs = response?.logs.into_iter();
            Ok(logs.flat_map(|log| log.msg.to_vec()).collect())
        }))
    }

    /// Reads a blob that the daemon keeps: of a record, or of an image.
    pub async fn read_blob(&self, digest: &str) -> Result<Vec<u8>, CallFailed> {
        let request = ReadContentRequest {
            digest: digest.to_owned(),
            ..ReadContentRequest::default()
        };
        let mut client = ContentClient::new(self.channel());
        let mut parts = client.read(request).await?.into_inner();
        let mut blob = Vec::new();
        while let Some(part) = parts.message().await? {
            blob.extend_from_slice(&part.data);
        }
        Ok(blob)
    }
}

fn record(record: wire::BuildHistoryRecord) -> BuildRecord {
    let time = |time: Option<prost_types::Timestamp>| time.and_then(|time| time.try_into().ok());
    let results = record.result.iter().chain(record.results.values());
    let attestations = results.flat_map(|result| &result.attestations);
    let attestations = attestations.map(|descriptor| {
        let kind = descriptor.annotations.get("in-toto.io/predicate-type");
        (kind.cloned().unwrap_or_default(), descriptor.digest.clone())
    });
    let attestations = attestations.collect();
    let made_for = record.results.into_iter();
    let exporters = record.exporters.into_iter();
    let result = record.result.clone();
    let result = result.and_then(|result| result.result_deprecated);
    BuildRecord {
        build_ref: record.r#ref,
        frontend: record.frontend,
        created: time(record.created_at),
        completed: time(record.completed_at),
        error_code: record.error.as_ref().map_or(0, |error| error.code),
        error: record.error.map(|error| error.message).unwrap_or_default(),
        pinned: record.pinned,
        generation: record.generation,
        total_steps: record.num_total_steps,
        cached_steps: record.num_cached_steps,
        result: result
            .map(|descriptor| descriptor.digest)
            .unwrap_or_default(),
        attestations,
        attrs: record.frontend_attrs,
        exporters: exporters.map(|e| (e.r#type, e.attrs)).collect(),
        response: record.exporter_response,
        whole_error: record.external_error.map(blob),
        logs: record.logs.map(blob),
        trace: record.trace.map(blob),
        made: record.result.map(made),
        made_for: made_for.map(|(key, value)| (key, made(value))).collect(),
        completed_steps: record.num_completed_steps,
        warnings: record.num_warnings,
    }
}

fn blob(descriptor: wire::Descriptor) -> Blob {
    Blob {
        media_type: descriptor.media_type,
        digest: descriptor.digest,
        size: descriptor.size,
        annotations: descriptor.annotations,
    }
}

fn made(info: wire::BuildResultInfo) -> Made {
    let by_exporter = info.results.into_iter();
    Made {
        first: info.result_deprecated.map(blob),
        attestations: info.attestations.into_iter().map(blob).collect(),
        by_exporter: by_exporter.map(|(key, value)| (key, blob(value))).collect(),
    }
}
