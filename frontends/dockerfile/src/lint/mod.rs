//! Lint rules and their configuration.

mod options;
mod rules;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::span::LineSpan;
use crate::{parse, suggest};

pub use options::{LintOptions, LintOptionsError};
pub use rules::Rule;

/// Something that a rule does not like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LintWarning {
    /// The rule.
    pub rule: Rule,
    /// What it found.
    pub message: String,
    /// Where.
    pub span: LineSpan,
}

impl LintWarning {
    /// One line: rule, message and line.
    pub fn short(&self) -> String {
        let line = self.span.start;
        let place = if line > 0 {
            format!(" (line {line})")
        } else {
            String::new()
        };
        format!("{}: {}{place}", self.rule.name(), self.message)
    }
}

/// Applies rules; clones share what they find.
#[derive(Clone, Debug)]
pub(crate) struct Linter {
    options: Arc<LintOptions>,
    found: Option<Arc<Mutex<Vec<LintWarning>>>>,
    /// How many suggestions were looked for.
    suggestions: Arc<AtomicUsize>,
}

/// How many warnings suggest a name. Each compares all names that there are.
const MAX_SUGGESTIONS: usize = 1000;

impl Linter {
    /// A linter that keeps what it finds.
    pub(crate) fn new(options: LintOptions) -> Linter {
        Linter {
            options: Arc::new(options),
            found: Some(Arc::default()),
            suggestions: Arc::default(),
        }
    }

    /// A linter that finds nothing.
    pub(crate) fn silent() -> Linter {
        Linter {
            options: Arc::default(),
            found: None,
            suggestions: Arc::default(),
        }
    }

    /// This linter with the `check=` options of comments in front of an instruction.
    pub(crate) fn for_comments(&self, comments: &[String]) -> Linter {
        let Some(value) = comments
            .iter()
            .find_map(|comment| parse::check_comment(comment))
        else {
            return self.clone();
        };
        let value = value.split(' ').next().unwrap_or_default();
        match LintOptions::parse(value) {
            Ok(other) => Linter {
                options: Arc::new(self.options.merged(&other)),
                found: self.found.clone(),
                suggestions: self.suggestions.clone(),
            },
            // Comments are prose as well; one that cannot be read says nothing.
            Err(_) => self.clone(),
        }
    }

    /// Reports that `rule` is broken at `span`; `arguments` fill its message.
    pub(crate) fn warn(&self, rule: Rule, span: LineSpan, arguments: &[&str]) {
        if let Some(found) = &self.found
            && self.options.allows(rule)
        {
            let warning = LintWarning {
                rule,
                message: rule.message(arguments),
                span,
            };
            found
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(warning);
        }
    }

    /// The name that is meant by `name`, for a warning; empty when none is near.
    pub(crate) fn suggest<'a>(
        &self,
        name: &str,
        options: impl IntoIterator<Item = &'a str>,
    ) -> String {
        if self.found.is_none()
            || self.suggestions.fetch_add(1, Ordering::Relaxed) >= MAX_SUGGESTIONS
        {
            return String::new();
        }
        suggest::nearest(name, options, true).unwrap_or_default()
    }

    /// What was found so far.
    pub(crate) fn found(&self) -> Vec<LintWarning> {
        let Some(found) = &self.found else {
            return Vec::new();
        };
        found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The broken rules, when they are to fail the build.
    pub(crate) fn violations(&self) -> Option<Vec<&'static str>> {
        if !self.options.error {
            return None;
        }
        let rules: BTreeSet<&str> = self.found().iter().map(|found| found.rule.name()).collect();
        (!rules.is_empty()).then(|| rules.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(check: &str, comments: &[&str]) -> usize {
        let comments: Vec<String> = comments.iter().map(|c| (*c).to_owned()).collect();
        let linter = Linter::new(LintOptions::parse(check).unwrap());
        let local = linter.for_comments(&comments);
        local.warn(Rule::MaintainerDeprecated, LineSpan::line(3), &[]);
        local.warn(
            Rule::InvalidDefinitionDescription,
            LineSpan::line(3),
            &["ARG", "a"],
        );
        linter.found().len()
    }

    #[test]
    fn options_and_comments_decide_which_rules_apply() {
        for (check, comments, want) in [
            ("", &[][..], 1),
            ("experimental=all", &[], 2),
            ("skip=MaintainerDeprecated", &[], 0),
            ("skip=all;experimental=InvalidDefinitionDescription", &[], 1),
            ("", &["x", "check=skip=all"], 0),
            ("", &["check=nonsense"], 1),
        ] {
            assert_eq!(found(check, comments), want, "{check} {comments:?}");
        }
    }

    #[test]
    fn a_warning_names_its_line() {
        let warning = LintWarning {
            rule: Rule::StageNameCasing,
            message: Rule::StageNameCasing.message(&["X"]),
            span: LineSpan::line(2),
        };
        assert_eq!(
            warning.short(),
            "StageNameCasing: Stage name 'X' should be lowercase (line 2)"
        );
    }
}
