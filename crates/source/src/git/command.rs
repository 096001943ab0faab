//! Running `git` so that only the request decides what it does.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci::UrlCredentials;
use tempfile::NamedTempFile;
use tokio::process::Command;

use super::GitRequest;
use super::running::{self, SCRIPT};

/// A server that has sent nothing for so long will not: others wait for the repository. Large ones
/// count their objects for minutes, but say how far they are.
const SILENCE: Duration = Duration::from_secs(300);
/// What a remote repository, or one that is named in one, may be reached by.
const PROTOCOLS: &str = "http:https:git:ssh";
/// Without the keys and the known hosts of the user and of the machine, which ssh finds by the
/// password file and not by `HOME`; and without questions on a terminal.
const SSH: &str = "ssh -F /dev/null -o IdentityFile=none -o GlobalKnownHostsFile=/dev/null \
    -o BatchMode=yes";
/// The proxies of the daemon hold for git, too.
const INHERITED: [&str; 9] = [
    "PATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
];

/// Why a command of git failed.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// There is no git, or it cannot be run.
    #[error("failed to run git")]
    Start(#[source] io::Error),
    /// Another machine does not answer.
    #[error("git made no progress for {} s", .0.as_secs_f64())]
    Silent(Duration),
    /// It said so.
    #[error("git stderr:\n{stderr}: {status}")]
    Exit {
        /// What it said.
        stderr: String,
        /// How it ended.
        status: Status,
    },
}

/// How a program ended.
#[derive(Debug)]
pub struct Status(pub(super) std::process::ExitStatus);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.code() {
            Some(code) => write!(f, "exit status {code}"),
            None => write!(f, "{}", self.0),
        }
    }
}

/// What a command needs to reach other machines.
pub(super) struct Network {
    environment: Vec<(&'static str, String)>,
    /// How long nothing may come.
    pub(super) silence: Duration,
    /// Settings, given by the environment: arguments can be seen by all users.
    settings: Vec<(String, String)>,
    /// Read by ssh as long as this lives.
    _known_hosts: Option<NamedTempFile>,
}

impl Network {
    pub(super) fn of(request: &GitRequest) -> Result<Network, crate::error::GitError> {
        let known_hosts = match request.known_hosts.as_str() {
            "" => None,
            text => {
                let file = known_hosts_file(text, &request.scratch);
                Some(file.map_err(crate::error::GitError::Store)?)
            }
        };
        let mut ssh = SSH.to_owned();
        match &known_hosts {
            Some(file) => ssh.push_str(&format!(
                " -o UserKnownHostsFile={} -o StrictHostKeyChecking=yes",
                quoted(file.path())
            )),
            None => {
                ssh.push_str(" -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no");
            }
        }
        let mut environment = vec![
            ("GIT_ALLOW_PROTOCOL", PROTOCOLS.to_owned()),
            ("GIT_SSH_COMMAND", ssh),
            ("GIT_HTTP_LOW_SPEED_LIMIT", "1".to_owned()),
            ("GIT_HTTP_LOW_SPEED_TIME", SILENCE.as_secs().to_string()),
        ];
        if let Some(agent) = &request.ssh_agent {
            environment.push(("SSH_AUTH_SOCK", agent.display().to_string()));
        }
        let authorization = match &request.authorization {
            Some(value) => Some(value.expose().to_owned()),
            None => basic(&request.url),
        };
        let url = request.public_url();
        let settings = authorization.iter().map(|value| {
            let name = format!("http.{}.extraheader", scope(&url));
            (name, format!("Authorization: {value}"))
        });
        Ok(Network {
            environment,
            silence: SILENCE,
            settings: settings.collect(),
            _known_hosts: known_hosts,
        })
    }
}

/// What the credentials in the URL of a web server are as a header.
fn basic(url: &str) -> Option<String> {
    let found = UrlCredentials::of(url).filter(|_| url.starts_with("http"))?;
    let pair = [found.user(), found.password()].join(&b':');
    Some(format!("basic {}", STANDARD.encode(pair)))
}

/// The URLs that a token is sent to: the repository's own, but all of a host that is known to have
/// one for all its repositories, so that it serves for submodules as well.
fn scope(url: &str) -> &str {
    const SHARED: &str = "https://github.com/";
    if url.starts_with(SHARED) { SHARED } else { url }
}

/// A file for ssh, under a name that nobody knows before.
fn known_hosts_file(text: &str, directory: &Path) -> io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new_in(directory)?;
    io::Write::write_all(&mut file, text.as_bytes())?;
    Ok(file)
}

/// A path as a value of an option of ssh's, in a line for a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string().replace('%', "%%");
    format!("'\"{}\"'", text.replace('\'', r"'\''"))
}

/// Git, in a directory.
pub(super) struct Git<'a> {
    directory: Option<PathBuf>,
    environment: Vec<(&'static str, PathBuf)>,
    network: Option<&'a Network>,
}

