//! Limits of a group, in the units of version 1, which are those of the OCI runtime spec.

use std::io;

use super::hierarchy::Version;
use super::{Group, Part};

/// What a group may use; `None` leaves the kernel's default, which is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory, bytes; -1 for no limit.
    pub memory_bytes: Option<i64>,
    /// Memory and swap together, bytes; -1 for no limit.
    pub memory_swap_bytes: Option<i64>,
    /// Share of the processor against other groups (1024 is the usual one).
    pub cpu_shares: Option<u64>,
    /// Processor time in each period, microseconds; -1 for no limit.
    pub cpu_quota_us: Option<i64>,
    /// Length of a period, microseconds.
    pub cpu_period_us: Option<u64>,
    /// Processors, like `0-3,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, like `0,1`.
    pub cpuset_mems: Option<String>,
    /// Processes and threads; -1 for no limit.
    pub pids: Option<i64>,
}

impl Limits {
    pub(super) fn uses_cpuset(&self) -> bool {
        self.cpuset_cpus.is_some() || self.cpuset_mems.is_some()
    }

    fn uses_cpu(&self) -> bool {
        self.cpu_shares.is_some() || self.cpu_quota_us.is_some() || self.cpu_period_us.is_some()
    }
}

impl Group {
    /// Sets limits of a group that has none yet. Those of processors only [`super::Parent::child`] can
    /// set.
    ///
    /// # Errors
    /// `Unsupported` when the controller of one is not available.
    pub fn set_limits(&self, limits: &Limits) -> io::Result<()> {
        if limits.memory_bytes.is_some() || limits.memory_swap_bytes.is_some() {
            self.needed("memory")
                .and_then(|part| limit_memory(part, limits))?;
        }
        if let Some(pids) = limits.pids {
            let part = self.needed("pids")?;
            part.write("pids.max", &or_max(pids))?;
        }
        if limits.uses_cpu() {
            self.needed("cpu")
                .and_then(|part| limit_cpu(part, limits))?;
        }
        for (file, value) in [
            ("cpuset.cpus", &limits.cpuset_cpus),
            ("cpuset.mems", &limits.cpuset_mems),
        ] {
            if let Some(value) = value {
                self.needed("cpuset")?.write(file, value)?;
            }
        }
        Ok(())
    }

    fn needed(&self, controller: &str) -> io::Result<&Part> {
        self.with(controller).ok_or_else(|| {
            let message = format!("the control group controller `{controller}` is not available");
            io::Error::new(io::ErrorKind::Unsupported, message)
        })
    }
}

fn limit_memory(part: &Part, limits: &Limits) -> io::Result<()> {
    let set = |file: &str, value: &str| part.write(file, value);
    match part.version {
        Version::One => {
            if let Some(memory) = limits.memory_bytes {
                set("memory.limit_in_bytes", &memory.to_string())?;
            }
            if let Some(both) = limits.memory_swap_bytes {
                // Without swap accounting the file is missing, and then nothing is swapped.
                absent_is_fine(set("memory.memsw.limit_in_bytes", &both.to_string()))?;
            }
        }
        Version::Two => {
            if let Some(memory) = limits.memory_bytes {
                set("memory.max", &or_max(memory))?;
            }
            if let Some(both) = limits.memory_swap_bytes {
                let memory = limits.memory_bytes.unwrap_or(0).max(0);
                let swap = if both < 0 {
                    both
                } else {
                    both.saturating_sub(memory).max(0)
                };
                absent_is_fine(set("memory.swap.max", &or_max(swap)))?;
            }
        }
    }
    Ok(())
}

fn limit_cpu(part: &Part, limits: &Limits) -> io::Result<()> {
    let set = |file: &str, value: &str| part.write(file, value);
    match part.version {
        Version::One => {
            if let Some(shares) = limits.cpu_shares {
                set("cpu.shares", &shares.to_string())?;
            }
            if let Some(period) = limits.cpu_period_us {
                set("cpu.cfs_period_us", &period.to_string())?;
            }
            if let Some(quota) = limits.cpu_quota_us {
                set("cpu.cfs_quota_us", &quota.to_string())?;
            }
        }
        Version::Two => {
            if let Some(shares) = limits.cpu_shares.filter(|shares| *shares > 0) {
                set("cpu.weight", &weight(shares).to_string())?;
            }
            if limits.cpu_quota_us.is_some() || limits.cpu_period_us.is_some() {
                let quota = or_max(limits.cpu_quota_us.unwrap_or(-1));
                let period = limits.cpu_period_us.unwrap_or(100_000);
                set("cpu.max", &format!("{quota} {period}"))?;
            }
        }
    }
    Ok(())
}

/// Maps shares (2 to 262144) to a weight (1 to 10000), as OCI runtimes do.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn or_max(value: i64) -> String {
    if value < 0 {
        "max".to_owned()
    } else {
        value.to_string()
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_map_to_weights() {
        assert_eq!(
            [0, 2, 1024, 262_144, u64::MAX].map(weight),
            [1, 1, 39, 10_000, 10_000]
        );
    }
}
