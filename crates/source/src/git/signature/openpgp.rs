//! Signatures by keys of OpenPGP.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{SignatureError, SignatureRules, run};

/// How far the clock of whoever signed may be ahead, in seconds.
const AHEAD: u64 = 300;

/// The shortest RSA key that does, in bits.
const MIN_RSA: u32 = 2048;

/// The numbers of OpenPGP for RSA (in general, and for signatures only), ECDSA and `EdDSA`, and for
/// SHA-256, SHA-384 and SHA-512.
const KEYS: [&str; 4] = ["1", "3", "19", "22"];
const HASHES: [&str; 3] = ["8", "9", "10"];

/// Verifies `signature` of `data` by one of the keys of `rules`. `directory` is empty but for these.
pub(super) async fn verify(
    rules: &SignatureRules,
    directory: &Path,
    data: &Path,
    signature: &Path,
) -> Result<(), SignatureError> {
    let (home, keys) = (directory.join("home"), directory.join("keys"));
    let write = SignatureError::Write;
    std::fs::create_dir(&home).map_err(write)?;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&home, private).map_err(write)?;
    std::fs::write(&keys, &rules.public_key).map_err(write)?;
    let gpg = async |arguments: &[&str], files: &[&Path]| {
        run("gpg", |command| {
            command.env("GNUPGHOME", &home);
            // Neither agents nor servers of keys, and each key that is there does.
            command.args([
                "--batch",
                "--no-tty",
                "--no-options",
                "--no-autostart",
                "--quiet",
            ]);
            command.args([
                "--no-auto-key-retrieve",
                "--trust-model",
                "always",
                "--status-fd",
                "1",
            ]);
            command.args(arguments).arg("--").args(files);
        })
        .await
    };
    let imported = gpg(&["--import"], &[&keys]).await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !text(&imported.stdout).contains("IMPORT_OK") {
        return Err(SignatureError::Key(
            "it has no armored OpenPGP key, which the signature is by".to_owned(),
        ));
    }
    let verified = gpg(&["--verify"], &[signature, data]).await?;
    let status = text(&verified.stdout);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let signer = judge(&status, rules.reject_expired, now.as_secs());
    let bad = |reason| SignatureError::Bad {
        kind: "pgp",
        reason,
    };
    let signer = signer.map_err(bad)?;
    let listed = gpg(&["--with-colons", "--list-keys"], &[Path::new(&signer)]).await?;
    match rsa_bits(&text(&listed.stdout)) {
        Some(bits) if bits < MIN_RSA => Err(bad(format!("RSA key too short: {bits} bits"))),
        Some(_) | None => Ok(()),
    }
}

/// The fingerprint of the key that made a good signature, from what `gpg` says of it.
fn judge(status: &str, reject_expired: bool, now: u64) -> Result<String, String> {
    let line = |name: &str| {
        let lines = status
            .lines()
            .filter_map(|line| line.strip_prefix("[GNUPG:] "));
        let mut words = lines.map(|line| line.split(' ').collect::<Vec<_>>());
        words.find(|words| words[0] == name)
    };
    let by = |words: Vec<&str>| words.get(1).copied().unwrap_or_default().to_owned();
    for (name, reason) in [
        ("BADSIG", "bad signature"),
        ("ERRSIG", "no key for the signature"),
        ("REVKEYSIG", "key revoked"),
        ("EXPSIG", "signature expired"),
    ] {
        if let Some(words) = line(name) {
            return Err(format!("{reason}: signature by {}", by(words)));
        }
    }
    let valid = line("VALIDSIG").ok_or("gpg does not call it valid")?;
    let word = |at: usize| valid.get(at).copied().unwrap_or_default();
    let (made, algorithm, hash) = (word(3).parse::<u64>().unwrap_or(u64::MAX), word(7), word(8));
    if !HASHES.contains(&hash) {
        return Err(format!("rejecting weak or unknown hash {hash}"));
    }
    if !KEYS.contains(&algorithm) {
        return Err(format!(
            "rejecting unsupported pubkey algorithm {algorithm}"
        ));
    }
    if made > now.saturating_add(AHEAD) {
        return Err(format!("signature creation time is in the future: {made}"));
    }
    if line("EXPKEYSIG").is_some() {
        let expired = line("KEYEXPIRED").and_then(|words| words.get(1)?.parse::<u64>().ok());
        if reject_expired || expired.is_none_or(|expired| expired < made) {
            return Err("key expired".to_owned());
        }
    } else if line("GOODSIG").is_none() {
        return Err("gpg does not call it good".to_owned());
    }
    Ok(word(10).to_owned())
}

/// The length of the key in a listing, if it is of RSA.
fn rsa_bits(listing: &str) -> Option<u32> {
    let mut keys = listing.lines().filter_map(|line| line.strip_prefix("pub:"));
    let fields: Vec<&str> = keys.next()?.split(':').collect();
    let is_rsa = matches!(fields.get(2), Some(&("1" | "3")));
    fields.get(1)?.parse().ok().filter(|_| is_rsa)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;

    /// What `gpg` says of a signature made then, with what it says first.
    fn said(first: &str, made: u64, algorithm: u32, hash: u32) -> String {
        format!(
            "[GNUPG:] NEWSIG\n[GNUPG:] {first}\n[GNUPG:] VALIDSIG AB 2023-11-14 {made} 0 4 0 {algorithm} {hash} 00 CD\n"
        )
    }

    #[test]
    fn good_signatures_by_fit_keys_do() {
        let good = said("GOODSIG AB me", NOW - 5, 22, 10);
        assert_eq!(judge(&good, true, NOW).unwrap(), "CD");
        let expired = format!("KEYEXPIRED {}\n[GNUPG:] EXPKEYSIG AB me", NOW - 2);
        assert_eq!(
            judge(&said(&expired, NOW - 5, 1, 8), false, NOW).unwrap(),
            "CD"
        );
        for (status, reason) in [
            (said(&expired, NOW - 5, 1, 8), "key expired"),
            (
                said("GOODSIG AB me", NOW - 5, 1, 2),
                "weak or unknown hash 2",
            ),
            (
                said("GOODSIG AB me", NOW - 5, 17, 8),
                "unsupported pubkey algorithm 17",
            ),
            (said("GOODSIG AB me", NOW + 500, 1, 8), "in the future"),
            (said("REVKEYSIG AB me", NOW - 5, 1, 8), "key revoked"),
            (
                "[GNUPG:] BADSIG AB me".to_owned(),
                "bad signature: signature by AB",
            ),
            (
                "[GNUPG:] ERRSIG AB 1 8 00 1 9".to_owned(),
                "no key for the signature",
            ),
            (String::new(), "does not call it valid"),
        ] {
            let error = judge(&status, true, NOW).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        let before = said(&expired, NOW - 1, 1, 8);
        assert_eq!(judge(&before, false, NOW).unwrap_err(), "key expired");
    }

    #[test]
    fn the_length_of_a_key_is_found() {
        assert_eq!(
            rsa_bits("tru::1:\npub:u:1024:1:AB:1::::::scESC::::::23::0:\n"),
            Some(1024)
        );
        assert_eq!(
            rsa_bits("pub:u:255:22:AB:1::::::scESC:::::ed25519:::0:\n"),
            None
        );
    }
}
