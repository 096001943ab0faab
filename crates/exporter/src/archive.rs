//! Archives of images: an OCI layout, and what `docker load` wants beside it.
//!
//! Entries are sorted by name and carry no times, so the same images give the same bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::StreamExt;
use oci::{Digest, Index, Reference, media_type as media};
use serde::Serialize;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::blobs::{Blob, Place, Reader};
use crate::error::ExportError;
use crate::image::Built;
use crate::options::Kind;

/// A tar is made of blocks of this many bytes.
const BLOCK: u64 = 512;

/// One entry of the archive.
enum Entry {
    Dir,
    File { mode: u32, bytes: Bytes },
    Blob(Box<Blob>),
}

/// One image in docker's `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Writes `images` under their names.
pub(crate) async fn write(
    out: &mut (dyn AsyncWrite + Unpin + Send),
    kind: Kind,
    images: &[Built],
    reader: &Reader,
) -> Result<(), ExportError> {
    for (name, entry) in entries(kind, images)? {
        write_entry(out, &name, entry, reader).await?;
    }
    // The end of a tar is two blocks of zeros.
    out.write_all(&[0; 2 * BLOCK as usize])
        .await
        .map_err(ExportError::Write)?;
    out.flush().await.map_err(ExportError::Write)
}

fn entries(kind: Kind, images: &[Built]) -> Result<BTreeMap<String, Entry>, ExportError> {
    let mut entries = BTreeMap::new();
    entries.insert("blobs/".to_owned(), Entry::Dir);
    entries.insert("blobs/sha256/".to_owned(), Entry::Dir);
    for (digest, blob) in images.iter().flat_map(|image| &image.blobs) {
        entries.insert(blob_path(digest), Entry::Blob(Box::new(blob.clone())));
    }
    for (descriptor, bytes) in images.iter().flat_map(|image| &image.manifests) {
        let blob = Blob {
            descriptor: descriptor.clone(),
            place: Place::Memory(bytes.clone()),
            origins: Vec::new(),
        };
        entries.insert(blob_path(&descriptor.digest), Entry::Blob(Box::new(blob)));
    }
    let file = |mode, bytes: Vec<u8>| Entry::File {
        mode,
        bytes: bytes.into(),
    };
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec();
    entries.insert("oci-layout".to_owned(), file(0o444, layout));
    entries.insert("index.json".to_owned(), file(0o644, index(images)?));
    if kind == Kind::Docker {
        entries.insert(
            "manifest.json".to_owned(),
            file(0o644, docker_manifest(images)?),
        );
    }
    Ok(entries)
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The layout's index: each image once for each name.
fn index(images: &[Built]) -> Result<Vec<u8>, ExportError> {
    let mut manifests = Vec::new();
    for image in images {
        let names = image.references()?;
        let named = names.iter().map(|name| {
            let mut descriptor = image.root.clone();
            let tag = name.tag.clone().unwrap_or_else(|| name.to_string());
            let annotations = &mut descriptor.annotations;
            annotations.insert("io.containerd.image.name".to_owned(), name.to_string());
            annotations.insert("org.opencontainers.image.ref.name".to_owned(), tag);
            descriptor
        });
        manifests.extend(named);
        if names.is_empty() {
            manifests.push(image.root.clone());
        }
    }
    let index = Index {
        schema_version: 2,
        media_type: Some(media::OCI_INDEX.to_owned()),
        manifests,
        annotations: BTreeMap::new(),
    };
    serde_json::to_vec(&index).map_err(ExportError::Manifest)
}

fn docker_manifest(images: &[Built]) -> Result<Vec<u8>, ExportError> {
    let mut all: Vec<DockerImage> = Vec::new();
    for image in images {
        let tags: Vec<String> = image
            .references()?
            .iter()
            .map(Reference::familiar)
            .collect();
        for part in &image.images {
            let config = blob_path(&part.config.digest);
            match all.iter_mut().find(|known| known.config == config) {
                Some(known) => known.repo_tags.get_or_insert_default().extend(tags.clone()),
                None => all.push(DockerImage {
                    config,
                    repo_tags: (!tags.is_empty()).then(|| tags.clone()),
                    layers: part.layers.iter().map(|l| blob_path(&l.digest)).collect(),
                }),
            }
        }
    }
    serde_json::to_vec(&all).map_err(ExportError::Manifest)
}

async fn write_entry(
    out: &mut (dyn AsyncWrite + Unpin + Send),
    name: &str,
    entry: Entry,
    reader: &Reader,
) -> Result<(), ExportError> {
    let (kind, mode, size) = match &entry {
        Entry::Dir => (tar::EntryType::Directory, 0o755, 0),
        Entry::File { mode, bytes } => (tar::EntryType::Regular, *mode, bytes.len() as u64),
        Entry::Blob(blob) => (tar::EntryType::Regular, 0o444, blob.descriptor.size),
    };
    // GNU's header: the only one whose size field holds a layer of 8 GiB and more.
    let mut header = tar::Header::new_gnu();
    header.set_path(name).map_err(ExportError::Write)?;
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    out.write_all(header.as_bytes())
        .await
        .map_err(ExportError::Write)?;
    match entry {
        Entry::Dir => return Ok(()),
        Entry::File { bytes, .. } => out.write_all(&bytes).await.map_err(ExportError::Write)?,
        Entry::Blob(blob) => write_blob(out, &blob, reader).await?,
    }
    let padding = [0; BLOCK as usize];
    let used = usize::try_from(size % BLOCK).unwrap_or(0);
    if used > 0 {
        out.write_all(&padding[used..])
            .await
            .map_err(ExportError::Write)?;
    }
    Ok(())
}

async fn write_blob(
    out: &mut (dyn AsyncWrite + Unpin + Send),
    blob: &Blob,
    reader: &Reader,
) -> Result<(), ExportError> {
    let digest = blob.descriptor.digest;
    let read = |source| ExportError::Read { digest, source };
    let mut stream = reader.source(blob).open().await.map_err(read)?;
    let mut size = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(read)?;
        size += chunk.len() as u64;
        out.write_all(&chunk).await.map_err(ExportError::Write)?;
    }
    if size != blob.descriptor.size {
        let text = format!("{size} bytes instead of {}", blob.descriptor.size);
        return Err(read(std::io::Error::other(text)));
    }
    Ok(())
}
