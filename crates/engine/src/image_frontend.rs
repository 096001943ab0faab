//! Frontends that come as images.

use std::collections::BTreeSet;
use std::sync::Arc;

use frontend::{Bridge, BuildResult, FrontendError};
use oci::{Digest, Reference};

use crate::bridge::BuildBridge;

/// What a frontend image says that its program can do.
const CAPS: &str = "moby.buildkit.frontend.caps";
/// Set to true by a frontend image whose program needs no network.
const NO_NETWORK: &str = "moby.buildkit.frontend.network.none";
/// The capability to take graphs as inputs.
const INPUTS: &str = "moby.buildkit.frontend.inputs";

/// Images of Docker's that are older than their label and take inputs all the same (BuildKit:
/// `frontend/gateway/gateway.go`).
const TAKE_INPUTS: [&str; 4] = [
    "sha256:9ac1c43a60e31dca741a6fe8314130a9cd4c4db0311fbbc636ff992ef60ae76d",
    "sha256:080bd74d8778f83e7b670de193362d8c593c8b14f5c8fb919d28ee8feda0d069",
    "sha256:60543a9d92b92af5088fb2938fb09b2072684af8384399e153e137fe081f8ab4",
    "sha256:de85b2f3a3e8a2f7fe48e8e84a65f6fdd5cd5183afa6412fff9caa6871649c44",
];

/// Whether the built-in frontend stands in for the image `source`.
pub(crate) fn is_stood_in(repositories: &[String], source: &str) -> bool {
    let name = |text: &str| {
        Reference::parse(text)
            .ok()
            .map(|reference| reference.name())
    };
    let Some(asked) = name(source) else {
        return false;
    };
    repositories
        .iter()
        .any(|repository| name(repository).as_ref() == Some(&asked))
}

/// Runs the frontend image `source` for the build of `bridge`.
pub(crate) async fn run(bridge: BuildBridge, source: &str) -> Result<BuildResult, FrontendError> {
    if bridge.options.contains_key("gateway-devel") {
        let text = "development gateway is no longer supported";
        return Err(FrontendError::invalid(text));
    }
    let worker = bridge.shared.worker.description();
    let facts = gateway::Facts {
        worker: worker.id.clone(),
        labels: worker.labels.clone(),
        platforms: worker.platforms.clone(),
    };
    let has_inputs = !bridge.inputs.is_empty();
    let wanted = bridge.options.get("frontend.caps").cloned();
    let bridge: Arc<dyn Bridge> = Arc::new(bridge);
    let image = dockerfile::frontend_image(&bridge, source).await?;
    let label = image.labels.get(CAPS).map(String::as_str);
    require(wanted.as_deref(), has_inputs, label, image.digest)?;
    let no_network = image.labels.get(NO_NETWORK).map(String::as_str);
    let program = gateway::Program {
        name: source.to_owned(),
        files: image.graph,
        args: match image.entrypoint.is_empty() {
            true => vec!["/run".to_owned()],
            false => image.entrypoint,
        },
        env: image.env,
        cwd: match image.working_dir.as_str() {
            "" => "/".to_owned(),
            _ => image.working_dir,
        },
        network: !matches!(no_network, Some("1" | "t" | "T" | "true" | "TRUE" | "True")),
    };
    gateway::run_program(bridge, facts, program).await
}

/// Refuses a frontend that lacks what the build needs.
fn require(
    wanted: Option<&str>,
    has_inputs: bool,
    label: Option<&str>,
    image: Option<Digest>,
) -> Result<(), FrontendError> {
    let list = |text: Option<&str>| -> BTreeSet<String> {
        let names = text.unwrap_or_default().split(',').map(str::trim);
        let names = names.filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    };
    let mut has = list(label);
    if image.is_some_and(|digest| TAKE_INPUTS.contains(&digest.to_string().as_str())) {
        has.insert(INPUTS.to_owned());
    }
    let mut wanted = list(wanted);
    if has_inputs {
        wanted.insert(INPUTS.to_owned());
    }
    match wanted.difference(&has).next() {
        Some(name) => Err(FrontendError::UnsupportedCapability(name.clone())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_stood_in_for_by_repository() {
        let repositories = ["docker/dockerfile".to_owned()];
        for (source, want) in [
            ("docker/dockerfile", true),
            ("docker/dockerfile:1.7-labs", true),
            (
                "docker.io/docker/dockerfile:1@sha256:0000000000000000000000000000000000000000000000000000000000000000",
                true,
            ),
            ("docker/dockerfile-upstream:1", false),
            ("example.com/docker/dockerfile:1", false),
            (":", false),
        ] {
            assert_eq!(is_stood_in(&repositories, source), want, "{source}");
        }
        assert!(!is_stood_in(&[], "docker/dockerfile"));
    }

    #[test]
    fn a_frontend_must_be_able_to_do_what_is_wanted() {
        let check = |wanted, inputs, label| {
            require(wanted, inputs, label, None).map_err(|error| error.to_string())
        };
        assert!(check(None, false, None).is_ok());
        assert!(check(Some("a,b"), false, Some("b, a,c")).is_ok());
        assert!(check(Some("a"), false, None).is_err());
        assert!(check(None, true, Some("a")).is_err());
        assert!(check(None, true, Some(INPUTS)).is_ok());
    }
}
