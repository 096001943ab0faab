//! Results as plain files: for a client's directory, or one tar.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use layer::tar::{Header, Kind as TarKind, Writer};
use oci::Digest;
use snapshot::Snapshots;
use sys::root::{FileKind, RootDir};
use time::OffsetDateTime;
use tokio::io::AsyncWrite;
use tokio_util::io::SyncIoBridge;

use crate::attest::{self, Subject};
use crate::error::ExportError;
use crate::image::{Source, SourceRef};
use crate::options::{TreeMode, TreeOptions};

/// Writes of the tar are gathered to this size.
const BUFFER: usize = 256 << 10;
/// The permissions of a file that holds an attestation.
const ATTESTATION_MODE: u32 = 0o600;

/// A result's files, open to be read. They stay as they are while this is there.
#[derive(Debug)]
pub struct ExportTree {
    /// One for each platform.
    pub parts: Vec<TreePart>,
    /// Whether each part has a directory of its own.
    pub split: bool,
}

/// The files for one platform.
#[derive(Debug)]
pub struct TreePart {
    /// The platform's id, `""` for a single result.
    pub key: String,
    /// The directory that they go to, when parts are split, e.g. `linux_amd64`.
    pub dir: Option<String>,
    /// The files, read-only.
    pub root: RootDir,
    /// Files beside them, by name: what is attested. Of mode 0600.
    pub extra: BTreeMap<String, Vec<u8>>,
    /// The time of change of every file in place of its own, in nanoseconds since 1970: not the
    /// latest that one may have (BuildKit: exporter/local/fs.go).
    pub mtime_ns: Option<i64>,
    /// The time of change of `extra`.
    pub extra_mtime_ns: i64,
    /// Keeps the files.
    held: Option<refs::Ref>,
}

/// What is sent into a client's directory at a time.
#[derive(Debug)]
pub struct Transfer {
    /// What progress calls it.
    pub name: String,
    /// All of it.
    pub trees: Vec<filesync::Tree>,
    /// Keeps the files until it is sent.
    held: Vec<refs::Ref>,
}

/// Opens the files of `source`. Blocks.
pub(crate) fn open(
    snapshots: &Snapshots,
    source: &Source,
    options: &TreeOptions,
) -> Result<ExportTree, ExportError> {
    if !source.multi_platform && source.refs.len() > 1 {
        let text = "unable to export multiple platforms without map";
        return Err(ExportError::Result(text.to_owned()));
    }
    let split = options.split(source.multi_platform);
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).ok();
    let name_platform = source.multi_platform && !split;
    let mut parts = source
        .refs
        .iter()
        .map(|part| {
            let epoch = options.epoch.of(&part.key, &source.metadata)?;
            let root = root_of(snapshots, part)?;
            let extra = attestations(part, &root, options, name_platform)?;
            Ok(TreePart {
                key: part.key.clone(),
                dir: split
                    .then(|| part.key.replace('/', "_"))
                    .filter(|dir| !dir.is_empty()),
                root,
                extra,
                mtime_ns: epoch.and_then(nanoseconds),
                extra_mtime_ns: epoch.or(now).and_then(nanoseconds).unwrap_or(0),
                held: part.filesystem.clone(),
            })
        })
        .collect::<Result<Vec<_>, ExportError>>()?;
    // Directories come in order of their names, whatever the order of the platforms.
    parts.sort_by(|one, other| one.dir.cmp(&other.dir));
    let tree = ExportTree { parts, split };
    tree.check()?;
    Ok(tree)
}

fn nanoseconds(time: OffsetDateTime) -> Option<i64> {
    i64::try_from(time.unix_timestamp_nanos()).ok()
}

fn root_of(snapshots: &Snapshots, part: &SourceRef) -> Result<RootDir, ExportError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| ExportError::Tree {
        key: part.key.clone(),
        source,
    };
    let stack = match &part.filesystem {
        Some(filesystem) => filesystem
            .snapshots()
            .ok_or_else(|| failed("a layer is not here".into()))?,
        None => Vec::new(),
    };
    let mount = snapshots.view(&stack).map_err(|e| failed(e.into()))?;
    Ok(RootDir::from_fd(mount.into_fd()))
}

/// What is attested of `part`, as files; what is meant for images only is left out.
fn attestations(
    part: &SourceRef,
    root: &RootDir,
    options: &TreeOptions,
    name_platform: bool,
) -> Result<BTreeMap<String, Vec<u8>>, ExportError> {
    let mut files = BTreeMap::new();
    let kept: Vec<_> = part
        .attestations
        .iter()
        .filter(|a| !a.inline_only)
        .collect();
    if kept.is_empty() {
        return Ok(files);
    }
    let subjects = subjects(part, root)?;
    for attestation in kept {
        let mut name = format!("{}{}", options.attestation_prefix, attestation.file_name);
        if name_platform {
            let (base, extension) = name.rsplit_once('.').unwrap_or((&name, ""));
            let platform = part.key.replace('/', "_");
            let dot = if extension.is_empty() { "" } else { "." };
            name = format!("{base}.{platform}{dot}{extension}");
        }
        let statement = attest::statement(attestation, &subjects, attest::Form::Indented)?;
        if files.insert(name.clone(), statement).is_some() {
            return Err(ExportError::Result(format!(
                "duplicate attestation path name {name}"
            )));
        }
    }
    Ok(files)
}

