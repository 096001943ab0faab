//! The calls of `Control` that need no session.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use futures::{Stream, StreamExt};
use proto::control::control_client::ControlClient;
use proto::control::{self as wire};
use rpc::MAX_MESSAGE_SIZE;
use rpc::address::Address;
use rpc::helper::Helper;
use rpc::tls::TlsFiles;
use tonic::transport::Channel;

use crate::{CallFailed, ConnectFailed};

/// A connection to a daemon.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

/// What a daemon says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Where its source is.
    pub package: String,
    /// Its version.
    pub version: String,
    /// The revision of its source.
    pub revision: String,
    /// The version of its built-in frontend.
    pub dockerfile: String,
}

/// One worker of a daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerRecord {
    /// Its id, the same for as long as its state exists.
    pub id: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it builds for, its own platform first.
    pub platforms: Vec<String>,
    /// The daemon's version.
    pub version: Version,
    /// When it throws away what is not used, in order.
    pub gc_policies: Vec<GcPolicy>,
    /// The devices that it has for steps.
    pub devices: Vec<Device>,
}

/// A device of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Whether builds need not be granted it.
    pub auto_allow: bool,
    /// What else is known of it.
    pub annotations: BTreeMap<String, String>,
    /// Whether it is made when it is first asked for.
    pub on_demand: bool,
}

/// What a worker throws away by itself; sizes in bytes, 0 for no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcPolicy {
    /// Also what is internal.
    pub all: bool,
    /// Only what matches.
    pub filters: Vec<String>,
    /// What was used in this time stays.
    pub keep_duration: Duration,
    /// This much stays always.
    pub reserved_space: i64,
    /// No more than this stays.
    pub max_used_space: i64,
    /// So much of the disk is to be free.
    pub min_free_space: i64,
}

/// One thing that a daemon keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageRecord {
    /// Its id.
    pub id: String,
    /// The ids of what it is based on.
    pub parents: Vec<String>,
    /// What it is, for people.
    pub description: String,
    /// What kind of thing it is, such as `regular` or `exec.cachemount`.
    pub record_type: String,
    /// Bytes on disk.
    pub size: i64,
    /// Whether something uses it now.
    pub in_use: bool,
    /// Whether an image uses it.
    pub shared: bool,
    /// Whether it can change.
    pub mutable: bool,
    /// How often it was used.
    pub usage_count: i64,
    /// When it was made.
    pub created: Option<SystemTime>,
    /// When it was last used.
    pub last_used: Option<SystemTime>,
}

/// What is to be thrown away. By default all that nothing uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// Only what matches, in containerd's filter language.
    pub filter: Vec<String>,
    /// Also what is internal or shared.
    pub all: bool,
    /// Keep what was used in this time.
    pub keep_duration: Duration,
    /// Bytes that are kept in any case.
    pub reserved_space: i64,
    /// Bytes that may be kept; 0 for no bound.
    pub max_used_space: i64,
    /// Bytes to leave free on the disk.
    pub min_free_space: i64,
}

impl Client {
    /// Connects to `address`: `unix://<path>`, `tcp://<host>:<port>`, or one of those that are reached
    /// through a program, such as `docker-container://<name>` and `ssh://<host>`.
    pub async fn connect(address: &str) -> Result<Client, ConnectFailed> {
        Client::connect_with(address, None).await
    }

    /// The same, with TLS where the files for it are given.
    pub async fn connect_with(
        address: &str,
        tls: Option<&TlsFiles>,
    ) -> Result<Client, ConnectFailed> {
        if let Some(helper) = Helper::of(address)? {
            let channel = rpc::connect::connect_through(&helper).await;
            let through = |source| ConnectFailed::Through {
                address: address.to_owned(),
                source,
            };
            return Ok(Client {
                channel: channel.map_err(through)?,
            });
        }
        let parsed: Address = address.parse().map_err(|source| ConnectFailed::Address {
            address: address.to_owned(),
            source,
        })?;
        Ok(Client {
            channel: rpc::connect::connect(&parsed, tls).await?,
        })
    }

