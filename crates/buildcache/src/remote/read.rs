//! A config, as what it says.

use oci::Digest;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::config::{Config, Layer, Record};
use super::{Imported, KEY, MAX_DEPTH, MAX_LAYERS, MAX_RECORDS, OUTPUT, ParseError, Top};
use crate::stacks::Builder;

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
