//! Whether a commit, or the tag that leads to it, is signed with a key that the build knows.
//!
//! The signature is taken out of the object here. Whether it is good is for the programs to say that git
//! itself asks: `ssh-keygen` for keys of ssh, `gpg` for keys of OpenPGP, each with nothing but the key that
//! the build gives and with no configuration.

mod openpgp;
mod ssh;

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

use super::objects::GitObjects;

/// No signature takes so long to verify.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the signatures of a source are verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignatureRules {
    /// The key: a line of `authorized_keys`, or armored OpenPGP keys.
    pub public_key: String,
    /// Whether a key that has expired since does not do.
    pub reject_expired: bool,
    /// Whether only a tag's signature does.
    pub require_tag: bool,
    /// Whether the signature of a tag does not do.
    pub ignore_tag: bool,
}

/// Why a signature does not do.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// There is none.
    #[error("git object is not signed")]
    Unsigned,
    /// There is none where there must be.
    #[error("signed tag required but no signed tag found")]
    NoTag,
    /// It is of no kind that is known.
    #[error("invalid signature format")]
    Format,
    /// The key cannot be read.
    #[error("failed to read the public key: {0}")]
    Key(String),
    /// It is not good, or not by the key.
    #[error("failed to verify {kind} signature: {reason}")]
    Bad {
        /// `ssh` or `pgp`.
        kind: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The program that verifies it cannot be run.
    #[error("failed to run `{program}`, which verifies signatures; is it installed?")]
    Program {
        /// Its name.
        program: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// Files for the program cannot be written.
    #[error("failed to write a signature for verification")]
    Write(#[source] std::io::Error),
}

impl SignatureRules {
    /// Verifies what `objects` are signed with. `scratch` is for files that only the daemon sees.
    ///
    /// # Errors
    /// When no signature does.
    pub async fn verify(&self, objects: &GitObjects, scratch: &Path) -> Result<(), SignatureError> {
        let mut of_tag = None;
        if !self.ignore_tag && !objects.tag_object.is_empty() {
            match self
                .verify_object(Signed::tag(&objects.tag_object), scratch)
                .await
            {
                Ok(()) => return Ok(()),
                Err(error) => of_tag = Some(error),
            }
        }
        if self.require_tag {
            return Err(of_tag.unwrap_or(SignatureError::NoTag));
        }
        self.verify_object(Signed::commit(&objects.commit_object), scratch)
            .await
    }

    async fn verify_object(&self, signed: Signed, scratch: &Path) -> Result<(), SignatureError> {
        let write = SignatureError::Write;
        let directory = tempfile::tempdir_in(scratch).map_err(write)?;
        let (data, signature) = (
            directory.path().join("data"),
            directory.path().join("signature"),
        );
        std::fs::write(&data, &signed.data).map_err(write)?;
        std::fs::write(&signature, &signed.signature).map_err(write)?;
        if signed.signature.is_empty() {
            Err(SignatureError::Unsigned)
        } else if signed.signature.starts_with(SSH_BEGIN) {
            ssh::verify(&self.public_key, directory.path(), &data, &signature).await
        } else if signed.signature.starts_with(PGP_BEGIN) {
            openpgp::verify(self, directory.path(), &data, &signature).await
        } else {
            Err(SignatureError::Format)
        }
    }
}

const SSH_BEGIN: &[u8] = b"-----BEGIN SSH SIGNATURE-----";
const PGP_BEGIN: &[u8] = b"-----BEGIN PGP SIGNATURE-----";

/// An object parted into what is signed and the signature, which is empty if there is none.
#[derive(Debug, Default, PartialEq, Eq)]
struct Signed {
    data: Vec<u8>,
    signature: Vec<u8>,
}

impl Signed {
    /// Of a commit the signature is a header, whose further lines begin with a space.
    fn commit(object: &[u8]) -> Signed {
        let mut signed = Signed::default();
        let (mut in_headers, mut in_signature) = (true, false);
        for line in object.split_inclusive(|byte| *byte == b'\n') {
            in_headers &= line != b"\n";
            let first = [&b"gpgsig "[..], b"gpgsig-sha256 "]
                .iter()
                .find_map(|name| line.strip_prefix(*name));
            let more = line.strip_prefix(b" ").filter(|_| in_signature);
            match first.or(more).filter(|_| in_headers) {
                Some(text) => {
                    in_signature = true;
                    signed.signature.extend_from_slice(text);
                }
                None => {
                    in_signature = false;
                    signed.data.extend_from_slice(line);
                }
            }
        }
        signed
    }

    /// Of a tag it is the end of the message.
    fn tag(object: &[u8]) -> Signed {
        let mut signed = Signed::default();
        for line in object.split_inclusive(|byte| *byte == b'\n') {
            let begins = [SSH_BEGIN, PGP_BEGIN].contains(&line.trim_ascii_end());
            if begins || !signed.signature.is_empty() {
                signed.signature.extend_from_slice(line);
            } else {
                signed.data.extend_from_slice(line);
            }
        }
        signed
    }
}

/// Runs a program that verifies, to its end.
async fn run(
    program: &'static str,
    mut prepare: impl FnMut(&mut Command),
) -> Result<Output, SignatureError> {
    let failed = |source| SignatureError::Program { program, source };
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    prepare(&mut command);
    match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(output) => output.map_err(failed),
        Err(_) => Err(failed(std::io::ErrorKind::TimedOut.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_of_a_commit_is_parted_from_it() {
        let object =
            b"tree 1\nauthor a\ngpgsig -----BEGIN SSH SIGNATURE-----\n abc\n  d\n \n -----END\n\
            committer c\n\ngpgsig in the text\n stays\n";
        let signed = Signed::commit(object);
        let data = b"tree 1\nauthor a\ncommitter c\n\ngpgsig in the text\n stays\n";
        let signature = b"-----BEGIN SSH SIGNATURE-----\nabc\n d\n\n-----END\n";
        assert_eq!(
            signed,
            Signed {
                data: data.to_vec(),
                signature: signature.to_vec()
            }
        );
        assert!(Signed::commit(data).signature.is_empty());
    }

    #[test]
    fn the_signature_of_a_tag_is_its_end() {
        let (data, signature) = (
            b"object 1\ntype commit\n\nv1\n",
            b"-----BEGIN PGP SIGNATURE-----\n\nx\n",
        );
        let signed = Signed::tag(&[&data[..], signature].concat());
        assert_eq!(
            signed,
            Signed {
                data: data.to_vec(),
                signature: signature.to_vec()
            }
        );
        assert!(Signed::tag(data).signature.is_empty());
    }
}
