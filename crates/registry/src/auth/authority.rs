//! Who fetches a client's tokens, and how a client shows that it is the same as another time.
//!
//! A daemon that keeps tokens for a client must know the client when it comes again, without
//! holding anything of the client's. So the client has a key for each registry, which it derives
//! from what only it has and from the daemon's salt. Whoever can sign with the key may use the
//! tokens that were fetched for it.

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, UnparsedPublicKey};

/// Bytes of a signature, which goes in front of what is signed (as NaCl's `sign` has it).
const SIGNATURE: usize = 64;
/// Bytes of salts and of what is to be signed.
const RANDOM: usize = 32;

/// Who fetches the tokens of a client for one registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// The client, with this key of Ed25519 to know it by.
    Key([u8; 32]),
    /// The client if it can; it has no key to know it by.
    Nameless,
    /// The daemon, with the client's login: the client wants it so.
    Daemon,
}

/// What makes keys of a client differ between daemons, so that none can pass for another.
pub(super) struct Salt([u8; RANDOM]);

impl Salt {
    pub(super) fn new() -> Salt {
        Salt(random())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Something new that a client is asked to sign.
pub(super) struct Question([u8; RANDOM]);

impl Question {
    pub(super) fn new() -> Question {
        Question(random())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether `signed` is this question, signed by the holder of `key`.
    pub(super) fn is_answered(&self, signed: &[u8], key: &[u8; 32]) -> bool {
        let Some((signature, message)) = signed.split_at_checked(SIGNATURE) else {
            return false;
        };
        let key = UnparsedPublicKey::new(&ED25519, key);
        message == self.0 && key.verify(message, signature).is_ok()
    }
}

fn random() -> [u8; RANDOM] {
    let mut bytes = [0; RANDOM];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the kernel has random bytes since before the daemon started");
    bytes
}

#[cfg(test)]
mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    #[test]
    fn only_the_holder_of_the_key_answers_and_only_this_question() {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let key: [u8; 32] = pair.public_key().as_ref().try_into().unwrap();
        let question = Question::new();
        let sign = |message: &[u8]| {
            let mut signed = pair.sign(message).as_ref().to_vec();
            signed.extend_from_slice(message);
            signed
        };
        let signed = sign(question.bytes());
        assert!(question.is_answered(&signed, &key));
        assert!(!question.is_answered(&signed, &[9; 32]));
        assert!(!Question::new().is_answered(&signed, &key));
        assert!(!question.is_answered(&sign(b"another"), &key));
        assert!(!question.is_answered(&signed[..SIGNATURE - 1], &key));
    }
}