/// Every regular file of `root`, with its digest.
fn subjects(part: &SourceRef, root: &RootDir) -> Result<Vec<Subject>, ExportError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| ExportError::Tree {
        key: part.key.clone(),
        source,
    };
    let mut subjects = Vec::new();
    for entry in fstree::walk(root, &<_>::default()).map_err(|e| failed(e.into()))? {
        let entry = entry.map_err(|e| failed(e.into()))?;
        if entry.metadata.kind == FileKind::File {
            let mut file = root
                .open_seen_file(&entry.path)
                .map_err(|e| failed(e.into()))?;
            let mut hasher = oci::Hasher::new();
            std::io::copy(&mut file, &mut hasher).map_err(|e| failed(e.into()))?;
            let digest: Digest = hasher.finish();
            subjects.push(Subject::new(entry.path.to_string_lossy(), &digest));
        }
    }
    Ok(subjects)
}

impl ExportTree {
    /// Parts that go to one directory must not have the same file.
    fn check(&self) -> Result<(), ExportError> {
        if self.split || self.parts.len() < 2 {
            return Ok(());
        }
        let mut seen: BTreeMap<PathBuf, &str> = BTreeMap::new();
        for part in &self.parts {
            let failed = |source| ExportError::Tree {
                key: part.key.clone(),
                source,
            };
            let walk = fstree::walk(&part.root, &<_>::default());
            for entry in walk.map_err(|e| failed(e.into()))? {
                let entry = entry.map_err(|e| failed(e.into()))?;
                if entry.metadata.kind == FileKind::Dir {
                    continue;
                }
                if let Some(other) = seen.insert(entry.path.clone(), &part.key) {
                    let text = format!(
                        "cannot overwrite {} from {other} with {} when split option is disabled",
                        entry.path.display(),
                        part.key
                    );
                    return Err(ExportError::Result(text));
                }
            }
        }
        Ok(())
    }

    /// What to send into a client's directory, one after the other; as one if what is not in it
    /// has to go from there. Blocks.
    ///
    /// # Errors
    /// When there is no place for the files beside the tree.
    pub fn transfers(self, mode: TreeMode) -> Result<Vec<Transfer>, ExportError> {
        let split = self.split;
        let transfers = self.parts.into_iter().map(|part| {
            let name = match part.key.as_str() {
                key if split && !key.is_empty() => format!("copying files {key}"),
                _ => "copying files".to_owned(),
            };
            let held = part.held.iter().cloned().collect();
            let trees = part.trees()?;
            Ok(Transfer { name, trees, held })
        });
        let transfers = transfers.collect::<Result<Vec<Transfer>, ExportError>>()?;
        if mode == TreeMode::Copy {
            return Ok(transfers);
        }
        let (mut trees, mut held) = (Vec::new(), Vec::new());
        for transfer in transfers {
            trees.extend(transfer.trees);
            held.extend(transfer.held);
        }
        Ok(vec![Transfer {
            name: "copying files".to_owned(),
            trees,
            held,
        }])
    }

    /// Writes all files to `out` as one tar.
    ///
    /// # Errors
    /// When a file cannot be read, or `out` fails.
    pub async fn write_tar(
        self,
        out: impl AsyncWrite + Unpin + Send + 'static,
    ) -> Result<(), ExportError> {
        let out = SyncIoBridge::new(out);
        tokio::task::spawn_blocking(move || self.write(BufWriter::with_capacity(BUFFER, out)))
            .await
            .map_err(ExportError::Interrupted)?
    }

    fn write(&self, out: impl Write) -> Result<(), ExportError> {
        let mut writer = Writer::new(out);
        for part in &self.parts {
            let prefix = PathBuf::from(part.dir.as_deref().unwrap_or_default());
            if part.dir.is_some() {
                let header = directory(&prefix, part.mtime_ns.unwrap_or(0));
                writer
                    .append(&header, std::io::empty())
                    .map_err(ExportError::Write)?;
            }
            for (name, bytes) in &part.extra {
                writer
                    .append_bytes(
                        prefix.join(name),
                        ATTESTATION_MODE,
                        part.extra_mtime_ns,
                        bytes,
                    )
                    .map_err(ExportError::Write)?;
            }
            let options = layer::TreeOptions {
                mtime_ns: part.mtime_ns,
                prefix,
            };
            writer = layer::tar_tree(&part.root, writer, &options).map_err(|source| {
                ExportError::Tree {
                    key: part.key.clone(),
                    source: source.into(),
                }
            })?;
        }
        let mut out = writer.finish().map_err(ExportError::Write)?;
        out.flush().map_err(ExportError::Write)
    }
}

impl TreePart {
    /// The part as trees in their places: what is beside its files, and these.
    fn trees(self) -> Result<Vec<filesync::Tree>, ExportError> {
        let at = PathBuf::from(self.dir.unwrap_or_default());
        let mut trees = Vec::new();
        if !self.extra.is_empty() {
            let root = written(&self.extra).map_err(|source| ExportError::Tree {
                key: self.key,
                source: source.into(),
            })?;
            trees.push(filesync::Tree {
                at: at.clone(),
                root,
                mtime_ns: Some(self.extra_mtime_ns),
            });
        }
        trees.push(filesync::Tree {
            at,
            root: self.root,
            mtime_ns: self.mtime_ns,
        });
        Ok(trees)
    }
}

/// A directory in memory with these files.
fn written(files: &BTreeMap<String, Vec<u8>>) -> std::io::Result<RootDir> {
    let mount = sys::mount::tmpfs(0, 0o755)?;
    let root = RootDir::from_fd(mount.into_fd());
    for (name, bytes) in files {
        root.create(Path::new(name), ATTESTATION_MODE, true)?
            .write_all(bytes)?;
    }
    Ok(root)
}

/// The header of a directory that is not in any tree.
fn directory(path: &Path, mtime_ns: i64) -> Header {
    Header {
        path: path.to_owned(),
        kind: TarKind::Dir,
        mode: 0o755,
        uid: 0,
        gid: 0,
        size: 0,
        mtime_ns,
        xattrs: BTreeMap::new(),
    }
}
