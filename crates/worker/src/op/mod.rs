//! The ops: what a worker does for a vertex.

mod direct;
pub(crate) mod exec;
mod file;
mod log;
pub(crate) mod mounts;
mod owner;
mod secret;
pub(crate) mod ssh;
mod tracing;
mod untouched;

pub use log::LogLimits;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use llb::{DiffOp, FileOp, MergeOp, OpKind, Vertex};
use oci::Digest;
use proto::worker as wire;
use refs::{LayerKey, LayerSpec, Meta, RecordType, Ref, Refs};
use snapshot::{Active, Diff, LayerId};

use crate::copies::{Earlier, Step};
use crate::events::Events;
use crate::failure::{Class, Failure, Remains, blocking, chain};
use crate::jobs::Job;
use crate::sessions::Sessions;
use crate::state::{Shared, id};

/// What an op leaves for one of its outputs.
pub(crate) enum Made {
    /// Layers that were there already.
    Same(Vec<LayerId>),
    /// A new layer on top of others.
    New(Active),
}

/// Runs an op and stores its outputs under the ids that the engine gave them.
pub(crate) async fn run(
    shared: &Arc<Shared>,
    start: wire::RunStart,
    sessions: Sessions,
    events: Events,
) -> Result<wire::Done, Failure> {
    let vertex = Vertex::decode(start.op.clone(), llb::OpMetadata::default())
        .map_err(|error| Failure::user(chain(&error)))?;
    let output_ids: Vec<Digest> = start
        .output_ids
        .iter()
        .map(|t| id(t))
        .collect::<Result<_, _>>()?;
    let inputs = inputs(shared, &start)?;
    let meta = Meta {
        description: description(&vertex, &start.name),
        record_type: RecordType::Regular,
        created: SystemTime::now(),
    };
    let outputs = match &vertex.op().kind {
        OpKind::Exec(op) => {
            let step = exec::Step {
                op,
                inputs: &inputs,
                resources: start.resources.as_ref(),
                id: output_ids
                    .first()
                    .map(|id| id.short())
                    .unwrap_or_else(|| "step".to_owned()),
                ignore_cache: start.ignore_cache,
                browsed: false,
                job: &start.job,
                trace_parent: &start.trace_parent,
            };
            let refs = shared.refs.clone();
            let made = match exec::run(shared, step, &sessions, &events).await {
                Ok(made) => made,
                Err(failed) => {
                    // The one who began it may have left; who joined is told the failure all the same.
                    let Ok(job) = shared.job(&start.job) else {
                        return Err(failed.failure);
                    };
                    let op = op.clone();
                    return blocking(move || Err(remains(&refs, &job, &op, &inputs, failed, meta)))
                        .await;
                }
            };
            blocking(move || keep(&refs, &inputs, output_ids, made, &meta)).await?
        }
        OpKind::File(op) => {
            let mut stacks = Vec::with_capacity(inputs.len());
            for input in &inputs {
                stacks.push(match input {
                    Some(input) => shared.stack(input, &sessions, Some(&events)).await?,
                    None => Vec::new(),
                });
            }
            let (shared, op) = (shared.clone(), op.clone());
            let step = Step::of(&op, &stacks);
            // Who wants a step run anew does not trust what it left before.
            let earlier = step.as_ref().filter(|_| !start.ignore_cache);
            let earlier = earlier.and_then(|step| shared.copies.earlier(step));
            blocking(move || {
                if let (Some(step), Some(earlier)) = (&step, earlier)
                    && let Some(active) = update(&shared, &op, step, &earlier)?
                {
                    let made = vec![Made::New(active)];
                    let kept = keep(&shared.refs, &inputs, output_ids, made, &meta)?;
                    shared.copies.updated(step.clone(), earlier);
                    return Ok(kept);
                }
                let outcome = file::run(shared.refs.snapshots(), &op, &stacks)?;
                let kept = keep(&shared.refs, &inputs, output_ids, outcome.made, &meta)?;
                if let (Some(step), [output]) = (step, &kept[..]) {
                    shared.copies.copied(step, output.id(), outcome.files);
                }
                Ok(kept)
            })
            .await?
        }
        OpKind::Merge(op) => vec![merge(shared, op, &inputs, output(&output_ids)?, meta)?],
        OpKind::Diff(op) => {
            vec![
                diff(
                    shared,
                    *op,
                    &inputs,
                    output(&output_ids)?,
                    meta,
                    &sessions,
                    &events,
                )
                .await?,
            ]
        }
        OpKind::Source(op) => {
            vec![
                crate::pin::realize(
                    shared,
                    &start.job,
                    op,
                    &vertex,
                    output(&output_ids)?,
                    &sessions,
                    &events,
                )
                .await?,
            ]
        }
        OpKind::Build(_) | OpKind::Passthrough(_) => {
            return Err(Failure::bug(
                "the engine sent an op that is its own to resolve",
            ));
        }
    };
    // A job that is over meanwhile keeps nothing; what others wait for they keep themselves.
    if let Ok(job) = shared.job(&start.job) {
        outputs.iter().for_each(|output| job.lease.add(output));
    }
    Ok(wire::Done {
        ids: start.output_ids,
        ..wire::Done::default()
    })
}

