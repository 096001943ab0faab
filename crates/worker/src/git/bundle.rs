//! The bundle that a source op names in the place of its repository (BuildKit: `source/git/bundle.go`).

use llb::SourceOp;
use oci::{Digest, Reference};
use source::{BlobRequest, GitBundle};

use crate::failure::{Failure, chain};
use crate::images;
use crate::sessions::Sessions;
use crate::state::Shared;

/// Where bundles are: among the blobs of a registry, or in an OCI layout of the client.
const REGISTRY: &str = "docker-image+blob";
const LAYOUT: &str = "oci-layout+blob";

/// The bundle of `op`, if it names one. Nothing is fetched yet.
pub(super) fn find(
    shared: &Shared,
    op: &SourceOp,
    sessions: &Sessions,
) -> Result<Option<GitBundle>, Failure> {
    let attr = |key: &str| op.attrs.get(key).filter(|text| !text.is_empty());
    let Some(locator) = attr("git.bundle") else {
        return Ok(None);
    };
    let Locator {
        in_layout,
        name,
        digest,
    } = Locator::parse(locator)?;
    let repository: Reference = name.parse().map_err(|error| {
        let reason = chain(&error);
        Failure::user(format!(
            "failed to parse git.bundle locator {locator:?}: {reason}"
        ))
    })?;
    let layout = in_layout.then(|| {
        let own = name.split('@').next().unwrap_or_default();
        let store = attr("oci.store").map_or(own, String::as_str);
        let session = attr("oci.session").cloned();
        let session = session.or_else(|| sessions.ids().first().cloned());
        (session.unwrap_or_default(), store.to_owned())
    });
    let blob = BlobRequest {
        repository,
        layout,
        digest,
        filename: None,
        perm: None,
        uid: 0,
        gid: 0,
    };
    let sources = images::session_sources(shared, sessions);
    Ok(Some(GitBundle::new(blob, name.to_owned(), sources)))
}

/// `<scheme>://<name>@<digest>`.
#[derive(Debug, PartialEq, Eq)]
struct Locator<'a> {
    in_layout: bool,
    /// With the digest.
    name: &'a str,
    digest: Digest,
}

impl Locator<'_> {
    fn parse(text: &str) -> Result<Locator<'_>, Failure> {
        let refused = |reason: String| Failure::user(reason);
        let broken = |reason: &str| {
            refused(format!(
                "failed to parse git.bundle locator {text:?}: {reason}"
            ))
        };
        let (scheme, name) = text
            .split_once("://")
            .ok_or_else(|| broken("missing scheme"))?;
        if scheme != REGISTRY && scheme != LAYOUT {
            return Err(refused(format!(
                "git.bundle locator scheme {scheme:?} is not supported; expected {REGISTRY:?} or \
                 {LAYOUT:?}"
            )));
        }
        let (_, digest) = name.split_once('@').unwrap_or((name, ""));
        if let Some((algorithm, _)) = digest.split_once(':')
            && algorithm != "sha256"
        {
            return Err(refused(format!(
                "git.bundle locator {text:?}: digest algorithm {algorithm:?} not supported, \
                 expected \"sha256\""
            )));
        }
        let digest = digest
            .parse()
            .map_err(|_| broken("invalid digest: invalid checksum digest format"))?;
        Ok(Locator {
            in_layout: scheme == LAYOUT,
            name,
            digest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locators() {
        let digest = Digest::of("bundle");
        for (text, in_layout, name) in [
            ("docker-image+blob://host/repo@", false, "host/repo@"),
            ("oci-layout+blob://some/store@", true, "some/store@"),
        ] {
            let (text, name) = (format!("{text}{digest}"), format!("{name}{digest}"));
            let found = Locator::parse(&text).unwrap();
            assert_eq!((found.in_layout, found.name), (in_layout, name.as_str()));
            assert_eq!(found.digest, digest);
        }
        let sha512 = format!("docker-image+blob://r@sha512:{}", "1".repeat(128));
        for (text, reason) in [
            ("repo@sha256:1", "missing scheme"),
            ("http://repo@sha256:1", "scheme \"http\" is not supported"),
            ("docker-image+blob://repo", "invalid digest"),
            ("docker-image+blob://repo@sha256:1", "invalid digest"),
            (sha512.as_str(), "\"sha512\" not supported"),
        ] {
            let failure = Locator::parse(text).unwrap_err();
            assert!(failure.message.contains(reason), "{}", failure.message);
        }
    }
}
