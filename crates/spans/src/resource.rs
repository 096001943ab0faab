//! Who the daemon says it is.

use proto::resource::Resource;
use proto::telemetry::{InstrumentationScope, KeyValue};

use crate::span::text;

/// The most attributes that are read from the environment.
const MAX_ATTRIBUTES: usize = 128;

/// A process that makes spans, and the part of it that does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Maker {
    pub(crate) resource: Resource,
    pub(crate) scope: InstrumentationScope,
}

impl Maker {
    /// This process, called `program`; `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say it
    /// otherwise.
    pub(crate) fn this(program: &str, variable: impl Fn(&str) -> Option<String>) -> Maker {
        let mut attributes = vec![
            text("service.name", program.to_owned()),
            text("telemetry.sdk.language", "rust".to_owned()),
            text("telemetry.sdk.name", "drydock".to_owned()),
            text(
                "telemetry.sdk.version",
                env!("CARGO_PKG_VERSION").to_owned(),
            ),
        ];
        let given = variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        for (key, value) in pairs(&given).take(MAX_ATTRIBUTES) {
            set(&mut attributes, text(&key, value));
        }
        if let Some(name) = variable("OTEL_SERVICE_NAME").filter(|name| !name.is_empty()) {
            set(&mut attributes, text("service.name", name));
        }
        attributes.sort_by(|a, b| a.key.cmp(&b.key));
        Maker {
            resource: Resource {
                attributes,
                dropped_attributes_count: 0,
            },
            scope: InstrumentationScope {
                name: "drydock".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ..InstrumentationScope::default()
            },
        }
    }
}

fn set(attributes: &mut Vec<KeyValue>, attribute: KeyValue) {
    attributes.retain(|other| other.key != attribute.key);
    attributes.push(attribute);
}

/// `key=value` pairs of a list with commas, as the environment gives them: what is not plain is escaped
/// as in URLs. What is no pair is passed over.
pub(crate) fn pairs(list: &str) -> impl Iterator<Item = (String, String)> {
    list.split(',').filter_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        let key = key.trim();
        (!key.is_empty()).then(|| (unescape(key), unescape(value.trim())))
    })
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let mut byte = [0];
        match after.get(..2) {
            Some(digits) if first == b'%' && hex::decode_to_slice(digits, &mut byte).is_ok() => {
                bytes.push(byte[0]);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(maker: &Maker, key: &str) -> String {
        let found = maker.resource.attributes.iter().filter(|a| a.key == key);
        format!("{:?}", found.collect::<Vec<_>>())
    }

    #[test]
    fn the_environment_says_who_it_is() {
        let maker = Maker::this("drydockd", |_| None);
        assert!(value(&maker, "service.name").contains("drydockd"));
        let variable = |name: &str| match name {
            "OTEL_RESOURCE_ATTRIBUTES" => Some("service.name=a,host=b%20c,broken".to_owned()),
            _ => None,
        };
        let maker = Maker::this("drydockd", variable);
        assert!(value(&maker, "service.name").contains("\"a\""));
        assert!(value(&maker, "host").contains("b c"));
        let maker = Maker::this("drydockd", |name| match name {
            "OTEL_SERVICE_NAME" => Some("d".to_owned()),
            name => variable(name),
        });
        assert!(value(&maker, "service.name").contains("\"d\""));
    }
}
