//! The hosts that serve a registry, each with its connections and limits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use url::Url;

use crate::error::{RegistryError, SetupError};
use crate::hosts::{HostConfig, is_local, origin_of, split_mirror};
use crate::{Access, Options, tls};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a transfer may stand still before it is given up and resumed.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// One host that serves one registry.
pub(crate) struct Endpoint {
    /// The host's name and port: credentials are asked for it.
    pub(crate) host: String,
    /// `https://host/v2/[prefix/]`.
    base: Url,
    /// In front of the repository: a mirror may keep several registries.
    prefix: String,
    /// For a mirror, the registry that is meant.
    namespace: Option<String>,
    /// Plain HTTP is used when the host turns out to have no TLS.
    fallback: Option<AtomicBool>,
    pub(crate) connections: Arc<Connections>,
}

/// What all registries that one host serves share.
pub(crate) struct Connections {
    /// For small requests; speaks HTTP/2 where it can.
    pub(crate) requests: reqwest::Client,
    /// For blobs. HTTP/1.1 on purpose: HTTP/2 puts all transfers on one connection, where its
    /// flow control throttles them, uploads most of all.
    pub(crate) transfers: reqwest::Client,
    /// Bounds the small requests under way.
    pub(crate) request_slots: Arc<Semaphore>,
    /// Bounds the transfers under way.
    pub(crate) transfer_slots: Arc<Semaphore>,
}

impl Endpoint {
    /// The URL of `rest` in `repository`, e.g. `blobs/sha256:…`.
    pub(crate) fn url(&self, repository: &str, rest: &str) -> Result<Url, RegistryError> {
        let mut url = self
            .base
            .join(&format!("{repository}/{rest}"))
            .map_err(|_| RegistryError::Host(self.host.clone()))?;
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    /// `scope` with the repository's name as this host knows it.
    pub(crate) fn scope(&self, scope: &str) -> String {
        match scope.strip_prefix("repository:") {
            Some(rest) if !self.prefix.is_empty() => {
                format!("repository:{}/{rest}", self.prefix)
            }
            _ => scope.to_owned(),
        }
    }

    /// Takes in that the host speaks no TLS; true when plain HTTP may be tried instead.
    pub(crate) fn turns_out_plain(&self) -> bool {
        self.fallback
            .as_ref()
            .is_some_and(|plain| !plain.swap(true, Ordering::Relaxed))
    }

    /// `url` with the scheme that the host is known to speak.
    pub(crate) fn with_scheme(&self, mut url: Url) -> Url {
        let plain = self
            .fallback
            .as_ref()
            .is_some_and(|plain| plain.load(Ordering::Relaxed));
        if plain && url.host_str() == self.base.host_str() {
            // An `https` URL always takes `http` as its scheme.
            let _ = url.set_scheme("http");
        }
        url
    }

    /// Whether `url` leads to this host, so that the grants for it may be sent along.
    pub(crate) fn serves(&self, url: &Url) -> bool {
        url.host_str() == self.base.host_str() && url.port() == self.base.port()
    }
}

/// A client for anything but registries: the system's proxies and certificate authorities, and
/// the time limits of this crate.
///
/// # Errors
/// When the HTTP library cannot be set up.
pub fn http_client(user_agent: &str) -> Result<reqwest::Client, SetupError> {
    http_client_for(&HostConfig::default(), user_agent)
}

/// As [`http_client`], with the TLS settings of `host`.
///
/// # Errors
/// When the HTTP library cannot be set up, or a file that `host` names cannot be read.
pub fn http_client_for(host: &HostConfig, user_agent: &str) -> Result<reqwest::Client, SetupError> {
    let tls = tls::client_config(host, host.insecure, &[b"h2", b"http/1.1"])?;
    builder(user_agent, tls).build().map_err(SetupError::Client)
}

fn builder(user_agent: &str, tls: rustls::ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(user_agent)
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(STALL_TIMEOUT)
        .tcp_nodelay(true)
}

/// Finds the hosts of a registry and keeps them.
pub(crate) struct Endpoints {
    options: Options,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// By registry and whether checks are off.
    endpoints: HashMap<(String, Access), Arc<[Arc<Endpoint>]>>,
    /// By host and whether checks are off.
    connections: HashMap<(String, bool), Arc<Connections>>,
}

impl Endpoints {
    /// Checks that the files which `options` names can be used.
    pub(crate) fn new(options: Options) -> Result<Endpoints, SetupError> {
        for host in options.hosts.values() {
            if !host.ca.is_empty() || !host.keypairs.is_empty() {
                tls::client_config(host, host.insecure, &[])?;
            }
        }
        Ok(Endpoints {
            options,
            known: Mutex::default(),
        })
    }

