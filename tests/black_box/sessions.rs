//! What the daemon asks of clients while their builds run.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use proto::control::control_client::ControlClient;
use proto::exporter::exporter_server::{Exporter, ExporterServer};
use proto::exporter::{
    ExporterRequest, FinalizeExportRequest, FinalizeExportResponse, FindExportersRequest,
    FindExportersResponse,
};
use proto::filesync::file_send_server::{FileSend, FileSendServer};
use proto::policysession::check_policy_response::Result as Judged;
use proto::policysession::policy_verifier_server::{PolicyVerifier, PolicyVerifierServer};
use proto::policysession::{
    CheckPolicyRequest, CheckPolicyResponse, DecisionResponse, DenyMessage,
};
use proto::sourcepolicy::{self, PolicyAction};
use proto::{control, filesync, frontend as wire, pb};
use rpc::tunnel::{self, Tunnel};
use tokio::task::AbortHandle;
use tokio_stream::Stream;
use tonic::metadata::MetadataValue;
use tonic::service::{Routes, RoutesBuilder};
use tonic::{Request, Response, Status, Streaming};

use crate::fixture::Fixture;
use crate::gateway::{Driven, single};
use crate::graph::{self, Graph};

/// Opens a session that serves `methods` until the test ends, or the answer is aborted.
pub(crate) async fn open(
    fixture: &Fixture,
    id: &str,
    methods: &[&str],
    services: Routes,
) -> AbortHandle {
    let channel = fixture.daemon.client().await.unwrap().channel();
    let (outgoing, messages) = tunnel::outgoing::<control::BytesMessage>();
    let mut request = Request::new(messages);
    let metadata = request.metadata_mut();
    metadata.insert("x-docker-expose-session-uuid", id.parse().unwrap());
    for method in methods {
        let value = MetadataValue::try_from(*method).unwrap();
        metadata.append("x-docker-expose-session-grpc-method", value);
    }
    let incoming = ControlClient::new(channel).session(request).await.unwrap();
    let tunnel = Tunnel::new(incoming.into_inner(), outgoing);
    tokio::spawn(tunnel::serve_over(tunnel, services)).abort_handle()
}

pub(crate) fn routes(add: impl FnOnce(&mut RoutesBuilder)) -> Routes {
    let mut routes = Routes::builder();
    add(&mut routes);
    routes.routes()
}

/// A client that wants an archive once it has looked at the result.
#[derive(Clone, Default)]
struct Decides {
    /// The build, so that it can look.
    build: Arc<Mutex<Option<Arc<Driven>>>>,
    kind: &'static str,
    /// What is said against the build at its end.
    refuses: Option<&'static str>,
    told: Arc<Mutex<Vec<BTreeMap<String, String>>>>,
    received: Arc<Mutex<Vec<u8>>>,
}

#[tonic::async_trait]
impl Exporter for Decides {
    async fn find_exporters(
        &self,
        request: Request<FindExportersRequest>,
    ) -> Result<Response<FindExportersResponse>, Status> {
        let request = request.into_inner();
        assert_eq!(request.metadata["some"], "thing");
        let [result] = request.refs.as_slice() else {
            return Err(Status::internal("not one result"));
        };
        let build = self.build.lock().unwrap().clone().unwrap();
        assert_eq!(build.read(result, "/a").await?, "content");
        let exporters = vec![ExporterRequest {
            r#type: self.kind.to_owned(),
            attrs: BTreeMap::new(),
        }];
        Ok(Response::new(FindExportersResponse { exporters }))
    }

    async fn finalize_export(
        &self,
        request: Request<FinalizeExportRequest>,
    ) -> Result<Response<FinalizeExportResponse>, Status> {
        let told = request.into_inner().exporter_response;
        self.told.lock().unwrap().push(told);
        match self.refuses {
            Some(text) => Err(Status::unknown(text)),
            None => Ok(Response::new(FinalizeExportResponse {})),
        }
    }
}

#[tonic::async_trait]
impl FileSend for Decides {
    type DiffCopyStream =
        Pin<Box<dyn Stream<Item = Result<filesync::BytesMessage, Status>> + Send>>;

    async fn diff_copy(
        &self,
        request: Request<Streaming<filesync::BytesMessage>>,
    ) -> Result<Response<Self::DiffCopyStream>, Status> {
        let target = request.metadata().get("buildkit-attachable-exporter-id");
        assert_eq!(target.unwrap(), "0");
        let mut data = request.into_inner();
        while let Some(message) = data.message().await? {
            self.received
                .lock()
                .unwrap()
                .extend_from_slice(&message.data);
        }
        Ok(Response::new(Box::pin(tokio_stream::empty())))
    }
}

