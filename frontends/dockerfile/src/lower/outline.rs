//! What a target takes from outside: arguments, secrets, agents.

use std::collections::{BTreeSet, HashSet};

use crate::lower::Lowering;
use crate::lower::stage::StageId;
use crate::span::LineSpan;

/// What a target takes from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The target's name; empty when it has none.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Its build arguments, by line.
    pub args: Vec<OutlineArg>,
    /// Its secrets, by line.
    pub secrets: Vec<OutlineNeed>,
    /// Its ssh agents, by line.
    pub ssh: Vec<OutlineNeed>,
}

/// A build argument of an [`Outline`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Its value.
    pub value: String,
    /// Where it is declared.
    pub span: LineSpan,
}

/// A secret or an agent of an [`Outline`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutlineNeed {
    /// Its name.
    pub name: String,
    /// Whether the build fails without it.
    pub required: bool,
    /// Where it is used first.
    pub span: LineSpan,
}

impl Lowering<'_> {
    /// What `target` and the stages it is made of take from outside.
    pub(super) fn outline(&self, target: StageId) -> Outline {
        let stage = &self.stages.all[target];
        let mut outline = Outline {
            name: stage.name.clone(),
            description: stage.doc.clone(),
            ..Outline::default()
        };
        let (mut seen, mut secrets, mut ssh) = (HashSet::new(), HashSet::new(), HashSet::new());
        // A stage comes before what it is made of.
        let mut order = vec![target];
        order.extend(
            self.stages
                .reachable(target)
                .into_iter()
                .rev()
                .filter(|id| *id != target),
        );
        for id in order {
            let stage = &self.stages.all[id];
            for name in self.used_args(id) {
                let own = stage.outline.args.get(&name);
                let Some(record) = own.or_else(|| self.globals.records.get(&name)) else {
                    continue;
                };
                if seen.insert(name) {
                    outline.args.push(OutlineArg {
                        name: record.arg.key.clone(),
                        description: record.arg.doc.clone(),
                        value: record.value.clone(),
                        span: record.span,
                    });
                }
            }
            let needs = |needs: &std::collections::BTreeMap<String, (bool, LineSpan)>,
                         seen: &mut HashSet<String>| {
                let fresh = needs
                    .iter()
                    .filter(|(name, _)| seen.insert((*name).clone()));
                fresh
                    .map(|(name, (required, span))| OutlineNeed {
                        name: name.clone(),
                        required: *required,
                        span: *span,
                    })
                    .collect::<Vec<_>>()
            };
            outline
                .secrets
                .extend(needs(&stage.outline.secrets, &mut secrets));
            outline.ssh.extend(needs(&stage.outline.ssh, &mut ssh));
        }
        outline.args.sort_by_key(|arg| arg.span.start);
        outline.secrets.sort_by_key(|need| need.span.start);
        outline.ssh.sort_by_key(|need| need.span.start);
        outline
    }

    /// The arguments that a stage uses, with those that their values are made of.
    fn used_args(&self, id: StageId) -> BTreeSet<String> {
        let stage = &self.stages.all[id];
        let mut used = BTreeSet::new();
        let declared = stage.outline.used.iter().chain(&stage.outline.used_in_from);
        let mut open: Vec<String> = declared.cloned().collect();
        while let Some(name) = open.pop() {
            if used.contains(&name) {
                continue;
            }
            let own = stage.outline.args.get(&name);
            if let Some(record) = own.or_else(|| self.globals.records.get(&name)) {
                open.extend(record.deps.iter().cloned());
            }
            used.insert(name);
        }
        used
    }
}
