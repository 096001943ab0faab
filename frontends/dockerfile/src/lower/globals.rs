//! Arguments before the first `FROM`, and the platforms they start from.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use oci::Platform;

use crate::expand::{Env, Expander};
use crate::instruction::{Arg, Command, CommandKind};
use crate::lower::error::{At as _, Failure};
use crate::platform;
use crate::span::LineSpan;

/// The platforms of a build.
#[derive(Clone, Debug)]
pub(crate) struct Platforms {
    /// What is built for.
    pub(crate) target: Platform,
    /// What the build runs on.
    pub(crate) build: Platform,
    /// Whether nobody asked for the target.
    pub(crate) implicit: bool,
}

/// An argument, for outlines.
#[derive(Clone, Debug)]
pub(crate) struct ArgRecord {
    pub(crate) arg: Arg,
    pub(crate) value: String,
    /// Arguments that its value was made of.
    pub(crate) deps: BTreeSet<String>,
    pub(crate) span: LineSpan,
}

/// Global arguments.
#[derive(Clone, Debug, Default)]
pub(crate) struct Globals {
    pub(crate) env: Env,
    /// All that are declared, by name.
    pub(crate) records: HashMap<String, ArgRecord>,
}

/// The arguments that are set without being declared.
pub(crate) fn predefined(
    platforms: &Platforms,
    overrides: &BTreeMap<String, String>,
    target: &str,
) -> Env {
    let (build, goal) = (&platforms.build, &platforms.target);
    let mut env = Env::new();
    for (key, value) in [
        ("BUILDPLATFORM", platform::format(build).as_str()),
        ("BUILDOS", &build.os),
        ("BUILDOSVERSION", &build.os_version),
        ("BUILDARCH", &build.architecture),
        ("BUILDVARIANT", &build.variant),
        ("TARGETPLATFORM", platform::format_all(goal).as_str()),
        ("TARGETOS", &goal.os),
        ("TARGETOSVERSION", &goal.os_version),
        ("TARGETARCH", &goal.architecture),
        ("TARGETVARIANT", &goal.variant),
        (
            "TARGETSTAGE",
            if target.is_empty() { "default" } else { target },
        ),
    ] {
        env.set(key, overrides.get(key).map_or(value, String::as_str));
    }
    env
}

/// Evaluates the global `ARG`s on top of `env`.
pub(crate) fn evaluate(
    mut env: Env,
    commands: &[Command],
    build_args: &BTreeMap<String, String>,
    expander: &Expander,
) -> Result<Globals, Failure> {
    let mut records: HashMap<String, ArgRecord> = HashMap::new();
    for command in commands {
        let CommandKind::Arg(args) = &command.kind else {
            continue;
        };
        for arg in args {
            let mut arg = arg.clone();
            let mut deps = BTreeSet::new();
            if let Some(value) = build_args.get(&arg.key) {
                arg.value = Some(value.clone());
            } else if let Some(text) = &arg.value {
                let expansion = expander.word(text, &env);
                arg.value = Some(expansion.result.at(command.span)?);
                deps = expansion.used;
                // A value made of its own old one is made of what that was made of.
                if deps.remove(&arg.key)
                    && let Some(old) = records.get(&arg.key)
                {
                    deps.extend(old.deps.iter().cloned());
                }
            }
            if let Some(value) = &arg.value {
                env.set(&arg.key, value);
            }
            let value = arg.value.clone().unwrap_or_default();
            let record = ArgRecord {
                value,
                deps,
                span: command.span,
                arg,
            };
            records.insert(record.arg.key.clone(), record);
        }
    }
    Ok(Globals { env, records })
}
