//! Stages, the target, and which stages need which.

use std::collections::BTreeSet;

use crate::context::{NamedContext, SCRATCH};
use crate::expand::{Env, Expansion};
use crate::instruction::{Command, CommandKind, Mount, Stage};
use crate::lint::{Linter, Rule};
use crate::lower::Lowering;
use crate::lower::error::{At as _, Failure, LowerError};
use crate::lower::stage::{Planned, StageId, StageState};
use crate::{go, platform, suggest};

impl Lowering<'_> {
    /// Makes a stage of each `FROM`.
    pub(super) fn lay_out_stages(&mut self) -> Result<(), Failure> {
        for (index, mut stage) in std::mem::take(&mut self.file.stages)
            .into_iter()
            .enumerate()
        {
            let lint = self.lint.for_comments(&stage.comments);
            let (mut state, used) = self.lay_out_stage(&stage, &lint)?;
            let commands = std::mem::take(&mut stage.commands);
            state.commands = commands
                .into_iter()
                .map(|command| Planned {
                    command,
                    sources: Vec::new(),
                    is_trigger: false,
                })
                .collect();
            if !stage.name.is_empty() {
                let platform = state
                    .platform
                    .as_ref()
                    .or(self.request.target_platform.as_ref());
                state.named_context = NamedContext::find(self.options, &stage.name, platform)
                    .map_err(LowerError::from)?;
            }
            let replaced = state.named_context.is_some();
            if stage.name.is_empty() {
                state.shown = format!("stage-{index}");
            }
            let id = self.stages.add(state);
            let state = &mut self.stages.all[id];
            if replaced {
                state.base = None;
                continue;
            }
            state.outline.used_in_from = used;
            let pulls = state.base.is_none() && state.base_name != SCRATCH;
            let steps = state
                .commands
                .iter()
                .filter(|planned| is_step(&planned.command))
                .count();
            state.steps = steps + usize::from(pulls);
            state.ignore_cache = self.options.is_no_cache(&stage.name);
        }
        Ok(())
    }

    /// A stage with its base and platform expanded, and the arguments that took.
    fn lay_out_stage(
        &self,
        stage: &Stage,
        lint: &Linter,
    ) -> Result<(StageState, BTreeSet<String>), Failure> {
        let env = &self.globals.env;
        let base = self.expander.word(&stage.base, env);
        self.report_undeclared(&base.unset, stage, lint);
        let mut used = base.used;
        let base_name = base.result.at(stage.span)?;
        if base_name.is_empty() {
            return Err(LowerError::BlankBase(stage.base.clone())).at(stage.span);
        }
        let mut state = StageState::of(stage, base_name);
        if stage.platform.is_empty() {
            return Ok((state, used));
        }
        let expansion = self.expander.word(&stage.platform, env);
        self.report_undeclared(&expansion.unset, stage, lint);
        check_platform(stage, &expansion, env, lint);
        let Expansion {
            result,
            used: in_platform,
            unset,
        } = expansion;
        let hint = || {
            let found = unset
                .iter()
                .find_map(|name| suggest::nearest(name, env.keys(), true));
            suggest::suffix(found.as_deref())
        };
        let text = result
            .map_err(|source| LowerError::PlatformArguments {
                platform: String::new(),
                source,
            })
            .at(stage.span)?;
        let expression = stage.platform.clone();
        if text.is_empty() {
            return Err(LowerError::EmptyPlatform {
                expression,
                hint: hint(),
            })
            .at(stage.span);
        }
        let parsed = platform::parse(&text)
            .map_err(|source| LowerError::Platform {
                expression,
                source,
                hint: hint(),
            })
            .at(stage.span)?;
        used.extend(in_platform);
        state.platform = Some(parsed);
        Ok((state, used))
    }

    /// Reports arguments of a `FROM` that are not declared.
    fn report_undeclared(&self, unset: &BTreeSet<String>, stage: &Stage, lint: &Linter) {
        let declared = |name: &String| self.globals.records.contains_key(name);
        for name in unset.iter().filter(|name| !declared(name)) {
            // Sorted, so that of two that are as near always the same is taken.
            let options = std::iter::once_with(|| {
                let declared = self.globals.records.keys().map(String::as_str);
                declared
                    .chain(self.globals.env.keys())
                    .collect::<BTreeSet<_>>()
            });
            let found = lint.suggest(name, options.flatten());
            lint.warn(Rule::UndefinedArgInFrom, stage.span, &[name, &found]);
        }
    }

    /// The stage that is wanted: by name, else the last.
    pub(super) fn find_target(&self) -> Result<StageId, Failure> {
        let name = &self.options.target;
        if name.is_empty() {
            return Ok(self.stages.all.len() - 1);
        }
        self.stages.by_name(name).ok_or_else(|| {
            let hint = suggest::nearest(name, self.stages.names(), true);
            let hint = suggest::suffix(hint.as_deref());
            LowerError::NoTarget {
                name: name.clone(),
                hint,
            }
            .into()
        })
    }

    /// Finds out what the commands of each stage copy and mount from.
    pub(super) fn plan_commands(&mut self) -> Result<(), Failure> {
        for id in 0..self.stages.all.len() {
            let mut commands = std::mem::take(&mut self.stages.all[id].commands);
            for planned in &mut commands {
                let span = planned.command.span;
                planned.sources = self.sources_of(&planned.command).at(span)?;
                self.depend(id, planned);
            }
            self.stages.all[id].commands = commands;
        }
        self.check_circles()?;
        if let [only] = self.stages.all.as_mut_slice() {
            only.shown.clear();
        }
        Ok(())
    }

    /// Notes that a stage needs what a command copies or mounts from.
    pub(super) fn depend(&mut self, id: StageId, planned: &Planned) {
        let span = planned.command.span;
        self.stages.all[id]
            .deps
            .extend(planned.sources.iter().map(|source| (*source, span)));
    }

    /// The stages that a command copies or mounts from; those that are none yet are added.
    pub(super) fn sources_of(&mut self, command: &Command) -> Result<Vec<StageId>, LowerError> {
        match &command.kind {
            CommandKind::Copy(copy) if !copy.from.is_empty() => {
                let expanded = self.expander.word(&copy.from, &Env::new()).result?;
                if expanded != copy.from {
                    return Err(LowerError::FromVariable);
                }
                if let Ok(index) = go::parse_i64(&copy.from, 64) {
                    return match usize::try_from(index) {
                        Ok(id) if id < self.stages.all.len() => Ok(vec![id]),
                        _ => Err(LowerError::StageIndex(index)),
                    };
                }
                let found = self.stages.by_name(&copy.from);
                Ok(vec![found.unwrap_or_else(|| {
                    self.stages
                        .add(StageState::implicit(&copy.from, command.span))
                })])
            }
            CommandKind::Run(run) => run
                .mounts
                .iter()
                .map(|mount| {
                    // The type may be a variable, so that every mount gets a source.
                    let from = Mount::read_from(mount)?;
                    let from = if from.is_empty() { SCRATCH } else { &from };
                    let found = self.stages.by_name(from);
                    Ok(found.unwrap_or_else(|| {
                        self.stages.add(StageState::mounted(from, command.span))
                    }))
                })
                .collect(),
            _ => Ok(Vec::new()),
        }
    }

    /// Refuses stages that copy or mount from each other in a circle.
    fn check_circles(&self) -> Result<(), Failure> {
        let stages = &self.stages.all;
        let mut visited = vec![false; stages.len()];
        let mut on_path = vec![false; stages.len()];
        for start in 0..stages.len() {
            if visited[start] {
                continue;
            }
            visited[start] = true;
            on_path[start] = true;
            // Each level of the walk: a stage, and those it needs that are still to be seen.
            let deps = |id: StageId| stages[id].deps.iter().map(|(dep, span)| (*dep, *span));
            let mut walk = vec![(start, Default::default(), deps(start).collect::<Vec<_>>())];
            while let Some((id, _, open)) = walk.last_mut() {
                let Some((dep, span)) = open.pop() else {
                    on_path[*id] = false;
                    walk.pop();
                    continue;
                };
                if on_path[dep] {
                    let spans = walk.iter().skip(1).map(|(_, span, _)| *span);
                    let spans = spans.chain([span]).collect();
                    let error = LowerError::Circular(stages[start].shown.clone());
                    return Err(Failure { error, spans });
                }
                if !visited[dep] {
                    visited[dep] = true;
                    on_path[dep] = true;
                    walk.push((dep, span, deps(dep).collect()));
                }
            }
        }
        Ok(())
    }
}

/// Whether a command is counted in `[stage 1/n]`.
pub(super) fn is_step(command: &Command) -> bool {
    matches!(
        command.kind,
        CommandKind::Add(_) | CommandKind::Copy(_) | CommandKind::Run(_) | CommandKind::Workdir(_)
    )
}

/// Lints of `--platform`.
fn check_platform(stage: &Stage, expansion: &Expansion, env: &Env, lint: &Linter) {
    const TARGET: &str = "TARGETPLATFORM";
    let Expansion {
        result,
        used,
        unset,
    } = expansion;
    let result = result.as_deref().unwrap_or_default();
    if used.len() == 1
        && unset.is_empty()
        && used.contains(TARGET)
        && env.get(TARGET) == Some(result)
    {
        lint.warn(
            Rule::RedundantTargetPlatform,
            stage.span,
            &[&stage.platform],
        );
    }
    if used.is_empty()
        && unset.is_empty()
        && let Ok(platform) = platform::parse(result)
        && !stage.name.contains(&platform.os)
        && !stage.name.contains(&platform.architecture)
    {
        lint.warn(Rule::FromPlatformFlagConstDisallowed, stage.span, &[result]);
    }
}
