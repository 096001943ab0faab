//! `drydock run`: a container of an image, or of what a directory builds to.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use client::containers::{
    AttachTo, BindMount, CallError, CallErrorKind, Containers, CreateContainer, PublishedPort,
    RegistryAuth,
};

use super::{Global, attach, build, terminal, transfer};
use crate::error::{DAEMON_FAILURE, Exit, hinted};

/// Exit codes for a program that cannot be run, as docker and shells use them.
const CANNOT_EXECUTE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Largest environment file that is read.
const MAX_ENV_FILE: u64 = 16 << 20;

/// Run a command in a new container.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Remove the container when it ends.
    #[arg(long)]
    rm: bool,
    /// Keep standard input open.
    #[arg(long, short)]
    interactive: bool,
    /// Give the container a terminal.
    #[arg(long, short)]
    tty: bool,
    /// Leave it running, and print its id.
    #[arg(long, short)]
    detach: bool,
    /// Publish a port: [[IP:]PORT:]PORT[/PROTOCOL].
    #[arg(long, short, value_name = "PORTS")]
    publish: Vec<String>,
    /// Set an environment variable.
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read environment variables from a file.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Show a directory or volume in the container: SOURCE:DESTINATION[:ro].
    #[arg(long, short, value_name = "VOLUME")]
    volume: Vec<String>,
    /// Run in this directory.
    #[arg(long, short, default_value = "", value_name = "DIR")]
    workdir: String,
    /// Run as this user.
    #[arg(long, short, default_value = "")]
    user: String,
    /// Name of the container.
    #[arg(long, default_value = "")]
    name: String,
    /// Network: bridge, host or none.
    #[arg(long, default_value = "", alias = "net")]
    network: String,
    /// Program to run instead of the image's entrypoint.
    #[arg(long)]
    entrypoint: Option<String>,
    /// Host name of the container.
    #[arg(long, default_value = "")]
    hostname: String,
    /// Set a label.
    #[arg(long, short, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Signal that asks the container to stop.
    #[arg(long, default_value = "", value_name = "SIGNAL")]
    stop_signal: String,
    /// When to fetch the image: missing, always or never.
    #[arg(long, default_value = "missing", value_name = "WHEN")]
    pull: Pull,
    /// Build this directory and run the result, instead of an image.
    #[arg(long, value_name = "DIR")]
    build: Option<PathBuf>,
    /// With `--build`: the Dockerfile.
    #[arg(long, short, value_name = "FILE", requires = "build")]
    file: Option<String>,
    /// The image, unless `--build` is given; then the command and its arguments.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "IMAGE [COMMAND]"
    )]
    command: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Pull {
    Missing,
    Always,
    Never,
}

/// Runs the container, and ends with its code unless it is detached.
pub(super) async fn run(global: &Global, mut arguments: Arguments) -> anyhow::Result<()> {
    if arguments.tty && arguments.interactive && !std::io::stdin().is_terminal() {
        return Err(hinted("standard input is no terminal", "leave out `-t`"));
    }
    let image = match arguments.build.take() {
        Some(directory) => build::for_run(global, &directory, arguments.file.as_deref()).await?,
        None if arguments.command.is_empty() => {
            return Err(hinted(
                "no image given",
                "name one, or a directory with `--build`",
            ));
        }
        None => arguments.command.remove(0),
    };
    let containers = global.containers().await?;
    let request = request(&arguments, image)?;
    let id = create(&containers, request, arguments.pull).await?;
    if arguments.detach {
        containers.start(&id).await.map_err(start_failure)?;
        println!("{id}");
        return Ok(());
    }
    let size = terminal::size().filter(|_| arguments.tty);
    let to = AttachTo::Start { container: id };
    let attached = containers.attach(to, size).await.map_err(start_failure)?;
    // A terminal in raw mode sends keys, not signals; others are still passed on.
    let joined = attach::Joined {
        stdin: arguments.interactive,
        tty: arguments.tty,
        signals: true,
    };
    let exit = attach::carry(attached, joined)
        .await
        .map_err(start_failure)?;
    match attach::code(exit) {
        0 => Ok(()),
        code => Err(Exit(code).into()),
    }
}

