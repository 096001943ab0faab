//! What goes when room is needed.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use snapshot::DiskSpace;

use crate::db::WriteDbError;
use crate::filter::{Filter, FilterError};
use crate::refs::{Inner, Refs};
use crate::state::{Item, Sizes};
use crate::usage::UsageRecord;

/// A blob that nothing came to name in this time is left over from something that failed.
const ORPHAN_AGE: Duration = Duration::from_secs(3600);

/// With so many candidates the ranks are not worked out anew for each that goes.
const EXACT_RANKS: usize = 256;

/// What to remove. Sizes are in bytes; 0 is no bound, and without any bound everything goes that the
/// filter means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// Which records may go: containerd's filter expressions, of which one must hold.
    pub filter: Vec<String>,
    /// Also what is internal or a frontend.
    pub all: bool,
    /// What was used in this time stays.
    pub keep_duration: Duration,
    /// So much stays in any case.
    pub reserved_space: u64,
    /// No more than this is to stay.
    pub max_used_space: u64,
    /// So much of the disk is to be free.
    pub min_free_space: u64,
}

/// Why nothing, or not all, was removed or counted.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The filter cannot be read.
    #[error("failed to read the filter")]
    Filter(#[source] FilterError),
    /// The room on the disk is not known.
    #[error("failed to look at the room on the disk")]
    Disk(#[source] io::Error),
    /// The removal was not recorded.
    #[error("failed to record what was removed")]
    Record(#[source] WriteDbError),
    /// The work was cut short by the end of the process.
    #[error("the work was cut short")]
    Cut,
}

/// BuildKit's policies for a disk of that size: what is easily made again and more than 512 MB after
/// two days, everything after sixty days, and a cap of 80 % of the disk or 100 GB.
pub fn default_policies(disk: DiskSpace) -> Vec<PruneOptions> {
    let caps = PruneOptions {
        filter: Vec::new(),
        all: false,
        keep_duration: Duration::ZERO,
        reserved_space: share_of_disk(disk, 10).min(10_000_000_000),
        max_used_space: share_of_disk(disk, 80).min(100_000_000_000),
        min_free_space: share_of_disk(disk, 20),
    };
    let easy = [
        "type==source.local",
        "type==exec.cachemount",
        "type==source.git.checkout",
    ];
    vec![
        PruneOptions {
            filter: easy.map(str::to_owned).to_vec(),
            all: false,
            keep_duration: Duration::from_secs(48 * 3600),
            reserved_space: 0,
            max_used_space: 512_000_000,
            min_free_space: 0,
        },
        PruneOptions {
            keep_duration: Duration::from_secs(60 * 24 * 3600),
            ..caps.clone()
        },
        caps.clone(),
        PruneOptions { all: true, ..caps },
    ]
}

/// A percentage of the disk in bytes, rounded up to a whole number of GB as BuildKit does.
pub fn share_of_disk(disk: DiskSpace, percent: u64) -> u64 {
    if disk.total == 0 {
        return 2_000_000_000;
    }
    let share = u128::from(disk.total) * u128::from(percent) / 100;
    u64::try_from((share / (1 << 30) + 1) * 1_000_000_000).unwrap_or(u64::MAX)
}

/// How much is to stay; `None` to remove all that may go.
fn target(total: u64, free: u64, options: &PruneOptions) -> Option<u64> {
    let bounds = [
        options.max_used_space,
        options.reserved_space,
        options.min_free_space,
    ];
    if bounds == [0; 3] {
        return None;
    }
    let cap = (options.max_used_space > 0).then_some(options.max_used_space);
    let shortage = options.min_free_space.saturating_sub(free);
    let keep = match (cap, shortage) {
        (Some(cap), 0) => cap,
        (None, 0) if options.min_free_space > 0 => total,
        (None, 0) => 0,
        (cap, shortage) => total.saturating_sub(shortage).min(cap.unwrap_or(u64::MAX)),
    };
    Some(keep.max(options.reserved_space))
}

/// Something that may go.
#[derive(Clone, Debug)]
struct Candidate {
    item: Item,
    size: u64,
    last_used: Option<SystemTime>,
    usage_count: u64,
}

/// Sorts by what is to go first: what was last used long ago and seldom, each counted by its rank.
fn rank(candidates: &mut [Candidate]) {
    candidates.sort_by_key(|candidate| candidate.last_used);
    let ages = ranks(candidates, |candidate| candidate.last_used, None);
    candidates.sort_by_key(|candidate| candidate.usage_count);
    let counts = ranks(candidates, |candidate| candidate.usage_count, 0);
    let weight = |candidate: &Candidate| {
        let share = |(ranks, highest): &(HashMap<Item, f64>, f64)| {
            ranks.get(&candidate.item).copied().unwrap_or(1.0) / highest
        };
        share(&ages) + share(&counts)
    };
    candidates.sort_by(|a, b| weight(a).total_cmp(&weight(b)));
}

/// The rank of each of `sorted` by `value`, counted from `start`, and the highest rank.
fn ranks<T: PartialEq>(
    sorted: &[Candidate],
    value: impl Fn(&Candidate) -> T,
    start: T,
) -> (HashMap<Item, f64>, f64) {
    let (mut rank, mut last) = (1.0, start);
    let mut ranks = HashMap::with_capacity(sorted.len());
    for candidate in sorted {
        let value = value(candidate);
        if value != last {
            (rank, last) = (rank + 1.0, value);
        }
        ranks.insert(candidate.item, rank);
    }
    (ranks, rank)
}

impl Refs {
    /// What is stored and what it takes, limited to what one of the `filter` expressions means and,
    /// with `unused_for`, to what was not used in that time.
    ///
    /// # Errors
    /// When the filter is malformed.
    pub async fn usage(
        &self,
        filter: &[String],
        unused_for: Duration,
    ) -> Result<Vec<UsageRecord>, PruneError> {
        let filter = Filter::parse(filter).map_err(PruneError::Filter)?;
        let sizes = self.inner.sizes().await?;
        let cutoff = self.inner.now().checked_sub(unused_for);
        let old = |record: &UsageRecord| {
            unused_for.is_zero()
                || record
                    .last_used
                    .is_none_or(|last| cutoff.is_none_or(|cutoff| last <= cutoff))
        };
        let records = self.inner.state().records(&sizes);
        let wanted = |record: &UsageRecord| record.matches(&filter) && old(record);
        Ok(records
            .into_iter()
            .map(|(_, record)| record)
            .filter(wanted)
            .collect())
    }

    /// Removes what `options` say and answers it. What is in use, and what images are made of, stays.
    /// When this returns, the room is free.
    ///
    /// # Errors
    /// When the filter is malformed, or the removal cannot be recorded.
    pub async fn prune(&self, options: &PruneOptions) -> Result<Vec<UsageRecord>, PruneError> {
        let removed = self.remove_by(options).await?;
        self.flush().await.map_err(PruneError::Record)?;
        let snapshots = self.inner.snapshots.clone();
        blocking(move || snapshots.wait_removed()).await?;
        Ok(removed)
    }

    /// Applies policies one after the other and answers what was removed. The room is freed in the
    /// background.
    ///
    /// # Errors
    /// When a filter is malformed.
    pub async fn gc(&self, policies: &[PruneOptions]) -> Result<Vec<UsageRecord>, PruneError> {
        let mut removed = Vec::new();
        for policy in policies {
            removed.extend(self.remove_by(policy).await?);
        }
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            inner.sweep_locks();
            inner.sweep_blobs();
        })
        .await?;
        Ok(removed)
    }

    async fn remove_by(&self, options: &PruneOptions) -> Result<Vec<UsageRecord>, PruneError> {
        let filter = Filter::parse(&options.filter).map_err(PruneError::Filter)?;
        let _one_at_a_time = self.inner.pruning.lock().await;
        let sizes = self.inner.sizes().await?;
        let disk = self
            .inner
            .snapshots
            .disk_space()
            .map_err(PruneError::Disk)?;
        let counted = |record: &UsageRecord| if record.shared { 0 } else { record.size };
        let records = self.inner.state().records(&sizes);
        let mut total = records
            .iter()
            .map(|(_, record)| counted(record))
            .sum::<u64>();
        let target = target(total, disk.free, options);
        let mut removed = Vec::new();
        while target.is_none_or(|target| total > target) {
            let round = self.round(
                options,
                &filter,
                &sizes,
                target.map(|target| total - target),
            );
            if round.is_empty() {
                break;
            }
            total = round.iter().map(counted).fold(total, u64::saturating_sub);
            removed.extend(round);
            tokio::task::yield_now().await;
        }
        Ok(removed)
    }

    /// Removes some of what may go now: all of it, or with `excess` only the first ones of the order
    /// until so much is free.
    fn round(
        &self,
        options: &PruneOptions,
        filter: &Filter,
        sizes: &Sizes,
        excess: Option<u64>,
    ) -> Vec<UsageRecord> {
        let cutoff = self.inner.now().checked_sub(options.keep_duration);
        let kept = |last: Option<SystemTime>| {
            !options.keep_duration.is_zero()
                && last.is_some_and(|last| cutoff.is_none_or(|cutoff| last > cutoff))
        };
        self.inner.change(|state, effects| {
            let mut records = HashMap::new();
            let mut candidates = Vec::new();
            for item in state.removable(options.all) {
                let Some(record) = state.record(item, sizes) else {
                    continue;
                };
                if kept(record.last_used) || !record.matches(filter) {
                    continue;
                }
                let UsageRecord {
                    size,
                    last_used,
                    usage_count,
                    ..
                } = record;
                candidates.push(Candidate {
                    item,
                    size,
                    last_used,
                    usage_count,
                });
                records.insert(item, record);
            }
            let mut most = candidates.len();
            if excess.is_some() {
                rank(&mut candidates);
                most = if most > EXACT_RANKS { most / 64 } else { 1 };
            }
            let mut left = excess;
            let mut removed = Vec::new();
            for candidate in candidates.into_iter().take(most) {
                if left == Some(0) {
                    break;
                }
                match candidate.item {
                    Item::Ref(key) => state.remove_ref(key, effects),
                    Item::Mutable(key) => state.remove_mutable(key, effects),
                    Item::Held => {}
                }
                left = left.map(|left| left.saturating_sub(candidate.size));
                removed.extend(records.remove(&candidate.item));
            }
            removed
        })
    }
}

