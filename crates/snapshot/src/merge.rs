//! Several layers as one directory, made of hard links.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::FileType;

use crate::copy;
use crate::tree::{self, Item};

/// What a merged directory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// To stand for its layers in a stack: what hides something below stays.
    Overlay,
    /// To be looked at as it is.
    Plain,
}

/// Fills the empty directory `target` with what a stack of `layers` (lowest first) shows. A file
/// becomes another name of the one in its layer; a directory gets the metadata of the topmost one.
///
/// Costs one system call for each file, and open descriptors in the number of layers that share the
/// deepest directory, times its depth.
pub(crate) fn merge(layers: &[OwnedFd], target: &OwnedFd, form: Form) -> io::Result<()> {
    let sources = layers
        .iter()
        .rev()
        .map(OwnedFd::try_clone)
        .collect::<io::Result<_>>()?;
    let mut levels = vec![Level::enter(sources, target.try_clone()?, false, form)?];
    while let Some(level) = levels.last_mut() {
        let Some((name, dir)) = level.dirs.pop() else {
            level.finish(form)?;
            levels.pop();
            continue;
        };
        let (sources, opaque) = level.open(&name, &dir)?;
        let target = tree::make_dir(&level.target, &name)?;
        levels.push(Level::enter(sources, target, opaque, form)?);
    }
    Ok(())
}

/// A directory that is being merged. Levels are kept on the heap: trees may be deep.
struct Level {
    /// The layers' directories, topmost first.
    sources: Vec<OwnedFd>,
    target: OwnedFd,
    /// Nothing below the layers shows through.
    opaque: bool,
    /// A whiteout was put into `target`.
    whiteouts: bool,
    dirs: Vec<(CString, Dir)>,
}

/// A directory of some of the layers.
struct Dir {
    /// Which of the sources have it, topmost first.
    members: Vec<usize>,
    /// Something lower that is not a directory ends it.
    ended: bool,
}

/// What is known of a name, from the topmost layer down.
enum Slot {
    /// It is decided.
    Closed,
    Dir(Dir),
}

impl Level {
    fn enter(
        sources: Vec<OwnedFd>,
        target: OwnedFd,
        opaque: bool,
        form: Form,
    ) -> io::Result<Level> {
        let mut level = Level {
            sources,
            target,
            opaque,
            whiteouts: false,
            dirs: Vec::new(),
        };
        if level.sources.len() == 1 {
            level.enter_single(form)?;
        } else {
            level.enter_many(form)?;
        }
        Ok(level)
    }

    /// Nothing to compare: most directories are in one layer only.
    fn enter_single(&mut self, form: Form) -> io::Result<()> {
        for item in tree::list(&self.sources[0])? {
            if item.kind == FileType::Directory {
                self.dirs.push((
                    item.name,
                    Dir {
                        members: vec![0],
                        ended: false,
                    },
                ));
            } else {
                self.place(0, &item, form)?;
            }
        }
        Ok(())
    }

    fn enter_many(&mut self, form: Form) -> io::Result<()> {
        let mut slots: HashMap<CString, Slot> = HashMap::new();
        for source in 0..self.sources.len() {
            for item in tree::list(&self.sources[source])? {
                let is_dir = item.kind == FileType::Directory;
                match slots.get_mut(&item.name) {
                    None if is_dir => {
                        let dir = Dir {
                            members: vec![source],
                            ended: false,
                        };
                        slots.insert(item.name, Slot::Dir(dir));
                    }
                    None => {
                        self.place(source, &item, form)?;
                        slots.insert(item.name, Slot::Closed);
                    }
                    Some(Slot::Dir(dir)) if !dir.ended => {
                        if is_dir {
                            dir.members.push(source)
                        } else {
                            dir.ended = true
                        }
                    }
                    Some(Slot::Dir(_) | Slot::Closed) => {}
                }
            }
        }
        self.dirs
            .extend(slots.into_iter().filter_map(|(name, slot)| match slot {
                Slot::Dir(dir) => Some((name, dir)),
                Slot::Closed => None,
            }));
        Ok(())
    }

    /// Puts something that is not a directory into the target.
    fn place(&mut self, source: usize, item: &Item, form: Form) -> io::Result<()> {
        let source = &self.sources[source];
        if !tree::is_whiteout(source, item)? {
            return copy::link(source, &self.target, &item.name);
        }
        if form == Form::Overlay && !self.opaque {
            self.whiteouts = true;
            tree::make_whiteout(&self.target, &item.name)?;
        }
        Ok(())
    }

    /// Opens the members of `dir` down to the first that hides the rest, and says whether anything
    /// below the layers is hidden.
    fn open(&self, name: &CString, dir: &Dir) -> io::Result<(Vec<OwnedFd>, bool)> {
        let mut opened = Vec::with_capacity(dir.members.len());
        for member in &dir.members {
            let fd = tree::open_dir(&self.sources[*member], name)?;
            let opaque = tree::is_opaque(&fd)?;
            opened.push(fd);
            if opaque {
                return Ok((opened, true));
            }
        }
        Ok((opened, dir.ended))
    }

    fn finish(&self, form: Form) -> io::Result<()> {
        tree::copy_dir_metadata(&self.sources[0], &self.target)?;
        if form == Form::Overlay && self.opaque {
            tree::set_opaque(&self.target)?;
        }
        if self.whiteouts {
            tree::announce_whiteouts(&self.target)?;
        }
        tree::copy_times(&self.sources[0], &self.target)
    }
}
