//! How registries are reached, from the configuration.

use std::collections::BTreeMap;

use registry::{HostConfig, HostsConfig, KeyPair};

use crate::config::{Config, Registry};

pub(super) fn registry_options(config: &Config) -> registry::Options {
    registry::Options {
        hosts: hosts(&config.registries),
        max_concurrency: config.max_registry_concurrency,
        ..registry::Options::default()
    }
}

fn hosts(registries: &BTreeMap<String, Registry>) -> HostsConfig {
    let host = |registry: &Registry| HostConfig {
        mirrors: registry.mirrors.clone(),
        http: registry.http,
        insecure: registry.insecure.unwrap_or(false),
        ca: registry.ca.clone(),
        keypairs: registry
            .keypairs
            .iter()
            .map(|(key, cert)| KeyPair {
                key: key.clone(),
                cert: cert.clone(),
            })
            .collect(),
        tls_dirs: registry.tls_config_dirs.clone(),
    };
    registries
        .iter()
        .map(|(name, registry)| (name.clone(), host(registry)))
        .collect()
}
