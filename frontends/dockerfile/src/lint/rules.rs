//! The rules: names, descriptions, messages.

use crate::{go, suggest};

/// A lint rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// A stage's name has upper-case letters.
    StageNameCasing,
    /// `FROM` and `AS` differ in casing.
    FromAsCasing,
    /// A blank line in a continuation.
    NoEmptyContinuation,
    /// Instructions differ in casing.
    ConsistentInstructionCasing,
    /// Two stages have one name.
    DuplicateStageName,
    /// A stage has a name with a meaning of its own.
    ReservedStageName,
    /// `CMD` or `ENTRYPOINT` in shell form.
    JsonArgsRecommended,
    /// `MAINTAINER`.
    MaintainerDeprecated,
    /// `FROM` uses an argument that is not declared.
    UndefinedArgInFrom,
    /// A relative `WORKDIR` before any absolute one.
    WorkdirRelativePath,
    /// A variable that is not set.
    UndefinedVar,
    /// `CMD`, `ENTRYPOINT` or `HEALTHCHECK` twice.
    MultipleInstructionsDisallowed,
    /// `ENV k v`.
    LegacyKeyValueFormat,
    /// The base image is for another platform.
    InvalidBaseImagePlatform,
    /// `--platform=$TARGETPLATFORM`.
    RedundantTargetPlatform,
    /// A secret as argument or variable.
    SecretsUsedInArgOrEnv,
    /// The base image's name is invalid without build arguments.
    InvalidDefaultArgInFrom,
    /// `--platform` with a constant.
    FromPlatformFlagConstDisallowed,
    /// Something is copied that is ignored.
    CopyIgnoredFile,
    /// A comment that is no description.
    InvalidDefinitionDescription,
    /// `EXPOSE 80/TCP`.
    ExposeProtoCasing,
    /// `EXPOSE 80:80`.
    ExposeInvalidFormat,
}

impl Rule {
    /// All rules.
    pub const ALL: [Rule; 22] = [
        Rule::StageNameCasing,
        Rule::FromAsCasing,
        Rule::NoEmptyContinuation,
        Rule::ConsistentInstructionCasing,
        Rule::DuplicateStageName,
        Rule::ReservedStageName,
        Rule::JsonArgsRecommended,
        Rule::MaintainerDeprecated,
        Rule::UndefinedArgInFrom,
        Rule::WorkdirRelativePath,
        Rule::UndefinedVar,
        Rule::MultipleInstructionsDisallowed,
        Rule::LegacyKeyValueFormat,
        Rule::InvalidBaseImagePlatform,
        Rule::RedundantTargetPlatform,
        Rule::SecretsUsedInArgOrEnv,
        Rule::InvalidDefaultArgInFrom,
        Rule::FromPlatformFlagConstDisallowed,
        Rule::CopyIgnoredFile,
        Rule::InvalidDefinitionDescription,
        Rule::ExposeProtoCasing,
        Rule::ExposeInvalidFormat,
    ];

    /// Name and description.
    fn text(self) -> (&'static str, &'static str) {
        match self {
            Rule::StageNameCasing => ("StageNameCasing", "Stage names should be lowercase"),
            Rule::FromAsCasing => (
                "FromAsCasing",
                "The 'as' keyword should match the case of the 'from' keyword",
            ),
            Rule::NoEmptyContinuation => (
                "NoEmptyContinuation",
                "Empty continuation lines will become errors in a future release",
            ),
            Rule::ConsistentInstructionCasing => (
                "ConsistentInstructionCasing",
                "All commands within the Dockerfile should use the same casing (either upper or lower)",
            ),
            Rule::DuplicateStageName => ("DuplicateStageName", "Stage names should be unique"),
            Rule::ReservedStageName => (
                "ReservedStageName",
                "Reserved words should not be used as stage names",
            ),
            Rule::JsonArgsRecommended => (
                "JSONArgsRecommended",
                "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
            ),
            Rule::MaintainerDeprecated => (
                "MaintainerDeprecated",
                "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
            ),
            Rule::UndefinedArgInFrom => {
                ("UndefinedArgInFrom", "FROM command must use declared ARGs")
            }
            Rule::WorkdirRelativePath => (
                "WorkdirRelativePath",
                "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
            ),
            Rule::UndefinedVar => (
                "UndefinedVar",
                "Variables should be defined before their use",
            ),
            Rule::MultipleInstructionsDisallowed => (
                "MultipleInstructionsDisallowed",
                "Multiple instructions of the same type should not be used in the same stage",
            ),
            Rule::LegacyKeyValueFormat => (
                "LegacyKeyValueFormat",
                "Legacy key/value format with whitespace separator should not be used",
            ),
            Rule::InvalidBaseImagePlatform => (
                "InvalidBaseImagePlatform",
                "Base image platform does not match expected target platform",
            ),
            Rule::RedundantTargetPlatform => (
                "RedundantTargetPlatform",
                "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
            ),
            Rule::SecretsUsedInArgOrEnv => (
                "SecretsUsedInArgOrEnv",
                "Sensitive data should not be used in the ARG or ENV commands",
            ),
            Rule::InvalidDefaultArgInFrom => (
                "InvalidDefaultArgInFrom",
                "Default value for global ARG results in an empty or invalid base image name",
            ),
            Rule::FromPlatformFlagConstDisallowed => (
                "FromPlatformFlagConstDisallowed",
                "FROM --platform flag should not use a constant value",
            ),
            Rule::CopyIgnoredFile => (
                "CopyIgnoredFile",
                "Attempting to Copy file that is excluded by .dockerignore",
            ),
            Rule::InvalidDefinitionDescription => (
                "InvalidDefinitionDescription",
                "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
            ),
            Rule::ExposeProtoCasing => (
                "ExposeProtoCasing",
                "Protocol in EXPOSE instruction should be lowercase",
            ),
            Rule::ExposeInvalidFormat => (
                "ExposeInvalidFormat",
                "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
            ),
        }
    }

