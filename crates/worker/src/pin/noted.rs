//! Which content a client's directory has, noted beside it.
//!
//! The note is there only while the directory has exactly that content: it is taken away before the
//! directory is brought up to date, and a transfer that breaks off leaves none.

use std::io::{self, Read, Write};
use std::path::Path;

use oci::Digest;
use refs::Mutable;

/// The note's file, with the text of the content's id.
const FILE: &str = "content";

/// More than any digest's text.
const MAX_LENGTH: u64 = 256;

/// Takes the note away; nothing if there is none that can be read.
pub(super) fn take(mutable: &Mutable) -> io::Result<Option<Digest>> {
    let notes = mutable.notes().map_err(io::Error::other)?;
    let path = Path::new(FILE);
    let mut text = String::new();
    match notes.open_file(path) {
        Ok(file) => {
            // What cannot be read says nothing.
            let _ = file.take(MAX_LENGTH).read_to_string(&mut text);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    notes.unlink(path)?;
    Ok(text.parse().ok())
}

/// Notes that the directory has the content `id`.
pub(super) fn note(mutable: &Mutable, id: Digest) -> io::Result<()> {
    let notes = mutable.notes().map_err(io::Error::other)?;
    let mut file = notes.create(Path::new(FILE), 0o600, true)?;
    file.write_all(id.to_string().as_bytes())
}