    /// The connection, for the calls of [`crate::containers`].
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Asks for the daemon's version.
    pub async fn info(&self) -> Result<Version, CallFailed> {
        let response = self
            .control()
            .info(wire::InfoRequest {})
            .await?
            .into_inner();
        Ok(version(response.buildkit_version))
    }

    /// Asks for the daemon's workers, the one that builds first.
    pub async fn list_workers(&self) -> Result<Vec<WorkerRecord>, CallFailed> {
        self.list_workers_matching(Vec::new()).await
    }

    /// The same; only what matches `filter`, in containerd's filter language.
    pub async fn list_workers_matching(
        &self,
        filter: Vec<String>,
    ) -> Result<Vec<WorkerRecord>, CallFailed> {
        let request = wire::ListWorkersRequest { filter };
        let response = self.control().list_workers(request).await?.into_inner();
        Ok(response.record.into_iter().map(worker).collect())
    }

    /// Asks what is kept; only what matches `filter`, in containerd's filter language.
    pub async fn disk_usage(&self, filter: Vec<String>) -> Result<Vec<UsageRecord>, CallFailed> {
        let request = wire::DiskUsageRequest {
            filter,
            ..wire::DiskUsageRequest::default()
        };
        let response = self.control().disk_usage(request).await?.into_inner();
        Ok(response.record.into_iter().map(usage).collect())
    }

    /// Throws away what `options` allow. The stream tells what, and ends when all is done.
    pub async fn prune(
        &self,
        options: PruneOptions,
    ) -> Result<impl Stream<Item = Result<UsageRecord, CallFailed>> + use<>, CallFailed> {
        let request = wire::PruneRequest {
            filter: options.filter,
            all: options.all,
            keep_duration: i64::try_from(options.keep_duration.as_nanos()).unwrap_or(i64::MAX),
            reserved_space: options.reserved_space,
            max_used_space: options.max_used_space,
            min_free_space: options.min_free_space,
        };
        let records = self.control().prune(request).await?.into_inner();
        Ok(records.map(|record| Ok(usage(record?))))
    }

    pub(crate) fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel())
            .max_decoding_message_size(MAX_MESSAGE_SIZE)
            .max_encoding_message_size(MAX_MESSAGE_SIZE)
    }
}

fn worker(record: proto::types::WorkerRecord) -> WorkerRecord {
    let platform = |platform: proto::pb::Platform| {
        oci::Platform {
            os: platform.os,
            architecture: platform.architecture,
            variant: platform.variant,
            ..oci::Platform::default()
        }
        .to_string()
    };
    WorkerRecord {
        id: record.id,
        labels: record.labels,
        platforms: record.platforms.into_iter().map(platform).collect(),
        version: version(record.buildkit_version),
        gc_policies: record.gc_policy.into_iter().map(gc_policy).collect(),
        devices: record.cdi_devices.into_iter().map(device).collect(),
    }
}

fn version(version: Option<proto::types::BuildkitVersion>) -> Version {
    let version = version.unwrap_or_default();
    Version {
        package: version.package,
        version: version.version,
        revision: version.revision,
        dockerfile: version.dockerfile_version,
    }
}

fn device(device: proto::types::CdiDevice) -> Device {
    Device {
        name: device.name,
        auto_allow: device.auto_allow,
        annotations: device.annotations,
        on_demand: device.on_demand,
    }
}

fn gc_policy(policy: proto::types::GcPolicy) -> GcPolicy {
    GcPolicy {
        all: policy.all,
        filters: policy.filters,
        keep_duration: Duration::from_nanos(u64::try_from(policy.keep_duration).unwrap_or(0)),
        reserved_space: policy.reserved_space,
        max_used_space: policy.max_used_space,
        min_free_space: policy.min_free_space,
    }
}

fn usage(record: wire::UsageRecord) -> UsageRecord {
    let time = |time: Option<prost_types::Timestamp>| time.and_then(|time| time.try_into().ok());
    UsageRecord {
        id: record.id,
        parents: record.parents,
        description: record.description,
        record_type: record.record_type,
        size: record.size,
        in_use: record.in_use,
        shared: record.shared,
        mutable: record.mutable,
        usage_count: record.usage_count,
        created: time(record.created_at),
        last_used: time(record.last_used_at),
    }
}
