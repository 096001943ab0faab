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
    registrytoken: String,
}

// Secrets are not shown.
impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entry")
    }
}

/// What a user has for a registry; all is empty if there is nothing. It has no `Debug`, so that it does
/// not get into a log.
#[derive(Default)]
pub struct Credentials {
    /// The user's name; empty with an identity token.
    pub username: String,
    /// A password, or an identity token.
    pub secret: String,
    /// A token for the registry itself, which needs no token server.
    pub registry_token: String,
}

/// What the user has for `host`. Blocks: a helper program may be run.
pub fn credentials(host: &str) -> Result<Credentials, CredentialsError> {
    let Some(path) = directory().map(|directory| directory.join("config.json")) else {
        return Ok(Credentials::default());
    };
    let text = match read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Credentials::default());
        }
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
    let entry = config.find(key);
    entry.map_or_else(
        || Ok(Credentials::default()),
        |entry| entry.credentials(key),
    )
}

/// Where docker keeps what belongs to the user.
pub(crate) fn directory() -> Option<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("DOCKER_CONFIG").or_else(|| Some(set("HOME")?.join(".docker")))
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
    fn credentials(&self, key: &str) -> Result<Credentials, CredentialsError> {
        let (username, secret) = self.pair(key)?;
        Ok(Credentials {
            username,
            secret,
            registry_token: self.registrytoken.clone(),
        })
    }

    fn pair(&self, key: &str) -> Result<(String, String), CredentialsError> {
        if !self.identitytoken.is_empty() {
            return Ok((String::new(), self.identitytoken.clone()));
        }
        if !self.username.is_empty() || self.auth.is_empty() {
            return Ok((self.username.clone(), self.password.clone()));
        }
        let invalid = || CredentialsError::Auth(key.to_owned());
        let bytes = STANDARD.decode(&self.auth).map_err(|_| invalid())?;
        let text = String::from_utf8(bytes).map_err(|_| invalid())?;
        let (user, password) = text.split_once(':').ok_or_else(invalid)?;
        let password = password.trim_end_matches('\0');
        Ok((user.to_owned(), password.to_owned()))
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

fn ask_helper(helper: &str, key: &str) -> Result<Credentials, CredentialsError> {
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
        return Ok(Credentials::default());
    }
    let answer: Answer =
        serde_json::from_slice(&output.stdout).map_err(|_| CredentialsError::Answer(program))?;
    let username = if answer.username == TOKEN_USER {
        String::new()
    } else {
        answer.username
    };
    Ok(Credentials {
        username,
        secret: answer.secret,
        registry_token: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(config: &str, key: &str) -> Option<(String, String)> {
        let config: Config = serde_json::from_str(config).unwrap();
        let found = config.find(key)?.credentials(key).unwrap();
        let some = !found.username.is_empty() || !found.secret.is_empty();
        some.then_some((found.username, found.secret))
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
            entry.credentials("r.io").err().unwrap().to_string(),
            "the `auth` of `r.io` is not valid"
        );
    }
}
