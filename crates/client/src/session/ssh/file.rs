//! Files of private keys: OpenSSH's own, and those of PKCS #1, PKCS #8 and SEC 1.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};

use super::keys::{Curve, FormatError, Key};
use super::wire::Reader;

/// What OpenSSH's own format begins with.
const MAGIC: &[u8] = b"openssh-key-v1\0";
/// Bytes of a private key of Ed25519; in the format its public key follows.
const SEED: usize = 32;

/// The key in the text of a file.
pub(super) fn parse(text: &str) -> Result<Key, FormatError> {
    let (kind, body) = armored(text).ok_or(FormatError::NoKey)?;
    // Of the older formats the head of the text says so.
    if kind == "ENCRYPTED PRIVATE KEY" || body.contains("ENCRYPTED") {
        return Err(FormatError::Encrypted);
    }
    let digits: String = body.split_ascii_whitespace().collect();
    let bytes = STANDARD.decode(digits).map_err(|_| FormatError::Broken)?;
    match kind {
        "OPENSSH PRIVATE KEY" => openssh(&bytes),
        "RSA PRIVATE KEY" => RsaKeyPair::from_der(&bytes).map(Key::rsa).map_err(refused),
        "EC PRIVATE KEY" => pkcs8(&enclosed_curve(&bytes).ok_or(FormatError::Broken)?),
        "PRIVATE KEY" => pkcs8(&bytes),
        other => Err(FormatError::Kind(other.to_owned())),
    }
}

/// What is between the first lines `-----BEGIN <kind>-----` and `-----END <kind>-----`, with its kind.
fn armored(text: &str) -> Option<(&str, &str)> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (kind, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once("-----END ")?;
    kind.ends_with("PRIVATE KEY").then_some((kind, body))
}

fn refused(error: ring::error::KeyRejected) -> FormatError {
    FormatError::Refused(error.to_string())
}

fn openssh(bytes: &[u8]) -> Result<Key, FormatError> {
    let mut reader = Reader(bytes.strip_prefix(MAGIC).ok_or(FormatError::Broken)?);
    let mut head = || Some((reader.string()?, reader.string()?, reader.string()?));
    let (cipher, _, _) = head().ok_or(FormatError::Broken)?;
    if cipher != b"none" {
        return Err(FormatError::Encrypted);
    }
    let mut body = || {
        // Only one key is ever in a file.
        (reader.u32()? == 1).then_some(())?;
        let _public = reader.string()?;
        let mut private = Reader(reader.string()?);
        // Two equal numbers tell that a passphrase was the right one.
        (private.u32()? == private.u32()?).then_some(())?;
        Some((private.string()?, private))
    };
    let (kind, mut private) = body().ok_or(FormatError::Broken)?;
    match kind {
        b"ssh-ed25519" => ed25519(&mut private),
        b"ssh-rsa" => rsa(&mut private),
        b"ecdsa-sha2-nistp256" | b"ecdsa-sha2-nistp384" => ecdsa(&mut private),
        other => Err(FormatError::Kind(
            String::from_utf8_lossy(other).into_owned(),
        )),
    }
}

fn ed25519(private: &mut Reader<'_>) -> Result<Key, FormatError> {
    let mut fields = || Some((private.string()?, private.string()?.get(..SEED)?));
    let (public, seed) = fields().ok_or(FormatError::Broken)?;
    Ed25519KeyPair::from_seed_and_public_key(seed, public)
        .map(Key::ed25519)
        .map_err(refused)
}

fn ecdsa(private: &mut Reader<'_>) -> Result<Key, FormatError> {
    let mut fields = || Some((private.string()?, private.string()?, private.number()?));
    let (name, public, number) = fields().ok_or(FormatError::Broken)?;
    let is_named = |curve: &Curve| curve.name().as_bytes() == name;
    let curve = Curve::ALL.into_iter().find(is_named);
    let curve = curve.ok_or(FormatError::Broken)?;
    let zeros = curve.size().checked_sub(number.len());
    let mut padded = vec![0; zeros.ok_or(FormatError::Broken)?];
    padded.extend_from_slice(number);
    let random = SystemRandom::new();
    EcdsaKeyPair::from_private_key_and_public_key(curve.signing(), &padded, public, &random)
        .map(|pair| Key::ecdsa(curve, pair))
        .map_err(refused)
}

