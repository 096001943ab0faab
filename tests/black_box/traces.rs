//! Traces: spans of clients and of the daemon, kept with builds and sent on.

use std::time::{Duration, Instant};

use proto::collector::trace_service_client::TraceServiceClient;
use proto::collector::trace_service_server::{TraceService, TraceServiceServer};
use proto::collector::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use proto::control::control_client::ControlClient;
use proto::control::{BuildHistoryRecord, BuildHistoryRequest, SolveRequest};
use proto::control::{StatusRequest, UpdateBuildHistoryRequest};
use proto::pb;
use proto::trace::{ResourceSpans, ScopeSpans, Span};
use serde_json::Value;
use testing::daemon::Daemon;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

use crate::fixture::{Fixture, LIMIT};
use crate::graph::{self, Graph};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT: &str = "00f067aa0ba902b7";

/// A build of one file, as a client's span calls for it; `flags` say whether it is traced.
async fn build(channel: &Channel, name: &str, flags: &str) {
    let mut steps = Graph::default();
    let made = steps.add(graph::file("/a", "a"), &[]);
    let parent = format!("00-{TRACE}-{CLIENT}-{flags}");
    solve(channel, name, steps.definition((made, 0)), &parent).await;
}

/// Builds, as the span `parent` calls for it.
async fn solve(channel: &Channel, name: &str, definition: pb::Definition, parent: &str) {
    let mut request = Request::new(SolveRequest {
        r#ref: name.to_owned(),
        definition: Some(definition),
        ..SolveRequest::default()
    });
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", parent.parse().unwrap());
    let mut control = ControlClient::new(channel.clone());
    control.solve(request).await.unwrap();
}

async fn record(channel: &Channel, name: &str) -> BuildHistoryRecord {
    let mut control = ControlClient::new(channel.clone());
    let request = UpdateBuildHistoryRequest {
        r#ref: name.to_owned(),
        finalize: true,
        ..UpdateBuildHistoryRequest::default()
    };
    control.update_build_history(request).await.unwrap();
    let request = BuildHistoryRequest {
        r#ref: name.to_owned(),
        early_exit: true,
        ..BuildHistoryRequest::default()
    };
    let events = control.listen_build_history(request).await.unwrap();
    let event = events.into_inner().message().await.unwrap().unwrap();
    event.record.unwrap()
}

fn bytes(text: &str) -> prost::bytes::Bytes {
    let digits = (0..text.len()).step_by(2);
    let bytes = digits.map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap());
    bytes.collect::<Vec<u8>>().into()
}

