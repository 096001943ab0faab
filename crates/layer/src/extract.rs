//! Putting the entries of a tar into a directory, whatever they say.
//!
//! Every name is looked up inside the root, parents included, so no entry, link or order of entries
//! reaches anything outside. How much an archive may make of itself is bounded by [`Limits`].

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use fstree::edit::EditError;
use rustix::fs::{Mode, Timespec, Timestamps};
use sys::root::{FileKind, Follow, RootDir, chown_file, set_xattr_of};

use crate::tar::{Header, Kind, ReadError, Reader};
use crate::write::{OPAQUE_MARK, OPAQUE_XATTR, WHITEOUT, is_portable};

/// With this attribute, empty, on a directory that has whiteouts in it, the kernel hides them also
/// where nothing is below the directory.
const ORIGIN_XATTR: &str = "trusted.overlay.origin";

/// The mode of directories that an archive uses but does not have.
const IMPLIED_DIR_MODE: u32 = 0o755;

/// How content is copied.
const BUFFER: usize = 256 * 1024;

/// What an archive may make of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many entries it may have.
    pub max_entries: u64,
    /// How many bytes it may have, and how many its files may have together.
    pub max_size: u64,
}

impl Default for Limits {
    /// Far more than the largest image layer in use, and still some bound: ten million entries,
    /// 1 TiB.
    fn default() -> Limits {
        Limits {
            max_entries: 10_000_000,
            max_size: 1 << 40,
        }
    }
}

/// Why an archive was not unpacked; some of it may have been.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It cannot be read.
    #[error(transparent)]
    Tar(#[from] ReadError),
    /// A path in it leads out of where it is unpacked.
    #[error("path `{}` in the archive leads outside", .0.display())]
    Outside(PathBuf),
    /// A deletion in it names nothing that could be deleted.
    #[error("invalid whiteout `{}` in the archive", .0.display())]
    Whiteout(PathBuf),
    /// It has more entries than allowed.
    #[error("archive has more than {0} entries")]
    TooManyEntries(u64),
    /// It is, or makes, more than allowed.
    #[error("archive has more than {0} bytes")]
    TooLarge(u64),
    /// The directory to unpack into cannot be made.
    #[error(transparent)]
    Destination(EditError),
    /// An entry cannot be made.
    #[error("{action} /{}", path.display())]
    Entry {
        /// What was done, as the system call is called.
        action: &'static str,
        /// The entry.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl UnpackError {
    pub(crate) fn entry(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> UnpackError {
        let path = path.strip_prefix("/").unwrap_or(path).to_owned();
        move |source| UnpackError::Entry {
            action,
            path,
            source,
        }
    }
}

/// What becomes of the entries.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    /// A layer in overlay form: deletions become whiteouts.
    Overlay,
    /// Files as they are, with this owner if there is one.
    Plain { owner: Option<(u32, u32)> },
}

pub(crate) struct Extractor<'a> {
    root: &'a RootDir,
    form: Form,
    limits: Limits,
    entries: u64,
    bytes: u64,
    /// The directory of the last entry, opened: entries of one directory come in a row.
    parent: Option<(PathBuf, RootDir)>,
    /// The times of directories, which are set when everything in them is there.
    times: Vec<(PathBuf, i64)>,
    /// Directories that were made because something is in them.
    pub(crate) implied: Vec<PathBuf>,
    buffer: Vec<u8>,
}

