//! Daemons that are reached through a program: `docker exec` and the like, which run `buildctl dial-stdio`
//! where the daemon is and carry its standard streams.

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// A program whose standard streams are a connection to a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Helper {
    /// What is run.
    pub program: &'static str,
    /// With what arguments.
    pub arguments: Vec<String>,
}

/// Why there is no program for an address.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// The part after the scheme names nothing.
    #[error("address `{address}` names no {what}")]
    Missing {
        /// What was given.
        address: String,
        /// What is needed.
        what: &'static str,
    },
    /// A name has letters that none has.
    #[error("unsupported {what} name: {name:?}")]
    Name {
        /// What is named.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// There is more in the address than is understood.
    #[error("address `{address}` has {what}, which is not supported")]
    Extra {
        /// What was given.
        address: String,
        /// What is too much.
        what: &'static str,
    },
}

/// The parts of `scheme://user@host:port/path?query`.
struct Parts<'a> {
    user: Option<&'a str>,
    host: &'a str,
    port: Option<&'a str>,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(rest: &'a str) -> Parts<'a> {
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let (host, port) = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (name, Some(port).filter(|port| !port.is_empty()))
            }
            _ => (host, None),
        };
        Parts {
            user,
            host: host.trim_start_matches('[').trim_end_matches(']'),
            port,
            path,
            query,
        }
    }

    /// The value of a key of the query; empty if it is not there.
    fn value(&self, key: &str) -> String {
        let pairs = self.query.unwrap_or_default().split('&');
        let mut found = pairs.filter_map(|pair| match pair.split_once('=') {
            Some((k, value)) if k == key => Some(value.to_owned()),
            _ => None,
        });
        found.next().unwrap_or_default()
    }
}

impl Helper {
    /// The program for `address`; none if its scheme needs none.
    ///
    /// # Errors
    /// See [`HelperError`].
    pub fn of(address: &str) -> Result<Option<Helper>, HelperError> {
        let Some((scheme, rest)) = address.split_once("://") else {
            return Ok(None);
        };
        let parts = Parts::of(rest);
        let named = |what| match parts.host {
            // A name that is an option would be taken for one.
            host if host.starts_with('-') => Err(HelperError::Name {
                what,
                name: host.to_owned(),
            }),
            "" => Err(HelperError::Missing {
                address: address.to_owned(),
                what,
            }),
            host => Ok(host.to_owned()),
        };
        let dial = ["buildctl".to_owned(), "dial-stdio".to_owned()];
        let (program, mut arguments) = match scheme {
            "docker-container" => {
                let context = parts.value("context");
                let context = Some(context).filter(|context| !context.is_empty());
                let mut arguments: Vec<String> = context
                    .map(|name| format!("--context={name}"))
                    .into_iter()
                    .collect();
                arguments.extend(["exec".into(), "-i".into(), named("container")?]);
                ("docker", arguments)
            }
            "podman-container" => {
                let name = named("container")?;
                ("podman", vec!["exec".into(), "-i".into(), name])
            }
            "nerdctl-container" => {
                let mut arguments = vec!["exec".to_owned()];
                let namespace = parts.value("namespace");
                if !namespace.is_empty() {
                    arguments.extend(["--namespace".to_owned(), namespace]);
                }
                arguments.extend(["-i".to_owned(), named("container")?]);
                ("nerdctl", arguments)
            }
            "kube-pod" => ("kubectl", pod(&parts, named("pod")?)?),
            "ssh" => return ssh(address, &parts, named("host")?).map(Some),
            _ => return Ok(None),
        };
        arguments.extend(dial);
        Ok(Some(Helper { program, arguments }))
    }

    /// Runs the program. What it says on its standard error goes to ours.
    ///
    /// # Errors
    /// There is no such program.
    pub fn start(&self) -> io::Result<Piped> {
        let mut child = Command::new(self.program)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                let text = format!("failed to run `{}`: {error}", self.program);
                io::Error::new(error.kind(), text)
            })?;
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        Ok(Piped {
            input: child.stdin.take().ok_or_else(gone)?,
            output: child.stdout.take().ok_or_else(gone)?,
            _child: child,
        })
    }
}

