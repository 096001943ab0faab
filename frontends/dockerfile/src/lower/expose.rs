//! `EXPOSE`.

use std::net::IpAddr;

use crate::go;
use crate::lint::{Linter, Rule};
use crate::lower::Lowering;
use crate::lower::error::LowerError;
use crate::lower::stage::StageId;
use crate::span::LineSpan;

/// How a port is written.
const PORT: &str = "write a number from 0 to 65535, or a range that goes up: `80`, `8000-8010/udp`; after `/` comes \
    `tcp`, `udp` or `sctp`";

impl Lowering<'_> {
    pub(super) fn expose(
        &mut self,
        id: StageId,
        ports: &[String],
        span: LineSpan,
        lint: &Linter,
    ) -> Result<(), LowerError> {
        let env = self.stages.all[id].state.env.clone();
        let mut words = Vec::new();
        for port in ports {
            words.extend(self.expander.words(port, &env)?);
        }
        let mut exposed = Vec::new();
        for word in &words {
            exposed.extend(
                read_port(word, span, lint).map_err(|text| LowerError::advised(text, PORT))?,
            );
        }
        let items = exposed
            .iter()
            .map(|port| (port.clone(), serde_json::Map::new()));
        self.stages.all[id].image.config.exposed_ports.extend(items);
        self.record(id, format!("EXPOSE {}", go::list(&exposed)), false);
        Ok(())
    }
}

/// `port/proto` of each port of `[ip:][host:]port[-end][/proto]`.
fn read_port(text: &str, span: LineSpan, lint: &Linter) -> Result<Vec<String>, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (ip, host, container) = match parts.as_slice() {
        [container] => (String::new(), "", *container),
        [host, container] => (String::new(), *host, *container),
        [ip @ .., host, container] => (ip.join(":"), *host, *container),
        [] => (String::new(), "", ""),
    };
    let (port, proto) = container.split_once('/').unwrap_or((container, ""));
    let in_port = |what: String| format!("invalid port: {}: {what}", go::quote(text));
    if port.is_empty() {
        return Err(in_port("no port specified".to_owned()));
    }
    let lower = proto.to_lowercase();
    let lower = match lower.as_str() {
        "" => "tcp",
        "tcp" | "udp" | "sctp" => lower.as_str(),
        _ => return Err(in_port(format!("invalid proto: {proto}"))),
    };
    if !proto.is_empty() && proto != lower {
        lint.warn(Rule::ExposeProtoCasing, span, &[text]);
    }
    if !ip.is_empty() || !host.is_empty() {
        lint.warn(Rule::ExposeInvalidFormat, span, &[text]);
    }
    check_ip(&ip)?;
    let (start, end) = read_range(port).ok_or_else(|| format!("invalid containerPort: {port}"))?;
    if !host.is_empty() {
        let (first, last) = read_range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        // A range of host ports may serve one port of the container.
        if end - start != last - first && end != start {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {port} and {host}"
            ));
        }
    }
    Ok((start..=end)
        .map(|port| format!("{port}/{lower}"))
        .collect())
}

fn check_ip(ip: &str) -> Result<(), String> {
    let bare = match ip.strip_prefix('[') {
        Some(rest) => match rest.strip_suffix(']') {
            Some(bare) => bare,
            None => {
                return Err(format!(
                    "invalid IP address {ip}: address {ip}:: missing ']' in address"
                ));
            }
        },
        None => ip,
    };
    if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {bare}"));
    }
    Ok(())
}

fn read_range(text: &str) -> Option<(u32, u32)> {
    let number = |text: &str| {
        let port = go::parse_i64(text, 64).ok()?;
        u16::try_from(port).ok().map(u32::from)
    };
    let (start, end) = text.split_once('-').unwrap_or((text, text));
    let (start, end) = (number(start)?, number(end)?);
    (start <= end).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_spelled_out() {
        for (text, want) in [
            ("80", Ok("80/tcp")),
            ("53/UDP", Ok("53/udp")),
            ("8000-8002", Ok("8000/tcp 8001/tcp 8002/tcp")),
            ("1.2.3.4:80:90", Ok("90/tcp")),
            ("[::1]:80:90", Ok("90/tcp")),
            ("1-3:90", Ok("90/tcp")),
            ("x", Err("invalid containerPort: x")),
            (
                "80/foo",
                Err("invalid port: \"80/foo\": invalid proto: foo"),
            ),
            ("/tcp", Err("invalid port: \"/tcp\": no port specified")),
            ("9-1", Err("invalid containerPort: 9-1")),
            ("99999", Err("invalid containerPort: 99999")),
            ("x:1:2", Err("invalid IP address: x")),
            (
                "1-2:1-3",
                Err("invalid ranges specified for container and host Ports: 1-3 and 1-2"),
            ),
        ] {
            let ports = read_port(text, LineSpan::line(1), &Linter::silent());
            let ports = ports.map(|ports| ports.join(" "));
            assert_eq!(
                ports,
                want.map(str::to_owned).map_err(str::to_owned),
                "{text}"
            );
        }
    }
}