impl<'a> Extractor<'a> {
    pub(crate) fn new(root: &'a RootDir, form: Form, limits: Limits) -> Extractor<'a> {
        Extractor {
            root,
            form,
            limits,
            entries: 0,
            bytes: 0,
            parent: None,
            times: Vec::new(),
            implied: Vec::new(),
            buffer: Vec::new(),
        }
    }

    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    /// Unpacks all entries of `reader`.
    pub(crate) fn run<R: Read>(&mut self, reader: &mut Reader<R>) -> Result<(), UnpackError> {
        while let Some(header) = reader.next()? {
            self.entries += 1;
            if self.entries > self.limits.max_entries {
                return Err(UnpackError::TooManyEntries(self.limits.max_entries));
            }
            self.bytes = self.bytes.saturating_add(header.size);
            if self.bytes > self.limits.max_size {
                return Err(UnpackError::TooLarge(self.limits.max_size));
            }
            self.put(&header, reader)?;
        }
        // The innermost last made are the first done.
        for (path, time) in std::mem::take(&mut self.times).into_iter().rev() {
            match self.root.set_mtime(&path, time, Follow::No) {
                // Replaced by a later entry.
                Err(error) if is_missing(&error) => {}
                result => result.map_err(UnpackError::entry("utimensat", &path))?,
            }
        }
        Ok(())
    }

    /// The path from the root, without `.` and `..`. What would lead above the root stays at the root
    /// where files are just files, and is an error in a layer.
    fn inside(&self, path: &Path) -> Result<PathBuf, UnpackError> {
        let mut out = PathBuf::new();
        for part in path.components() {
            match part {
                Component::Normal(name) => out.push(name),
                Component::ParentDir if !out.pop() && matches!(self.form, Form::Overlay) => {
                    return Err(UnpackError::Outside(path.to_owned()));
                }
                _ => {}
            }
        }
        Ok(out)
    }

    fn put<R: Read>(&mut self, header: &Header, reader: &mut Reader<R>) -> Result<(), UnpackError> {
        let path = self.inside(&header.path)?;
        // The root is the caller's: its owner and mode are not the archive's to say.
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return Ok(());
        };
        let parent = path.parent().unwrap_or(Path::new("")).to_owned();
        if matches!(self.form, Form::Overlay) && is_aufs(&parent) {
            return Ok(());
        }
        if matches!(self.form, Form::Overlay)
            && let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT)
        {
            return self.put_mark(&path, &parent, name.as_bytes(), OsStr::from_bytes(hidden));
        }
        let failed = || UnpackError::entry(action(&header.kind), &path);
        let dir = match self.form {
            Form::Overlay => self.take_parent(&parent).map_err(failed())?,
            Form::Plain { .. } => self.take_plain_parent(&parent, &path, &header.kind)?,
        };
        let target = match &header.kind {
            Kind::HardLink(target) => Some(self.inside(target)?),
            _ => None,
        };
        let entry = Entry {
            header,
            dir: &dir,
            name: Path::new(&name),
            target,
        };
        let replaced = self.make(&entry, &path, reader).map_err(failed())?;
        if !replaced {
            self.parent = Some((parent, dir));
        }
        Ok(())
    }

    /// Makes an entry. Returns whether something was removed for it, so that what is known of
    /// directories may no longer hold.
    fn make<R: Read>(
        &mut self,
        entry: &Entry<'_>,
        path: &Path,
        reader: &mut Reader<R>,
    ) -> io::Result<bool> {
        let (dir, name) = (entry.dir, entry.name);
        match &entry.header.kind {
            Kind::File => {
                let (file, replaced) = create(dir, name, RootDir::create_private)?;
                self.copy(reader, &file)?;
                self.finish_file(entry.header, &file)?;
                Ok(replaced)
            }
            Kind::Dir => {
                let replaced = self.make_dir(dir, name)?;
                self.finish_by_name(entry)?;
                self.times.push((path.to_owned(), entry.header.mtime_ns));
                Ok(replaced)
            }
            Kind::HardLink(_) => {
                let target = entry.target.as_deref().unwrap_or(Path::new(""));
                // A whiteout is no file that could have another name.
                if self.root.stat(target, Follow::No)?.is_whiteout() {
                    return Err(io::ErrorKind::NotFound.into());
                }
                // A link to itself would remove what it links to.
                if target == path {
                    return Ok(false);
                }
                let link = |dir: &RootDir, name: &Path| dir.hard_link_from(self.root, target, name);
                let ((), replaced) = create(dir, name, link)?;
                // The file is what its last name says of it, as Docker has it.
                self.finish_by_name(entry)?;
                Ok(replaced)
            }
            Kind::Symlink(target) => {
                let link = |dir: &RootDir, name: &Path| dir.symlink(target, name);
                self.make_special(entry, link)
            }
            Kind::CharDevice(major, minor) => {
                let rdev = rustix::fs::makedev(*major, *minor);
                self.make_special(entry, |dir, name| {
                    dir.mknod(name, FileKind::CharDevice, 0, rdev)
                })
            }
            Kind::BlockDevice(major, minor) => {
                let rdev = rustix::fs::makedev(*major, *minor);
                self.make_special(entry, |dir, name| {
                    dir.mknod(name, FileKind::BlockDevice, 0, rdev)
                })
            }
            Kind::Fifo => {
                self.make_special(entry, |dir, name| dir.mknod(name, FileKind::Fifo, 0, 0))
            }
        }
    }

    fn make_special(
        &self,
        entry: &Entry<'_>,
        make: impl Fn(&RootDir, &Path) -> io::Result<()>,
    ) -> io::Result<bool> {
        let ((), replaced) = create(entry.dir, entry.name, make)?;
        self.finish_by_name(entry)?;
        entry
            .dir
            .set_mtime(entry.name, entry.header.mtime_ns, Follow::No)?;
        Ok(replaced)
    }

    /// Makes a directory, or leaves the one that is there.
    fn make_dir(&self, dir: &RootDir, name: &Path) -> io::Result<bool> {
        match dir.mkdir(name, IMPLIED_DIR_MODE) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => return result.map(|()| false),
        }
        let existing = dir.stat(name, Follow::No)?;
        if existing.kind == FileKind::Dir {
            return Ok(false);
        }
        dir.unlink(name)?;
        dir.mkdir(name, IMPLIED_DIR_MODE)?;
        if existing.is_whiteout() && matches!(self.form, Form::Overlay) {
            // The layer deletes what is below and puts a directory there: nothing of the old shows.
            dir.set_xattr(name, OsStr::new(OPAQUE_XATTR), b"y")?;
        }
        Ok(true)
    }

    /// A deletion: of the entry called `hidden`, or of everything below a directory.
    fn put_mark(
        &mut self,
        path: &Path,
        parent: &Path,
        name: &[u8],
        hidden: &OsStr,
    ) -> Result<(), UnpackError> {
        let failed = || UnpackError::entry("mknod", path);
        if name == OPAQUE_MARK {
            let dir = self.take_parent(parent).map_err(failed())?;
            let set = dir.set_xattr(Path::new("."), OsStr::new(OPAQUE_XATTR), b"y");
            set.map_err(failed())?;
            self.parent = Some((parent.to_owned(), dir));
            return Ok(());
        }
        // Other names that start so were AUFS's own, and mean nothing.
        if hidden.as_bytes().starts_with(WHITEOUT) {
            return Ok(());
        }
        if matches!(hidden.as_bytes(), b"" | b"." | b"..") {
            return Err(UnpackError::Whiteout(path.to_owned()));
        }
        let dir = self.take_parent(parent).map_err(failed())?;
        let hide = || -> io::Result<()> {
            dir.set_xattr(Path::new("."), OsStr::new(ORIGIN_XATTR), b"")?;
            let hidden = Path::new(hidden);
            match dir.mknod(hidden, FileKind::CharDevice, 0, 0) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => return result,
            }
            // A deletion is of what is below the layer: what the layer itself has stays.
            if dir.stat(hidden, Follow::No)?.kind == FileKind::Dir {
                dir.set_xattr(hidden, OsStr::new(OPAQUE_XATTR), b"y")?;
            }
            Ok(())
        };
        hide().map_err(failed())?;
        self.parent = Some((parent.to_owned(), dir));
        Ok(())
    }

    /// Opens the directory at `path`, which is made if it is missing.
    fn take_parent(&mut self, path: &Path) -> io::Result<RootDir> {
        if let Some((known, dir)) = self.parent.take()
            && known == path
        {
            return Ok(dir);
        }
        match self.root.open_dir(path) {
            Err(error) if is_missing(&error) => {}
            result => return result,
        }
        let mut at = PathBuf::new();
        for part in path.iter() {
            at.push(part);
            match self.root.stat(&at, Follow::Yes) {
                Ok(metadata) if metadata.kind == FileKind::Dir => continue,
                Ok(metadata) if metadata.is_whiteout() => {}
                Ok(_) => return Err(rustix::io::Errno::NOTDIR.into()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            self.make_dir(self.root, &at)?;
            self.implied.push(at.clone());
        }
        self.root.open_dir(path)
    }

    /// Opens the directory at `path` for `entry`, as Docker does: a link that leads nowhere is in the
    /// way of a directory, and is not replaced by one.
    fn take_plain_parent(
        &mut self,
        path: &Path,
        entry: &Path,
        kind: &Kind,
    ) -> Result<RootDir, UnpackError> {
        match self.parent.take() {
            Some((known, dir)) if known == path => return Ok(dir),
            _ => {}
        }
        let there = path.as_os_str().is_empty() || self.root.stat(path, Follow::No).is_ok();
        for part in prefixes(path).filter(|_| !there) {
            match self.root.mkdir(&part, IMPLIED_DIR_MODE) {
                Ok(()) => self.implied.push(part),
                Err(error) => {
                    let found = self.root.stat(&part, Follow::Yes);
                    if !found.is_ok_and(|metadata| metadata.kind == FileKind::Dir) {
                        return Err(UnpackError::entry("mkdir", &part)(error));
                    }
                }
            }
        }
        let opened = self.root.open_dir(path);
        opened.map_err(UnpackError::entry(action(kind), entry))
    }

    fn copy<R: Read>(&mut self, reader: &mut Reader<R>, mut file: &File) -> io::Result<()> {
        self.buffer.resize(BUFFER, 0);
        loop {
            match reader.read(&mut self.buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => file.write_all(&self.buffer[..read])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn owner(&self, header: &Header) -> (u32, u32) {
        match self.form {
            Form::Plain { owner: Some(owner) } => owner,
            Form::Plain { owner: None } | Form::Overlay => (header.uid, header.gid),
        }
    }

    /// Owner first: changing it takes away set-user-id and capabilities.
    fn finish_file(&self, header: &Header, file: &File) -> io::Result<()> {
        let (uid, gid) = self.owner(header);
        chown_file(file, uid, gid)?;
        for (name, value) in header.xattrs.iter().filter(|(name, _)| is_portable(name)) {
            allow_unsupported(set_xattr_of(file, name, value))?;
        }
        rustix::fs::fchmod(file, Mode::from_raw_mode(header.mode))?;
        let time = Timespec {
            tv_sec: header.mtime_ns.div_euclid(1_000_000_000),
            tv_nsec: header.mtime_ns.rem_euclid(1_000_000_000),
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        Ok(rustix::fs::futimens(file, &times)?)
    }

    fn finish_by_name(&self, entry: &Entry<'_>) -> io::Result<()> {
        let (dir, name, header) = (entry.dir, entry.name, entry.header);
        let (uid, gid) = self.owner(header);
        dir.chown(name, uid, gid, Follow::No)?;
        for (xattr, value) in header.xattrs.iter().filter(|(name, _)| is_portable(name)) {
            allow_unsupported(dir.set_xattr(name, xattr, value))?;
        }
        match header.kind {
            Kind::Symlink(_) => Ok(()),
            Kind::HardLink(_) if dir.stat(name, Follow::No)?.kind == FileKind::Symlink => Ok(()),
            _ => dir.chmod(name, header.mode),
        }
    }
}

/// An entry with the directory that it goes into.
struct Entry<'a> {
    header: &'a Header,
    dir: &'a RootDir,
    name: &'a Path,
    /// What it is another name of.
    target: Option<PathBuf>,
}

/// Makes something under `name`, in place of what is there. Returns whether there was something.
fn create<T>(
    dir: &RootDir,
    name: &Path,
    make: impl Fn(&RootDir, &Path) -> io::Result<T>,
) -> io::Result<(T, bool)> {
    match make(dir, name) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => return result.map(|made| (made, false)),
    }
    dir.remove_all(name)?;
    Ok((make(dir, name)?, true))
}

/// Some filesystems have no attributes, and some kinds of file cannot have some.
fn allow_unsupported(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::Unsupported
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::InvalidInput
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}

pub(crate) fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Whether a path is in one of AUFS's own directories, which layers made long ago may have.
fn is_aufs(path: &Path) -> bool {
    path.iter().any(|part| {
        part.as_bytes()
            .strip_prefix(WHITEOUT)
            .is_some_and(|rest| rest.starts_with(WHITEOUT))
    })
}

/// `path` from its first component on, one more each time.
fn prefixes(path: &Path) -> impl Iterator<Item = PathBuf> {
    let mut all: Vec<PathBuf> = path.ancestors().map(Path::to_owned).collect();
    all.retain(|path| !path.as_os_str().is_empty());
    all.into_iter().rev()
}

/// The system call that makes an entry.
fn action(kind: &Kind) -> &'static str {
    match kind {
        Kind::File => "open",
        Kind::Dir => "mkdir",
        Kind::Symlink(_) => "symlink",
        Kind::HardLink(_) => "link",
        Kind::CharDevice(..) | Kind::BlockDevice(..) | Kind::Fifo => "mknod",
    }
}
