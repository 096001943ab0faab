//! Credentials for registries, as docker keeps them: in `config.json` or with a helper program.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// Docker Hub's key, from before there were others.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// Names under which Docker Hub is asked for.
const HUB_HOSTS: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// Largest file that is read. A real one has a few kilobytes.
const MAX_SIZE: u64 = 8 << 20;

/// A user name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// Credentials cannot be looked up.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file is there and cannot be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is no docker configuration.
    #[error("failed to parse `{}`", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// The `auth` of a host is not `user:password` in base64.
    #[error("the `auth` of `{0}` is not valid")]
    Auth(String),
    /// A helper program cannot be run.
    #[error("failed to run `{program}`")]
    Helper {
        /// Its name.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// A helper program answers nonsense.
    #[error("`{0}` gave no credentials")]
    Answer(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    auths: BTreeMap<String, Entry>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

// Secrets are not shown.
impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entry")
    }
}

/// What the user has for `host`: a name and a password, or an empty name and an identity token.
/// None if there is nothing. Blocks: a helper program may be run.
pub fn credentials(host: &str) -> Result<Option<(String, String)>, CredentialsError> {
    let Some(path) = path() else { return Ok(None) };
    let text = match read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(CredentialsError::Read { path, source }),
    };
    let config: Config =
        serde_json::from_str(&text).map_err(|source| CredentialsError::Parse { path, source })?;
    let key = if HUB_HOSTS.contains(&host) {
        HUB_KEY
    } else {
        host
    };
    if let Some(helper) = config.cred_helpers.get(key).or(config.creds_store.as_ref()) {
        return ask_helper(helper, key);
    }
    config
        .find(key)
        .map(|entry| entry.credentials(key))
        .transpose()
        .map(Option::flatten)
}

fn path() -> Option<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let directory = set("DOCKER_CONFIG").or_else(|| Some(set("HOME")?.join(".docker")))?;
    Some(directory.join("config.json"))
}

fn read(path: &PathBuf) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(MAX_SIZE)
        .read_to_string(&mut text)?;
    Ok(text)
}

impl Config {
    /// The entry of exactly this key, or of one that names the same host.
    fn find(&self, key: &str) -> Option<&Entry> {
        let host = host_of(key);
        let same = || self.auths.iter().find(|(other, _)| host_of(other) == host);
        self.auths
            .get(key)
            .or_else(|| same().map(|(_, entry)| entry))
    }
}

impl Entry {
    fn credentials(&self, key: &str) -> Result<Option<(String, String)>, CredentialsError> {
        if !self.identitytoken.is_empty() {
            return Ok(Some((String::new(), self.identitytoken.clone())));
        }
        if !self.username.is_empty() {
            return Ok(Some((self.username.clone(), self.password.clone())));
        }
        if self.auth.is_empty() {
            return Ok(None);
        }
        let invalid = || CredentialsError::Auth(key.to_owned());
        let bytes = STANDARD.decode(&self.auth).map_err(|_| invalid())?;
        let text = String::from_utf8(bytes).map_err(|_| invalid())?;
        let (user, password) = text.split_once(':').ok_or_else(invalid)?;
        Ok(Some((
            user.to_owned(),
            password.trim_end_matches('\0').to_owned(),
        )))
    }
}

/// Keys were URLs once, and some still are.
fn host_of(key: &str) -> &str {
    let rest = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    rest.split('/').next().unwrap_or(rest)
}

fn ask_helper(helper: &str, key: &str) -> Result<Option<(String, String)>, CredentialsError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let program = format!("docker-credential-{helper}");
    let failed = |source| CredentialsError::Helper {
        program: program.clone(),
        source,
    };
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(key.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        // That is how a helper says that it has none.
        return Ok(None);
    }
    let answer: Answer =
        serde_json::from_slice(&output.stdout).map_err(|_| CredentialsError::Answer(program))?;
    let username = if answer.username == TOKEN_USER {
        String::new()
    } else {
        answer.username
    };
    Ok(Some((username, answer.secret)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(config: &str, key: &str) -> Option<(String, String)> {
        let config: Config = serde_json::from_str(config).unwrap();
        config
            .find(key)
            .and_then(|entry| entry.credentials(key).unwrap())
    }

    fn pair(user: &str, secret: &str) -> Option<(String, String)> {
        Some((user.to_owned(), secret.to_owned()))
    }

    #[test]
    fn an_entry_is_found_by_host() {
        let config = r#"{"auths":{
            "https://index.docker.io/v1/": {"auth": "dTpwOnE="},
            "https://r.io/v2/": {"username": "u", "password": "p"},
            "t.io": {"identitytoken": "token"},
            "empty.io": {}
        }, "unknown": 1}"#;
        assert_eq!(find(config, HUB_KEY), pair("u", "p:q"));
        assert_eq!(find(config, "r.io"), pair("u", "p"));
        assert_eq!(find(config, "t.io"), pair("", "token"));
        assert_eq!(find(config, "empty.io"), None);
        assert_eq!(find(config, "other.io"), None);
    }

    #[test]
    fn a_broken_entry_names_its_host() {
        let entry = Entry {
            auth: "%".into(),
            ..Entry::default()
        };
        assert_eq!(
            entry.credentials("r.io").unwrap_err().to_string(),
            "the `auth` of `r.io` is not valid"
        );
    }
}
