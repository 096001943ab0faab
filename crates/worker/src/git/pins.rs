//! What a job's git sources were found to be.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use oci::Digest;
use source::GitPin;

/// A build has a few; of one that has more, the oldest are asked for again.
const MAX_PINS: usize = 1024;

/// Commits by what they were asked of and the ids that were given for them. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Pins(Arc<Mutex<VecDeque<(String, GitPin)>>>);

impl Pins {
    /// Remembers what a reference of the repository `url` stands for.
    pub(super) fn add(&self, url: &str, pin: GitPin) {
        let mut pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_other = |known: &(String, GitPin)| known.0 != url || known.1.id != pin.id;
        pins.retain(is_other);
        if pins.len() == MAX_PINS {
            pins.pop_front();
        }
        pins.push_back((url.to_owned(), pin));
    }

    /// What `id` was given for in the repository `url`. Others have the same files, but perhaps not
    /// under the same ref.
    pub(super) fn find(&self, url: &str, id: Digest) -> Option<GitPin> {
        let pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = pins.iter().filter(|(of, pin)| of == url && pin.id == id);
        found.next().map(|(_, pin)| pin.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(id: &str, reference: &str) -> GitPin {
        GitPin {
            id: Digest::of(id),
            commit: "c".to_owned(),
            object: "c".to_owned(),
            reference: Some(reference.to_owned()),
        }
    }

    #[test]
    fn jobs_and_repositories_do_not_take_each_others_pins() {
        let (one, other) = (Pins::default(), Pins::default());
        one.add("a", pin("1", "refs/heads/x"));
        one.add("b", pin("1", "refs/tags/y"));
        for number in 0..MAX_PINS * 2 {
            other.add("a", pin(&number.to_string(), "r"));
        }
        let found = |pins: &Pins, url: &str| pins.find(url, Digest::of("1"))?.reference;
        assert_eq!(found(&one, "a").unwrap(), "refs/heads/x");
        assert_eq!(found(&one.clone(), "b").unwrap(), "refs/tags/y");
        assert_eq!(found(&one, "c"), None);
        // The oldest went.
        assert_eq!(found(&other, "a"), None);
        assert_eq!(other.0.lock().unwrap().len(), MAX_PINS);
    }
}
