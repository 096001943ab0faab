//! Git sources that must be signed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use proto::control::{self, control_client::ControlClient};
use tonic::Status;

use crate::fixture::{Fixture, tool};
use crate::git::{commit, git, serve};
use crate::graph::{Graph, source};

/// A repository with signed and unsigned commits, served.
struct Signed {
    server: Child,
    url: String,
    /// The public keys of those who sign, by ssh and by OpenPGP, and of somebody else for each.
    ssh: [String; 2],
    pgp: [String; 2],
}

impl Drop for Signed {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.server.id()).unwrap());
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.server.wait();
    }
}

/// A new key of ssh; where it is, and its public half.
fn ssh_key(directory: &Path, name: &str) -> (PathBuf, String) {
    let path = directory.join(name);
    let file = path.to_str().unwrap();
    tool(
        "ssh-keygen",
        &["-q", "-t", "ed25519", "-N", "", "-C", "comment", "-f", file],
    );
    let public = fs::read_to_string(path.with_extension("pub")).unwrap();
    (path, public)
}

/// A new key of OpenPGP in a home directory; its public half.
fn pgp_key(home: &Path, name: &str) -> String {
    let gpg = |arguments: &[&str]| {
        let home = home.to_str().unwrap();
        tool(
            "gpg",
            &[&["--homedir", home, "--batch", "--quiet"], arguments].concat(),
        )
    };
    let key = [
        "--passphrase",
        "",
        "--quick-gen-key",
        name,
        "ed25519",
        "sign",
        "never",
    ];
    gpg(&[&["--pinentry-mode", "loopback"], &key[..]].concat());
    gpg(&["--armor", "--export", name])
}

impl Signed {
    fn start(directory: &Path) -> Signed {
        let (key, ssh) = ssh_key(directory, "ssh");
        let (_, other_ssh) = ssh_key(directory, "other-ssh");
        // The path of a socket in it must be short.
        let home = directory.join("gpg");
        fs::create_dir(&home).unwrap();
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
        let (pgp, other_pgp) = (pgp_key(&home, "me"), pgp_key(&home, "other"));

        let program = directory.join("sign");
        let script = format!("#!/bin/sh\nexec gpg --homedir {} \"$@\"\n", home.display());
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let repository = directory.join("repo");
        commit(&repository, &[("file", "unsigned")], "unsigned");
        let by_ssh = [
            "gpg.format=ssh".to_owned(),
            format!("user.signingkey={}", key.display()),
        ];
        let by_pgp = [
            format!("gpg.program={}", program.display()),
            "user.signingkey=me".to_owned(),
        ];
        let with = |settings: &[String; 2], arguments: &[&str]| {
            let [first, second] = settings;
            git(
                &repository,
                &[&["-c", first, "-c", second], arguments].concat(),
            );
        };
        git(&repository, &["branch", "unsigned"]);
        with(&by_ssh, &["tag", "-s", "-m", "signed", "tag-ssh"]);
        with(&by_pgp, &["tag", "-s", "-m", "signed", "tag-pgp"]);
        git(&repository, &["tag", "-a", "-m", "not signed", "tag-none"]);
        for (name, settings) in [("ssh", &by_ssh), ("pgp", &by_pgp)] {
            git(&repository, &["checkout", "-q", "-b", name, "unsigned"]);
            fs::write(repository.join("file"), name).unwrap();
            with(settings, &["commit", "-q", "-a", "-S", "-m", "signed"]);
        }
        // The text of a signed commit, with another file.
        git(&repository, &["checkout", "-q", "unsigned"]);
        fs::write(repository.join("file"), "forged").unwrap();
        git(&repository, &["add", "-A"]);
        let tree = git(&repository, &["write-tree"]);
        let real = git(&repository, &["cat-file", "commit", "ssh"]);
        let (_, rest) = real.split_once('\n').unwrap();
        let object = directory.join("object");
        fs::write(&object, format!("tree {tree}\n{rest}\n")).unwrap();
        let write = [
            "hash-object",
            "-t",
            "commit",
            "-w",
            object.to_str().unwrap(),
        ];
        let forged = git(&repository, &write);
        git(&repository, &["branch", "forged", &forged]);

        let (server, port) = serve(directory);
        Signed {
            server,
            url: format!("git://127.0.0.1:{port}/repo"),
            ssh: [ssh, other_ssh],
            pgp: [pgp, other_pgp],
        }
    }

    /// Builds the repository's `reference` if it is signed as `attrs` say.
    async fn build(
        &self,
        fixture: &Fixture,
        reference: &str,
        attrs: &[(&str, &str)],
    ) -> Result<(), Status> {
        let mut graph = Graph::default();
        let all = [&[("git.fullurl", self.url.as_str())], attrs].concat();
        let place = format!("{}#{reference}", self.url);
        let files = graph.add(source(&place, &all), &[]);
        let channel = fixture.daemon.client().await.unwrap().channel();
        let request = control::SolveRequest {
            r#ref: "signed".to_owned(),
            definition: Some(graph.definition((files, 0))),
            ..control::SolveRequest::default()
        };
        ControlClient::new(channel).solve(request).await.map(drop)
    }
}

#[tokio::test]
async fn what_is_not_signed_by_the_key_is_refused() {
    let fixture = Fixture::new();
    let signed = Signed::start(fixture.scratch());
    const KEY: &str = "git.sig.pubkey";
    const TAG: (&str, &str) = ("git.sig.requiresignedtag", "true");
    const NO_TAG: (&str, &str) = ("git.sig.ignoresignedtag", "true");
    let [ssh, other_ssh] = &signed.ssh;
    let [pgp, other_pgp] = &signed.pgp;
    for (reference, attrs) in [
        ("ssh", &[(KEY, ssh.as_str())][..]),
        ("pgp", &[(KEY, pgp)]),
        ("pgp", &[(KEY, pgp), ("git.sig.rejectexpired", "true")]),
        ("tag-ssh", &[(KEY, ssh), TAG]),
        ("tag-pgp", &[(KEY, pgp)]),
        ("unsigned", &[]),
    ] {
        let built = signed.build(&fixture, reference, attrs).await;
        assert!(built.is_ok(), "{reference}: {built:?}");
    }
    for (reference, attrs, reason) in [
        (
            "unsigned",
            &[(KEY, ssh.as_str())][..],
            "git object is not signed",
        ),
        ("ssh", &[(KEY, other_ssh)], "failed to verify ssh signature"),
        ("ssh", &[(KEY, pgp)], "failed to read the public key"),
        ("pgp", &[(KEY, other_pgp)], "failed to verify pgp signature"),
        ("pgp", &[(KEY, ssh)], "failed to read the public key"),
        ("forged", &[(KEY, ssh)], "failed to verify ssh signature"),
        (
            "ssh",
            &[(KEY, ssh), TAG],
            "signed tag required but no signed tag found",
        ),
        ("tag-none", &[(KEY, ssh), TAG], "git object is not signed"),
        ("tag-ssh", &[(KEY, ssh), NO_TAG], "git object is not signed"),
        (
            "tag-pgp",
            &[(KEY, other_pgp), TAG],
            "failed to verify pgp signature",
        ),
        // No key at all is no leave.
        ("ssh", &[TAG], "signed tag required"),
    ] {
        let refused = signed.build(&fixture, reference, attrs).await.unwrap_err();
        assert!(refused.message().contains(reason), "{reference}: {refused}");
    }
}
