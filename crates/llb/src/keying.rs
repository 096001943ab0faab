//! When two vertices would give the same result.
//!
//! A key is made of [`Keying::op_key`], the number of the output and, for each input, either the
//! identity of what is there with [`InputKeying::selector`], or the content of what
//! [`InputKeying::content`] selects. What goes in and what is left out follows BuildKit
//! (`solver/llbsolver/ops/{exec,file}.go`); the encoding does not, so keys are not shared with it.
//!
//! Encoding of `op_key`: sha256 over a tag (`drydock.key.v1.<kind>`), a zero byte, and protobuf
//! fields as in [`crate::Op::encode`]: field 1 the normalized op, field 2 (exec only) the platform.
//! Encoding of `selector`: sha256 over the strings of its selectors, each after its length.

use oci::{Digest, Hasher, Platform, RootedPath};

use crate::decode::InvalidOp;
use crate::encode::{write_kind, write_platform};
use crate::wire::Writer;
use crate::{
    ActionInput, CacheMount, CacheSharing, ContentMatching, CopyAction, ExecOp, FileAction,
    FileActionKind, FileOp, Mount, MountKind, Op, OpKind, Owner, UserRef,
};

/// What decides the key of a vertex, apart from its inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keying {
    /// The op without its inputs and without what does not change its result.
    pub op_key: Digest,
    /// Per input how it takes part.
    pub inputs: Vec<InputKeying>,
}

/// How one input takes part in a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputKeying {
    /// Goes into a key beside the input's identity: the parts of the input that are used.
    pub selector: Option<Digest>,
    /// `Some` if the input may be matched by the content of these parts; never an empty list.
    pub content: Option<Vec<Selector>>,
}

/// Selects a part of a result.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    /// A path, or a pattern if `wildcard`.
    pub path: String,
    /// Whether `path` is a pattern.
    pub wildcard: bool,
    /// Whether a link at `path` is followed.
    pub follow_links: bool,
    /// Only what matches one of these, if there are any.
    pub include: Vec<String>,
    /// Nothing that matches one of these.
    pub exclude: Vec<String>,
    /// Paths that `include` must find.
    pub required: Vec<String>,
}

impl Selector {
    /// Everything.
    pub fn all() -> Selector {
        Selector {
            path: "/".to_owned(),
            ..Selector::default()
        }
    }

    fn is_plain(&self) -> bool {
        !self.wildcard && self.include.is_empty() && self.exclude.is_empty()
    }
}

impl Keying {
    /// The keying of a checked op that runs for `platform`.
    pub(crate) fn of(op: &Op, platform: &Platform) -> Result<Keying, InvalidOp> {
        let count = op.inputs.len();
        Ok(match &op.kind {
            OpKind::Exec(exec) => {
                let normal = OpKind::Exec(Box::new(normalize_exec(exec)));
                Keying {
                    op_key: op_key("exec", &normal, count, Some(platform)),
                    inputs: exec_inputs(exec, count)?,
                }
            }
            OpKind::File(file) => {
                let uses = FileUses::of(file, count);
                let normal = OpKind::File(uses.normalize(file));
                Keying {
                    op_key: op_key("file", &normal, count, None),
                    inputs: uses.into_inputs(),
                }
            }
            kind @ (OpKind::Source(_)
            | OpKind::Build(_)
            | OpKind::Merge(_)
            | OpKind::Diff(_)
            | OpKind::Passthrough(_)) => Keying {
                op_key: op_key(tag(kind), kind, count, None),
                inputs: vec![InputKeying::default(); count],
            },
        })
    }
}

fn tag(kind: &OpKind) -> &'static str {
    match kind {
        OpKind::Exec(_) => "exec",
        OpKind::Source(_) => "source",
        OpKind::File(_) => "file",
        OpKind::Build(_) => "build",
        OpKind::Merge(_) => "merge",
        OpKind::Diff(_) => "diff",
        OpKind::Passthrough(_) => "passthrough",
    }
}

fn op_key(tag: &str, kind: &OpKind, inputs: usize, platform: Option<&Platform>) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update("drydock.key.v1.");
    hasher.update(tag);
    hasher.update([0]);
    let mut w = Writer::default();
    w.message(1, |w| write_kind(w, kind, inputs));
    if let Some(platform) = platform {
        w.message(2, |w| write_platform(w, platform));
    }
    hasher.update(w.finish());
    hasher.finish()
}

