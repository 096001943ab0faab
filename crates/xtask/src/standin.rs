//! A stand-in for Docker Hub's `python:3.10`, where Docker Hub cannot be reached.
//!
//! Debian packages become one layer of an image, which a registry on the loopback serves as a
//! mirror of docker.io. Making it takes a minute or two; it is kept in `target/demo`.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::shell;

/// The image of the demo.
const IMAGE: &str = "library/python:3.10";

/// Part of the kept files' names; changes when what is made changes.
const REVISION: &str = "1";

/// What the image has in common with the real one.
const PACKAGES: &str = "python3,python3-pip,ca-certificates";

/// Where this machine is no Debian.
const FALLBACK_RELEASE: &str = "bookworm";

/// Documentation and translations, which nobody reads here.
const EXCLUDED: [&str; 5] = ["doc", "man", "info", "locale", "lintian"];

const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Whether the demo's base image can be had from Docker Hub.
pub(crate) fn hub_is_reachable() -> bool {
    let inspect = ["--command-timeout=20s", "inspect", "--raw"];
    let image = format!("docker://docker.io/{IMAGE}");
    shell::succeeds(Command::new("skopeo").args(inspect).arg(image))
}

/// A registry that is stopped when this is dropped.
pub(crate) struct Mirror {
    process: Child,
    address: SocketAddr,
}

impl Mirror {
    /// Serves the stand-in, which is made first if it is not kept in `directory`.
    pub(crate) fn start(directory: &Path) -> anyhow::Result<Mirror> {
        fs::create_dir_all(directory)?;
        let layout = layout(directory)?;
        let mirror = Mirror::serve(&directory.join(format!("registry-{REVISION}")))?;
        mirror.push(&layout)?;
        Ok(mirror)
    }

    /// Configuration that makes this a mirror of docker.io.
    pub(crate) fn config(&self) -> String {
        let address = self.address;
        format!(
            "[registry.\"docker.io\"]\nmirrors = [\"{address}\"]\n\n\
             [registry.\"{address}\"]\nhttp = true\n"
        )
    }

