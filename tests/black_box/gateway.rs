//! Builds whose clients are their frontends, as those of `docker buildx` and `buildctl` are.

use proto::control::control_client::ControlClient;
use proto::frontend as wire;
use proto::frontend::llb_bridge_client::LlbBridgeClient;
use proto::{control, pb};
use rpc::status::{Detail, Failure};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use wire::result::Result as Shape;

use crate::fixture::Fixture;
use crate::graph::{self, Graph};

/// A build that the test drives.
pub(crate) struct Driven {
    id: String,
    bridge: LlbBridgeClient<Channel>,
    /// What is answered to the client when all is done.
    pub(crate) solve: JoinHandle<Result<Response<control::SolveResponse>, Status>>,
}

impl Driven {
    /// Begins a build on the fixture's daemon.
    pub(crate) async fn begin(fixture: &Fixture, id: &str) -> Driven {
        let channel = fixture.daemon.client().await.unwrap().channel();
        let request = control::SolveRequest {
            r#ref: id.to_owned(),
            ..control::SolveRequest::default()
        };
        let mut control = ControlClient::new(channel.clone());
        Driven {
            id: id.to_owned(),
            bridge: LlbBridgeClient::new(channel),
            solve: tokio::spawn(async move { control.solve(request).await }),
        }
    }

    /// The service, and a call for this build.
    pub(crate) fn call<T>(&self, message: T) -> (LlbBridgeClient<Channel>, Request<T>) {
        let mut request = Request::new(message);
        let id = self.id.parse().unwrap();
        request
            .metadata_mut()
            .insert("buildkit-controlapi-buildid", id);
        (self.bridge.clone(), request)
    }

    /// Solves a graph and answers the result's name.
    pub(crate) async fn solve(&self, definition: pb::Definition) -> Result<String, Status> {
        let (mut bridge, request) = self.call(wire::SolveRequest {
            definition: Some(definition),
            allow_result_return: true,
            allow_result_array_ref: true,
            evaluate: true,
            ..wire::SolveRequest::default()
        });
        let result = bridge.solve(request).await?.into_inner().result.unwrap();
        match result.result {
            Some(Shape::Ref(reference)) => Ok(reference.id),
            other => panic!("not a single result: {other:?}"),
        }
    }

    /// Ends the build.
    pub(crate) async fn give_back(&self, message: wire::ReturnRequest) -> Result<(), Status> {
        let (mut bridge, request) = self.call(message);
        bridge.r#return(request).await.map(drop)
    }

    /// What is in a file of a result.
    pub(crate) async fn read(&self, result: &str, path: &str) -> Result<String, Status> {
        let (mut bridge, request) = self.call(wire::ReadFileRequest {
            r#ref: result.to_owned(),
            file_path: path.to_owned(),
            ..wire::ReadFileRequest::default()
        });
        let data = bridge.read_file(request).await?.into_inner().data;
        Ok(String::from_utf8(data.to_vec()).unwrap())
    }
}

fn single(result: &str, metadata: &[(&str, &str)]) -> wire::ReturnRequest {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), value.as_bytes().to_vec().into());
    wire::ReturnRequest {
        result: Some(wire::Result {
            result: Some(Shape::Ref(wire::Ref {
                id: result.to_owned(),
                def: None,
            })),
            metadata: metadata.iter().map(owned).collect(),
            ..wire::Result::default()
        }),
        error: None,
    }
}

#[tokio::test]
async fn a_client_solves_reads_and_returns() {
    let fixture = Fixture::new();
    let build = Driven::begin(&fixture, "own").await;

    let (mut bridge, request) = build.call(wire::PingRequest {});
    let pong = bridge.ping(request).await.unwrap().into_inner();
    let has = |id: &str| pong.frontend_api_caps.iter().any(|cap| cap.id == id);
    assert!(has("solve.base") && has("return") && has("gateway.solve.evaluate"));
    assert!(pong.llb_caps.iter().any(|cap| cap.id == "mergeop"));
    assert!(!pong.workers[0].platforms.is_empty());

    let mut graph = Graph::default();
    let file = graph.add(graph::file("/a", "content"), &[]);
    let made = build.solve(graph.definition((file, 0))).await.unwrap();
    assert_eq!(build.read(&made, "/a").await.unwrap(), "content");
    let missing = build.read(&made, "/b").await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    assert!(build.read("nothing", "/a").await.is_err());

    let (mut bridge, request) = build.call(wire::ReadDirRequest {
        r#ref: made.clone(),
        dir_path: "/".to_owned(),
        include_pattern: "a*".to_owned(),
        ..wire::ReadDirRequest::default()
    });
    let entries = bridge.read_dir(request).await.unwrap().into_inner().entries;
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].path.as_str(), entries[0].size), ("a", 7));

    let metadata = [("frontend.x", "told"), ("other", "kept")];
    build.give_back(single(&made, &metadata)).await.unwrap();
    let answer = build.solve.await.unwrap().unwrap().into_inner();
    let told: Vec<_> = answer.exporter_response.into_iter().collect();
    assert_eq!(told, [("frontend.x".to_owned(), "told".to_owned())]);
}

#[tokio::test]
async fn an_error_is_returned_with_all_its_details() {
    let fixture = Fixture::new();
    let build = Driven::begin(&fixture, "failing").await;
    let mut graph = Graph::default();
    let base = graph.add(graph::image("docker.io/library/busybox:latest"), &[]);
    let step = graph.add(graph::shell("exit 7"), &[(base, 0)]);
    let status = build.solve(graph.definition((step, 0))).await.unwrap_err();
    let failure = Failure::from_status(&status);
    assert_eq!(failure.details.exit_code(), Some(7));
    let digest = graph.digest(step).to_string();
    assert_eq!(failure.details.vertex(), Some(digest.as_str()));

    let own = failure.with(Detail::Frontend {
        name: "mine".to_owned(),
        source: String::new(),
    });
    let error = wire::ReturnRequest {
        result: None,
        error: Some(own.to_proto()),
    };
    build.give_back(error).await.unwrap();
    let answer = build.solve.await.unwrap().unwrap_err();
    let answer = Failure::from_status(&answer);
    assert_eq!(answer.message, own.message);
    assert_eq!(answer.details.0, own.details.0);
}

#[tokio::test]
async fn a_call_must_name_a_build_that_runs() {
    let fixture = Fixture::new();
    let channel = fixture.daemon.client().await.unwrap().channel();
    let mut bridge = LlbBridgeClient::new(channel);
    let unnamed = bridge.ping(wire::PingRequest {}).await.unwrap_err();
    assert_eq!(unnamed.message(), "no buildid found in context");

    let build = Driven::begin(&fixture, "over").await;
    build.give_back(single("", &[])).await.unwrap();
    let (mut bridge, request) = build.call(wire::PingRequest {});
    build.solve.await.unwrap().unwrap();
    let late = bridge.ping(request).await.unwrap_err();
    assert_eq!(late.message(), "no such job over");
}
