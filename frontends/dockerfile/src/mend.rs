//! What to do about errors and findings, for people. BuildKit's own texts stay as they are on the
//! wire; this is shown beside them.

use crate::expand::ExpandError;
use crate::instruction::{FlagError, InstructionError, MountError};
use crate::lint::Rule;
use crate::lower::LowerError;
use crate::parse::ParseError;

impl LowerError {
    /// How to mend it, where that is not plain from the message.
    pub(crate) fn mend(&self) -> Option<&'static str> {
        match self {
            LowerError::Parse(error) => error.mend(),
            LowerError::Line { source, .. } => source.mend(),
            LowerError::Instruction(error) => error.mend(),
            LowerError::Mount(error) => error.mend(),
            LowerError::Expand(error) => error.mend(),
            LowerError::Empty | LowerError::NoStages => {
                Some("begin with `FROM <image>`, or `FROM scratch` for an empty filesystem")
            }
            LowerError::BlankBase(_) => Some(
                "give the argument a default before the first FROM: `ARG BASE=alpine`, or pass \
                 `--build-arg`",
            ),
            LowerError::EmptyPlatform { .. } | LowerError::Platform { .. } => {
                Some("write a platform as os/architecture[/variant], such as `linux/arm64`")
            }
            LowerError::NoTarget { .. } => {
                Some("name a stage of the file: the word after AS, or a stage's number from 0")
            }
            LowerError::Circular(_) => Some(
                "move what both stages need into a stage of its own, and copy it from there into \
                 each",
            ),
            LowerError::FromVariable => Some(
                "add a stage `FROM $IMAGE AS source`, with `ARG IMAGE` before the first FROM, and \
                 use `--from=source`",
            ),
            LowerError::StageIndex(_) => {
                Some("stages count from 0 in the order of the file; better use the name of one")
            }
            LowerError::CopyFrom { .. } | LowerError::MountFrom { .. } => {
                Some("stages can be used only below their FROM: move the stage up")
            }
            LowerError::BaseName { .. } => {
                Some("an image's name is lower case: [registry/]name[:tag][@digest]")
            }
            LowerError::Signal(_) => Some("use a number, or a name such as `SIGTERM`"),
            LowerError::MountTarget(_) => Some("mount into a directory below the root"),
            LowerError::TooLarge => {
                Some("make values shorter: each is stored with every later step")
            }
            LowerError::Lint(_) => {
                Some("mend the findings above, or take their rules out of `# check=skip=…`")
            }
            LowerError::LintOptions(_) => Some(
                "write `skip=<rule>,<rule>` and `error=true`, with `;` between them and no blanks",
            ),
            LowerError::Advised { mend, .. } => Some(mend),
            LowerError::Context(_)
            | LowerError::GitRef(_)
            | LowerError::PlatformArguments { .. }
            | LowerError::ResolvedName { .. }
            | LowerError::Resolve { .. }
            | LowerError::ImageConfig(_)
            | LowerError::TriggerCount
            | LowerError::Workdir(_)
            | LowerError::Drive(_)
            | LowerError::Path(_)
            | LowerError::Rule(_) => None,
        }
    }
}

impl ParseError {
    fn mend(&self) -> Option<&'static str> {
        Some(match self {
            ParseError::NoInstructions => {
                "begin with `FROM <image>`, or `FROM scratch` for an empty filesystem"
            }
            ParseError::LineTooLong => "break the line with a `\\` at its end, or use a heredoc",
            ParseError::DuplicateDirective(_) => "keep the first, and take the other out",
            ParseError::EscapeToken(_) => "write `# escape=\\` or `` # escape=` ``",
            ParseError::UnterminatedHeredoc => {
                "end it with a line that holds its word alone; after `<<-` tabs may stand before it"
            }
            ParseError::MissingValue(_) | ParseError::MissingEquals(_) => {
                "write `NAME=value`, with quotes around a value that has blanks: `NAME=\"a b\"`"
            }
            ParseError::NotStrings => "put every element between double quotes",
            ParseError::TooDeep => "name the instruction itself after ONBUILD",
            ParseError::HeredocWord(error) => return error.mend(),
        })
    }
}

