//! Sources that are single blobs (BuildKit: `source/containerblob`).

use llb::SourceOp;
use oci::Reference;
use source::BlobRequest;

use crate::failure::{Failure, chain};
use crate::sessions::Sessions;

/// What a source op asks for.
pub(super) fn request(op: &SourceOp, sessions: &Sessions) -> Result<BlobRequest, Failure> {
    let (scheme, text) = super::scheme(op)?;
    let reference: Reference = text
        .parse()
        .map_err(|error| Failure::user(format!("failed to parse {text}: {}", chain(&error))))?;
    let digest = reference
        .digest
        .ok_or_else(|| Failure::user("invalid reference digest: a blob is named by its digest"))?;
    let attr = |key: &str| op.attrs.get(key).filter(|text| !text.is_empty()).cloned();
    let number = |key: &str| -> Result<Option<u32>, Failure> {
        attr(key).map(|text| go_number(key, &text)).transpose()
    };
    let layout = match (scheme, attr("oci.store")) {
        ("oci-layout+blob", Some(store)) => {
            let session = attr("oci.session").or_else(|| sessions.ids().first().cloned());
            Some((session.unwrap_or_default(), store))
        }
        ("oci-layout+blob", None) => {
            let text = "oci-layout blob source requires store id";
            return Err(Failure::user(text));
        }
        _ => None,
    };
    let name = attr("http.filename");
    Ok(BlobRequest {
        repository: reference,
        layout,
        digest,
        filename: name.map(|name| safe_name(&name)),
        perm: number("http.perm")?.filter(|perm| *perm != 0),
        uid: number("http.uid")?.unwrap_or(0),
        gid: number("http.gid")?.unwrap_or(0),
    })
}

/// A number as Go's `ParseInt` reads it when it is to find the base: `0x` and `0o` or `0` in front.
fn go_number(key: &str, text: &str) -> Result<u32, Failure> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => match text.strip_prefix("0o").or(text.strip_prefix('0')) {
            Some(octal) if !octal.is_empty() => u32::from_str_radix(octal, 8),
            _ => text.parse(),
        },
    };
    parsed.map_err(|_| Failure::user(format!("{key} is no number: {text}")))
}

/// The last part of a path, which leads nowhere else.
fn safe_name(name: &str) -> String {
    let last = name.trim_end_matches('/').rsplit('/').next();
    match last.unwrap_or_default() {
        "" | "." | ".." => "download".to_owned(),
        last => last.to_owned(),
    }
}
