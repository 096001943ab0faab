//! `COPY` and `ADD`.

use std::path::Path;

use llb::builder::{Copy as CopyStep, FileStep, HttpSource, Options as Vertex, State, copy_owner};
use llb::{CopyAction, MkFileAction, ProgressGroup};
use oci::Digest;

use crate::git::GitRef;
use crate::go;
use crate::image_path;
use crate::instruction::{Add, Command, Files};
use crate::lint::{Linter, Rule};
use crate::lower::Lowering;
use crate::lower::copy_words::{Mode, check_digest, http_filename, is_http, read_mode};
use crate::lower::error::LowerError;
use crate::lower::stage::StageId;

/// What is copied from, and what that allows.
pub(super) struct CopySource {
    state: State,
    is_add: bool,
    /// Whether `state` is the main context, which an ignore file filters.
    is_context: bool,
    parents: bool,
    keep_git_dir: Option<bool>,
    checksum: String,
    unpack: Option<bool>,
}

impl CopySource {
    pub(super) fn add(state: State, add: &Add) -> CopySource {
        CopySource {
            state,
            is_add: true,
            is_context: true,
            parents: false,
            keep_git_dir: add.keep_git_dir,
            checksum: add.checksum.clone(),
            unpack: add.unpack,
        }
    }

    pub(super) fn copy(state: State, is_context: bool, parents: bool) -> CopySource {
        CopySource {
            state,
            is_add: false,
            is_context,
            parents,
            keep_git_dir: None,
            checksum: String::new(),
            unpack: None,
        }
    }
}

