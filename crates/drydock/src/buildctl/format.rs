//! The daemon's answers as templates see them: under the names that they have in BuildKit's Go client.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use client::history::{Blob, BuildRecord, Made};
use client::{Device, GcPolicy, UsageRecord, Version, WorkerRecord};
use oci::Platform;

use super::usage::time_of_go;
use crate::template::{Template, Value, fields};

/// How answers are printed instead of as tables.
#[derive(Debug, clap::Args)]
pub(super) struct Format {
    /// Print with a Go template, such as `{{json .}}`.
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
}

impl Format {
    /// The template, if one is given.
    pub(super) fn template(&self) -> anyhow::Result<Option<Template>> {
        let given = self.format.as_deref().filter(|text| !text.is_empty());
        let template = given.map(Template::parse).transpose();
        template.context("failed to read the template")
    }
}

/// Prints what a template says of a value, and ends the line.
pub(super) fn print(template: &Template, value: &Value) -> anyhow::Result<()> {
    let text = template.apply(value);
    println!("{}", text.context("failed to apply the template")?);
    Ok(())
}

pub(super) fn usage(record: &UsageRecord) -> Value {
    fields! {
        "ID" "id": &record.id,
        "Mutable" "mutable": record.mutable,
        "InUse" "inUse": record.in_use,
        "Size" "size": record.size,
        "CreatedAt" "createdAt": time(record.created.unwrap_or(UNIX_EPOCH)),
        "LastUsedAt" "lastUsedAt": record.last_used.map(time),
        "UsageCount" "usageCount": record.usage_count,
        "Parents" "parents": &record.parents,
        "Description" "description": &record.description,
        "RecordType" "recordType": &record.record_type,
        "Shared" "shared": record.shared,
    }
}

pub(super) fn info(version: &Version) -> Value {
    fields! { "BuildkitVersion" "buildkitVersion": self::version(version) }
}

fn version(version: &Version) -> Value {
    fields! {
        "Package" "package": &version.package,
        "Version" "version": &version.version,
        "Revision" "revision": &version.revision,
        "DockerfileVersion" "dockerfileVersion" ? &version.dockerfile,
    }
}

pub(super) fn worker(worker: &WorkerRecord) -> Value {
    let platforms = worker.platforms.iter().filter_map(|text| text.parse().ok());
    fields! {
        "ID" "id": &worker.id,
        "Labels" "labels": &worker.labels,
        "Platforms" "platforms": list(platforms.map(|p| platform(&p))),
        "GCPolicy" "gcPolicy": list(worker.gc_policies.iter().map(rule)),
        "BuildkitVersion" "buildkitVersion": version(&worker.version),
        "CDIDevices" "cdiDevices": list(worker.devices.iter().map(device)),
    }
}

fn platform(platform: &Platform) -> Value {
    fields! {
        "Architecture" "architecture": &platform.architecture,
        "OS" "os": &platform.os,
        "OSVersion" "os.version" ? &platform.os_version,
        "OSFeatures" "os.features" ? &platform.os_features,
        "Variant" "variant" ? &platform.variant,
    }
}

fn rule(policy: &GcPolicy) -> Value {
    let nanoseconds = i64::try_from(policy.keep_duration.as_nanos());
    fields! {
        "All" "all": policy.all,
        "Filter" "filter": &policy.filters,
        "KeepDuration" "keepDuration": nanoseconds.unwrap_or(i64::MAX),
        "ReservedSpace" "reservedSpace": policy.reserved_space,
        "MaxUsedSpace" "maxUsedSpace": policy.max_used_space,
        "MinFreeSpace" "minFreeSpace": policy.min_free_space,
    }
}

fn device(device: &Device) -> Value {
    fields! {
        "Name" "name": &device.name,
        "AutoAllow" "autoAllow": device.auto_allow,
        "Annotations" "annotations": &device.annotations,
        "OnDemand" "onDemand": device.on_demand,
    }
}

