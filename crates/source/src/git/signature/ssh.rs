//! Signatures by keys of ssh.

use std::path::Path;
use std::process::Stdio;

use super::{SignatureError, run};

/// Who the key belongs to, for the program; git's own signatures are for this use.
const NAME: &str = "git";

/// Verifies `signature` of `data` by the first key of `public_key`, a text like `authorized_keys`.
pub(super) async fn verify(
    public_key: &str,
    directory: &Path,
    data: &Path,
    signature: &Path,
) -> Result<(), SignatureError> {
    let key = key(public_key).ok_or_else(|| {
        SignatureError::Key(
            "it has no line such as `ssh-ed25519 AAAA…`, which the signature is by".to_owned(),
        )
    })?;
    let allowed = directory.join("allowed");
    let write = SignatureError::Write;
    std::fs::write(&allowed, format!("{NAME} namespaces=\"{NAME}\" {key}\n")).map_err(write)?;
    let data = std::fs::File::open(data).map_err(write)?;
    let mut data = Some(data);
    let output = run("ssh-keygen", |command| {
        command.args(["-Y", "verify", "-n", NAME, "-I", NAME, "-f"]);
        command.arg(&allowed).arg("-s").arg(signature);
        command.stdin(data.take().map_or_else(Stdio::null, Stdio::from));
    })
    .await?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stderr, output.stdout].concat();
    Err(SignatureError::Bad {
        kind: "ssh",
        reason: String::from_utf8_lossy(&said).trim().replace("\r\n", "; "),
    })
}

/// The kind and the key of the first line that has some, without options and comment.
fn key(text: &str) -> Option<String> {
    let is_kind = |word: &str| {
        ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-sha2-"]
            .iter()
            .any(|start| word.starts_with(start))
    };
    let is_plain = |word: &str| {
        word.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+/=-@.".contains(&byte))
    };
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let mut keys = lines.filter_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let mut pairs = words.windows(2);
        let pair = pairs.find(|pair| is_kind(pair[0]) && pair.iter().all(|word| is_plain(word)))?;
        Some(pair.join(" "))
    });
    keys.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_of_a_text_is_taken() {
        for (text, wanted) in [
            ("ssh-ed25519 AAAA me@host\n", Some("ssh-ed25519 AAAA")),
            (
                "# ssh-rsa BBBB\n\nno-pty,command=\"x y\" ecdsa-sha2-nistp256 AA+/= c\nssh-rsa CC\n",
                Some("ecdsa-sha2-nistp256 AA+/="),
            ),
            ("ssh-ed25519\n", None),
            ("-----BEGIN PGP PUBLIC KEY BLOCK-----\n", None),
            ("ssh-ed25519 A\"A\n", None),
        ] {
            assert_eq!(key(text).as_deref(), wanted, "{text}");
        }
    }
}
