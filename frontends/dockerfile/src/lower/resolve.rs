//! Base images, named contexts and the triggers that they bring.

use std::collections::BTreeSet;

use frontend::{ResolveImage, ResolvedImage};
use futures::stream::{self, StreamExt as _};
use llb::builder::{ImageSource, Options as Vertex, State};
use oci::{Platform, Reference};

use crate::context::{ContextError, Fetched, NamedContext, SCRATCH, mode_name};
use crate::instruction::{CommandKind, read_command};
use crate::lint::{Linter, Rule};
use crate::lower::Lowering;
use crate::lower::error::{At as _, Failure, LowerError};
use crate::lower::stage::{Planned, StageId};
use crate::{image, parse, platform, suggest};

/// What a stage starts from, before it is asked for.
enum Wanted {
    /// A context that the client gives.
    Context(NamedContext),
    /// An image.
    Image(ResolveImage),
    /// Nothing: the stage is not needed.
    Unneeded,
}

/// What a stage starts from.
enum Found {
    Context(Box<(NamedContext, Result<Fetched, ContextError>)>),
    Image(Result<ResolvedImage, frontend::FrontendError>),
    Unneeded,
}

/// A stage whose base is looked for.
struct Search {
    id: StageId,
    /// The base as it is written.
    written: String,
    reference: Reference,
    platform: Platform,
    needed: bool,
}

/// How many bases are looked for at a time.
const MAX_LOOKUPS: usize = 64;

