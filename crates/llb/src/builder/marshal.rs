//! Vertices to a definition, in BuildKit's order.

use std::collections::HashMap;

use bytes::Bytes;
use oci::{Digest, Platform};

use super::file::{FileStep, FileVertex, OwnerSpec, UserSpec};
use super::import::same_file;
use super::{Builder, ExecVertex, Options, Output, State, Vertex, VertexKind};
use crate::{
    ActionInput, CacheMount, Definition, ExecOp, FileAction, FileActionKind, FileOp, Input,
    Location, MergeOp, Meta, Mount, MountKind, Op, OpKind, OpMetadata, Owner, SecretEnv,
    SecretMount, SourceInfo, SourceMap, SourceOp, SshMount, UserRef,
};

/// What holds for a whole definition.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// The platform of ops that have none of their own.
    pub platform: Platform,
    /// Whether the engine sets a default `PATH` (`exec.meta.setsdefaultpath`); `None` when its
    /// capabilities are not known.
    pub sets_default_path: Option<bool>,
    /// `local.unique` of directories whose session is not named.
    pub local_unique: String,
}

/// The `PATH` of containers that set none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Builder {
    /// The definition whose result is `state`; empty for an empty state.
    pub fn definition(&self, state: &State, defaults: &Defaults) -> Definition {
        let Some((result, index)) = self.target(state.output) else {
            return Definition::default();
        };
        let mut walk = Walk {
            builder: self,
            defaults,
            definition: Definition::default(),
            digests: HashMap::new(),
            source: SourceMap::default(),
            file_index: HashMap::new(),
        };
        walk.visit(result);
        let input = walk.input(result, index);
        let Walk {
            mut definition,
            source,
            ..
        } = walk;
        definition.finish(input);
        definition.source = Some(source);
        definition
    }

    /// The vertex that an output stands for.
    fn target(&self, output: Option<Output>) -> Option<(usize, u32)> {
        let mut output = output?;
        // Deferred outputs can be given by deferred ones; each hop is another slot.
        for _ in 0..=self.deferred.len() {
            match output {
                Output::Vertex { vertex, index } => return Some((vertex, index)),
                Output::Deferred(slot) => output = self.deferred[slot]?,
            }
        }
        None
    }
}

struct Walk<'a> {
    builder: &'a Builder,
    defaults: &'a Defaults,
    definition: Definition,
    digests: HashMap<usize, Digest>,
    source: SourceMap,
    file_index: HashMap<usize, i32>,
}

