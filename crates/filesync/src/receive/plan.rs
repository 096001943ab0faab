//! Comparing the list with the directory: what to remove, make and ask for.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::io;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fstree::walk::{Entry, Walk, WalkOptions, walk};
use sys::root::{FileKind, Follow, Metadata, RootDir};
use tokio::sync::mpsc;

use super::metadata::MetadataOnly;
use super::write::{Expected, Work, may_set};
use super::{Differ, METADATA_FILE, ReceiveError, ReceiveOptions, Received, writer_of};
use crate::order::{Order, check};
use crate::split::Survey;
use crate::wire::{Kind, Packet, Stat};

/// Set-group-id on a directory: what is made in it gets its group.
const SETGID: u32 = 0o2000;

/// The list, as it arrives.
pub(super) enum Listed {
    /// Entries with their positions.
    Entries(Vec<(u32, Stat)>),
    /// It is complete.
    End,
}

/// Decides on one entry after the other.
pub(super) struct Planner {
    root: Arc<RootDir>,
    differ: Differ,
    owner: Option<(u32, u32)>,
    /// Who owns what this process makes.
    own: (u32, u32),
    order: Order,
    /// What is there, in the order of the list. None if what is not in the list stays.
    existing: Option<Peekable<Walk>>,
    /// The directories on the way to the last entry, the root first.
    parents: Vec<Parent>,
    /// All directories of the list.
    dirs: Vec<Dir>,
    /// Hard links, made when all files are there.
    links: Vec<Link>,
    metadata_only: Option<MetadataOnly>,
    outbox: Outbox,
    survey: Option<Survey>,
    received: Received,
}

struct Parent {
    path: PathBuf,
    setgid: bool,
    /// Index into `dirs`; none for the root.
    dir: Option<usize>,
}

struct Dir {
    path: PathBuf,
    mtime_ns: i64,
    /// Whether its time of change is another, or becomes another since something in it changes.
    touched: bool,
}

struct Link {
    path: PathBuf,
    target: PathBuf,
    dir: Option<usize>,
}

/// What is asked for, until it is handed on.
struct Outbox {
    writers: Vec<mpsc::Sender<Work>>,
    expected: Vec<Vec<Expected>>,
    outgoing: mpsc::UnboundedSender<Vec<Packet>>,
    requests: Vec<Packet>,
}

impl Planner {
    pub(super) fn new(
        root: Arc<RootDir>,
        options: &ReceiveOptions,
        writers: Vec<mpsc::Sender<Work>>,
        outgoing: mpsc::UnboundedSender<Vec<Packet>>,
    ) -> Planner {
        let expected = writers.iter().map(|_| Vec::new()).collect();
        let own = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        Planner {
            root,
            differ: options.differ,
            owner: options.owner,
            own,
            order: Order::default(),
            existing: None,
            parents: Vec::new(),
            dirs: Vec::new(),
            links: Vec::new(),
            metadata_only: options.metadata_only.clone().map(MetadataOnly::new),
            outbox: Outbox {
                writers,
                expected,
                outgoing,
                requests: Vec::new(),
            },
            survey: options.survey.map(Survey::new),
            received: Received::default(),
        }
    }

    /// Works through the list, waits until the data is there too, and tells the sender.
    pub(super) fn run(
        mut self,
        keep: bool,
        mut list: mpsc::Receiver<Listed>,
        mut written: mpsc::Receiver<()>,
    ) -> Result<Received, ReceiveError> {
        if !keep {
            self.existing = Some(walk(&self.root, &WalkOptions::default())?.peekable());
        }
        let root = self.stat(Path::new(""))?;
        let setgid = root.is_some_and(|root| root.mode & SETGID != 0);
        self.parents.push(Parent {
            path: PathBuf::new(),
            setgid,
            dir: None,
        });
        loop {
            match list.blocking_recv() {
                Some(Listed::Entries(entries)) => {
                    for (id, stat) in entries {
                        self.entry(id, stat)?;
                    }
                    self.outbox.flush()?;
                }
                Some(Listed::End) => break,
                None => return Err(ReceiveError::Ended),
            }
        }
        self.remove_rest()?;
        let writers = std::mem::take(&mut self.outbox.writers);
        for writer in &writers {
            writer
                .blocking_send(Work::Last)
                .map_err(|_| ReceiveError::Lost)?;
        }
        let count = writers.len();
        drop(writers);
        for _ in 0..count {
            written.blocking_recv().ok_or(ReceiveError::Lost)?;
        }
        self.make_links()?;
        self.set_times()?;
        if let Some(metadata) = self.metadata_only.take() {
            let failed = |source| write_error(Path::new(METADATA_FILE), source);
            metadata.write(&self.root).map_err(failed)?;
        }
        drop(self.outbox.outgoing.send(vec![Packet::of(Kind::Finish)]));
        self.received.split = self.survey.and_then(Survey::split);
        Ok(self.received)
    }

