//! How keys and ids are made.
//!
//! Each is the sha256 of a tag, a zero byte and parts of fixed length. The tags keep the kinds
//! apart; a change of what a key means gets new tags.
//!
//! ```text
//! fast    op key, count, per input: 0 id | 1 id selector
//! exact   op key, count, per input: 0 id | 1 id selector | 2 content
//! fresh   salt of the job, fast key
//! output  id of the vertex, number of the output
//! ```

use llb::Keying;
use oci::{Digest, Hasher};

fn tagged(tag: &str) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.update(tag);
    hasher.update([0]);
    hasher
}

fn add_identity(hasher: &mut Hasher, id: Digest, selector: Option<Digest>) {
    hasher.update([u8::from(selector.is_some())]);
    hasher.update(id.as_raw());
    if let Some(selector) = selector {
        hasher.update(selector.as_raw());
    }
}

/// The key with every input by identity. `ids` are those of the inputs.
pub(crate) fn fast(keying: &Keying, ids: &[Digest]) -> Digest {
    let mut hasher = tagged("drydock.fast.v1");
    hasher.update(keying.op_key.as_raw());
    hasher.update((ids.len() as u64).to_le_bytes());
    for (input, id) in keying.inputs.iter().zip(ids) {
        add_identity(&mut hasher, *id, input.selector);
    }
    hasher.finish()
}

/// The key with inputs by content where `contents` has it.
pub(crate) fn exact(keying: &Keying, ids: &[Digest], contents: &[Option<Digest>]) -> Digest {
    let mut hasher = tagged("drydock.exact.v1");
    hasher.update(keying.op_key.as_raw());
    hasher.update((ids.len() as u64).to_le_bytes());
    for ((input, id), content) in keying.inputs.iter().zip(ids).zip(contents) {
        match content {
            None => add_identity(&mut hasher, *id, input.selector),
            Some(content) => {
                hasher.update([2]);
                hasher.update(content.as_raw());
            }
        }
    }
    hasher.finish()
}

/// The id of a result that no other job is to find under its key before it is done.
pub(crate) fn fresh(salt: Digest, fast: Digest) -> Digest {
    let mut hasher = tagged("drydock.fresh.v1");
    hasher.update(salt.as_raw());
    hasher.update(fast.as_raw());
    hasher.finish()
}

/// The id of one output of the vertex whose id is `id`.
pub(crate) fn output(id: Digest, number: u32) -> Digest {
    let mut hasher = tagged("drydock.output.v1");
    hasher.update(id.as_raw());
    hasher.update(number.to_le_bytes());
    hasher.finish()
}
