//! The build cache that an image carries in its config.

use std::collections::HashSet;

use buildcache::remote::{self, Chain, Entry};
use oci::Digest;
use proto::worker as wire;
use refs::{LayerKey, Ref};
use time::OffsetDateTime;

use super::restore;
use crate::failure::{Failure, chain};
use crate::state::{Shared, id};

/// Stands for a layer: its blob need not be made to be named.
fn stand_in(key: LayerKey) -> Digest {
    Digest::of(format!("layer {key}"))
}

/// The records of `entries` whose results are made of the layers of `image`.
pub(crate) fn inline(
    shared: &Shared,
    job: &str,
    entries: &[wire::CacheEntry],
    image: &Ref,
) -> Result<Option<Vec<u8>>, Failure> {
    if entries.is_empty() {
        return Ok(None);
    }
    let layers: Vec<Digest> = image.keys().into_iter().map(stand_in).collect();
    let there: HashSet<&Digest> = layers.iter().collect();
    let mut all = Vec::with_capacity(entries.len());
    for entry in entries {
        all.push(read_entry(shared, job, entry, |found| {
            let blobs: Vec<Digest> = found.keys().into_iter().map(stand_in).collect();
            let fits = blobs.iter().all(|blob| there.contains(blob));
            let wanted = entry.results != Some(false);
            (fits && wanted && !blobs.is_empty()).then_some(blobs)
        })?);
    }
    remote::encode_inline(&all, &layers).map_err(|error| Failure::bug(chain(&error)))
}

/// An entry of the wire with the chains of those of its outputs that are there and that `blobs` has.
pub(super) fn read_entry(
    shared: &Shared,
    job: &str,
    entry: &wire::CacheEntry,
    mut blobs: impl FnMut(&Ref) -> Option<Vec<Digest>>,
) -> Result<Entry, Failure> {
    let ids = |texts: &[String]| texts.iter().map(|text| id(text)).collect::<Result<_, _>>();
    let outputs: Vec<Digest> = ids(&entry.output_ids)?;
    let mut results = Vec::new();
    for output in outputs {
        let Some(found) = find(shared, job, &output) else {
            continue;
        };
        if let Some(blobs) = blobs(&found) {
            let created = found.meta().map(|meta| OffsetDateTime::from(meta.created));
            let created = created.unwrap_or(OffsetDateTime::UNIX_EPOCH);
            results.push((output, Chain { blobs, created }));
        }
    }
    Ok(Entry {
        id: id(&entry.id)?,
        keys: ids(&entry.keys)?,
        results,
    })
}

/// The ref of a result, also of one that was imported and has not been needed.
pub(super) fn find(shared: &Shared, job: &str, id: &Digest) -> Option<Ref> {
    shared.refs.get(id).or_else(|| restore(shared, job, id))
}
