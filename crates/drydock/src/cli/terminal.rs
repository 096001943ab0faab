//! The caller's terminal, handed to a container's process.

use std::io;

use rustix::termios::{self, OptionalActions, Termios};

/// Standard input in raw mode. Dropped, it is as it was.
pub(super) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Puts standard input into raw mode, so that every key goes to the process.
    pub(super) fn enter() -> io::Result<RawMode> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(RawMode { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may be gone; then there is nothing to restore.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// Lines and columns of the terminal on standard output, if it is one.
pub(super) fn size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}
