//! `SOURCE_DATE_EPOCH`: a time, or a source that has one.

use frontend::{ResolveMode, ResolveSource};
use llb::builder::{Builder, Defaults, HttpSource, Options as Vertex, State};
use llb::{Graph, OpKind};

use crate::context::{CONTEXT, NamedContext, SCRATCH, know_ssh_hosts};
use crate::expand::Env;
use crate::git::GitRef;
use crate::go;
use crate::instruction::{Add, Arg, CommandKind, Stage};
use crate::lower::Lowering;
use crate::lower::error::{At as _, Failure, LowerError};

/// The argument.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

impl Lowering<'_> {
    /// Finds out what the epoch stands for, and puts that in its place.
    pub(super) async fn resolve_epoch(&mut self) -> Result<(), Failure> {
        let given = self.build_args.get(EPOCH).cloned();
        let default = || {
            self.globals
                .env
                .get(EPOCH)
                .filter(|v| !v.is_empty())
                .map(str::to_owned)
        };
        let Some(value) = given.or_else(default) else {
            return Ok(());
        };
        let seconds = if value.is_empty() {
            None
        } else if let Ok(seconds) = go::parse_i64(&value, 64) {
            Some(seconds)
        } else {
            self.epoch_of_source(&value).await?
        };
        self.replace_epoch(seconds);
        self.epoch = seconds.and_then(|seconds| Some((rfc3339(seconds)?, seconds)));
        Ok(())
    }

    fn replace_epoch(&mut self, seconds: Option<i64>) {
        if let Some(value) = self.build_args.get_mut(EPOCH) {
            match seconds {
                Some(seconds) => *value = seconds.to_string(),
                None => drop(self.build_args.remove(EPOCH)),
            }
        }
        if self.globals.env.get(EPOCH).is_some() {
            match seconds {
                Some(seconds) => self.globals.env.set(EPOCH, seconds.to_string()),
                None => self.globals.env.remove(EPOCH),
            }
        }
    }

    /// The time of the main context, a named context, or a stage that is one download.
    async fn epoch_of_source(&mut self, value: &str) -> Result<Option<i64>, Failure> {
        let mut builder = Builder::new();
        let (state, shown) = if value == CONTEXT {
            let source = self
                .surroundings
                .main_source()
                .await
                .map_err(LowerError::from)?;
            let shown = "[internal] resolve main build context metadata".to_owned();
            (source.state(&mut builder, &[]), shown)
        } else if let Some(context) =
            NamedContext::find(self.options, value, None).map_err(LowerError::from)?
        {
            let fetched = self
                .surroundings
                .named_source(&context)
                .await
                .map_err(LowerError::from)?;
            let loaded = fetched
                .load(&mut builder, &context)
                .map_err(LowerError::from)?;
            if let Some((id, local, vertex)) = loaded.local {
                let state = builder.local(&local, vertex);
                builder.resolve(id, &state);
            }
            let shown = format!("[internal] resolve SOURCE_DATE_EPOCH named context {value}");
            (loaded.state, shown)
        } else {
            let lower = value.to_lowercase();
            let stage = self.file.stages.iter().find(|stage| stage.name == lower);
            let Some(stage) = stage.filter(|_| !lower.is_empty()) else {
                return Err(LowerError::Rule(format!("invalid {EPOCH}: {value}")).into());
            };
            let state = self.stage_source(stage, &mut builder).at(stage.span)?;
            let shown = format!(
                "[internal] resolve SOURCE_DATE_EPOCH source stage {}",
                stage.name
            );
            (state, shown)
        };
        know_ssh_hosts(&mut builder, self.surroundings).await;
        self.time_of(&builder, &state, shown).await
    }

    /// The time of a state that is one source op.
    async fn time_of(
        &self,
        builder: &Builder,
        state: &State,
        log_name: String,
    ) -> Result<Option<i64>, Failure> {
        let definition = builder.definition(state, &Defaults::default());
        if definition.is_empty() {
            return Ok(None);
        }
        let graph = Graph::new(&definition)
            .map_err(|error| LowerError::from(crate::context::ContextError::from(error)))?;
        let sources = graph
            .vertices()
            .filter_map(|vertex| match &vertex.op().kind {
                OpKind::Source(source) => Some((source, vertex)),
                _ => None,
            });
        let sources: Vec<_> = sources.collect();
        let [(source, vertex)] = sources.as_slice() else {
            return Ok(None);
        };
        let request = ResolveSource {
            identifier: source.identifier.clone(),
            attrs: source.attrs.clone(),
            platform: vertex.op().platform.clone(),
            mode: ResolveMode::Default,
            log_name,
            git_objects: true,
            http_checksum: None,
        };
        let engine = |error| LowerError::from(crate::context::ContextError::Engine(error));
        let found = self
            .surroundings
            .resolve_source(request.clone())
            .await
            .map_err(engine)?;
        if let Some(commit) = found.git_commit_object.filter(|commit| !commit.is_empty()) {
            return Ok(commit_time(&commit));
        }
        if found.http_last_modified.is_some() {
            return Ok(found.http_last_modified);
        }
        if !request.identifier.starts_with("http") {
            return Ok(None);
        }
        let time = self
            .surroundings
            .archive_time(&request)
            .await
            .map_err(LowerError::from)?;
        Ok(time)
    }

    /// The download that a stage consists of.
    fn stage_source(&self, stage: &Stage, builder: &mut Builder) -> Result<State, LowerError> {
        let wrong = |text: String| LowerError::Rule(text);
        let mut env = self.globals.env.clone();
        env.remove(EPOCH);
        let base = self.expander.word(&stage.base, &env).result?;
        if base != SCRATCH {
            return Err(wrong(format!("{EPOCH} stage must use FROM scratch")));
        }
        let mut found = None;
        for command in &stage.commands {
            match &command.kind {
                CommandKind::Arg(args) => self.stage_args(args, &mut env)?,
                CommandKind::Add(_) if found.is_some() => {
                    let text = format!("{EPOCH} stage must contain exactly one remote ADD");
                    return Err(wrong(text));
                }
                CommandKind::Add(add) => found = Some(self.download(add, &env, builder)?),
                _ => {
                    let name = &command.keyword;
                    return Err(wrong(format!(
                        "{EPOCH} stage does not meet source-only requirements: unsupported {name} instruction"
                    )));
                }
            }
        }
        found.ok_or_else(|| wrong(format!("{EPOCH} stage must contain exactly one remote ADD")))
    }

    fn stage_args(&self, args: &[Arg], env: &mut Env) -> Result<(), LowerError> {
        for arg in args {
            if let Some(value) = self.build_args.get(&arg.key) {
                env.set(&arg.key, value);
            } else if let Some(text) = &arg.value {
                let value = self.expander.word(text, env).result?;
                env.set(&arg.key, value);
            }
        }
        Ok(())
    }

    fn download(&self, add: &Add, env: &Env, builder: &mut Builder) -> Result<State, LowerError> {
        let ([path], []) = (add.files.sources.as_slice(), add.files.inline.as_slice()) else {
            let text = format!("{EPOCH} stage must contain exactly one remote ADD source");
            return Err(LowerError::Rule(text));
        };
        let path = self.expander.word(path, env).result?;
        let checksum = self.expander.word(&add.checksum, env).result?;
        if let Some(git) = GitRef::parse(&path) {
            let mut git = git?;
            if git.like_local {
                let text = format!("{EPOCH} stage source must be a single HTTP(S) or Git ADD");
                return Err(LowerError::Rule(text));
            }
            if add.keep_git_dir == Some(true) {
                git.keep_git_dir = Some(true);
            }
            if !checksum.is_empty() {
                git.checksum = checksum;
            }
            git.mtime.clear();
            return Ok(builder.git(&git.source(), Vertex::default()));
        }
        if !path.starts_with("http://") && !path.starts_with("https://") {
            let text = format!("{EPOCH} stage source must be a single HTTP(S) or Git ADD");
            return Err(LowerError::Rule(text));
        }
        super::copy_words::check_digest(&checksum)?;
        let filename = super::copy_words::http_filename(&path);
        let http = HttpSource {
            url: path,
            filename,
            checksum,
        };
        Ok(builder.http(&http, Vertex::default()))
    }
}

/// Seconds since 1970 as RFC 3339, if that can say it.
fn rfc3339(seconds: i64) -> Option<String> {
    let time = time::OffsetDateTime::from_unix_timestamp(seconds).ok()?;
    time.format(&time::format_description::well_known::Rfc3339)
        .ok()
}

/// The committer's time of a raw commit object.
fn commit_time(commit: &[u8]) -> Option<i64> {
    let text = String::from_utf8_lossy(commit);
    let headers = text.split("\n\n").next()?;
    let committer = headers
        .lines()
        .find_map(|line| line.strip_prefix("committer "))?;
    let mut words = committer.rsplit(' ');
    words.next()?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_has_a_time() {
        let commit = b"tree x\nauthor A <a@b> 1 +0000\ncommitter C D <c@d> 1700000000 +0100\n\nm\n";
        assert_eq!(commit_time(commit), Some(1_700_000_000));
        assert_eq!(commit_time(b"tree x\n\n"), None);
        assert_eq!(
            rfc3339(1_700_000_000).as_deref(),
            Some("2023-11-14T22:13:20Z")
        );
    }
}
