//! A tree in parts, each listed by a call of its own.
//!
//! Listing a large tree takes the client one thread, for as long as everything else of a build in
//! which nothing has changed. So what a list shows of a tree is kept: which names of one of its
//! directories are to be listed by which call the next time, so that each has about as much to do.
//!
//! Two names of one file must be in the same part, or nobody would see that they are one. Names of
//! one file have the same size, time and mode: where that is so of files in two parts, the tree is
//! listed whole.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use sys::root::FileKind;

use crate::wire::Stat;

/// Calls for one tree. More do not make a client faster that has a few processors.
const CALLS: usize = 3;

/// Of larger trees is not kept what this needs to know.
const MOST_ENTRIES: usize = 1 << 20;

/// How deep the directory may be whose names are divided.
const DEPTH: usize = 3;

/// Directories that are looked at. If there are more, fewer levels are.
const MOST_DIRS: usize = 1 << 16;

/// Names that are told to a client. It compares each path with all of them.
const MOST_NAMES: usize = 128;

/// A directory with more than this share of all is divided itself.
const MOST_OF_IT: f64 = 0.6;

/// Which call lists what of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The directory whose names are divided; empty for the tree's root.
    dir: PathBuf,
    /// The call that lists a name and what is below it. The last lists everything else.
    owners: HashMap<Vec<u8>, usize>,
    calls: usize,
}

impl Split {
    /// How many calls list the tree.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// The patterns by which the client leaves out what this call is not to list, to be added to
    /// those that it has to leave out: what to include, and what to exclude.
    #[must_use]
    pub fn patterns(&self, call: usize) -> (Vec<String>, Vec<String>) {
        let is_last = call + 1 == self.calls;
        let named = self.owners.iter();
        let named = named.filter(|&(_, owner)| is_last || *owner == call);
        let mut names: Vec<String> = named
            .map(|(name, _)| {
                let name = Path::new(std::ffi::OsStr::from_bytes(name));
                self.dir.join(name).to_string_lossy().into_owned()
            })
            .collect();
        names.sort();
        if is_last {
            (Vec::new(), names)
        } else {
            (names, Vec::new())
        }
    }

    /// The call that lists `path`.
    pub(crate) fn owner(&self, path: &Path) -> usize {
        let below = path.strip_prefix(&self.dir).ok();
        let name = below.and_then(|below| below.components().next());
        name.and_then(|name| self.owners.get(name.as_os_str().as_bytes()))
            .copied()
            .unwrap_or(self.calls - 1)
    }

    /// The directory whose names are divided.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// What two names of one file have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Likeness {
    size: i64,
    mtime_ns: i64,
    mode: u32,
}

impl Likeness {
    /// `None` for what has one name only, as a directory, and for what is said to be a link, since the
    /// file that it is a link to was listed by the same call.
    pub(crate) fn of(stat: &Stat) -> Option<Likeness> {
        let is_first = stat.link.is_empty() || stat.kind() == Some(FileKind::Symlink);
        (is_first && stat.kind() != Some(FileKind::Dir)).then_some(Likeness {
            size: stat.size,
            mtime_ns: stat.mtime_ns,
            mode: stat.mode,
        })
    }
}

/// A directory of the list.
struct Dir {
    path: PathBuf,
    parent: usize,
    /// The root has 0.
    depth: usize,
    /// Entries in it, at any depth.
    entries: usize,
}

/// Reads a list to find out how to divide the tree.
pub(crate) struct Survey {
    /// The root first, and each before those in it.
    dirs: Vec<Dir>,
    /// The directories on the way to the last entry, as indices, the root first.
    open: Vec<usize>,
    /// Directories are known to this depth.
    depth: usize,
    /// What may have several names, and the deepest known directory that it is in.
    files: Vec<(Likeness, usize)>,
    /// What is known to be one file with another: where that is, and the directory.
    links: Vec<(PathBuf, usize)>,
    entries: usize,
    /// Trees of fewer are not divided.
    fewest: usize,
}

impl Survey {
    /// Of a tree that is not divided if it has fewer entries than `fewest`.
    pub(crate) fn new(fewest: usize) -> Survey {
        Survey {
            dirs: vec![Dir {
                path: PathBuf::new(),
                parent: 0,
                depth: 0,
                entries: 0,
            }],
            open: vec![0],
            depth: DEPTH,
            files: Vec::new(),
            links: Vec::new(),
            entries: 0,
            fewest,
        }
    }