impl Inner {
    /// Counts what has not been counted yet.
    async fn sizes(self: &Arc<Self>) -> Result<Sizes, PruneError> {
        let inner = Arc::clone(self);
        blocking(move || inner.count()).await
    }

    fn count(self: &Arc<Self>) -> Sizes {
        let (unknown, (blobs, layers)) = {
            let state = self.state();
            (state.unknown_sizes(), state.wanted_sizes())
        };
        // What cannot be counted is gone, or goes.
        let size = |layer| {
            self.snapshots
                .usage(&[layer])
                .map_or(0, |usage| usage[0].bytes)
        };
        for (key, layer) in unknown.layers {
            let size = size(layer);
            self.change(|state, effects| state.set_layer_size(key, size, effects));
        }
        for (key, layer) in unknown.mutables {
            let size = size(layer);
            self.state().set_mutable_size(key, layer, size);
        }
        for (family, layers) in unknown.families {
            let Ok(usage) = self.snapshots.usage(&layers) else {
                continue;
            };
            let sizes = layers
                .into_iter()
                .zip(usage.into_iter().map(|usage| usage.bytes));
            self.state().set_family_sizes(family, sizes.collect());
        }
        let allocated = |blob: oci::Digest| Some((blob, self.content.stat(&blob)?.allocated));
        let merged = |layer| (layer, self.snapshots.further_usage(layer).bytes);
        Sizes {
            blobs: blobs.into_iter().filter_map(allocated).collect(),
            merged: layers.into_iter().map(merged).collect(),
        }
    }

