//! The seeds of the keys by which daemons know a user again: `.token_seed` beside docker's
//! configuration, one for each registry.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::docker_config;

const FILE: &str = ".token_seed";
const LOCK: &str = ".token_seed.lock";
/// Bytes of a seed.
const SEED: usize = 16;
/// Largest file that is read, in bytes: one seed takes a hundred.
const MAX_SIZE: u64 = 1 << 20;

/// As BuildKit's clients write it.
#[derive(Clone, Serialize, Deserialize)]
struct Seed {
    #[serde(rename = "Seed")]
    base64: String,
}

/// There are no random bytes, or the file of seeds cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("failed to use `{FILE}`")]
pub(crate) struct SeedError(#[source] io::Error);

/// The seed for `host`, made if there is none. Where nothing can be written it is another each time,
/// and no daemon knows the user again. Blocks.
pub(crate) fn of(host: &str) -> Result<Vec<u8>, SeedError> {
    let Some(directory) = docker_config::directory() else {
        return fresh().map_err(SeedError);
    };
    of_directory(&directory, host).map_err(SeedError)
}

fn of_directory(directory: &Path, host: &str) -> io::Result<Vec<u8>> {
    let made = std::fs::create_dir_all(directory);
    // Held until the end of the function: two clients must not each make a seed.
    let _lock = match made.and_then(|()| lock(directory)) {
        Err(error) if !is_read_only(&error) => return Err(error),
        locked => locked,
    };
    let path = directory.join(FILE);
    let mut seeds = read(&path)?;
    let known = seeds
        .get(host)
        .and_then(|seed| STANDARD.decode(&seed.base64).ok());
    if let Some(seed) = known {
        return Ok(seed);
    }
    let seed = fresh()?;
    let base64 = STANDARD.encode(&seed);
    seeds.insert(host.to_owned(), Seed { base64 });
    match write(&path, &seeds) {
        Err(error) if !is_read_only(&error) => Err(error),
        _ => Ok(seed),
    }
}

fn fresh() -> io::Result<Vec<u8>> {
    let mut seed = vec![0; SEED];
    let filled = SystemRandom::new().fill(&mut seed);
    filled.map_err(|_| io::Error::other("the system has no random bytes"))?;
    Ok(seed)
}

fn lock(directory: &Path) -> io::Result<File> {
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(directory.join(LOCK))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    Ok(lock)
}

/// What a client that broke off has left half written counts as nothing.
fn read(path: &Path) -> io::Result<BTreeMap<String, Seed>> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_SIZE).read_to_end(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound || is_read_only(&error) => {
            Ok(BTreeMap::new())
        }
        Err(error) => Err(error),
        Ok(_) => Ok(serde_json::from_slice(&text).unwrap_or_default()),
    }
}

fn write(path: &Path, seeds: &BTreeMap<String, Seed>) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(seeds)?;
    File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)?
        .write_all(&text)
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_kept_for_each_host() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("not/there");
        let of = |host| of_directory(&inner, host).unwrap();
        let (first, other) = (of("a.io"), of("b.io:5000"));
        assert_eq!(first.len(), SEED);
        assert_ne!(first, other);
        assert_eq!((of("a.io"), of("b.io:5000")), (first, other));
    }

    #[test]
    fn what_buildkits_client_wrote_is_read_and_what_is_broken_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let text = "{\n  \"a.io\": {\n    \"Seed\": \"AAECAwQFBgcICQoLDA0ODw==\"\n  }\n}";
        std::fs::write(&path, text).unwrap();
        let seed: Vec<u8> = (0..16).collect();
        assert_eq!(of_directory(directory.path(), "a.io").unwrap(), seed);
        std::fs::write(&path, "{\"a.io\":").unwrap();
        assert_ne!(of_directory(directory.path(), "a.io").unwrap(), seed);
    }
}
