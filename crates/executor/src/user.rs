//! Users and groups as the files of an image know them.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use sys::root::RootDir;

/// Files longer than this are not read: no list of users is, and a line is kept in memory.
const MAX_FILE_BYTES: u64 = 10 << 20;
/// User and group ids have 31 bits, as in Docker.
const MAX_ID: u32 = 0x7fff_ffff;

/// A user a process can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserIds {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// All groups, the first among them `gid`.
    pub groups: Vec<u32>,
    /// Home directory, if the image's `/etc/passwd` has the user.
    pub home: Option<String>,
}

/// Why a user is not known.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such name.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    /// No such group.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    /// A number too large.
    #[error("uids and gids must be in range 0-2147483647")]
    Range,
    /// A file that is there cannot be read.
    #[error("failed to read `{path}` of the image")]
    Read {
        /// The file.
        path: &'static str,
        /// Cause.
        source: io::Error,
    },
}

/// Finds `user`, which is `name`, `uid`, or either with `:group` or `:gid`; empty is root.
///
/// Numbers need not be in the image's files. Without a group the user's own groups count: the one in
/// `/etc/passwd` and those of `/etc/group` that list the name.
pub fn lookup(root: &RootDir, user: &str) -> Result<UserIds, UserError> {
    let (name, group) = user.split_once(':').unwrap_or((user, ""));
    let direct = |text: &str| {
        if text == "root" {
            Some(0)
        } else {
            number(text)
        }
    };
    if let (Some(uid), Some(gid)) = (direct(name), direct(group)) {
        let (uid, gid) = (in_range(uid)?, in_range(gid)?);
        return Ok(UserIds {
            uid,
            gid,
            groups: vec![gid],
            home: home(root, uid),
        });
    }
    let name = if name.is_empty() { "0" } else { name };
    let uid = number(name);
    let wanted = |entry: &Passwd| uid.map_or(entry.name == name, |uid| i64::from(entry.uid) == uid);
    let found = passwd(root)?.find(wanted);
    let mut ids = match (&found, uid) {
        (Some(entry), _) => UserIds {
            uid: entry.uid,
            gid: entry.gid,
            groups: Vec::new(),
            home: Some(entry.home.clone()),
        },
        (None, Some(uid)) => UserIds {
            uid: in_range(uid)?,
            gid: 0,
            groups: Vec::new(),
            home: None,
        },
        (None, None) => return Err(UserError::NoUser(name.to_owned())),
    };
    if !group.is_empty() {
        ids.gid = find_group(root, group)?;
    } else if let Some(entry) = &found {
        let member = |group: &Group| group.members.contains(&entry.name);
        ids.groups = groups(root)?
            .filter(member)
            .map(|group| group.gid)
            .collect();
    }
    ids.groups.retain(|gid| *gid != ids.gid);
    ids.groups.insert(0, ids.gid);
    Ok(ids)
}

fn find_group(root: &RootDir, group: &str) -> Result<u32, UserError> {
    let gid = number(group);
    let wanted = |entry: &Group| gid.map_or(entry.name == group, |gid| i64::from(entry.gid) == gid);
    match (groups(root)?.find(wanted), gid) {
        (Some(entry), _) => Ok(entry.gid),
        (None, Some(gid)) => in_range(gid),
        (None, None) => Err(UserError::NoGroup(group.to_owned())),
    }
}

/// `text` as a number, which may be no id.
fn number(text: &str) -> Option<i64> {
    text.parse().ok()
}

fn in_range(id: i64) -> Result<u32, UserError> {
    match u32::try_from(id) {
        Ok(id) if id <= MAX_ID => Ok(id),
        Ok(_) | Err(_) => Err(UserError::Range),
    }
}

/// The home directory of `uid`, if the image's `/etc/passwd` can be read and has one.
pub(crate) fn home(root: &RootDir, uid: u32) -> Option<String> {
    let entry = passwd(root).ok()?.find(|entry| entry.uid == uid)?;
    Some(entry.home).filter(|home| !home.is_empty())
}