/// Names of Kubernetes: nothing else can be one, and nothing else is handed to a program.
fn pod(parts: &Parts<'_>, pod: String) -> Result<Vec<String>, HelperError> {
    let checked = |what, name: String| {
        let good = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
        match name.bytes().all(good) {
            true => Ok(name),
            false => Err(HelperError::Name { what, name }),
        }
    };
    let namespace = checked("namespace", parts.value("namespace"))?;
    let container = checked("container", parts.value("container"))?;
    Ok(vec![
        format!("--context={}", parts.value("context")),
        format!("--namespace={namespace}"),
        "exec".to_owned(),
        format!("--container={container}"),
        "-i".to_owned(),
        checked("pod", pod)?,
        "--".to_owned(),
    ])
}

fn ssh(address: &str, parts: &Parts<'_>, host: String) -> Result<Helper, HelperError> {
    let extra = |what| HelperError::Extra {
        address: address.to_owned(),
        what,
    };
    if parts.query.is_some() {
        return Err(extra("a query after the host"));
    }
    if address.contains('#') {
        return Err(extra("a fragment after the host"));
    }
    let mut arguments = Vec::new();
    if let Some(user) = parts.user {
        if user.contains(':') {
            return Err(extra("a password"));
        }
        arguments.extend(["-l".to_owned(), user.to_owned()]);
    }
    if let Some(port) = parts.port {
        arguments.extend(["-p".to_owned(), port.to_owned()]);
    }
    arguments.extend(["--".to_owned(), host, "buildctl".to_owned()]);
    if !parts.path.is_empty() {
        arguments.extend(["--addr".to_owned(), format!("unix://{}", parts.path)]);
    }
    arguments.push("dial-stdio".to_owned());
    Ok(Helper {
        program: "ssh",
        arguments,
    })
}

/// The standard streams of a program that runs; it ends when this is dropped.
#[derive(Debug)]
pub struct Piped {
    input: ChildStdin,
    output: ChildStdout,
    _child: Child,
}

impl AsyncRead for Piped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Piped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.input).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(address: &str) -> String {
        match Helper::of(address) {
            Ok(Some(helper)) => format!("{} {}", helper.program, helper.arguments.join(" ")),
            Ok(None) => String::new(),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn a_program_is_run_where_the_daemon_is() {
        let docker = "docker --context=c exec -i name buildctl dial-stdio";
        assert_eq!(line("docker-container://name?context=c"), docker);
        let podman = "podman exec -i name buildctl dial-stdio";
        assert_eq!(line("podman-container://name"), podman);
        let nerdctl = "nerdctl exec --namespace n -i name buildctl dial-stdio";
        assert_eq!(line("nerdctl-container://name?namespace=n"), nerdctl);
        let pod =
            "kubectl --context=u@c --namespace=n exec --container=k -i p -- buildctl dial-stdio";
        assert_eq!(
            line("kube-pod://p?container=k&namespace=n&context=u@c"),
            pod
        );
        let ssh = "ssh -l me -p 10022 -- host buildctl --addr unix:///s/t.sock dial-stdio";
        assert_eq!(line("ssh://me@host:10022/s/t.sock"), ssh);
        assert_eq!(line("ssh://host"), "ssh -- host buildctl dial-stdio");
        assert_eq!(line("unix:///a"), "");
    }

    #[test]
    fn addresses_that_name_nothing_are_refused() {
        for address in [
            "docker-container://",
            "docker-container://-v",
            "kube-pod://",
            "kube-pod://Bad_name",
            "kube-pod://p?namespace=bad_name",
            "ssh://",
            "ssh://me:word@host",
            "ssh://host?a",
            "ssh://host#a",
        ] {
            assert!(line(address).starts_with("error: "), "{address}");
        }
    }
}
