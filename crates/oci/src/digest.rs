//! Content digests.

use std::fmt;
use std::io;
use std::str::FromStr;

use sha2::Digest as _;

/// A sha256 content digest, written `sha256:<64 hex digits>`.
///
/// Other algorithms of the OCI specification are refused when parsed: no registry in use serves
/// manifests under them, and a fixed size makes the digest a cheap, copyable key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a text is not a [`Digest`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseDigestError {
    /// The text has no `:`.
    #[error("invalid digest `{0}`: expected `sha256:<hex>`")]
    NoAlgorithm(String),
    /// The algorithm is not sha256.
    #[error("invalid digest `{0}`: unsupported digest algorithm, expected `sha256`")]
    Algorithm(String),
    /// What follows the algorithm is not 64 lower-case hex digits.
    #[error("invalid digest `{0}`: expected 64 lower-case hex digits")]
    Hex(String),
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: impl AsRef<[u8]>) -> Digest {
        Digest(sha2::Sha256::digest(bytes.as_ref()).into())
    }

    /// The digest whose raw value is `raw`.
    pub const fn from_raw(raw: [u8; 32]) -> Digest {
        Digest(raw)
    }

    /// The 32 bytes of the value.
    pub const fn as_raw(&self) -> &[u8; 32] {
        &self.0
    }

    /// The value as 64 hex digits, without the algorithm.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The first twelve hex digits, for people.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; 64];
        hex::encode_to_slice(self.0, &mut text).map_err(|_| fmt::Error)?;
        f.write_str("sha256:")?;
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Digest, ParseDigestError> {
        let Some((algorithm, value)) = text.split_once(':') else {
            return Err(ParseDigestError::NoAlgorithm(text.to_owned()));
        };
        if algorithm != "sha256" {
            return Err(ParseDigestError::Algorithm(text.to_owned()));
        }
        let mut raw = [0u8; 32];
        if value.bytes().any(|b| b.is_ascii_uppercase())
            || hex::decode_to_slice(value, &mut raw).is_err()
        {
            return Err(ParseDigestError::Hex(text.to_owned()));
        }
        Ok(Digest(raw))
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Takes the digest of a stream.
#[derive(Clone, Default)]
pub struct Hasher(sha2::Sha256);

impl Hasher {
    /// An empty hasher.
    pub fn new() -> Hasher {
        Hasher::default()
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.update(bytes.as_ref());
    }

    /// The digest of all that was added.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_refuses_what_is_not_a_digest() {
        let digest = Digest::of("drydock");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for bad in [
            "",
            "sha256",
            "sha256:",
            "sha512:00",
            "sha256:zz",
            &digest.to_string()[..70],
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        let upper = digest
            .to_string()
            .to_uppercase()
            .replace("SHA256", "sha256");
        assert!(matches!(
            upper.parse::<Digest>(),
            Err(ParseDigestError::Hex(_))
        ));
    }
}
