//! A Dockerfile to a graph.
//!
//! [`Lowering::run`] reads like BuildKit's `dockerfile2llb`, whose order of steps shows in what is
//! made: evaluate the global arguments, lay out the stages, find the target, resolve the base
//! images of what it needs (and once more when their triggers need others), then carry out the
//! commands of those stages in the order of the file.

mod checks;
mod commands;
mod copy;
mod copy_words;
mod epoch;
mod error;
mod expose;
mod globals;
mod names;
mod outline;
mod plan;
mod resolve;
mod run;
mod stage;
mod variables;

use std::collections::BTreeMap;

use fstree::pattern::Matcher;
use llb::Definition;
use llb::builder::{
    Builder, Defaults, DeferredId, FileId, LocalSource, Options as Vertex, SourceFile, State,
};
use oci::{ImageConfig, Platform};

use crate::context::{Surroundings, know_ssh_hosts};
use crate::expand::Expander;
use crate::instruction::{self, Command, Stage};
use crate::lint::{LintOptions, LintWarning, Linter, Rule};
use crate::options::Options;
use crate::parse;
use crate::span::LineSpan;

use error::At as _;
pub(crate) use error::{Failure, LowerError, chain};
pub use outline::{Outline, OutlineArg, OutlineNeed};

use globals::{Globals, Platforms};
use stage::{StageId, Stages};

/// What is to be lowered.
#[derive(Clone)]
pub(crate) struct Request<'a> {
    pub(crate) file: SourceFile,
    pub(crate) options: &'a Options,
    /// The platform that was asked for.
    pub(crate) target_platform: Option<Platform>,
    /// Whether all stages are looked at, not only those that the target needs.
    pub(crate) all_stages: bool,
    /// Whether lint rules are applied.
    pub(crate) lint: bool,
    /// Which LLB capabilities the engine has.
    pub(crate) caps: Caps,
}

/// LLB capabilities that features depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    pub(crate) merge: bool,
    pub(crate) ulimit: bool,
    pub(crate) devices: bool,
    pub(crate) tmpfs_size: bool,
    pub(crate) cgroup_parent: bool,
    pub(crate) linux_resources: bool,
    pub(crate) bind_no_output: bool,
    pub(crate) sets_default_path: bool,
}

impl Caps {
    /// All that `has` says are there.
    pub(crate) fn of(has: impl Fn(&str) -> bool) -> Caps {
        Caps {
            merge: has("mergeop"),
            ulimit: has("exec.meta.ulimit"),
            devices: has("exec.meta.cdi"),
            tmpfs_size: has("exec.mount.tmpfs.size"),
            cgroup_parent: has("exec.meta.cgroup.parent"),
            linux_resources: has("exec.meta.linux.resources"),
            bind_no_output: has("exec.mount.bind.readwrite-nooutput"),
            sets_default_path: has("exec.meta.setsdefaultpath"),
        }
    }
}

/// A lowered Dockerfile.
pub(crate) struct Lowered {
    pub(crate) builder: Builder,
    pub(crate) state: State,
    pub(crate) defaults: Defaults,
    pub(crate) image: ImageConfig,
    pub(crate) base_image: Option<ImageConfig>,
    /// Seconds since 1970.
    pub(crate) epoch: Option<i64>,
    pub(crate) outline: Outline,
    /// What an SBOM scanner looks at beside the result.
    pub(crate) scan: BTreeMap<String, State>,
    /// Whether known results are passed over.
    pub(crate) ignore_cache: bool,
}

impl Lowered {
    /// The graph of the result.
    pub(crate) fn definition(&self) -> Definition {
        self.builder.definition(&self.state, &self.defaults)
    }
}

/// Lowers a Dockerfile; gives what rules found, also when it fails.
pub(crate) async fn lower(
    request: Request<'_>,
    surroundings: &dyn Surroundings,
) -> (Result<Lowered, Failure>, Vec<LintWarning>) {
    let data = request.file.data.clone();
    if data.is_empty() {
        return (Err(LowerError::Empty.into()), Vec::new());
    }
    let lint = match linter(&request, &data) {
        Ok(lint) => lint,
        Err(failure) => return (Err(failure), Vec::new()),
    };
    let result = match read(&data, &lint) {
        Ok(file) => {
            Lowering::new(request, file, lint.clone(), surroundings)
                .run()
                .await
        }
        Err(failure) => Err(failure),
    };
    (result, lint.found())
}

