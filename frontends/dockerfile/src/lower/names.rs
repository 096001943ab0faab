//! Names of vertices: `[stage 2/5] RUN make`.

use oci::Platform;

use crate::expand::{Env, Expander};
use crate::lower::Lowering;
use crate::lower::stage::StageId;
use crate::platform;

impl Lowering<'_> {
    /// The name of the next step of a stage. `env` says for what platform a stage that runs on
    /// another one builds.
    pub(super) fn step_name(
        &mut self,
        id: StageId,
        text: &str,
        show_platform: bool,
        platform: Option<&Platform>,
        env: Option<&Env>,
    ) -> String {
        let stage = &mut self.stages.all[id];
        if stage.steps == 0 {
            return text.to_owned();
        }
        let mut name = "[".to_owned();
        if let Some(platform) = platform.filter(|_| show_platform) {
            name.push_str(&platform::format_all(platform));
            name.push_str(&cross_target(platform, env));
            name.push(' ');
        }
        if !stage.shown.is_empty() {
            name.push_str(&stage.shown);
            name.push(' ');
        }
        stage.step += 1;
        let width = stage.steps.ilog10() as usize + 1;
        name.push_str(&format!("{:width$}/{}] ", stage.step, stage.steps));
        if stage.is_trigger {
            name.push_str("ONBUILD ");
        }
        name + text
    }

    /// The text of a command with variables expanded, where it can be.
    pub(super) fn shown_text(&self, text: &str, env: &Env, raw: bool) -> String {
        let expander = Expander {
            raw_quotes: raw,
            keep_unset: raw,
            ..self.expander
        };
        let expanded = expander
            .word(text, env)
            .result
            .unwrap_or_else(|_| text.to_owned());
        match expanded.split_once(' ') {
            Some((keyword, rest)) => format!("{} {rest}", keyword.to_uppercase()),
            None => expanded.to_uppercase(),
        }
    }
}

/// `->arch` when the environment names another target than `base`.
fn cross_target(base: &Platform, env: Option<&Env>) -> String {
    let Some(mut target) = env.and_then(target_of) else {
        return String::new();
    };
    if target.os.is_empty() {
        target.os.clone_from(&base.os);
    }
    if target.architecture.is_empty() {
        target.architecture.clone_from(&base.architecture);
    }
    let target = target.normalized();
    if target.os != base.os {
        return format!("->{}", platform::format_all(&target));
    }
    if target.architecture == base.architecture {
        return String::new();
    }
    let slash = if target.variant.is_empty() { "" } else { "/" };
    format!("->{}{slash}{}", target.architecture, target.variant)
}

/// The platform that `TARGETPLATFORM`, else its parts, name.
fn target_of(env: &Env) -> Option<Platform> {
    if let Some(Ok(platform)) = env.get("TARGETPLATFORM").map(platform::parse) {
        return Some(platform);
    }
    let part = |key: &str| env.get(key).map(str::to_owned);
    let (os, arch, variant) = (part("TARGETOS"), part("TARGETARCH"), part("TARGETVARIANT"));
    if os.is_none() && arch.is_none() && variant.is_none() {
        return None;
    }
    Some(Platform {
        os: os.unwrap_or_default(),
        architecture: arch.unwrap_or_default(),
        variant: variant.unwrap_or_default(),
        ..Platform::default()
    })
}