/// `name:password:uid:gid:comment:home:shell`
struct Passwd {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// `name:password:gid:member,member…`
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Lines count for what they have: an id that is missing or no number is 0, as it is for Docker.
fn passwd(root: &RootDir) -> Result<impl Iterator<Item = Passwd>, UserError> {
    let parse = |line: String| {
        let fields: Vec<&str> = line.trim().split(':').collect();
        let text = |index: usize| fields.get(index).copied().unwrap_or_default();
        (!line.trim().is_empty()).then(|| Passwd {
            name: text(0).to_owned(),
            uid: text(2).parse().unwrap_or(0),
            gid: text(3).parse().unwrap_or(0),
            home: text(5).to_owned(),
        })
    };
    Ok(lines(root, "/etc/passwd")?.filter_map(parse))
}

/// As for users; lines that start with `#` are comments.
fn groups(root: &RootDir) -> Result<impl Iterator<Item = Group>, UserError> {
    let parse = |line: String| {
        let line = line.trim();
        let fields: Vec<&str> = line.split(':').collect();
        let text = |index: usize| fields.get(index).copied().unwrap_or_default();
        (!line.is_empty() && !line.starts_with('#')).then(|| Group {
            name: text(0).to_owned(),
            gid: text(2).parse().unwrap_or(0),
            members: text(3).split(',').map(str::to_owned).collect(),
        })
    };
    Ok(lines(root, "/etc/group")?.filter_map(parse))
}

/// The lines of a file; none where there is no such file. Lines that are not text are left out.
fn lines(root: &RootDir, path: &'static str) -> Result<impl Iterator<Item = String>, UserError> {
    let file = match root.open_file(Path::new(path)) {
        Ok(file) => Some(file),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            None
        }
        Err(source) => return Err(UserError::Read { path, source }),
    };
    let reader = file.map(|file| BufReader::new(file.take(MAX_FILE_BYTES)));
    let lines = reader
        .into_iter()
        .flat_map(|reader| reader.split(b'\n').map_while(Result::ok));
    Ok(lines.filter_map(|line| String::from_utf8(line).ok()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
# no entry
broken:x:none:7
app:x:1000:1001:App,,,:/home/app:/bin/sh
bare:x:2000:2000
";
    const GROUP: &str = "\
root:x:0:
wheel:x:10:root,app
app:x:1001:
docker:x:999:app,other
77:x:5000:
";

    fn image() -> (tempfile::TempDir, RootDir) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/passwd"), PASSWD).unwrap();
        fs::write(dir.path().join("etc/group"), GROUP).unwrap();
        let root = RootDir::open(dir.path()).unwrap();
        (dir, root)
    }

    fn check(user: &str, expected: &str) {
        let (_dir, root) = image();
        let shown = match lookup(&root, user) {
            Ok(UserIds {
                uid,
                gid,
                groups,
                home,
            }) => {
                format!("{uid}:{gid} {groups:?} {}", home.as_deref().unwrap_or("-"))
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expected, "{user}");
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        check("", "0:0 [0, 10] /root");
        check("root", "0:0 [0, 10] /root");
        check("app", "1000:1001 [1001, 10, 999] /home/app");
        check("1000", "1000:1001 [1001, 10, 999] /home/app");
        check("bare", "2000:2000 [2000] ");
        check("broken", "0:7 [7] ");
        check("4242", "4242:0 [0] -");
        check(
            "nosuch",
            "unable to find user nosuch: no matching entries in passwd file",
        );
        check("3000000000", "uids and gids must be in range 0-2147483647");
    }

    #[test]
    fn a_group_replaces_the_users_own() {
        check("app:docker", "1000:999 [999] /home/app");
        check("app:4000", "1000:4000 [4000] /home/app");
        check("app:77", "1000:77 [77] /home/app");
        check("4242:wheel", "4242:10 [10] -");
        check("1:2", "1:2 [2] -");
        check(
            "app:nosuch",
            "unable to find group nosuch: no matching entries in group file",
        );
        check(
            "1:3000000000",
            "uids and gids must be in range 0-2147483647",
        );
    }

    #[test]
    fn an_image_without_files_has_numbers_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = RootDir::open(dir.path()).unwrap();
        assert_eq!(lookup(&root, "").unwrap().groups, [0]);
        assert_eq!(lookup(&root, "7").unwrap().uid, 7);
        assert!(lookup(&root, "app").is_err());
    }

    #[test]
    fn a_passwd_that_links_out_of_the_image_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("etc/passwd")).unwrap();
        let root = RootDir::open(dir.path()).unwrap();
        // Inside the image the link leads to itself.
        assert!(matches!(
            lookup(&root, "nobody"),
            Err(UserError::Read { .. })
        ));
    }
}
