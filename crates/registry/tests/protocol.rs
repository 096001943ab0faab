//! The client against a real registry, and against servers that lie and break.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use oci::{Descriptor, Digest, Reference, media_type};
use registry::{
    Access, Anonymous, Authority, BlobReader, Class, Credentials, CredentialsError, HostConfig,
    Login, Options, Pushed, Registry, RegistryError, Repository, RetryPolicy, Secret, Token,
    TokenRequest,
};
use ring::signature::{Ed25519KeyPair, KeyPair};
use testing::http::{Answer, Server};
use testing::image::{Image, describe};
use testing::registry::{DockerRegistry, PASSWORD, USER};

fn options() -> Options {
    let retry = RetryPolicy {
        attempts: 4,
        first_delay: Duration::from_millis(2),
    };
    Options {
        retry,
        ..Options::default()
    }
}

fn open(reference: &str, access: Access) -> Repository {
    open_with(options(), reference, access, Arc::new(Anonymous))
}

fn open_with(
    options: Options,
    reference: &str,
    access: Access,
    credentials: Arc<dyn Credentials>,
) -> Repository {
    let registry = Registry::new(options).unwrap();
    registry
        .repository(&Reference::parse(reference).unwrap(), access, credentials)
        .unwrap()
}

async fn read(mut blob: BlobReader) -> Result<Vec<u8>, RegistryError> {
    let mut all = Vec::new();
    while let Some(chunk) = blob.chunk().await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// The user that the registry with a password knows, or another.
struct User(&'static str);

#[async_trait]
impl Credentials for User {
    fn identity(&self) -> &str {
        self.0
    }

    async fn credentials(&self, _host: &str) -> Result<Option<Login>, CredentialsError> {
        Ok(Some(Login::Password {
            username: USER.into(),
            secret: Secret::new(self.0),
        }))
    }

    async fn fetch_token(&self, _: &TokenRequest) -> Result<Option<Token>, CredentialsError> {
        Ok(None)
    }
}

#[tokio::test]
async fn what_is_pushed_is_pulled() {
    let server = DockerRegistry::start().unwrap();
    let image = Image::busybox().unwrap();
    let repository = open(&server.reference("a/b:v1"), Access::Push);
    let sent = Arc::new(AtomicU64::new(0));
    for (descriptor, bytes) in image.blobs() {
        let bytes = Bytes::from(bytes.clone());
        let push = || repository.push_blob(descriptor, &bytes, &[], &sent);
        assert_eq!(push().await.unwrap(), Pushed::Uploaded);
        assert_eq!(sent.load(Ordering::Relaxed), descriptor.size);
        assert_eq!(push().await.unwrap(), Pushed::Exists);
    }
    let (descriptor, manifest) = &image.manifests()[0];
    let manifest = Bytes::from(manifest.clone());
    let tagged = || repository.push_manifest(descriptor, manifest.clone(), Some("v1"));
    assert_eq!(tagged().await.unwrap(), Pushed::Uploaded);
    assert_eq!(tagged().await.unwrap(), Pushed::Exists);

    let repository = open(&server.reference("a/b:v1"), Access::Pull);
    let resolved = repository.resolve().await.unwrap();
    assert_eq!(resolved.digest, image.digest());
    assert_eq!(resolved.media_type, media_type::OCI_MANIFEST);
    assert_eq!(repository.manifest(&resolved).await.unwrap(), manifest);
    for (descriptor, bytes) in image.blobs() {
        assert!(repository.has_blob(descriptor).await.unwrap());
        assert_eq!(
            &read(repository.blob(descriptor).await.unwrap())
                .await
                .unwrap(),
            bytes
        );
    }
}

#[tokio::test]
async fn a_blob_of_another_repository_is_mounted() {
    let server = DockerRegistry::start().unwrap();
    let image = Image::busybox().unwrap();
    server.push("from:latest", &image).unwrap();
    let repository = open(&server.reference("to"), Access::Push);
    let (descriptor, _) = &image.blobs()[0];
    let nothing = Bytes::new();
    let sent = Arc::new(AtomicU64::new(0));
    let from = ["absent".to_owned(), "from".to_owned()];
    let pushed = repository
        .push_blob(descriptor, &nothing, &from, &sent)
        .await
        .unwrap();
    assert_eq!(pushed, Pushed::Mounted);
    assert!(repository.has_blob(descriptor).await.unwrap());
}

#[tokio::test]
async fn a_blob_goes_from_one_registry_to_another_as_a_stream() {
    struct Remote(Repository, Descriptor);
    #[async_trait]
    impl registry::BlobSource for Remote {
        async fn open(&self) -> std::io::Result<registry::BlobStream> {
            let blob = self.0.blob(&self.1).await.map_err(std::io::Error::other)?;
            Ok(blob.into_stream())
        }
    }
    let (from, to) = (
        DockerRegistry::start().unwrap(),
        DockerRegistry::start().unwrap(),
    );
    let image = Image::busybox().unwrap();
    from.push("x:latest", &image).unwrap();
    let (descriptor, bytes) = &image.blobs()[0];
    let remote = Remote(open(&from.reference("x"), Access::Pull), descriptor.clone());
    let repository = open(&to.reference("y"), Access::Push);
    let sent = Arc::new(AtomicU64::new(0));
    let pushed = repository
        .push_blob(descriptor, &remote, &[], &sent)
        .await
        .unwrap();
    assert_eq!(pushed, Pushed::Uploaded);
    assert_eq!(&to.blob("y", &descriptor.digest).unwrap(), bytes);
}

#[tokio::test]
async fn a_password_opens_the_registry_and_a_wrong_one_does_not() {
    let server = DockerRegistry::start_with_password().unwrap();
    let image = Image::busybox().unwrap();
    let reference = server.push("x:latest", &image).unwrap();
    let access = Access::Push;
    let repository = open_with(options(), &reference, access, Arc::new(User(PASSWORD)));
    assert_eq!(repository.resolve().await.unwrap().digest, image.digest());
    let bytes = Bytes::from_static(b"more");
    let blob = describe("application/octet-stream", &bytes);
    let sent = Arc::new(AtomicU64::new(0));
    let pushed = repository
        .push_blob(&blob, &bytes, &[], &sent)
        .await
        .unwrap();
    assert_eq!(pushed, Pushed::Uploaded);

    for credentials in [
        Arc::new(User("wrong")) as Arc<dyn Credentials>,
        Arc::new(Anonymous),
    ] {
        let repository = open_with(options(), &reference, Access::Pull, credentials);
        let error = repository.resolve().await.unwrap_err();
        assert_eq!(error.class(), Class::User);
        assert!(
            error
                .to_string()
                .starts_with("pull access denied, repository does not exist")
        );
    }
}

#[tokio::test]
async fn one_token_serves_all_requests_of_one_scope() {
    let image = Image::busybox().unwrap();
    let (manifest, bytes) = image.manifests()[0].clone();
    let tokens = Arc::new(AtomicUsize::new(0));
    let given = tokens.clone();
    let token_server = Server::start(move |call| {
        assert!(
            call.path.contains("scope=repository%3Ax%3Apull"),
            "{}",
            call.path
        );
        assert!(call.path.contains("service=registry"), "{}", call.path);
        assert_eq!(
            call.header("authorization")
                .map(|a| a.starts_with("Basic ")),
            Some(true)
        );
        given.fetch_add(1, Ordering::Relaxed);
        Answer::new(200, r#"{"token":"T","expires_in":300}"#)
    })
    .unwrap();
    let realm = token_server.url("/token");
    let server = Server::start(move |call| match call.header("authorization") {
        Some("Bearer T") => Answer::new(200, bytes.clone())
            .with("Docker-Content-Digest", manifest.digest.to_string())
            .with("Content-Type", &manifest.media_type),
        _ => Answer::new(401, "").with(
            "WWW-Authenticate",
            format!(r#"Bearer realm="{realm}",service="registry",scope="repository:x:pull""#),
        ),
    })
    .unwrap();
    let reference = format!("{}/x", server.host());
    let repository = open_with(
        options(),
        &reference,
        Access::Pull,
        Arc::new(User(PASSWORD)),
    );
    for _ in 0..3 {
        let resolved = repository.resolve().await.unwrap();
        repository.manifest(&resolved).await.unwrap();
    }
    assert_eq!(tokens.load(Ordering::Relaxed), 1);
    assert_eq!(
        server.calls().len(),
        7,
        "one refusal, then three times two requests"
    );
}

#[tokio::test]
async fn the_client_may_fetch_the_token_itself() {
    struct Delegated;
    #[async_trait]
    impl Credentials for Delegated {
        fn identity(&self) -> &str {
            "delegated"
        }
        async fn credentials(&self, _: &str) -> Result<Option<Login>, CredentialsError> {
            panic!("the password stays with the client")
        }
        async fn fetch_token(&self, r: &TokenRequest) -> Result<Option<Token>, CredentialsError> {
            assert_eq!(r.scopes, ["repository:x:pull"]);
            assert_eq!(
                (r.realm.as_str(), r.service.as_str()),
                ("http://nowhere/t", "s")
            );
            Ok(Some(Token {
                secret: Secret::new("D"),
                life: None,
            }))
        }
    }
    let server = Server::start(|call| match call.header("authorization") {
        Some("Bearer D") => Answer::new(404, ""),
        _ => Answer::new(401, "").with(
            "WWW-Authenticate",
            r#"Bearer realm="http://nowhere/t",service="s""#,
        ),
    })
    .unwrap();
    let reference = format!("{}/x:1", server.host());
    let repository = open_with(options(), &reference, Access::Pull, Arc::new(Delegated));
    let error = repository.resolve().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{}/x:1: not found", server.host())
    );
}

/// A client of the given name that fetches its tokens and can sign.
struct Signer {
    name: &'static str,
    key: Ed25519KeyPair,
    fetched: Arc<AtomicUsize>,
}

impl Signer {
    fn new(name: &'static str, seed: u8, fetched: &Arc<AtomicUsize>) -> Arc<Signer> {
        Arc::new(Signer {
            name,
            key: Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap(),
            fetched: fetched.clone(),
        })
    }
}

#[async_trait]
impl Credentials for Signer {
    fn identity(&self) -> &str {
        self.name
    }
    async fn credentials(&self, _: &str) -> Result<Option<Login>, CredentialsError> {
        panic!("the password stays with the client")
    }
    async fn authority(&self, _: &str, salt: &[u8]) -> Result<Authority, CredentialsError> {
        assert_eq!(salt.len(), 32);
        let key = self.key.public_key().as_ref().try_into().unwrap();
        Ok(Authority::Key(key))
    }
    async fn sign(&self, _: &str, _: &[u8], question: &[u8]) -> Option<Vec<u8>> {
        Some([self.key.sign(question).as_ref(), question].concat())
    }
    async fn fetch_token(&self, _: &TokenRequest) -> Result<Option<Token>, CredentialsError> {
        let number = self.fetched.fetch_add(1, Ordering::Relaxed);
        Ok(Some(Token {
            secret: Secret::new(format!("T{number}")),
            life: None,
        }))
    }
}

#[tokio::test]
async fn a_client_that_comes_again_is_known_by_its_key() {
    let server = Server::start(|call| match call.header("authorization") {
        Some(header) if header.starts_with("Bearer T") => Answer::new(404, ""),
        _ => Answer::new(401, "").with("WWW-Authenticate", r#"Bearer realm="http://nowhere/t""#),
    })
    .unwrap();
    let registry = Registry::new(options()).unwrap();
    let reference = Reference::parse(&format!("{}/x:1", server.host())).unwrap();
    let fetched = Arc::new(AtomicUsize::new(0));
    let ask = async |client: Arc<Signer>| {
        let repository = registry.repository(&reference, Access::Pull, client);
        let error = repository.unwrap().resolve().await.unwrap_err();
        assert!(error.is_not_found(), "{error}");
        (fetched.load(Ordering::Relaxed), server.calls().len())
    };
    assert_eq!(ask(Signer::new("first", 1, &fetched)).await, (1, 2));
    // With the token of before, at once.
    assert_eq!(ask(Signer::new("again", 1, &fetched)).await, (1, 3));
    assert_eq!(ask(Signer::new("again", 1, &fetched)).await, (1, 4));
    // Another client fetches its own.
    assert_eq!(ask(Signer::new("other", 2, &fetched)).await, (2, 6));
}

#[tokio::test]
async fn the_daemon_fetches_tokens_for_a_client_that_wants_it_so() {
    struct Declines;
    #[async_trait]
    impl Credentials for Declines {
        fn identity(&self) -> &str {
            "declines"
        }
        async fn credentials(&self, _: &str) -> Result<Option<Login>, CredentialsError> {
            Ok(Some(Login::Password {
                username: "u".to_owned(),
                secret: Secret::new("p"),
            }))
        }
        async fn authority(&self, _: &str, _: &[u8]) -> Result<Authority, CredentialsError> {
            Ok(Authority::Daemon)
        }
        async fn fetch_token(&self, _: &TokenRequest) -> Result<Option<Token>, CredentialsError> {
            panic!("the client does not want to")
        }
    }
    // It knows forms only, and no password but one.
    let tokens = Server::start(|call| match (call.method.as_str(), &call.body) {
        ("POST", body) if String::from_utf8_lossy(body).contains("username=u&password=p") => {
            Answer::new(200, r#"{"access_token":"T"}"#)
        }
        _ => Answer::new(401, "no forms please"),
    })
    .unwrap();
    let realm = tokens.url("/token");
    let challenge = format!(r#"Bearer realm="{realm}",service="s""#);
    let server = Server::start(move |call| match call.header("authorization") {
        Some("Bearer T") => Answer::new(404, ""),
        _ => Answer::new(401, "").with("WWW-Authenticate", &challenge),
    })
    .unwrap();
    let reference = format!("{}/x:1", server.host());
    let repository = open_with(options(), &reference, Access::Pull, Arc::new(Declines));
    let error = repository.resolve().await.unwrap_err();
    assert!(error.is_not_found(), "{error}");

    let repository = open_with(options(), &reference, Access::Pull, Arc::new(User("wrong")));
    let error = repository.resolve().await.unwrap_err();
    assert_eq!(error.class(), Class::User);
    let token = tokens.url("/token");
    assert_eq!(
        chain(&error),
        format!(
            "failed to authorize: failed to fetch oauth token: unexpected status from POST request to \
             {token}: 401 Unauthorized: no forms please"
        )
    );
}

#[tokio::test]
async fn mirrors_are_asked_before_the_origin() {
    let mirror = DockerRegistry::start().unwrap();
    let image = Image::busybox().unwrap();
    mirror.push("pre/fix/library/x:1", &image).unwrap();
    let dead = Server::start(|_| Answer::new(404, "")).unwrap();
    let mut options = options();
    let mirrors = vec![
        "127.0.0.1:1".to_owned(),
        dead.host().to_owned(),
        format!("{}/pre/fix", mirror.host()),
    ];
    options.hosts.insert(
        "docker.io".into(),
        HostConfig {
            mirrors,
            ..HostConfig::default()
        },
    );
    let repository = open_with(options, "x:1", Access::Pull, Arc::new(Anonymous));
    let resolved = repository.resolve().await.unwrap();
    assert_eq!(resolved.digest, image.digest());
    repository.manifest(&resolved).await.unwrap();
    let (descriptor, bytes) = &image.blobs()[0];
    assert_eq!(
        &read(repository.blob(descriptor).await.unwrap())
            .await
            .unwrap(),
        bytes
    );
    assert_eq!(
        dead.calls()[0].path,
        "/v2/library/x/manifests/1?ns=docker.io"
    );
}

#[tokio::test]
async fn the_host_that_got_furthest_says_what_is_wrong() {
    let told = async |mirror: Answer| {
        let mirror = Server::start(move |_| mirror.clone()).unwrap();
        let mut options = options();
        let config = HostConfig {
            mirrors: vec![mirror.host().to_owned()],
            ..HostConfig::default()
        };
        // Nobody listens at the origin.
        options.hosts.insert("127.0.0.1:1".into(), config);
        let anonymous = Arc::new(Anonymous);
        let repository = open_with(options, "127.0.0.1:1/x:1", Access::Pull, anonymous);
        let error = repository.resolve().await.unwrap_err();
        let image = Image::busybox().unwrap();
        let blob = repository.blob(&image.blobs()[0].0).await.err().unwrap();
        (error.to_string(), blob.is_not_found())
    };
    let missing = told(Answer::new(404, "")).await;
    assert_eq!(missing, ("127.0.0.1:1/x:1: not found".to_owned(), true));
    let (broken, _) = told(Answer::new(403, "")).await;
    assert!(!broken.contains("do request"), "{broken}");
}

#[tokio::test]
async fn a_lie_about_the_content_is_noticed() {
    let server = Server::start(|_| Answer::new(200, "lies!")).unwrap();
    let repository = open(&format!("{}/x", server.host()), Access::Pull);
    let want = describe(media_type::OCI_LAYER, b"truth");
    let error = read(repository.blob(&want).await.unwrap())
        .await
        .unwrap_err();
    let RegistryError::Digest { got, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(*got, Digest::of("lies!"));
    let error = repository.manifest(&want).await.unwrap_err();
    assert!(matches!(error, RegistryError::Digest { .. }), "{error}");
    let short = Descriptor::new(media_type::OCI_LAYER, want.digest, 3);
    let error = read(repository.blob(&short).await.unwrap())
        .await
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::Size { want: 3, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_broken_transfer_is_resumed_where_it_broke() {
    let content: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    let descriptor = describe(media_type::OCI_LAYER, &content);
    for honours_range in [true, false] {
        let served = content.clone();
        let times = AtomicUsize::new(0);
        let server = Server::start(move |call| {
            let from = call.header("range").and_then(|r| {
                r.strip_prefix("bytes=")?
                    .strip_suffix('-')?
                    .parse::<usize>()
                    .ok()
            });
            let answer = match from {
                Some(from) if honours_range => Answer::new(206, &served[from..]),
                _ => Answer::new(200, served.clone()),
            };
            match times.fetch_add(1, Ordering::Relaxed) {
                0 => answer.broken_after(150_000),
                1 => answer.broken_after(200_000),
                _ => answer,
            }
        })
        .unwrap();
        let repository = open(&format!("{}/x", server.host()), Access::Pull);
        let got = read(repository.blob(&descriptor).await.unwrap())
            .await
            .unwrap();
        assert_eq!(got, content);
        let ranges: Vec<_> = server
            .calls()
            .iter()
            .map(|c| c.header("range").map(str::to_owned))
            .collect();
        assert_eq!(ranges.len(), 3, "{ranges:?}");
        assert!(ranges[0].is_none() && ranges[1].is_some(), "{ranges:?}");
    }
}

#[tokio::test]
async fn a_transfer_that_always_breaks_is_given_up() {
    let server = Server::start(|_| Answer::new(200, vec![0; 9]).broken_after(0)).unwrap();
    let repository = open(&format!("{}/x", server.host()), Access::Pull);
    let descriptor = describe(media_type::OCI_LAYER, &[0; 9]);
    let error = match repository.blob(&descriptor).await {
        Ok(blob) => read(blob).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.class(), Class::Transient);
    assert!(server.calls().len() <= 4);
}

#[tokio::test]
async fn failures_that_pass_are_retried() {
    let image = Image::busybox().unwrap();
    let (manifest, bytes) = image.manifests()[0].clone();
    let times = AtomicUsize::new(0);
    let server = Server::start(move |_| match times.fetch_add(1, Ordering::Relaxed) {
        0 => Answer::new(503, ""),
        1 => Answer::new(429, "").with("Retry-After", "0"),
        _ => Answer::new(200, bytes.clone())
            .with("Docker-Content-Digest", manifest.digest.to_string())
            .with("Content-Type", &manifest.media_type),
    })
    .unwrap();
    let repository = open(&format!("{}/x", server.host()), Access::Pull);
    assert_eq!(repository.resolve().await.unwrap().digest, image.digest());

    let server = Server::start(|_| {
        Answer::new(
            500,
            r#"{"errors":[{"code":"UNKNOWN","message":"disk on fire"}]}"#,
        )
    })
    .unwrap();
    let reference = format!("{}/x", server.host());
    let repository = open(&reference, Access::Push);
    let body = Bytes::from_static(b"{}");
    let descriptor = describe(media_type::OCI_MANIFEST, &body);
    let error = repository
        .push_manifest(&descriptor, body, Some("1"))
        .await
        .unwrap_err();
    let want = format!(
        "unexpected status from PUT request to {}: 500 Internal Server Error: unknown: disk on fire",
        server.url("/v2/x/manifests/1")
    );
    assert_eq!(error.to_string(), want);
}

#[tokio::test]
async fn errors_name_the_reference_the_url_and_the_cause() {
    let server = DockerRegistry::start().unwrap();
    let error = open(&server.reference("x"), Access::Pull)
        .resolve()
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{}/x:latest: not found", server.host())
    );

    let error = open("127.0.0.1:1/x", Access::Pull)
        .resolve()
        .await
        .unwrap_err();
    assert_eq!(
        chain(&error),
        "failed to do request: Head \"http://127.0.0.1:1/v2/x/manifests/latest\": \
         dial tcp 127.0.0.1:1: connect: connection refused"
    );
}

#[tokio::test]
async fn an_insecure_push_falls_back_to_plain_http() {
    let server = DockerRegistry::start().unwrap();
    let repository = open(&server.reference("x"), Access::PushInsecure);
    let bytes = Bytes::from_static(b"content");
    let blob = describe("application/octet-stream", &bytes);
    let sent = Arc::new(AtomicU64::new(0));
    let pushed = repository
        .push_blob(&blob, &bytes, &[], &sent)
        .await
        .unwrap();
    assert_eq!(pushed, Pushed::Uploaded);
}

#[tokio::test]
async fn a_manifest_without_end_is_not_read() {
    let server = Server::start(|_| Answer::new(200, vec![b' '; 9 << 20])).unwrap();
    let repository = open(&format!("{}/x", server.host()), Access::Pull);
    let descriptor = describe(media_type::OCI_MANIFEST, b"");
    let error = repository.manifest(&descriptor).await.unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error}");
}
