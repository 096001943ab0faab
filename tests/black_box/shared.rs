//! Steps that several clients wait for, and what each of them is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proto::control::SolveRequest;
use proto::control::control_client::ControlClient;
use proto::filesync::auth_server::{Auth, AuthServer};
use proto::filesync::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse,
    GetTokenAuthorityRequest, GetTokenAuthorityResponse, VerifyTokenAuthorityRequest,
    VerifyTokenAuthorityResponse,
};
use proto::pb;
use proto::secrets::secrets_server::{Secrets, SecretsServer};
use proto::secrets::{GetSecretRequest, GetSecretResponse};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use testing::http::{self, Answer, Call, Server};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status};

use crate::fixture::{Fixture, LIMIT};
use crate::graph::{self, Graph};
use crate::sessions::{open, routes};

/// A client that has a secret, or does not answer at all.
#[derive(Clone, Default)]
struct Holder {
    answers: bool,
    asked: Arc<Notify>,
}

#[tonic::async_trait]
impl Secrets for Holder {
    async fn get_secret(
        &self,
        _: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        self.asked.notify_one();
        if !self.answers {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(GetSecretResponse {
            data: b"hidden".to_vec().into(),
        }))
    }
}

/// A step that needs a secret.
fn step() -> pb::Definition {
    let mut steps = Graph::default();
    let base = steps.add(graph::image("docker.io/library/busybox:latest"), &[]);
    let step = pb::ExecOp {
        meta: Some(graph::meta(&["sh", "-c", "test \"$S\" = hidden"])),
        mounts: vec![pb::Mount {
            dest: "/".to_owned(),
            ..pb::Mount::default()
        }],
        secretenv: vec![pb::SecretEnv {
            id: "s".to_owned(),
            name: "S".to_owned(),
            optional: false,
        }],
        ..pb::ExecOp::default()
    };
    let ran = steps.add(pb::op::Op::Exec(step), &[(base, 0)]);
    steps.definition((ran, 0))
}

/// Builds for the session `id`, which bears the same name.
async fn build(
    fixture: &Fixture,
    id: &str,
    definition: pb::Definition,
) -> JoinHandle<Result<(), Status>> {
    let channel = fixture.daemon.client().await.unwrap().channel();
    let request = SolveRequest {
        r#ref: id.to_owned(),
        session: id.to_owned(),
        definition: Some(definition),
        ..SolveRequest::default()
    };
    tokio::spawn(async move {
        let mut control = ControlClient::new(channel);
        control.solve(request).await.map(drop)
    })
}

const GET_SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";

