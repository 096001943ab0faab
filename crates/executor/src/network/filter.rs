//! Address translation, by `nft` or, where that is missing, `iptables`.
//!
//! Names and addresses in the arguments are made by this crate: hexadecimal owners, checked device
//! names, parsed networks.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use sys::netlink::Network as Subnet;

use super::NetworkError;

/// The most characters of a program's complaint that are kept.
const MAX_COMPLAINT: usize = 300;

/// Lets containers on `bridge` reach the world under the host's addresses.
pub(super) fn install(owner: &str, bridge: &str, subnet: Subnet) -> Result<(), NetworkError> {
    let by_nft = nft(&rules(owner, bridge, subnet));
    let result = match by_nft {
        Ok(()) => Ok(()),
        Err(nft) => match install_iptables(owner, bridge, subnet) {
            Ok(()) => return Ok(()),
            Err(iptables) => Err(NetworkError::Filter(format!("{nft}; {iptables}"))),
        },
    };
    // Where another program (Docker) drops what it does not know, only an exception in its own tables
    // helps: a packet has to pass all tables.
    if iptables(&["-S", "FORWARD"]).is_ok_and(|rules| rules.contains("-P FORWARD DROP")) {
        for rule in forward_rules(owner, bridge) {
            let _ = iptables(&borrowed(&with("-I", &rule)));
        }
    }
    result
}

/// Removes what [`install`] made.
pub(super) fn remove(owner: &str) {
    let _ = nft(&format!("delete table ip {}\n", table(owner)));
    let mark = comment(owner);
    for chain in [&["-t", "nat", "-S", "POSTROUTING"][..], &["-S", "FORWARD"]] {
        let Ok(rules) = iptables(chain) else { continue };
        for rule in rules.lines().filter(|rule| rule.contains(&mark)) {
            // `-S` prints rules as arguments; none of ours has a space in a value.
            let words: Vec<&str> = rule
                .split_whitespace()
                .map(|word| word.trim_matches('"'))
                .collect();
            let mut arguments: Vec<&str> = chain
                .iter()
                .copied()
                .take_while(|word| *word != "-S")
                .collect();
            arguments.push("-D");
            arguments.extend(&words[1..]);
            let _ = iptables(&arguments);
        }
    }
}

fn table(owner: &str) -> String {
    format!("drydock-{owner}")
}

fn comment(owner: &str) -> String {
    format!("drydock-{owner}")
}

fn rules(owner: &str, bridge: &str, subnet: Subnet) -> String {
    let table = table(owner);
    // The first two lines make the whole replace an older table.
    format!(
        "table ip {table} {{ }}\n\
         delete table ip {table}\n\
         table ip {table} {{\n\
         chain postrouting {{\n\
         type nat hook postrouting priority srcnat; policy accept;\n\
         ip saddr {subnet} oifname != \"{bridge}\" masquerade\n\
         }}\n\
         }}\n"
    )
}

fn nft(commands: &str) -> Result<(), String> {
    run(Command::new("nft").args(["-f", "-"]), commands).map(drop)
}

fn install_iptables(owner: &str, bridge: &str, subnet: Subnet) -> Result<(), String> {
    let subnet = subnet.to_string();
    let mark = comment(owner);
    let masquerade = [
        "-t",
        "nat",
        "-A",
        "POSTROUTING",
        "-s",
        &subnet,
        "!",
        "-o",
        bridge,
        "-m",
        "comment",
        "--comment",
        &mark,
        "-j",
        "MASQUERADE",
    ];
    iptables(&masquerade)?;
    for rule in forward_rules(owner, bridge) {
        iptables(&borrowed(&with("-I", &rule)))?;
    }
    Ok(())
}

fn forward_rules(owner: &str, bridge: &str) -> [Vec<String>; 2] {
    let mark = comment(owner);
    let rule = |direction: &str| {
        [
            "FORWARD",
            direction,
            bridge,
            "-m",
            "comment",
            "--comment",
            &mark,
            "-j",
            "ACCEPT",
        ]
        .map(str::to_owned)
        .to_vec()
    };
    [rule("-i"), rule("-o")]
}

fn with(command: &str, rule: &[String]) -> Vec<String> {
    [command.to_owned()]
        .into_iter()
        .chain(rule.iter().cloned())
        .collect()
}

fn borrowed(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn iptables(arguments: &[&str]) -> Result<String, String> {
    // `-w`: wait for others who change the tables.
    run(Command::new("iptables").arg("-w").args(arguments), "")
}

fn run(command: &mut Command, input: &str) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut attempt = || -> io::Result<Output> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read has other things to say.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    };
    match attempt() {
        Err(error) => Err(format!("`{name}`: {error}")),
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) => {
            let complaint = String::from_utf8_lossy(&output.stderr);
            let complaint: String = complaint.trim().chars().take(MAX_COMPLAINT).collect();
            Err(format!(
                "`{name}` failed with {}: {complaint}",
                output.status
            ))
        }
    }
}
