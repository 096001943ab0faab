//! Lists of what is in a result, written by a scanner image.
//!
//! A scanner finds the result and what else it may look at below [`SOURCES`] and writes SPDX
//! statements to [`STATEMENTS`] (BuildKit's `docs/attestations/sbom-protocol.md`).

use frontend::{
    Attestation, Bridge, FrontendError, ResolveImage, ResolveMode, ResultRef, SolveGraph,
};
use llb::Graph;
use llb::builder::{BuilderMount, ImageSource, Options as Vertex, Run, State};
use oci::{Platform, Reference};

use crate::image;
use crate::lower::{Lowered, chain};
use crate::options::Sbom;

const SOURCES: &str = "/run/src";
const STATEMENTS: &str = "/run/out/";
/// The result itself among what is scanned.
const CORE: &str = "sbom";
const SPDX: &str = "https://spdx.dev/Document";

/// A resolved scanner.
pub(crate) struct Scanner {
    reference: Reference,
    platform: Platform,
    args: Vec<String>,
    env: Vec<String>,
    dir: String,
}

impl Scanner {
    /// Resolves the scanner that a build asks for; it runs on `platform`, the worker's.
    pub(crate) async fn find(
        bridge: &dyn Bridge,
        sbom: &Sbom,
        mode: ResolveMode,
        platform: &Platform,
    ) -> Result<Scanner, FrontendError> {
        let wanted = sbom.generator.to_string();
        let request = ResolveImage {
            reference: wanted.clone(),
            platform: Some(platform.clone()),
            mode,
            log_name: format!("[internal] load metadata for {wanted}"),
            layout: None,
        };
        let resolved = bridge.resolve_image(request).await?;
        let wrong = |why: String| FrontendError::invalid(format!("scanner {wanted}: {why}"));
        let mut reference =
            Reference::parse(&resolved.reference).map_err(|error| wrong(chain(&error)))?;
        reference.digest.get_or_insert(resolved.digest);
        let config = image::read(&resolved.config).map_err(|error| wrong(chain(&error)))?;
        let config = config.config;
        let args: Vec<String> = [config.entrypoint, config.cmd]
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        if args.is_empty() {
            let message = format!("scanner {reference} does not have cmd");
            return Err(FrontendError::invalid(message));
        }
        let mut env = config.env;
        env.push(format!("BUILDKIT_SCAN_DESTINATION={STATEMENTS}"));
        env.push(format!("BUILDKIT_SCAN_SOURCE={SOURCES}/core/{CORE}"));
        let parameters = sbom.parameters.iter();
        env.extend(parameters.map(|(key, value)| format!("BUILDKIT_SCAN_{key}={value}")));
        Ok(Scanner {
            reference,
            platform: platform.clone(),
            args,
            env,
            dir: config.working_dir,
        })
    }

    /// Scans a lowered Dockerfile. `id` names its platform.
    pub(crate) async fn scan(
        &self,
        bridge: &dyn Bridge,
        id: &str,
        lowered: &mut Lowered,
    ) -> Result<Attestation, FrontendError> {
        let statements = self.run(id, lowered);
        let definition = lowered.builder.definition(&statements, &lowered.defaults);
        let graph =
            Graph::new(&definition).map_err(|error| FrontendError::invalid(chain(&error)))?;
        let request = SolveGraph {
            graph: graph.into(),
            cache_imports: Vec::new(),
            evaluate: false,
        };
        Ok(attestation(bridge.solve(request).await?))
    }

    /// The directory of statements.
    fn run(&self, id: &str, lowered: &mut Lowered) -> State {
        let source = ImageSource {
            reference: self.reference.clone(),
            resolve_mode: String::new(),
            layout: None,
        };
        let vertex = Vertex {
            platform: Some(self.platform.clone()),
            ..Vertex::default()
        };
        let mut state = lowered.builder.image(&source, vertex);
        state.set_dir(&self.dir);
        for variable in &self.env {
            let (key, value) = variable.split_once('=').unwrap_or((variable, ""));
            state.env.set(key, value);
        }
        if !lowered.scan.is_empty() {
            let extras = format!("{SOURCES}/extras/");
            state.env.set("BUILDKIT_SCAN_SOURCE_EXTRAS", extras);
        }
        let extras = lowered.scan.iter().map(|(name, state)| {
            let target = format!("{SOURCES}/extras/{CORE}-{name}");
            scanned(target, state.clone())
        });
        let mut mounts = vec![
            BuilderMount {
                target: "/tmp".to_owned(),
                tmpfs: Some(0),
                ..BuilderMount::default()
            },
            scanned(format!("{SOURCES}/core/{CORE}"), lowered.state.clone()),
        ];
        mounts.extend(extras);
        mounts.push(BuilderMount {
            target: STATEMENTS.to_owned(),
            ..BuilderMount::default()
        });
        let run = Run {
            args: self.args.clone(),
            mounts,
            ..Run::default()
        };
        let name = format!("[{id}] generating sbom using {}", self.reference);
        let mut vertex = Vertex::named(name);
        vertex.metadata.ignore_cache = lowered.ignore_cache;
        let ran = lowered.builder.run(&state, run, vertex);
        lowered.builder.mounted(&ran, STATEMENTS)
    }
}

fn scanned(target: String, source: State) -> BuilderMount {
    BuilderMount {
        target,
        source,
        readonly: true,
        ..BuilderMount::default()
    }
}

fn attestation(result: ResultRef) -> Attestation {
    let metadata = [("reason", "sbom"), ("sbom-core", CORE)];
    Attestation {
        bundle: true,
        metadata: metadata
            .map(|(key, value)| (key.to_owned(), value.into()))
            .into(),
        result,
        path: String::new(),
        predicate_type: SPDX.to_owned(),
    }
}
