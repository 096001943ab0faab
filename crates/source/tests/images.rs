//! Images from a real registry and from layouts, down to their files.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use oci::{Descriptor, Digest, Platform};
use registry::{BlobSource, BlobStream, Origin, Progress, Providers};
use source::{FetchError, Fetcher, ImageError, ImageResolver};
use support::{Directories, listen, record, request, sources, stores};
use sys::root::{Follow, RootDir};
use testing::image::{Image, Node, Tree};
use testing::registry::DockerRegistry;
use tokio::sync::Semaphore;

fn tree(files: &[(&str, &str)]) -> Tree {
    let node = |text: &str| match text {
        "/" => Node::Dir(0o700),
        text => Node::File(0o644, text.into()),
    };
    files
        .iter()
        .map(|(path, text)| ((*path).into(), node(text)))
        .collect()
}

fn two_layers() -> Image {
    let lower = tree(&[("dir", "/"), ("dir/a", "lower"), ("gone", "x")]);
    let upper = tree(&[("dir/b", "upper"), (".wh.gone", "")]);
    Image::new(&Platform::host(), &[lower, upper], |_| {}).unwrap()
}

/// Lets one blob after the other go when it is told to, and counts how often each is opened.
struct Gated {
    inner: Arc<dyn Providers>,
    gate: Arc<Semaphore>,
    opened: Arc<AtomicUsize>,
}

struct GatedBlob(Arc<dyn BlobSource>, Arc<Semaphore>, Arc<AtomicUsize>);

impl Providers for Gated {
    fn blob(&self, origin: &Origin, descriptor: &Descriptor) -> Arc<dyn BlobSource> {
        let inner = self.inner.blob(origin, descriptor);
        Arc::new(GatedBlob(inner, self.gate.clone(), self.opened.clone()))
    }
}

#[async_trait]
impl BlobSource for GatedBlob {
    async fn open(&self) -> std::io::Result<BlobStream> {
        self.2.fetch_add(1, Ordering::Relaxed);
        let gate = self.1.clone();
        let stream = self.0.open().await?;
        let wait = futures::stream::once(async move {
            gate.acquire().await.unwrap().forget();
            Ok(Bytes::new())
        });
        Ok(wait.chain(stream).boxed())
    }
}

#[tokio::test]
async fn an_image_is_pulled_down_to_its_files() {
    let server = DockerRegistry::start().unwrap();
    let image = two_layers();
    let reference = server.push("a/b:1", &image).unwrap();
    let (stores, sources) = (stores(), sources());

    let resolved = ImageResolver::new()
        .resolve(&sources, &request(&reference))
        .await
        .unwrap();
    assert_eq!(resolved.root.digest, image.digest());
    assert_eq!(resolved.manifest.digest, image.digest());
    assert_eq!(resolved.layers.len(), 2);
    assert_eq!(
        resolved.layers[0].diff_id,
        image.config().rootfs.diff_ids[0]
    );
    assert_eq!(
        resolved.origin.to_string(),
        format!("docker-image://{}/a/b", server.host())
    );

    let reference = record(&stores.refs, &resolved);
    assert_eq!(reference.snapshots(), None);
    let fetcher = Fetcher::new(stores.refs.clone());
    let providers: Arc<dyn Providers> = Arc::new(sources);
    let (progress, items) = listen();
    fetcher
        .materialize(&reference, &providers, &progress)
        .await
        .unwrap();

    let stack = reference.snapshots().unwrap();
    let view = stores.refs.snapshots().view(&stack).unwrap();
    let root = RootDir::from_fd(view.into_fd());
    let names: Vec<_> = root
        .read_dir(Path::new("/dir"))
        .unwrap()
        .into_iter()
        .map(|e| e.name)
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert!(!root.exists(Path::new("/gone")).unwrap());
    // The upper layer has a file in the directory but not the directory itself.
    assert_eq!(
        root.stat(Path::new("/dir"), Follow::No).unwrap().mode & 0o777,
        0o700
    );

    for layer in reference.layers() {
        assert!(
            stores.refs.content().contains(&layer.blobs[0].digest),
            "blobs are kept"
        );
    }
    let items = std::mem::take(&mut *items.lock().unwrap());
    let names: BTreeSet<&str> = items.iter().map(|item| item.name.as_str()).collect();
    for layer in &resolved.layers {
        let digest = layer.descriptor.digest.to_string();
        assert!(names.contains(digest.as_str()));
        assert!(names.contains(format!("extracting {digest}").as_str()));
        let last = items.iter().rfind(|item| item.name == digest).unwrap();
        assert_eq!(
            (last.current, last.total),
            (layer.descriptor.size, layer.descriptor.size)
        );
        assert!(last.completed.is_some());
    }

    let (progress, items) = listen();
    fetcher
        .materialize(&reference, &providers, &progress)
        .await
        .unwrap();
    assert!(items.lock().unwrap().is_empty(), "nothing is left to do");
}