fn linter(request: &Request<'_>, data: &[u8]) -> Result<Linter, Failure> {
    let options = match &request.options.lint {
        Some(options) => options.clone(),
        None => {
            let check = parse::directive("check", data);
            let (text, span) = check.map_or_else(Default::default, |d| (d.value, d.span));
            // As with `syntax`, the first word counts.
            LintOptions::parse(text.split(' ').next().unwrap_or_default())
                .map_err(LowerError::LintOptions)
                .at(span)?
        }
    };
    Ok(if request.lint {
        Linter::new(options)
    } else {
        Linter::silent()
    })
}

/// A file as typed instructions.
pub(crate) struct File {
    pub(crate) escape: char,
    pub(crate) globals: Vec<Command>,
    pub(crate) stages: Vec<Stage>,
}

/// Parses a file and gives its instructions types.
pub(crate) fn read(data: &[u8], lint: &Linter) -> Result<File, Failure> {
    let document = parse::parse(data).map_err(|(error, span)| Failure {
        error: LowerError::Parse(error),
        spans: vec![span],
    })?;
    for span in &document.empty_continuations {
        lint.warn(Rule::NoEmptyContinuation, *span, &[]);
    }
    let (globals, stages) = instruction::read_document(&document, lint)?;
    if stages.is_empty() {
        return Err(LowerError::NoStages.into());
    }
    Ok(File {
        escape: document.escape,
        globals,
        stages,
    })
}

/// One lowering.
struct Lowering<'a> {
    options: &'a Options,
    surroundings: &'a dyn Surroundings,
    request: Request<'a>,
    lint: Linter,
    expander: Expander,
    platforms: Platforms,
    globals: Globals,
    /// Build arguments; the epoch is replaced by what it stands for.
    build_args: BTreeMap<String, String>,
    file: File,
    /// The epoch, as RFC 3339 and in seconds.
    epoch: Option<(String, i64)>,
    builder: Builder,
    file_id: FileId,
    stages: Stages,
    /// The main context, whose filter is known at the end.
    context: (DeferredId, State),
    /// Local directories that are taken at the end, with the paths that are used of them.
    pending: Vec<(DeferredId, LocalSource, Vertex, StageId)>,
    ignore: Option<Ignore>,
    /// Bytes of the graph's texts so far.
    size: usize,
    /// Whether features of the labs channel are on.
    labs: bool,
}

/// The main context's ignore file.
struct Ignore {
    matcher: Matcher,
    patterns: Vec<String>,
}

