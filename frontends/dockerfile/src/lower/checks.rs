//! Lints that look at the whole file or at one value.

use std::collections::HashSet;

use oci::Reference;

use crate::expand::Env;
use crate::go;
use crate::lint::{Linter, Rule};
use crate::lower::{Lowering, globals};
use crate::span::LineSpan;

impl Lowering<'_> {
    /// Stage names that are reserved or used twice.
    pub(super) fn check_stage_names(&self) {
        let mut seen = HashSet::new();
        for stage in self
            .file
            .stages
            .iter()
            .filter(|stage| !stage.name.is_empty())
        {
            if matches!(stage.name.as_str(), "context" | "scratch") {
                self.lint
                    .warn(Rule::ReservedStageName, stage.span, &[&stage.name]);
            }
            if !seen.insert(&stage.name) {
                self.lint
                    .warn(Rule::DuplicateStageName, stage.span, &[&stage.name]);
            }
        }
    }

    /// Instructions whose casing is not that of most.
    pub(super) fn check_command_casing(&self) {
        let words = || {
            self.file.stages.iter().flat_map(|stage| {
                let commands = stage.commands.iter().map(|c| (c.keyword.as_str(), c.span));
                std::iter::once((stage.keyword.as_str(), stage.span)).chain(commands)
            })
        };
        let is_lower = |word: &str| word == word.to_lowercase();
        let is_upper = |word: &str| word == word.to_uppercase();
        let lower = words().filter(|(word, _)| is_lower(word)).count();
        let upper = words()
            .filter(|(word, _)| !is_lower(word) && is_upper(word))
            .count();
        for (word, span) in words() {
            let wanted = match lower > upper {
                true if !is_lower(word) => "lowercase",
                false if !is_upper(word) => "uppercase",
                _ => continue,
            };
            self.lint
                .warn(Rule::ConsistentInstructionCasing, span, &[word, wanted]);
        }
    }

    /// Base images that are no names unless build arguments are given.
    pub(super) fn check_default_bases(&self, env: &Env) {
        let none = Default::default();
        let commands = &self.file.globals;
        let Ok(globals) = globals::evaluate(env.clone(), commands, &none, &self.expander) else {
            // The same error ends the build later.
            return;
        };
        for stage in &self.file.stages {
            let Ok(base) = self.expander.word(&stage.base, &globals.env).result else {
                return;
            };
            if Reference::parse(&base).is_err() {
                self.lint
                    .warn(Rule::InvalidDefaultArgInFrom, stage.span, &[&stage.base]);
            }
        }
    }
}

/// Reports that an earlier instruction has no effect, at its place.
pub(super) fn used_once(seen: &mut Option<LineSpan>, span: LineSpan, name: &str, lint: &Linter) {
    if let Some(earlier) = seen.replace(span) {
        lint.warn(Rule::MultipleInstructionsDisallowed, earlier, &[name]);
    }
}

/// Reports a variable whose name is that of a secret.
pub(super) fn no_secret(instruction: &str, key: &str, span: LineSpan, lint: &Linter) {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    let lower = key.to_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|word| words.contains(&word));
    if has(&SECRET) && !has(&HARMLESS) {
        lint.warn(Rule::SecretsUsedInArgOrEnv, span, &[instruction, key]);
    }
}

/// Whether a text is a signal: a number but 0, or a name with or without `SIG`.
pub(super) fn is_signal(text: &str) -> bool {
    const NAMES: &[&str] = &[
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT",
        "KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM",
        "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
    ];
    if let Ok(number) = go::parse_i64(text, 64) {
        return number != 0;
    }
    let name = text.to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let offset = |text: &str, most: u32| {
        text.parse::<u32>()
            .is_ok_and(|n| (1..=most).contains(&n) && text == n.to_string())
    };
    match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => rest.is_empty() || rest.strip_prefix('+').is_some_and(|n| offset(n, 15)),
        (_, Some(rest)) => rest.is_empty() || rest.strip_prefix('-').is_some_and(|n| offset(n, 14)),
        _ => NAMES.contains(&name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_numbers_and_names() {
        for good in ["SIGTERM", "term", "9", "RTMIN", "SIGRTMIN+15", "RTMAX-1"] {
            assert!(is_signal(good), "{good}");
        }
        for bad in ["0", "", "SIGFOO", "RTMIN+16", "RTMIN+01", "RTMAX-15"] {
            assert!(!is_signal(bad), "{bad}");
        }
    }

    #[test]
    fn secrets_are_told_by_their_words() {
        for (key, secret) in [
            ("API_KEY", true),
            ("token", true),
            ("SSH_KEY_FILE", false),
            ("PUBLIC_KEY", false),
            ("MONKEY", false),
            ("APIKEY", true),
        ] {
            let lint = Linter::new(Default::default());
            no_secret("ENV", key, LineSpan::line(1), &lint);
            assert_eq!(!lint.found().is_empty(), secret, "{key}");
        }
    }
}
