//! `--registry-auth-tlscontext`: TLS settings for the token servers of registries.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use registry::{HostConfig, KeyPair};

use super::fields;

const FLAG: &str = "--registry-auth-tlscontext";

/// The settings by the registry's host. What is given for one host several times adds up.
pub(super) fn hosts(given: &[String]) -> anyhow::Result<BTreeMap<String, HostConfig>> {
    let mut hosts: BTreeMap<String, HostConfig> = BTreeMap::new();
    for text in given {
        let (host, read) = parse(text)?;
        let config = hosts.entry(host).or_default();
        config.insecure |= read.insecure;
        config.ca.extend(read.ca);
        config.keypairs.extend(read.keypairs);
    }
    Ok(hosts)
}

fn parse(text: &str) -> anyhow::Result<(String, HostConfig)> {
    let mut fields: BTreeMap<String, String> = fields::pairs(text)?.into_iter().collect();
    let mut take = |name| fields.remove(name).filter(|value| !value.is_empty());
    let host = take("host").with_context(|| format!("{FLAG} requires host=<host>"))?;
    let insecure = take("insecure");
    let insecure = insecure
        .is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"));
    let ca = take("ca").map(PathBuf::from);
    let (cert, key) = (
        take("cert").map(PathBuf::from),
        take("key").map(PathBuf::from),
    );
    let pair = match (cert, key) {
        (Some(cert), Some(key)) => Some(KeyPair { key, cert }),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => bail!("{FLAG} requires cert=<cert>,key=<key>"),
    };
    if !insecure && ca.is_none() && pair.is_none() {
        bail!("{FLAG} requires ca=<ca> or cert=<cert>,key=<key> or insecure=true");
    }
    Ok((
        host,
        HostConfig {
            insecure,
            ca: ca.into_iter().collect(),
            keypairs: pair.into_iter().collect(),
            ..HostConfig::default()
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_one_host_add_up() {
        let given = [
            "host=a.io:5000,ca=/ca",
            "host=a.io:5000,cert=/c,key=/k,insecure=true",
            "host=b.io,insecure=1",
        ];
        let hosts = hosts(&given.map(ToOwned::to_owned)).unwrap();
        let host = &hosts["a.io:5000"];
        assert_eq!(host.ca, [PathBuf::from("/ca")]);
        assert_eq!(host.keypairs[0].key, PathBuf::from("/k"));
        assert!(host.insecure && hosts["b.io"].insecure);
    }

    #[test]
    fn what_is_missing_is_told() {
        for (text, missing) in [
            ("ca=/x", "requires host=<host>"),
            ("host=a.io", "or insecure=true"),
            ("host=a.io,ca=/x,cert=/y", "requires cert=<cert>,key=<key>"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.ends_with(missing), "{text}: {error}");
        }
    }
}
