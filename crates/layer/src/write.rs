//! Trees to tars: layers in overlay form, and plain trees.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci::{Digest, Hasher};
use sys::root::{FileKind, Follow, Metadata, RootDir, xattrs_of};

use crate::tar::{Header, Kind, Writer};

/// The prefix of the name of a file in a layer that says that the file without it is gone.
pub(crate) const WHITEOUT: &[u8] = b".wh.";

/// The name of a file in a layer that says that nothing of the directory below shows.
pub(crate) const OPAQUE_MARK: &[u8] = b".wh..wh..opq";

/// The attribute that says the same in overlay form.
pub(crate) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// The prefix of the attributes that are overlay's own.
pub(crate) const OVERLAY_XATTRS: &[u8] = b"trusted.overlay.";

/// How to write a layer.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteOptions {
    /// No entry gets a later time of change than this, in nanoseconds since 1970.
    pub mtime_clamp_ns: Option<i64>,
}

/// How to write a plain tree.
#[derive(Clone, Debug, Default)]
pub struct TreeOptions {
    /// The time of change of every entry in place of its own, in nanoseconds since 1970.
    pub mtime_ns: Option<i64>,
    /// What the path of every entry starts with; the directories in it are not written.
    pub prefix: PathBuf,
}

/// What a layer's tar is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSummary {
    /// The digest of the tar: the layer's diff id.
    pub diff_id: Digest,
    /// The length of the tar in bytes.
    pub size: u64,
    /// How many entries it has, deletions included.
    pub entries: u64,
}

/// Why a tree cannot be written as a tar.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// An entry cannot be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// The entry.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The layer uses a feature of overlay that a tar cannot express (redirects, metadata-only
    /// copies), with which no layer here is mounted.
    #[error("`{}` is a redirect or a copy of metadata only", .0.display())]
    Unsupported(PathBuf),
    /// An entry cannot be written.
    #[error("failed to write `{}` to the tar", path.display())]
    Write {
        /// The entry.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Writes the layer in `layer_dir`, which is in overlay form, as an OCI layer.
///
/// The same layer gives the same bytes: entries are sorted, each directory before what is in it,
/// times are whole seconds, and nothing else of the machine is in it. A second name of a file is a
/// hard link to the first. Sockets are left out, as they mean nothing elsewhere.
pub fn write_layer(
    layer_dir: &RootDir,
    out: impl Write,
    options: &WriteOptions,
) -> Result<LayerSummary, WriteError> {
    let counted = Counted {
        inner: out,
        hasher: Hasher::new(),
        size: 0,
    };
    let mut tree = TreeWriter::new(
        layer_dir,
        counted,
        Path::new(""),
        options.mtime_clamp_ns.map_or(Times::Own, Times::Clamp),
        Form::Overlay,
    );
    tree.write_all()?;
    let entries = tree.entries;
    let counted = tree.writer.finish().map_err(|source| WriteError::Write {
        path: PathBuf::from("/"),
        source,
    })?;
    Ok(LayerSummary {
        diff_id: counted.hasher.finish(),
        size: counted.size,
        entries,
    })
}

/// Writes everything in `root` to a tar that the caller finishes, so that several trees and other
/// files can be in one.
pub fn tar_tree<W: Write>(
    root: &RootDir,
    writer: Writer<W>,
    options: &TreeOptions,
) -> Result<Writer<W>, WriteError> {
    let mut tree = TreeWriter {
        writer,
        root,
        prefix: &options.prefix,
        times: options.mtime_ns.map_or(Times::Own, Times::Set),
        form: Form::Plain,
        names: HashMap::new(),
        entries: 0,
    };
    tree.write_all()?;
    Ok(tree.writer)
}

/// What whiteouts and overlay's attributes mean in the tree.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Overlay,
    /// Nothing: they are left out.
    Plain,
}

/// Which times of change entries get.
#[derive(Clone, Copy)]
enum Times {
    /// Their own.
    Own,
    /// Their own, but none later than this.
    Clamp(i64),
    /// This one.
    Set(i64),
}

