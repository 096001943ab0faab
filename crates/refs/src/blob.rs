//! Blobs on their way from being written to being named.
//!
//! A blob that nobody names may be removed at any moment: whoever named it before has just let go of it,
//! or it lay about for too long. So it is counted as used in the same moment in which it becomes visible,
//! or is found to be there already.

use std::fmt;
use std::io::Write as _;
use std::sync::Arc;

use content::{CommitError, Whole};
use oci::Digest;

use crate::refs::{Inner, Refs};

/// A blob that stays in the content store as long as this is there: until a layer, an image, a lease or
/// [`Refs::hold`] names it.
#[must_use = "the blob may go at once when this is dropped"]
pub struct KeptBlob {
    inner: Arc<Inner>,
    digest: Digest,
}

impl Refs {
    /// Stores `bytes`, and keeps them. Blocks.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn insert_blob(&self, bytes: &[u8]) -> Result<KeptBlob, CommitError> {
        let digest = Digest::of(bytes);
        if let Some(kept) = self.keep_blob(digest) {
            return Ok(kept);
        }
        let mut writer = self.inner.content.begin().map_err(CommitError::Write)?;
        writer.write_all(bytes).map_err(CommitError::Write)?;
        self.place_blob(writer.finish(Some(digest))?)
    }

    /// Makes a written blob visible, and keeps it. Blocks.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn place_blob(&self, mut whole: Whole) -> Result<KeptBlob, CommitError> {
        let digest = whole.digest();
        let mut state = self.inner.state();
        whole.place()?;
        state.use_blob(digest);
        drop(state);
        Ok(self.kept(digest))
    }

    /// Keeps a blob that is in the content store; `None` if it is not.
    pub fn keep_blob(&self, digest: Digest) -> Option<KeptBlob> {
        let mut state = self.inner.state();
        if !self.inner.content.contains(&digest) {
            return None;
        }
        state.use_blob(digest);
        drop(state);
        Some(self.kept(digest))
    }

    fn kept(&self, digest: Digest) -> KeptBlob {
        KeptBlob {
            inner: Arc::clone(&self.inner),
            digest,
        }
    }
}

impl KeptBlob {
    /// Its digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl Drop for KeptBlob {
    fn drop(&mut self) {
        self.inner
            .change(|state, effects| state.leave_blob(self.digest, effects));
    }
}

impl fmt::Debug for KeptBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeptBlob").field(&self.digest).finish()
    }
}
