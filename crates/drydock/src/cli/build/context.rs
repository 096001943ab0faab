//! Where the context and the Dockerfile come from.

use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::error::hinted;

/// Largest Dockerfile that is read from standard input; that of the frontend.
const MAX_DOCKERFILE: u64 = 16 << 20;

/// Enough of a stream to see whether it is a tar.
const PEEK: usize = 512;

/// What a build reads.
#[derive(Debug)]
pub(super) struct Inputs {
    /// The context.
    pub(super) context: Source,
    /// The directory of the Dockerfile, if it is one of this machine.
    pub(super) dockerfile: Option<PathBuf>,
    /// The Dockerfile's path in its directory or context; the frontend's default if none.
    pub(super) filename: Option<String>,
    /// Removed when the build is over.
    _temporary: Vec<tempfile::TempDir>,
}

impl Inputs {
    /// Nothing: what is read is named otherwise.
    pub(super) fn none() -> Inputs {
        Inputs {
            context: Source::None,
            dockerfile: None,
            filename: None,
            _temporary: Vec::new(),
        }
    }
}

/// Where the context comes from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// There is none.
    None,
    Directory(PathBuf),
    /// Fetched by the daemon.
    Url(String),
    /// A tar on standard input, of which these bytes are already read.
    Stdin(Vec<u8>),
}

/// Finds both, and checks what can be checked here.
pub(super) fn inputs(context: &str, file: Option<&str>) -> anyhow::Result<Inputs> {
    match (context, file) {
        ("-", Some("-")) => Err(hinted(
            "context and Dockerfile cannot both be read from standard input",
            "name a directory as context",
        )),
        ("-", file) => from_stdin(file),
        (url, file) if is_url(url) => from_url(url, file),
        (directory, file) => from_directory(Path::new(directory), file),
    }
}

fn from_stdin(file: Option<&str>) -> anyhow::Result<Inputs> {
    let mut head = Vec::new();
    let stdin = io::stdin();
    stdin
        .lock()
        .take(PEEK as u64)
        .read_to_end(&mut head)
        .context("failed to read the context")?;
    if is_archive(&head) {
        let filename = file.map(ToOwned::to_owned);
        let context = Source::Stdin(head);
        return Ok(Inputs {
            context,
            dockerfile: None,
            filename,
            _temporary: Vec::new(),
        });
    }
    if let Some(file) = file {
        return Err(hinted(
            format!("standard input holds a Dockerfile, but `{file}` is named too"),
            "leave out `-f`, or send a tar",
        ));
    }
    let directory = dockerfile_directory(&mut head.as_slice().chain(stdin.lock()))?;
    let empty = tempfile::tempdir().context("failed to make an empty context")?;
    Ok(Inputs {
        context: Source::Directory(empty.path().to_owned()),
        dockerfile: Some(directory.path().to_owned()),
        filename: None,
        _temporary: vec![directory, empty],
    })
}

fn from_url(url: &str, file: Option<&str>) -> anyhow::Result<Inputs> {
    let context = Source::Url(url.to_owned());
    match file {
        Some("-") => {
            let directory = dockerfile_directory(&mut io::stdin().lock())?;
            let dockerfile = Some(directory.path().to_owned());
            Ok(Inputs {
                context,
                dockerfile,
                filename: None,
                _temporary: vec![directory],
            })
        }
        file => {
            let filename = file.map(ToOwned::to_owned);
            Ok(Inputs {
                context,
                dockerfile: None,
                filename,
                _temporary: Vec::new(),
            })
        }
    }
}

fn from_directory(directory: &Path, file: Option<&str>) -> anyhow::Result<Inputs> {
    let shown = directory.display();
    match std::fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => {
            return Err(hinted(
                format!("context `{shown}` is no directory"),
                "name the directory with the files; the Dockerfile goes to `-f`",
            ));
        }
        Err(error) => {
            return Err(error).with_context(|| format!("failed to open context `{shown}`"));
        }
    }
    let context = Source::Directory(directory.to_owned());
    if file == Some("-") {
        let temporary = dockerfile_directory(&mut io::stdin().lock())?;
        let dockerfile = Some(temporary.path().to_owned());
        return Ok(Inputs {
            context,
            dockerfile,
            filename: None,
            _temporary: vec![temporary],
        });
    }
    let path = match file {
        Some(file) => PathBuf::from(file),
        None => default_dockerfile(directory),
    };
    if !path.is_file() {
        let mend = match file {
            Some(_) => "`-f` is relative to the current directory".to_owned(),
            None => format!("create `{}`, or name another with `-f`", path.display()),
        };
        return Err(hinted(
            format!("there is no Dockerfile at `{}`", path.display()),
            mend,
        ));
    }
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("`{}` is no file name", path.display()))?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let filename = Some(name.to_owned());
    Ok(Inputs {
        context,
        dockerfile: Some(parent),
        filename,
        _temporary: Vec::new(),
    })
}

