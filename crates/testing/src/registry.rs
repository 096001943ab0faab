//! Debian's `docker-registry` on a free port of the loopback interface.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci::Descriptor;
use tempfile::TempDir;

use crate::http::{self, Call};
use crate::image::Image;

/// The user of a registry made by [`DockerRegistry::start_with_password`].
pub const USER: &str = "drydock";
/// That user's password.
pub const PASSWORD: &str = "correct horse";
/// The bcrypt hash of [`PASSWORD`], of the least cost: tests should not wait for it.
const PASSWORD_HASH: &str = "$2b$04$lmI1Xf14ij363jRNmWKoKez50gjoIMf.uusMvY0HIX0knEMcnOviq";

/// A registry that keeps its blobs in a directory; stopped and removed when dropped.
pub struct DockerRegistry {
    host: String,
    dir: TempDir,
    process: Child,
    password: bool,
}

impl DockerRegistry {
    /// Starts an empty registry that is open to all.
    pub fn start() -> Result<DockerRegistry> {
        DockerRegistry::run("")
    }

    /// Starts an empty registry that asks for [`USER`] and [`PASSWORD`].
    pub fn start_with_password() -> Result<DockerRegistry> {
        DockerRegistry::run("auth:\n  htpasswd:\n    realm: test\n    path: ROOT/htpasswd\n")
    }

    /// Starts a registry that fetches what it lacks from the registry at `host`.
    pub fn start_mirror_of(host: &str) -> Result<DockerRegistry> {
        DockerRegistry::run(&format!("proxy:\n  remoteurl: http://{host}\n"))
    }

    fn run(more: &str) -> Result<DockerRegistry> {
        let dir = TempDir::with_prefix("registry-")?;
        let root = dir
            .path()
            .to_str()
            .context("temporary directory is not UTF-8")?;
        let config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: ROOT/data\n  \
             delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:0\n{more}"
        );
        let path = dir.path().join("config.yml");
        fs::write(&path, config.replace("ROOT", root))?;
        fs::write(
            dir.path().join("htpasswd"),
            format!("{USER}:{PASSWORD_HASH}\n"),
        )?;
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .env_clear()
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("failed to start docker-registry")?;
        let mut lines = BufReader::new(process.stderr.take().context("no standard error")?).lines();
        let mut said = String::new();
        let host = loop {
            let Some(line) = lines.next() else {
                let _ = process.wait();
                bail!("docker-registry ended: {said}");
            };
            let line = line?;
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest
                    .chars()
                    .take_while(|c| !matches!(c, '"' | ' ' | ','))
                    .collect();
            }
            said.push_str(&line);
            said.push('\n');
        };
        // Someone has to read on, or the registry would stand still when the pipe is full.
        thread::spawn(move || lines.for_each(drop));
        Ok(DockerRegistry {
            host,
            dir,
            process,
            password: more.contains("htpasswd"),
        })
    }

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// `<host>/<name>`, e.g. for `busybox:latest`.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.host)
    }

    /// The directory that holds what the registry keeps.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Puts `image` in the registry as `name`, `repository[:tag]`; gives its reference.
    pub fn push(&self, name: &str, image: &Image) -> Result<String> {
        let (repository, tag) = name.split_once(':').unwrap_or((name, "latest"));
        for (descriptor, bytes) in image.blobs() {
            self.put_blob(repository, descriptor, bytes)?;
        }
        let manifests = image.manifests();
        for (at, (descriptor, bytes)) in manifests.iter().enumerate() {
            let digest = descriptor.digest.to_string();
            let version = if at + 1 == manifests.len() {
                tag
            } else {
                &digest
            };
            let path = format!("/v2/{repository}/manifests/{version}");
            let mut call = self.call("PUT", &path);
            call.headers
                .push(("Content-Type".into(), descriptor.media_type.clone()));
            call.body.clone_from(bytes);
            self.expect(call, 201)?;
        }
        Ok(self.reference(&format!("{repository}:{tag}")))
    }

    /// Puts one blob in `repository`.
    pub fn put_blob(&self, repository: &str, blob: &Descriptor, bytes: &[u8]) -> Result<()> {
        let begin = self.call("POST", &format!("/v2/{repository}/blobs/uploads/"));
        let answer = self.expect(begin, 202)?;
        let location = answer.header("location").context("no Location")?;
        let path = location
            .split_once(&self.host)
            .map_or(location, |(_, path)| path);
        let mut call = self.call("PUT", &format!("{path}&digest={}", blob.digest));
        call.headers
            .push(("Content-Type".into(), "application/octet-stream".into()));
        call.body = bytes.to_vec();
        self.expect(call, 201)?;
        Ok(())
    }

    /// The bytes of the manifest `version` (a tag or digest) of `repository`.
    pub fn manifest(&self, repository: &str, version: &str) -> Result<Vec<u8>> {
        let mut call = self.call("GET", &format!("/v2/{repository}/manifests/{version}"));
        let any = "application/vnd.oci.image.manifest.v1+json, \
                   application/vnd.oci.image.index.v1+json, \
                   application/vnd.docker.distribution.manifest.v2+json, \
                   application/vnd.docker.distribution.manifest.list.v2+json";
        call.headers.push(("Accept".into(), any.into()));
        Ok(self.expect(call, 200)?.body)
    }

    /// The bytes of a blob of `repository`.
    pub fn blob(&self, repository: &str, digest: &oci::Digest) -> Result<Vec<u8>> {
        Ok(self
            .expect(
                self.call("GET", &format!("/v2/{repository}/blobs/{digest}")),
                200,
            )?
            .body)
    }

    /// Takes the blob `digest` out of the registry's directory, as a broken disk would.
    pub fn lose_blob(&self, digest: &oci::Digest) -> Result<()> {
        let hex = digest.hex();
        let dir = self
            .data()
            .join("docker/registry/v2/blobs/sha256")
            .join(&hex[..2])
            .join(&hex);
        remove(&dir)
    }

    fn call(&self, method: &str, path: &str) -> Call {
        let mut call = Call::new(method, path);
        if self.password {
            let pair = STANDARD.encode(format!("{USER}:{PASSWORD}"));
            call.headers
                .push(("Authorization".into(), format!("Basic {pair}")));
        }
        call
    }

    fn expect(&self, call: Call, status: u16) -> Result<http::Answer> {
        let what = format!("{} {}", call.method, call.path);
        let answer = http::send(&self.host, call)?;
        if answer.status != status {
            bail!(
                "{what}: {}: {}",
                answer.status,
                String::from_utf8_lossy(&answer.body)
            );
        }
        Ok(answer)
    }
}

fn remove(dir: &Path) -> Result<()> {
    fs::remove_dir_all(dir).with_context(|| format!("failed to remove {}", dir.display()))
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