/// The op without what does not change the result: addresses of extra hosts, proxies, the names of
/// cache mounts. Selectors go into the keys of the inputs.
fn normalize_exec(exec: &ExecOp) -> ExecOp {
    let mut exec = exec.clone();
    for line in &mut exec.meta.extra_hosts {
        line.ip.clear();
    }
    exec.meta.proxy_env = None;
    for mount in &mut exec.mounts {
        mount.selector.clear();
        if let MountKind::Cache(cache) = &mut mount.kind
            && !is_default_cache_mount(cache, &mount.dest)
        {
            *cache = CacheMount::default();
        }
    }
    exec
}

/// Whether a cache mount is what a Dockerfile makes when it does not name one: these stay in the
/// key, as in BuildKit, so that adding or moving one counts as a change.
fn is_default_cache_mount(cache: &CacheMount, dest: &str) -> bool {
    cache.sharing == CacheSharing::Shared
        && (cache.id == dest || cache.id.split_once('/').is_some_and(|(_, id)| id == dest))
}

fn exec_inputs(exec: &ExecOp, count: usize) -> Result<Vec<InputKeying>, InvalidOp> {
    let mut paths: Vec<Vec<RootedPath>> = vec![Vec::new(); count];
    let mut by_content = vec![true; count];
    for mount in &exec.mounts {
        let Some(input) = mount.input else { continue };
        let path = RootedPath::normalize(&mount.selector);
        by_content[input as usize] &= matches_by_content(mount, &path)?;
        paths[input as usize].push(path);
    }
    Ok(paths
        .into_iter()
        .zip(by_content)
        .map(|(paths, ok)| exec_input(paths, ok))
        .collect())
}

fn exec_input(paths: Vec<RootedPath>, by_content: bool) -> InputKeying {
    if paths.is_empty() {
        return InputKeying::default();
    }
    let selector = selector_digest(paths.iter().map(RootedPath::as_str));
    let content = by_content.then(|| {
        let paths = outermost(paths.iter().map(RootedPath::as_str));
        if paths.contains(&"/") {
            return vec![Selector::all()];
        }
        let select = |path: &str| Selector {
            path: path.to_owned(),
            follow_links: true,
            ..Selector::default()
        };
        paths.into_iter().map(select).collect()
    });
    InputKeying {
        selector: Some(selector),
        content,
    }
}

/// Whether the input of a mount may be matched by the content under `path`.
///
/// Safe unless files beside `path` can get into a result: a writable mount of a part of the input
/// whose outcome is an output carries the rest of the input with it. The root filesystem is left
/// out by default because taking its digest costs more than it saves.
fn matches_by_content(mount: &Mount, path: &RootedPath) -> Result<bool, InvalidOp> {
    let safe = mount.output.is_none() || mount.readonly || path.as_str() == "/";
    match mount.content {
        ContentMatching::Off => Ok(false),
        ContentMatching::On if safe => Ok(true),
        ContentMatching::On => Err(InvalidOp::ContentMatching {
            dest: mount.dest.clone(),
        }),
        ContentMatching::Default => Ok(safe && mount.dest != "/"),
    }
}

/// What a file op reads of each input.
struct FileUses {
    /// Per input what is read of it.
    selectors: Vec<Vec<Selector>>,
    /// Per input whether an action builds on all of it, so that all of it gets into a result.
    base: Vec<bool>,
}

impl FileUses {
    fn of(file: &FileOp, count: usize) -> FileUses {
        let mut uses = FileUses {
            selectors: vec![Vec::new(); count],
            base: vec![false; count],
        };
        for action in &file.actions {
            if let ActionInput::Input(index) = action.input {
                uses.base[index as usize] = true;
            }
            match &action.kind {
                FileActionKind::Copy(copy) => {
                    uses.select(action.secondary, copy_selector(copy));
                    uses.owner(copy.owner.as_ref());
                }
                FileActionKind::MkFile(file) => uses.owner(file.owner.as_ref()),
                FileActionKind::MkDir(dir) => uses.owner(dir.owner.as_ref()),
                FileActionKind::Symlink(link) => uses.owner(link.owner.as_ref()),
                FileActionKind::Rm(_) => {}
            }
        }
        uses
    }