impl Times {
    fn of(self, own: i64) -> i64 {
        match self {
            Times::Own => own,
            Times::Clamp(latest) => own.min(latest),
            Times::Set(time) => time,
        }
    }

    fn given(self) -> Option<i64> {
        match self {
            Times::Own | Times::Clamp(_) => None,
            Times::Set(time) => Some(time),
        }
    }
}

struct TreeWriter<'a, W> {
    writer: Writer<W>,
    root: &'a RootDir,
    prefix: &'a Path,
    times: Times,
    form: Form,
    /// The path under which a file with several names was written.
    names: HashMap<(u64, u64), PathBuf>,
    entries: u64,
}

/// Something waiting to be written; directories come off the stack after what is before them.
struct Waiting {
    path: PathBuf,
    metadata: Metadata,
}

impl<'a, W: Write> TreeWriter<'a, W> {
    fn new(
        root: &'a RootDir,
        out: W,
        prefix: &'a Path,
        times: Times,
        form: Form,
    ) -> TreeWriter<'a, W> {
        TreeWriter {
            writer: Writer::new(out),
            root,
            prefix,
            times,
            form,
            names: HashMap::new(),
            entries: 0,
        }
    }

    fn write_all(&mut self) -> Result<(), WriteError> {
        if self.form == Form::Overlay {
            let root = Path::new("");
            let opaque = self.root.get_xattr(root, OsStr::new(OPAQUE_XATTR));
            if opaque.map_err(read_error(root))?.as_deref() == Some(b"y") {
                self.write_mark(root, &[OPAQUE_MARK])?;
            }
        }
        let top = self.list(Path::new(""))?;
        let mut waiting = vec![(PathBuf::new(), top.into_iter())];
        while let Some((dir, entries)) = waiting.last_mut() {
            // Siblings in a row share their opened directory.
            let opened = self.root.open_dir(dir).map_err(read_error(dir))?;
            let mut descend = None;
            for entry in entries.by_ref() {
                self.write_entry(&opened, &entry)?;
                if entry.metadata.kind == FileKind::Dir {
                    descend = Some(entry.path);
                    break;
                }
            }
            match descend {
                Some(path) => {
                    let entries = self.list(&path)?;
                    waiting.push((path, entries.into_iter()));
                }
                None => drop(waiting.pop()),
            }
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> Result<Vec<Waiting>, WriteError> {
        let opened = self.root.open_dir(dir).map_err(read_error(dir))?;
        let mut entries = Vec::new();
        for entry in opened.read_dir(Path::new(".")).map_err(read_error(dir))? {
            let path = dir.join(&entry.name);
            let metadata = opened
                .stat(Path::new(&entry.name), Follow::No)
                .map_err(read_error(&path))?;
            entries.push(Waiting { path, metadata });
        }
        Ok(entries)
    }

    fn write_entry(&mut self, dir: &RootDir, entry: &Waiting) -> Result<(), WriteError> {
        let Waiting { path, metadata } = entry;
        let name = Path::new(path.file_name().unwrap_or(OsStr::new(".")));
        if metadata.is_whiteout() {
            return match self.form {
                Form::Overlay => {
                    let parent = path.parent().unwrap_or(Path::new(""));
                    self.write_mark(parent, &[WHITEOUT, name.as_os_str().as_bytes()])
                }
                Form::Plain => Ok(()),
            };
        }
        if metadata.kind == FileKind::Socket {
            return Ok(());
        }
        if let Some(first) = self.first_name(path, metadata) {
            let kind = Kind::HardLink(first);
            return self.append(path, metadata, kind, BTreeMap::new(), io::empty());
        }
        if metadata.kind == FileKind::File {
            let file = dir.open_seen_file(name).map_err(read_error(path))?;
            let xattrs = xattrs_of(&file).map_err(read_error(path))?;
            let xattrs = self.checked(path, xattrs)?;
            return self.append(path, metadata, Kind::File, xattrs, &file);
        }
        let (major, minor) = metadata.device();
        let kind = match metadata.kind {
            FileKind::Dir => Kind::Dir,
            FileKind::Symlink => Kind::Symlink(dir.read_link(name).map_err(read_error(path))?),
            FileKind::CharDevice => Kind::CharDevice(major, minor),
            FileKind::BlockDevice => Kind::BlockDevice(major, minor),
            FileKind::Fifo | FileKind::File | FileKind::Socket => Kind::Fifo,
        };
        let xattrs = dir.xattrs(name).map_err(read_error(path))?;
        let opaque = xattrs
            .get(OsStr::new(OPAQUE_XATTR))
            .is_some_and(|value| value == b"y");
        let xattrs = self.checked(path, xattrs)?;
        self.append(path, metadata, kind, xattrs, io::empty())?;
        if opaque && metadata.kind == FileKind::Dir && self.form == Form::Overlay {
            self.write_mark(path, &[OPAQUE_MARK])?;
        }
        Ok(())
    }

    /// The path under which the same file was written before, if it was.
    fn first_name(&mut self, path: &Path, metadata: &Metadata) -> Option<PathBuf> {
        if metadata.nlink < 2 || metadata.kind == FileKind::Dir {
            return None;
        }
        let file = (metadata.dev, metadata.ino);
        if let Some(first) = self.names.get(&file) {
            return Some(self.prefix.join(first));
        }
        self.names.insert(file, path.to_owned());
        None
    }

    /// The attributes that belong to the file and not to the machine or to overlay.
    fn checked(
        &self,
        path: &Path,
        mut xattrs: BTreeMap<OsString, Vec<u8>>,
    ) -> Result<BTreeMap<OsString, Vec<u8>>, WriteError> {
        let overlay = |name: &str| xattrs.contains_key(OsStr::new(name));
        if self.form == Form::Overlay
            && (overlay("trusted.overlay.redirect") || overlay("trusted.overlay.metacopy"))
        {
            return Err(WriteError::Unsupported(path.to_owned()));
        }
        xattrs.retain(|name, _| is_portable(name));
        Ok(xattrs)
    }

    /// Writes an empty file in `dir` whose name says something of the layers below.
    fn write_mark(&mut self, dir: &Path, name: &[&[u8]]) -> Result<(), WriteError> {
        let path = self
            .prefix
            .join(dir)
            .join(OsStr::from_bytes(&name.concat()));
        // It has no time of its own that would mean anything.
        let mtime_ns = self.times.given().unwrap_or(0);
        self.entries += 1;
        self.writer
            .append_bytes(&path, 0, mtime_ns, b"")
            .map_err(|source| WriteError::Write { path, source })
    }

    fn append(
        &mut self,
        path: &Path,
        metadata: &Metadata,
        kind: Kind,
        xattrs: BTreeMap<OsString, Vec<u8>>,
        content: impl Read,
    ) -> Result<(), WriteError> {
        let header = Header {
            path: self.prefix.join(path),
            size: if kind == Kind::File { metadata.size } else { 0 },
            kind,
            mode: metadata.mode,
            uid: metadata.uid,
            gid: metadata.gid,
            mtime_ns: self.times.of(metadata.mtime_ns),
            xattrs,
        };
        self.entries += 1;
        self.writer
            .append(&header, content)
            .map_err(|source| WriteError::Write {
                path: path.to_owned(),
                source,
            })
    }
}

fn read_error(path: &Path) -> impl FnOnce(io::Error) -> WriteError {
    let path = Path::new("/").join(path);
    move |source| WriteError::Read { path, source }
}

/// Whether an extended attribute means the same on another machine. Labels, access lists (their
/// form is the kernel's own) and overlay's own do not.
pub(crate) fn is_portable(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name == b"security.capability"
        || ![&b"security."[..], b"system.", OVERLAY_XATTRS]
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// Counts and digests what passes.
struct Counted<W> {
    inner: W,
    hasher: Hasher,
    size: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