impl Git<'static> {
    /// In no repository.
    pub(super) fn anywhere() -> Git<'static> {
        Git {
            directory: Some(PathBuf::from("/")),
            environment: vec![("GIT_DIR", PathBuf::from("/dev/null"))],
            network: None,
        }
    }

    /// In a repository without files.
    pub(super) fn in_repository(path: &Path) -> Git<'static> {
        Git {
            directory: Some(path.to_owned()),
            environment: vec![("GIT_DIR", path.to_owned())],
            network: None,
        }
    }

    /// In the top directory of files whose repository is in `.git`.
    pub(super) fn in_files(path: &Path) -> Git<'static> {
        Git {
            directory: Some(path.to_owned()),
            // None above is looked for.
            environment: vec![(
                "GIT_CEILING_DIRECTORIES",
                path.parent().unwrap_or(path).to_owned(),
            )],
            network: None,
        }
    }

    /// Able to reach other machines.
    pub(super) fn with(self, network: &Network) -> Git<'_> {
        Git {
            directory: self.directory,
            environment: self.environment,
            network: Some(network),
        }
    }
}

impl Git<'_> {
    /// Where it works.
    pub(super) fn directory(&self) -> &Path {
        self.directory.as_deref().unwrap_or(Path::new("/"))
    }

    /// Runs a command and gives what it prints. Dropped, the command is killed. One that reaches
    /// other machines has to say how far it is.
    pub(super) async fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String, Failed> {
        let stdout = self.bytes(arguments).await?;
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    /// As [`Git::run`], for what need not be text.
    pub(super) async fn bytes<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Vec<u8>, Failed> {
        let silence = self.network.map(|network| network.silence);
        running::run(self.command(arguments), silence).await
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", SCRIPT, "git"])
            .args(arguments)
            .current_dir(self.directory())
            .env_clear()
            .envs(
                INHERITED
                    .iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .env("HOME", "/dev/null")
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ADVICE", "0")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut settings = vec![
            ("init.defaultBranch", "master"),
            ("core.logAllRefUpdates", "false"),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            ("advice.detachedHead", "false"),
            // Directories of ours, whoever the daemon runs as.
            ("safe.directory", "*"),
        ];
        if let Some(network) = self.network {
            command.envs(
                network
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            );
            let more = network.settings.iter();
            settings.extend(more.map(|(name, value)| (name.as_str(), value.as_str())));
        }
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (number, (name, value)) in settings.into_iter().enumerate() {
            command
                .env(format!("GIT_CONFIG_KEY_{number}"), name)
                .env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The arguments of the command that asks for what `request` means.
    fn arguments(request: &GitRequest) -> String {
        let network = Network::of(request).unwrap();
        let git = Git::anywhere().with(&network);
        let command = git.command(&["ls-remote", "--", &request.public_url()]);
        format!("{:?}", command.as_std().get_args().collect::<Vec<_>>())
    }

    /// What ssh makes of the command that git is told to run.
    fn ssh_config(request: &GitRequest) -> String {
        let network = Network::of(request).unwrap();
        let mut found = network.environment.iter();
        let (_, command) = found.find(|(name, _)| *name == "GIT_SSH_COMMAND").unwrap();
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", &format!("{command} -G host")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn known_hosts_are_where_nobody_else_can_be() {
        let directory = tempfile::tempdir().unwrap();
        let scratch = directory.path().join("it's 100%h");
        std::fs::create_dir(&scratch).unwrap();
        let request = GitRequest {
            known_hosts: "host ssh-ed25519 AAAA".into(),
            scratch: scratch.clone(),
            ..GitRequest::default()
        };
        let network = Network::of(&request).unwrap();
        let files = || std::fs::read_dir(&scratch).unwrap().count();
        assert_eq!(files(), 1);
        let other = Network::of(&request).unwrap();
        assert_eq!(files(), 2);
        drop((network, other));
        assert_eq!(files(), 0);
        let config = ssh_config(&request);
        let wanted = format!("userknownhostsfile {}/", scratch.display());
        assert!(config.replace("%%", "%").contains(&wanted), "{config}");
        assert!(config.contains("stricthostkeychecking true"), "{config}");
    }

    #[test]
    fn ssh_uses_nothing_of_the_machine_and_asks_nothing() {
        let config = ssh_config(&GitRequest::default());
        let values = |name: &str| -> Vec<&str> {
            let lines = config.lines().filter_map(|line| line.split_once(' '));
            lines
                .filter(|(key, _)| *key == name)
                .map(|(_, value)| value)
                .collect()
        };
        assert_eq!(values("identityfile"), ["none"]);
        assert_eq!(values("globalknownhostsfile"), ["/dev/null"]);
        assert_eq!(values("userknownhostsfile"), ["/dev/null"]);
        assert_eq!(values("batchmode"), ["yes"]);
    }

    #[test]
    fn other_users_see_no_credentials() {
        let request = GitRequest {
            url: "https://user:SECRET@host/r.git".into(),
            ..GitRequest::default()
        };
        let seen = arguments(&request);
        assert!(seen.contains("https://host/r.git"), "{seen}");
        assert!(!seen.contains("SECRET") && !seen.contains("user"), "{seen}");
    }
}