/// `Dockerfile`, or `dockerfile` where only that is there.
fn default_dockerfile(directory: &Path) -> PathBuf {
    let usual = directory.join("Dockerfile");
    let lower = directory.join("dockerfile");
    if !usual.exists() && lower.exists() {
        lower
    } else {
        usual
    }
}

/// A directory with nothing but the Dockerfile that `source` holds.
fn dockerfile_directory(source: &mut dyn Read) -> anyhow::Result<tempfile::TempDir> {
    let mut text = Vec::new();
    source
        .take(MAX_DOCKERFILE + 1)
        .read_to_end(&mut text)
        .context("failed to read the Dockerfile from standard input")?;
    if text.len() as u64 > MAX_DOCKERFILE {
        bail!(
            "the Dockerfile on standard input is larger than {} MiB",
            MAX_DOCKERFILE >> 20
        );
    }
    let directory = tempfile::tempdir().context("failed to make room for the Dockerfile")?;
    std::fs::File::create(directory.path().join("Dockerfile"))
        .and_then(|mut file| file.write_all(&text))
        .context("failed to keep the Dockerfile")?;
    Ok(directory)
}

/// Whether `text` is fetched by the daemon rather than read here.
pub(super) fn is_url(text: &str) -> bool {
    let schemes = ["http://", "https://", "git://", "ssh://", "git@"];
    schemes.iter().any(|scheme| text.starts_with(scheme))
        || (text.starts_with("github.com/") && !Path::new(text).exists())
}

/// A tar, plain or compressed with gzip, bzip2, xz or zstd.
fn is_archive(head: &[u8]) -> bool {
    let magics: [&[u8]; 4] = [b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    magics.iter().any(|magic| head.starts_with(magic)) || head.get(257..262) == Some(b"ustar")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(context: &Path, file: Option<&str>) -> String {
        let error = inputs(context.to_str().unwrap(), file).unwrap_err();
        crate::error::chain(&error)
    }

    #[test]
    fn the_dockerfile_is_looked_for_in_the_context() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("Dockerfile");
        let expected = format!("there is no Dockerfile at `{}`", missing.display());
        assert_eq!(error(directory.path(), None), expected);
        std::fs::write(directory.path().join("dockerfile"), "FROM scratch").unwrap();
        let found = inputs(directory.path().to_str().unwrap(), None).unwrap();
        assert_eq!(found.filename.as_deref(), Some("dockerfile"));
        assert_eq!(found.dockerfile.as_deref(), Some(directory.path()));
        assert_eq!(
            found.context,
            Source::Directory(directory.path().to_owned())
        );
    }

    #[test]
    fn a_context_must_be_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(
            error(&file, None),
            format!("context `{}` is no directory", file.display())
        );
        let missing = directory.path().join("missing");
        assert!(error(&missing, None).starts_with("failed to open context"));
    }

    #[test]
    fn a_url_is_left_to_the_daemon() {
        let url = "https://github.com/o/r.git#main";
        let found = inputs(url, Some("sub/Dockerfile")).unwrap();
        assert_eq!(found.context, Source::Url(url.into()));
        assert_eq!(found.filename.as_deref(), Some("sub/Dockerfile"));
        assert!(is_url("git@github.com:o/r.git"));
        assert!(!is_url("./dir"));
    }

    #[test]
    fn archives_are_known_by_their_first_bytes() {
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert!(is_archive(&tar));
        assert!(is_archive(b"\x1f\x8b\x08\0"));
        assert!(!is_archive(b"FROM scratch\n"));
    }
}