/// Makes what `step` copies of an earlier copy, if that is still there and can be brought up to date.
/// Blocks.
fn update(
    shared: &Shared,
    op: &FileOp,
    step: &Step,
    earlier: &Earlier,
) -> Result<Option<Active>, Failure> {
    let output = shared.refs.get(&earlier.output);
    let layers = output.as_ref().and_then(Ref::snapshots);
    let over = layers
        .as_deref()
        .and_then(|l| l.strip_prefix(&step.base[..]));
    let Some([over]) = over else { return Ok(None) };
    file::bring_up_to_date(shared.refs.snapshots(), op, step, *over, &earlier.changed)
}

/// Keeps what a failed step left in its mounts, for those who want to look into it. Blocks.
fn remains(
    refs: &Refs,
    job: &Job,
    op: &llb::ExecOp,
    inputs: &[Option<Ref>],
    failed: exec::Failed,
    meta: Meta,
) -> Failure {
    let mut failure = failed.failure;
    if failed.left.is_empty() {
        return failure;
    }
    let mut left = Remains::default();
    for (n, (mount, made)) in op.mounts.iter().zip(failed.left).enumerate() {
        let input = mount.input.and_then(|n| inputs.get(n as usize)?.as_ref());
        let input = input.map(|input| input.id().to_string());
        let input = input.unwrap_or_default();
        let kept = made.and_then(|made| {
            // Nothing is ever found under this name again.
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let id = Digest::of(format!("drydock remains\0{n}\0{input}\0{now:?}"));
            let kept = keep(refs, inputs, vec![id], vec![made], &meta).ok()?;
            kept.into_iter().next()
        });
        left.mounts.push(match kept {
            Some(kept) => {
                job.lease.add(&kept);
                job.add_remains(kept.id());
                kept.id().to_string()
            }
            None => input.clone(),
        });
        left.inputs.push(input);
    }
    failure.remains = Some(Box::new(left));
    failure
}

fn output(ids: &[Digest]) -> Result<Digest, Failure> {
    match ids {
        [only] => Ok(*only),
        _ => Err(Failure::bug(format!(
            "an op with one output was given {} ids",
            ids.len()
        ))),
    }
}

fn inputs(shared: &Shared, start: &wire::RunStart) -> Result<Vec<Option<Ref>>, Failure> {
    start
        .input_ids
        .iter()
        .map(|text| match text.as_str() {
            "" => Ok(None),
            text => shared.find(&start.job, id(text)?).map(Some),
        })
        .collect()
}

fn description(vertex: &Vertex, name: &str) -> String {
    let text = match &vertex.op().kind {
        OpKind::Exec(op) => &format!("mount / from exec {}", op.meta.args.join(" ")),
        _ => name,
    };
    oci::redact_text(text)
}

