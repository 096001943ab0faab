//! Source ops: images, directories of the client, git repositories, URLs.

use std::collections::{BTreeMap, BTreeSet};

use oci::{Platform, Reference};

use super::{Builder, Options, State, VertexKind};

#[derive(Debug)]
pub(super) struct SourceVertex {
    pub(super) identifier: String,
    pub(super) attrs: BTreeMap<String, String>,
    /// Whether the platform is part of the op.
    pub(super) has_platform: bool,
}

/// The agent that ssh asks for keys.
const SSH_AGENT: &str = "git.mountsshsock";
/// The keys that ssh servers may have.
const KNOWN_SSH_HOSTS: &str = "git.knownsshhosts";

impl SourceVertex {
    /// The server of a repository that is reached by ssh, if its keys are not given.
    fn unknown_ssh_host(&self) -> Option<&str> {
        let is_unknown =
            self.attrs.contains_key(SSH_AGENT) && !self.attrs.contains_key(KNOWN_SSH_HOSTS);
        let place = self.identifier.strip_prefix("git://")?;
        is_unknown.then(|| place.split(['/', '#']).next().unwrap_or(place))
    }
}

/// An image of a registry or of an OCI layout.
#[derive(Clone, Debug)]
pub struct ImageSource {
    /// The image, with tag or digest.
    pub reference: Reference,
    /// `image.resolvemode`: `default`, `pull` or `local`; empty leaves it out.
    pub resolve_mode: String,
    /// Session and store of an OCI layout; `None` is a registry.
    pub layout: Option<(String, String)>,
}

/// A directory of the client.
#[derive(Clone, Debug, Default)]
pub struct LocalSource {
    /// The name under which the client serves it.
    pub name: String,
    /// The session that serves it.
    pub session: String,
    /// `local.followpaths` as a JSON array; empty takes everything.
    pub follow_paths: String,
    /// `local.excludepatterns` as a JSON array.
    pub exclude: String,
    /// Groups transfers of the same directory.
    pub shared_key_hint: String,
    /// Whether all files are sent anew (`local.differ=none`).
    pub no_differ: bool,
}

/// A git repository.
#[derive(Clone, Debug, Default)]
pub struct GitSource {
    /// What `git` is given.
    pub url: String,
    /// `<host>/<path>`, equal for all protocols.
    pub host_path: String,
    /// Whether the protocol is ssh.
    pub ssh: bool,
    /// Branch, tag or commit; empty is the default branch.
    pub reference: String,
    /// The directory that becomes the root.
    pub subdir: String,
    /// Whether `.git` stays.
    pub keep_git_dir: bool,
    /// The expected commit.
    pub checksum: String,
    /// Whether submodules are left out.
    pub skip_submodules: bool,
    /// `git.mtime`; empty leaves it out.
    pub mtime: String,
    /// Whether the checksum is fetched directly.
    pub fetch_by_commit: bool,
}

/// A file behind an URL.
#[derive(Clone, Debug, Default)]
pub struct HttpSource {
    /// The URL.
    pub url: String,
    /// The file's name.
    pub filename: String,
    /// The expected digest of its content; empty is any.
    pub checksum: String,
}

impl Builder {
    /// An image.
    pub fn image(&mut self, image: &ImageSource, mut options: Options) -> State {
        let mut attrs = BTreeMap::new();
        let mut set = |key: &str, value: &str| {
            if !value.is_empty() {
                attrs.insert(key.to_owned(), value.to_owned());
            }
        };
        let scheme = match &image.layout {
            None => {
                options.cap("source.image");
                if image.resolve_mode != "default" {
                    set("image.resolvemode", &image.resolve_mode);
                }
                if image.resolve_mode == "pull" {
                    options.cap("source.image.resolvemode");
                }
                "docker-image"
            }
            Some((session, store)) => {
                options.cap("source.ocilayout");
                set("oci.session", session);
                set("oci.store", store);
                "oci-layout"
            }
        };
        let identifier = format!("{scheme}://{}", image.reference);
        self.source(
            SourceVertex {
                identifier,
                attrs,
                has_platform: true,
            },
            options,
        )
    }

