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
use crate::options::TreeOptions;

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
    /// No file shows a later time of change than this, in nanoseconds since 1970.
    pub clamp_ns: Option<i64>,
    /// Keeps the files.
    _held: Option<refs::Ref>,
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
    let split = options.platform_split.unwrap_or(source.multi_platform);
    let name_platform = source.multi_platform && !split;
    let parts = source
        .refs
        .iter()
        .map(|part| {
            let clamp = options.epoch.of(&part.key, &source.metadata)?;
            let root = root_of(snapshots, part)?;
            let extra = attestations(part, &root, options, name_platform)?;
            Ok(TreePart {
                key: part.key.clone(),
                dir: split
                    .then(|| part.key.replace('/', "_"))
                    .filter(|dir| !dir.is_empty()),
                root,
                extra,
                clamp_ns: clamp.and_then(nanoseconds),
                _held: part.filesystem.clone(),
            })
        })
        .collect::<Result<Vec<_>, ExportError>>()?;
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
                let header = directory(&prefix, part.clamp_ns.unwrap_or(0));
                writer
                    .append(&header, std::io::empty())
                    .map_err(ExportError::Write)?;
            }
            for (name, bytes) in &part.extra {
                let (path, time) = (prefix.join(name), part.clamp_ns.unwrap_or(0));
                writer
                    .append_bytes(path, ATTESTATION_MODE, time, bytes)
                    .map_err(ExportError::Write)?;
            }
            let options = layer::TreeOptions {
                mtime_clamp_ns: part.clamp_ns,
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
