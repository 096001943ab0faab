//! [`Dockerfile`]: the frontend as the engine runs it.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use frontend::{
    Bridge, BuildResult, Frontend, FrontendError, ResultRef, SolveFrontend, SolveGraph,
};
use futures::future::join_all;
use llb::Graph;
use llb::builder::SourceFile;
use oci::Platform;

use crate::context::{Client, Entrypoint};
use crate::lower::{self, Caps, Failure, LowerError, Lowered, Request, chain};
use crate::options::Options;
use crate::report::{Places, located};
use crate::sbom::Scanner;
use crate::{image, parse, platform, requests};

/// The language of a Dockerfile, in source maps.
pub(crate) const LANGUAGE: &str = "Dockerfile";

/// The name of this frontend among frontends.
const BUILTIN: &str = "dockerfile.v0";

/// The frontend for Dockerfiles, `dockerfile.v0`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dockerfile {
    _private: (),
}

impl Dockerfile {
    /// The frontend; it has no state.
    pub fn new() -> Dockerfile {
        Dockerfile::default()
    }
}

#[async_trait]
impl Frontend for Dockerfile {
    async fn build(&self, bridge: Arc<dyn Bridge>) -> Result<BuildResult, FrontendError> {
        let worker = bridge.worker_platforms().first().cloned();
        let options = Options::read(bridge.options(), worker.unwrap_or_else(Platform::host))
            .map_err(|error| FrontendError::invalid(chain(&error)))?;
        let build = Build {
            client: Client::new(bridge.clone(), Arc::new(options.clone())),
            options,
            bridge,
        };
        build.run().await
    }
}

/// One build.
pub(crate) struct Build {
    pub(crate) bridge: Arc<dyn Bridge>,
    pub(crate) client: Client,
    pub(crate) options: Options,
}

/// The Dockerfile of a build.
pub(crate) struct Source {
    pub(crate) file: SourceFile,
    pub(crate) graph: Arc<Graph>,
}

impl Build {
    async fn run(&self) -> Result<BuildResult, FrontendError> {
        let missing = missing_capability(self.options.get("frontend.caps").unwrap_or_default());
        if let Some((name, false)) = &missing {
            return Err(FrontendError::UnsupportedCapability(name.clone()));
        }
        let Entrypoint {
            filename,
            data,
            graph,
        } = self
            .client
            .entrypoint()
            .await
            .map_err(|error| Failure::from(LowerError::from(error)).into_frontend(None))?;
        let definition = Some(graph.definition());
        let language = LANGUAGE.to_owned();
        let file = SourceFile {
            filename,
            language,
            data,
            definition,
        };
        let source = Source { file, graph };
        if let Some(result) = self.forward(&source).await {
            return result;
        }
        if let Some((name, _)) = missing {
            return Err(FrontendError::UnsupportedCapability(name));
        }
        if let Some(request) = self.options.get("requestid") {
            return requests::answer(self, &source, request).await;
        }
        self.build(&source).await
    }

    /// Hands the build on to the frontend that the file, or the build, asks for.
    async fn forward(&self, source: &Source) -> Option<Result<BuildResult, FrontendError>> {
        if self.options.get("cmdline").is_some() {
            return None;
        }
        let argument = self.options.get("build-arg:BUILDKIT_SYNTAX");
        let directive = parse::detect_syntax(&source.file.data);
        let (cmdline, span) = match (argument, &directive) {
            (Some(cmdline), _) => (cmdline, None),
            (None, Some(directive)) => (directive.value.as_str(), Some(directive.span)),
            (None, None) => return None,
        };
        let image = cmdline.trim().split(' ').next().unwrap_or_default();
        if image == BUILTIN && self.options.get(&format!("context:{BUILTIN}")).is_none() {
            return None;
        }
        let mut options = self.options.raw.clone();
        options.insert("cmdline".to_owned(), cmdline.to_owned());
        options.insert("source".to_owned(), image.to_owned());
        let inputs = match self.bridge.inputs().await {
            Ok(inputs) => inputs,
            Err(error) => return Some(Err(error)),
        };
        let request = SolveFrontend {
            frontend: "gateway.v0".to_owned(),
            options,
            inputs,
            cache_imports: Vec::new(),
        };
        let result = self.bridge.solve_frontend(request).await;
        Some(result.map_err(|error| {
            if !error.locations().is_empty() {
                return error;
            }
            match span {
                Some(span) => located(error, None, &source.file, &[span]),
                None => {
                    let context = format!("failed with build-arg:BUILDKIT_SYNTAX = {cmdline}");
                    located(error, Some(&context), &source.file, &[])
                }
            }
        }))
    }

