//! Images and held blobs in the index.

use oci::Digest;

use super::{Effects, RefKey, State};
use crate::image::Image;
use crate::record::{self, Change, ImageRecord};

/// An image and the ref that it is made of.
#[derive(Clone, Debug)]
pub(crate) struct ImageEntry {
    pub(crate) image: Image,
    pub(crate) reference: RefKey,
}

impl State {
    /// Adds an image, in the place of one with the same name and platform.
    pub(crate) fn set_image(&mut self, image: Image, reference: RefKey, effects: &mut Effects) {
        let key = (image.name.clone(), image.platform.to_string());
        for blob in &image.blobs {
            self.use_blob(*blob);
        }
        if let Some(entry) = self.refs.get_mut(&reference) {
            entry.images += 1;
        }
        let record = ImageRecord {
            id: image.id,
            config: image.config.clone(),
            manifest: image.manifest.clone(),
            ref_id: image.ref_id,
            reference: reference.0,
            platform: image.platform.clone(),
            created: record::to_ns(image.created),
            blobs: image.blobs.clone(),
        };
        effects.changes.push(Change::PutImage(
            key.0.clone(),
            key.1.clone(),
            Box::new(record),
        ));
        if let Some(before) = self.images.insert(key, ImageEntry { image, reference }) {
            self.leave_image(before, effects);
        }
    }

    /// Removes the images of that name, one for each platform.
    pub(crate) fn remove_image(&mut self, name: &str, effects: &mut Effects) -> Vec<Image> {
        let keys: Vec<_> = self
            .images
            .keys()
            .filter(|(known, _)| known == name)
            .cloned()
            .collect();
        let mut removed = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(entry) = self.images.remove(&key) else {
                continue;
            };
            effects.changes.push(Change::DeleteImage(key.0, key.1));
            removed.push(entry.image.clone());
            self.leave_image(entry, effects);
        }
        removed
    }

    /// All images, by name and platform.
    pub(crate) fn images(&self) -> impl Iterator<Item = &ImageEntry> {
        self.images.values()
    }

    /// Keeps `blobs` for `owner`, instead of what was kept for it before.
    pub(crate) fn hold(&mut self, owner: &str, blobs: Vec<Digest>, effects: &mut Effects) {
        for blob in &blobs {
            self.use_blob(*blob);
        }
        effects.changes.push(if blobs.is_empty() {
            Change::DeleteHold(owner.to_owned())
        } else {
            Change::PutHold(owner.to_owned(), blobs.clone())
        });
        let before = if blobs.is_empty() {
            self.holds.remove(owner)
        } else {
            self.holds.insert(owner.to_owned(), blobs)
        };
        for blob in before.into_iter().flatten() {
            self.leave_blob(blob, effects);
        }
    }

    /// What is kept for `owner`.
    pub(crate) fn held(&self, owner: &str) -> Vec<Digest> {
        self.holds.get(owner).cloned().unwrap_or_default()
    }

    fn leave_image(&mut self, entry: ImageEntry, effects: &mut Effects) {
        for blob in entry.image.blobs {
            self.leave_blob(blob, effects);
        }
        if let Some(reference) = self.refs.get_mut(&entry.reference) {
            reference.images -= 1;
        }
        self.collect(entry.reference, effects);
    }
}
