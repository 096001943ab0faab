//! How a failure is told: once, with its causes, and with advice apart from it.

use std::fmt::{self, Display};
use std::process::ExitCode;

/// Exit code of a failure of ours, as opposed to one of a container.
pub(crate) const FAILURE: u8 = 1;

/// Exit code of `run` and `exec` when the daemon failed, not the container's process.
pub(crate) const DAEMON_FAILURE: u8 = 125;

/// Exit code after an interrupt, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;

/// Advice on how to mend a failure. Attached with [`WithHint::hint`].
#[derive(Debug)]
struct Hint {
    message: String,
    hint: String,
}

impl Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Adds what failed and what to do about it.
pub(crate) trait WithHint<T> {
    fn hint(self, message: impl Into<String>, hint: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> WithHint<T> for Result<T, E> {
    fn hint(self, message: impl Into<String>, hint: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| {
            error.into().context(Hint {
                message: message.into(),
                hint: hint.into(),
            })
        })
    }
}

/// A failure with advice and no further cause.
pub(crate) fn hinted(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    anyhow::Error::msg(String::new()).context(Hint {
        message: message.into(),
        hint: hint.into(),
    })
}

/// Ends the program with a container's code, a signal's, or one of the codes above.
#[derive(Debug)]
pub(crate) struct Exit(pub(crate) u8);

impl Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}", self.0)
    }
}

impl std::error::Error for Exit {}

/// The causes of `error` in one line; a cause that the one before it already contains is left out.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error
        .chain()
        .map(ToString::to_string)
        .filter(|cause| !cause.is_empty())
    {
        if line.is_empty() {
            line = cause;
        } else if !line.ends_with(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

/// Prints `error` and gives the exit code that goes with it.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(exit) = error.downcast_ref::<Exit>() {
        return ExitCode::from(exit.0);
    }
    eprintln!("error: {}", chain(error));
    if let Some(hint) = error.downcast_ref::<Hint>() {
        eprintln!("hint: {}", hint.hint);
    }
    ExitCode::from(FAILURE)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow::anyhow!("no such file").context("failed to open `x`: no such file");
        assert_eq!(chain(&error), "failed to open `x`: no such file");
        let error = anyhow::anyhow!("refused").context("cannot connect");
        assert_eq!(chain(&error), "cannot connect: refused");
    }

    #[test]
    fn advice_is_no_part_of_the_message() {
        let failed: Result<(), _> = Err(anyhow::anyhow!("refused"));
        let error = failed
            .hint("cannot connect", "start the daemon")
            .unwrap_err();
        let error = Err::<(), _>(error).context("build").unwrap_err();
        assert_eq!(chain(&error), "build: cannot connect: refused");
        assert_eq!(
            error.downcast_ref::<Hint>().unwrap().hint,
            "start the daemon"
        );
        assert_eq!(chain(&hinted("no", "do")), "no");
    }
}
