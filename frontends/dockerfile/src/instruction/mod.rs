//! Instructions with types: what each one says, checked, but not yet expanded or carried out.

mod arity;
mod files;
mod flags;
mod healthcheck;
mod mount;
mod read;
mod stage;

use std::fmt;

use crate::expand::Expander;
use crate::span::LineSpan;

pub(crate) use flags::FlagError;
pub(crate) use mount::{Mount, MountError, MountKind};
pub(crate) use read::{Misplaced, read_command, read_document};

/// A stage: `FROM` and the commands after it.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    /// The name, in lower case; empty without `AS`.
    pub name: String,
    /// The word `FROM`, as written.
    pub keyword: String,
    /// What the stage starts from, not expanded.
    pub base: String,
    /// The platform, not expanded; empty without `--platform`.
    pub platform: String,
    /// The description in a comment in front of the stage.
    pub doc: String,
    /// The logical line.
    pub source: String,
    /// Where it is.
    pub span: LineSpan,
    /// The comments in front of it.
    pub comments: Vec<String>,
    /// Its commands.
    pub commands: Vec<Command>,
}

/// A command of a stage.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    /// The instruction's word, as written.
    pub keyword: String,
    /// The logical line, trimmed.
    pub source: String,
    /// Where it is.
    pub span: LineSpan,
    /// The comments in front of it.
    pub comments: Vec<String>,
    /// What it says.
    pub(crate) kind: CommandKind,
}

/// What a command says.
#[derive(Clone, Debug)]
pub(crate) enum CommandKind {
    Add(Add),
    Arg(Vec<Arg>),
    Cmd(CommandLine),
    Copy(Copy),
    Entrypoint(CommandLine),
    Env(Vec<KeyValue>),
    Expose(Vec<String>),
    Healthcheck(oci::HealthConfig),
    Label(Vec<KeyValue>),
    Maintainer(String),
    /// The trigger's text, heredocs included.
    Onbuild(String),
    Run(Run),
    Shell(Vec<String>),
    Stopsignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

/// A key and a value, as `ENV` and `LABEL` have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyValue {
    pub(crate) key: String,
    pub(crate) value: String,
    /// Whether there is a blank between them, not `=`.
    pub(crate) legacy: bool,
}

impl fmt::Display for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

/// A build argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arg {
    pub(crate) key: String,
    pub(crate) value: Option<String>,
    /// The description in a comment in front of the instruction.
    pub(crate) doc: String,
}

/// What `ADD` and `COPY` have in common.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    pub(crate) sources: Vec<String>,
    /// Heredocs that stand for files.
    pub(crate) inline: Vec<InlineFile>,
    pub(crate) dest: String,
    pub(crate) chown: String,
    pub(crate) chmod: String,
    pub(crate) link: bool,
    pub(crate) exclude: Vec<String>,
}

/// A file whose content is in the Dockerfile.
#[derive(Clone, Debug)]
pub(crate) struct InlineFile {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
    /// Whether variables in the content are expanded.
    pub(crate) expand: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Add {
    pub(crate) files: Files,
    pub(crate) keep_git_dir: Option<bool>,
    pub(crate) checksum: String,
    pub(crate) unpack: Option<bool>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Copy {
    pub(crate) files: Files,
    pub(crate) from: String,
    pub(crate) parents: bool,
}

/// A command line in shell form (one text) or exec form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CommandLine {
    pub(crate) words: Vec<String>,
    /// Whether a shell takes the text.
    pub(crate) shell: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) line: CommandLine,
    pub(crate) heredocs: Vec<RunHeredoc>,
    /// `--mount` values, whose variables are expanded when the command is carried out.
    pub(crate) mounts: Vec<String>,
    pub(crate) network: llb::NetMode,
    pub(crate) security: llb::SecurityMode,
    pub(crate) devices: Vec<llb::CdiDevice>,
}

/// A heredoc of a `RUN`.
#[derive(Clone, Debug)]
pub(crate) struct RunHeredoc {
    pub(crate) name: String,
    pub(crate) content: String,
    /// Whether leading tabs are dropped.
    pub(crate) chomp: bool,
}