/// Stores what an op made. Layers that were there are found again in the refs of its inputs, so
/// that a result shares them. Blocks.
fn keep(
    refs: &Refs,
    inputs: &[Option<Ref>],
    ids: Vec<Digest>,
    mut made: Vec<Made>,
    meta: &Meta,
) -> Result<Vec<Ref>, Failure> {
    if made.len() != ids.len() {
        return Err(Failure::bug(format!(
            "an op made {} outputs where {} were expected",
            made.len(),
            ids.len()
        )));
    }
    // Nearly always one new layer is on top of one input.
    if let ([id], [Made::New(active)]) = (&ids[..], &made[..]) {
        let is_below = |input: &&Ref| input.snapshots().is_some_and(|s| s == active.lower());
        let base = inputs.iter().flatten().find(is_below);
        if (base.is_some() || active.lower().is_empty())
            && let Some(Made::New(active)) = made.pop()
        {
            let output = refs.commit(*id, base, active, meta.clone());
            return Ok(vec![output.map_err(Failure::host)?]);
        }
    }
    let layers = inputs.iter().flatten().flat_map(Ref::layers);
    let mut known: HashMap<LayerId, LayerKey> = layers
        .filter_map(|layer| Some((layer.snapshot?, layer.key)))
        .collect();
    let mut outputs = Vec::with_capacity(ids.len());
    for (id, made) in ids.into_iter().zip(made) {
        let below = match &made {
            Made::Same(layers) => layers.clone(),
            Made::New(active) => active.lower().to_vec(),
        };
        let mut specs = Vec::with_capacity(below.len() + 1);
        for layer in &below {
            specs.push(match known.get(layer) {
                Some(key) => LayerSpec::Existing(*key),
                None => LayerSpec::New(refs.snapshots().resume(*layer, &[])),
            });
        }
        if let Made::New(active) = made {
            specs.push(LayerSpec::New(active));
        }
        let output = refs
            .put_layers(id, specs, meta.clone())
            .map_err(Failure::host)?;
        // Layers that several outputs share are made by the first and found by the next.
        let layers = output.layers();
        known.extend(layers.iter().filter_map(|l| Some((l.snapshot?, l.key))));
        outputs.push(output);
    }
    Ok(outputs)
}

/// Overlays the inputs, later ones on top: a list of layers is all that takes.
fn merge(
    shared: &Shared,
    op: &MergeOp,
    inputs: &[Option<Ref>],
    id: Digest,
    meta: Meta,
) -> Result<Ref, Failure> {
    let used = op
        .inputs
        .iter()
        .flatten()
        .filter_map(|n| inputs.get(*n as usize)?.as_ref());
    let layers = used.flat_map(Ref::keys).map(LayerSpec::Existing).collect();
    shared
        .refs
        .put_layers(id, layers, meta)
        .map_err(Failure::host)
}

/// What turns `lower` into `upper`.
async fn diff(
    shared: &Arc<Shared>,
    op: DiffOp,
    inputs: &[Option<Ref>],
    id: Digest,
    meta: Meta,
    sessions: &Sessions,
    events: &Events,
) -> Result<Ref, Failure> {
    let find = |input: Option<u32>| input.and_then(|n| inputs.get(n as usize)?.clone());
    let (lower, upper) = (find(op.lower), find(op.upper));
    let lower_keys = lower.as_ref().map(Ref::keys).unwrap_or_default();
    let upper_keys = upper.as_ref().map(Ref::keys).unwrap_or_default();
    if let Some(rest) = upper_keys.strip_prefix(lower_keys.as_slice()) {
        // Nothing has to be looked at, nor to be here.
        let layers = rest.iter().map(|key| LayerSpec::Existing(*key)).collect();
        return shared
            .refs
            .put_layers(id, layers, meta)
            .map_err(Failure::host);
    }
    let mut stacks = Vec::new();
    for side in [&lower, &upper] {
        stacks.push(match side {
            Some(side) => shared.stack(side, sessions, Some(events)).await?,
            None => Vec::new(),
        });
    }
    let refs = shared.refs.clone();
    blocking(move || {
        let layers = match refs
            .snapshots()
            .diff(&stacks[0], &stacks[1])
            .map_err(Failure::host)?
        {
            Diff::Written(active) => vec![LayerSpec::New(active)],
            Diff::Layers(layers) => {
                let keys: HashMap<_, _> = upper
                    .iter()
                    .flat_map(Ref::layers)
                    .filter_map(|layer| Some((layer.snapshot?, layer.key)))
                    .collect();
                layers
                    .iter()
                    .filter_map(|l| keys.get(l))
                    .map(|k| LayerSpec::Existing(*k))
                    .collect()
            }
        };
        refs.put_layers(id, layers, meta).map_err(Failure::host)
    })
    .await
}

/// A ref that was found is no longer there, and the solver makes it again.
pub(crate) fn vanished(what: &str) -> Failure {
    Failure::new(Class::Transient, format!("{what} is not there any more"))
}