fn rsa(private: &mut Reader<'_>) -> Result<Key, FormatError> {
    let mut number = || private.number().ok_or(FormatError::Broken);
    let (n, e, d) = (number()?, number()?, number()?);
    let (inverse, p, q) = (number()?, number()?, number()?);
    let components = KeyPairComponents {
        public_key: PublicKeyComponents { n, e },
        d,
        p,
        q,
        // The format leaves these out.
        dP: &remainder_below(d, p)[..],
        dQ: &remainder_below(d, q)[..],
        qInv: inverse,
    };
    RsaKeyPair::from_components(&components)
        .map(Key::rsa)
        .map_err(refused)
}

/// `number` modulo `prime - 1`, without zeros in front; both are numbers with the highest byte first
/// and `prime` is odd. Bit by bit: it is done once a key.
fn remainder_below(number: &[u8], prime: &[u8]) -> Vec<u8> {
    let mut modulus = prime.to_vec();
    if let Some(last) = modulus.last_mut() {
        *last &= !1;
    }
    // One byte more than the modulus: twice a remainder may be as long.
    modulus.insert(0, 0);
    let mut rest = vec![0; modulus.len()];
    for byte in number {
        for bit in (0..8).rev() {
            let mut carry = byte >> bit & 1;
            for digit in rest.iter_mut().rev() {
                (*digit, carry) = (*digit << 1 | carry, *digit >> 7);
            }
            if rest >= modulus {
                let mut borrow = false;
                for (digit, taken) in rest.iter_mut().zip(&modulus).rev() {
                    let (less, first) = digit.overflowing_sub(*taken);
                    let (less, second) = less.overflowing_sub(u8::from(borrow));
                    (*digit, borrow) = (less, first || second);
                }
            }
        }
    }
    let zeros = rest.iter().take_while(|digit| **digit == 0).count();
    rest.split_off(zeros)
}

fn pkcs8(bytes: &[u8]) -> Result<Key, FormatError> {
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes) {
        return Ok(Key::ed25519(pair));
    }
    for curve in Curve::ALL {
        let random = SystemRandom::new();
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(curve.signing(), bytes, &random) {
            return Ok(Key::ecdsa(curve, pair));
        }
    }
    RsaKeyPair::from_pkcs8(bytes).map(Key::rsa).map_err(refused)
}

/// A key of SEC 1 as PKCS #8 has it, which names the curve outside.
fn enclosed_curve(bytes: &[u8]) -> Option<Vec<u8>> {
    const VERSION: &[u8] = &[0x02, 0x01, 0x00];
    const EC_PUBLIC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
    let names = |curve: &&[u8]| bytes.windows(curve.len()).any(|part| part == *curve);
    let curve = [P256, P384].into_iter().find(names)?;
    let algorithm = element(0x30, &[EC_PUBLIC_KEY, curve].concat())?;
    let key = element(0x04, bytes)?;
    element(0x30, &[VERSION, &algorithm, &key].concat())
}

/// An element of DER.
fn element(tag: u8, content: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(content.len()).ok()?;
    let mut element = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => element.push(short),
        Ok(byte) => element.extend_from_slice(&[0x81, byte]),
        Err(_) => {
            element.push(0x82);
            element.extend_from_slice(&length.to_be_bytes());
        }
    }
    element.extend_from_slice(content);
    Some(element)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders_are_of_one_less_than_the_prime() {
        for (number, prime, rest) in [
            (1_000_003_u32, 257_u32, 1_000_003 % 256),
            (5, 11, 5),
            (10, 11, 0),
            (0xffff_ffff, 65_521, 0xffff_ffff % 65_520),
        ] {
            let digits = remainder_below(&number.to_be_bytes(), &prime.to_be_bytes());
            let value = digits
                .iter()
                .fold(0, |sum, digit| sum << 8 | u32::from(*digit));
            assert_eq!(value, rest, "{number} below {prime}");
        }
    }

    #[test]
    fn what_is_no_key_is_told_so() {
        let why = |text| parse(text).unwrap_err().to_string();
        assert_eq!(why("nothing"), "no private key found");
        let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----";
        assert_eq!(why(certificate), "no private key found");
        let encrypted = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n\
                         -----END RSA PRIVATE KEY-----";
        assert!(why(encrypted).contains("passphrase"));
        let broken = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----";
        assert_eq!(why(broken), "the private key is broken");
        let dsa = "-----BEGIN DSA PRIVATE KEY-----\nAAAA\n-----END DSA PRIVATE KEY-----";
        assert!(why(dsa).starts_with("keys of type `DSA PRIVATE KEY` are not supported"));
    }
}