/// Builds a file for a client that decides late.
async fn decide(fixture: &Fixture, client: &Decides) -> Result<(), Status> {
    let id = fixture.scratch().file_name().unwrap().to_str().unwrap();
    let id = format!("{id}-{}-{:?}", client.kind, client.refuses.is_some());
    let methods = [
        "/moby.exporter.v1.Exporter/FindExporters",
        "/moby.exporter.v1.Exporter/FinalizeExport",
        "/moby.filesync.v1.FileSend/DiffCopy",
    ];
    let services = routes(|routes| {
        routes.add_service(ExporterServer::new(client.clone()));
        routes.add_service(FileSendServer::new(client.clone()));
    });
    open(fixture, &id, &methods, services).await;
    let mut build = Driven::ask(
        fixture,
        control::SolveRequest {
            r#ref: id.clone(),
            session: id,
            enable_session_exporter: true,
            ..control::SolveRequest::default()
        },
    )
    .await;
    let mut graph = Graph::default();
    let file = graph.add(graph::file("/a", "content"), &[]);
    let made = build.solve(graph.definition((file, 0))).await?;
    let solve = std::mem::replace(&mut build.solve, tokio::spawn(std::future::pending()));
    let build = Arc::new(build);
    client.build.lock().unwrap().replace(build.clone());
    let metadata = [("some", "thing"), ("frontend.x", "y")];
    build.give_back(single(&made, &metadata)).await?;
    solve.await.unwrap().map(drop)
}

#[tokio::test]
async fn a_client_that_has_seen_the_result_decides_what_becomes_of_it() {
    let fixture = Fixture::new();
    let client = Decides {
        kind: "tar",
        ..Decides::default()
    };
    decide(&fixture, &client).await.unwrap();
    let archive = fixture.scratch().join("archive.tar");
    std::fs::write(&archive, &*client.received.lock().unwrap()).unwrap();
    let listed = crate::fixture::tool("tar", &["-tf", archive.to_str().unwrap()]);
    assert_eq!(listed, "a");
    let told = client.told.lock().unwrap().clone();
    assert_eq!(told, [BTreeMap::from([("frontend.x".into(), "y".into())])]);

    let refusing = Decides {
        refuses: Some("not like this"),
        ..client
    };
    let refused = decide(&fixture, &refusing).await.unwrap_err();
    assert_eq!(refused.message(), "not like this");
    let unknown = Decides {
        kind: "nonsense",
        ..Decides::default()
    };
    let refused = decide(&fixture, &unknown).await.unwrap_err();
    let text = "exporter \"nonsense\" could not be found";
    assert_eq!(refused.message(), text);
}

