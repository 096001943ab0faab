//! Options about the containers of `RUN`: hosts, limits, processors.

use std::collections::BTreeMap;
use std::net::IpAddr;

use llb::{HostIp, LinuxResources, Ulimit};

use super::fields;
use crate::go;

pub(super) fn read_hosts(text: &str) -> Result<Vec<HostIp>, String> {
    fields(text)?
        .into_iter()
        .map(|field| {
            let lower = field.to_lowercase();
            let (host, ip) = lower
                .split_once('=')
                .ok_or_else(|| format!("invalid key-value pair {field}"))?;
            let address: IpAddr = ip.parse().map_err(|_| format!("failed to parse IP {ip}"))?;
            // Go keeps an IPv4 address in IPv6 form as the IPv4 address.
            Ok(HostIp {
                host: host.to_owned(),
                ip: address.to_canonical().to_string(),
            })
        })
        .collect()
}

const ULIMITS: &[&str] = &[
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

pub(super) fn read_ulimits(text: &str) -> Result<Vec<Ulimit>, String> {
    fields(text)?
        .iter()
        .map(|field| read_ulimit(field))
        .collect()
}

fn read_ulimit(field: &str) -> Result<Ulimit, String> {
    let (name, limits) = field
        .split_once('=')
        .ok_or_else(|| format!("invalid ulimit argument: {field}"))?;
    if !ULIMITS.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let number = |text: &str| go::parse_i64(text, 64).map_err(|error| error.to_string());
    let (soft, hard) = match limits.split(':').collect::<Vec<_>>().as_slice() {
        [both] => {
            let both = number(both)?;
            (both, both)
        }
        [soft, hard] => {
            let hard = number(hard)?;
            (number(soft)?, hard)
        }
        _ => {
            return Err(format!(
                "too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
            ));
        }
    };
    let order = "ulimit soft limit must be less than or equal to hard limit";
    if hard != -1 && soft == -1 {
        return Err(format!("{order}: soft: -1 (unlimited), hard: {hard}"));
    }
    if hard != -1 && soft > hard {
        return Err(format!("{order}: {soft} > {hard}"));
    }
    Ok(Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

pub(super) fn read_resources(
    raw: &BTreeMap<String, String>,
) -> Result<Option<LinuxResources>, String> {
    let get = |key: &str| raw.get(key).map(String::as_str).unwrap_or_default();
    let signed = |key: &str, unlimited: bool| -> Result<i64, String> {
        let text = get(key);
        if text.is_empty() {
            return Ok(0);
        }
        let value = go::parse_i64(text, 64)
            .map_err(|error| format!("invalid {key} value: {text}: {error}"))?;
        match value {
            -1 if unlimited => Ok(-1),
            1.. => Ok(value),
            _ if unlimited => Err(format!(
                "invalid {key} value: {text}: must be -1 (unlimited) or > 0"
            )),
            _ => Err(format!("invalid {key} value: {text}: must be > 0")),
        }
    };
    let unsigned = |key: &str| -> Result<u64, String> {
        let text = get(key);
        if text.is_empty() {
            return Ok(0);
        }
        match go::parse_u64(text, 10, 64) {
            Ok(0) => Err(format!("invalid {key} value: {text}: must be > 0")),
            Ok(value) => Ok(value),
            Err(error) => Err(format!("invalid {key} value: {text}: {error}")),
        }
    };
    let set = |key: &str| -> Result<String, String> {
        check_cpuset(get(key))
            .map_err(|error| format!("invalid {key} value: {}: {error}", get(key)))?;
        Ok(get(key).to_owned())
    };
    let resources = LinuxResources {
        memory: signed("memory", false)?,
        memory_swap: signed("memswap", true)?,
        cpu_shares: unsigned("cpushares")?,
        cpu_period: unsigned("cpuperiod")?,
        cpu_quota: signed("cpuquota", false)?,
        cpuset_cpus: set("cpusetcpus")?,
        cpuset_mems: set("cpusetmems")?,
    };
    Ok((resources != LinuxResources::default()).then_some(resources))
}

/// The largest processor or memory node.
const MAX_CPU: i64 = 8192;

fn check_cpuset(text: &str) -> Result<(), String> {
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let number = |text: &str| go::parse_i64(text.trim(), 64).ok().filter(|n| *n >= 0);
        match part.split_once('-') {
            None => match number(part) {
                None => return Err(format!("invalid cpuset element {}", go::quote(part))),
                Some(n) if n > MAX_CPU => {
                    let part = go::quote(part);
                    return Err(format!("cpuset element {part} exceeds maximum {MAX_CPU}"));
                }
                Some(_) => {}
            },
            Some((low, high)) => match (number(low), number(high)) {
                (Some(low), Some(high)) if low <= high && high <= MAX_CPU => {}
                (Some(low), Some(high)) if low <= high => {
                    let part = go::quote(part);
                    return Err(format!("cpuset range {part} exceeds maximum {MAX_CPU}"));
                }
                _ => return Err(format!("invalid cpuset range {}", go::quote(part))),
            },
        }
    }
    Ok(())
}
