//! Pseudo terminals of a given `devpts` instance.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

/// Both ends of a new pseudo terminal.
#[derive(Debug)]
pub struct Pty {
    /// The side of the program that shows the terminal.
    pub master: OwnedFd,
    /// The side of the program that runs in it.
    pub slave: OwnedFd,
}

/// Opens a terminal of the `devpts` whose `ptmx` is at `ptmx`. Both ends are closed on exec.
pub fn open(ptmx: &Path) -> io::Result<Pty> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::open(ptmx, flags, Mode::empty())?;
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    Ok(Pty { master, slave })
}

/// Tells the terminal, and with SIGWINCH the programs in it, its size in characters.
pub fn resize(terminal: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// Makes `slave` the controlling terminal of the calling process, which must lead a session.
pub fn control(slave: impl AsFd) -> io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(slave)?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn what_the_slave_writes_the_master_reads() {
        let pty = open(Path::new("/dev/ptmx")).unwrap();
        resize(&pty.master, 33, 101).unwrap();
        let size = rustix::termios::tcgetwinsize(&pty.slave).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (33, 101));
        File::from(pty.slave).write_all(b"a\n").unwrap();
        let mut text = [0; 3];
        File::from(pty.master).read_exact(&mut text).unwrap();
        assert_eq!(&text, b"a\r\n");
    }
}