    fn select(&mut self, from: ActionInput, selector: Selector) {
        if let ActionInput::Input(index) = from {
            self.selectors[index as usize].push(selector);
        }
    }

    fn owner(&mut self, owner: Option<&Owner>) {
        let Some(owner) = owner else { return };
        for (user, path) in [(&owner.user, "/etc/passwd"), (&owner.group, "/etc/group")] {
            if let Some(UserRef::ByName { input, .. }) = user {
                let path = path.to_owned();
                self.select(
                    *input,
                    Selector {
                        path,
                        follow_links: true,
                        ..Selector::default()
                    },
                );
            }
        }
    }

    /// Where a copy's source counts by content, only its last component is left in the op: it is
    /// the only part of the path that decides what is copied to where.
    fn normalize(&self, file: &FileOp) -> FileOp {
        let normalize = |action: &FileAction| {
            let mut action = action.clone();
            if let (FileActionKind::Copy(copy), ActionInput::Input(index)) =
                (&mut action.kind, action.secondary)
                && !self.base[index as usize]
            {
                copy.src = base_name(&copy.src);
            }
            action
        };
        FileOp {
            actions: file.actions.iter().map(normalize).collect(),
        }
    }

    fn into_inputs(self) -> Vec<InputKeying> {
        self.selectors
            .into_iter()
            .zip(self.base)
            .map(|(selectors, base)| {
                if base || selectors.is_empty() {
                    return InputKeying::default();
                }
                let selectors = dedupe(selectors);
                let selector = selector_digest(selectors.iter().map(|one| one.path.as_str()));
                InputKeying {
                    selector: Some(selector),
                    content: Some(selectors),
                }
            })
            .collect()
    }
}

fn copy_selector(copy: &CopyAction) -> Selector {
    Selector {
        path: copy.src.clone(),
        wildcard: copy.allow_wildcard && has_wildcard(&copy.src),
        follow_links: copy.follow_symlink,
        include: copy.include.clone(),
        exclude: copy.exclude.clone(),
        required: copy.required.clone(),
    }
}

/// Whether Go's `filepath.Match` would take any character of `path` as special, escapes apart.
fn has_wildcard(path: &str) -> bool {
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Go's `path.Base`.
fn base_name(path: &str) -> String {
    match path.trim_end_matches('/') {
        "" if path.is_empty() => ".".to_owned(),
        "" => "/".to_owned(),
        trimmed => trimmed.rsplit('/').next().unwrap_or(trimmed).to_owned(),
    }
}

/// Plain paths inside other plain paths select nothing more; neither does the same pattern twice.
fn dedupe(selectors: Vec<Selector>) -> Vec<Selector> {
    let (plain, mut kept): (Vec<_>, Vec<_>) = selectors.into_iter().partition(Selector::is_plain);
    for follow_links in [false, true] {
        let of_kind = plain.iter().filter(|one| one.follow_links == follow_links);
        let paths = outermost(of_kind.map(|one| one.path.as_str()));
        kept.extend(paths.into_iter().map(|path| Selector {
            path: path.to_owned(),
            follow_links,
            ..Selector::default()
        }));
    }
    kept.sort();
    kept.dedup();
    kept
}

/// The paths that are not below another one, sorted.
fn outermost<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut all: Vec<&str> = paths.collect();
    // By components: what is below a path follows it at once.
    all.sort_unstable_by(|one, other| one.split('/').cmp(other.split('/')));
    all.dedup();
    let mut kept: Vec<&str> = Vec::with_capacity(all.len());
    for path in all {
        if kept.last().is_none_or(|last| !is_below(path, last)) {
            kept.push(path);
        }
    }
    kept.sort_unstable();
    kept
}

fn is_below(path: &str, parent: &str) -> bool {
    let parent = parent.strip_suffix('/').unwrap_or(parent);
    let rest = path.strip_prefix(parent);
    rest.is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
}

fn selector_digest<'a>(strings: impl Iterator<Item = &'a str>) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update("drydock.selector.v1\0");
    for string in strings {
        hasher.update((string.len() as u64).to_le_bytes());
        hasher.update(string);
    }
    hasher.finish()
}
