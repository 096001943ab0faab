//! Builds whose clients are their frontends, as those of `docker buildx` and `buildctl` are.

use proto::control::control_client::ControlClient;
use proto::frontend as wire;
use proto::frontend::llb_bridge_client::LlbBridgeClient;
use proto::{control, pb};
use rpc::status::{Detail, Failure};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use wire::exec_message::Input as Kind;
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
        let request = control::SolveRequest {
            r#ref: id.to_owned(),
            ..control::SolveRequest::default()
        };
        Driven::ask(fixture, request).await
    }

    /// Begins the build that `request` asks for, which names neither frontend nor graph.
    pub(crate) async fn ask(fixture: &Fixture, request: control::SolveRequest) -> Driven {
        let channel = fixture.daemon.client().await.unwrap().channel();
        let mut control = ControlClient::new(channel.clone());
        Driven {
            id: request.r#ref.clone(),
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

pub(crate) fn single(result: &str, metadata: &[(&str, &str)]) -> wire::ReturnRequest {
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
    assert_eq!(missing.code(), Code::Unknown);
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

/// What a process said until its end, by stream, and its exit code.
#[derive(Debug, Default)]
struct Said {
    out: String,
    err: String,
    code: Option<u32>,
}

/// Sends messages about one process, and hears it to its end.
async fn exec(build: &Driven, messages: Vec<wire::ExecMessage>) -> Result<Said, Status> {
    let (mut bridge, request) = build.call(tokio_stream::iter(messages));
    let mut answers = bridge.exec_process(request).await?.into_inner();
    let mut said = Said::default();
    let mut is_started = false;
    while let Some(answer) = answers.message().await? {
        match answer.input.unwrap() {
            Kind::Started(_) => is_started = true,
            Kind::File(file) => {
                assert!(is_started);
                let text = String::from_utf8_lossy(&file.data).into_owned();
                match file.fd {
                    1 => said.out += &text,
                    _ => said.err += &text,
                }
            }
            Kind::Exit(exit) => said.code = Some(exit.code),
            Kind::Done(_) => assert!(said.code.is_some()),
            other => panic!("not expected: {other:?}"),
        }
    }
    Ok(said)
}

fn say(input: Kind) -> wire::ExecMessage {
    wire::ExecMessage {
        process_id: "p".to_owned(),
        input: Some(input),
    }
}

fn init(command: &str, tty: bool) -> wire::ExecMessage {
    say(Kind::Init(wire::InitMessage {
        container_id: "c".to_owned(),
        meta: Some(graph::meta(&["sh", "-c", command])),
        fds: vec![0, 1, 2],
        tty,
        ..wire::InitMessage::default()
    }))
}

fn stdin(data: &'static str, eof: bool) -> wire::ExecMessage {
    say(Kind::File(wire::FdMessage {
        fd: 0,
        eof,
        data: data.into(),
    }))
}

async fn container(build: &Driven, result: &str) -> Result<(), Status> {
    let (mut bridge, request) = build.call(wire::NewContainerRequest {
        container_id: "c".to_owned(),
        mounts: vec![pb::Mount {
            dest: "/".to_owned(),
            result_id: result.to_owned(),
            ..pb::Mount::default()
        }],
        ..wire::NewContainerRequest::default()
    });
    bridge.new_container(request).await.map(drop)
}

async fn release(build: &Driven) -> Result<(), Status> {
    let (mut bridge, request) = build.call(wire::ReleaseContainerRequest {
        container_id: "c".to_owned(),
    });
    bridge.release_container(request).await.map(drop)
}

#[tokio::test]
async fn processes_run_in_a_result() {
    let fixture = Fixture::new();
    let build = Driven::begin(&fixture, "containers").await;
    let mut graph = Graph::default();
    let base = graph.add(graph::image("docker.io/library/busybox:latest"), &[]);
    let made = build.solve(graph.definition((base, 0))).await.unwrap();
    container(&build, &made).await.unwrap();
    let again = container(&build, &made).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);
    // Of several at a time one is made, and the end of none of the others is its end.
    for _ in 0..5 {
        release(&build).await.unwrap();
        let one = || container(&build, &made);
        let made = tokio::join!(one(), one(), one(), one());
        let made = [made.0, made.1, made.2, made.3];
        assert_eq!(made.iter().filter(|one| one.is_ok()).count(), 1, "{made:?}");
        let said = exec(&build, vec![init("echo here", false)]).await.unwrap();
        assert_eq!((said.out.as_str(), said.code), ("here\n", Some(0)));
    }
    release(&build).await.unwrap();
    container(&build, &made).await.unwrap();

    let command = "echo own > /own; cat; echo bad >&2; exit 3";
    let talk = vec![
        init(command, false),
        stdin("one ", false),
        stdin("two", true),
    ];
    let said = exec(&build, talk).await.unwrap();
    assert_eq!((said.out.as_str(), said.err.as_str()), ("one two", "bad\n"));
    assert_eq!(said.code, Some(3));

    let (mut bridge, request) = build.call(wire::ReadFileRequest {
        r#ref: "c".to_owned(),
        file_path: "/own".to_owned(),
        ..wire::ReadFileRequest::default()
    });
    let read = bridge.read_file_container(request).await.unwrap();
    assert_eq!(read.into_inner().data, "own\n");
    release(&build).await.unwrap();
    assert_eq!(release(&build).await.unwrap_err().code(), Code::NotFound);
    let gone = exec(&build, vec![init("true", false)]).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);

    container(&build, &made).await.unwrap();
    let size = say(Kind::Resize(wire::ResizeMessage { rows: 7, cols: 91 }));
    let wait = "until [ \"$(stty size)\" = '7 91' ]; do :; done; echo resized; exit 4";
    let said = exec(&build, vec![init(wait, true), size]).await.unwrap();
    assert_eq!((said.out.as_str(), said.code), ("resized\r\n", Some(4)));
    release(&build).await.unwrap();

    container(&build, &made).await.unwrap();
    let term = say(Kind::Signal(wire::SignalMessage {
        name: "SIGTERM".to_owned(),
    }));
    let trap = "trap 'echo caught; exit 5' TERM; touch /ready; while :; do sleep 0.1; done";
    let (sender, messages) = tokio::sync::mpsc::channel(4);
    let stream = tokio_stream::wrappers::ReceiverStream::new(messages);
    let (mut bridge, request) = build.call(stream);
    sender.send(init(trap, false)).await.unwrap();
    let mut answers = bridge.exec_process(request).await.unwrap().into_inner();
    loop {
        let (mut bridge, request) = build.call(wire::StatFileRequest {
            r#ref: "c".to_owned(),
            path: "/ready".to_owned(),
            ..wire::StatFileRequest::default()
        });
        if bridge.stat_file_container(request).await.is_ok() {
            break;
        }
    }
    sender.send(term).await.unwrap();
    let code = loop {
        if let Some(Kind::Exit(exit)) = answers.message().await.unwrap().unwrap().input {
            break exit.code;
        }
    };
    assert_eq!(code, 5);
    build.give_back(single("", &[])).await.unwrap();
    build.solve.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_failed_step_can_be_looked_into() {
    let fixture = Fixture::new();
    let build = Driven::begin(&fixture, "broken").await;
    let mut graph = Graph::default();
    let base = graph.add(graph::image("docker.io/library/busybox:latest"), &[]);
    let step = graph.add(graph::shell("echo left > /left; exit 1"), &[(base, 0)]);
    let status = build.solve(graph.definition((step, 0))).await.unwrap_err();
    let failure = Failure::from_status(&status);
    let solve = failure.details.solve().unwrap();
    assert!(matches!(
        solve.op.as_ref().unwrap().op,
        Some(pb::op::Op::Exec(_))
    ));
    for (ids, text) in [(&solve.mount_ids, "left\n"), (&solve.input_ids, "")] {
        container(&build, &ids[0]).await.unwrap();
        let said = exec(&build, vec![init("cat /left 2>/dev/null; true", false)]).await;
        assert_eq!(said.unwrap().out, text);
        release(&build).await.unwrap();
    }
    build.give_back(single("", &[])).await.unwrap();
    build.solve.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_root_can_be_read_only() {
    let fixture = Fixture::new();
    let build = Driven::begin(&fixture, "readonly").await;
    let mut graph = Graph::default();
    let base = graph.add(graph::image("docker.io/library/busybox:latest"), &[]);
    let command = "touch /x 2>/dev/null || echo refused > /out/told";
    let mount = |dest: &str| pb::Mount {
        dest: dest.to_owned(),
        ..pb::Mount::default()
    };
    let exec = pb::ExecOp {
        meta: Some(graph::meta(&["sh", "-c", command])),
        mounts: vec![
            pb::Mount {
                readonly: true,
                output: -1,
                ..mount("/")
            },
            pb::Mount {
                input: -1,
                ..mount("/out")
            },
        ],
        ..pb::ExecOp::default()
    };
    let step = graph.add(pb::op::Op::Exec(exec), &[(base, 0)]);
    let made = build.solve(graph.definition((step, 0))).await.unwrap();
    assert_eq!(build.read(&made, "/told").await.unwrap(), "refused\n");
    build.give_back(single("", &[])).await.unwrap();
    build.solve.await.unwrap().unwrap();
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