    /// Takes the next entry of the list, whose order has been checked.
    pub(crate) fn entry(&mut self, path: &Path, stat: &Stat) {
        self.entries += 1;
        if self.entries > MOST_ENTRIES {
            *self = Survey {
                entries: self.entries,
                ..Survey::new(self.fewest)
            };
            return;
        }
        while self.open.len() > 1
            && self
                .open
                .last()
                .is_some_and(|dir| !path.starts_with(&self.dirs[*dir].path))
        {
            self.open.pop();
        }
        for dir in &self.open {
            self.dirs[*dir].entries += 1;
        }
        let parent = self.open.last().copied().unwrap_or_default();
        if let Some(likeness) = Likeness::of(stat) {
            self.files.push((likeness, parent));
        } else if !stat.link.is_empty() {
            self.links.push((stat.link().to_owned(), parent));
        }
        let depth = path.components().count();
        if stat.kind() == Some(FileKind::Dir) && depth <= self.depth {
            if self.dirs.len() >= MOST_DIRS && depth > 1 {
                self.depth = depth - 1;
                return;
            }
            self.open.push(self.dirs.len());
            self.dirs.push(Dir {
                path: path.to_owned(),
                parent,
                depth,
                entries: 0,
            });
        }
    }

    /// How to divide the tree the next time; `None` if that is not worth it.
    pub(crate) fn split(mut self) -> Option<Split> {
        if !(self.fewest..=MOST_ENTRIES).contains(&self.entries) {
            return None;
        }
        let dir = self.largest();
        let mut parts: Vec<usize> = (1..self.dirs.len())
            .filter(|part| self.dirs[*part].parent == dir && is_plain(&self.dirs[*part].path))
            .collect();
        parts.sort_by_key(|part| std::cmp::Reverse(self.dirs[*part].entries));
        parts.truncate(MOST_NAMES);
        parts.sort_unstable();
        let mut groups = self.groups(dir, &parts);

        let weigh = |part: &usize| self.dirs[*part].entries + 1;
        let in_parts: usize = parts.iter().map(weigh).sum();
        let mut weights = [0; CALLS];
        weights[CALLS - 1] = self.entries.saturating_sub(in_parts);
        let mut owners = HashMap::new();
        let mut given: HashMap<usize, usize> = HashMap::from([(groups.of(parts.len()), CALLS - 1)]);
        let mut group_weights: HashMap<usize, usize> = HashMap::new();
        for (number, part) in parts.iter().enumerate() {
            *group_weights.entry(groups.of(number)).or_default() += weigh(part);
        }
        for (number, part) in parts.iter().enumerate() {
            let group = groups.of(number);
            let weight = group_weights.remove(&group).unwrap_or_default();
            // The last if there are several: of its names none need be told.
            let lightest = (0..CALLS).rev().min_by_key(|call| weights[*call]);
            let lightest = lightest.unwrap_or_default();
            let owner = *given.entry(group).or_insert(lightest);
            weights[owner] += weight;
            owners.insert(*part, owner);
        }
        let heaviest = weights.iter().copied().max().unwrap_or_default();
        if heaviest as f64 > MOST_OF_IT * self.entries as f64 {
            return None;
        }
        Some(self.named(dir, &owners))
    }

    /// The deepest directory that nearly all is in.
    fn largest(&self) -> usize {
        let most = (MOST_OF_IT * self.entries as f64) as usize;
        let mut largest = 0;
        for (number, dir) in self.dirs.iter().enumerate() {
            let is_in = dir.parent == largest && number > 0;
            if is_in && dir.entries > most && dir.depth < self.depth && is_plain(&dir.path) {
                largest = number;
            }
        }
        largest
    }

    /// Puts parts together, of which files may be one. What is in none of them has the number behind
    /// the last part.
    fn groups(&mut self, dir: usize, parts: &[usize]) -> Groups {
        let rest = parts.len();
        // A directory comes after the one that it is in.
        let mut part_of = vec![rest; self.dirs.len()];
        for (number, found) in self.dirs.iter().enumerate().skip(1) {
            part_of[number] = match parts.binary_search(&number) {
                Ok(part) => part,
                Err(_) if found.parent == dir => rest,
                Err(_) => part_of[found.parent],
            };
        }
        let mut groups = Groups((0..=rest).collect());
        self.files.sort_unstable();
        for pair in self.files.windows(2) {
            if pair[0].0 == pair[1].0 {
                groups.join(part_of[pair[0].1], part_of[pair[1].1]);
            }
        }
        let names = parts.iter().enumerate();
        let names = names.map(|(number, part)| (self.dirs[*part].path.as_path(), number));
        let names: HashMap<&Path, usize> = names.collect();
        for (target, parent) in &self.links {
            let mut above = target.ancestors();
            let part = above.find_map(|path| names.get(path).copied());
            groups.join(part.unwrap_or(rest), part_of[*parent]);
        }
        groups
    }

    /// Leaves out calls that have nothing to list.
    fn named(&self, dir: usize, owners: &HashMap<usize, usize>) -> Split {
        let mut calls: Vec<usize> = owners.values().copied().collect();
        calls.push(CALLS - 1);
        calls.sort_unstable();
        calls.dedup();
        let named = owners.iter().filter(|(_, owner)| **owner != CALLS - 1);
        let named = named.filter_map(|(part, owner)| {
            let name = self.dirs[*part].path.file_name()?;
            Some((name.as_bytes().to_vec(), calls.binary_search(owner).ok()?))
        });
        Split {
            dir: self.dirs[dir].path.clone(),
            owners: named.collect(),
            calls: calls.len(),
        }
    }
}

