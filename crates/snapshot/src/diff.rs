//! The difference between two trees, in overlay form.

use std::cmp::Ordering;
use std::ffi::{CStr, CString};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, Stat};

use crate::copy::{self, Links, Transfer};
use crate::tree::{self, Item, Xattrs};

/// How files are compared and carried over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// How a file that differs gets into the layer.
    pub(crate) transfer: Transfer,
    /// A file whose inode changed at or after this time, in nanoseconds since 1970, is compared byte
    /// by byte even if its size and time of change say that it is the same.
    pub(crate) suspect_since_ns: Option<i128>,
}

/// Fills the empty directory `target` with a layer that turns `lower` into `upper`; both are plain
/// trees without whiteouts.
///
/// Files differ when their kind, mode, owner, device, link target, extended attributes, size or time
/// of change differ. As in containerd, the content is read only where the times of both have no
/// fraction of a second and so may have been cut (by a tar).
pub(crate) fn diff(
    lower: &OwnedFd,
    upper: &OwnedFd,
    target: &OwnedFd,
    options: Options,
) -> io::Result<()> {
    let mut links = Links::new(target, options.transfer)?;
    let root = Level::enter(
        lower.try_clone()?,
        upper.try_clone()?,
        CString::default(),
        Vec::new(),
    )?;
    let mut walk = Walk {
        levels: vec![root],
        target: target.try_clone()?,
        options,
    };
    while let Some(level) = walk.levels.last_mut() {
        match level.pairs.pop() {
            Some(pair) => walk.pair(pair, &mut links)?,
            None => walk.leave()?,
        }
    }
    Ok(())
}

/// One name in either or both trees.
enum Pair {
    Lower(Item),
    Upper(Item),
    Both { lower: Item, upper: Item },
}

/// A directory that is in both trees.
struct Level {
    name: CString,
    /// Below the target.
    path: Vec<u8>,
    lower: OwnedFd,
    upper: OwnedFd,
    pairs: Vec<Pair>,
    /// The directory in the layer, made when there is something to put into it.
    made: Option<OwnedFd>,
    whiteouts: bool,
}

struct Walk {
    levels: Vec<Level>,
    target: OwnedFd,
    options: Options,
}

impl Level {
    fn enter(lower: OwnedFd, upper: OwnedFd, name: CString, path: Vec<u8>) -> io::Result<Level> {
        let pairs = pairs(tree::list(&lower)?, tree::list(&upper)?);
        Ok(Level {
            name,
            path,
            lower,
            upper,
            pairs,
            made: None,
            whiteouts: false,
        })
    }
}

fn pairs(mut lower: Vec<Item>, mut upper: Vec<Item>) -> Vec<Pair> {
    lower.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    upper.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let mut pairs = Vec::with_capacity(upper.len());
    let (mut lower, mut upper) = (lower.into_iter().peekable(), upper.into_iter().peekable());
    loop {
        let order = match (lower.peek(), upper.peek()) {
            (Some(a), Some(b)) => a.name.cmp(&b.name),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return pairs,
        };
        let from_lower = if order.is_le() { lower.next() } else { None };
        let from_upper = if order.is_ge() { upper.next() } else { None };
        pairs.extend(match (from_lower, from_upper) {
            (Some(lower), Some(upper)) => Some(Pair::Both { lower, upper }),
            (Some(lower), None) => Some(Pair::Lower(lower)),
            (None, Some(upper)) => Some(Pair::Upper(upper)),
            (None, None) => None,
        });
    }
}

impl Walk {
    fn pair(&mut self, pair: Pair, links: &mut Links) -> io::Result<()> {
        match pair {
            Pair::Lower(item) => {
                let made = self.make()?;
                tree::make_whiteout(made, &item.name)?;
                if let Some(level) = self.levels.last_mut() {
                    level.whiteouts = true;
                }
                Ok(())
            }
            Pair::Upper(item) => self.add(&item, false, links),
            Pair::Both { lower, upper } => {
                let is_dir = |item: &Item| item.kind == FileType::Directory;
                match (is_dir(&lower), is_dir(&upper)) {
                    (true, true) => self.descend(upper.name),
                    (false, true) => self.add(&upper, true, links),
                    (_, false) if self.same(&upper.name)? => Ok(()),
                    (_, false) => self.add(&upper, false, links),
                }
            }
        }
    }

    /// Carries over what is new or different.
    fn add(&mut self, item: &Item, replaces: bool, links: &mut Links) -> io::Result<()> {
        let made = self.make()?.try_clone()?;
        let Some(level) = self.levels.last() else {
            return Ok(());
        };
        if item.kind != FileType::Directory {
            return links.node(&level.upper, &made, &level.path, &item.name);
        }
        let from = tree::open_dir(&level.upper, &item.name)?;
        let to = tree::make_dir(&made, &item.name)?;
        if replaces {
            tree::set_opaque(&to)?;
        }
        copy::below(from, to, copy::join(&level.path, &item.name), links)
    }

