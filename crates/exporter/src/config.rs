//! The image config as it is exported: layers filled in, history aligned, times clamped.

use std::collections::BTreeMap;

use oci::{ConfigDetails, Digest, History, ImageConfig, Platform};
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::ConfigError;

/// The default `PATH` of an image that nobody configured.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The key that carries the inline build cache.
const INLINE_CACHE: &str = "moby.buildkit.cache.v0";

/// What is known of a layer beside its bytes.
#[derive(Clone, Debug)]
pub(crate) struct LayerFacts {
    pub(crate) diff_id: Digest,
    /// How it came to be, for history that the frontend did not write.
    pub(crate) description: String,
    pub(crate) created: Option<OffsetDateTime>,
}

/// What a config is made from.
pub(crate) struct ConfigInput<'a> {
    /// The frontend's config; empty for the default one.
    pub(crate) config: &'a [u8],
    /// The config of the base image, or empty.
    pub(crate) base: &'a [u8],
    pub(crate) platform: &'a Platform,
    /// Lowest first.
    pub(crate) layers: &'a [LayerFacts],
    pub(crate) epoch: Option<OffsetDateTime>,
    /// The inline build cache, as it stands in the config.
    pub(crate) inline_cache: Option<Value>,
}

/// Makes the config blob.
///
/// Keys that this program does not know are kept. Keys are sorted, so equal input gives equal
/// bytes.
pub(crate) fn finish(input: &ConfigInput<'_>) -> Result<Vec<u8>, ConfigError> {
    let default;
    let config = if input.config.is_empty() {
        default = default_config(input.platform)?;
        &default
    } else {
        input.config
    };
    let mut keys: BTreeMap<String, Value> =
        serde_json::from_slice(config).map_err(ConfigError::Parse)?;
    for key in ["os", "architecture"] {
        if keys
            .get(key)
            .and_then(Value::as_str)
            .is_none_or(str::is_empty)
        {
            return Err(ConfigError::Missing(key));
        }
    }
    let base = history_of(input.base)?;
    let history = align(history_of(config)?, input.layers)?;
    let history = match input.epoch {
        Some(epoch) => clamp(history, &base, epoch)?,
        None => history,
    };
    let diff_ids: Vec<Digest> = input.layers.iter().map(|layer| layer.diff_id).collect();
    let rootfs = serde_json::json!({ "type": "layers", "diff_ids": diff_ids });
    keys.insert("rootfs".to_owned(), rootfs);
    set_created(&mut keys, &history, input.epoch)?;
    // BuildKit's word for no history; the same image has the same digest.
    let history = match history.is_empty() {
        true => Value::Null,
        false => serde_json::to_value(history).map_err(ConfigError::Write)?,
    };
    keys.insert("history".to_owned(), history);
    if let Some(cache) = &input.inline_cache {
        keys.insert(INLINE_CACHE.to_owned(), cache.clone());
    }
    serde_json::to_vec(&keys).map_err(ConfigError::Write)
}

/// The config of a result whose frontend gave none.
fn default_config(platform: &Platform) -> Result<Vec<u8>, ConfigError> {
    let config = ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
        variant: platform.variant.clone(),
        config: ConfigDetails {
            working_dir: "/".to_owned(),
            env: vec![DEFAULT_PATH.to_owned()],
            ..ConfigDetails::default()
        },
        ..ImageConfig::default()
    };
    serde_json::to_vec(&config).map_err(ConfigError::Write)
}

fn history_of(config: &[u8]) -> Result<Vec<History>, ConfigError> {
    #[derive(Deserialize)]
    struct Only {
        #[serde(default)]
        history: Option<Vec<History>>,
    }
    if config.is_empty() {
        return Ok(Vec::new());
    }
    let only: Only = serde_json::from_slice(config).map_err(ConfigError::Parse)?;
    Ok(only.history.unwrap_or_default())
}

/// Makes the entries with a layer as many as there are layers, and gives each entry a time.
fn align(mut history: Vec<History>, layers: &[LayerFacts]) -> Result<Vec<History>, ConfigError> {
    let mut entries = 0;
    for entry in &mut history {
        // More entries than layers should not be; the surplus says that it made none.
        entry.empty_layer |= entries == layers.len();
        entries += usize::from(!entry.empty_layer);
    }
    for layer in &layers[entries..] {
        history.push(History {
            created: layer.created.map(text).transpose()?,
            created_by: layer.description.clone(),
            comment: "buildkit.exporter.image.v0".to_owned(),
            ..History::default()
        });
    }
    let with_layer = history.iter_mut().filter(|entry| !entry.empty_layer);
    for (entry, layer) in with_layer.zip(layers) {
        if entry.created.is_none() {
            entry.created = layer.created.map(text).transpose()?;
        }
    }
    fill_times(&mut history);
    Ok(history)
}

/// An entry without a time gets that of the first new layer, or of the entry before it: else a
/// command right after the base image would seem as old as the base image.
fn fill_times(history: &mut [History]) {
    let first_missing = history.iter().position(|entry| entry.created.is_none());
    let Some(first_missing) = first_missing else {
        return;
    };
    let (before, after) = history.split_at(first_missing);
    let later = after.iter().find_map(|entry| entry.created.clone());
    let mut time = later.or_else(|| before.last().and_then(|entry| entry.created.clone()));
    for entry in &mut history[first_missing..] {
        match &entry.created {
            Some(own) => time = Some(own.clone()),
            None => entry.created.clone_from(&time),
        }
    }
}

