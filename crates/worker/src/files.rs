//! Single files of refs, for frontends.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use bytes::Bytes;
use filesync::wire::go_mode;
use proto::worker as wire;
use sys::root::{FileKind, Follow, Metadata, RootDir};

use crate::failure::{Class, Failure, blocking};
use crate::state::{Shared, id};
use crate::view::View;

/// The most of a file that is answered at once: it must fit into a message.
const MAX_READ: u64 = 15 << 20;

/// The files of a ref, or of a sandbox's mount.
async fn view(
    shared: &Shared,
    job: &str,
    text: &str,
    sandbox: Option<&wire::SandboxMount>,
) -> Result<View, Failure> {
    if let Some(mount) = sandbox {
        return Ok(View::live(shared.sandboxes.view(job, mount)?));
    }
    let reference = shared.find(job, id(text)?)?;
    let stack = shared
        .stack(&reference, &shared.job(job)?.sessions, None)
        .await?;
    let snapshots = shared.refs.snapshots().clone();
    blocking(move || {
        let view = View::of(&snapshots, &stack).map_err(Failure::host)?;
        Ok(view.holding(reference))
    })
    .await
}

fn missing(action: &str, path: &str, error: std::io::Error) -> Failure {
    let class = match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => Class::NotFound,
        _ => Class::User,
    };
    let reason = match class {
        Class::NotFound => "no such file or directory".to_owned(),
        _ => error.to_string(),
    };
    Failure::new(class, format!("{action} {path}: {reason}"))
}

/// Reads a file, whole or in part.
pub(crate) async fn read_file(
    shared: &Shared,
    request: wire::ReadFileRequest,
) -> Result<Bytes, Failure> {
    let root = view(shared, &request.job, &request.id, request.sandbox.as_ref()).await?;
    blocking(move || {
        let path = request.path;
        let mut file = root
            .open_file(Path::new(&path))
            .map_err(|error| missing("open", &path, error))?;
        let offset = u64::try_from(request.offset).unwrap_or(0);
        let wanted = match u64::try_from(request.length) {
            Ok(0) | Err(_) => MAX_READ + 1,
            Ok(length) => length,
        };
        let mut data = Vec::new();
        file.seek(SeekFrom::Start(offset))
            .map_err(|error| missing("seek", &path, error))?;
        file.take(wanted.min(MAX_READ + 1))
            .read_to_end(&mut data)
            .map_err(|error| missing("read", &path, error))?;
        if data.len() as u64 > MAX_READ {
            return Err(Failure::user(format!(
                "read {path}: more than {MAX_READ} bytes; ask for a range"
            )));
        }
        Ok(Bytes::from(data))
    })
    .await
}

/// Lists a directory.
pub(crate) async fn read_dir(
    shared: &Shared,
    request: wire::ReadDirRequest,
) -> Result<Vec<wire::FileStat>, Failure> {
    let root = view(shared, &request.job, &request.id, request.sandbox.as_ref()).await?;
    blocking(move || {
        let path = Path::new(&request.path);
        let entries = root
            .read_dir(path)
            .map_err(|error| missing("open", &request.path, error))?;
        let mut stats = Vec::with_capacity(entries.len());
        for entry in entries {
            let name = entry.name.to_string_lossy().into_owned();
            let wanted = request.include_pattern.is_empty()
                || fstree::pattern::go_match(&request.include_pattern, Path::new(&name))
                    .map_err(|error| Failure::user(crate::failure::chain(&error)))?;
            if wanted {
                stats.push(stat(&root, &path.join(&entry.name), name)?);
            }
        }
        Ok(stats)
    })
    .await
}

/// One file's metadata.
pub(crate) async fn stat_file(
    shared: &Shared,
    request: wire::StatFileRequest,
) -> Result<wire::FileStat, Failure> {
    let root = view(shared, &request.job, &request.id, request.sandbox.as_ref()).await?;
    blocking(move || {
        let path = Path::new(&request.path);
        let name = path
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        stat(&root, path, name)
    })
    .await
}

fn stat(root: &RootDir, path: &Path, name: String) -> Result<wire::FileStat, Failure> {
    let text = path.to_string_lossy();
    let metadata: Metadata = root
        .stat(path, Follow::No)
        .map_err(|error| missing("lstat", &text, error))?;
    let linkname = match metadata.kind {
        FileKind::Symlink => root
            .read_link(path)
            .map_err(|error| missing("readlink", &text, error))?
            .to_string_lossy()
            .into_owned(),
        _ => String::new(),
    };
    Ok(wire::FileStat {
        path: name,
        mode: go_mode(metadata.kind, metadata.mode),
        uid: metadata.uid,
        gid: metadata.gid,
        size: i64::try_from(metadata.size).unwrap_or(i64::MAX),
        mod_time: metadata.mtime_ns,
        linkname,
        ..wire::FileStat::default()
    })
}
