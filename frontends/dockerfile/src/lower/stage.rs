//! Stages while they are lowered.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use llb::builder::{Env, State};
use oci::{ImageConfig, Platform};

use crate::context::NamedContext;
use crate::instruction::{Arg, Command, Stage};
use crate::lower::globals::ArgRecord;
use crate::span::LineSpan;

/// Names a stage: its place in [`Stages::all`].
pub(crate) type StageId = usize;

/// All stages: those of the file in order, then those that commands copy or mount from.
#[derive(Default)]
pub(crate) struct Stages {
    pub(crate) all: Vec<StageState>,
    by_name: HashMap<String, StageId>,
    /// What is used of stages; a stage shares its set with its base.
    pub(crate) paths: Vec<BTreeSet<String>>,
}

/// A stage while it is lowered.
#[derive(Default)]
pub(crate) struct StageState {
    /// What is written, without its commands.
    pub(crate) name: String,
    pub(crate) base_name: String,
    pub(crate) source: String,
    pub(crate) doc: String,
    pub(crate) span: LineSpan,
    /// Where it is asked for, for errors. What is mounted from is in no span, as in BuildKit.
    pub(crate) place: LineSpan,
    /// The name to show; empty for the only stage of a file.
    pub(crate) shown: String,

    pub(crate) base: Option<StageId>,
    /// Stages that are still to take over what this one has.
    pub(crate) heirs: usize,
    /// Stages that commands copy or mount from, and where.
    pub(crate) deps: BTreeMap<StageId, LineSpan>,
    pub(crate) commands: Vec<Planned>,
    pub(crate) named_context: Option<NamedContext>,
    /// Whether it only stands for something that is copied or mounted from.
    pub(crate) unregistered: bool,
    pub(crate) ignore_cache: bool,

    pub(crate) resolved: bool,
    pub(crate) dispatched: bool,

    pub(crate) state: State,
    pub(crate) image: ImageConfig,
    /// The config of the base image, as it was.
    pub(crate) base_image: Option<ImageConfig>,
    pub(crate) platform: Option<Platform>,
    /// Arguments that are declared so far.
    pub(crate) args: Vec<Arg>,
    pub(crate) declared: HashSet<String>,
    /// What is used of the main context.
    pub(crate) context_paths: BTreeSet<String>,
    /// Index into [`Stages::paths`].
    pub(crate) paths: usize,

    pub(crate) step: usize,
    pub(crate) steps: usize,
    pub(crate) is_trigger: bool,
    pub(crate) has_workdir: bool,
    pub(crate) cmd: Option<LineSpan>,
    pub(crate) entrypoint: Option<LineSpan>,
    pub(crate) healthcheck: Option<LineSpan>,

    pub(crate) outline: Outline,
    pub(crate) scan_stage: bool,
    pub(crate) scan_context: bool,
}

/// What a stage takes from outside, for outlines.
#[derive(Debug, Default)]
pub(crate) struct Outline {
    pub(crate) args: HashMap<String, ArgRecord>,
    /// Arguments that commands declare.
    pub(crate) used: BTreeSet<String>,
    /// Arguments that `FROM` uses.
    pub(crate) used_in_from: BTreeSet<String>,
    pub(crate) secrets: BTreeMap<String, (bool, LineSpan)>,
    pub(crate) ssh: BTreeMap<String, (bool, LineSpan)>,
}

/// A command and the stages it copies or mounts from: one for each mount of a `RUN`.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) command: Command,
    pub(crate) sources: Vec<StageId>,
    /// Whether it is a trigger of the base image.
    pub(crate) is_trigger: bool,
}

impl StageState {
    /// A stage of the file. Its base is expanded already; its commands are taken elsewhere.
    pub(crate) fn of(stage: &Stage, base_name: String) -> StageState {
        StageState {
            name: stage.name.clone(),
            base_name,
            source: stage.source.clone(),
            doc: stage.doc.clone(),
            span: stage.span,
            place: stage.span,
            shown: stage.name.clone(),
            ..StageState::default()
        }
    }

