//! `RUN`.

use std::collections::{HashMap, HashSet};

use llb::builder::{
    BuilderMount, FileStep, Options as Vertex, OwnerSpec, Run as RunOp, SecretSpec, SshSpec, State,
    UserSpec,
};
use llb::{CacheMount, MkDirAction, MkFileAction, NetMode, ProxyEnv};

use crate::context::SCRATCH;
use crate::expand::Env;
use crate::instruction::{Arg, Command, Mount, MountKind, Run, RunHeredoc};
use crate::lint::Linter;
use crate::lower::Lowering;
use crate::lower::error::LowerError;
use crate::lower::stage::StageId;
use crate::parse::{HeredocMark, chomp};
use crate::{go, image};

/// Where scripts of heredocs are mounted.
const SCRIPTS: &str = "/dev/pipes/";

impl Lowering<'_> {
    pub(super) fn run_command(
        &mut self,
        id: StageId,
        command: &Command,
        run: &Run,
        sources: &[StageId],
        lint: &Linter,
    ) -> Result<(), LowerError> {
        let env = self.stages.all[id].state.env.clone();
        self.grow(
            env.keys()
                .map(|key| key.len() + env.get(key).map_or(0, str::len))
                .sum(),
        )?;
        let mounts = self.read_mounts(id, command, run, &env, lint)?;
        // A command may read anything of what is there.
        let paths = self.stages.all[id].paths;
        self.stages.paths[paths].insert("/".to_owned());

        let mut op = RunOp::default();
        let mut shown = command.source.clone();
        let mut args = self.script(id, run, &mut op, &mut shown)?;
        if run.line.shell {
            args = image::with_shell(&self.stages.all[id].image, &args);
        }
        op.args.clone_from(&args);
        op.proxy = proxy(&self.build_args);
        self.add_mounts(id, &mounts, sources, &mut op, command)?;
        op.security = Some(run.security);
        op.network = Some(run.network).filter(|network| *network != NetMode::Sandbox);
        self.add_options(run, &mut op)?;

        let name = self.run_name(id, &shown, &mounts, &env);
        let resources = self.options.linux_resources.clone();
        let mut vertex = Vertex::named(name)
            .describe("com.docker.dockerfile.v1.command", &command.source)
            .limited(resources.filter(|_| self.request.caps.linux_resources))
            .at(self.place(command.span));
        let stage = &mut self.stages.all[id];
        vertex.metadata.ignore_cache = stage.ignore_cache;
        stage.state = self.builder.run(&stage.state, op, vertex);
        let text = self.run_text(id, &args, &env);
        self.record(id, format!("RUN {text} # buildkit"), true);
        Ok(())
    }

    fn read_mounts(
        &self,
        id: StageId,
        command: &Command,
        run: &Run,
        env: &Env,
        lint: &Linter,
    ) -> Result<Vec<Mount>, LowerError> {
        run.mounts
            .iter()
            .map(|text| {
                let expand = |word: &str| self.expand_word(id, word, env, command.span, lint);
                Mount::read(text, expand).map_err(LowerError::Mount)
            })
            .collect()
    }

    /// The words of the command. A heredoc becomes a script, or part of the shell's text.
    fn script(
        &mut self,
        id: StageId,
        run: &Run,
        op: &mut RunOp,
        shown: &mut String,
    ) -> Result<Vec<String>, LowerError> {
        let words = run.line.words.clone();
        let Some(first) = run.heredocs.first() else {
            return Ok(words);
        };
        let [line] = words.as_slice() else {
            let text = format!(
                "parsing produced an invalid run command: {}",
                go::list(&words)
            );
            return Err(LowerError::Rule(text));
        };
        if HeredocMark::parse(line).ok().flatten().is_none() {
            return Ok(vec![rebuild(line, &run.heredocs)]);
        }
        let text = match first.chomp {
            true => String::from_utf8_lossy(&chomp(first.content.as_bytes())).into_owned(),
            false => first.content.clone(),
        };
        shown.push_str(&format!(" ({})", summary(&first.content)));
        let stage = &self.stages.all[id];
        if stage.image.os == "windows" || !text.starts_with("#!") {
            return Ok(vec![text]);
        }
        let action = MkFileAction {
            path: first.name.clone(),
            mode: 0o755,
            data: text.into_bytes().into(),
            ..MkFileAction::default()
        };
        let vertex = Vertex::named("[internal] preparing inline document");
        let source = self
            .builder
            .file(&State::scratch(), vec![FileStep::MkFile(action)], vertex);
        op.mounts.push(BuilderMount {
            target: SCRIPTS.to_owned(),
            source,
            selector: "/".to_owned(),
            readonly: true,
            ..BuilderMount::default()
        });
        Ok(vec![go::join(&[SCRIPTS, &first.name])])
    }

    fn add_mounts(
        &mut self,
        id: StageId,
        mounts: &[Mount],
        sources: &[StageId],
        op: &mut RunOp,
        command: &Command,
    ) -> Result<(), LowerError> {
        for (mount, source) in mounts.iter().zip(sources) {
            let from = match mount.kind {
                MountKind::Cache if mount.from.is_empty() => SCRATCH,
                _ => mount.from.as_str(),
            };
            let state = if from.is_empty() {
                self.context.1.clone()
            } else if self.stages.all[*source].dispatched {
                self.stages.all[*source].state.clone()
            } else {
                let (from, target) = (from.to_owned(), mount.target.clone());
                return Err(LowerError::MountFrom { from, target });
            };
            match mount.kind {
                MountKind::Secret => {
                    let secret = self.secret(id, mount, command)?;
                    op.secrets.push(secret);
                }
                MountKind::Ssh => {
                    let ssh = self.ssh(id, mount, command)?;
                    op.ssh.push(ssh);
                }
                MountKind::Bind | MountKind::Cache | MountKind::Tmpfs => {
                    let mounted = self.file_mount(id, mount, state)?;
                    op.mounts.push(mounted);
                    let used = go::join(&["/", &mount.source]);
                    if from.is_empty() {
                        self.stages.all[id].context_paths.insert(used);
                    } else {
                        let paths = self.stages.all[*source].paths;
                        self.stages.paths[paths].insert(used);
                    }
                }
            }
        }
        Ok(())
    }

    fn file_mount(
        &mut self,
        id: StageId,
        mount: &Mount,
        state: State,
    ) -> Result<BuilderMount, LowerError> {
        let is = |kind| mount.kind == kind;
        let target = if go::is_abs(&go::clean(&mount.target)) {
            mount.target.clone()
        } else {
            go::join(&["/", self.stages.all[id].state.dir(), &mount.target])
        };
        if target == "/" {
            return Err(LowerError::MountTarget(target));
        }
        let mut mounted = BuilderMount {
            target,
            source: if is(MountKind::Tmpfs) {
                State::scratch()
            } else {
                state
            },
            readonly: mount.readonly,
            no_output: is(MountKind::Bind) && !mount.readonly && self.request.caps.bind_no_output,
            tmpfs: is(MountKind::Tmpfs).then_some(mount.size),
            ..BuilderMount::default()
        };
        if is(MountKind::Cache) {
            let name = match mount.id.as_str() {
                "" => go::clean(&mount.target),
                id => id.to_owned(),
            };
            mounted.cache = Some(CacheMount {
                id: format!("{}/{name}", self.options.cache_namespace),
                sharing: mount.sharing.unwrap_or_default(),
            });
        }
        let selector = go::join(&["/", &mount.source]);
        if selector != "/" {
            mounted.selector = selector;
        } else if mount.uid.is_some() || mount.gid.is_some() || mount.mode.is_some() {
            // A directory with the wanted owner is what the mount starts from.
            mounted.selector = "/cache".to_owned();
            let action = MkDirAction {
                path: mounted.selector.clone(),
                mode: mount.mode.unwrap_or(0o755),
                ..MkDirAction::default()
            };
            let owner = Some(OwnerSpec {
                user: Some(UserSpec::Id(mount.uid.unwrap_or(0))),
                group: Some(UserSpec::Id(mount.gid.unwrap_or(0))),
            });
            let steps = vec![FileStep::MkDir { action, owner }];
            let vertex = Vertex::named("[internal] setting cache mount permissions");
            mounted.source = self.builder.file(&mounted.source, steps, vertex);
        }
        Ok(mounted)
    }

    fn secret(
        &mut self,
        id: StageId,
        mount: &Mount,
        command: &Command,
    ) -> Result<SecretSpec, LowerError> {
        let secret = [&mount.source, &mount.id]
            .into_iter()
            .find(|id| !id.is_empty());
        let secret = match secret {
            Some(secret) => secret.clone(),
            None if mount.target.is_empty() => {
                return Err(LowerError::advised(
                    "one of source, target required",
                    "name the secret: `--mount=type=secret,id=token`",
                ));
            }
            None => go::base(&mount.target).to_owned(),
        };
        let mut target = (!mount.target.is_empty()).then(|| mount.target.clone());
        if mount.env.is_none() && target.is_none() {
            target = Some(format!("/run/secrets/{}", go::base(&secret)));
        }
        let seen = &mut self.stages.all[id].outline.secrets;
        seen.entry(secret.clone())
            .or_insert((mount.required, command.span));
        Ok(SecretSpec {
            id: secret,
            target,
            env: mount.env.clone(),
            uid: mount.uid.unwrap_or(0),
            gid: mount.gid.unwrap_or(0),
            mode: mount.mode.unwrap_or(0o400),
            optional: !mount.required,
        })
    }

    fn ssh(
        &mut self,
        id: StageId,
        mount: &Mount,
        command: &Command,
    ) -> Result<SshSpec, LowerError> {
        if !mount.source.is_empty() {
            return Err(LowerError::Rule("ssh does not support source".to_owned()));
        }
        let agent = if mount.id.is_empty() {
            "default"
        } else {
            &mount.id
        };
        let seen = &mut self.stages.all[id].outline.ssh;
        seen.entry(agent.to_owned())
            .or_insert((mount.required, command.span));
        Ok(SshSpec {
            id: mount.id.clone(),
            target: mount.target.clone(),
            uid: mount.uid.unwrap_or(0),
            gid: mount.gid.unwrap_or(0),
            mode: mount.mode.unwrap_or(0o600),
            optional: !mount.required,
        })
    }

    /// What the options of the build say about every `RUN`.
    fn add_options(&self, run: &Run, op: &mut RunOp) -> Result<(), LowerError> {
        let (options, caps) = (self.options, self.request.caps);
        op.extra_hosts.clone_from(&options.extra_hosts);
        if caps.ulimit {
            op.ulimits.clone_from(&options.ulimits);
        }
        if caps.devices {
            if !run.devices.is_empty() && !self.labs {
                let text =
                    "device feature is only supported in Dockerfile frontend 1.14.0-labs or later";
                let mend = "begin the file with `# syntax=docker/dockerfile:1-labs`";
                return Err(LowerError::advised(text, mend));
            }
            op.devices.clone_from(&run.devices);
        }
        if caps.tmpfs_size && options.shm_size > 0 {
            op.mounts.push(BuilderMount {
                target: "/dev/shm".to_owned(),
                tmpfs: Some(options.shm_size),
                ..BuilderMount::default()
            });
        }
        if caps.cgroup_parent {
            op.cgroup_parent.clone_from(&options.cgroup_parent);
        }
        Ok(())
    }

    fn run_name(&mut self, id: StageId, text: &str, mounts: &[Mount], env: &Env) -> String {
        let mut masked = env.clone();
        for mount in mounts
            .iter()
            .filter(|mount| mount.kind == MountKind::Secret)
        {
            if let Some(name) = &mount.env {
                masked.set(name, "****");
            }
        }
        let text = self.shown_text(text, &masked, true);
        let platform = self.stages.all[id].state.platform().cloned();
        let multi = self.options.multi_platform;
        self.step_name(id, &text, multi, platform.as_ref(), Some(env))
    }

    /// The command line with the arguments of the build in front, for the history.
    fn run_text(&self, id: StageId, args: &[String], env: &Env) -> String {
        let stage = &self.stages.all[id];
        // Of arguments that are not in the environment, the last one counts.
        let values = stage
            .args
            .iter()
            .map(|arg| (&arg.key, arg.value.as_deref()));
        let last: HashMap<&String, Option<&str>> = values.collect();
        let mut seen = HashSet::new();
        let mut words = vec![String::new()];
        for Arg { key, .. } in stage.args.iter().filter(|arg| seen.insert(&arg.key)) {
            let value = env.get(key).or(last[key]).unwrap_or_default();
            words.push(format!("{key}={value}"));
        }
        if words.len() > 1 {
            words[0] = format!("|{}", words.len() - 1);
        } else {
            words.clear();
        }
        words.extend_from_slice(args);
        words.join(" ")
    }
}

