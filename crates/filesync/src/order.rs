//! The order in which entries arrive, checked.
//!
//! A directory comes before what is in it, names in a directory ascend by their bytes, and one
//! directory is complete before the next begins. Whoever relies on it (the receiver compares two
//! lists in one pass) need not fear an entry under something that is no directory.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// The kernel takes no longer path (`PATH_MAX`).
const MAX_PATH: usize = 4096;

/// What is wrong with a path or its place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OrderError {
    #[error("it is absolute, has `.` or `..` in it, or is not in its shortest form")]
    Unclean,
    #[error("it is too long")]
    TooLong,
    #[error("changes out of order")]
    OutOfOrder,
}

/// Checks one list, entry by entry.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// The directories on the way to the last entry, the outermost first.
    open: Vec<PathBuf>,
    /// The last name in the root and in each directory of `open`.
    last: Vec<Vec<u8>>,
}

impl Order {
    /// Takes the next entry.
    pub(crate) fn next(&mut self, path: &Path, is_dir: bool) -> Result<(), OrderError> {
        check(path)?;
        let parent = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().ok_or(OrderError::Unclean)?.as_bytes();
        if self.last.is_empty() {
            self.last.push(Vec::new());
        }
        while self.open.last().is_some_and(|dir| dir != parent) {
            self.open.pop();
            self.last.pop();
        }
        if self.open.is_empty() && parent != Path::new("") {
            return Err(OrderError::OutOfOrder);
        }
        let last = self.last.last_mut().ok_or(OrderError::OutOfOrder)?;
        if name <= &last[..] {
            return Err(OrderError::OutOfOrder);
        }
        last.clear();
        last.extend_from_slice(name);
        if is_dir {
            self.open.push(path.to_owned());
            self.last.push(Vec::new());
        }
        Ok(())
    }
}

/// Whether `path` is relative, without `.` and `..`, and in its shortest form.
pub(crate) fn check(path: &Path) -> Result<(), OrderError> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() > MAX_PATH {
        return Err(OrderError::TooLong);
    }
    let clean = !bytes.is_empty()
        && !bytes.contains(&0)
        && !bytes.starts_with(b"/")
        && !bytes.ends_with(b"/")
        && !bytes.windows(2).any(|pair| pair == b"//")
        && !bytes.split(|byte| *byte == b'/').any(|name| name == b".")
        && path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
    if clean {
        Ok(())
    } else {
        Err(OrderError::Unclean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes paths, directories with a `/` at their end, up to the first that is refused.
    fn taken(paths: &[&str]) -> usize {
        let mut order = Order::default();
        paths
            .iter()
            .position(|path| {
                let is_dir = path.ends_with('/');
                order
                    .next(Path::new(path.trim_end_matches('/')), is_dir)
                    .is_err()
            })
            .unwrap_or(paths.len())
    }

    #[test]
    fn a_tree_in_order_is_taken() {
        let tree = ["a/", "a/b/", "a/b/c", "a/d", "a-x", "a.y/", "a.y/z", "b"];
        assert_eq!(taken(&tree), tree.len());
    }

    #[test]
    fn what_is_out_of_order_is_refused() {
        assert_eq!(taken(&["b", "a"]), 1);
        assert_eq!(taken(&["a", "a"]), 1);
        assert_eq!(taken(&["a/", "b", "a/c"]), 2);
        assert_eq!(taken(&["a", "a/b"]), 1);
        assert_eq!(taken(&["a/b"]), 0);
        assert_eq!(taken(&["a/", "a/b/", "a/b/c", "a/a"]), 3);
        assert_eq!(taken(&["a/", "a/b/", "c/d"]), 2);
    }

    #[test]
    fn paths_that_leave_or_are_not_clean_are_refused() {
        for path in [
            "", "/a", "..", "../a", "a/..", "a/./b", ".", "./a", "a//b", "a\0b",
        ] {
            assert_eq!(check(Path::new(path)), Err(OrderError::Unclean), "{path:?}");
        }
        assert_eq!(
            check(Path::new(&"a/".repeat(5000))),
            Err(OrderError::TooLong)
        );
        assert_eq!(check(Path::new("a/b..c/...")), Ok(()));
    }
}