/// The span of the client, which it sends when its build is over.
fn span_of_client() -> ExportTraceServiceRequest {
    let span = Span {
        trace_id: bytes(TRACE),
        span_id: bytes(CLIENT),
        name: "the client".to_owned(),
        flags: 1,
        start_time_unix_nano: 1,
        end_time_unix_nano: 2,
        ..Span::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            scope_spans: vec![ScopeSpans {
                spans: vec![span],
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
}

#[tokio::test]
async fn a_build_is_kept_with_its_trace() {
    let daemon = Daemon::start("").unwrap();
    let client = daemon.client().await.unwrap();
    let channel = client.channel();
    build(&channel, "traced", "01").await;
    let mut collector = TraceServiceClient::new(channel.clone());
    collector.export(span_of_client()).await.unwrap();

    let trace = record(&channel, "traced").await.trace.unwrap();
    assert_eq!(trace.media_type, "application/vnd.buildkit.otlp.json.v0");
    let document = client.read_blob(&trace.digest).await.unwrap();
    assert_eq!(i64::try_from(document.len()).unwrap(), trace.size);
    let spans: Vec<Value> = serde_json::Deserializer::from_slice(&document)
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap();
    let named = |name: &str| {
        let found = spans.iter().find(|span| span["Name"] == name);
        found.unwrap_or_else(|| panic!("no span `{name}` in {spans:#?}"))
    };
    for span in &spans {
        assert_eq!(span["SpanContext"]["TraceID"], TRACE);
    }
    let solve = named("moby.buildkit.v1.Control/Solve");
    assert_eq!(solve["Parent"]["SpanID"], CLIENT);
    assert_eq!(solve["SpanKind"], 2);
    assert_eq!(named("the client")["ChildSpanCount"], 1);
    let made = named("mkfile /a");
    assert_eq!(made["Parent"]["SpanID"], solve["SpanContext"]["SpanID"]);
    assert_eq!(made["Attributes"][0]["Key"], "vertex");

    // Who does not keep a trace does not have it kept here.
    build(&channel, "untraced", "00").await;
    assert!(record(&channel, "untraced").await.trace.is_none());
    // What a daemon is told of builds that are over harms nobody.
    collector.export(span_of_client()).await.unwrap();
    let status = StatusRequest {
        r#ref: "traced".to_owned(),
    };
    let mut control = ControlClient::new(channel);
    assert!(control.status(status).await.is_ok());
}

/// Collects spans.
struct Collector(mpsc::UnboundedSender<Span>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        assert_eq!(request.metadata().get("x-key").unwrap(), "a b");
        for spans in request.into_inner().resource_spans {
            for spans in spans.scope_spans {
                for span in spans.spans {
                    self.0.send(span).unwrap();
                }
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test]
async fn spans_are_sent_on_where_the_environment_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, mut spans) = mpsc::unbounded_channel();
    let server = Server::builder().add_service(TraceServiceServer::new(Collector(sender)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ];
    let daemon = Daemon::start_with("", &environment).unwrap();
    let client = daemon.client().await.unwrap();
    build(&client.channel(), "traced", "01").await;
    // A call that belongs to nobody's trace is one of its own.
    client.info().await.unwrap();
    let mut collector = TraceServiceClient::new(client.channel());
    collector.export(span_of_client()).await.unwrap();

    let mut wanted = vec![
        ("moby.buildkit.v1.Control/Solve", true),
        ("mkfile /a", true),
        ("the client", true),
        ("moby.buildkit.v1.Control/Info", false),
    ];
    let begun = Instant::now();
    while !wanted.is_empty() {
        let left = LIMIT
            .saturating_sub(begun.elapsed())
            .max(Duration::from_millis(1));
        let next = tokio::time::timeout(left, spans.recv()).await;
        let span = next
            .unwrap_or_else(|_| panic!("no spans {wanted:?}"))
            .unwrap();
        let is_ours = span.trace_id == bytes(TRACE);
        wanted.retain(|(name, of_trace)| *name != span.name || *of_trace != is_ours);
    }
}

#[tokio::test]
async fn steps_of_a_traced_build_may_send_spans_of_their_own() {
    let fixture = Fixture::new();
    let client = fixture.daemon.client().await.unwrap();
    let channel = client.channel();
    let step = |command: &str, environment: &[&str]| {
        let mut steps = Graph::default();
        let base = steps.add(graph::image("docker.io/library/busybox:latest"), &[]);
        let pb::op::Op::Exec(mut exec) = graph::shell(command) else {
            panic!("a step is no process");
        };
        let meta = exec.meta.as_mut().unwrap();
        meta.env
            .extend(environment.iter().map(|entry| (*entry).to_owned()));
        let ran = steps.add(pb::op::Op::Exec(exec), &[(base, 0)]);
        steps.definition((ran, 0))
    };
    let told = format!(
        "test \"$OTEL_TRACES_EXPORTER\" = otlp && test \"$OTEL_EXPORTER_OTLP_TRACES_PROTOCOL\" = grpc && \
         test \"$OTEL_EXPORTER_OTLP_TRACES_ENDPOINT\" = unix:///dev/otel-grpc.sock && \
         test -S /dev/otel-grpc.sock && echo $TRACEPARENT | grep -q '^00-{TRACE}-.*-01$'"
    );
    let parent = format!("00-{TRACE}-{CLIENT}-01");
    solve(&channel, "traced", step(&told, &[]), &parent).await;
    // What the build says stays.
    let own = "test \"$OTEL_TRACES_EXPORTER\" = none && test -n \"$TRACEPARENT\"";
    let own = step(own, &["OTEL_TRACES_EXPORTER=none"]);
    solve(&channel, "own", own, &parent).await;
    let nothing = "test -z \"$OTEL_TRACES_EXPORTER$TRACEPARENT\" && ! test -e /dev/otel-grpc.sock";
    let not_kept = format!("00-{TRACE}-{CLIENT}-00");
    solve(&channel, "untraced", step(nothing, &[]), &not_kept).await;

    // What comes in there is kept with the build.
    let socket = fixture.daemon.root().join("otel-grpc.sock");
    let address = format!("unix://{}", socket.display());
    let inside = client::Client::connect(&address).await.unwrap();
    let mut collector = TraceServiceClient::new(inside.channel());
    collector.export(span_of_client()).await.unwrap();
    let trace = record(&channel, "traced").await.trace.unwrap();
    let document = client.read_blob(&trace.digest).await.unwrap();
    assert!(String::from_utf8_lossy(&document).contains("the client"));
}