impl<'a> Lowering<'a> {
    fn new(
        request: Request<'a>,
        file: File,
        lint: Linter,
        surroundings: &'a dyn Surroundings,
    ) -> Lowering<'a> {
        let options = request.options;
        let build = options.build_platform.clone();
        let platforms = Platforms {
            target: request
                .target_platform
                .clone()
                .unwrap_or_else(|| build.clone()),
            implicit: request.target_platform.is_none(),
            build,
        };
        let mut builder = Builder::new();
        let file_id = builder.source_file(request.file.clone());
        let context = builder.defer();
        let syntax = parse::detect_syntax(&request.file.data);
        Lowering {
            options,
            surroundings,
            lint,
            expander: Expander::new(file.escape),
            platforms,
            globals: Globals::default(),
            build_args: options.build_args.clone(),
            file,
            epoch: None,
            builder,
            file_id,
            stages: Stages::default(),
            context,
            pending: Vec::new(),
            ignore: None,
            size: 0,
            labs: syntax.is_some_and(|syntax| syntax.value.contains("labs")),
            request,
        }
    }

    async fn run(mut self) -> Result<Lowered, Failure> {
        self.check_stage_names();
        self.check_command_casing();
        let target_name = match self.options.target.as_str() {
            "" => self
                .file
                .stages
                .last()
                .map(|s| s.name.clone())
                .unwrap_or_default(),
            name => name.to_owned(),
        };
        let env = globals::predefined(&self.platforms, &self.build_args, &target_name);
        self.check_default_bases(&env);
        self.globals =
            globals::evaluate(env, &self.file.globals, &self.build_args, &self.expander)?;
        self.resolve_epoch().await?;
        self.lay_out_stages()?;
        let target = self.find_target()?;
        self.plan_commands()?;
        let reachable = self.resolve_stages(target).await?;
        self.carry_out(&reachable, target).await?;
        self.finish(target).await
    }

    /// Carries out the commands of the stages in the order of the file.
    async fn carry_out(
        &mut self,
        reachable: &std::collections::BTreeSet<StageId>,
        target: StageId,
    ) -> Result<(), Failure> {
        let patterns = self
            .surroundings
            .ignore_patterns()
            .await
            .map_err(LowerError::from)?;
        if !patterns.is_empty() {
            let matcher = Matcher::new(&patterns).map_err(ignore_error)?;
            self.ignore = Some(Ignore { matcher, patterns });
        }
        let all = self.request.all_stages;
        let wanted = |stages: &Stages, id: StageId| {
            all || (reachable.contains(&id) && !stages.all[id].dispatched)
        };
        self.stages.count_heirs(wanted, target);
        for id in 0..self.stages.all.len() {
            if wanted(&self.stages, id) {
                self.carry_out_stage(id)?;
            }
        }
        let paths = self.stages.all[target].paths;
        self.stages.paths[paths].insert("/".to_owned());
        Ok(())
    }

    /// Completes the image and gives the contexts what they are filtered by.
    async fn finish(mut self, target: StageId) -> Result<Lowered, Failure> {
        let labels = self
            .options
            .labels
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()));
        self.stages.all[target].image.config.labels.extend(labels);
        if let Some(rules) = self.lint.violations() {
            return Err(LowerError::Lint(rules).into());
        }
        let source = self
            .surroundings
            .main_source()
            .await
            .map_err(LowerError::from)?;
        let used = self
            .stages
            .all
            .iter()
            .flat_map(|stage| &stage.context_paths);
        let used: std::collections::BTreeSet<&String> = used.collect();
        let follow = crate::context::follow_paths(used);
        let context = source.state(&mut self.builder, &follow);
        self.builder.resolve(self.context.0, &context);
        for (id, mut local, vertex, stage) in std::mem::take(&mut self.pending) {
            let paths = self.stages.all[stage].paths;
            local.follow_paths = crate::context::follow_list(&self.stages.paths[paths]);
            let state = self.builder.local(&local, vertex);
            self.builder.resolve(id, &state);
        }
        know_ssh_hosts(&mut self.builder, self.surroundings).await;
        let outline = self.outline(target);
        let mut scan = BTreeMap::new();
        let mut ignore_cache = self.stages.all[target].ignore_cache;
        if self.stages.all[target].scan_context {
            scan.insert("context".to_owned(), self.context.1.clone());
        }
        for id in self.stages.reachable(target) {
            let stage = &self.stages.all[id];
            if id != target && stage.scan_stage {
                scan.insert(stage.shown.clone(), stage.state.clone());
                ignore_cache |= stage.ignore_cache;
            }
        }
        let stage = std::mem::take(&mut self.stages.all[target]);
        let mut image = stage.image;
        self.set_image_platform(&mut image);
        Ok(Lowered {
            builder: self.builder,
            state: stage.state,
            defaults: Defaults {
                platform: self.platforms.target,
                sets_default_path: Some(self.request.caps.sets_default_path),
                local_unique: "drydock".to_owned(),
            },
            image,
            base_image: stage.base_image,
            epoch: self.epoch.map(|(_, seconds)| seconds),
            outline,
            scan,
            ignore_cache,
        })
    }

    /// The platform that was asked for overrules that of the base image.
    fn set_image_platform(&self, image: &mut ImageConfig) {
        let wanted = &self.platforms.target;
        if !self.platforms.implicit {
            let same = wanted.os == image.os && wanted.architecture == image.architecture;
            image.os.clone_from(&wanted.os);
            image.architecture.clone_from(&wanted.architecture);
            if !wanted.variant.is_empty() || !same {
                image.variant.clone_from(&wanted.variant);
            }
            if !wanted.os_version.is_empty() || !same {
                image.os_version.clone_from(&wanted.os_version);
            }
            if !wanted.os_features.is_empty() {
                image.os_features.clone_from(&wanted.os_features);
            }
        }
        let normal = image.platform().normalized();
        image.os = if normal.os.is_empty() {
            Platform::host().os
        } else {
            normal.os
        };
        image.architecture = normal.architecture;
        image.variant = normal.variant;
        image.os_features = normal.os_features;
    }

    /// The place of a span, for the graph.
    fn place(&self, span: LineSpan) -> Option<(FileId, Vec<llb::Range>)> {
        let position = |(line, character)| llb::Position { line, character };
        let ranges = span.ranges().into_iter().filter(|((line, _), _)| *line > 0);
        let ranges = ranges
            .map(|(start, end)| llb::Range {
                start: position(start),
                end: position(end),
            })
            .collect();
        Some((self.file_id, ranges))
    }
}

fn ignore_error(error: fstree::pattern::PatternError) -> LowerError {
    use fstree::pattern::PatternError;
    LowerError::Rule(match error {
        PatternError::LoneException => "illegal exclusion pattern: \"!\"".to_owned(),
        PatternError::Syntax { .. } => "syntax error in pattern".to_owned(),
        other @ PatternError::TooComplex(_) => other.to_string(),
    })
}
