//! For whom a worker works, and what they may do.
//!
//! An engine may do everything: it has asked for entitlements already. The clients of users reach
//! images and containers only, and those who are not this machine's administrator no more of the
//! machine than a build would let them.

use rpc::connection::Peer;
use tonic::transport::server::TlsConnectInfo;
use tonic::{Extensions, Status};

use crate::failure::Failure;

/// Who calls a service.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Audience {
    /// An engine.
    Engine,
    /// Whoever can reach the daemon.
    Clients(ClientRules),
}

/// What the configuration lets every client do.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientRules {
    /// Containers may have the host's network, as builds may that are granted `network.host`.
    pub host_network: bool,
}

/// What a caller may do with containers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rights {
    /// Their containers may see files of the host.
    host_files: bool,
    /// Their containers may have the host's network.
    host_network: bool,
}

impl Audience {
    /// Refuses what only an engine may ask for.
    pub(crate) fn engines_only(self) -> Result<(), Status> {
        match self {
            Audience::Engine => Ok(()),
            Audience::Clients(_) => Err(Status::permission_denied(
                "only the daemon's own engine may call this; use the Control service",
            )),
        }
    }

    /// The rights of whoever sent a request with these extensions.
    pub(crate) fn rights(self, extensions: &Extensions) -> Rights {
        let (all, rules) = match self {
            Audience::Engine => (true, ClientRules::default()),
            Audience::Clients(rules) => (is_administrator(extensions), rules),
        };
        Rights {
            host_files: all,
            host_network: all || rules.host_network,
        }
    }
}

impl Rights {
    /// Refuses a container that is given `network` and has (or not) files of the host mounted, if
    /// it goes too far.
    pub(crate) fn check(self, host_files: bool, host_network: bool) -> Result<(), Failure> {
        if host_files && !self.host_files {
            return Err(Failure::denied(
                "only root on the daemon's machine may mount its files; use a named volume instead",
            ));
        }
        if host_network && !self.host_network {
            return Err(Failure::denied(
                "only root on the daemon's machine may use its network; use `--network bridge`, or have \
                 network.host among the daemon's insecure-entitlements",
            ));
        }
        Ok(())
    }
}

/// Whether the caller is a process of this machine that could do without the daemon: root's, or of
/// the user the daemon runs as.
fn is_administrator(extensions: &Extensions) -> bool {
    let peer = extensions.get::<Peer>().or_else(|| {
        let secured = extensions.get::<TlsConnectInfo<Peer>>();
        secured.map(TlsConnectInfo::get_ref)
    });
    match peer {
        Some(Peer::Local { uid: Some(uid) }) => {
            *uid == 0 || *uid == rustix::process::geteuid().as_raw()
        }
        Some(Peer::Local { uid: None } | Peer::Remote(_)) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(peer: Option<Peer>, rules: ClientRules) -> (bool, bool) {
        let mut extensions = Extensions::new();
        if let Some(peer) = peer {
            extensions.insert(peer);
        }
        let rights = Audience::Clients(rules).rights(&extensions);
        (
            rights.check(true, false).is_ok(),
            rights.check(false, true).is_ok(),
        )
    }

    #[test]
    fn only_administrators_of_this_machine_reach_the_host() {
        let none = ClientRules::default();
        let network = ClientRules { host_network: true };
        let local = |uid| Some(Peer::Local { uid });
        let other = rustix::process::geteuid().as_raw() + 1;
        assert_eq!(rights(local(Some(0)), none), (true, true));
        assert_eq!(rights(local(Some(other)), none), (false, false));
        assert_eq!(rights(local(Some(other)), network), (false, true));
        assert_eq!(rights(local(None), none), (false, false));
        assert_eq!(rights(Some(Peer::Remote(None)), none), (false, false));
        assert_eq!(rights(None, network), (false, true));
    }

    #[test]
    fn clients_cannot_act_as_an_engine() {
        assert!(Audience::Engine.engines_only().is_ok());
        let refused = Audience::Clients(ClientRules { host_network: true }).engines_only();
        assert_eq!(refused.unwrap_err().code(), tonic::Code::PermissionDenied);
    }
}