    /// The hosts to try for `access` to the registry `domain`, in order; the origin is the last.
    pub(crate) fn of(
        &self,
        domain: &str,
        access: Access,
    ) -> Result<Arc<[Arc<Endpoint>]>, RegistryError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (domain.to_owned(), access);
        if let Some(found) = known.endpoints.get(&key) {
            return Ok(found.clone());
        }
        let config = self.options.hosts.get(domain);
        let mut hosts = Vec::new();
        if access == Access::Pull {
            for mirror in config.iter().flat_map(|c| &c.mirrors) {
                let (host, path) = split_mirror(mirror);
                let config = self.options.hosts.get(host).cloned().unwrap_or_default();
                hosts.push(self.endpoint(&mut known, host, path, Some(domain), &config)?);
            }
        }
        let mut config = config.cloned().unwrap_or_default();
        if access == Access::PushInsecure {
            (config.http, config.insecure) = (Some(true), true);
        }
        hosts.push(self.endpoint(&mut known, origin_of(domain), "", None, &config)?);
        let hosts: Arc<[_]> = hosts.into();
        known.endpoints.insert(key, hosts.clone());
        Ok(hosts)
    }

    fn endpoint(
        &self,
        known: &mut Known,
        host: &str,
        prefix: &str,
        namespace: Option<&str>,
        config: &HostConfig,
    ) -> Result<Arc<Endpoint>, RegistryError> {
        let plain = config.http.unwrap_or_else(|| is_local(host));
        let scheme = if plain && !config.insecure {
            "http"
        } else {
            "https"
        };
        let path = if prefix.is_empty() {
            String::new()
        } else {
            format!("{prefix}/")
        };
        let base = Url::parse(&format!("{scheme}://{host}/v2/{path}"))
            .map_err(|_| RegistryError::Host(host.to_owned()))?;
        let key = (host.to_owned(), config.insecure);
        let connections = match known.connections.get(&key) {
            Some(connections) => connections.clone(),
            None => {
                let made = self
                    .connect(host, config)
                    .map_err(|source| RegistryError::Setup {
                        host: host.to_owned(),
                        source,
                    })?;
                known.connections.insert(key, made.clone());
                made
            }
        };
        Ok(Arc::new(Endpoint {
            host: host.to_owned(),
            base,
            prefix: prefix.to_owned(),
            namespace: namespace.map(str::to_owned),
            fallback: (plain && config.insecure).then(AtomicBool::default),
            connections,
        }))
    }

    fn connect(&self, host: &str, config: &HostConfig) -> Result<Arc<Connections>, SetupError> {
        let slots = || Arc::new(Semaphore::new(self.options.max_concurrency.max(1)));
        Ok(Arc::new(Connections {
            requests: self.client(host, config, &[b"h2", b"http/1.1"])?,
            transfers: self.client(host, config, &[b"http/1.1"])?,
            request_slots: slots(),
            transfer_slots: slots(),
        }))
    }

    fn client(
        &self,
        host: &str,
        config: &HostConfig,
        protocols: &[&[u8]],
    ) -> Result<reqwest::Client, SetupError> {
        let tls = tls::client_config(config, config.insecure, protocols)?;
        let mut builder = builder(&self.options.user_agent, tls);
        if protocols.len() == 1 {
            builder = builder.http1_only();
        }
        if is_local(host) {
            builder = builder.no_proxy();
        }
        builder.build().map_err(SetupError::Client)
    }
}