impl ExpandError {
    fn mend(&self) -> Option<&'static str> {
        Some(match self {
            ExpandError::Word { source, .. } => return source.mend(),
            ExpandError::Unterminated(_) => {
                "add the closing mark, or put a `\\` before the one that is text"
            }
            // The text ends inside of the braces.
            ExpandError::Modifier(end) if end == "\u{fffd}" => {
                return ExpandError::MissingBrace.mend();
            }
            ExpandError::MissingBrace => {
                "close it: `${NAME}`; write `\\$` where a dollar sign is meant"
            }
            ExpandError::MissingSlash => "write `${NAME/pattern/replacement}`",
            ExpandError::BadSubstitution => "write a name: `${NAME}`",
            ExpandError::Modifier(_) => {
                "use `:-`, `-`, `:+`, `+`, `:?`, `?`, `#`, `##`, `%`, `%%`, `/` or `//`"
            }
            ExpandError::Required { .. } => "set it with `--build-arg`, or with ARG or ENV above",
            ExpandError::Pattern { .. } => {
                "in a pattern only `*`, `?`, `\\`, `}` and `/` are escaped"
            }
            ExpandError::TooDeep | ExpandError::TooLong => {
                "give parts of it names of their own with ARG"
            }
        })
    }
}

impl InstructionError {
    fn mend(&self) -> Option<&'static str> {
        Some(match self {
            InstructionError::Unknown(_) => {
                "a line that goes on needs a `\\` at its end; else begin with an instruction"
            }
            InstructionError::NoDestination(_) => {
                "name what is copied, then where to: `COPY app.py /srv/`"
            }
            InstructionError::BlankName(_) => "put a name before the `=`",
            InstructionError::HeredocDestination(_) => "put the path last: `COPY <<END /etc/motd`",
            InstructionError::FromArity => "write `FROM <image>` or `FROM <image> AS <name>`",
            InstructionError::StageName(_) => {
                "begin with a letter; letters, digits, `-`, `_` and `.` may follow"
            }
            InstructionError::OnbuildChain | InstructionError::OnbuildTrigger(_) => {
                "use another instruction: triggers run inside the stage that is built on the image"
            }
            InstructionError::ProbeNone => "take out what follows NONE",
            InstructionError::ProbeCommand | InstructionError::ProbeKind(_) => {
                "write `HEALTHCHECK CMD <command>` or `HEALTHCHECK NONE`"
            }
            InstructionError::ProbeInterval(_) => "give it a unit: `30s`, `1m`",
            InstructionError::ProbeValue(_) => {
                "write a time with its unit, `30s` or `1m30s`; `--retries` is a plain number"
            }
            InstructionError::ProbeRetries(_) => "write a number from 0: `--retries=3`",
            InstructionError::EmptyVolume => "name a directory: `VOLUME [\"/data\"]`",
            InstructionError::ShellNotJson => "write an array: `SHELL [\"/bin/bash\", \"-c\"]`",
            InstructionError::Network(_) => "use `default`, `none` or `host`",
            InstructionError::Security(_) => "use `sandbox` or `insecure`",
            InstructionError::NoStage => "put `FROM <image>` first; only ARG may stand before it",
            InstructionError::AtLeastOne(name) | InstructionError::ExactlyOne(name) => {
                return usage(name);
            }
            InstructionError::Flag(error) => return error.mend(),
            InstructionError::Mount(error) => return error.mend(),
            InstructionError::Device(_) | InstructionError::NotCommand => return None,
        })
    }
}

/// How an instruction is written.
fn usage(name: &str) -> Option<&'static str> {
    Some(match name {
        "ARG" => "write `ARG NAME`, or `ARG NAME=default`",
        "ENV" => "write `ENV NAME=value`",
        "EXPOSE" => "write `EXPOSE 80`, or `EXPOSE 80/udp`",
        "HEALTHCHECK" => "write `HEALTHCHECK CMD <command>` or `HEALTHCHECK NONE`",
        "LABEL" => "write `LABEL name=value`",
        "MAINTAINER" => "write `LABEL org.opencontainers.image.authors=\"…\"` instead",
        "ONBUILD" => "write an instruction after it: `ONBUILD RUN make`",
        "SHELL" => "write an array: `SHELL [\"/bin/bash\", \"-c\"]`",
        "STOPSIGNAL" => "write `STOPSIGNAL SIGTERM`",
        "USER" => "write `USER name`, or `USER name:group`",
        "VOLUME" => "name a directory: `VOLUME [\"/data\"]`",
        "WORKDIR" => "write one path, with quotes around one that has blanks: `WORKDIR /app`",
        _ => return None,
    })
}