/// Makes the container; fetches its image first if it is not there.
async fn create(
    containers: &Containers,
    request: CreateContainer,
    pull: Pull,
) -> anyhow::Result<String> {
    let image = request.image.clone();
    if pull == Pull::Always {
        fetch(containers, &image).await?;
    }
    match containers.create(request.clone()).await {
        Err(error) if error.kind == CallErrorKind::NotFound && pull == Pull::Missing => {
            eprintln!("image `{image}` is not here, fetching it");
            fetch(containers, &image).await?;
            containers.create(request).await
        }
        created => created,
    }
    .with_context(|| format!("failed to create a container of `{image}`"))
}

async fn fetch(containers: &Containers, image: &str) -> anyhow::Result<()> {
    let reference = oci::Reference::parse(image).context("failed to read the image's name")?;
    let auth = transfer::credentials(&reference)?;
    let auth = auth.unwrap_or_else(RegistryAuth::default);
    let name = || format!("failed to fetch `{image}`");
    let transfers = containers
        .pull(&reference.to_string(), None, auth)
        .await
        .with_context(name)?;
    transfer::show(transfers).await.with_context(name)
}

/// Tells a program that cannot be run from a daemon that failed.
fn start_failure(error: impl Into<anyhow::Error>) -> anyhow::Error {
    let error = error.into();
    let code = match error.downcast_ref::<CallError>().map(|error| error.kind) {
        Some(CallErrorKind::NotFound) => NOT_FOUND,
        Some(CallErrorKind::Denied) => CANNOT_EXECUTE,
        _ => DAEMON_FAILURE,
    };
    eprintln!(
        "error: failed to start the container: {}",
        crate::error::chain(&error)
    );
    Exit(code).into()
}

fn request(arguments: &Arguments, image: String) -> anyhow::Result<CreateContainer> {
    let mut ports = Vec::new();
    for text in &arguments.publish {
        ports.extend(published_ports(text)?);
    }
    let mounts = arguments
        .volume
        .iter()
        .map(|text| volume(text))
        .collect::<anyhow::Result<_>>()?;
    Ok(CreateContainer {
        name: arguments.name.clone(),
        image,
        args: arguments.command.clone(),
        entrypoint: arguments.entrypoint.clone(),
        env: environment(&arguments.env, &arguments.env_file)?,
        user: arguments.user.clone(),
        cwd: arguments.workdir.clone(),
        hostname: arguments.hostname.clone(),
        tty: arguments.tty,
        open_stdin: arguments.interactive,
        labels: labels(&arguments.label),
        network: arguments.network.clone(),
        ports,
        mounts,
        auto_remove: arguments.rm,
        stop_signal: arguments.stop_signal.clone(),
    })
}

/// `NAME=value` of every variable; a bare name takes this program's value, if there is one.
pub(super) fn environment(given: &[String], files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for path in files {
        let text = read_env_file(path)
            .with_context(|| format!("failed to read environment file `{}`", path.display()))?;
        let lines = text.lines().map(str::trim_start);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        all.extend(lines.map(ToOwned::to_owned));
    }
    all.extend(given.iter().cloned());
    let mut out = Vec::new();
    for variable in all {
        match variable.split_once('=') {
            Some(("", _)) => bail!("environment variable `{variable}` has no name"),
            Some(_) => out.push(variable),
            None => {
                if let Ok(value) = std::env::var(&variable) {
                    out.push(format!("{variable}={value}"));
                }
            }
        }
    }
    Ok(out)
}

fn read_env_file(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    std::io::Read::read_to_string(&mut std::io::Read::take(file, MAX_ENV_FILE), &mut text)?;
    Ok(text)
}

fn labels(given: &[String]) -> BTreeMap<String, String> {
    let pair = |label: &String| match label.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (label.clone(), String::new()),
    };
    given.iter().map(pair).collect()
}

