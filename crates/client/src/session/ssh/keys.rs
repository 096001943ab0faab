//! Private keys from files, and signatures by them.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512,
    RsaKeyPair,
};

use super::file;
use super::wire::{put_number, put_string};

/// Largest file that is read (BuildKit's limit), in bytes.
const MAX_FILE: u64 = 100 << 10;

/// Flags of a request to sign: which digest is used with a key of RSA.
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file has no key that can be used.
    #[error("failed to parse `{}`", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: FormatError,
    },
}

/// What is wrong with a file of a key.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// There is no `-----BEGIN … PRIVATE KEY-----`.
    #[error("no private key found")]
    NoKey,
    /// It is encrypted.
    #[error("this private key is passphrase protected; add it to an agent and forward that")]
    Encrypted,
    /// The key's bytes make no sense.
    #[error("the private key is broken")]
    Broken,
    /// A kind of key that cannot be used.
    #[error("keys of type `{0}` are not supported; add it to an agent and forward that")]
    Kind(String),
    /// The key is refused, mostly for being too short.
    #[error("the private key is refused: {0}")]
    Refused(String),
}

/// Keys that a build may have signed with.
#[derive(Debug, Default)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// Reads the keys of `paths`.
    ///
    /// # Errors
    /// When one of them cannot be read, or has a passphrase.
    pub fn read(paths: &[PathBuf]) -> Result<Keys, KeyError> {
        let keys = paths.iter().map(|path| read(path));
        keys.collect::<Result<_, _>>().map(Keys)
    }

    pub(super) fn all(&self) -> &[Key] {
        &self.0
    }
}

fn read(path: &Path) -> Result<Key, KeyError> {
    let mut text = String::new();
    let file = File::open(path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text));
    file.map_err(|source| KeyError::Read {
        path: path.to_owned(),
        source,
    })?;
    file::parse(&text).map_err(|source| KeyError::Parse {
        path: path.to_owned(),
        source,
    })
}

/// A key, and its public half as the protocol has it.
pub(super) struct Key {
    blob: Vec<u8>,
    pair: Pair,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    Ecdsa(Curve, EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

/// The curves of ECDSA that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
}

impl Curve {
    pub(super) const ALL: [Curve; 2] = [Curve::P256, Curve::P384];

    /// The name in the protocol.
    pub(super) fn name(self) -> &'static str {
        match self {
            Curve::P256 => "nistp256",
            Curve::P384 => "nistp384",
        }
    }

    /// Bytes of a number.
    pub(super) fn size(self) -> usize {
        match self {
            Curve::P256 => 32,
            Curve::P384 => 48,
        }
    }

    pub(super) fn signing(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Curve::P256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
            Curve::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
        }
    }
}

// Nothing of the key is shown.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    pub(super) fn ed25519(pair: Ed25519KeyPair) -> Key {
        let mut blob = Vec::new();
        put_string(&mut blob, b"ssh-ed25519");
        put_string(&mut blob, pair.public_key().as_ref());
        Key {
            blob,
            pair: Pair::Ed25519(pair),
        }
    }

    pub(super) fn ecdsa(curve: Curve, pair: EcdsaKeyPair) -> Key {
        let mut blob = Vec::new();
        put_string(&mut blob, format!("ecdsa-sha2-{}", curve.name()).as_bytes());
        put_string(&mut blob, curve.name().as_bytes());
        put_string(&mut blob, pair.public_key().as_ref());
        Key {
            blob,
            pair: Pair::Ecdsa(curve, pair),
        }
    }

    pub(super) fn rsa(pair: RsaKeyPair) -> Key {
        let public: PublicKeyComponents<Vec<u8>> = pair.public().into();
        let mut blob = Vec::new();
        put_string(&mut blob, b"ssh-rsa");
        put_number(&mut blob, &public.e);
        put_number(&mut blob, &public.n);
        Key {
            blob,
            pair: Pair::Rsa(pair),
        }
    }

    /// The public half.
    pub(super) fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// A signature of `data`, with the name of its kind in front. `None` for SHA-1, which a request
    /// for RSA without flags means: servers have stopped taking it.
    pub(super) fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        let mut signed = Vec::new();
        match &self.pair {
            Pair::Ed25519(pair) => {
                put_string(&mut signed, b"ssh-ed25519");
                put_string(&mut signed, pair.sign(data).as_ref());
            }
            Pair::Ecdsa(curve, pair) => {
                let signature = pair.sign(&random, data).ok()?;
                let (r, s) = signature.as_ref().split_at_checked(curve.size())?;
                let mut numbers = Vec::new();
                put_number(&mut numbers, r);
                put_number(&mut numbers, s);
                let name = format!("ecdsa-sha2-{}", curve.name());
                put_string(&mut signed, name.as_bytes());
                put_string(&mut signed, &numbers);
            }
            Pair::Rsa(pair) => {
                let (name, padding) = if flags & RSA_SHA2_512 != 0 {
                    ("rsa-sha2-512", &RSA_PKCS1_SHA512)
                } else if flags & RSA_SHA2_256 != 0 {
                    ("rsa-sha2-256", &RSA_PKCS1_SHA256)
                } else {
                    return None;
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, data, &mut signature).ok()?;
                put_string(&mut signed, name.as_bytes());
                put_string(&mut signed, &signature);
            }
        }
        Some(signed)
    }
}
