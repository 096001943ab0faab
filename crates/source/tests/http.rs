//! Files behind URLs.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use oci::Digest;
use registry::{Progress, Secret};
use source::{Http, HttpError, HttpRequest};
use support::{Stores, stores};
use sys::root::Follow;
use testing::http::{Answer, Server};

fn http(stores: &Stores) -> Http {
    Http::new(
        registry::http_client("test").unwrap(),
        stores.refs.snapshots().clone(),
    )
}

fn get(url: String) -> HttpRequest {
    HttpRequest {
        url,
        ..HttpRequest::default()
    }
}

#[tokio::test]
async fn a_file_has_the_name_time_and_owner_that_are_asked_for() {
    let server = Server::start(|_| {
        Answer::new(200, "content")
            .with("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
            .with("Content-Disposition", "attachment; filename=\"stated.txt\"")
    })
    .unwrap();
    let stores = stores();
    let http = http(&stores);
    let mut request = get(server.url("/a/b"));
    (request.perm, request.uid, request.gid) = (Some(0o4755), 7, 8);
    let pin = http.pin(&request, &Progress::none()).await.unwrap();
    assert_eq!(
        (pin.filename.as_str(), pin.digest),
        ("stated.txt", Digest::of("content"))
    );

    let active = http
        .fetch(&request, pin.id, &Progress::none())
        .await
        .unwrap();
    assert_eq!(
        server.calls().len(),
        1,
        "what was fetched to be pinned is not fetched again"
    );
    let root = active.fs().unwrap();
    let stat = root.stat(Path::new("stated.txt"), Follow::No).unwrap();
    assert_eq!((stat.mode & 0o7777, stat.uid, stat.gid), (0o4755, 7, 8));
    assert_eq!(stat.mtime_ns, 1_445_412_480_000_000_000);
    let mut text = String::new();
    root.open_file(Path::new("stated.txt"))
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "content");
}

#[tokio::test]
async fn a_checksum_pins_without_asking_and_is_checked() {
    let server = Server::start(|_| Answer::new(200, "content")).unwrap();
    let stores = stores();
    let http = http(&stores);
    let mut request = get(server.url("/file"));
    request.checksum = Some(Digest::of("content"));
    let pin = http.pin(&request, &Progress::none()).await.unwrap();
    assert!(server.calls().is_empty());
    http.fetch(&request, pin.id, &Progress::none())
        .await
        .unwrap();

    request.checksum = Some(Digest::of("another"));
    let pin = http.pin(&request, &Progress::none()).await.unwrap();
    let error = http
        .fetch(&request, pin.id, &Progress::none())
        .await
        .unwrap_err();
    let want = format!(
        "digest mismatch {}: {}",
        Digest::of("content"),
        Digest::of("another")
    );
    assert_eq!(error.to_string(), want);
}

#[tokio::test]
async fn what_did_not_change_is_not_fetched_again() {
    for understands_none_match in [true, false] {
        let version = Arc::new(AtomicUsize::new(1));
        let current = version.clone();
        let server = Server::start(move |call| {
            let etag = format!("\"v{}\"", current.load(Ordering::Relaxed));
            let answer = match call.header("if-none-match") {
                Some(sent) if understands_none_match && sent == etag => Answer::new(304, ""),
                _ => Answer::new(200, etag.clone()),
            };
            answer.with("ETag", format!("W/{etag}").replace("W/W/", "W/"))
        })
        .unwrap();
        let stores = stores();
        let http = http(&stores);
        let request = get(server.url("/file"));
        let first = http.pin(&request, &Progress::none()).await.unwrap();
        let second = http.pin(&request, &Progress::none()).await.unwrap();
        assert_eq!(first, second);
        let gets = || {
            server
                .calls()
                .iter()
                .filter(|call| call.method == "GET")
                .count()
        };
        assert_eq!(gets(), 1);
        version.store(2, Ordering::Relaxed);
        let third = http.pin(&request, &Progress::none()).await.unwrap();
        assert_ne!(first.id, third.id);
        assert_eq!(gets(), 2);
    }
}

#[tokio::test]
async fn only_harmless_headers_are_sent() {
    let server = Server::start(|_| Answer::new(200, "")).unwrap();
    let stores = stores();
    let mut request = get(server.url("/file"));
    request.headers = vec![
        ("accept".into(), "text/x".into()),
        ("cookie".into(), "secret".into()),
        ("user-agent".into(), "me".into()),
    ];
    request.authorization = Some(Secret::new("Bearer token"));
    http(&stores)
        .pin(&request, &Progress::none())
        .await
        .unwrap();
    let call = &server.calls()[0];
    assert_eq!(call.header("accept"), Some("text/x"));
    assert_eq!(call.header("user-agent"), Some("me"));
    assert_eq!(call.header("authorization"), Some("Bearer token"));
    assert_eq!(call.header("cookie"), None);
}

#[tokio::test]
async fn failures_name_the_url() {
    let stores = stores();
    let http = http(&stores);
    let server = Server::start(|_| Answer::new(404, "")).unwrap();
    let url = server.url("/file");
    let error = http
        .pin(&get(format!("{url}?signature=x")), &Progress::none())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("invalid response status 404 of {url}")
    );

    let server = Server::start(|_| Answer::new(200, "content").broken_after(3)).unwrap();
    let error = http
        .pin(&get(server.url("/file")), &Progress::none())
        .await
        .unwrap_err();
    assert!(matches!(error, HttpError::Request { .. }), "{error}");

    let error = http
        .pin(&get("ftp://x/y".into()), &Progress::none())
        .await
        .unwrap_err();
    assert!(matches!(error, HttpError::Url(_)), "{error}");
}