impl FlagError {
    fn mend(&self) -> Option<&'static str> {
        Some(match self {
            FlagError::Unknown { hint, .. } if hint.is_empty() => {
                "take the flag out: this instruction does not have it"
            }
            FlagError::Unknown { .. } => return None,
            FlagError::Duplicate(_) => "keep one of them",
            FlagError::MissingValue(_) => "write the value behind a `=`, without a blank",
            FlagError::NotBool { .. } => "write `true` or `false`, or the flag alone",
        })
    }
}

impl MountError {
    fn mend(&self) -> Option<&'static str> {
        Some(match self {
            MountError::Csv(_) => "write `key=value` pairs with commas and no blanks between them",
            MountError::Variable(_) => "add a stage `FROM $IMAGE AS source` and use `from=source`",
            MountError::NotPair(_) => "write `key=value`",
            MountError::Kind(_) => "use `bind`, `cache`, `tmpfs`, `secret` or `ssh`",
            MountError::Sharing(_) => "use `shared`, `private` or `locked`",
            MountError::ForeignKey { .. } => "take the key out, or choose the type that has it",
            MountError::Value { key, .. } if key == "size" => {
                "write a number of bytes, or one with a unit: `64m`"
            }
            MountError::Value { .. } => "write `true` or `false`, or the key alone",
            MountError::Number { key: "mode", .. } => "write the mode in octal: `0755`",
            MountError::Number { .. } => "write a number: names are not looked up in the image",
            MountError::FileInfo { .. } => {
                "take the key out: files keep the owner and mode they have"
            }
            MountError::Combination { mend, .. } => mend,
            MountError::Expand(error) => return error.mend(),
            MountError::UnknownKey { .. } => return None,
        })
    }
}

impl Rule {
    /// How to satisfy the rule.
    pub fn mend(self) -> &'static str {
        match self {
            Rule::StageNameCasing => "write the name in lower case, here and where it is used",
            Rule::FromAsCasing => "write both words alike: `FROM … AS …`",
            Rule::NoEmptyContinuation => "take the blank line out, or make it a comment",
            Rule::ConsistentInstructionCasing => "write all instructions in upper case",
            Rule::DuplicateStageName => "give one of the stages another name",
            Rule::ReservedStageName => "give the stage another name",
            Rule::JsonArgsRecommended => {
                "write an array: `CMD [\"program\", \"argument\"]`, so that signals reach the program"
            }
            Rule::MaintainerDeprecated => {
                "write `LABEL org.opencontainers.image.authors=\"…\"` instead"
            }
            Rule::UndefinedArgInFrom => "declare it before the first FROM: `ARG NAME=default`",
            Rule::WorkdirRelativePath => "write an absolute path: `WORKDIR /app`",
            Rule::UndefinedVar => {
                "declare it in this stage with ARG or ENV, or write `\\$` if it is text"
            }
            Rule::MultipleInstructionsDisallowed => "keep the last one: only it has an effect",
            Rule::LegacyKeyValueFormat => "write `NAME=value`",
            Rule::InvalidBaseImagePlatform => {
                "choose an image for this platform, or set `--platform` to the image's"
            }
            Rule::RedundantTargetPlatform => "take `--platform` out: this is the default",
            Rule::SecretsUsedInArgOrEnv => {
                "use `RUN --mount=type=secret,id=…`: arguments and variables stay in the image"
            }
            Rule::InvalidDefaultArgInFrom => "give the argument a default that makes a valid name",
            Rule::FromPlatformFlagConstDisallowed => {
                "use `--platform=$BUILDPLATFORM`, or take the flag out"
            }
            Rule::CopyIgnoredFile => "take the pattern out of .dockerignore, or add `!path` to it",
            Rule::InvalidDefinitionDescription => {
                "begin the comment with the name that it describes, or leave a blank line after it"
            }
            Rule::ExposeProtoCasing => "write `tcp`, `udp` or `sctp` in lower case",
            Rule::ExposeInvalidFormat => "name only the container's port: `EXPOSE 80/tcp`",
        }
    }
}
