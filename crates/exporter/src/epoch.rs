//! The time that an export is clamped to (`SOURCE_DATE_EPOCH`).

use std::collections::BTreeMap;

use time::OffsetDateTime;

use crate::error::OptionError;

/// The exporter attribute.
pub(crate) const ATTR: &str = "source-date-epoch";
/// The key under which a frontend gives one, alone or with `/<platform>`.
const METADATA: &str = "source.date.epoch";

/// What the client says about the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Epoch {
    /// Nothing: the frontend may give one.
    #[default]
    Unset,
    /// None, whatever the frontend gives.
    Off,
    /// This one.
    At(OffsetDateTime),
}

impl Epoch {
    pub(crate) fn parse(value: &str) -> Result<Epoch, OptionError> {
        Ok(seconds(ATTR, value)?.map_or(Epoch::Off, Epoch::At))
    }

    /// The time for the platform `key` (`""` for a single result), with what the frontend says.
    pub(crate) fn of(
        self,
        key: &str,
        metadata: &BTreeMap<String, Vec<u8>>,
    ) -> Result<Option<OffsetDateTime>, OptionError> {
        match self {
            Epoch::Off => Ok(None),
            Epoch::At(time) => Ok(Some(time)),
            Epoch::Unset => {
                let of_platform = metadata.get(&format!("{METADATA}/{key}"));
                match of_platform.or_else(|| metadata.get(METADATA)) {
                    Some(value) => seconds(METADATA, &String::from_utf8_lossy(value)),
                    None => Ok(None),
                }
            }
        }
    }
}

fn seconds(key: &str, value: &str) -> Result<Option<OffsetDateTime>, OptionError> {
    if value.is_empty() {
        return Ok(None);
    }
    let invalid = || OptionError::Epoch {
        key: key.to_owned(),
        value: value.to_owned(),
    };
    let seconds: i64 = value.parse().map_err(|_| invalid())?;
    OffsetDateTime::from_unix_timestamp(seconds)
        .map(Some)
        .map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_has_the_last_word() {
        let at = |s| OffsetDateTime::from_unix_timestamp(s).unwrap();
        let metadata = BTreeMap::from([
            ("source.date.epoch".to_owned(), b"5".to_vec()),
            ("source.date.epoch/linux/arm64".to_owned(), b"6".to_vec()),
        ]);
        let of = |text: Option<&str>, key: &str| {
            text.map_or(Epoch::Unset, |t| Epoch::parse(t).unwrap())
                .of(key, &metadata)
                .unwrap()
        };
        assert_eq!(of(None, ""), Some(at(5)));
        assert_eq!(of(None, "linux/arm64"), Some(at(6)));
        assert_eq!(of(Some(""), ""), None);
        assert_eq!(of(Some("7"), "linux/arm64"), Some(at(7)));
        assert!(Epoch::parse("yesterday").is_err());
    }
}
