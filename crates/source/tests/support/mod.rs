//! What the tests of this crate share.
#![allow(dead_code, reason = "not every test uses all of it")]

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use content::Content;
use oci::{Digest, Platform, Reference};
use refs::{Db, Meta, RecordType, Ref, Refs};
use registry::{Anonymous, BlobStream, Item, Progress, Registry, RetryPolicy};
use snapshot::{Kind, Snapshots};
use source::{ImageRequest, LayoutStore, ResolvedImage, Sources};
use tempfile::TempDir;

/// Empty stores, gone when dropped.
pub(crate) struct Stores {
    pub(crate) dir: TempDir,
    pub(crate) refs: Refs,
}

pub(crate) fn stores() -> Stores {
    let dir = TempDir::with_prefix("source-").unwrap();
    let db = Db::open(&dir.path().join("drydock.db")).unwrap();
    let snapshots = Snapshots::open(&dir.path().join("snapshots"), Kind::Overlay).unwrap();
    let content = Content::open(&dir.path().join("content")).unwrap();
    let refs = Refs::open(db, snapshots, content, refs::Options::default()).unwrap();
    Stores { dir, refs }
}

/// OCI layouts in directories by name, whatever the session.
pub(crate) struct Directories(pub(crate) PathBuf);

#[async_trait]
impl LayoutStore for Directories {
    async fn open(&self, _session: &str, store: &str, digest: &Digest) -> io::Result<BlobStream> {
        let path = self.0.join(store).join("blobs/sha256").join(digest.hex());
        let bytes = std::fs::read(path)?;
        Ok(Box::pin(futures::stream::once(
            async move { Ok(bytes.into()) },
        )))
    }
}

pub(crate) fn sources() -> Sources {
    let retry = RetryPolicy {
        attempts: 2,
        first_delay: Duration::from_millis(1),
    };
    let options = registry::Options {
        retry,
        ..registry::Options::default()
    };
    Sources {
        registry: Registry::new(options).unwrap(),
        credentials: Arc::new(Anonymous),
        layouts: Arc::new(Directories(PathBuf::from("/nonexistent"))),
    }
}

pub(crate) fn request(reference: &str) -> ImageRequest {
    ImageRequest {
        reference: Reference::parse(reference).unwrap().with_default_tag(),
        layout: None,
        platform: Platform::host(),
        checksum: None,
        layer_limit: None,
    }
}

/// Records a lazy ref for `image`.
pub(crate) fn record(refs: &Refs, image: &ResolvedImage) -> Ref {
    let meta = Meta {
        description: "pulled".into(),
        record_type: RecordType::Regular,
        created: SystemTime::now(),
    };
    refs.put_layers(image.manifest.digest, image.layer_specs(), meta)
        .unwrap()
}

/// Collects what is told.
pub(crate) fn listen() -> (Progress, Arc<Mutex<Vec<Item>>>) {
    let items = Arc::<Mutex<Vec<Item>>>::default();
    let all = items.clone();
    (
        Progress::new(move |item| all.lock().unwrap().push(item)),
        items,
    )
}
