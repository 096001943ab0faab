//! Who owns what a file op makes.

use std::path::Path;

use llb::{ActionInput, Owner, UserRef};
use sys::root::RootDir;

use crate::failure::Failure;

/// The most of a passwd or group file that is looked at; real ones are a few kilobytes.
const MAX_FILE: u64 = 4 << 20;

/// Resolves an owner; names are looked up in the filesystem that `open` gives for an input.
///
/// A name that is not there, or a filesystem without the file, is 0 without an error, and a user
/// given by name brings its primary group (BuildKit: `solver/llbsolver/file/user_linux.go`).
pub(crate) fn resolve(
    owner: Option<&Owner>,
    mut open: impl FnMut(ActionInput) -> Result<RootDir, Failure>,
) -> Result<Option<(u32, u32)>, Failure> {
    let Some(owner) = owner else { return Ok(None) };
    let (mut uid, mut gid) = (0, 0);
    match &owner.user {
        Some(UserRef::ById(id)) => (uid, gid) = (*id, *id),
        Some(UserRef::ByName { name, input }) => {
            refuse_empty(*input, "user")?;
            let text = read(&open(*input)?, "/etc/passwd")?;
            if let Some(fields) = line(&text, name) {
                uid = number(&fields, 2);
                gid = number(&fields, 3);
            }
        }
        None => {}
    }
    match &owner.group {
        Some(UserRef::ById(id)) => gid = *id,
        Some(UserRef::ByName { name, input }) => {
            refuse_empty(*input, "group")?;
            let text = read(&open(*input)?, "/etc/group")?;
            gid = line(&text, name).map_or(0, |fields| number(&fields, 2));
        }
        None => {}
    }
    Ok(Some((uid, gid)))
}

/// A name cannot be looked up where there is nothing, e.g. for `COPY --link` or on `scratch`.
fn refuse_empty(input: ActionInput, what: &str) -> Result<(), Failure> {
    match input {
        ActionInput::Empty => Err(Failure::user(format!("invalid {what} index: -1"))),
        ActionInput::Input(_) | ActionInput::Action(_) => Ok(()),
    }
}

fn read(root: &RootDir, path: &str) -> Result<String, Failure> {
    use std::io::Read as _;
    let mut text = Vec::new();
    match root.open_file(Path::new(path)) {
        Ok(file) => {
            file.take(MAX_FILE)
                .read_to_end(&mut text)
                .map_err(Failure::host)?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::host(error).context(format!("failed to read `{path}`"))),
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn line<'a>(text: &'a str, name: &str) -> Option<Vec<&'a str>> {
    text.lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name))
}

fn number(fields: &[&str], index: usize) -> u32 {
    fields
        .get(index)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(owner: &Owner) -> Option<(u32, u32)> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(
            dir.path().join("etc/passwd"),
            "root:x:0:0::/:\nweb:x:33:44::/:\n",
        )
        .unwrap();
        std::fs::write(dir.path().join("etc/group"), "staff:x:50:\n").unwrap();
        resolve(Some(owner), |_| Ok(RootDir::open(dir.path()).unwrap())).unwrap()
    }

    #[test]
    fn names_are_looked_up_and_unknown_ones_are_root() {
        let name = |n: &str| {
            Some(UserRef::ByName {
                name: n.into(),
                input: ActionInput::Input(0),
            })
        };
        assert_eq!(
            check(&Owner {
                user: name("web"),
                group: None
            }),
            Some((33, 44))
        );
        assert_eq!(
            check(&Owner {
                user: name("web"),
                group: name("staff")
            }),
            Some((33, 50))
        );
        assert_eq!(
            check(&Owner {
                user: name("nobody"),
                group: None
            }),
            Some((0, 0))
        );
        assert_eq!(
            check(&Owner {
                user: Some(UserRef::ById(7)),
                group: None
            }),
            Some((7, 7))
        );
    }
}