    fn serve(storage: &Path) -> anyhow::Result<Mirror> {
        let address = free_address()?;
        let config = storage.with_added_extension("yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"{address}\"}}\n",
            json!(storage)
        );
        fs::write(&config, text)?;
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("failed to run docker-registry")?;
        let mirror = Mirror { process, address };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            if begun.elapsed() > START_TIMEOUT {
                bail!("docker-registry does not listen at {address}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(mirror)
    }

    /// What is there already is not sent again.
    fn push(&self, layout: &Path) -> anyhow::Result<()> {
        let copy = ["copy", "--quiet", "--dest-tls-verify=false"];
        let source = format!("oci:{}", layout.display());
        let destination = format!("docker://{}/{IMAGE}", self.address);
        shell::run(
            Command::new("skopeo")
                .args(copy)
                .args([source, destination]),
        )
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The image as an OCI layout; made if it is not there.
fn layout(directory: &Path) -> anyhow::Result<PathBuf> {
    let layout = directory.join(format!("python-{REVISION}"));
    if layout.join("index.json").exists() {
        return Ok(layout);
    }
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let tar = directory.join("layer.tar");
    debootstrap(&tar)?;
    let layer = add_file(&blobs, &tar, "application/vnd.oci.image.layer.v1.tar")?;
    let config = json!({
        "architecture": architecture()?,
        "os": "linux",
        "config": {
            "Env": [
                "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
                "LANG=C.UTF-8",
            ],
            "Cmd": ["python3"],
        },
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
    });
    let config = add_json(
        &blobs,
        directory,
        &config,
        "application/vnd.oci.image.config.v1+json",
    )?;
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": config,
        "layers": [layer],
    });
    let manifest = add_json(&blobs, directory, &manifest, manifest_type)?;
    fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    // Last, as it says that the layout is whole.
    fs::write(layout.join("index.json"), index.to_string())?;
    Ok(layout)
}

fn debootstrap(tar: &Path) -> anyhow::Result<()> {
    eprintln!("making a stand-in for python:3.10 from Debian packages");
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=apt", "--format=tar"]);
    command.arg(format!("--include={PACKAGES}"));
    command.arg("--aptopt=Apt::Install-Recommends \"false\"");
    for option in apt_network()? {
        command.arg(format!("--aptopt={option}"));
    }
    for directory in EXCLUDED {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{directory}/*"));
    }
    // `python` in PATH and pip free to install, as in the real image; this machine's authorities,
    // so that pip can reach its index from here.
    command.arg("--customize-hook=ln -s python3 \"$1/usr/bin/python\"");
    command.arg("--customize-hook=rm -f \"$1\"/usr/lib/python3*/EXTERNALLY-MANAGED");
    let bundle = "etc/ssl/certs/ca-certificates.crt";
    command.arg(format!(
        "--customize-hook=if [ -e /{bundle} ]; then cp /{bundle} \"$1/{bundle}\"; fi"
    ));
    command.arg("--customize-hook=rm -rf \"$1\"/var/cache/apt/* \"$1\"/var/lib/apt/lists/*");
    let sources = apt_sources()?;
    match sources.first() {
        Some(first) => command.arg(&first.release).arg(tar),
        None => command.arg(FALLBACK_RELEASE).arg(tar),
    };
    command.args(sources.iter().map(Source::line));
    shell::run(&mut command)
}

/// A place with Debian packages.
struct Source {
    uri: String,
    release: String,
    component: String,
}

impl Source {
    fn line(&self) -> String {
        format!("deb {} {} {}", self.uri, self.release, self.component)
    }
}

/// Where this machine gets its packages from, if it is a Debian: what it reaches, and no other.
fn apt_sources() -> anyhow::Result<Vec<Source>> {
    let format = "$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)";
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", format, "Identifier: Packages"]);
    Ok(sources(&shell::output(&mut command)?))
}

/// Those of Debian's own in `text`, a line each.
fn sources(text: &str) -> Vec<Source> {
    let source = |line: &str| {
        let mut words = line.split_whitespace();
        let (origin, uri) = (words.next()?, words.next()?);
        let (release, component) = (words.next()?, words.next()?);
        (origin == "Debian").then(|| Source {
            uri: uri.to_owned(),
            release: release.to_owned(),
            component: component.to_owned(),
        })
    };
    text.lines().filter_map(source).collect()
}

/// How this machine's apt reaches the network: proxies and authorities.
fn apt_network() -> anyhow::Result<Vec<String>> {
    let dump = shell::output(Command::new("apt-config").arg("dump"))?;
    let is_network =
        |line: &&str| line.starts_with("Acquire::http::") || line.starts_with("Acquire::https::");
    Ok(dump
        .lines()
        .filter(is_network)
        .map(|line| line.trim_end_matches(';').to_owned())
        .collect())
}

fn architecture() -> anyhow::Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("there is no stand-in for {other}"),
    }
}

fn add_json(blobs: &Path, scratch: &Path, value: &Value, media: &str) -> anyhow::Result<Value> {
    let file = scratch.join("blob.json");
    fs::write(&file, value.to_string())?;
    add_file(blobs, &file, media)
}

/// Moves `file` among the blobs and describes it.
fn add_file(blobs: &Path, file: &Path, media: &str) -> anyhow::Result<Value> {
    let sum = shell::output(Command::new("sha256sum").arg(file))?;
    let hex = sum
        .split_whitespace()
        .next()
        .context("sha256sum printed nothing")?;
    let size = fs::metadata(file)?.len();
    fs::rename(file, blobs.join(hex))?;
    Ok(json!({ "mediaType": media, "digest": format!("sha256:{hex}"), "size": size }))
}

/// A loopback address that nobody listened on a moment ago.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("failed to find a port")?;
    listener.local_addr().context("failed to find a port")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_of_debian_are_taken() {
        let text = "Debian http://a/debian/ bookworm main\nOther http://b/ stable main\n\
                    Debian http://a/security/ bookworm-security main\n\n";
        let lines: Vec<String> = sources(text).iter().map(Source::line).collect();
        let expected = [
            "deb http://a/debian/ bookworm main",
            "deb http://a/security/ bookworm-security main",
        ];
        assert_eq!(lines, expected);
    }
}
