//! What clients are told of sources before these are there, and sources that are single blobs.

use proto::{frontend as wire, pb};
use testing::http::{Answer, Server};
use testing::image::Image;
use tonic::Status;

use crate::fixture::Fixture;
use crate::gateway::Driven;
use crate::graph::{self, Graph};

/// Asks what is known of a source.
pub(crate) async fn resolve(
    build: &Driven,
    identifier: &str,
    attrs: &[(&str, &str)],
    request: wire::ResolveSourceMetaRequest,
) -> Result<wire::ResolveSourceMetaResponse, Status> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let (mut bridge, request) = build.call(wire::ResolveSourceMetaRequest {
        source: Some(pb::SourceOp {
            identifier: identifier.to_owned(),
            attrs: attrs.iter().map(owned).collect(),
        }),
        ..request
    });
    Ok(bridge.resolve_source_meta(request).await?.into_inner())
}

#[tokio::test]
async fn what_is_behind_a_url_is_told() {
    let server = Server::start(|call| match call.path.as_str() {
        "/dir/file" => Answer::new(200, "content")
            .with("Last-Modified", "Sat, 01 Jan 2000 00:00:01 GMT")
            .with("ETag", "\"one\""),
        _ => Answer::new(404, ""),
    });
    let server = server.unwrap();
    let fixture = Fixture::new();
    let build = Driven::begin(&fixture, "url").await;
    let ask = wire::ResolveSourceMetaRequest::default;
    let url = server.url("/dir/file");
    let found = resolve(&build, &url, &[], ask()).await.unwrap();
    assert_eq!(found.source.unwrap().identifier, url);
    let http = found.http.unwrap();
    let digest = oci::Digest::of("content").to_string();
    assert_eq!((&http.checksum, http.filename.as_str()), (&digest, "file"));
    assert_eq!(http.last_modified.unwrap().seconds, 946_684_801);
    assert!(http.checksum_response.is_none());

    let hashed = wire::ResolveSourceMetaRequest {
        http: Some(wire::ResolveSourceHttpRequest {
            checksum_request: Some(wire::ChecksumRequest {
                algo: wire::checksum_request::ChecksumAlgo::Sha384.into(),
                suffix: "more".into(),
            }),
        }),
        ..ask()
    };
    let found = resolve(&build, &url, &[], hashed).await.unwrap();
    let answer = found.http.unwrap().checksum_response.unwrap();
    assert_eq!(answer.suffix, "more");
    // printf contentmore | sha384sum
    assert_eq!(answer.digest, HASHED);

    let told = oci::Digest::of("other").to_string();
    let found = resolve(&build, &url, &[("http.checksum", &told)], ask()).await;
    assert_eq!(found.unwrap().http.unwrap().checksum, told);
    let missing = resolve(&build, &server.url("/nothing"), &[], ask()).await;
    let missing = missing.unwrap_err();
    assert!(missing.message().contains("404"), "{missing:?}");
    let found = resolve(&build, "local://context", &[], ask())
        .await
        .unwrap();
    assert!(found.image.is_none() && found.http.is_none() && found.git.is_none());
    let unknown = resolve(&build, "foo://bar", &[], ask()).await.unwrap_err();
    assert_eq!(unknown.message(), "unknown scheme foo: not found");
}

const HASHED: &str = "sha384:073fe8e92618e6f76f63aa03765bbf48859e53438384928d2f68f529bd45a099a898bda4eaaf3e4fa1969b797747264b";

#[tokio::test]
async fn a_blob_of_a_registry_is_a_file() {
    let fixture = Fixture::new();
    let build = Driven::begin(&fixture, "blob").await;
    let image = Image::busybox().unwrap();
    let (descriptor, bytes) = image
        .blobs()
        .iter()
        .find(|(blob, _)| blob.media_type.contains("config"))
        .unwrap();
    let blob = |digest: &str, attrs: &[(&str, &str)]| {
        let name = format!("docker-image+blob://docker.io/library/busybox@{digest}");
        let mut graph = Graph::default();
        let blob = graph.add(graph::source(&name, attrs), &[]);
        graph.definition((blob, 0))
    };
    let digest = descriptor.digest.to_string();
    let made = build.solve(blob(&digest, &[])).await.unwrap();
    let text = String::from_utf8(bytes.clone()).unwrap();
    let hex = digest.strip_prefix("sha256:").unwrap();
    assert_eq!(build.read(&made, hex).await.unwrap(), text);

    let attrs = [
        ("http.filename", "dir/named"),
        ("http.perm", "0640"),
        ("http.uid", "7"),
    ];
    let made = build.solve(blob(&digest, &attrs)).await.unwrap();
    let (mut bridge, request) = build.call(wire::StatFileRequest {
        r#ref: made,
        path: "named".to_owned(),
        ..wire::StatFileRequest::default()
    });
    let stat = bridge
        .stat_file(request)
        .await
        .unwrap()
        .into_inner()
        .stat
        .unwrap();
    assert_eq!((stat.mode, stat.uid, stat.mod_time), (0o640, 7, 0));

    let missing = oci::Digest::of("nothing").to_string();
    let refused = build.solve(blob(&missing, &[])).await.unwrap_err();
    assert!(refused.message().contains("not found"), "{refused:?}");
    let mut graph = Graph::default();
    let layout = format!("oci-layout+blob://x/y@{digest}");
    let layout = graph.add(graph::source(&layout, &[]), &[]);
    let refused = build
        .solve(graph.definition((layout, 0)))
        .await
        .unwrap_err();
    let text = "oci-layout blob source requires store id";
    assert!(refused.message().contains(text), "{refused:?}");
}