impl Lowering<'_> {
    pub(super) fn copy_files(
        &mut self,
        id: StageId,
        command: &Command,
        files: &Files,
        mut source: CopySource,
        lint: &Linter,
    ) -> Result<(), LowerError> {
        let dest = self.copy_dest(id, &files.dest)?;
        let mode = read_mode(&files.chmod)?;
        check_checksum(&source, files)?;
        let env = self.stages.all[id].state.env.clone();
        let text = self.shown_text(&command.source, &env, false);
        let platform = self.stages.all[id].platform.clone();
        let multi = self.options.multi_platform;
        let name = self.step_name(id, &text, multi, platform.as_ref(), Some(&env));

        let copy = Copying {
            id,
            name: &name,
            dest: &dest,
            mode: &mode,
            files,
            span: command.span,
        };
        let mut steps = Vec::with_capacity(files.sources.len() + files.inline.len());
        for path in &files.sources {
            steps.push(self.copy_source(&copy, path, &mut source, lint)?);
        }
        for file in &files.inline {
            let path = image_path::strip_drive(&file.name, self.stages.all[id].os(), false)
                .map_err(LowerError::Drive)?;
            let action = MkFileAction {
                path: path.clone(),
                mode: 0o644,
                data: file.content.clone().into(),
                ..MkFileAction::default()
            };
            let vertex = Vertex::named("[internal] preparing inline document");
            let steps_of_file = vec![FileStep::MkFile(action)];
            let state = self.builder.file(&State::scratch(), steps_of_file, vertex);
            steps.push(copy.step(state, path, CopyAction::default()));
        }

        let mut vertex = Vertex::named(&name).at(self.place(command.span));
        vertex.metadata.ignore_cache = self.stages.all[id].ignore_cache;
        if files.link && files.chmod.is_empty() && self.request.caps.merge {
            self.link(id, &text, steps, vertex, &env);
        } else {
            let stage = &mut self.stages.all[id];
            stage.state = self.builder.file(&stage.state, steps, vertex);
        }
        let text = history_text(&source, files);
        // The image goes to others.
        let text = oci::redact_text(&text);
        self.record(id, format!("{text} # buildkit"), true);
        Ok(())
    }

    /// The destination, below the working directory.
    fn copy_dest(&self, id: StageId, dest: &str) -> Result<String, LowerError> {
        let stage = &self.stages.all[id];
        let os = stage.os();
        let dest = image_path::strip_drive(dest, os, true).map_err(LowerError::Drive)?;
        if image_path::is_abs(&dest, os) {
            return Ok(image_path::normalize("/", &dest, os, true)?);
        }
        // Nothing and `.` are the directory itself, which need not be the root.
        let dest = if matches!(dest.as_str(), "" | ".") {
            "./"
        } else {
            &dest
        };
        Ok(image_path::normalize(stage.state.dir(), dest, os, true)?)
    }

    fn copy_source(
        &mut self,
        copy: &Copying<'_>,
        path: &str,
        source: &mut CopySource,
        lint: &Linter,
    ) -> Result<FileStep, LowerError> {
        match GitRef::parse(path).transpose()? {
            Some(git) if !git.like_local => self.add_git(copy, git, source),
            _ if is_http(path) => self.add_http(copy, path, source),
            _ => self.copy_local(copy, path, source, lint),
        }
    }

    fn add_git(
        &mut self,
        copy: &Copying<'_>,
        mut git: GitRef,
        source: &mut CopySource,
    ) -> Result<FileStep, LowerError> {
        let wrong = |text: String| Err(LowerError::Rule(text));
        if !source.is_add {
            let text = "source can't be a git ref for COPY";
            return Err(LowerError::advised(text, USE_ADD));
        }
        if let (Some(flag), Some(query)) = (source.keep_git_dir, git.keep_git_dir)
            && flag != query
        {
            return wrong("inconsistent keep-git-dir configuration".to_owned());
        }
        // What one source says holds for the ones after it, as in BuildKit.
        source.keep_git_dir = git.keep_git_dir.or(source.keep_git_dir);
        git.keep_git_dir = source.keep_git_dir;
        if !source.checksum.is_empty()
            && !git.checksum.is_empty()
            && source.checksum != git.checksum
        {
            let (flag, query) = (go::quote(&source.checksum), go::quote(&git.checksum));
            return wrong(format!("checksum mismatch {flag} != {query}"));
        }
        if !git.checksum.is_empty() {
            source.checksum.clone_from(&git.checksum);
        }
        git.checksum.clone_from(&source.checksum);
        git.mtime.clear();
        let state = self.builder.git(&git.source(), Vertex::named(copy.name));
        Ok(copy.step(state, "/".to_owned(), CopyAction::default()))
    }

    fn add_http(
        &mut self,
        copy: &Copying<'_>,
        url: &str,
        source: &CopySource,
    ) -> Result<FileStep, LowerError> {
        if !source.is_add {
            return Err(LowerError::advised(
                "source can't be a URL for COPY",
                USE_ADD,
            ));
        }
        check_digest(&source.checksum)?;
        let filename = http_filename(url);
        let http = HttpSource {
            url: url.to_owned(),
            filename: filename.clone(),
            checksum: source.checksum.clone(),
        };
        let vertex = Vertex::named(copy.name).describe("com.docker.dockerfile.v1.command", "");
        let state = self.builder.http(&http, vertex);
        let attempt_unpack = source.unpack.unwrap_or(false);
        let action = CopyAction {
            attempt_unpack,
            ..CopyAction::default()
        };
        Ok(copy.step(state, filename, action))
    }

    fn copy_local(
        &mut self,
        copy: &Copying<'_>,
        path: &str,
        source: &CopySource,
        lint: &Linter,
    ) -> Result<FileStep, LowerError> {
        if source.is_context {
            self.check_ignored(path, source.is_add, copy.span, lint);
        }
        let os = self.stages.all[copy.id].os();
        let normal =
            |path: &str| image_path::normalize("/", path, os, false).map_err(LowerError::Drive);
        let mut path = path;
        let (mut include, mut required) = (Vec::new(), Vec::new());
        if source.parents {
            // `/./` parts what is left out from what is kept.
            let (pivot, pattern) = path.split_once("/./").unwrap_or(("/", path));
            let pattern = normal(pattern)?;
            if !go::has_wildcards(pivot) && !go::has_wildcards(&pattern) {
                required.push(normal(&go::join(&[pivot, &pattern]))?);
            }
            include.push(pattern.strip_prefix('/').unwrap_or(&pattern).to_owned());
            path = pivot;
        }
        let action = CopyAction {
            follow_symlink: true,
            dir_copy_contents: true,
            include,
            required,
            attempt_unpack: source.unpack.unwrap_or(source.is_add),
            allow_wildcard: true,
            allow_empty_wildcard: true,
            ..CopyAction::default()
        };
        let path = normal(path)?;
        Ok(copy.step(source.state.clone(), path, action))
    }

    /// Reports a source that the ignore file leaves out.
    fn check_ignored(&self, path: &str, is_add: bool, span: crate::span::LineSpan, lint: &Linter) {
        let Some(ignore) = &self.ignore else { return };
        // A directory may be left out and a file in it taken in again.
        if ignore.matcher.has_exceptions() {
            return;
        }
        let path = go::clean(path);
        let everything = |pattern: &String| matches!(pattern.as_str(), "*" | "**" | "**/*");
        if matches!(path.as_str(), "." | "/") && !ignore.patterns.iter().any(everything) {
            return;
        }
        if ignore.matcher.matches(Path::new(&path)) {
            let name = if is_add { "Add" } else { "Copy" };
            lint.warn(Rule::CopyIgnoredFile, span, &[name, &path]);
        }
    }

    /// Copies to an empty filesystem, and stacks that on the stage.
    fn link(
        &mut self,
        id: StageId,
        text: &str,
        steps: Vec<FileStep>,
        vertex: Vertex,
        env: &crate::expand::Env,
    ) {
        let platform = self.stages.all[id].platform.clone();
        let multi = self.options.multi_platform;
        // One step has three names: of the copy, of its group and of the link.
        let mut again = |text: &str| {
            self.stages.all[id].step -= 1;
            self.step_name(id, text, multi, platform.as_ref(), Some(env))
        };
        let group_name = again(text);
        let link_name = again(&format!("LINK {text}"));
        let group = |weak| {
            let id = group_id(&format!("{id} {group_name} {platform:?}"));
            Some(ProgressGroup {
                id,
                name: group_name.clone(),
                weak,
            })
        };
        let mut copied = vertex.clone();
        copied.metadata.progress_group = group(true);
        let copied = self.builder.file(&State::scratch(), steps, copied);
        let mut linked = vertex.name(link_name);
        linked.metadata.progress_group = group(false);
        let stage = &mut self.stages.all[id];
        let merged = self.builder.merge(&[&stage.state, &copied], linked);
        stage.state = stage.state.on(&merged);
    }
}