    /// The rule's name.
    pub fn name(self) -> &'static str {
        self.text().0
    }

    /// What it is about.
    pub fn description(self) -> &'static str {
        self.text().1
    }

    /// Where it is explained; empty for the one that BuildKit does not explain.
    pub fn url(self) -> String {
        if self == Rule::InvalidBaseImagePlatform {
            return String::new();
        }
        let name = self.name().replace("JSON", "Json");
        let mut kebab = String::with_capacity(name.len() + 4);
        for c in name.chars() {
            if c.is_ascii_uppercase() && !kebab.is_empty() {
                kebab.push('-');
            }
            kebab.push(c.to_ascii_lowercase());
        }
        format!("https://docs.docker.com/go/dockerfile/rule/{kebab}/")
    }

    /// Whether it applies only when asked for.
    pub fn is_experimental(self) -> bool {
        self == Rule::InvalidDefinitionDescription
    }

    /// What it says; `arguments` are those of the place that broke it.
    pub(super) fn message(self, arguments: &[&str]) -> String {
        let [a, b, c] = [0, 1, 2].map(|at| arguments.get(at).copied().unwrap_or_default());
        match self {
            Rule::StageNameCasing => format!("Stage name '{a}' should be lowercase"),
            Rule::FromAsCasing => format!("'{b}' and '{a}' keywords' casing do not match"),
            Rule::NoEmptyContinuation => "Empty continuation line".to_owned(),
            Rule::ConsistentInstructionCasing => {
                format!("Command '{a}' should match the case of the command majority ({b})")
            }
            Rule::DuplicateStageName => {
                format!(
                    "Duplicate stage name {}, stage names should be unique",
                    go::quote(a)
                )
            }
            Rule::ReservedStageName => format!(
                "Stage name should not use the same name as reserved stage {}",
                go::quote(a)
            ),
            Rule::JsonArgsRecommended => format!(
                "JSON arguments recommended for {a} to prevent unintended behavior related to OS signals"
            ),
            Rule::MaintainerDeprecated => {
                "Maintainer instruction is deprecated in favor of using label".to_owned()
            }
            Rule::UndefinedArgInFrom => {
                let hint = suggest::suffix(Some(b).filter(|b| !b.is_empty()));
                format!("FROM argument '{a}' is not declared{hint}")
            }
            Rule::WorkdirRelativePath => format!(
                "Relative workdir {} can have unexpected results if the base image changes",
                go::quote(a)
            ),
            Rule::UndefinedVar => {
                let hint = if b.is_empty() {
                    None
                } else {
                    Some(format!("${b}"))
                };
                format!(
                    "Usage of undefined variable '${a}'{}",
                    suggest::suffix(hint.as_deref())
                )
            }
            Rule::MultipleInstructionsDisallowed => format!(
                "Multiple {a} instructions should not be used in the same stage because only the last one will be used"
            ),
            Rule::LegacyKeyValueFormat => format!(
                "\"{a} key=value\" should be used instead of legacy \"{a} key value\" format"
            ),
            Rule::InvalidBaseImagePlatform => format!(
                "Base image {a} was pulled with platform {}, expected {} for current build",
                go::quote(c),
                go::quote(b)
            ),
            Rule::RedundantTargetPlatform => format!(
                "Setting platform to predefined {a} in FROM is redundant as this is the default behavior"
            ),
            Rule::SecretsUsedInArgOrEnv => format!(
                "Do not use ARG or ENV instructions for sensitive data ({a} {})",
                go::quote(b)
            ),
            Rule::InvalidDefaultArgInFrom => {
                format!("Default value for ARG {a} results in empty or invalid base image name")
            }
            Rule::FromPlatformFlagConstDisallowed => {
                format!(
                    "FROM --platform flag should not use constant value {}",
                    go::quote(a)
                )
            }
            Rule::CopyIgnoredFile => format!(
                "Attempting to {a} file {} that is excluded by .dockerignore",
                go::quote(b)
            ),
            Rule::InvalidDefinitionDescription => {
                format!("Comment for {a} should follow the format: `# {b} <description>`")
            }
            Rule::ExposeProtoCasing => {
                format!("Defined protocol '{a}' in EXPOSE instruction should be lowercase")
            }
            Rule::ExposeInvalidFormat => format!(
                "EXPOSE instruction should not define an IP address or host-port mapping, found '{a}'"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_kebab_case() {
        assert_eq!(
            Rule::JsonArgsRecommended.url(),
            "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"
        );
        assert_eq!(
            Rule::CopyIgnoredFile.url(),
            "https://docs.docker.com/go/dockerfile/rule/copy-ignored-file/"
        );
    }

    #[test]
    fn a_rule_says_what_it_found() {
        assert_eq!(
            Rule::UndefinedVar.message(&["U", "V"]),
            "Usage of undefined variable '$U' (did you mean $V?)"
        );
        assert_eq!(
            Rule::InvalidBaseImagePlatform.message(&["a", "linux/arm64", "linux/amd64"]),
            "Base image a was pulled with platform \"linux/amd64\", expected \"linux/arm64\" for current build"
        );
    }
}