impl Walk<'_> {
    /// Adds a vertex after its inputs. A chain may be long, so this is a loop.
    fn visit(&mut self, result: usize) {
        let mut stack = vec![(result, false)];
        while let Some((id, expanded)) = stack.pop() {
            if self.digests.contains_key(&id) {
                continue;
            }
            let vertex = &self.builder.vertices[id];
            if expanded {
                self.add(id, vertex);
                continue;
            }
            stack.push((id, true));
            let inputs: Vec<usize> = inputs(vertex)
                .into_iter()
                .filter_map(|output| self.builder.target(Some(output)))
                .map(|(input, _)| input)
                .collect();
            stack.extend(inputs.into_iter().rev().map(|input| (input, false)));
        }
    }

    fn input(&self, vertex: usize, output: u32) -> Input {
        // `visit` adds inputs before what uses them.
        Input {
            digest: self.digests[&vertex],
            output,
        }
    }

    /// The index of an output among `inputs`, where it is put when it is new.
    fn index(&self, inputs: &mut Vec<Input>, output: Option<Output>) -> Option<u32> {
        let (vertex, index) = self.builder.target(output)?;
        let input = self.input(vertex, index);
        let at = inputs
            .iter()
            .position(|known| *known == input)
            .unwrap_or_else(|| {
                inputs.push(input);
                inputs.len() - 1
            });
        u32::try_from(at).ok()
    }

    fn add(&mut self, id: usize, vertex: &Vertex) {
        let Options {
            platform,
            metadata,
            locations,
        } = &vertex.options;
        let mut metadata = metadata.clone();
        let platform = platform.as_ref().unwrap_or(&self.defaults.platform);
        let mut inputs = Vec::new();
        let (kind, has_platform) = match &vertex.kind {
            VertexKind::Imported(imported) => {
                let digest = self.add_imported(&imported.bytes, metadata);
                self.add_locations(digest, locations);
                self.digests.insert(id, digest);
                return;
            }
            VertexKind::Source(source) => {
                let mut attrs = source.attrs.clone();
                if source.identifier.starts_with("local://") && !attrs.contains_key("local.session")
                {
                    attrs.insert(
                        "local.unique".to_owned(),
                        self.defaults.local_unique.clone(),
                    );
                }
                let op = SourceOp {
                    identifier: source.identifier.clone(),
                    attrs,
                };
                (OpKind::Source(op), source.has_platform)
            }
            VertexKind::Exec(exec) => (
                OpKind::Exec(Box::new(self.exec(
                    exec,
                    platform,
                    &mut inputs,
                    &mut metadata,
                ))),
                true,
            ),
            VertexKind::File(file) => (OpKind::File(self.file(file, &mut inputs)), false),
            VertexKind::Merge(outputs) => {
                let merged = outputs.iter().enumerate();
                let merged = merged.map(|(at, _)| u32::try_from(at).ok()).collect();
                inputs.extend(
                    outputs
                        .iter()
                        .filter_map(|output| self.builder.target(Some(*output)))
                        .map(|(vertex, index)| self.input(vertex, index)),
                );
                (OpKind::Merge(MergeOp { inputs: merged }), false)
            }
        };
        let op = Op {
            inputs,
            kind,
            platform: has_platform.then(|| platform.clone()),
            constraints: Some(Vec::new()),
        };
        let digest = self.definition.push(&op, metadata);
        self.add_locations(digest, locations);
        self.digests.insert(id, digest);
    }

    fn add_imported(&mut self, bytes: &Bytes, metadata: OpMetadata) -> Digest {
        let digest = Digest::of(bytes);
        if !self.definition.metadata.contains_key(&digest) {
            self.definition.ops.push(bytes.clone());
        }
        self.definition
            .metadata
            .entry(digest)
            .or_default()
            .merge(metadata);
        digest
    }

    fn add_locations(&mut self, digest: Digest, places: &[(super::FileId, Vec<crate::Range>)]) {
        let mut found = Vec::with_capacity(places.len());
        for (file, ranges) in places {
            found.push(Location {
                source_index: self.file_of(*file),
                ranges: ranges.clone(),
            });
        }
        self.source
            .locations
            .entry(digest)
            .or_default()
            .extend(found);
    }

    /// The index of a source file in the definition.
    fn file_of(&mut self, id: super::FileId) -> i32 {
        if let Some(index) = self.file_index.get(&id.0) {
            return *index;
        }
        let file = &self.builder.files[id.0];
        let same = self
            .file_index
            .iter()
            .find(|(other, _)| same_file(&self.builder.files[**other], file))
            .map(|(_, index)| *index);
        let index = same.unwrap_or_else(|| {
            self.source.infos.push(SourceInfo {
                filename: file.filename.clone(),
                data: file.data.clone(),
                definition: file.definition.clone().map(Box::new),
                language: file.language.clone(),
            });
            i32::try_from(self.source.infos.len() - 1).unwrap_or(i32::MAX)
        });
        self.file_index.insert(id.0, index);
        index
    }

    fn exec(
        &self,
        exec: &ExecVertex,
        platform: &Platform,
        inputs: &mut Vec<Input>,
        metadata: &mut OpMetadata,
    ) -> ExecOp {
        let mut env = exec.env.clone();
        match self.defaults.sets_default_path {
            Some(true) => {
                metadata
                    .caps
                    .insert("exec.meta.setsdefaultpath".to_owned(), true);
            }
            // On Windows the system sets it.
            Some(false) if platform.os != "windows" && env.get("PATH").is_none() => {
                env.set("PATH", DEFAULT_PATH);
            }
            Some(false) | None => {}
        }
        let run = &exec.run;
        let mut outputs = 0;
        let mut mounts: Vec<Mount> = Vec::with_capacity(exec.mounts.len());
        for vertex in &exec.mounts {
            let mount = &vertex.mount;
            let output = vertex.has_output().then(|| {
                outputs += 1;
                outputs - 1
            });
            mounts.push(Mount {
                input: self.index(inputs, vertex.source),
                selector: mount.selector.clone(),
                dest: mount.target.clone(),
                output,
                readonly: mount.readonly,
                kind: mount_kind(mount.cache.as_ref(), mount.tmpfs),
                ..Mount::default()
            });
        }
        // Secrets and sockets have output 0 on the wire: BuildKit leaves the field at its default.
        let special = |dest: &str, kind| Mount {
            dest: dest.to_owned(),
            output: Some(0),
            kind,
            ..Mount::default()
        };
        mounts.extend(run.secrets.iter().filter_map(|secret| {
            let target = secret.target.as_ref()?;
            Some(special(
                target,
                MountKind::Secret(SecretMount {
                    id: secret.id.clone(),
                    uid: secret.uid,
                    gid: secret.gid,
                    mode: secret.mode,
                    optional: secret.optional,
                }),
            ))
        }));
        mounts.extend(run.ssh.iter().map(|ssh| {
            special(
                &ssh.target,
                MountKind::Ssh(SshMount {
                    id: ssh.id.clone(),
                    uid: ssh.uid,
                    gid: ssh.gid,
                    mode: ssh.mode,
                    optional: ssh.optional,
                }),
            )
        }));
        ExecOp {
            meta: Meta {
                args: run.args.clone(),
                env: env.to_list(),
                cwd: exec.cwd.clone(),
                user: exec.user.clone(),
                proxy_env: run.proxy.clone(),
                extra_hosts: run.extra_hosts.clone(),
                hostname: exec.hostname.clone(),
                ulimits: run.ulimits.clone(),
                cgroup_parent: run.cgroup_parent.clone(),
                remove_mount_stubs_recursive: true,
                valid_exit_codes: Vec::new(),
            },
            mounts,
            network: exec.network,
            security: exec.security,
            secret_env: run
                .secrets
                .iter()
                .filter_map(|secret| {
                    Some(SecretEnv {
                        id: secret.id.clone(),
                        name: secret.env.clone()?,
                        optional: secret.optional,
                    })
                })
                .collect(),
            devices: run.devices.clone(),
        }
    }

    fn file(&self, file: &FileVertex, inputs: &mut Vec<Input>) -> FileOp {
        let base = self
            .index(inputs, file.base)
            .map_or(ActionInput::Empty, ActionInput::Input);
        let count = file.steps.len();
        let mut actions = Vec::with_capacity(count);
        for (at, step) in file.steps.iter().enumerate() {
            let input = match u32::try_from(at) {
                Ok(0) | Err(_) => base,
                Ok(at) => ActionInput::Action(at - 1),
            };
            let mut secondary = ActionInput::Empty;
            let kind = match step {
                FileStep::Copy(copy) => {
                    if let Some(index) = self.index(inputs, copy.source.output) {
                        secondary = ActionInput::Input(index);
                    }
                    let mut action = copy.action.clone();
                    action.owner = owner(copy.owner.as_ref(), base);
                    FileActionKind::Copy(action)
                }
                FileStep::MkDir {
                    action,
                    owner: spec,
                } => {
                    let mut action = action.clone();
                    action.owner = owner(spec.as_ref(), base);
                    FileActionKind::MkDir(action)
                }
                FileStep::MkFile(action) => FileActionKind::MkFile(action.clone()),
            };
            let output = (at + 1 == count).then_some(0);
            actions.push(FileAction {
                input,
                secondary,
                output,
                kind,
            });
        }
        FileOp { actions }
    }
}