/// An instruction that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InstructionError {
    /// No such instruction.
    #[error("unknown instruction: {name}{hint}", name = .0, hint = crate::suggest::hint(.0, arity::NAMES, false))]
    Unknown(String),
    /// A flag is wrong.
    #[error(transparent)]
    Flag(#[from] FlagError),
    /// A mount is wrong.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Nothing after the instruction's word.
    #[error("{0} requires at least one argument")]
    AtLeastOne(&'static str),
    /// Nothing, or too much, after the instruction's word.
    #[error("{0} requires exactly one argument")]
    ExactlyOne(&'static str),
    /// A source without a destination.
    #[error(
        "{0} requires at least two arguments, but only one was provided. Destination could not be determined"
    )]
    NoDestination(&'static str),
    /// An empty key.
    #[error("{0} names can not be blank")]
    BlankName(&'static str),
    /// A heredoc where a path must be.
    #[error("{0} cannot accept a heredoc as a destination")]
    HeredocDestination(&'static str),
    /// `FROM` has another form.
    #[error("FROM requires either one or three arguments")]
    FromArity,
    /// A stage's name has other characters.
    #[error("invalid name for build stage: {}, name can't start with a number or contain symbols", crate::go::quote(.0))]
    StageName(String),
    /// `ONBUILD ONBUILD`.
    #[error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")]
    OnbuildChain,
    /// `ONBUILD FROM`.
    #[error("{0} isn't allowed as an ONBUILD trigger")]
    OnbuildTrigger(String),
    /// `HEALTHCHECK NONE x`.
    #[error("HEALTHCHECK NONE takes no arguments")]
    ProbeNone,
    /// `HEALTHCHECK CMD` without a command.
    #[error("Missing command after HEALTHCHECK CMD")]
    ProbeCommand,
    /// `HEALTHCHECK X`.
    #[error("Unknown type {} in HEALTHCHECK (try CMD)", crate::go::quote(.0))]
    ProbeKind(String),
    /// A time that is too short.
    #[error("Interval {} cannot be less than 1ms", crate::go::quote(.0))]
    ProbeInterval(&'static str),
    /// Not a time or number.
    #[error("{0}")]
    ProbeValue(String),
    /// A negative count.
    #[error("--retries cannot be negative ({0})")]
    ProbeRetries(i64),
    /// `VOLUME [""]`.
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume,
    /// `SHELL` without an array.
    #[error("SHELL requires the arguments to be in JSON form")]
    ShellNotJson,
    /// `--network` has another value.
    #[error("invalid network mode {}", crate::go::quote(.0))]
    Network(String),
    /// `--security` has another value.
    #[error("security {} is not valid", crate::go::quote(.0))]
    Security(String),
    /// `--device` is wrong.
    #[error("{0}")]
    Device(String),
    /// A command before the first `FROM`.
    #[error("no build stage in current context")]
    NoStage,
    /// A trigger that is a stage.
    #[error("*instructions.Stage is not a command type")]
    NotCommand,
}

/// Expands every word of the command that is expanded at all, in the order in which BuildKit does.
pub(crate) trait Expand {
    /// `word` gives a word's expansion.
    fn expand<E>(&mut self, word: &mut dyn FnMut(&str) -> Result<String, E>) -> Result<(), E>;
}

impl Expand for Vec<KeyValue> {
    fn expand<E>(&mut self, word: &mut dyn FnMut(&str) -> Result<String, E>) -> Result<(), E> {
        for pair in self {
            let key = word(&pair.key)?;
            pair.value = word(&pair.value)?;
            pair.key = key;
        }
        Ok(())
    }
}

impl Expand for Files {
    fn expand<E>(&mut self, word: &mut dyn FnMut(&str) -> Result<String, E>) -> Result<(), E> {
        for source in &mut self.sources {
            *source = word(source)?;
        }
        self.dest = word(&self.dest)?;
        Ok(())
    }
}

impl CommandKind {
    /// Expands the words of the command that are expanded before it is carried out.
    pub(crate) fn expand<E>(
        &mut self,
        word: &mut dyn FnMut(&str) -> Result<String, E>,
    ) -> Result<(), E> {
        match self {
            CommandKind::Add(add) => {
                add.files.chown = word(&add.files.chown)?;
                add.files.chmod = word(&add.files.chmod)?;
                add.checksum = word(&add.checksum)?;
                add.files.expand(word)
            }
            CommandKind::Copy(copy) => {
                copy.files.chown = word(&copy.files.chown)?;
                copy.files.chmod = word(&copy.files.chmod)?;
                copy.files.expand(word)
            }
            CommandKind::Env(pairs) | CommandKind::Label(pairs) => pairs.expand(word),
            CommandKind::Volume(words) => {
                for text in words {
                    *text = word(text)?;
                }
                Ok(())
            }
            CommandKind::Stopsignal(text)
            | CommandKind::User(text)
            | CommandKind::Workdir(text) => {
                *text = word(text)?;
                Ok(())
            }
            // `ARG` may be overruled and `EXPOSE` splits words; both expand when carried out, and
            // so do the mounts of `RUN`. The text of the others is not expanded.
            CommandKind::Arg(_)
            | CommandKind::Cmd(_)
            | CommandKind::Entrypoint(_)
            | CommandKind::Expose(_)
            | CommandKind::Healthcheck(_)
            | CommandKind::Maintainer(_)
            | CommandKind::Onbuild(_)
            | CommandKind::Run(_)
            | CommandKind::Shell(_) => Ok(()),
        }
    }

    /// The files of `ADD` and `COPY`.
    pub(crate) fn files_mut(&mut self) -> Option<&mut Files> {
        match self {
            CommandKind::Add(add) => Some(&mut add.files),
            CommandKind::Copy(copy) => Some(&mut copy.files),
            _ => None,
        }
    }
}

/// The expander of heredoc bodies: quotes are text, the escape is always a backslash.
pub(crate) fn body_expander() -> Expander {
    Expander {
        skip_quotes: true,
        ..Expander::new('\\')
    }
}