/// An event of the history; a record that is listed is told as one, too.
pub(super) fn event(record: &BuildRecord) -> Value {
    let (number, name) = match record.completed {
        Some(_) => (1, "COMPLETE"),
        None => (0, "STARTED"),
    };
    fields! {
        "Type" "type" ? Value::Named(number, name.to_owned()),
        "Record" "record" ? self::record(record),
    }
}

fn record(record: &BuildRecord) -> Value {
    let exporters = record.exporters.iter().map(|(kind, attrs)| {
        fields! { "Type" "Type" ? kind, "Attrs" "Attrs" ? attrs }
    });
    let failed = !record.error.is_empty() || record.error_code != 0;
    let error = failed.then(|| {
        fields! {
            "Code" "code" ? record.error_code,
            "Message" "message" ? &record.error,
        }
    });
    let made_for = record.made_for.iter();
    let made_for: BTreeMap<_, _> = made_for
        .map(|(key, made)| (key.clone(), self::made(made)))
        .collect();
    fields! {
        "Ref" "Ref" ? &record.build_ref,
        "Frontend" "Frontend" ? &record.frontend,
        "FrontendAttrs" "FrontendAttrs" ? &record.attrs,
        "Exporters" "Exporters" ? list(exporters),
        "Error" "error" ? error,
        "CreatedAt" "CreatedAt" ? record.created.map(stamp),
        "CompletedAt" "CompletedAt" ? record.completed.map(stamp),
        "Logs" "logs" ? record.logs.as_ref().map(blob),
        "ExporterResponse" "ExporterResponse" ? &record.response,
        "Result" "Result" ? record.made.as_ref().map(made),
        "Results" "Results" ? map(made_for),
        "Generation" "Generation" ? record.generation,
        "Trace" "trace" ? record.trace.as_ref().map(blob),
        "Pinned" "pinned" ? record.pinned,
        "NumCachedSteps" "numCachedSteps" ? record.cached_steps,
        "NumTotalSteps" "numTotalSteps" ? record.total_steps,
        "NumCompletedSteps" "numCompletedSteps" ? record.completed_steps,
        "ExternalError" "externalError" ? record.whole_error.as_ref().map(blob),
        "NumWarnings" "numWarnings" ? record.warnings,
    }
}

fn made(made: &Made) -> Value {
    let results = made.by_exporter.iter();
    let results = results.map(|(index, made)| (index.to_string(), blob(made)));
    fields! {
        "ResultDeprecated" "ResultDeprecated" ? made.first.as_ref().map(blob),
        "Attestations" "Attestations" ? list(made.attestations.iter().map(blob)),
        "Results" "Results" ? map(results.collect()),
    }
}

fn blob(blob: &Blob) -> Value {
    fields! {
        "MediaType" "media_type" ? &blob.media_type,
        "Digest" "digest" ? &blob.digest,
        "Size" "size" ? blob.size,
        "Annotations" "annotations" ? &blob.annotations,
    }
}

/// No list at all if there is nothing in it.
pub(super) fn list(items: impl Iterator<Item = Value>) -> Value {
    let items: Vec<Value> = items.collect();
    match items.is_empty() {
        true => Value::Null,
        false => Value::List(items),
    }
}

fn map(pairs: BTreeMap<String, Value>) -> Value {
    match pairs.is_empty() {
        true => Value::Null,
        false => Value::Map(pairs),
    }
}

/// A time as Go's `time.Time`.
fn time(time: SystemTime) -> Value {
    use time::format_description::well_known::Rfc3339;
    let json = time::OffsetDateTime::from(time).format(&Rfc3339);
    Value::Time {
        json: json.unwrap_or_default(),
        text: time_of_go(Some(time)),
    }
}

/// A time as protobuf's message.
fn stamp(time: SystemTime) -> Value {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    fields! {
        "Seconds" "seconds" ? seconds,
        "Nanos" "nanos" ? i64::from(since.subsec_nanos()),
    }
}
