//! Carrying out a stage's commands.

use llb::MkDirAction;
use llb::builder::{DEFAULT_PATH, FileStep, Options as Vertex, copy_owner};
use oci::HealthConfig;

use crate::instruction::{Command, CommandKind, CommandLine};
use crate::lint::{Linter, Rule};
use crate::lower::copy::CopySource;
use crate::lower::error::{At as _, Failure, LowerError};
use crate::lower::stage::{Planned, StageId};
use crate::lower::{Lowering, checks};
use crate::span::LineSpan;
use crate::{go, image, image_path};

impl Lowering<'_> {
    /// Carries out a stage's commands on top of its base.
    pub(super) fn carry_out_stage(&mut self, id: StageId) -> Result<(), Failure> {
        self.stages.inherit(id);
        self.start_stage(id)?;
        let commands = std::mem::take(&mut self.stages.all[id].commands);
        for planned in commands {
            let span = planned.command.span;
            self.carry_out_command(id, planned).at(span)?;
        }
        self.note_scans(id);
        if self.stages.all[id].heirs == 0 {
            self.stages.all[id].strip();
        }
        Ok(())
    }

    /// Takes over what the base image says about containers.
    fn start_stage(&mut self, id: StageId) -> Result<(), Failure> {
        let stage = &mut self.stages.all[id];
        stage.dispatched = true;
        let span = stage.span;
        if stage.platform.is_none() {
            stage.platform = Some(oci::Platform::default());
        }
        let windows = stage.os() == "windows";
        let env = &mut stage.image.config.env;
        let has_path = env
            .iter()
            .any(|item| item.split('=').next() == Some("PATH"));
        // On Windows the system sets it.
        if !has_path && !windows {
            env.push(format!("PATH={DEFAULT_PATH}"));
        }
        for item in env.iter() {
            let (key, value) = item.split_once('=').unwrap_or((item, ""));
            stage.state.env.set(key, value);
        }
        if !self.options.hostname.is_empty() {
            stage.state.hostname.clone_from(&self.options.hostname);
        }
        let dir = stage.image.config.working_dir.clone();
        if !dir.is_empty() {
            self.set_workdir(id, &dir).at(span)?;
        }
        let stage = &mut self.stages.all[id];
        if !stage.image.config.user.is_empty() {
            stage.state.user.clone_from(&stage.image.config.user);
        }
        stage.state.network = self.options.network;
        Ok(())
    }

    fn carry_out_command(&mut self, id: StageId, planned: Planned) -> Result<(), LowerError> {
        let Planned {
            mut command,
            sources,
            is_trigger,
        } = planned;
        let lint = self.lint.for_comments(&command.comments);
        self.stages.all[id].is_trigger = is_trigger;
        self.expand_command(id, &mut command, &lint)?;
        let span = command.span;
        let name = command.keyword.clone();
        match &command.kind {
            CommandKind::Maintainer(author) => {
                self.stages.all[id].image.author.clone_from(author);
                self.record(id, format!("MAINTAINER {author}"), false);
                Ok(())
            }
            CommandKind::Env(pairs) => {
                self.set_env(id, &name, pairs, span, &lint);
                Ok(())
            }
            CommandKind::Label(pairs) => {
                self.set_labels(id, &name, pairs, span, &lint);
                Ok(())
            }
            CommandKind::Run(run) => self.run_command(id, &command, run, &sources, &lint),
            CommandKind::Workdir(path) => self.change_workdir(id, &command, path, &lint),
            CommandKind::Add(add) => {
                let source = CopySource::add(self.context.1.clone(), add);
                self.copy_files(id, &command, &add.files, source, &lint)?;
                let remote =
                    |path: &&String| path.starts_with("http://") || path.starts_with("https://");
                let used = add.files.sources.iter().filter(|path| !remote(path));
                let used: Vec<String> = used.map(|path| go::join(&["/", path])).collect();
                self.stages.all[id].context_paths.extend(used);
                Ok(())
            }
            CommandKind::Copy(copy) => {
                let from = sources.first().copied();
                let state = match from {
                    None => self.context.1.clone(),
                    Some(from) if self.stages.all[from].dispatched => {
                        self.stages.all[from].state.clone()
                    }
                    Some(_) => {
                        let stage = self.stages.all[id].shown.clone();
                        return Err(LowerError::CopyFrom {
                            from: copy.from.clone(),
                            stage,
                        });
                    }
                };
                let source = CopySource::copy(state, from.is_none(), copy.parents);
                self.copy_files(id, &command, &copy.files, source, &lint)?;
                let used = copy.files.sources.iter().map(|path| go::join(&["/", path]));
                match from {
                    None => self.stages.all[id].context_paths.extend(used),
                    Some(from) => {
                        let paths = self.stages.all[from].paths;
                        self.stages.paths[paths].extend(used);
                    }
                }
                Ok(())
            }
            CommandKind::Onbuild(text) => {
                self.stages.all[id].image.config.on_build.push(text.clone());
                Ok(())
            }
            CommandKind::Cmd(line) => {
                checks::used_once(&mut self.stages.all[id].cmd, span, &name, &lint);
                let words = self.command_words(id, &name, line, span, &lint);
                self.record(id, format!("CMD {}", go::quote_list(&words)), false);
                let config = &mut self.stages.all[id].image.config;
                config.args_escaped = true;
                config.cmd = (!words.is_empty()).then_some(words);
                Ok(())
            }
            CommandKind::Entrypoint(line) => {
                checks::used_once(&mut self.stages.all[id].entrypoint, span, &name, &lint);
                let words = self.command_words(id, &name, line, span, &lint);
                self.record(id, format!("ENTRYPOINT {}", go::quote_list(&words)), false);
                let stage = &mut self.stages.all[id];
                if stage.cmd.is_none() {
                    stage.image.config.cmd = None;
                }
                stage.image.config.entrypoint = (!words.is_empty()).then_some(words);
                Ok(())
            }
            CommandKind::Healthcheck(probe) => {
                let stage = &mut self.stages.all[id];
                checks::used_once(&mut stage.healthcheck, span, &name, &lint);
                stage.image.config.healthcheck = Some(probe.clone());
                self.record(id, format!("HEALTHCHECK {}", show_probe(probe)), false);
                Ok(())
            }
            CommandKind::Expose(ports) => self.expose(id, ports, span, &lint),
            CommandKind::User(user) => {
                let stage = &mut self.stages.all[id];
                stage.state.user.clone_from(user);
                stage.image.config.user.clone_from(user);
                self.record(id, format!("USER {user}"), false);
                Ok(())
            }
            CommandKind::Volume(volumes) => {
                if volumes.iter().any(String::is_empty) {
                    let text = "VOLUME specified can not be an empty string";
                    let mend = "name a directory: `VOLUME [\"/data\"]`";
                    return Err(LowerError::advised(text, mend));
                }
                let items = volumes
                    .iter()
                    .map(|path| (path.clone(), serde_json::Map::new()));
                self.stages.all[id].image.config.volumes.extend(items);
                self.record(id, format!("VOLUME {}", go::list(volumes)), false);
                Ok(())
            }
            CommandKind::Stopsignal(signal) => {
                if !checks::is_signal(signal) {
                    return Err(LowerError::Signal(signal.clone()));
                }
                self.stages.all[id]
                    .image
                    .config
                    .stop_signal
                    .clone_from(signal);
                self.record(id, format!("STOPSIGNAL {signal}"), false);
                Ok(())
            }
            CommandKind::Shell(words) => {
                self.stages.all[id].image.config.shell.clone_from(words);
                self.record(id, format!("SHELL {}", go::list(words)), false);
                Ok(())
            }
            CommandKind::Arg(args) => self.declare_args(id, args, span, &lint),
        }
    }

    /// Adds a history entry.
    pub(super) fn record(&mut self, id: StageId, text: String, layer: bool) {
        let created = self.epoch.as_ref().map(|(text, _)| text.as_str());
        image::record(&mut self.stages.all[id].image, text, layer, created);
    }

    /// Argv of `CMD` and `ENTRYPOINT`.
    fn command_words(
        &self,
        id: StageId,
        name: &str,
        line: &CommandLine,
        span: LineSpan,
        lint: &Linter,
    ) -> Vec<String> {
        if !line.shell {
            return line.words.clone();
        }
        let image = &self.stages.all[id].image;
        if image.config.shell.is_empty() {
            lint.warn(Rule::JsonArgsRecommended, span, &[name]);
        }
        image::with_shell(image, &line.words)
    }

    /// Sets the working directory of containers; gives it with slashes.
    fn set_workdir(&mut self, id: StageId, path: &str) -> Result<String, LowerError> {
        let stage = &mut self.stages.all[id];
        let os = stage.os().to_owned();
        let dir = image_path::workdir(&stage.image.config.working_dir, path, &os)
            .map_err(LowerError::Workdir)?;
        let slashed = image_path::to_slash(&dir, &os);
        stage.image.config.working_dir = dir;
        stage.state.set_dir(&slashed);
        Ok(slashed)
    }

    fn change_workdir(
        &mut self,
        id: StageId,
        command: &Command,
        path: &str,
        lint: &Linter,
    ) -> Result<(), LowerError> {
        let stage = &mut self.stages.all[id];
        if !stage.has_workdir && !image_path::is_abs(path, stage.os()) {
            lint.warn(Rule::WorkdirRelativePath, command.span, &[path]);
        }
        stage.has_workdir = true;
        let dir = self.set_workdir(id, path)?;
        let makes_layer = dir != "/";
        if makes_layer {
            let stage = &self.stages.all[id];
            let (env, user) = (stage.state.env.clone(), stage.image.config.user.clone());
            let platform = stage.platform.clone();
            let text = self.shown_text(&command.source, &env, false);
            let multi = self.options.multi_platform;
            let name = self.step_name(id, &text, multi, platform.as_ref(), Some(&env));
            let action = MkDirAction {
                path: dir.clone(),
                mode: 0o755,
                make_parents: true,
                timestamp: self
                    .epoch
                    .as_ref()
                    .map(|(_, s)| s.saturating_mul(1_000_000_000)),
                ..MkDirAction::default()
            };
            let owner = (!user.is_empty()).then(|| copy_owner(&user));
            let vertex = Vertex::named(name).at(self.place(command.span));
            let steps = vec![FileStep::MkDir { action, owner }];
            let stage = &mut self.stages.all[id];
            stage.state = self.builder.file(&stage.state, steps, vertex);
        }
        self.record(id, format!("WORKDIR {dir}"), makes_layer);
        Ok(())
    }
}

/// A probe as Go prints the struct.
fn show_probe(probe: &HealthConfig) -> String {
    let HealthConfig {
        test,
        interval,
        timeout,
        start_period,
        start_interval,
        retries,
    } = probe;
    let time = |nanoseconds: &i64| go::format_duration(*nanoseconds);
    format!(
        "{{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{retries}}}",
        go::list(test),
        time(interval),
        time(timeout),
        time(start_period),
        time(start_interval),
    )
}
