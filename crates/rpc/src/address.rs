//! Where a daemon listens.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// An address that a daemon can listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `unix://<path>`
    Unix(PathBuf),
    /// `tcp://<host>:<port>`; kept as `host:port`.
    Tcp(String),
    /// `fd://[<number or name>]`: sockets that were open when the process started.
    Fd(String),
}

/// Why a text is not an [`Address`].
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// There is no `scheme://`.
    #[error("address `{0}` has no scheme: expected `unix://`, `tcp://` or `fd://`")]
    NoScheme(String),
    /// The scheme is not one of ours.
    #[error("scheme `{scheme}` of address `{address}` is not supported")]
    UnknownScheme {
        /// What was given.
        address: String,
        /// Its scheme.
        scheme: String,
    },
    /// Nothing follows the scheme, or a TCP address has no port.
    #[error("address `{0}` is incomplete")]
    Incomplete(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(address: &str) -> Result<Address, AddressError> {
        let (scheme, rest) = address
            .split_once("://")
            .ok_or_else(|| AddressError::NoScheme(address.to_owned()))?;
        match scheme {
            "unix" if !rest.is_empty() => Ok(Address::Unix(PathBuf::from(rest))),
            "tcp" => {
                let rest = rest.trim_end_matches('/');
                match rest.rsplit_once(':') {
                    Some((_, port)) if port.parse::<u16>().is_ok() => {
                        Ok(Address::Tcp(rest.to_owned()))
                    }
                    _ => Err(AddressError::Incomplete(address.to_owned())),
                }
            }
            "fd" => Ok(Address::Fd(rest.to_owned())),
            "unix" => Err(AddressError::Incomplete(address.to_owned())),
            _ => Err(AddressError::UnknownScheme {
                address: address.to_owned(),
                scheme: scheme.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Tcp(host) => write!(f, "tcp://{host}"),
            Address::Fd(name) => write!(f, "fd://{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_survives_a_round_trip() {
        for address in [
            "unix:///run/d.sock",
            "tcp://0.0.0.0:1234",
            "tcp://[::1]:80",
            "fd://",
            "fd://3",
        ] {
            assert_eq!(address.parse::<Address>().unwrap().to_string(), address);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for address in [
            "",
            "/run/d.sock",
            "unix://",
            "tcp://host",
            "tcp://host:x",
            "npipe:////x",
        ] {
            assert!(address.parse::<Address>().is_err(), "{address}");
        }
    }
}