    fn entry(&mut self, id: u32, mut stat: Stat) -> Result<(), ReceiveError> {
        let path = stat.path().to_owned();
        let is_dir = stat.kind() == Some(FileKind::Dir);
        self.order
            .next(&path, is_dir)
            .map_err(|error| ReceiveError::order(path.clone(), error))?;
        self.received.entries += 1;
        if let Some(survey) = &mut self.survey {
            survey.entry(&path, &stat);
        }
        if let Some((uid, gid)) = self.owner {
            (stat.uid, stat.gid) = (uid, gid);
        }
        let Some(metadata) = &mut self.metadata_only else {
            return self.apply(id, path, stat);
        };
        for (id, stat) in metadata.entry(id, stat) {
            self.apply(id, stat.path().to_owned(), stat)?;
        }
        Ok(())
    }

    fn apply(&mut self, id: u32, path: PathBuf, stat: Stat) -> Result<(), ReceiveError> {
        let existing = self.existing(&path)?;
        let parent = path.parent().unwrap_or(Path::new(""));
        while self.parents.len() > 1 && self.parents.last().is_some_and(|dir| dir.path != parent) {
            self.parents.pop();
        }
        let same = existing
            .as_ref()
            .is_some_and(|existing| self.same(existing, &stat));
        match stat.kind() {
            Some(FileKind::Dir) => self.dir(path, stat, existing, same),
            Some(FileKind::File) if !stat.link.is_empty() => self.link(path, &stat, existing),
            Some(_) if same => Ok(()),
            Some(FileKind::File) => self.file(id, path, stat, existing),
            Some(kind) => self.special(path, &stat, kind, existing),
            None => Err(refused(&path, "its kind is not known")),
        }
    }

    /// What is at `path`, after everything before it that is not in the list was removed.
    fn existing(&mut self, path: &Path) -> Result<Option<Entry>, ReceiveError> {
        if self.existing.is_none() {
            let found = self.stat(path)?;
            return Ok(found.map(|metadata| Entry {
                path: path.to_owned(),
                metadata,
                link: None,
                hardlink_to: None,
                xattrs: Default::default(),
            }));
        }
        loop {
            match self.next_existing(|existing| existing.cmp(path) != Ordering::Greater)? {
                Some(entry) if entry.path == path => return Ok(Some(entry)),
                Some(entry) => self.remove(&entry.path)?,
                None => return Ok(None),
            }
        }
    }

    /// Removes what is behind the last entry of the list.
    fn remove_rest(&mut self) -> Result<(), ReceiveError> {
        while let Some(entry) = self.next_existing(|_| true)? {
            self.remove(&entry.path)?;
        }
        Ok(())
    }

    /// The next of what is there if `wanted`.
    fn next_existing(
        &mut self,
        wanted: impl Fn(&Path) -> bool,
    ) -> Result<Option<Entry>, ReceiveError> {
        let metadata_only = self.metadata_only.is_some();
        let Some(existing) = &mut self.existing else {
            return Ok(None);
        };
        let next = existing.next_if(|entry| match entry {
            Ok(entry) => wanted(&entry.path),
            Err(_) => true,
        });
        match next.transpose()? {
            // Made by the last transfer and written anew by this one.
            Some(entry) if metadata_only && entry.path == Path::new(METADATA_FILE) => {
                self.next_existing(wanted)
            }
            next => Ok(next),
        }
    }

    /// Removes what is not in the list.
    fn remove(&mut self, path: &Path) -> Result<(), ReceiveError> {
        self.clear(path)?;
        // The last entry's parents need not be this one's: the list may have gone on.
        let parent = path.parent().unwrap_or(Path::new(""));
        if let Some(dir) = self.dirs.iter_mut().rev().find(|dir| dir.path == parent) {
            dir.touched = true;
        }
        self.received.removed.push(path.to_owned());
        Ok(())
    }

