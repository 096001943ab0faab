//! Disk usage and pruning on the wire.

use std::time::Duration;

use proto::control as wire;
use worker_client::{GcPolicy, UsageRecord, WorkerError};

pub(crate) fn record(record: UsageRecord) -> wire::UsageRecord {
    wire::UsageRecord {
        id: record.id,
        mutable: record.mutable,
        in_use: record.in_use,
        size: record.size,
        created_at: record.created.map(Into::into),
        last_used_at: record.last_used.map(Into::into),
        usage_count: record.usage_count,
        description: record.description,
        record_type: record.record_type,
        shared: record.shared,
        parents: record.parents,
        ..wire::UsageRecord::default()
    }
}

/// What a client wants thrown away.
pub(crate) fn policy(request: wire::PruneRequest) -> GcPolicy {
    GcPolicy {
        all: request.all,
        keep_duration: duration(request.keep_duration),
        reserved_space: request.reserved_space,
        filters: request.filter,
        max_used_space: request.max_used_space,
        min_free_space: request.min_free_space,
    }
}

/// Nanoseconds of the wire; negative ones are none.
pub(crate) fn duration(nanoseconds: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
}

/// A worker's refusal.
pub(crate) fn failure(error: &WorkerError) -> tonic::Status {
    tonic::Status::unknown(&error.message)
}