#[tokio::test]
async fn a_client_that_does_not_answer_holds_up_no_other() {
    let fixture = Fixture::new();
    let (silent, speaks) = (
        Holder::default(),
        Holder {
            answers: true,
            ..Holder::default()
        },
    );
    for (id, holder) in [("silent", &silent), ("speaks", &speaks)] {
        let services = routes(|routes| {
            routes.add_service(SecretsServer::new(holder.clone()));
        });
        open(&fixture, id, &[GET_SECRET], services).await;
    }
    let first = build(&fixture, "silent", step()).await;
    let asked = tokio::time::timeout(LIMIT, silent.asked.notified());
    asked.await.unwrap();
    // One step for both: what the second client says serves the first, too.
    let second = build(&fixture, "speaks", step()).await;
    for build in [second, first] {
        let built = tokio::time::timeout(LIMIT, build).await;
        built.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_step_goes_on_with_the_session_of_who_stays() {
    let fixture = Fixture::new();
    let (leaves, stays) = (
        Holder::default(),
        Holder {
            answers: true,
            ..Holder::default()
        },
    );
    let services = |holder: &Holder| {
        let holder = holder.clone();
        routes(|routes| {
            routes.add_service(SecretsServer::new(holder));
        })
    };
    let session = open(&fixture, "leaves", &[GET_SECRET], services(&leaves)).await;
    let first = build(&fixture, "leaves", step()).await;
    let asked = tokio::time::timeout(LIMIT, leaves.asked.notified());
    asked.await.unwrap();
    open(&fixture, "stays", &[GET_SECRET], services(&stays)).await;
    let second = build(&fixture, "stays", step()).await;
    first.abort();
    session.abort();
    let built = tokio::time::timeout(LIMIT, second).await;
    built.unwrap().unwrap().unwrap();
}

/// A client that fetches tokens itself, and does not give its password away.
#[derive(Clone, Default)]
struct Keeper {
    fetched: Arc<AtomicUsize>,
    /// What it signs with, if the daemon may know it again.
    key: Option<Arc<Ed25519KeyPair>>,
}

impl Keeper {
    fn signing(seed: u8) -> Keeper {
        let key = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        Keeper {
            key: Some(Arc::new(key)),
            ..Keeper::default()
        }
    }

    /// Opens a session of that id, and builds from the image.
    async fn build(&self, fixture: &Fixture, id: &str, image: &str) {
        let services = routes(|routes| {
            routes.add_service(AuthServer::new(self.clone()));
        });
        let methods = [
            "Credentials",
            "FetchToken",
            "GetTokenAuthority",
            "VerifyTokenAuthority",
        ];
        let methods = methods.map(|name| format!("/moby.filesync.v1.Auth/{name}"));
        let methods = methods.each_ref().map(String::as_str);
        open(fixture, id, &methods, services).await;
        let mut steps = Graph::default();
        let name = format!("docker-image://{image}");
        let pulled = graph::source(&name, &[("image.resolvemode", "pull")]);
        let base = steps.add(pulled, &[]);
        let ran = steps.add(graph::shell("true"), &[(base, 0)]);
        let built = build(fixture, id, steps.definition((ran, 0))).await;
        let built = tokio::time::timeout(LIMIT, built).await;
        built.unwrap().unwrap().unwrap();
    }
}

#[tonic::async_trait]
impl Auth for Keeper {
    async fn credentials(
        &self,
        _: Request<CredentialsRequest>,
    ) -> Result<Response<CredentialsResponse>, Status> {
        Err(Status::permission_denied("the password stays here"))
    }

    async fn fetch_token(
        &self,
        request: Request<FetchTokenRequest>,
    ) -> Result<Response<FetchTokenResponse>, Status> {
        let request = request.into_inner();
        assert!(request.realm.ends_with("/token"), "{request:?}");
        assert_eq!(request.service, "registry");
        assert!(
            request
                .scopes
                .iter()
                .any(|scope| scope == "repository:library/busybox:pull"),
            "{request:?}"
        );
        self.fetched.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(FetchTokenResponse {
            token: "good".to_owned(),
            expires_in: 300,
            ..FetchTokenResponse::default()
        }))
    }

    async fn get_token_authority(
        &self,
        request: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        assert!(!request.get_ref().salt.is_empty());
        let key = self.key.as_ref();
        let key = key.ok_or_else(|| Status::unimplemented("no authority"))?;
        Ok(Response::new(GetTokenAuthorityResponse {
            public_key: key.public_key().as_ref().to_vec().into(),
        }))
    }

    async fn verify_token_authority(
        &self,
        request: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        let key = self.key.as_ref();
        let key = key.ok_or_else(|| Status::unimplemented("no authority"))?;
        let payload = request.into_inner().payload;
        let signed = [key.sign(&payload).as_ref(), &payload[..]].concat();
        Ok(Response::new(VerifyTokenAuthorityResponse {
            signed: signed.into(),
        }))
    }
}

/// A registry that wants a token for all that is in `behind`.
fn guarded(behind: &str) -> Server {
    guarded_by(behind, None)
}

/// The same, with tokens from elsewhere.
pub(crate) fn guarded_by(behind: &str, realm: Option<String>) -> Server {
    let behind = behind.to_owned();
    Server::start(move |call| {
        if call.header("authorization") == Some("Bearer good") {
            let mut passed_on = Call::new(&call.method, &call.path);
            passed_on.headers.clone_from(&call.headers);
            let of_hop = ["host", "authorization", "connection"];
            let passes = |name: &str| !of_hop.iter().any(|own| name.eq_ignore_ascii_case(own));
            passed_on.headers.retain(|(name, _)| passes(name));
            return http::send(&behind, passed_on).unwrap();
        }
        let own = || format!("http://{}/token", call.header("host").unwrap());
        let realm = realm.clone().unwrap_or_else(own);
        let challenge = format!("Bearer realm=\"{realm}\",service=\"registry\"");
        Answer::new(401, "{}").with("WWW-Authenticate", challenge)
    })
    .unwrap()
}

#[tokio::test]
async fn a_client_fetches_tokens_and_keeps_its_password() {
    let fixture = Fixture::new();
    let registry = guarded(fixture.registry.host());
    let keeper = Keeper::default();
    let image = format!("{}/library/busybox:latest", registry.host());
    keeper.build(&fixture, "keeper", &image).await;
    // Once for all that was asked of the registry; the daemon itself asked nobody for a token.
    assert_eq!(keeper.fetched.load(Ordering::Relaxed), 1);
    assert!(registry.calls().iter().all(|call| call.path != "/token"));
}

#[tokio::test]
async fn a_client_that_comes_again_needs_no_new_token() {
    let fixture = Fixture::new();
    let registry = guarded(fixture.registry.host());
    let image = format!("{}/library/busybox:latest", registry.host());
    let refused = || {
        let calls = registry.calls();
        let without = calls
            .iter()
            .filter(|call| call.header("authorization").is_none());
        without.count()
    };
    let first = Keeper::signing(1);
    first.build(&fixture, "first", &image).await;
    assert_eq!((first.fetched.load(Ordering::Relaxed), refused()), (1, 1));
    // The same user in another session: the token of before is sent at once.
    let again = Keeper::signing(1);
    again.build(&fixture, "again", &image).await;
    assert_eq!((again.fetched.load(Ordering::Relaxed), refused()), (0, 1));
    // Another user does not get it.
    let other = Keeper::signing(2);
    other.build(&fixture, "other", &image).await;
    assert_eq!((other.fetched.load(Ordering::Relaxed), refused()), (1, 2));
}
