//! Errors of lowering, with their places.

use std::error::Error;

use frontend::FrontendError;

use crate::context::ContextError;
use crate::expand::ExpandError;
use crate::git::GitRefError;
use crate::go;
use crate::image_path::PathError;
use crate::instruction::{InstructionError, Misplaced, MountError};
use crate::lint::LintOptionsError;
use crate::lower::variables::MAX_SIZE;
use crate::parse::ParseError;
use crate::platform::PlatformError;
use crate::span::LineSpan;

/// Why a Dockerfile becomes no graph.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LowerError {
    #[error("the Dockerfile cannot be empty")]
    Empty,
    #[error(transparent)]
    Parse(#[from] ParseError),
    #[error("dockerfile parse error on line {line}")]
    Line { line: u32, source: InstructionError },
    #[error(transparent)]
    Instruction(#[from] InstructionError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Expand(#[from] ExpandError),
    #[error(transparent)]
    Context(Box<ContextError>),
    #[error(transparent)]
    GitRef(#[from] GitRefError),
    #[error("failed to parse check options")]
    LintOptions(#[source] LintOptionsError),
    #[error("dockerfile contains no stages to build")]
    NoStages,
    #[error("base name ({0}) should not be blank")]
    BlankBase(String),
    #[error("failed to process arguments for platform {platform}")]
    PlatformArguments {
        platform: String,
        source: ExpandError,
    },
    #[error("empty platform value from expression {expression}")]
    EmptyPlatform { expression: String, hint: String },
    #[error("failed to parse platform {expression}")]
    Platform {
        expression: String,
        source: PlatformError,
        hint: String,
    },
    #[error("target stage {} could not be found", go::quote(.name))]
    NoTarget { name: String, hint: String },
    #[error("circular dependency detected on stage: {0}")]
    Circular(String),
    #[error(
        "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround"
    )]
    FromVariable,
    #[error("invalid stage index {0}")]
    StageIndex(i64),
    #[error("failed to parse stage name {}", go::quote(.name))]
    BaseName {
        name: String,
        source: oci::ParseReferenceError,
    },
    #[error("failed to parse ref {}", go::quote(.name))]
    ResolvedName {
        name: String,
        source: oci::ParseReferenceError,
    },
    #[error("{name}")]
    Resolve {
        name: String,
        source: Box<FrontendError>,
        hint: String,
    },
    #[error("failed to parse image config")]
    ImageConfig(#[source] serde_json::Error),
    #[error("onbuild trigger should be a single expression")]
    TriggerCount,
    #[error("normalizing workdir: normalizing working directory")]
    Workdir(#[source] PathError),
    #[error("removing drive letter")]
    Drive(#[source] PathError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("invalid signal: {0}")]
    Signal(String),
    #[error(
        "cannot copy from stage {}, it needs to be defined before current stage {}",
        go::quote(.from), go::quote(.stage)
    )]
    CopyFrom { from: String, stage: String },
    #[error(
        "cannot mount from stage {} to {}, stage needs to be defined before current command",
        go::quote(.from), go::quote(.target)
    )]
    MountFrom { from: String, target: String },
    #[error("invalid mount target {}", go::quote(.0))]
    MountTarget(String),
    #[error("{0}")]
    Rule(String),
    /// A rule that is met by what `mend` says.
    #[error("{text}")]
    Advised { text: String, mend: &'static str },
    #[error("the Dockerfile makes a graph of more than {} MiB", MAX_SIZE >> 20)]
    TooLarge,
    #[error("lint violation found for rules: {}", .0.join(", "))]
    Lint(Vec<&'static str>),
}

impl LowerError {
    /// A rule and how to follow it.
    pub(crate) fn advised(text: impl Into<String>, mend: &'static str) -> LowerError {
        LowerError::Advised {
            text: text.into(),
            mend,
        }
    }
}

impl From<ContextError> for LowerError {
    fn from(error: ContextError) -> LowerError {
        LowerError::Context(Box::new(error))
    }
}

/// An error and the places that it is about.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: LowerError,
    pub(crate) spans: Vec<LineSpan>,
}

impl From<LowerError> for Failure {
    fn from(error: LowerError) -> Failure {
        Failure {
            error,
            spans: Vec::new(),
        }
    }
}

impl From<Misplaced> for Failure {
    fn from(wrong: Misplaced) -> Failure {
        let line = wrong.span.start;
        let error = match wrong.in_parse {
            true => LowerError::Line {
                line,
                source: wrong.error,
            },
            false => LowerError::Instruction(wrong.error),
        };
        Failure {
            error,
            spans: vec![wrong.span],
        }
    }
}

impl Failure {
    /// The whole chain of causes in one line, as BuildKit prints it.
    pub(crate) fn message(&self) -> String {
        let hint = match &self.error {
            LowerError::EmptyPlatform { hint, .. }
            | LowerError::Platform { hint, .. }
            | LowerError::NoTarget { hint, .. }
            | LowerError::Resolve { hint, .. } => hint.as_str(),
            _ => "",
        };
        chain(&self.error) + hint
    }

    /// The engine's error that is at the bottom of this one.
    pub(crate) fn engine_error(&self) -> Option<&FrontendError> {
        match &self.error {
            LowerError::Resolve { source, .. } => Some(source),
            LowerError::Context(error) => match error.as_ref() {
                ContextError::Engine(source) | ContextError::EngineAt { source, .. } => {
                    Some(source)
                }
                _ => None,
            },
            _ => None,
        }
    }
}

/// An error and its causes, joined.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Adds the place of an error.
pub(crate) trait At<T> {
    /// `span` is what the error is about.
    fn at(self, span: LineSpan) -> Result<T, Failure>;
}

impl<T, E: Into<LowerError>> At<T> for Result<T, E> {
    fn at(self, span: LineSpan) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            error: error.into(),
            spans: vec![span],
        })
    }
}