    /// Something that a command copies from.
    pub(crate) fn implicit(base_name: &str, span: LineSpan) -> StageState {
        StageState {
            base_name: base_name.to_owned(),
            span,
            place: span,
            unregistered: true,
            ..StageState::default()
        }
    }

    /// Something that a command at `place` mounts from.
    pub(crate) fn mounted(base_name: &str, place: LineSpan) -> StageState {
        StageState {
            place,
            ..StageState::implicit(base_name, LineSpan::default())
        }
    }

    /// The platform's system; empty when the platform is not known.
    pub(crate) fn os(&self) -> &str {
        self.platform
            .as_ref()
            .map_or("", |platform| platform.os.as_str())
    }

    /// Drops all but the filesystem: what copies from a stage needs no more.
    pub(crate) fn strip(&mut self) {
        self.state.env = Env::new();
        self.image = ImageConfig::default();
        self.base_image = None;
        self.args = Vec::new();
        self.declared = HashSet::new();
    }

    /// Adds an argument.
    pub(crate) fn declare(&mut self, arg: Arg) {
        self.declared.insert(arg.key.clone());
        self.args.push(arg);
    }
}

impl Stages {
    /// Adds a stage; a base that is a stage is found by its name.
    pub(crate) fn add(&mut self, mut stage: StageState) -> StageId {
        let id = self.all.len();
        stage.base = self.by_name.get(&stage.base_name).copied();
        stage.paths = self.paths.len();
        self.paths.push(BTreeSet::new());
        if !stage.name.is_empty() {
            self.by_name.insert(stage.name.to_lowercase(), id);
        }
        self.all.push(stage);
        id
    }

    /// The stage of a name, in any casing.
    pub(crate) fn by_name(&self, name: &str) -> Option<StageId> {
        self.by_name.get(&name.to_lowercase()).copied()
    }

    /// The names to show.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.all
            .iter()
            .map(|stage| stage.shown.as_str())
            .filter(|name| !name.is_empty())
    }

    /// `target` and all stages that it is made of.
    pub(crate) fn reachable(&self, target: StageId) -> BTreeSet<StageId> {
        let mut found = BTreeSet::new();
        let mut open = vec![target];
        while let Some(id) = open.pop() {
            if found.insert(id) {
                open.extend(self.all[id].base);
                open.extend(self.all[id].deps.keys());
            }
        }
        found
    }

    /// Counts the heirs of each stage. `wanted` says which stages are carried out, and `keep` is
    /// one that itself is asked for afterwards.
    pub(crate) fn count_heirs(&mut self, wanted: impl Fn(&Stages, StageId) -> bool, keep: StageId) {
        self.all[keep].heirs += 1;
        for id in 0..self.all.len() {
            if let Some(base) = self.all[id].base.filter(|_| wanted(self, id)) {
                self.all[base].heirs += 1;
            }
        }
    }

    /// Takes over what a stage has from the stage it is based on. The last heir takes without a
    /// copy, so that a long chain of stages costs what its commands cost.
    pub(crate) fn inherit(&mut self, id: StageId) {
        let Some(base) = self.all[id].base else {
            return;
        };
        // A stage comes after its base, except for one that is its own base.
        let [base, stage] = match self.all.get_disjoint_mut([base, id]) {
            Ok(both) => both,
            Err(_) => return,
        };
        stage.state = base.state.clone();
        stage.platform.clone_from(&base.platform);
        stage.paths = base.paths;
        stage.has_workdir = base.has_workdir;
        base.heirs = base.heirs.saturating_sub(1);
        if base.heirs == 0 {
            stage.image = std::mem::take(&mut base.image);
            stage.base_image = base.base_image.take();
            stage.args = std::mem::take(&mut base.args);
            stage.declared = std::mem::take(&mut base.declared);
            base.strip();
        } else {
            stage.image = base.image.clone();
            stage.base_image.clone_from(&base.base_image);
            stage.args.clone_from(&base.args);
            stage.declared.clone_from(&base.declared);
        }
        stage.image.config.on_build.clear();
    }
}