    /// Removes blobs that were written and never came to be named.
    fn sweep_blobs(&self) {
        let Ok(blobs) = self.content.list() else {
            return;
        };
        let now = SystemTime::now();
        for blob in blobs {
            let age = now.duration_since(blob.written).unwrap_or_default();
            if age < ORPHAN_AGE {
                continue;
            }
            let state = self.state();
            let removed = if state.has_blob(&blob.digest) {
                Ok(None)
            } else {
                self.content.detach(&blob.digest)
            };
            drop(state);
            if let Err(error) = removed {
                tracing::warn!(blob = %blob.digest, %error, "an unused blob stays");
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PruneError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| PruneError::Cut)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::state::MutableKey;

    fn bounds(max: u64, reserved: u64, min_free: u64) -> PruneOptions {
        PruneOptions {
            max_used_space: max,
            reserved_space: reserved,
            min_free_space: min_free,
            ..PruneOptions::default()
        }
    }

    #[test]
    fn what_stays_is_between_the_reserve_and_the_caps() {
        // (used, free) and the bounds.
        assert_eq!(target(100, 50, &bounds(0, 0, 0)), None);
        assert_eq!(target(100, 50, &bounds(80, 0, 0)), Some(80));
        assert_eq!(target(100, 50, &bounds(80, 90, 0)), Some(90));
        assert_eq!(target(100, 50, &bounds(0, 0, 50)), Some(100));
        assert_eq!(target(100, 50, &bounds(0, 0, 70)), Some(80));
        assert_eq!(target(100, 50, &bounds(60, 0, 70)), Some(60));
        assert_eq!(target(100, 50, &bounds(0, 30, 500)), Some(30));
        assert_eq!(target(100, 50, &bounds(0, 30, 0)), Some(30));
    }

    #[test]
    fn the_oldest_and_least_used_go_first() {
        let candidate = |number, last: Option<u64>, usage_count| Candidate {
            item: Item::Mutable(MutableKey(number)),
            size: 1,
            last_used: last.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds)),
            usage_count,
        };
        let mut all = [
            candidate(1, Some(30), 9),
            candidate(2, Some(10), 1),
            candidate(3, Some(20), 1),
            candidate(4, None, 0),
            candidate(5, Some(10), 9),
        ];
        rank(&mut all);
        let order = all.map(|candidate| candidate.item);
        assert_eq!(
            order,
            [4, 2, 3, 5, 1].map(|number| Item::Mutable(MutableKey(number)))
        );
    }

    #[test]
    fn shares_of_the_disk_are_whole_gigabytes() {
        let disk = DiskSpace {
            total: 100 << 30,
            free: 0,
        };
        assert_eq!(share_of_disk(disk, 10), 11_000_000_000);
        assert_eq!(default_policies(disk)[2].max_used_space, 81_000_000_000);
        assert_eq!(default_policies(disk)[2].reserved_space, 10_000_000_000);
        assert_eq!(default_policies(disk)[2].min_free_space, 21_000_000_000);
    }
}
