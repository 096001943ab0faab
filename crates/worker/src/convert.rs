//! Wire messages to checked types and back.

use oci::Platform;
use proto::worker as wire;

pub(crate) fn platform(platform: wire::Platform) -> Platform {
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

pub(crate) fn selector(selector: wire::Selector) -> fstree::checksum::Selector {
    fstree::checksum::Selector {
        path: selector.path,
        wildcard: selector.wildcard,
        follow_links: selector.follow_links,
        include: selector.include,
        exclude: selector.exclude,
        required: selector.required,
    }
}

pub(crate) fn usage(record: refs::UsageRecord) -> wire::UsageRecord {
    wire::UsageRecord {
        id: record.id,
        mutable: record.mutable,
        in_use: record.in_use,
        size: i64::try_from(record.size).unwrap_or(i64::MAX),
        parents: record.parents,
        created: Some(record.created.into()),
        last_used: record.last_used.map(Into::into),
        usage_count: i64::try_from(record.usage_count).unwrap_or(i64::MAX),
        description: record.description,
        record_type: record.record_type.as_str().to_owned(),
        shared: record.shared,
    }
}

pub(crate) fn gc_policy(policy: &refs::PruneOptions) -> wire::GcPolicy {
    let bytes = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    wire::GcPolicy {
        all: policy.all,
        keep_duration_ns: i64::try_from(policy.keep_duration.as_nanos()).unwrap_or(i64::MAX),
        reserved_space: bytes(policy.reserved_space),
        filters: policy.filter.clone(),
        max_used_space: bytes(policy.max_used_space),
        min_free_space: bytes(policy.min_free_space),
    }
}