impl Lowering<'_> {
    /// Resolves the bases of what `target` needs, and of what their triggers need in turn. Gives
    /// the stages that are needed.
    pub(super) async fn resolve_stages(
        &mut self,
        target: StageId,
    ) -> Result<BTreeSet<StageId>, Failure> {
        let mut taken = BTreeSet::new();
        loop {
            let reachable = self.stages.reachable(target);
            self.resolve_bases(&reachable).await?;
            let mut again = false;
            for id in reachable.difference(&taken) {
                again |= self.take_triggers(*id)?;
            }
            if !again {
                return Ok(reachable);
            }
            taken = reachable;
        }
    }

    async fn resolve_bases(&mut self, reachable: &BTreeSet<StageId>) -> Result<(), Failure> {
        let mut searches = Vec::new();
        for id in 0..self.stages.all.len() {
            let needed = self.request.all_stages || reachable.contains(&id);
            let stage = &mut self.stages.all[id];
            if stage.base.is_some() || stage.dispatched || stage.resolved {
                continue;
            }
            stage.resolved = needed;
            if stage.base_name == SCRATCH && stage.named_context.is_none() {
                stage.state = State::scratch();
                stage.image = image::empty(&self.platforms.target);
                stage.platform = Some(self.platforms.target.clone());
                stage.dispatched |= stage.unregistered;
                continue;
            }
            searches.push(self.search(id, needed)?);
        }
        let surroundings = self.surroundings;
        let found = stream::iter(searches).map(|(search, wanted)| async move {
            let found = match wanted {
                Wanted::Context(context) => {
                    let fetched = surroundings.named_source(&context).await;
                    Found::Context(Box::new((context, fetched)))
                }
                Wanted::Image(request) => Found::Image(surroundings.resolve_image(request).await),
                Wanted::Unneeded => Found::Unneeded,
            };
            (search, found)
        });
        let mut found = found.buffered(MAX_LOOKUPS);
        while let Some((search, found)) = found.next().await {
            let (id, place) = (search.id, self.stages.all[search.id].place);
            self.settle(search, found).at(place)?;
            let stage = &mut self.stages.all[id];
            stage.dispatched |= stage.unregistered;
        }
        Ok(())
    }

    /// What a stage starts from.
    fn search(&mut self, id: StageId, needed: bool) -> Result<(Search, Wanted), Failure> {
        let stage = &self.stages.all[id];
        let written = stage.base_name.clone();
        let reference = Reference::parse(&written)
            .map_err(|source| LowerError::BaseName {
                name: written.clone(),
                source,
            })
            .at(stage.place)?
            .with_default_tag();
        let target = &self.platforms.target;
        let platform = stage.platform.clone().unwrap_or_else(|| target.clone());
        let wanted = if !needed {
            Wanted::Unneeded
        } else if let Some(context) = &stage.named_context {
            Wanted::Context(context.clone())
        } else {
            // The name is looked up with its tag, of which `latest` does not count.
            let name = reference.to_string();
            match NamedContext::find(self.options, &name, Some(&platform)).at(stage.place)? {
                Some(context) => Wanted::Context(context),
                None => Wanted::Image(self.image_request(&reference, &platform)),
            }
        };
        self.stages.all[id].base_name = reference.to_string();
        Ok((
            Search {
                id,
                written,
                reference,
                platform,
                needed,
            },
            wanted,
        ))
    }

    fn image_request(&self, reference: &Reference, platform: &Platform) -> ResolveImage {
        let shown = match self.options.multi_platform {
            true => format!("[{} internal]", platform::format_all(platform)),
            false => "[internal]".to_owned(),
        };
        ResolveImage {
            reference: reference.to_string(),
            platform: Some(platform.clone()),
            mode: self.options.resolve_mode,
            log_name: format!("{shown} load metadata for {reference}"),
            layout: None,
        }
    }

    /// Writes the state of a stage's base.
    fn settle(&mut self, search: Search, found: Found) -> Result<(), LowerError> {
        match found {
            Found::Context(found) => {
                let (context, fetched) = *found;
                self.settle_context(&search, &context, fetched?)
            }
            Found::Image(resolved) => {
                let resolved = resolved.map_err(|source| {
                    let name = search.written.clone();
                    let common = common_images();
                    let options = self.stages.names().chain(common.iter().map(String::as_str));
                    let hint = suggest::nearest(&name, options, true);
                    let hint = suggest::suffix(hint.as_deref());
                    LowerError::Resolve {
                        name,
                        source: Box::new(source),
                        hint,
                    }
                })?;
                self.settle_image(search, Some(resolved))
            }
            Found::Unneeded => self.settle_image(search, None),
        }
    }

    fn settle_context(
        &mut self,
        search: &Search,
        context: &NamedContext,
        fetched: Fetched,
    ) -> Result<(), LowerError> {
        let loaded = fetched.load(&mut self.builder, context)?;
        if let Some((deferred, local, vertex)) = loaded.local {
            self.pending.push((deferred, local, vertex, search.id));
        }
        let stage = &mut self.stages.all[search.id];
        stage.state = loaded.state;
        if stage.named_context.is_some() {
            // The context stands for the whole stage.
            stage.dispatched = true;
            if let Some(image) = loaded.image {
                if !image.architecture.is_empty() && !image.os.is_empty() {
                    stage.platform = Some(image.platform());
                }
                stage.image = image;
            }
            return Ok(());
        }
        let image = loaded
            .image
            .unwrap_or_else(|| image::empty(&search.platform));
        stage.base_image = Some(image.clone());
        stage.image = image;
        stage.image.created = None;
        stage.state.set_platform(&search.platform);
        stage.platform = Some(search.platform.clone());
        Ok(())
    }

    fn settle_image(
        &mut self,
        search: Search,
        resolved: Option<ResolvedImage>,
    ) -> Result<(), LowerError> {
        let Search {
            id,
            written,
            mut reference,
            mut platform,
            needed,
        } = search;
        let mut is_scratch = false;
        if let Some(resolved) = resolved {
            if resolved.reference != reference.to_string() {
                let name = resolved.reference;
                reference = Reference::parse(&name)
                    .map_err(|source| LowerError::ResolvedName { name, source })?;
            }
            let mut config = image::read(&resolved.config).map_err(LowerError::ImageConfig)?;
            let stage = &mut self.stages.all[id];
            stage.base_image = Some(config.clone());
            config.created = None;
            if stage.platform.is_none() && self.platforms.implicit {
                let build = &self.platforms.build;
                let fits =
                    |p: &Platform| p.os == config.os && p.architecture == config.architecture;
                if !fits(&platform) && fits(build) {
                    platform = build.clone();
                }
            }
            reference.digest = Some(resolved.digest);
            stage.base_name = reference.to_string();
            is_scratch = image::is_scratch(&config);
            stage.image = config;
        }
        self.stages.all[id].state = if is_scratch {
            State::scratch()
        } else {
            self.image_state(id, &reference, &platform)
        };
        if !is_scratch && needed {
            self.check_base_platform(id, &written, &platform);
        }
        self.stages.all[id].platform = Some(platform);
        Ok(())
    }

    fn image_state(&mut self, id: StageId, reference: &Reference, platform: &Platform) -> State {
        let prefix = self.options.multi_platform;
        let text = format!("FROM {reference}");
        let name = self.step_name(id, &text, prefix, Some(platform), None);
        let stage = &self.stages.all[id];
        let mut vertex = Vertex::named(name)
            .describe("com.docker.dockerfile.v1.command", &stage.source)
            .at(self.place(stage.span));
        vertex.platform = Some(platform.clone());
        let source = ImageSource {
            reference: reference.clone(),
            resolve_mode: mode_name(self.options.resolve_mode).to_owned(),
            layout: None,
        };
        self.builder.image(&source, vertex)
    }

    fn check_base_platform(&self, id: StageId, written: &str, wanted: &Platform) {
        let stage = &self.stages.all[id];
        let actual = stage.image.platform();
        if wanted.os == actual.os && wanted.architecture == actual.architecture {
            return;
        }
        let show = |platform: &Platform| platform::format_all(&platform.normalized());
        let arguments = [written, &show(wanted), &show(&actual)];
        self.lint
            .warn(Rule::InvalidBaseImagePlatform, stage.span, &arguments);
    }

    /// Puts the triggers of a stage's base in front of its commands. Says whether they need
    /// stages that were not needed before.
    fn take_triggers(&mut self, id: StageId) -> Result<bool, Failure> {
        let stage = &mut self.stages.all[id];
        let span = stage.span;
        let mut triggers = std::mem::take(&mut stage.image.config.on_build);
        if let Some(base) = stage.base {
            let commands = self.stages.all[base].commands.iter();
            triggers.extend(commands.filter_map(|planned| match &planned.command.kind {
                CommandKind::Onbuild(text) => Some(text.clone()),
                _ => None,
            }));
        }
        // Where a trigger is written is another file; its place is the stage.
        let relocate = |failure: Failure| Failure {
            spans: vec![span],
            ..failure
        };
        let mut planned = Vec::with_capacity(triggers.len());
        let mut needs = false;
        for text in triggers {
            let trigger = self.plan_trigger(&text, id).map_err(relocate)?;
            needs |= !trigger.sources.is_empty();
            self.depend(id, &trigger);
            planned.push(trigger);
        }
        let stage = &mut self.stages.all[id];
        stage.steps += planned.len();
        planned.append(&mut stage.commands);
        stage.commands = planned;
        Ok(needs)
    }

    fn plan_trigger(&mut self, text: &str, id: StageId) -> Result<Planned, Failure> {
        let span = self.stages.all[id].span;
        let document =
            parse::parse(text.as_bytes()).map_err(|(error, _)| LowerError::Parse(error))?;
        let [node] = document.instructions.as_slice() else {
            return Err(LowerError::TriggerCount.into());
        };
        let mut node = node.clone();
        node.span = span;
        let command = read_command(&node, &Linter::silent()).map_err(LowerError::from)?;
        let sources = self.sources_of(&command)?;
        Ok(Planned {
            command,
            sources,
            is_trigger: true,
        })
    }
}

/// Names of common images, for suggestions; the odd ones are BuildKit's.
fn common_images() -> Vec<String> {
    [
        "alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora",
    ]
    .into_iter()
    .flat_map(|name| {
        [
            name.to_owned(),
            format!("docker.io/library{name}"),
            format!("{name}:latest"),
            format!("docker.io/library{name}:latest"),
        ]
    })
    .collect()
}
