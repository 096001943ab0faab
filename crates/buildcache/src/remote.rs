//! The config of a build cache that travels: BuildKit's `application/vnd.buildkit.cacheconfig.v0`.
//!
//! The format is a graph of records by digest with chains of layers as their results. Which digests
//! are records is the solver's own business. Here each id is a record whose only input is any of
//! the keys that stand for it:
//!
//! ```text
//! {digest: key}
//! {digest: id,     inputs: [[{selector: "drydock.key.v1", link: key} …]], layers: […]}
//! {digest: output, inputs: [[{selector: "drydock.output.v1", link: id}]], layers: […]}
//! ```
//!
//! The selectors tell our records from those of other writers, which are passed over.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use oci::Digest;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::stacks::Builder;
pub use crate::stacks::Stacks;

/// The media type of the config.
pub const CONFIG_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Where an image's config carries the records of its own layers.
pub const INLINE_KEY: &str = "moby.buildkit.cache.v0";

/// Layers of a build cache: a hundred images have fewer.
const MAX_LAYERS: usize = 10_000;
/// Records of a build cache, and keys that they name.
const MAX_RECORDS: usize = 50_000;
/// Layers of one result, more than can be mounted elsewhere.
const MAX_DEPTH: usize = 1000;

const KEY: &str = "drydock.key.v1";
const OUTPUT: &str = "drydock.output.v1";

/// What a build cache knows of one vertex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The vertex's id.
    pub id: Digest,
    /// The keys that stand for it.
    pub keys: Vec<Digest>,
    /// The results that go along, by the ids of the outputs.
    pub results: Vec<(Digest, Chain)>,
}

/// A result: its layers, lowest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The layers' blobs.
    pub blobs: Vec<Digest>,
    /// When it was made.
    pub created: OffsetDateTime,
}

/// What was read from a build cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Keys, and the ids for which they stand.
    pub links: Vec<(Digest, Digest)>,
    /// Results by id.
    pub results: Vec<(Digest, Top)>,
    /// The layers of all results.
    pub layers: Stacks,
}

/// A result that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Top {
    /// Its top layer.
    pub layer: usize,
    /// When it was made.
    pub created: OffsetDateTime,
}

/// Why a build cache cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// It is not the JSON that it should be.
    #[error("failed to parse the config of a build cache")]
    Json(#[from] serde_json::Error),
    /// A record names another that is not there.
    #[error("invalid record `{0}` in the config of a build cache")]
    Record(i64),
    /// A record or layer names a layer that is not there, or that lies on itself.
    #[error("invalid layer `{0}` in the config of a build cache")]
    Layer(i64),
    /// There is more of something than is looked at.
    #[error("a build cache has more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
}

