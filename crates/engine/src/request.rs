//! What a client asks for, after the door has checked it.

use std::collections::BTreeMap;
use std::sync::Arc;

use frontend::policy::Policy;

use crate::devices::Granted;
use crate::{BuildError, CacheSpec};

/// One build, as asked for by a client.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// The client's name for the build, unique while it runs.
    pub build_ref: String,
    /// The client's session; empty when it has none.
    pub session: String,
    /// The span that the build is, as W3C's `traceparent` says it, if it belongs to a trace.
    pub trace_parent: Option<String>,
    /// `dockerfile.v0`, `gateway.v0`, or empty for plain LLB.
    pub frontend: String,
    /// The frontend's options.
    pub attrs: BTreeMap<String, String>,
    /// The graph of a plain LLB build.
    pub definition: Option<Arc<llb::Graph>>,
    /// Graphs offered to the frontend under names.
    pub inputs: BTreeMap<String, Arc<llb::Graph>>,
    /// Where the result goes.
    pub exporters: Vec<ExporterSpec>,
    /// Whether the client is asked for more outputs when it has seen the result.
    pub ask_for_exporters: bool,
    /// Build caches that are read before anything is run.
    pub cache_imports: Vec<CacheSpec>,
    /// Build caches that are written at the end.
    pub cache_exports: Vec<CacheSpec>,
    /// What the build may do beyond the default.
    pub entitlements: Entitlements,
    /// Which sources it may use.
    pub policies: Vec<Policy>,
    /// The session of a client that judges each source itself; empty when none does.
    pub policy_session: String,
}

/// One output of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExporterSpec {
    /// How.
    pub kind: ExporterKind,
    /// With what.
    pub attrs: BTreeMap<String, String>,
}

/// The kinds of output that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExporterKind {
    /// Into the worker's image store or a registry.
    Image,
    /// An OCI layout.
    Oci,
    /// A tar that `docker load` takes.
    Docker,
    /// The files in a tar.
    Tar,
    /// The files in a directory of the client.
    Local,
}

impl ExporterKind {
    /// Parses BuildKit's name.
    ///
    /// # Errors
    /// When there is no such exporter.
    pub fn parse(name: &str) -> Result<ExporterKind, BuildError> {
        Ok(match name {
            "image" => ExporterKind::Image,
            "oci" => ExporterKind::Oci,
            "docker" => ExporterKind::Docker,
            "tar" => ExporterKind::Tar,
            "local" => ExporterKind::Local,
            other => {
                return Err(BuildError::user(format!(
                    "exporter \"{other}\" could not be found"
                )));
            }
        })
    }

    /// BuildKit's name.
    pub fn name(self) -> &'static str {
        match self {
            ExporterKind::Image => "image",
            ExporterKind::Oci => "oci",
            ExporterKind::Docker => "docker",
            ExporterKind::Tar => "tar",
            ExporterKind::Local => "local",
        }
    }

    /// The name of the vertex that shows the export.
    pub fn vertex_name(self) -> &'static str {
        match self {
            ExporterKind::Image => "exporting to image",
            ExporterKind::Oci => "exporting to oci image format",
            ExporterKind::Docker => "exporting to docker image format",
            ExporterKind::Tar => "exporting to client tarball",
            ExporterKind::Local => "exporting to client directory",
        }
    }
}

/// What a build may do beyond the default; made only by [`Entitlements::grant`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entitlements {
    network_host: bool,
    security_insecure: bool,
    pub(crate) devices: Granted,
}

/// What the daemon's operator allows builds to ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllowedEntitlements {
    /// `network.host`.
    pub network_host: bool,
    /// `security.insecure`.
    pub security_insecure: bool,
    /// `device`.
    pub device: bool,
}

impl Entitlements {
    /// Checks what a client asks for against what the daemon allows.
    ///
    /// # Errors
    /// When an entitlement is unknown or not allowed, in BuildKit's words.
    pub fn grant(
        asked: &[String],
        allowed: AllowedEntitlements,
    ) -> Result<Entitlements, BuildError> {
        let mut granted = Entitlements::default();
        for name in asked {
            let (name, which) = match name.split_once('=') {
                Some((device @ "device", which)) => (device, which),
                _ => (name.as_str(), ""),
            };
            let allowed = match name {
                "network.host" => allowed.network_host,
                "security.insecure" => allowed.security_insecure,
                "device" => allowed.device,
                other => {
                    return Err(BuildError::user(format!("unknown entitlement {other}")));
                }
            };
            if !allowed {
                return Err(BuildError::user(format!(
                    "granting entitlement {name} is not allowed by build daemon configuration"
                )));
            }
            match name {
                "network.host" => granted.network_host = true,
                "security.insecure" => granted.security_insecure = true,
                _ => granted.devices.add(which).map_err(BuildError::user)?,
            }
        }
        Ok(granted)
    }

    /// Refuses a graph that needs more than was granted.
    ///
    /// # Errors
    /// Names the first entitlement that is missing.
    pub fn check(&self, graph: &llb::Graph) -> Result<(), BuildError> {
        graph
            .vertices()
            .try_for_each(|vertex| self.check_op(vertex.op()))
    }

    /// Refuses an op that needs more than was granted.
    ///
    /// # Errors
    /// Names the first entitlement that is missing.
    pub fn check_op(&self, op: &llb::Op) -> Result<(), BuildError> {
        if let llb::OpKind::Exec(exec) = &op.kind {
            if exec.network == llb::NetMode::Host && !self.network_host {
                return Err(BuildError::user("network.host is not allowed".to_owned()));
            }
            if exec.security == llb::SecurityMode::Insecure && !self.security_insecure {
                return Err(BuildError::user(
                    "security.insecure is not allowed".to_owned(),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_daemon_allows_is_granted() {
        let ask = |names: &[&str], allowed| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            Entitlements::grant(&names, allowed).map_err(|e| e.to_string())
        };
        let all = AllowedEntitlements {
            network_host: true,
            security_insecure: true,
            device: true,
        };
        assert!(ask(&["network.host", "security.insecure"], all).is_ok());
        assert!(ask(&["device=a/b=c,alias=d", "device"], all).is_ok());
        assert_eq!(
            ask(&["device=a/b=c"], AllowedEntitlements::default()).unwrap_err(),
            "granting entitlement device is not allowed by build daemon configuration"
        );
        assert_eq!(
            ask(&["security.insecure"], AllowedEntitlements::default()).unwrap_err(),
            "granting entitlement security.insecure is not allowed by build daemon configuration"
        );
        assert_eq!(ask(&["root"], all).unwrap_err(), "unknown entitlement root");
    }
}
