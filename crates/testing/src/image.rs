//! Images made by hand, for building from.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use oci::{
    Descriptor, Digest, History, ImageConfig, Index, Manifest, Platform, media_type as media,
};

/// One file of a layer.
#[derive(Clone, Debug)]
pub enum Node {
    /// A directory with these permissions.
    Dir(u32),
    /// A file with these permissions and this content.
    File(u32, Vec<u8>),
    /// A symbolic link to this target.
    Link(String),
}

/// A layer: paths without a leading `/`, and what is there.
pub type Tree = BTreeMap<String, Node>;

/// The tar of `tree`, with mtime 0 and owner root; the same tree gives the same bytes.
pub fn tar_of(tree: &Tree) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, node) in tree {
        let mut header = tar::Header::new_ustar();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        match node {
            Node::Dir(mode) => {
                header.set_mode(*mode);
                header.set_entry_type(tar::EntryType::Directory);
                header.set_size(0);
                tar.append_data(&mut header, format!("{path}/"), &[][..])?;
            }
            Node::File(mode, content) => {
                header.set_mode(*mode);
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, path, content.as_slice())?;
            }
            Node::Link(target) => {
                header.set_mode(0o777);
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, path, target)?;
            }
        }
    }
    Ok(tar.into_inner()?)
}

/// An image, or an index of images, with all its blobs.
#[derive(Clone, Debug)]
pub struct Image {
    blobs: Vec<(Descriptor, Vec<u8>)>,
    /// Children first, the root last.
    manifests: Vec<(Descriptor, Vec<u8>)>,
    config: ImageConfig,
}

impl Image {
    /// An image for `platform` with one gzip layer for each of `layers`; `edit` may change the
    /// config before it is written.
    pub fn new(
        platform: &Platform,
        layers: &[Tree],
        edit: impl FnOnce(&mut ImageConfig),
    ) -> Result<Image> {
        let mut config = ImageConfig {
            created: Some("2024-01-02T03:04:05Z".into()),
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            ..ImageConfig::default()
        };
        config.config.env = vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".into()];
        let mut blobs = Vec::new();
        for (at, layer) in layers.iter().enumerate() {
            let tar = tar_of(layer)?;
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(&tar)?;
            let blob = gzip.finish()?;
            config.rootfs.diff_ids.push(Digest::of(&tar));
            config.history.push(History {
                created: config.created.clone(),
                created_by: format!("layer {at}"),
                ..History::default()
            });
            blobs.push((describe(media::OCI_LAYER_GZIP, &blob), blob));
        }
        edit(&mut config);
        let layers = blobs
            .iter()
            .map(|(descriptor, _)| descriptor.clone())
            .collect();
        let bytes = serde_json::to_vec(&config)?;
        let descriptor = describe(media::OCI_CONFIG, &bytes);
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media::OCI_MANIFEST.into()),
            artifact_type: None,
            config: descriptor.clone(),
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        };
        blobs.push((descriptor, bytes));
        let bytes = serde_json::to_vec(&manifest)?;
        let mut descriptor = describe(media::OCI_MANIFEST, &bytes);
        descriptor.platform = Some(platform.clone());
        Ok(Image {
            blobs,
            manifests: vec![(descriptor, bytes)],
            config,
        })
    }

    /// busybox on this machine's platform, runnable, with `cmd` `sh`.
    pub fn busybox() -> Result<Image> {
        Image::new(&Platform::host(), &[busybox_tree()?], |config| {
            config.config.cmd = Some(vec!["sh".into()]);
        })
    }

    /// An index of `images`, in order.
    pub fn index(images: &[Image]) -> Result<Image> {
        let mut all = Image {
            blobs: Vec::new(),
            manifests: Vec::new(),
            config: ImageConfig::default(),
        };
        let mut index = Index {
            schema_version: 2,
            media_type: Some(media::OCI_INDEX.into()),
            manifests: Vec::new(),
            annotations: BTreeMap::new(),
        };
        for image in images {
            index.manifests.push(image.descriptor().clone());
            all.blobs.extend(image.blobs.iter().cloned());
            all.manifests.extend(image.manifests.iter().cloned());
        }
        let bytes = serde_json::to_vec(&index)?;
        all.manifests
            .push((describe(media::OCI_INDEX, &bytes), bytes));
        Ok(all)
    }

    /// The manifest's or index's descriptor.
    pub fn descriptor(&self) -> &Descriptor {
        &self.manifests[self.manifests.len() - 1].0
    }

    /// The manifest's digest.
    pub fn digest(&self) -> Digest {
        self.descriptor().digest
    }

    /// The config; of an index, an empty one.
    pub fn config(&self) -> &ImageConfig {
        &self.config
    }

    /// Layers and configs.
    pub fn blobs(&self) -> &[(Descriptor, Vec<u8>)] {
        &self.blobs
    }

    /// Manifests, and indexes after what they name.
    pub fn manifests(&self) -> &[(Descriptor, Vec<u8>)] {
        &self.manifests
    }

    /// Writes the image to `dir` as an OCI layout, with the tag `tag`.
    pub fn write_layout(&self, dir: &Path, tag: &str) -> Result<()> {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        for (descriptor, bytes) in self.blobs.iter().chain(&self.manifests) {
            fs::write(blobs.join(descriptor.digest.hex()), bytes)?;
        }
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let mut root = self.descriptor().clone();
        root.annotations
            .insert("org.opencontainers.image.ref.name".into(), tag.into());
        let index = Index {
            schema_version: 2,
            media_type: Some(media::OCI_INDEX.into()),
            manifests: vec![root],
            annotations: BTreeMap::new(),
        };
        fs::write(dir.join("index.json"), serde_json::to_vec(&index)?)?;
        Ok(())
    }
}

/// The descriptor of `bytes`.
pub fn describe(kind: &str, bytes: &[u8]) -> Descriptor {
    Descriptor::new(kind, Digest::of(bytes), bytes.len() as u64)
}

/// A root filesystem with a static busybox and a link for each of its programs.
pub fn busybox_tree() -> Result<Tree> {
    static TREE: OnceLock<Tree> = OnceLock::new();
    if let Some(tree) = TREE.get() {
        return Ok(tree.clone());
    }
    let program = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .context("busybox-static is not installed")?;
    let mut tree = Tree::new();
    for (dir, mode) in [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("proc", 0o555),
        ("root", 0o700),
        ("sys", 0o555),
        ("tmp", 0o1777),
        ("usr", 0o755),
        ("usr/bin", 0o755),
        ("var", 0o755),
    ] {
        tree.insert(dir.into(), Node::Dir(mode));
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    let group = "root:x:0:\nstaff:x:50:\nnogroup:x:65534:\n";
    tree.insert("etc/passwd".into(), Node::File(0o644, passwd.into()));
    tree.insert("etc/group".into(), Node::File(0o644, group.into()));
    tree.insert("bin/busybox".into(), Node::File(0o755, fs::read(program)?));
    let listed = Command::new(program).arg("--list").output()?;
    for name in String::from_utf8(listed.stdout)?
        .lines()
        .filter(|name| *name != "busybox")
    {
        tree.insert(format!("bin/{name}"), Node::Link("busybox".into()));
    }
    Ok(TREE.get_or_init(|| tree).clone())
}