/// The outputs a vertex builds on, in the order in which BuildKit's client walks them.
fn inputs(vertex: &Vertex) -> Vec<Output> {
    match &vertex.kind {
        VertexKind::Source(_) => Vec::new(),
        VertexKind::Exec(exec) => exec
            .mounts
            .iter()
            .filter_map(|mount| mount.source)
            .collect(),
        // The last step first, and what is changed before what is copied from.
        VertexKind::File(file) => {
            let copied = file.steps.iter().rev().filter_map(|step| match step {
                FileStep::Copy(copy) => copy.source.output,
                FileStep::MkDir { .. } | FileStep::MkFile(_) => None,
            });
            file.base.into_iter().chain(copied).collect()
        }
        VertexKind::Merge(outputs) => outputs.clone(),
        VertexKind::Imported(imported) => imported.inputs.clone(),
    }
}

fn mount_kind(cache: Option<&CacheMount>, tmpfs: Option<i64>) -> MountKind {
    match (cache, tmpfs) {
        (_, Some(size)) => MountKind::Tmpfs { size: Some(size) },
        (Some(cache), None) => MountKind::Cache(cache.clone()),
        (None, None) => MountKind::Bind,
    }
}

fn owner(spec: Option<&OwnerSpec>, base: ActionInput) -> Option<Owner> {
    let user = |spec: &Option<UserSpec>| {
        spec.as_ref().map(|spec| match spec {
            UserSpec::Id(id) => UserRef::ById(*id),
            UserSpec::Name(name) => UserRef::ByName {
                name: name.clone(),
                input: base,
            },
        })
    };
    spec.map(|spec| Owner {
        user: user(&spec.user),
        group: user(&spec.group),
    })
}
