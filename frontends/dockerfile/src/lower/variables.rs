//! Variables: `ARG`, `ENV` and `LABEL`, and their expansion in what follows.

use std::collections::BTreeSet;

use crate::expand::{Env, ExpandError};
use crate::instruction::{Arg, Command, KeyValue, body_expander};
use crate::lint::{Linter, Rule};
use crate::lower::error::LowerError;
use crate::lower::globals::ArgRecord;
use crate::lower::stage::StageId;
use crate::lower::{Lowering, checks};
use crate::span::LineSpan;
use crate::{go, image};

/// Arguments that only the frontend reads; containers do not see them.
const NOT_IN_ENV: [&str; 2] = [SCAN_CONTEXT, SCAN_STAGE];
const SCAN_CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
const SCAN_STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";

/// How many bytes the texts of a graph may have. Each `RUN` has all variables, and each may be long:
/// without a bound a small file makes a graph that fills the memory. Clients and daemons of BuildKit
/// take messages of at most 16 MiB.
pub(super) const MAX_SIZE: usize = 256 << 20;

impl Lowering<'_> {
    /// Expands the words and heredoc bodies of a command with the variables before it.
    pub(super) fn expand_command(
        &mut self,
        id: StageId,
        command: &mut Command,
        lint: &Linter,
    ) -> Result<(), LowerError> {
        let env = self.stages.all[id].state.env.clone();
        let span = command.span;
        let mut size = 0;
        command.kind.expand(&mut |text: &str| {
            let expansion = self.expander.word(text, &env);
            self.report_unset(id, &expansion.unset, &env, span, lint);
            size += expansion.result.as_ref().map_or(0, String::len);
            expansion.result
        })?;
        for file in command
            .kind
            .files_mut()
            .into_iter()
            .flat_map(|files| &mut files.inline)
        {
            if file.expand {
                let text = String::from_utf8_lossy(&file.content);
                let expansion = body_expander().word(&text, &env);
                self.report_unset(id, &expansion.unset, &env, span, lint);
                file.content = expansion.result?.into_bytes();
                size += file.content.len();
            }
        }
        self.grow(size)
    }

    /// Counts bytes that come into the graph or the image.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), LowerError> {
        self.size = self.size.saturating_add(bytes);
        if self.size > MAX_SIZE {
            return Err(LowerError::TooLarge);
        }
        Ok(())
    }

    /// Expands one word, and reports variables that are not set.
    pub(super) fn expand_word(
        &self,
        id: StageId,
        text: &str,
        env: &Env,
        span: LineSpan,
        lint: &Linter,
    ) -> Result<String, ExpandError> {
        let expansion = self.expander.word(text, env);
        self.report_unset(id, &expansion.unset, env, span, lint);
        expansion.result
    }

    fn report_unset(
        &self,
        id: StageId,
        unset: &BTreeSet<String>,
        env: &Env,
        span: LineSpan,
        lint: &Linter,
    ) {
        let declared = &self.stages.all[id].declared;
        for name in unset {
            if !declared.contains(name) && !NOT_IN_ENV.contains(&name.as_str()) {
                let found = lint.suggest(name, env.keys());
                lint.warn(Rule::UndefinedVar, span, &[name, &found]);
            }
        }
    }

    pub(super) fn set_env(
        &mut self,
        id: StageId,
        name: &str,
        pairs: &[KeyValue],
        span: LineSpan,
        lint: &Linter,
    ) {
        let mut text = "ENV".to_owned();
        let stage = &mut self.stages.all[id];
        for pair in pairs {
            if pair.legacy {
                lint.warn(Rule::LegacyKeyValueFormat, span, &[name]);
            }
            checks::no_secret("ENV", &pair.key, span, lint);
            text.push_str(&format!(" {pair}"));
            let env = &mut stage.image.config.env;
            // What the image sets is set in the state, so that a new name need not be looked for.
            match stage.state.env.get(&pair.key) {
                Some(_) => image::set_env(env, &pair.key, &pair.value),
                None => env.push(pair.to_string()),
            }
            stage.state.env.set(&pair.key, &pair.value);
        }
        self.record(id, text, false);
    }

    pub(super) fn set_labels(
        &mut self,
        id: StageId,
        name: &str,
        pairs: &[KeyValue],
        span: LineSpan,
        lint: &Linter,
    ) {
        let mut text = "LABEL".to_owned();
        let labels = &mut self.stages.all[id].image.config.labels;
        for pair in pairs {
            if pair.legacy {
                lint.warn(Rule::LegacyKeyValueFormat, span, &[name]);
            }
            labels.insert(pair.key.clone(), pair.value.clone());
            text.push_str(&format!(" {pair}"));
        }
        self.record(id, text, false);
    }

    pub(super) fn declare_args(
        &mut self,
        id: StageId,
        args: &[Arg],
        span: LineSpan,
        lint: &Linter,
    ) -> Result<(), LowerError> {
        let mut shown = Vec::with_capacity(args.len());
        for arg in args {
            checks::no_secret("ARG", &arg.key, span, lint);
            let mut arg = arg.clone();
            let mut inherited = false;
            if let Some(value) = self.build_args.get(&arg.key) {
                arg.value = Some(value.clone());
            } else if let Some(text) = &arg.value {
                let env = self.stages.all[id].state.env.clone();
                arg.value = Some(self.expand_word(id, text, &env, span, lint)?);
            } else if let Some(value) = self.globals.env.get(&arg.key) {
                arg.value = Some(value.to_owned());
                inherited = true;
            }
            let stage = &mut self.stages.all[id];
            if let Some(value) = &arg.value
                && !NOT_IN_ENV.contains(&arg.key.as_str())
            {
                stage.state.env.set(&arg.key, value);
            }
            if !inherited {
                let value = arg.value.clone().unwrap_or_default();
                let record = ArgRecord {
                    arg: arg.clone(),
                    value,
                    deps: BTreeSet::new(),
                    span,
                };
                stage.outline.args.insert(arg.key.clone(), record);
            }
            stage.outline.used.insert(arg.key.clone());
            shown.push(match &arg.value {
                Some(value) => format!("{}={value}", arg.key),
                None => arg.key.clone(),
            });
            stage.declare(arg);
        }
        self.record(id, format!("ARG {}", shown.join(" ")), false);
        Ok(())
    }

    /// Notes what an SBOM scanner is to look at.
    pub(super) fn note_scans(&mut self, id: StageId) {
        for key in NOT_IN_ENV {
            let stage = &mut self.stages.all[id];
            let shown = stage.shown.clone();
            let mut wanted = self
                .globals
                .env
                .get(key)
                .is_some_and(|value| is_enabled(&shown, value));
            for arg in stage.args.iter().filter(|arg| arg.key == key) {
                if let Some(value) = &arg.value {
                    wanted = is_enabled(&shown, value);
                }
            }
            if wanted && key == SCAN_CONTEXT {
                stage.scan_context = true;
            } else if wanted {
                stage.scan_stage = true;
            }
        }
    }
}

/// Whether a bool, or a list of stages, holds for a stage.
fn is_enabled(stage: &str, value: &str) -> bool {
    go::parse_bool(value).unwrap_or_else(|| value.split(',').any(|name| name == stage))
}
