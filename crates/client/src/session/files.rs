//! `FileSync`: this client's directories.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use filesync::SendOptions;
use filesync::wire::Packet;
use fstree::walk::WalkOptions;
use sys::root::RootDir;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status, Streaming};

use super::Shared;
use super::packets::{Answer, Answers, OneMethod, Serve, answer, transfer};

/// The directories offered, by name.
#[derive(Clone)]
pub(super) struct Directories(Shared<BTreeMap<String, PathBuf>>);

pub(super) fn server(directories: BTreeMap<String, PathBuf>) -> OneMethod<Directories> {
    OneMethod {
        state: Directories(Arc::new(directories)),
    }
}

impl Serve for Directories {
    const NAME: &'static str = "moby.filesync.v1.FileSync";
    const PATH: &'static str = "/moby.filesync.v1.FileSync/DiffCopy";

    fn serve(self, request: http::Request<Body>) -> Answer<http::Response<Body>> {
        Box::pin(answer(filesync::Codec::default(), request, move |call| {
            self.send(call)
        }))
    }
}

impl Directories {
    /// Sends the directory that the call names.
    async fn send(self, call: Request<Streaming<Packet>>) -> Result<Answers<Packet>, Status> {
        let name = values(call.metadata(), "dir-name")?
            .pop()
            .unwrap_or_default();
        let Some(path) = self.0.get(&name) else {
            return Err(Status::not_found(format!(
                "no access allowed to dir \"{name}\""
            )));
        };
        let root = RootDir::open(path).map_err(|error| {
            Status::unknown(format!("failed to open `{}`: {error}", path.display()))
        })?;
        let options = SendOptions {
            walk: WalkOptions {
                include: values(call.metadata(), "include-patterns")?,
                exclude: values(call.metadata(), "exclude-patterns")?,
                follow_paths: values(call.metadata(), "followpaths")?,
                xattrs: true,
            },
            // Whose they are here is no concern of the build.
            owner: Some((0, 0)),
            ..SendOptions::default()
        };
        let (packets, work) = filesync::send(root, options, call.into_inner());
        Ok(transfer(packets, work))
    }
}

/// All values of a key; decoded if the key `<key>-encoded` says that they are as in a URL's query.
fn values(metadata: &MetadataMap, key: &str) -> Result<Vec<String>, Status> {
    let invalid = || Status::invalid_argument(format!("header `{key}` is not valid"));
    let is_encoded = metadata
        .get(format!("{key}-encoded"))
        .is_some_and(|value| value == "1");
    let decode = |text: &str| match is_encoded {
        true => query_unescape(text).ok_or_else(invalid),
        false => Ok(text.to_owned()),
    };
    let texts = metadata.get_all(key).into_iter();
    texts
        .map(|value| decode(value.to_str().map_err(|_| invalid())?))
        .collect()
}

/// Undoes Go's `url.QueryEscape`.
fn query_unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_values_are_decoded() {
        let mut metadata = MetadataMap::new();
        metadata.append("include-patterns", "a%2Bb".parse().unwrap());
        assert_eq!(values(&metadata, "include-patterns").unwrap(), ["a%2Bb"]);
        metadata.append("include-patterns-encoded", "1".parse().unwrap());
        metadata.append("include-patterns", "%C3%A4+x".parse().unwrap());
        assert_eq!(
            values(&metadata, "include-patterns").unwrap(),
            ["a+b", "ä x"]
        );
        metadata.append("include-patterns", "%zz".parse().unwrap());
        assert!(values(&metadata, "include-patterns").is_err());
        assert!(values(&metadata, "followpaths").unwrap().is_empty());
    }
}