/// Sets of numbers: to each another one in its set, or itself.
struct Groups(Vec<usize>);

impl Groups {
    fn of(&mut self, mut number: usize) -> usize {
        while self.0[number] != number {
            self.0[number] = self.0[self.0[number]];
            number = self.0[number];
        }
        number
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.of(one), self.of(other));
        self.0[one] = other;
    }
}

/// Whether a pattern of these characters is nothing but a name, for every client.
fn is_plain(path: &Path) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-@/".contains(byte);
    path.as_os_str().as_bytes().iter().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::go_mode;

    /// A list of directories with so many files each.
    fn surveyed(dirs: &[(&str, i64)], like: impl Fn(&str, i64) -> i64) -> Option<Split> {
        let mut survey = Survey::new(4096);
        for (dir, files) in dirs {
            let mut stat = Stat {
                mode: go_mode(FileKind::Dir, 0o755),
                ..Stat::default()
            };
            survey.entry(Path::new(dir), &stat);
            stat.mode = go_mode(FileKind::File, 0o644);
            for file in 0..*files {
                stat.mtime_ns = like(dir, file);
                survey.entry(&Path::new(dir).join(format!("{file:06}")), &stat);
            }
        }
        survey.split()
    }

    /// Another time for each file.
    fn different(dir: &str, file: i64) -> i64 {
        dir.bytes()
            .fold(file, |all, byte| all * 257 + i64::from(byte))
    }

    fn patterns(split: &Split) -> Vec<String> {
        let parts = (0..split.calls()).map(|call| split.patterns(call));
        parts
            .map(|(include, exclude)| format!("+{} -{}", include.join(","), exclude.join(",")))
            .collect()
    }

    #[test]
    fn each_call_has_about_as_much_to_list() {
        let split = surveyed(
            &[("a", 4000), ("b", 1000), ("c", 2000), ("d", 3000)],
            different,
        );
        assert_eq!(patterns(&split.unwrap()), ["+c -", "+b,d -", "+ -b,c,d"]);
        let split = surveyed(&[("a", 9000), ("b", 8000)], different);
        assert_eq!(patterns(&split.unwrap()), ["+b -", "+ -b"]);
    }

    #[test]
    fn small_trees_and_such_of_one_large_directory_are_not_divided() {
        assert_eq!(surveyed(&[("a", 1000), ("b", 1000)], different), None);
        assert_eq!(surveyed(&[("a", 9000), ("b", 1000)], different), None);
    }

    #[test]
    fn a_directory_with_nearly_all_is_divided_itself() {
        let dirs = [
            ("a", 10),
            ("m", 0),
            ("m/n", 3),
            ("m/n/x", 4000),
            ("m/n/y", 4000),
            ("z", 10),
        ];
        let split = surveyed(&dirs, different).unwrap();
        assert_eq!(patterns(&split), ["+m/n/y -", "+m/n/x -", "+ -m/n/x,m/n/y"]);
        assert_eq!(split.owner(Path::new("m/n/x/1")), 1);
        for path in ["m", "m/n", "m/n/2", "m/nn/x", "x", "z/3"] {
            assert_eq!(split.owner(Path::new(path)), 2, "{path}");
        }
    }

    #[test]
    fn directories_with_files_that_may_be_one_are_listed_by_one_call() {
        let like = |dir: &str, file: i64| match (dir, file) {
            ("a", 7) | ("c", 9) => 1,
            (dir, file) => different(dir, file),
        };
        let split = surveyed(&[("a", 3000), ("b", 3000), ("c", 3000), ("d", 3000)], like).unwrap();
        assert_eq!(split.owner(Path::new("a")), split.owner(Path::new("c")));
        assert_ne!(split.owner(Path::new("a")), split.owner(Path::new("b")));
        assert_eq!(surveyed(&[("a", 3000), ("b", 3000)], |_, file| file), None);
    }

    #[test]
    fn names_that_may_be_more_than_names_in_a_pattern_are_not_told() {
        let dirs = [
            ("a*", 3000),
            ("b [1]", 3000),
            ("c", 3000),
            ("d!", 1),
            ("\u{e4}", 3000),
        ];
        let split = surveyed(&dirs, different);
        assert_eq!(split, None);
        let dirs = [("a*", 3000), ("c", 3000), ("e", 3000)];
        let split = surveyed(&dirs, different).unwrap();
        assert_eq!(patterns(&split), ["+e -", "+c -", "+ -c,e"]);
    }

    #[test]
    fn very_many_directories_are_looked_at_less_closely() {
        let mut survey = Survey::new(4096);
        let dir = Stat {
            mode: go_mode(FileKind::Dir, 0o755),
            ..Stat::default()
        };
        for name in 0..40 {
            survey.entry(Path::new(&format!("a{name:02}")), &dir);
            for below in 0..3000 {
                survey.entry(Path::new(&format!("a{name:02}/b{below:04}")), &dir);
            }
        }
        assert!(survey.dirs.len() <= MOST_DIRS + 40);
        assert_eq!(survey.split().unwrap().calls(), 3);
    }
}