/// Why a build cache cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A value has no JSON.
    #[error("failed to write the config of a build cache")]
    Json(#[from] serde_json::Error),
    /// A time has no text.
    #[error("failed to write a time in the config of a build cache")]
    Time(#[from] time::error::Format),
}

#[derive(Serialize, Deserialize)]
struct Config {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    layers: Vec<Layer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    records: Vec<Record>,
}

#[derive(Serialize, Deserialize)]
struct Layer {
    blob: String,
    // BuildKit leaves out what is zero, and takes what is left out for zero; -1 is "none".
    #[serde(default, skip_serializing_if = "is_zero")]
    parent: i64,
}

#[derive(Default, Serialize, Deserialize)]
struct Record {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    layers: Vec<Outcome>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    chains: Vec<Chained>,
    #[serde(default)]
    digest: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<Vec<Input>>,
}

#[derive(Serialize, Deserialize)]
struct Outcome {
    #[serde(default)]
    layer: i64,
    #[serde(default, rename = "createdAt")]
    created_at: String,
}

#[derive(Serialize, Deserialize)]
struct Chained {
    layers: Vec<i64>,
    #[serde(default, rename = "createdAt")]
    created_at: String,
}

#[derive(Serialize, Deserialize)]
struct Input {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    selector: String,
    #[serde(default)]
    link: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

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

fn record(digest: Digest) -> Record {
    Record {
        digest: digest.to_string(),
        ..Record::default()
    }
}

/// Reads a config.
///
/// # Errors
/// When it is not one.
pub fn decode(bytes: &[u8]) -> Result<Imported, ParseError> {
    read(&serde_json::from_slice(bytes)?)
}

/// Reads the records that the config of an image with the layers `image` carries.
///
/// # Errors
/// When they are none.
pub fn decode_inline(records: &[u8], image: &[Digest]) -> Result<Imported, ParseError> {
    let layers = (-1..).zip(image).map(|(parent, blob)| Layer {
        blob: blob.to_string(),
        parent,
    });
    read(&Config {
        layers: layers.collect(),
        records: serde_json::from_slice(records)?,
    })
}

fn read(config: &Config) -> Result<Imported, ParseError> {
    bound("layers", config.layers.len(), MAX_LAYERS)?;
    bound("records", config.records.len(), MAX_RECORDS)?;
    let mut imported = Imported::default();
    let mut stacks = Builder::new(config.layers.len(), MAX_DEPTH);
    for record in &config.records {
        // Ours have one input; those of others have selectors of their own.
        let [input] = record.inputs.as_slice() else {
            continue;
        };
        let is = |kind: &str| !input.is_empty() && input.iter().all(|one| one.selector == kind);
        let Ok(id) = record.digest.parse::<Digest>() else {
            continue;
        };
        if is(KEY) {
            let count = imported.links.len() + input.len();
            bound("keys", count, MAX_RECORDS)?;
            for one in input {
                let key = usize::try_from(one.link).ok();
                let key = key.and_then(|at| config.records.get(at));
                let key = key.ok_or(ParseError::Record(one.link))?;
                if let Ok(key) = key.digest.parse::<Digest>() {
                    imported.links.push((key, id));
                }
            }
        } else if !is(OUTPUT) {
            continue;
        }
        if let Some(top) = result(&config.layers, record, &mut stacks)? {
            imported.results.push((id, top));
        }
    }
    imported.layers = stacks.finish();
    Ok(imported)
}

fn bound(what: &'static str, count: usize, limit: usize) -> Result<(), ParseError> {
    match count > limit {
        true => Err(ParseError::TooMany { what, limit }),
        false => Ok(()),
    }
}

/// The first result of a record, if it has layers.
fn result(
    layers: &[Layer],
    record: &Record,
    stacks: &mut Builder,
) -> Result<Option<Top>, ParseError> {
    let (layer, created) = match (record.layers.first(), record.chains.first()) {
        (Some(outcome), _) => (stack(layers, outcome.layer, stacks)?, &outcome.created_at),
        (None, Some(chained)) => {
            let mut top = None;
            for at in &chained.layers {
                let above = stacks.add(top, blob(layers, *at)?);
                top = Some(above.ok_or_else(too_deep)?);
            }
            (top, &chained.created_at)
        }
        (None, None) => return Ok(None),
    };
    // A time is for people; one that cannot be read is as good as none.
    let created = OffsetDateTime::parse(created, &Rfc3339).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    Ok(layer.map(|layer| Top { layer, created }))
}

fn too_deep() -> ParseError {
    ParseError::TooMany {
        what: "layers in a result",
        limit: MAX_DEPTH,
    }
}

fn layer(layers: &[Layer], at: i64) -> Result<&Layer, ParseError> {
    let index = usize::try_from(at).map_err(|_| ParseError::Layer(at))?;
    layers.get(index).ok_or(ParseError::Layer(at))
}

fn blob(layers: &[Layer], at: i64) -> Result<Digest, ParseError> {
    layer(layers, at)?
        .blob
        .parse()
        .map_err(|_| ParseError::Layer(at))
}

/// The layer `top` and all below it, each taken once for all results.
fn stack(layers: &[Layer], top: i64, stacks: &mut Builder) -> Result<Option<usize>, ParseError> {
    let mut above = Vec::new();
    let mut at = top;
    let mut below = None;
    while at != -1 {
        let here = layer(layers, at)?;
        let index = usize::try_from(at).map_err(|_| ParseError::Layer(at))?;
        if let Some(known) = stacks.known(index) {
            below = Some(known);
            break;
        }
        if above.len() == layers.len() {
            return Err(ParseError::Layer(top));
        }
        above.push((index, at));
        at = here.parent;
    }
    for (index, at) in above.into_iter().rev() {
        let added = stacks.add(below, blob(layers, at)?).ok_or_else(too_deep)?;
        stacks.learn(index, added);
        below = Some(added);
    }
    Ok(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of(text)
    }

    fn entry(id: &str, keys: &[&str], blobs: &[&str]) -> Entry {
        let chain = Chain {
            blobs: blobs.iter().map(|blob| digest(blob)).collect(),
            created: OffsetDateTime::UNIX_EPOCH,
        };
        Entry {
            id: digest(id),
            keys: keys.iter().map(|key| digest(key)).collect(),
            results: vec![(digest(id), chain)],
        }
    }

    fn sorted(mut imported: Imported) -> Imported {
        imported.links.sort();
        imported.results.sort_by_key(|(id, _)| *id);
        imported
    }

    fn chains(imported: &Imported) -> BTreeMap<Digest, Vec<Digest>> {
        let layers = |top: &Top| {
            imported
                .layers
                .stack(top.layer)
                .map(|at| imported.layers.blob(at))
        };
        let results = imported.results.iter();
        results
            .map(|(id, top)| (*id, layers(top).collect()))
            .collect()
    }

    #[test]
    fn what_is_written_is_read_again_in_whatever_order_it_comes() {
        let entries = [
            entry("a", &["a", "k"], &["1"]),
            entry("b", &["l"], &["1", "2"]),
            entry("c", &["m"], &[]),
        ];
        let bytes = encode(&entries).unwrap();
        let turned: Vec<Entry> = entries.iter().rev().cloned().collect();
        assert_eq!(encode(&turned).unwrap(), bytes);
        let imported = sorted(decode(&bytes).unwrap());
        let mut links = vec![
            (digest("a"), digest("a")),
            (digest("k"), digest("a")),
            (digest("l"), digest("b")),
            (digest("m"), digest("c")),
        ];
        links.sort();
        assert_eq!(imported.links, links);
        let blobs = chains(&imported);
        assert_eq!(blobs[&digest("b")], [digest("1"), digest("2")]);
        assert_eq!(blobs[&digest("a")], [digest("1")]);
        assert!(!blobs.contains_key(&digest("c")));
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.matches("\"blob\"").count(), 2, "layers are shared");
    }

    #[test]
    fn an_image_carries_only_what_is_made_of_its_layers() {
        let entries = [
            entry("a", &["k"], &["1"]),
            entry("b", &["l"], &["2"]),
            entry("c", &["m"], &["1", "3"]),
        ];
        let image = [digest("1"), digest("2")];
        let bytes = encode_inline(&entries, &image).unwrap().unwrap();
        let imported = decode_inline(&bytes, &image).unwrap();
        assert_eq!(imported.links.len(), 3);
        let blobs = chains(&imported);
        assert_eq!(blobs.len(), 2);
        assert_eq!(blobs[&digest("a")], [digest("1")]);
        assert_eq!(blobs[&digest("b")], [digest("2")]);
        assert!(encode_inline(&entries, &[digest("9")]).unwrap().is_none());
    }

    #[test]
    fn records_of_other_writers_are_passed_over() {
        let other = format!(
            r#"{{"layers":[{{"blob":"{d}","parent":-1}}],"records":[{{"digest":"{d}"}},
            {{"digest":"{d}","layers":[{{"layer":0,"createdAt":"2020-01-01T00:00:00Z"}}],
            "inputs":[[{{"selector":"/x","link":0}}],[{{"link":0}}]]}}]}}"#,
            d = digest("1")
        );
        assert_eq!(decode(other.as_bytes()).unwrap(), Imported::default());
    }

    #[test]
    fn what_names_nothing_is_an_error() {
        let with = |layers: &str, record: &str| {
            let d = digest("1");
            let text =
                format!(r#"{{"layers":[{layers}],"records":[{{"digest":"{d}",{record}}}]}}"#,);
            decode(text.replace("BLOB", &d.to_string()).as_bytes())
        };
        let own = r#""inputs":[[{"selector":"drydock.key.v1","link":0}]]"#;
        assert!(with("", own).is_ok());
        assert!(with("", &own.replace(":0", ":7")).is_err());
        assert!(with("", &own.replace(":0", ":-7")).is_err());
        let top = format!(r#""layers":[{{"layer":0}}],{own}"#);
        assert!(with("", &top).is_err());
        assert!(with(r#"{"blob":"x","parent":-1}"#, &top).is_err());
        // Without a parent it is layer 0, which is itself.
        assert!(with(r#"{"blob":"BLOB"}"#, &top).is_err());
        assert!(with(r#"{"blob":"BLOB","parent":-1}"#, &top).is_ok());
        assert!(decode(b"7").is_err());
    }

    /// A config with `layers` layers in one chain, and `records` records that name the top.
    fn tower(layers: usize, records: usize) -> Vec<u8> {
        let blob = digest("1").to_string();
        let parents = -1..i64::try_from(layers).unwrap() - 1;
        let layer = |parent| Layer {
            blob: blob.clone(),
            parent,
        };
        let named = |number: usize| Record {
            layers: vec![Outcome {
                layer: i64::try_from(layers).unwrap() - 1,
                created_at: String::new(),
            }],
            inputs: vec![vec![Input {
                selector: KEY.to_owned(),
                link: 0,
            }]],
            ..record(digest(&number.to_string()))
        };
        let config = Config {
            layers: parents.map(layer).collect(),
            records: (0..records).map(named).collect(),
        };
        serde_json::to_vec(&config).unwrap()
    }

    #[test]
    fn what_is_read_takes_no_more_than_what_was_written() {
        let imported = decode(&tower(1000, 20_000)).unwrap();
        assert_eq!(imported.results.len(), 20_000);
        assert_eq!(imported.layers.len(), 1000);
        let top = imported.results[7].1.layer;
        assert_eq!(imported.layers.stack(top).count(), 1000);
    }

    #[test]
    fn more_than_a_build_has_is_refused() {
        for (layers, records, what) in [
            (1001, 1, "more than 1000 layers in a result"),
            (10_001, 1, "more than 10000 layers"),
            (1, 50_001, "more than 50000 records"),
        ] {
            let error = decode(&tower(layers, records)).unwrap_err().to_string();
            assert!(error.ends_with(what), "{error}");
        }
    }

    #[test]
    fn a_result_that_no_reader_takes_is_not_written() {
        let mut deep = entry("a", &["k"], &[]);
        deep.results[0].1.blobs = vec![digest("1"); 1001];
        let imported = decode(&encode(&[deep, entry("b", &["l"], &["1"])]).unwrap()).unwrap();
        assert_eq!(imported.links.len(), 2);
        assert_eq!(chains(&imported).len(), 1);
    }
}
