//! A filesystem and what a container on it starts with.

use oci::{ImageConfig, Platform};

use super::{Env, Output};
use crate::{NetMode, SecurityMode};

/// A filesystem and what a container on it starts with.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub(super) output: Option<Output>,
    pub(super) platform: Option<Platform>,
    /// Environment variables.
    pub env: Env,
    dir: String,
    /// `user[:group]`.
    pub user: String,
    /// Host name; empty is the default.
    pub hostname: String,
    /// The network of containers.
    pub network: NetMode,
    /// The confinement of containers.
    pub security: SecurityMode,
}

impl State {
    /// The empty filesystem.
    pub fn scratch() -> State {
        State::of(None, None)
    }

    pub(super) fn of(output: Option<Output>, platform: Option<Platform>) -> State {
        let platform = platform.map(|platform| platform.normalized());
        State {
            output,
            platform,
            dir: "/".to_owned(),
            ..State::default()
        }
    }

    /// Whether the filesystem is empty.
    pub fn is_scratch(&self) -> bool {
        self.output.is_none()
    }

    /// The platform of containers, when the state knows one.
    pub fn platform(&self) -> Option<&Platform> {
        self.platform.as_ref()
    }

    /// Sets the platform of containers.
    pub fn set_platform(&mut self, platform: &Platform) {
        self.platform = Some(platform.normalized());
    }

    /// The working directory, absolute.
    pub fn dir(&self) -> &str {
        &self.dir
    }

    /// Sets the working directory; a relative one is below the present one.
    pub fn set_dir(&mut self, dir: &str) {
        self.dir = if dir.starts_with('/') {
            dir.to_owned()
        } else {
            super::file::join(&self.dir, dir)
        };
    }

    /// Takes environment, working directory and platform of an image.
    pub fn apply_image(&mut self, config: &ImageConfig) {
        for variable in &config.config.env {
            let (key, value) = variable.split_once('=').unwrap_or((variable, ""));
            if !key.is_empty() {
                self.env.set(key, value);
            }
        }
        self.set_dir(&config.config.working_dir);
        if !config.architecture.is_empty() && !config.os.is_empty() {
            self.set_platform(&config.platform());
        }
    }

    /// The same settings on another filesystem.
    #[must_use]
    pub fn on(&self, other: &State) -> State {
        State {
            output: other.output,
            ..self.clone()
        }
    }

    pub(super) fn with_output(&self, output: Output) -> State {
        State {
            output: Some(output),
            ..self.clone()
        }
    }
}