/// Reads `[[ip:]port:]port[/protocol]`, where a port may be a range.
fn published_ports(text: &str) -> anyhow::Result<Vec<PublishedPort>> {
    let invalid = || {
        hinted(
            format!("`{text}` names no ports"),
            "write [[IP:]PORT:]PORT[/PROTOCOL], for example 8080:80",
        )
    };
    let (rest, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    if !matches!(protocol, "tcp" | "udp") {
        return Err(invalid());
    }
    let (host, container) = rest.rsplit_once(':').unwrap_or(("", rest));
    let (ip, host) = match host.rsplit_once(':') {
        Some((ip, port)) => (ip.trim_start_matches('[').trim_end_matches(']'), port),
        None => ("", host),
    };
    if !ip.is_empty() && ip.parse::<std::net::IpAddr>().is_err() {
        return Err(invalid());
    }
    let container = port_range(container).ok_or_else(invalid)?;
    let host = match host {
        "" => vec![0; container.len()],
        host => port_range(host).ok_or_else(invalid)?,
    };
    if host.len() != container.len() {
        return Err(invalid());
    }
    let port = |(host_port, container_port)| PublishedPort {
        host_ip: ip.to_owned(),
        host_port,
        container_port,
        protocol: protocol.to_owned(),
    };
    Ok(host.into_iter().zip(container).map(port).collect())
}

fn port_range(text: &str) -> Option<Vec<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last).then(|| (first..=last).collect())
}

/// Reads `source:destination[:ro|rw]`. A source with a `/` is a path on this machine.
fn volume(text: &str) -> anyhow::Result<BindMount> {
    let invalid = || {
        hinted(
            format!("`{text}` names no volume"),
            "write SOURCE:DESTINATION[:ro], the destination an absolute path",
        )
    };
    let mut parts = text.split(':');
    let (Some(source), Some(destination)) = (parts.next(), parts.next()) else {
        return Err(invalid());
    };
    let readonly = match (parts.next(), parts.next()) {
        (None | Some("rw" | "z" | "Z"), None) => false,
        (Some("ro"), None) => true,
        _ => return Err(invalid()),
    };
    if source.is_empty() || !destination.starts_with('/') {
        return Err(invalid());
    }
    let source = if source.contains('/') || source == "." || source == ".." {
        let path = std::path::absolute(source).context("failed to find the current directory")?;
        path.to_str().ok_or_else(invalid)?.to_owned()
    } else {
        source.to_owned()
    };
    Ok(BindMount {
        source,
        destination: destination.to_owned(),
        readonly,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> Option<Vec<(String, u16, u16, String)>> {
        let ports = published_ports(text).ok()?;
        let tuple = |port: PublishedPort| {
            (
                port.host_ip,
                port.host_port,
                port.container_port,
                port.protocol,
            )
        };
        Some(ports.into_iter().map(tuple).collect())
    }

    #[test]
    fn ports_have_an_address_a_range_and_a_protocol() {
        let port = |ip: &str, host, container, protocol: &str| {
            (ip.to_owned(), host, container, protocol.to_owned())
        };
        assert_eq!(ports("80"), Some(vec![port("", 0, 80, "tcp")]));
        assert_eq!(ports("8080:80"), Some(vec![port("", 8080, 80, "tcp")]));
        assert_eq!(ports("53:53/udp"), Some(vec![port("", 53, 53, "udp")]));
        assert_eq!(
            ports("127.0.0.1:8080:80"),
            Some(vec![port("127.0.0.1", 8080, 80, "tcp")])
        );
        assert_eq!(ports("[::1]::80"), Some(vec![port("::1", 0, 80, "tcp")]));
        let range = vec![port("", 8000, 80, "tcp"), port("", 8001, 81, "tcp")];
        assert_eq!(ports("8000-8001:80-81"), Some(range));
        for wrong in ["", "x", "1:2:3:4", "80/sctp", "0", "70000", "1-2:3", "2-1"] {
            assert_eq!(ports(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_volume_is_a_path_or_a_name() {
        let mount = |source: &str, readonly| BindMount {
            source: source.into(),
            destination: "/data".into(),
            readonly,
        };
        assert_eq!(volume("/srv:/data").unwrap(), mount("/srv", false));
        assert_eq!(volume("cache:/data:ro").unwrap(), mount("cache", true));
        assert!(volume("./x:/data").unwrap().source.starts_with('/'));
        for wrong in ["/data", "a:b", ":/data", "a:/data:ro:x", "a:/data:maybe"] {
            assert!(volume(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn variables_come_from_files_then_arguments() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("env");
        std::fs::write(&path, "# comment\nA=1\n\nDRYDOCK_NOT_SET\n B=2 \n").unwrap();
        let given = ["A=3".to_owned()];
        assert_eq!(
            environment(&given, &[path]).unwrap(),
            ["A=1", "B=2 ", "A=3"]
        );
        assert!(environment(&["=x".to_owned()], &[]).is_err());
    }
}