#[tokio::test]
async fn an_index_is_resolved_for_the_platform() {
    let server = DockerRegistry::start().unwrap();
    let image = |platform: &str| {
        let layer = tree(&[("platform", platform)]);
        Image::new(&platform.parse().unwrap(), &[layer], |_| {}).unwrap()
    };
    let arm = image("linux/arm64");
    let amd = image("linux/amd64");
    let index = Image::index(&[arm.clone(), amd]).unwrap();
    let reference = server.push("multi:1", &index).unwrap();
    let (sources, resolver) = (sources(), ImageResolver::new());

    let mut request = request(&reference);
    request.platform = "linux/arm64/v8".parse().unwrap();
    let resolved = resolver.resolve(&sources, &request).await.unwrap();
    assert_eq!(resolved.root.digest, index.digest());
    assert_eq!(resolved.manifest.digest, arm.digest());

    request.platform = "linux/s390x".parse().unwrap();
    let error = resolver.resolve(&sources, &request).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no match for platform in manifest"),
        "{error}"
    );

    request.platform = "linux/arm64".parse().unwrap();
    request.checksum = Some(Digest::of("another"));
    let error = resolver.resolve(&sources, &request).await.unwrap_err();
    assert!(matches!(error, ImageError::Checksum { .. }), "{error}");

    // By digest nothing has to be asked once the manifest is known.
    request.checksum = None;
    request.reference.digest = Some(index.digest());
    drop(server);
    assert_eq!(
        resolver
            .resolve(&sources, &request)
            .await
            .unwrap()
            .root
            .digest,
        index.digest()
    );
}

#[tokio::test]
async fn an_image_is_read_from_a_layout() {
    let image = two_layers();
    let stores = stores();
    let layouts = stores.dir.path().join("layouts");
    image.write_layout(&layouts.join("base"), "latest").unwrap();
    let mut sources = sources();
    sources.layouts = Arc::new(Directories(layouts.clone()));
    let mut request = request(&format!("base@{}", image.digest()));
    request.layout = Some(("session".into(), "base".into()));
    let resolved = ImageResolver::new()
        .resolve(&sources, &request)
        .await
        .unwrap();
    assert_eq!(resolved.manifest.digest, image.digest());

    let reference = record(&stores.refs, &resolved);
    let fetcher = Fetcher::new(stores.refs.clone());
    let providers: Arc<dyn Providers> = Arc::new(sources);
    let layer = layouts
        .join("base/blobs/sha256")
        .join(resolved.layers[1].descriptor.digest.hex());
    std::fs::write(&layer, "not a layer").unwrap();
    let error = fetcher
        .materialize(&reference, &providers, &Progress::none())
        .await
        .unwrap_err();
    assert!(matches!(error, FetchError::Fetch { .. }), "{error:?}");
    std::fs::write(&layer, &image.blobs()[1].1).unwrap();
    fetcher
        .materialize(&reference, &providers, &Progress::none())
        .await
        .unwrap();
    assert!(reference.snapshots().is_some());
}

