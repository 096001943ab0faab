//! Where a layer that is not here yet can be had.

use std::fmt;
use std::str::FromStr;

use oci::Reference;

/// Who serves a blob. Its text form is what is recorded for a lazy layer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// A repository of a registry: `docker-image://docker.io/library/alpine`.
    Repository {
        /// The registry's name and port.
        domain: String,
        /// The repository.
        path: String,
    },
    /// An OCI layout at a client: `oci-layout://<session>/<store>`.
    Layout {
        /// The client's session.
        session: String,
        /// The layout's name in that session.
        store: String,
    },
}

/// A text that names no origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid origin of a layer `{0}`")]
pub struct ParseOriginError(String);

impl Origin {
    /// The repository of `reference`.
    pub fn of(reference: &Reference) -> Origin {
        Origin::Repository {
            domain: reference.domain.clone(),
            path: reference.path.clone(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Repository { domain, path } => write!(f, "docker-image://{domain}/{path}"),
            Origin::Layout { session, store } => write!(f, "oci-layout://{session}/{store}"),
        }
    }
}

impl FromStr for Origin {
    type Err = ParseOriginError;

    fn from_str(text: &str) -> Result<Origin, ParseOriginError> {
        let error = || ParseOriginError(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(error)?;
        match scheme {
            "docker-image" => Reference::parse(rest)
                .map(|reference| Origin::of(&reference))
                .map_err(|_| error()),
            "oci-layout" => {
                let (session, store) = rest.split_once('/').ok_or_else(error)?;
                Ok(Origin::Layout {
                    session: session.to_owned(),
                    store: store.to_owned(),
                })
            }
            _ => Err(error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        for text in [
            "docker-image://docker.io/library/alpine",
            "oci-layout://s1/a/b",
        ] {
            assert_eq!(
                text.parse::<Origin>().map(|o| o.to_string()),
                Ok(text.to_owned())
            );
        }
        for bad in ["", "alpine", "docker-image://A", "oci-layout://s"] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }
}