    /// A directory of the client.
    pub fn local(&mut self, local: &LocalSource, mut options: Options) -> State {
        let mut attrs = BTreeMap::new();
        for (key, cap, value) in [
            ("local.session", "source.local.sessionid", &local.session),
            (
                "local.followpaths",
                "source.local.followpaths",
                &local.follow_paths,
            ),
            (
                "local.excludepatterns",
                "source.local.excludepatterns",
                &local.exclude,
            ),
            (
                "local.sharedkeyhint",
                "source.local.sharedkeyhint",
                &local.shared_key_hint,
            ),
        ] {
            if !value.is_empty() {
                attrs.insert(key.to_owned(), value.clone());
                options.cap(cap);
            }
        }
        if local.no_differ {
            attrs.insert("local.differ".to_owned(), "none".to_owned());
        }
        if local.session.is_empty() {
            options.cap("source.local.unique");
        }
        options.cap("source.local");
        let identifier = format!("local://{}", local.name);
        self.source(
            SourceVertex {
                identifier,
                attrs,
                has_platform: false,
            },
            options,
        )
    }

    /// A git repository.
    pub fn git(&mut self, git: &GitSource, mut options: Options) -> State {
        let mut identifier = format!("git://{}", git.host_path);
        if !git.reference.is_empty() || !git.subdir.is_empty() {
            identifier.push('#');
            identifier.push_str(&git.reference);
        }
        if !git.subdir.is_empty() {
            identifier.push(':');
            identifier.push_str(&git.subdir);
        }
        let mut attrs = BTreeMap::new();
        let flag = |set: bool| if set { "true" } else { "" };
        for (key, cap, value) in [
            (
                "git.keepgitdir",
                "source.git.keepgitdir",
                flag(git.keep_git_dir),
            ),
            ("git.fullurl", "source.git.fullurl", git.url.as_str()),
            (
                SSH_AGENT,
                "source.git.mountsshsock",
                if git.ssh { "default" } else { "" },
            ),
            ("git.checksum", "source.git.checksum", git.checksum.as_str()),
            (
                "git.skipsubmodules",
                "source.git.skipsubmodules",
                flag(git.skip_submodules),
            ),
            ("git.mtime", "source.git.mtime", git.mtime.as_str()),
            (
                "git.fetchbycommit",
                "source.git.fetchbycommit",
                flag(git.fetch_by_commit),
            ),
        ] {
            if !value.is_empty() {
                attrs.insert(key.to_owned(), value.to_owned());
                options.cap(cap);
            }
        }
        for (key, secret) in [
            ("git.authtokensecret", "GIT_AUTH_TOKEN"),
            ("git.authheadersecret", "GIT_AUTH_HEADER"),
        ] {
            attrs.insert(key.to_owned(), secret.to_owned());
        }
        if git.ssh {
            options.cap("source.git.knownsshhosts");
        }
        options.cap("source.git");
        self.source(
            SourceVertex {
                identifier,
                attrs,
                has_platform: false,
            },
            options,
        )
    }

    /// The ssh servers, with their ports where they are given, of git repositories that have no keys
    /// of them.
    pub fn unknown_ssh_hosts(&self) -> BTreeSet<String> {
        let sources = self
            .vertices
            .iter()
            .filter_map(|vertex| match &vertex.kind {
                VertexKind::Source(source) => source.unknown_ssh_host(),
                _ => None,
            });
        sources.map(str::to_owned).collect()
    }

    /// Gives the git repositories on `host` that have none the line of `known_hosts` for it.
    pub fn know_ssh_host(&mut self, host: &str, line: &str) {
        for vertex in &mut self.vertices {
            if let VertexKind::Source(source) = &mut vertex.kind
                && source.unknown_ssh_host() == Some(host)
            {
                let known = line.to_owned();
                source.attrs.insert(KNOWN_SSH_HOSTS.to_owned(), known);
            }
        }
    }

    /// A file behind an URL.
    pub fn http(&mut self, http: &HttpSource, mut options: Options) -> State {
        let mut attrs = BTreeMap::new();
        if !http.checksum.is_empty() {
            attrs.insert("http.checksum".to_owned(), http.checksum.clone());
            options.cap("source.http.checksum");
        }
        if !http.filename.is_empty() {
            attrs.insert("http.filename".to_owned(), http.filename.clone());
        }
        options.cap("source.http");
        let vertex = SourceVertex {
            identifier: http.url.clone(),
            attrs,
            has_platform: false,
        };
        self.source(vertex, options)
    }

    fn source(&mut self, vertex: SourceVertex, options: Options) -> State {
        let platform: Option<Platform> = options.platform.clone();
        let output = self.add(VertexKind::Source(vertex), options);
        State::of(Some(output), platform)
    }
}
