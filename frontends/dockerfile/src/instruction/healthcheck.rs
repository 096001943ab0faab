//! `HEALTHCHECK`.

use super::flags::Flags;
use super::{CommandKind, InstructionError};
use crate::go;
use crate::parse::{Arguments, Node};

pub(super) fn read_healthcheck(
    node: &Node,
    flags: Flags<'_>,
) -> Result<CommandKind, InstructionError> {
    let Arguments::Probe {
        kind,
        command,
        json,
    } = &node.arguments
    else {
        return Err(InstructionError::AtLeastOne("HEALTHCHECK"));
    };
    let kind = kind.to_uppercase();
    if kind == "NONE" {
        if !command.is_empty() {
            return Err(InstructionError::ProbeNone);
        }
        let probe = oci::HealthConfig {
            test: vec![kind],
            ..oci::HealthConfig::default()
        };
        return Ok(CommandKind::Healthcheck(probe));
    }
    let flags = flags
        .texts(&[
            "interval",
            "timeout",
            "start-period",
            "start-interval",
            "retries",
        ])
        .read()?;
    if kind != "CMD" {
        return Err(InstructionError::ProbeKind(kind));
    }
    if command.is_empty() {
        return Err(InstructionError::ProbeCommand);
    }
    let mut test = vec![if *json { "CMD" } else { "CMD-SHELL" }.to_owned()];
    test.extend(command.iter().cloned());
    let interval = probe_time(&flags, "interval")?;
    let timeout = probe_time(&flags, "timeout")?;
    let start_period = probe_time(&flags, "start-period")?;
    let start_interval = probe_time(&flags, "start-interval")?;
    let mut retries = 0;
    if let Some(text) = flags.get("retries").filter(|text| !text.is_empty()) {
        let value = |e: go::NumberError| InstructionError::ProbeValue(e.to_string());
        retries = go::parse_i64(text, 32).map_err(value)?;
        if retries < 0 {
            return Err(InstructionError::ProbeRetries(retries));
        }
    }
    Ok(CommandKind::Healthcheck(oci::HealthConfig {
        test,
        interval,
        timeout,
        start_period,
        start_interval,
        retries,
    }))
}

/// Nanoseconds of a flag; 0 when it is not given.
fn probe_time(flags: &Flags<'_>, name: &'static str) -> Result<i64, InstructionError> {
    const SHORTEST: i64 = 1_000_000;
    let Some(text) = flags.get(name).filter(|text| !text.is_empty()) else {
        return Ok(0);
    };
    let time = go::parse_duration(text).map_err(|e| InstructionError::ProbeValue(e.to_string()))?;
    if time != 0 && time < SHORTEST {
        return Err(InstructionError::ProbeInterval(name));
    }
    Ok(time)
}