    fn descend(&mut self, name: CString) -> io::Result<()> {
        let Some(level) = self.levels.last() else {
            return Ok(());
        };
        let lower = tree::open_dir(&level.lower, &name)?;
        let upper = tree::open_dir(&level.upper, &name)?;
        let path = copy::join(&level.path, &name);
        let changed = !same_dir(&lower, &upper)?;
        self.levels.push(Level::enter(lower, upper, name, path)?);
        if changed {
            self.make()?;
        }
        Ok(())
    }

    /// The directory of the layer that stands for the current level, made with those above it.
    fn make(&mut self) -> io::Result<&OwnedFd> {
        let first = self
            .levels
            .iter()
            .rposition(|level| level.made.is_some())
            .map_or(0, |at| at + 1);
        for at in first..self.levels.len() {
            let made = match at
                .checked_sub(1)
                .and_then(|above| self.levels[above].made.as_ref())
            {
                Some(above) => tree::make_dir(above, &self.levels[at].name)?,
                None => self.target.try_clone()?,
            };
            self.levels[at].made = Some(made);
        }
        let made = self.levels.last().and_then(|level| level.made.as_ref());
        made.ok_or_else(|| io::Error::other("no directory to make"))
    }

    fn leave(&mut self) -> io::Result<()> {
        let Some(level) = self.levels.pop() else {
            return Ok(());
        };
        let Some(made) = level.made else {
            return Ok(());
        };
        tree::copy_dir_metadata(&level.upper, &made)?;
        if level.whiteouts {
            tree::announce_whiteouts(&made)?;
        }
        tree::copy_times(&level.upper, &made)
    }

    /// Whether `name`, not a directory in the upper tree, is the same in both.
    fn same(&self, name: &CStr) -> io::Result<bool> {
        let Some(Level { lower, upper, .. }) = self.levels.last() else {
            return Ok(false);
        };
        let (a, b) = (tree::stat(lower, name)?, tree::stat(upper, name)?);
        let suspect = self
            .options
            .suspect_since_ns
            .is_some_and(|since| ctime_ns(&b) >= since);
        if a.st_ino == b.st_ino && a.st_ctime == b.st_ctime && a.st_ctime_nsec == b.st_ctime_nsec {
            // The same file seen through two mounts: even two files of one number on different
            // disks would hardly have changed in the same nanosecond.
            return Ok(a.st_size == b.st_size);
        }
        if !same_stat(&a, &b) || !same_xattrs(&Xattrs::at(lower, name), &Xattrs::at(upper, name))? {
            return Ok(false);
        }
        match FileType::from_raw_mode(a.st_mode) {
            FileType::RegularFile => {
                let cut = a.st_mtime_nsec == 0 && b.st_mtime_nsec == 0;
                Ok(!(cut || suspect) || same_content(lower, upper, name)?)
            }
            FileType::Symlink => {
                let target = |dir| rustix::fs::readlinkat(dir, name, Vec::new());
                Ok(target(lower)? == target(upper)?)
            }
            _ => Ok(true),
        }
    }
}

fn ctime_ns(stat: &Stat) -> i128 {
    i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec)
}

/// Whether two files that are not directories agree in all that `stat` tells and a layer keeps.
fn same_stat(a: &Stat, b: &Stat) -> bool {
    let owner = |stat: &Stat| {
        (
            stat.st_mode,
            stat.st_uid,
            stat.st_gid,
            stat.st_rdev,
            stat.st_size,
        )
    };
    owner(a) == owner(b) && a.st_mtime == b.st_mtime && a.st_mtime_nsec == b.st_mtime_nsec
}

/// Whether two directories agree in what a layer keeps. Their times are left out: they change
/// whenever something in them does, and then the directory is in the layer for that reason.
fn same_dir(lower: &OwnedFd, upper: &OwnedFd) -> io::Result<bool> {
    let (a, b) = (rustix::fs::fstat(lower)?, rustix::fs::fstat(upper)?);
    let owner = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
    Ok(owner(&a) == owner(&b)
        && same_xattrs(&Xattrs::Of(lower.as_fd()), &Xattrs::Of(upper.as_fd()))?)
}

fn same_xattrs(a: &Xattrs<'_>, b: &Xattrs<'_>) -> io::Result<bool> {
    let names = a.names()?;
    if names != b.names()? {
        return Ok(false);
    }
    for name in names {
        if a.get(&name)? != b.get(&name)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Compares two regular files of the same size.
fn same_content(lower: &OwnedFd, upper: &OwnedFd, name: &CStr) -> io::Result<bool> {
    let open = |dir: &OwnedFd| -> io::Result<std::fs::File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?.into())
    };
    let (mut a, mut b) = (open(lower)?, open(upper)?);
    let (mut first, mut second) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let length = a.read(&mut first)?;
        if length == 0 {
            return Ok(b.read(&mut second)? == 0);
        }
        match b.read_exact(&mut second[..length]) {
            Ok(()) if first[..length] == second[..length] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}
