//! Surroundings without an engine: for lints and outlines.

use async_trait::async_trait;
use bytes::Bytes;
use frontend::{FrontendError, ResolveImage, ResolveSource, ResolvedImage, ResolvedSource};
use oci::{Digest, Platform};

use super::{ContextError, Fetched, MainSource, NamedContext, Surroundings};

/// Takes every image to be an empty one for the wanted platform.
#[derive(Debug, Default)]
pub(crate) struct Offline {
    /// Patterns of the ignore file.
    pub(crate) ignore: Vec<String>,
}

#[async_trait]
impl Surroundings for Offline {
    async fn resolve_image(&self, request: ResolveImage) -> Result<ResolvedImage, FrontendError> {
        let platform = request.platform.unwrap_or_else(Platform::host);
        let config = serde_json::json!({
            "architecture": platform.architecture,
            "os": platform.os,
            "variant": platform.variant,
            "history": [{"created_by": "unknown"}],
        });
        let config = Bytes::from(config.to_string());
        let digest = Digest::of(request.reference.as_bytes());
        Ok(ResolvedImage {
            digest,
            config,
            reference: request.reference,
        })
    }

    async fn resolve_source(&self, _: ResolveSource) -> Result<ResolvedSource, FrontendError> {
        Ok(ResolvedSource::default())
    }

    async fn ignore_patterns(&self) -> Result<Vec<String>, ContextError> {
        Ok(self.ignore.clone())
    }

    async fn main_source(&self) -> Result<MainSource, ContextError> {
        Ok(MainSource::Local {
            session: String::new(),
            excludes: self.ignore.clone(),
        })
    }

    async fn named_source(&self, _: &NamedContext) -> Result<Fetched, ContextError> {
        Ok(Fetched::Scratch)
    }

    async fn ssh_host_key(&self, _: &str) -> Option<String> {
        None
    }

    async fn archive_time(&self, _: &ResolveSource) -> Result<Option<i64>, ContextError> {
        Ok(None)
    }
}