    /// What is lowered for a platform.
    pub(crate) fn request<'a>(
        &'a self,
        source: &Source,
        target_platform: Option<Platform>,
        lint: bool,
    ) -> Request<'a> {
        Request {
            file: source.file.clone(),
            options: &self.options,
            target_platform,
            all_stages: false,
            lint,
            caps: Caps::of(|id| self.bridge.has_capability(id)),
        }
    }

    async fn build(&self, source: &Source) -> Result<BuildResult, FrontendError> {
        let wanted = &self.options.target_platforms;
        let mut platforms: Vec<Option<Platform>> = wanted.iter().cloned().map(Some).collect();
        if platforms.is_empty() {
            platforms.push(None);
        }
        let builds = platforms.iter().enumerate().map(|(index, platform)| {
            // Rules find the same for every platform.
            self.build_platform(source, platform.clone(), index == 0)
        });
        let built = join_all(builds)
            .await
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        let scanner = self.scanner().await?;
        let mut result = BuildResult::default();
        let mut exported = Vec::with_capacity(built.len());
        for (platform, (mut lowered, reference)) in platforms.into_iter().zip(built) {
            let platform = platform.unwrap_or_else(Platform::host);
            let (id, platform) = export_platform(platform, &lowered.image.platform());
            let suffix = if self.options.multi_platform {
                format!("/{id}")
            } else {
                String::new()
            };
            add_metadata(&mut result.metadata, &suffix, &lowered);
            if let Some(scanner) = &scanner {
                let found = scanner.scan(&*self.bridge, &id, &mut lowered).await?;
                result.attestations.insert(id.clone(), vec![found]);
            }
            if self.options.multi_platform {
                result.refs.push((id.clone(), reference));
            } else {
                result.single = Some(reference);
            }
            exported.push(serde_json::json!({"ID": id, "Platform": platform}));
        }
        let platforms = serde_json::json!({ "Platforms": exported }).to_string();
        result
            .metadata
            .insert("refs.platforms".to_owned(), Bytes::from(platforms));
        Ok(result)
    }

    /// The scanner that the build asks for.
    async fn scanner(&self) -> Result<Option<Scanner>, FrontendError> {
        let Options {
            sbom,
            resolve_mode,
            build_platform,
            ..
        } = &self.options;
        match sbom {
            Some(sbom) => {
                let scanner = Scanner::find(&*self.bridge, sbom, *resolve_mode, build_platform);
                Ok(Some(scanner.await?))
            }
            None => Ok(None),
        }
    }

    /// Lowers the file for a platform and passes on what the rules find.
    pub(crate) async fn lower(
        &self,
        source: &Source,
        platform: Option<Platform>,
        lint: bool,
    ) -> Result<Lowered, FrontendError> {
        let request = self.request(source, platform, lint);
        let (lowered, warnings) = lower::lower(request, &self.client).await;
        let (places, vertex) = (Places::of(&source.file), source.graph.result().digest);
        for found in &warnings {
            self.bridge.warn(places.warning(vertex, found)).await?;
        }
        lowered.map_err(|failure| failure.into_frontend(Some(&source.file)))
    }

    async fn build_platform(
        &self,
        source: &Source,
        platform: Option<Platform>,
        lint: bool,
    ) -> Result<(Lowered, ResultRef), FrontendError> {
        let lowered = self.lower(source, platform, lint).await?;
        let definition = lowered.definition();
        if definition.is_empty() {
            return Ok((lowered, ResultRef::scratch()));
        }
        let graph =
            Graph::new(&definition).map_err(|error| FrontendError::invalid(chain(&error)))?;
        let request = SolveGraph {
            graph: Arc::new(graph),
            cache_imports: self.options.cache_imports.clone(),
            evaluate: false,
        };
        let reference = self.bridge.solve(request).await?;
        Ok((lowered, reference))
    }
}

/// The capabilities of this frontend.
const CAPABILITIES: [&str; 4] = [
    "moby.buildkit.frontend.inputs",
    "moby.buildkit.frontend.subrequests",
    "moby.buildkit.frontend.contexts",
    "moby.buildkit.frontend.gitquerystring",
];

/// The first capability that is required and not there, and whether another frontend may have it.
fn missing_capability(required: &str) -> Option<(String, bool)> {
    let mut missing = None;
    for item in required.split(',').filter(|_| !required.is_empty()) {
        let (name, mark) = item.split_once('+').unwrap_or((item, ""));
        if !CAPABILITIES.contains(&name) {
            let forward = mark.contains("forward");
            missing = Some((name.to_owned(), forward));
            if !forward {
                return missing;
            }
        }
    }
    missing
}

/// The platform of a result and its id. One for Windows takes its version from the image.
fn export_platform(platform: Platform, image: &Platform) -> (String, Platform) {
    let mut platform = platform.normalized();
    let id = platform::format_all(&platform);
    if platform.os == "windows" && image.os == platform.os {
        if platform.os_version.is_empty() {
            platform.os_version.clone_from(&image.os_version);
        }
        if platform.os_features.is_empty() {
            platform.os_features.clone_from(&image.os_features);
        }
        platform = platform.normalized();
    }
    (id, platform)
}

fn add_metadata(metadata: &mut BTreeMap<String, Bytes>, suffix: &str, lowered: &Lowered) {
    let mut add = |key: &str, value: String| {
        metadata.insert(format!("{key}{suffix}"), Bytes::from(value));
    };
    add("containerimage.config", image::write(&lowered.image));
    if let Some(base) = &lowered.base_image {
        add("containerimage.base.config", image::write(base));
    }
    if let Some(epoch) = lowered.epoch {
        add("source.date.epoch", epoch.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_that_are_missing_are_named() {
        let inputs = "moby.buildkit.frontend.inputs";
        assert_eq!(missing_capability(""), None);
        assert_eq!(missing_capability(inputs), None);
        assert_eq!(
            missing_capability(&format!("{inputs},x+forward")),
            Some(("x".into(), true))
        );
        assert_eq!(missing_capability("x+forward,y"), Some(("y".into(), false)));
    }
}