/// The shell's text with the heredocs that it reads itself.
fn rebuild(line: &str, heredocs: &[RunHeredoc]) -> String {
    let mut text = line.to_owned();
    for heredoc in heredocs {
        text.push('\n');
        text.push_str(&heredoc.content);
        text.push_str(&heredoc.name);
    }
    text
}

/// The first line of a script.
fn summary(text: &str) -> String {
    let text = text.trim().replace("\r\n", "\n");
    match text.split_once('\n') {
        Some((first, _)) => format!("{first}..."),
        None => text,
    }
}

/// Proxy variables among the build arguments, in any casing.
fn proxy(build_args: &std::collections::BTreeMap<String, String>) -> Option<ProxyEnv> {
    let mut proxy = None;
    for (key, value) in build_args {
        let slot: fn(&mut ProxyEnv) -> &mut String = match key.to_lowercase().as_str() {
            "http_proxy" => |proxy| &mut proxy.http_proxy,
            "https_proxy" => |proxy| &mut proxy.https_proxy,
            "ftp_proxy" => |proxy| &mut proxy.ftp_proxy,
            "no_proxy" => |proxy| &mut proxy.no_proxy,
            "all_proxy" => |proxy| &mut proxy.all_proxy,
            _ => continue,
        };
        value.clone_into(slot(proxy.get_or_insert_with(ProxyEnv::default)));
    }
    proxy
}
