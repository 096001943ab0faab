//! Frontends that are images: where one comes from, and how it is started.

use std::collections::BTreeMap;
use std::sync::Arc;

use frontend::{Bridge, FrontendError, ResolveImage, ResolveMode};
use llb::Graph;
use llb::builder::{Builder, Defaults, ImageSource, Options as Vertex};
use oci::{Digest, Platform, Reference};

use crate::context::{Client, ContextError, NamedContext, Surroundings as _, follow_list};
use crate::image;
use crate::lower::{Failure, LowerError, chain};
use crate::options::Options;

/// A frontend that is an image, or something that the client offers under the image's name.
#[derive(Clone, Debug)]
pub struct FrontendImage {
    /// Its files.
    pub graph: Arc<Graph>,
    /// The digest that the image's name stands for; none of something that is not an image.
    pub digest: Option<Digest>,
    /// The program with its arguments; empty where the image names none.
    pub entrypoint: Vec<String>,
    /// Variables.
    pub env: Vec<String>,
    /// Where the program starts; empty is the root.
    pub working_dir: String,
    /// What the image says of itself.
    pub labels: BTreeMap<String, String>,
}

/// Finds the frontend `name` for the build of `bridge`: a context that the client offers under this
/// name, else the image.
///
/// # Errors
/// When the name is no image's, or the image cannot be resolved.
pub async fn frontend_image(
    bridge: &Arc<dyn Bridge>,
    name: &str,
) -> Result<FrontendImage, FrontendError> {
    let host = bridge.worker_platforms().first().cloned();
    let host = host.unwrap_or_else(Platform::host);
    let options = Options::read(bridge.options(), host)
        .map_err(|error| FrontendError::invalid(chain(&error)))?;
    let failed = |error: ContextError| Failure::from(LowerError::from(error)).into_frontend(None);
    match NamedContext::find(&options, name, None).map_err(failed)? {
        Some(context) => {
            let client = Client::new(bridge.clone(), Arc::new(options));
            offered(&client, &context).await.map_err(failed)
        }
        None => resolved(bridge, name).await.map_err(failed),
    }
}

async fn offered(client: &Client, context: &NamedContext) -> Result<FrontendImage, ContextError> {
    let mut builder = Builder::new();
    let fetched = client.named_source(context).await?;
    let loaded = fetched.load(&mut builder, context)?;
    if let Some((deferred, mut local, vertex)) = loaded.local {
        local.follow_paths = follow_list([]);
        let state = builder.local(&local, vertex);
        builder.resolve(deferred, &state);
    }
    let config = loaded.image.unwrap_or_default().config;
    let definition = builder.definition(&loaded.state, &Defaults::default());
    Ok(FrontendImage {
        graph: Arc::new(Graph::new(&definition)?),
        digest: None,
        entrypoint: config.entrypoint.unwrap_or_default(),
        env: config.env,
        working_dir: config.working_dir,
        labels: config.labels,
    })
}

async fn resolved(bridge: &Arc<dyn Bridge>, name: &str) -> Result<FrontendImage, ContextError> {
    let reference = Reference::parse(name)?.with_default_tag();
    let request = ResolveImage {
        reference: reference.to_string(),
        platform: None,
        mode: ResolveMode::Default,
        log_name: format!("resolve image config for docker-image://{reference}"),
        layout: None,
    };
    let found = bridge.resolve_image(request).await?;
    let mut reference = Reference::parse(&found.reference)?.with_default_tag();
    reference.digest = Some(found.digest);
    let what = format!("failed to parse the config of frontend image {name}");
    let config = image::read(&found.config);
    let config = config.map_err(|source| ContextError::Config { what, source })?;
    let mut builder = Builder::new();
    let source = ImageSource {
        reference,
        resolve_mode: String::new(),
        layout: None,
    };
    let state = builder.image(&source, Vertex::default());
    let definition = builder.definition(&state, &Defaults::default());
    Ok(FrontendImage {
        graph: Arc::new(Graph::new(&definition)?),
        digest: Some(found.digest),
        entrypoint: config.config.entrypoint.unwrap_or_default(),
        env: config.config.env,
        working_dir: config.config.working_dir,
        labels: config.config.labels,
    })
}