/// What all sources of a command have in common.
struct Copying<'a> {
    id: StageId,
    name: &'a str,
    dest: &'a str,
    mode: &'a Mode,
    files: &'a Files,
    span: crate::span::LineSpan,
}

impl Copying<'_> {
    /// A copy of `src`; `action` holds what is particular to its kind of source.
    fn step(&self, source: State, src: String, action: CopyAction) -> FileStep {
        let action = CopyAction {
            src,
            dest: self.dest.to_owned(),
            mode: self.mode.bits,
            mode_str: self.mode.text.clone(),
            create_dest_path: true,
            exclude: self.files.exclude.clone(),
            ..action
        };
        let chown = &self.files.chown;
        let owner = (!chown.is_empty()).then(|| copy_owner(chown));
        FileStep::Copy(Box::new(CopyStep {
            source,
            action,
            owner,
        }))
    }
}

/// An id that two groups of one build do not share.
fn group_id(text: &str) -> String {
    const LENGTH: usize = 25;
    let digest = Digest::of(text.as_bytes()).to_string();
    digest
        .trim_start_matches("sha256:")
        .chars()
        .take(LENGTH)
        .collect()
}

/// What fetches.
const USE_ADD: &str = "use ADD, which fetches: `ADD <url> <path>`";

fn check_checksum(source: &CopySource, files: &Files) -> Result<(), LowerError> {
    if source.checksum.is_empty() {
        return Ok(());
    }
    let is_git = |path: &str| matches!(GitRef::parse(path), Some(Ok(_)));
    let (text, mend) = match files.sources.as_slice() {
        _ if !source.is_add => ("checksum can't be specified for COPY", "use ADD"),
        [one] if is_http(one) || is_git(one) => return Ok(()),
        [_] => (
            "checksum requires HTTP(S) or Git sources",
            "take the flag out: files of the context are what they are",
        ),
        _ => (
            "checksum can't be specified for multiple sources",
            "write an ADD for each source, each with its own checksum",
        ),
    };
    Err(LowerError::advised(text, mend))
}

fn history_text(source: &CopySource, files: &Files) -> String {
    let mut text = if source.is_add { "ADD" } else { "COPY" }.to_owned();
    if source.parents {
        text.push_str(" --parents");
    }
    for (flag, value) in [("chown", &files.chown), ("chmod", &files.chmod)] {
        if !value.is_empty() {
            text.push_str(&format!(" --{flag}={value}"));
        }
    }
    for path in &files.sources {
        text.push_str(&format!(" {path}"));
    }
    for file in &files.inline {
        text.push_str(&format!(" <<{}", file.name));
    }
    format!("{text} {}", files.dest)
}
