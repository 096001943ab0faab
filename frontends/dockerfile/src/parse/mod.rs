//! Dockerfile text to a list of instructions, still untyped.
//!
//! The line model (continuation, comments, heredocs) is that of BuildKit's `parser/parser.go`,
//! quirks included: what a file means must not depend on the engine that reads it.

mod arguments;
mod directive;
mod flags;
mod heredoc;
mod lines;
mod words;

use crate::span::LineSpan;

pub(crate) use directive::check_comment;
pub(crate) use directive::{detect_syntax, directive};
pub(crate) use heredoc::{Heredoc, HeredocMark, chomp};
pub(crate) use lines::{MAX_LINE, parse};

/// A parsed file.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// The instructions in order; never empty.
    pub(crate) instructions: Vec<Node>,
    /// The escape character: `\` or a backtick.
    pub(crate) escape: char,
    /// The last line of each instruction that has a blank line in a continuation.
    pub(crate) empty_continuations: Vec<LineSpan>,
}

/// One instruction: its word, flags and arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// The instruction's word, as written.
    pub(crate) keyword: String,
    /// Leading `--` words, without quotes.
    pub(crate) flags: Vec<String>,
    /// What follows the flags.
    pub(crate) arguments: Arguments,
    /// The logical line, continuations joined.
    pub(crate) original: String,
    /// Heredocs, in order of appearance.
    pub(crate) heredocs: Vec<Heredoc>,
    /// Where the instruction and its heredocs are.
    pub(crate) span: LineSpan,
    /// The comments in front of the instruction, without `#`.
    pub(crate) comments: Vec<String>,
}

/// Arguments of an instruction, as its own grammar splits them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Arguments {
    /// Words, or the whole rest as one word.
    Words(Vec<String>),
    /// A JSON array of strings.
    Json(Vec<String>),
    /// Keys and values of `ENV` and `LABEL`.
    Pairs(Vec<Pair>),
    /// The kind and command of a `HEALTHCHECK`.
    Probe {
        /// `CMD` or `NONE`, as written.
        kind: String,
        /// The command; at most one word in shell form.
        command: Vec<String>,
        /// Whether the command is a JSON array.
        json: bool,
    },
    /// The instruction of an `ONBUILD`.
    Trigger(Box<Node>),
}

/// One key and value of `ENV` or `LABEL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    /// The key, quotes kept.
    pub(crate) key: String,
    /// The value, quotes kept.
    pub(crate) value: String,
    /// Whether the key is set apart from the value by white space (`ENV k v`).
    pub(crate) legacy: bool,
}

impl Arguments {
    /// Whether the arguments are a JSON array.
    pub(crate) fn is_json(&self) -> bool {
        match self {
            Arguments::Json(_) => true,
            Arguments::Probe { json, .. } => *json,
            Arguments::Words(_) | Arguments::Pairs(_) | Arguments::Trigger(_) => false,
        }
    }
}

/// Why a text is not a Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseError {
    /// There is nothing but comments.
    #[error("file with no instructions")]
    NoInstructions,
    /// A physical line is longer than [`MAX_LINE`] bytes.
    #[error("dockerfile line greater than max allowed size of {MAX_LINE}")]
    LineTooLong,
    /// The same directive twice.
    #[error("only one {0} parser directive can be used")]
    DuplicateDirective(&'static str),
    /// Neither a backslash nor a backtick.
    #[error("invalid escape token '{0}' does not match ` or \\")]
    EscapeToken(String),
    /// A heredoc's end is missing.
    #[error("unterminated heredoc")]
    UnterminatedHeredoc,
    /// A heredoc's delimiter cannot be read.
    #[error(transparent)]
    HeredocWord(#[from] crate::expand::ExpandError),
    /// `ENV k` without a value.
    #[error("{0} must have two arguments")]
    MissingValue(&'static str),
    /// A word without `=` among `k=v` words.
    #[error("Syntax error - can't find = in {word}. Must be of the form: name=value", word = crate::go::quote(.0))]
    MissingEquals(String),
    /// A JSON array that holds something else than strings.
    #[error("when using JSON array syntax, arrays must be comprised of strings only")]
    NotStrings,
    /// `ONBUILD` nested deeper than any use of it.
    #[error("instructions are nested too deeply")]
    TooDeep,
}