#[tokio::test]
async fn a_layer_is_fetched_once_for_all_who_want_it() {
    let server = DockerRegistry::start().unwrap();
    let reference = server.push("once:1", &two_layers()).unwrap();
    let (stores, sources) = (stores(), sources());
    let resolved = ImageResolver::new()
        .resolve(&sources, &request(&reference))
        .await
        .unwrap();
    let reference = record(&stores.refs, &resolved);
    let fetcher = Fetcher::new(stores.refs.clone());
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::<AtomicUsize>::default();
    let providers: Arc<dyn Providers> = Arc::new(Gated {
        inner: Arc::new(sources),
        gate: gate.clone(),
        opened: opened.clone(),
    });

    let wait = || {
        let (fetcher, reference) = (fetcher.clone(), reference.clone());
        let (providers, (progress, items)) = (providers.clone(), listen());
        let task =
            tokio::spawn(
                async move { fetcher.materialize(&reference, &providers, &progress).await },
            );
        (task, items)
    };
    let (first, _) = wait();
    while opened.load(Ordering::Relaxed) < 2 {
        tokio::task::yield_now().await;
    }
    let (second, items) = wait();
    let (third, _) = wait();
    tokio::task::yield_now().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    gate.add_permits(2);
    second.await.unwrap().unwrap();
    third.await.unwrap().unwrap();
    assert_eq!(
        opened.load(Ordering::Relaxed),
        2,
        "each of the two layers was opened once"
    );
    let completed = items
        .lock()
        .unwrap()
        .iter()
        .filter(|i| i.completed.is_some())
        .count();
    assert_eq!(completed, 4, "those who join are told as well");
}

#[tokio::test]
async fn a_transfer_that_nobody_waits_for_leaves_nothing() {
    let server = DockerRegistry::start().unwrap();
    let reference = server.push("left:1", &two_layers()).unwrap();
    let (stores, sources) = (stores(), sources());
    let resolved = ImageResolver::new()
        .resolve(&sources, &request(&reference))
        .await
        .unwrap();
    let reference = record(&stores.refs, &resolved);
    let fetcher = Fetcher::new(stores.refs.clone());
    let opened = Arc::<AtomicUsize>::default();
    let gate = Arc::new(Semaphore::new(0));
    let providers: Arc<dyn Providers> = Arc::new(Gated {
        inner: Arc::new(sources),
        gate,
        opened: opened.clone(),
    });
    let progress = Progress::none();
    let mut transfer = Box::pin(fetcher.materialize(&reference, &providers, &progress));
    while opened.load(Ordering::Relaxed) < 2 {
        let _ = tokio::time::timeout(Duration::from_millis(1), &mut transfer).await;
    }
    drop(transfer);
    assert_eq!(reference.snapshots(), None);
    let refs = stores.refs.clone();
    let emptied = async {
        while !refs.snapshots().list().unwrap().is_empty()
            || !refs.content().list().unwrap().is_empty()
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), emptied)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_layer_that_is_not_the_configs_is_refused() {
    let server = DockerRegistry::start().unwrap();
    let image = Image::new(&Platform::host(), &[tree(&[("a", "b")])], |config| {
        config.rootfs.diff_ids[0] = Digest::of("another layer");
    })
    .unwrap();
    let reference = server.push("wrong:1", &image).unwrap();
    let (stores, sources) = (stores(), sources());
    let resolved = ImageResolver::new()
        .resolve(&sources, &request(&reference))
        .await
        .unwrap();
    let reference = record(&stores.refs, &resolved);
    let fetcher = Fetcher::new(stores.refs.clone());
    let providers: Arc<dyn Providers> = Arc::new(sources);
    let error = fetcher
        .materialize(&reference, &providers, &Progress::none())
        .await
        .unwrap_err();
    assert!(matches!(error, FetchError::DiffId { .. }), "{error:?}");
    assert_eq!(reference.snapshots(), None);
}

#[tokio::test]
async fn only_so_many_layers_are_taken() {
    let server = DockerRegistry::start().unwrap();
    let mut request = request(&server.push("limit:1", &two_layers()).unwrap());
    request.layer_limit = Some(1);
    let resolved = ImageResolver::new()
        .resolve(&sources(), &request)
        .await
        .unwrap();
    assert_eq!(resolved.layers.len(), 1);
}