    /// Removes what is at `path` for something that is no directory, if it is one; answers that.
    /// Whoever has a copy of it must be told: what was below it is named nowhere else.
    fn replace_dir(&mut self, path: &Path, existing: Option<&Entry>) -> Result<bool, ReceiveError> {
        let is_dir = existing.is_some_and(|existing| existing.metadata.kind == FileKind::Dir);
        if is_dir {
            self.clear(path)?;
            self.received.removed.push(path.to_owned());
        }
        Ok(is_dir)
    }

    /// Removes what is at `path` and forgets what was seen below it.
    fn clear(&mut self, path: &Path) -> Result<(), ReceiveError> {
        self.root
            .remove_all(path)
            .map_err(|source| write_error(path, source))?;
        while self
            .next_existing(|existing| existing.starts_with(path))?
            .is_some()
        {}
        Ok(())
    }

    fn same(&self, existing: &Entry, stat: &Stat) -> bool {
        let found = Stat::from(existing.clone());
        // Of a directory the time does not count, nor how files are compared.
        let same_content = existing.metadata.kind == FileKind::Dir
            || (self.differ == Differ::Metadata && self.existing.is_some())
                && found.size == stat.size
                && found.mtime_ns == stat.mtime_ns;
        same_content
            && found.mode == stat.mode
            && (found.uid, found.gid) == (stat.uid, stat.gid)
            && found.link == stat.link
            && found.device_major == stat.device_major
            && found.device_minor == stat.device_minor
    }

    fn dir(
        &mut self,
        path: PathBuf,
        stat: Stat,
        existing: Option<Entry>,
        same: bool,
    ) -> Result<(), ReceiveError> {
        let stays = existing.filter(|existing| existing.metadata.kind == FileKind::Dir);
        if !same {
            let made = stays.is_none();
            if made {
                self.clear(&path)?;
                self.touch();
            }
            let write = || {
                let mode = stat.permissions();
                if made {
                    self.root.mkdir(&path, mode)?;
                }
                if !made || self.needs_chown(&stat) {
                    self.root.chown(&path, stat.uid, stat.gid, Follow::No)?;
                    self.root.chmod(&path, mode)?;
                }
                self.set_xattrs(&path, &stat)
            };
            write().map_err(|source| write_error(&path, source))?;
            self.received.changed.push(path.clone());
        }
        let touched = stays.is_none_or(|existing| existing.metadata.mtime_ns != stat.mtime_ns);
        if same && touched {
            self.received.retimed.push(path.clone());
        }
        self.parents.push(Parent {
            path: path.clone(),
            setgid: stat.permissions() & SETGID != 0,
            dir: Some(self.dirs.len()),
        });
        self.dirs.push(Dir {
            path,
            mtime_ns: stat.mtime_ns,
            touched,
        });
        Ok(())
    }

    fn file(
        &mut self,
        id: u32,
        path: PathBuf,
        stat: Stat,
        existing: Option<Entry>,
    ) -> Result<(), ReceiveError> {
        let replace = existing.is_some() && !self.replace_dir(&path, existing.as_ref())?;
        self.touch();
        self.received.changed.push(path);
        let chown = self.needs_chown(&stat);
        self.outbox.ask(Expected {
            id,
            stat,
            replace,
            chown,
        });
        Ok(())
    }

    fn link(
        &mut self,
        path: PathBuf,
        stat: &Stat,
        existing: Option<Entry>,
    ) -> Result<(), ReceiveError> {
        let target = stat.link().to_owned();
        if check(&target).is_err() || target >= path {
            return Err(refused(&path, "it is a link to what was not listed before"));
        }
        self.replace_dir(&path, existing.as_ref())?;
        let dir = self.parents.last().and_then(|parent| parent.dir);
        self.links.push(Link { path, target, dir });
        Ok(())
    }

