//! What is known, as a config.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use oci::Digest;
use time::format_description::well_known::Rfc3339;

use super::config::{Chained, Config, Input, Layer, Outcome, Record};
use super::{Chain, Entry, KEY, MAX_DEPTH, OUTPUT, WriteError};

/// The config that carries `entries`. Equal entries give equal bytes, in whatever order they come.
///
/// # Errors
/// When a time is out of all range.
pub fn encode(entries: &[Entry]) -> Result<Vec<u8>, WriteError> {
    let mut layers = Layers::default();
    let records = records(entries, |chain, record| {
        if let Some(layer) = layers.add(&chain.blobs) {
            record.layers.push(Outcome {
                layer,
                created_at: text(chain)?,
            });
        }
        Ok(())
    })?;
    let config = Config {
        layers: layers.all,
        records,
    };
    Ok(serde_json::to_vec(&config)?)
}

/// The records of `entries` for the config of an image with the layers `image`; `None` when no
/// result is made of these. A chain holds layers of the image by any name that `image` uses.
///
/// # Errors
/// When a time is out of all range.
pub fn encode_inline(entries: &[Entry], image: &[Digest]) -> Result<Option<Vec<u8>>, WriteError> {
    let mut found = false;
    let records = records(entries, |chain, record| {
        let places: Option<Vec<i64>> = chain
            .blobs
            .iter()
            .map(|blob| number(image.iter().position(|layer| layer == blob)?))
            .collect();
        let Some(places) = places.filter(|places| !places.is_empty()) else {
            return Ok(());
        };
        found = true;
        let created_at = text(chain)?;
        let is_base = (0..).zip(&places).all(|(at, place)| at == *place);
        match places.last() {
            // Named by its top layer: all of the image below it belongs to it.
            Some(layer) if is_base => record.layers.push(Outcome {
                layer: *layer,
                created_at,
            }),
            Some(_) | None => record.chains.push(Chained {
                layers: places,
                created_at,
            }),
        }
        Ok(())
    })?;
    Ok(found.then(|| serde_json::to_vec(&records)).transpose()?)
}

fn number(at: usize) -> Option<i64> {
    i64::try_from(at).ok()
}

fn text(chain: &Chain) -> Result<String, WriteError> {
    Ok(chain.created.format(&Rfc3339)?)
}

/// The layers of a config: each chain once, whoever ends with it.
#[derive(Default)]
struct Layers {
    all: Vec<Layer>,
    by_chain: HashMap<(i64, Digest), i64>,
}

impl Layers {
    /// The number of the top layer of a chain.
    fn add(&mut self, blobs: &[Digest]) -> Option<i64> {
        let mut parent = -1;
        for blob in blobs {
            let all = &mut self.all;
            parent = *self.by_chain.entry((parent, *blob)).or_insert_with(|| {
                all.push(Layer {
                    blob: blob.to_string(),
                    parent,
                });
                number(all.len() - 1).unwrap_or(i64::MAX)
            });
        }
        Some(parent).filter(|top| *top >= 0)
    }
}

/// The records of all entries: first those of the keys, each before what names it.
fn records(
    entries: &[Entry],
    mut add: impl FnMut(&Chain, &mut Record) -> Result<(), WriteError>,
) -> Result<Vec<Record>, WriteError> {
    let mut sorted: BTreeMap<Digest, (BTreeSet<Digest>, BTreeMap<Digest, &Chain>)> =
        BTreeMap::new();
    for entry in entries {
        let (keys, results) = sorted.entry(entry.id).or_default();
        keys.extend(&entry.keys);
        // An id whose key it is itself is found by it.
        if entry.keys.is_empty() {
            keys.insert(entry.id);
        }
        // A reader would refuse the whole for one that is too deep.
        let readable = |chain: &Chain| chain.blobs.len() <= MAX_DEPTH;
        for (output, chain) in entry.results.iter().filter(|(_, chain)| readable(chain)) {
            results.entry(*output).or_insert(chain);
        }
    }
    let keys: BTreeSet<Digest> = sorted
        .values()
        .flat_map(|(keys, _)| keys)
        .copied()
        .collect();
    let mut all: Vec<Record> = keys.iter().map(|key| record(*key)).collect();
    let link = |key: &Digest| number(keys.range(..key).count()).unwrap_or(i64::MAX);
    let links: HashMap<Digest, i64> = keys.iter().map(|key| (*key, link(key))).collect();
    for (id, (keys, results)) in &sorted {
        let of = |key: &Digest| Input {
            selector: KEY.to_owned(),
            link: links.get(key).copied().unwrap_or(i64::MAX),
        };
        let mut own = record(*id);
        own.inputs.push(keys.iter().map(of).collect());
        let at = number(all.len()).unwrap_or(i64::MAX);
        if let Some(chain) = results.get(id) {
            add(chain, &mut own)?;
        }
        all.push(own);
        for (output, chain) in results.iter().filter(|(output, _)| *output != id) {
            let mut other = record(*output);
            other.inputs.push(vec![Input {
                selector: OUTPUT.to_owned(),
                link: at,
            }]);
            add(chain, &mut other)?;
            all.push(other);
        }
    }
    Ok(all)
}

pub(super) fn record(digest: Digest) -> Record {
    Record {
        digest: digest.to_string(),
        ..Record::default()
    }
}