/// Clamps the times of the entries that are not those of the base image.
fn clamp(
    mut history: Vec<History>,
    base: &[History],
    epoch: OffsetDateTime,
) -> Result<Vec<History>, ConfigError> {
    let same = history
        .iter()
        .zip(base)
        .take_while(|(entry, base)| entry == base)
        .count();
    for entry in &mut history[same..] {
        let time = entry.created.as_deref().map(parse_time).transpose()?;
        if time.is_none_or(|time| time > epoch) {
            entry.created = Some(text(epoch)?);
        }
    }
    Ok(history)
}

fn set_created(
    keys: &mut BTreeMap<String, Value>,
    history: &[History],
    epoch: Option<OffsetDateTime>,
) -> Result<(), ConfigError> {
    let created = keys.get("created").and_then(Value::as_str);
    let value = match (created, epoch) {
        (Some(created), Some(epoch)) if parse_time(created)? > epoch => Some(text(epoch)?),
        (Some(_), _) => return Ok(()),
        (None, _) => history.iter().rev().find_map(|entry| entry.created.clone()),
    };
    match value {
        Some(value) => keys.insert("created".to_owned(), Value::String(value)),
        None => keys.remove("created"),
    };
    Ok(())
}

/// Reads a time of a config.
pub(crate) fn parse_time(value: &str) -> Result<OffsetDateTime, ConfigError> {
    OffsetDateTime::parse(value, &Rfc3339).map_err(|source| ConfigError::Time {
        value: value.to_owned(),
        source,
    })
}

/// `time` in RFC 3339, as all times of a config.
pub(crate) fn text(time: OffsetDateTime) -> Result<String, ConfigError> {
    time.to_offset(time::UtcOffset::UTC)
        .format(&Rfc3339)
        .map_err(ConfigError::Format)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(seconds).unwrap()
    }

    fn layer(n: i64) -> LayerFacts {
        LayerFacts {
            diff_id: Digest::of(n.to_string()),
            description: format!("layer {n}"),
            created: Some(at(n)),
        }
    }

    fn made(config: &str, base: &str, layers: &[LayerFacts], epoch: Option<i64>) -> Value {
        let bytes = finish(&ConfigInput {
            config: config.as_bytes(),
            base: base.as_bytes(),
            platform: &"linux/arm64".parse().unwrap(),
            layers,
            epoch: epoch.map(at),
            inline_cache: None,
        })
        .unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn without_a_config_there_is_a_default_one() {
        let config = made("", "", &[layer(1)], None);
        assert_eq!(config["architecture"], "arm64");
        assert_eq!(config["config"]["WorkingDir"], "/");
        assert_eq!(config["created"], "1970-01-01T00:00:01Z");
        assert_eq!(config["history"][0]["created_by"], "layer 1");
        assert_eq!(config["rootfs"]["diff_ids"][0], Digest::of("1").to_string());
    }

    #[test]
    fn history_has_as_many_layers_as_there_are() {
        let config = r#"{"os":"linux","architecture":"arm64","keep":[1],"history":[
            {"created":"2020-01-01T00:00:00Z","created_by":"base"},
            {"created_by":"ENV","empty_layer":true},
            {"created_by":"RUN"}]}"#;
        let made_two = made(config, "", &[layer(1), layer(2)], None);
        assert_eq!(made_two["keep"][0], 1);
        assert_eq!(made_two["history"][1]["created"], "1970-01-01T00:00:02Z");
        assert_eq!(made_two["history"][2]["created"], "1970-01-01T00:00:02Z");
        assert_eq!(made_two["created"], "1970-01-01T00:00:02Z");

        let more = made(config, "", &[layer(1), layer(2), layer(3)], None);
        assert_eq!(more["history"][3]["created_by"], "layer 3");
        assert_eq!(more["history"][3]["comment"], "buildkit.exporter.image.v0");

        let fewer = made(config, "", &[layer(1)], None);
        assert_eq!(fewer["history"][2]["empty_layer"], true);
    }

    #[test]
    fn times_are_clamped_but_not_those_of_the_base() {
        let base = r#"{"history":[{"created":"2030-01-01T00:00:00Z","created_by":"base"}]}"#;
        let config = r#"{"os":"linux","architecture":"arm64","created":"2030-01-01T00:00:00Z",
            "history":[{"created":"2030-01-01T00:00:00Z","created_by":"base"},
            {"created":"2030-01-01T00:00:00Z","created_by":"RUN"}]}"#;
        let made = made(config, base, &[layer(1), layer(2)], Some(100));
        assert_eq!(made["history"][0]["created"], "2030-01-01T00:00:00Z");
        assert_eq!(made["history"][1]["created"], "1970-01-01T00:01:40Z");
        assert_eq!(made["created"], "1970-01-01T00:01:40Z");
    }

    #[test]
    fn a_config_without_platform_is_refused() {
        let input = ConfigInput {
            config: b"{\"os\":\"linux\"}",
            base: b"",
            platform: &Platform::host(),
            layers: &[],
            epoch: None,
            inline_cache: None,
        };
        let error = finish(&input).unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid image config for export: missing architecture"
        );
    }
}
