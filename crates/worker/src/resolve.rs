//! What pins a source that is not an image.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use llb::SourceOp;
use proto::worker as wire;
use refs::Ref;
use registry::Progress;
use sha2::{Sha256, Sha384, Sha512};

use crate::failure::{Failure, blocking};
use crate::sessions::Sessions;
use crate::state::Shared;
use crate::view::View;
use crate::{git, pin};

/// The most that may be hashed after a file (BuildKit: `source/http/source.go`).
const MAX_SUFFIX: usize = 4096;

/// Asks what a source op stands for now.
pub(crate) async fn source(
    shared: &Arc<Shared>,
    request: wire::ResolveSourceRequest,
) -> Result<wire::ResolveSourceResponse, Failure> {
    use wire::resolve_source_response::Source;
    let sessions = shared.enter(&request.job, &request.sessions)?;
    let op = SourceOp {
        identifier: request.identifier,
        attrs: request.attrs,
    };
    let source = match pin::scheme(&op)?.0 {
        "git" => {
            let found = git::resolve(shared, &op, request.objects, &sessions).await?;
            Some(Source::Git(found))
        }
        "http" | "https" => {
            let found = http(shared, &request.job, &op, request.checksum, &sessions).await?;
            Some(Source::Http(found))
        }
        // Nothing is to be known of them before they are there.
        "local" | "docker-image+blob" | "oci-layout+blob" => None,
        other => return Err(pin::unknown(other)),
    };
    Ok(wire::ResolveSourceResponse { source })
}

async fn http(
    shared: &Arc<Shared>,
    job: &str,
    op: &SourceOp,
    checksum: Option<wire::Checksum>,
    sessions: &Sessions,
) -> Result<wire::HttpSource, Failure> {
    let suffix = checksum.as_ref().map_or(0, |wanted| wanted.suffix.len());
    if suffix > MAX_SUFFIX {
        return Err(Failure::user(format!(
            "http checksum request suffix exceeds max size {MAX_SUFFIX}"
        )));
    }
    let progress = Progress::none();
    let found = pin::pin_http(shared, op, sessions, &progress).await?;
    let hashed = match checksum {
        None => String::new(),
        Some(wanted) => {
            let kept = pin::realize_http(shared, op, found.id, sessions, &progress).await?;
            shared.job(job)?.lease.add(&kept);
            hash(shared, &kept, &found.filename, wanted, sessions).await?
        }
    };
    Ok(wire::HttpSource {
        digest: found.digest.to_string(),
        filename: found.filename,
        last_modified: found.last_modified.map(|time| prost_types::Timestamp {
            seconds: time.unix_timestamp(),
            nanos: 0,
        }),
        checksum: hashed,
    })
}

/// The digest of a file and what is to follow it.
async fn hash(
    shared: &Shared,
    kept: &Ref,
    name: &str,
    wanted: wire::Checksum,
    sessions: &Sessions,
) -> Result<String, Failure> {
    let stack = shared.stack(kept, sessions, None).await?;
    let snapshots = shared.refs.snapshots().clone();
    let name = name.to_owned();
    blocking(move || {
        let root = View::of(&snapshots, &stack).map_err(Failure::host)?;
        let file = root.open_file(Path::new(&name)).map_err(Failure::host)?;
        let whole = file.chain(&*wanted.suffix);
        let hex = match wanted.algorithm.as_str() {
            "sha256" => hex_of::<Sha256>(whole),
            "sha384" => hex_of::<Sha384>(whole),
            "sha512" => hex_of::<Sha512>(whole),
            other => {
                let text = format!("unsupported checksum algorithm {other}");
                return Err(Failure::user(text));
            }
        };
        let hex = hex.map_err(Failure::host)?;
        Ok(format!("{}:{hex}", wanted.algorithm))
    })
    .await
}

fn hex_of<H: sha2::Digest>(mut from: impl Read) -> io::Result<String> {
    let mut hasher = H::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(hex::encode(hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}