    /// Symbolic links, devices and pipes: all that is there at once.
    fn special(
        &mut self,
        path: PathBuf,
        stat: &Stat,
        kind: FileKind,
        existing: Option<Entry>,
    ) -> Result<(), ReceiveError> {
        let device = stat
            .device()
            .ok_or_else(|| refused(&path, "its device has no number"))?;
        if kind == FileKind::CharDevice && device == 0 {
            // An overlay whiteout: where layers are stacked it shows as nothing, and it must not
            // hide what another layer has.
            return match existing {
                Some(_) => self.remove(&path),
                None => Ok(()),
            };
        }
        if existing.is_some() && !self.replace_dir(&path, existing.as_ref())? {
            self.clear(&path)?;
        }
        self.touch();
        let write = || {
            if kind == FileKind::Symlink {
                self.root.symlink(stat.link(), &path)?;
            } else {
                self.root.mknod(&path, kind, stat.permissions(), device)?;
            }
            if self.needs_chown(stat) {
                self.root.chown(&path, stat.uid, stat.gid, Follow::No)?;
                self.root.chmod(&path, stat.permissions())?;
            }
            self.set_xattrs(&path, stat)?;
            self.root.set_mtime(&path, stat.mtime_ns, Follow::No)
        };
        write().map_err(|source| write_error(&path, source))?;
        self.received.changed.push(path);
        Ok(())
    }

    fn set_xattrs(&self, path: &Path, stat: &Stat) -> io::Result<()> {
        for (name, value) in stat.xattrs.iter().filter(|(name, _)| may_set(name)) {
            super::write::forgive(self.root.set_xattr(path, OsStr::new(name), value))?;
        }
        Ok(())
    }

    fn make_links(&mut self) -> Result<(), ReceiveError> {
        for link in std::mem::take(&mut self.links) {
            let target = self.stat(&link.target)?;
            let target = target
                .filter(|target| target.kind != FileKind::Dir)
                .ok_or_else(|| refused(&link.path, "it is a link to an unknown path"))?;
            let existing = self.stat(&link.path)?;
            if existing.is_some_and(|found| (found.dev, found.ino) == (target.dev, target.ino)) {
                continue;
            }
            let write = || {
                if existing.is_some() {
                    self.root.unlink(&link.path)?;
                }
                self.root.hard_link(&link.target, &link.path)
            };
            write().map_err(|source| write_error(&link.path, source))?;
            if let Some(dir) = link.dir {
                self.dirs[dir].touched = true;
            }
            self.received.changed.push(link.path);
        }
        Ok(())
    }

    fn set_times(&self) -> Result<(), ReceiveError> {
        for dir in self.dirs.iter().filter(|dir| dir.touched) {
            let set = self.root.set_mtime(&dir.path, dir.mtime_ns, Follow::No);
            set.map_err(|source| write_error(&dir.path, source))?;
        }
        Ok(())
    }

    fn needs_chown(&self, stat: &Stat) -> bool {
        (stat.uid, stat.gid) != self.own || self.parents.last().is_some_and(|dir| dir.setgid)
    }

    /// Something in the directory of the last entry changes.
    fn touch(&mut self) {
        if let Some(dir) = self.parents.last().and_then(|parent| parent.dir) {
            self.dirs[dir].touched = true;
        }
    }

    fn stat(&self, path: &Path) -> Result<Option<Metadata>, ReceiveError> {
        match self.root.stat(path, Follow::No) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(write_error(path, source)),
        }
    }
}

impl Outbox {
    fn ask(&mut self, file: Expected) {
        self.requests.push(Packet::request(file.id));
        self.expected[writer_of(file.id, self.writers.len())].push(file);
    }

    fn flush(&mut self) -> Result<(), ReceiveError> {
        if self.requests.is_empty() {
            return Ok(());
        }
        // A writer must know of a file before its data can arrive.
        for (writer, expected) in self.writers.iter().zip(&mut self.expected) {
            if !expected.is_empty() {
                let work = Work::Expect(std::mem::take(expected));
                writer.blocking_send(work).map_err(|_| ReceiveError::Lost)?;
            }
        }
        // A sender that is gone is found where its packets are read.
        drop(self.outgoing.send(std::mem::take(&mut self.requests)));
        Ok(())
    }
}

fn refused(path: &Path, reason: &str) -> ReceiveError {
    ReceiveError::Entry {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

fn write_error(path: &Path, source: io::Error) -> ReceiveError {
    ReceiveError::Write {
        path: path.to_owned(),
        source,
    }
}