/// A client that judges sources: it lets `busybox` take the place of `other`, wants to know what
/// `busybox` is, and allows nothing else.
#[derive(Clone, Default)]
struct Judge {
    asked: Arc<Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl PolicyVerifier for Judge {
    async fn check_policy(
        &self,
        request: Request<CheckPolicyRequest>,
    ) -> Result<Response<CheckPolicyResponse>, Status> {
        let known = request.into_inner().source.unwrap();
        let source = known.source.clone().unwrap();
        self.asked.lock().unwrap().push(source.identifier.clone());
        let decision = |action: PolicyAction| DecisionResponse {
            action: action.into(),
            ..DecisionResponse::default()
        };
        let busybox = "docker-image://docker.io/library/busybox:latest";
        let answer = match source.identifier.as_str() {
            "docker-image://docker.io/library/other:latest" => Judged::Decision(DecisionResponse {
                update: Some(pb::SourceOp {
                    identifier: busybox.to_owned(),
                    ..source
                }),
                ..decision(PolicyAction::Convert)
            }),
            name if name == busybox => match known.image {
                None => Judged::Request(wire::ResolveSourceMetaRequest {
                    source: Some(source),
                    ..wire::ResolveSourceMetaRequest::default()
                }),
                Some(image) => {
                    assert!(image.digest.starts_with("sha256:") && !image.config.is_empty());
                    Judged::Decision(decision(PolicyAction::Allow))
                }
            },
            _ => Judged::Decision(DecisionResponse {
                deny_messages: vec![DenyMessage {
                    message: "never that".to_owned(),
                }],
                ..decision(PolicyAction::Deny)
            }),
        };
        Ok(Response::new(CheckPolicyResponse {
            result: Some(answer),
        }))
    }
}

#[tokio::test]
async fn a_client_judges_each_source() {
    let fixture = Fixture::new();
    let judge = Judge::default();
    let services = routes(|routes| {
        routes.add_service(PolicyVerifierServer::new(judge.clone()));
    });
    let method = "/moby.buildkit.v1.sourcepolicy.policysession.PolicyVerifier/CheckPolicy";
    open(&fixture, "judge", &[method], services).await;
    let build = Driven::ask(
        &fixture,
        control::SolveRequest {
            r#ref: "judged".to_owned(),
            source_policy_session: "judge".to_owned(),
            ..control::SolveRequest::default()
        },
    )
    .await;
    let graph_of = |name: &str| {
        let mut graph = Graph::default();
        let image = graph.add(
            graph::image(&format!("docker.io/library/{name}:latest")),
            &[],
        );
        graph.definition((image, 0))
    };
    let made = build.solve(graph_of("other")).await.unwrap();
    let (mut bridge, request) = build.call(wire::StatFileRequest {
        r#ref: made,
        path: "/bin/sh".to_owned(),
        ..wire::StatFileRequest::default()
    });
    bridge.stat_file(request).await.unwrap();
    let asked = std::mem::take(&mut *judge.asked.lock().unwrap());
    assert_eq!(asked.len(), 3, "{asked:?}");
    let refused = build.solve(graph_of("third")).await.unwrap_err();
    let text = "source \"docker-image://docker.io/library/third:latest\" not allowed by policy: action DENY";
    assert!(refused.message().contains(text), "{refused:?}");
}

/// A policy of one rule.
fn rule(from: &str, action: PolicyAction, to: Option<&str>) -> sourcepolicy::Policy {
    let image = |name: &str| format!("docker-image://docker.io/library/{name}");
    sourcepolicy::Policy {
        rules: vec![sourcepolicy::Rule {
            selector: Some(sourcepolicy::Selector {
                identifier: image(from),
                ..sourcepolicy::Selector::default()
            }),
            action: action.into(),
            updates: to.map(|to| sourcepolicy::Update {
                identifier: image(to),
                ..sourcepolicy::Update::default()
            }),
        }],
        ..sourcepolicy::Policy::default()
    }
}

#[tokio::test]
async fn a_call_may_have_policies_of_its_own() {
    let fixture = Fixture::new();
    let build = Driven::ask(
        &fixture,
        control::SolveRequest {
            r#ref: "ruled".to_owned(),
            source_policy: Some(rule(
                "second:*",
                PolicyAction::Convert,
                Some("busybox:latest"),
            )),
            ..control::SolveRequest::default()
        },
    )
    .await;
    let solve = |name: &str, policies: Vec<sourcepolicy::Policy>| {
        let mut graph = Graph::default();
        let image = graph.add(
            graph::image(&format!("docker.io/library/{name}:latest")),
            &[],
        );
        build.call(wire::SolveRequest {
            definition: Some(graph.definition((image, 0))),
            allow_result_return: true,
            evaluate: true,
            source_policies: policies,
            ..wire::SolveRequest::default()
        })
    };
    // Those of the build hold, too, and what one makes the other sees.
    let change = rule("first:*", PolicyAction::Convert, Some("second:latest"));
    let (mut bridge, request) = solve("first", vec![change]);
    bridge.solve(request).await.unwrap();
    let deny = rule("busybox:*", PolicyAction::Deny, None);
    let (mut bridge, request) = solve("busybox", vec![deny.clone()]);
    let refused = bridge.solve(request).await.unwrap_err();
    let text = "source \"docker-image://docker.io/library/busybox:latest\" denied by policy";
    assert!(refused.message().contains(text), "{refused:?}");
    let (mut bridge, request) = solve("busybox", Vec::new());
    bridge.solve(request).await.unwrap();

    let ask = |source_policies| {
        build.call(wire::ResolveSourceMetaRequest {
            source: Some(pb::SourceOp {
                identifier: "docker-image://docker.io/library/second:latest".to_owned(),
                ..pb::SourceOp::default()
            }),
            source_policies,
            ..wire::ResolveSourceMetaRequest::default()
        })
    };
    let (mut bridge, request) = ask(Vec::new());
    let found = bridge
        .resolve_source_meta(request)
        .await
        .unwrap()
        .into_inner();
    let name = found.source.unwrap().identifier;
    assert_eq!(name, "docker-image://docker.io/library/busybox:latest");
    let (mut bridge, request) = ask(vec![deny]);
    let refused = bridge.resolve_source_meta(request).await.unwrap_err();
    assert!(refused.message().contains(text), "{refused:?}");
}
