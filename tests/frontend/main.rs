//! A frontend that the tests put into an image: it calls the daemon over its standard streams.
//!
//! The option `do` says what it does: `tell` makes a file of what it was told, `dockerfile` hands
//! the build to the built-in frontend, `refuse` returns an error, `fall` ends without a word.

use prost::Message as _;
use proto::frontend as wire;
use proto::frontend::llb_bridge_client::LlbBridgeClient;
use proto::pb;
use std::collections::BTreeMap;
use tonic::transport::Channel;

type Bridge = LlbBridgeClient<Channel>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = options();
    let what = options
        .get("build-arg:do")
        .map_or("dockerfile", String::as_str);
    if what == "fall" {
        eprintln!("fell over");
        std::process::exit(7);
    }
    let streams = tokio::io::join(tokio::io::stdin(), tokio::io::stdout());
    let channel = rpc::tunnel::client_over(streams).await?;
    let mut bridge = LlbBridgeClient::new(channel);
    bridge.ping(wire::PingRequest {}).await?;
    let mut answer = wire::ReturnRequest::default();
    match what {
        "tell" => answer.result = Some(solve(&mut bridge, tell(&options)).await?),
        "refuse" => {
            answer.error = Some(proto::rpc::Status {
                code: 3,
                message: "this frontend builds nothing".to_owned(),
                details: Vec::new(),
            });
        }
        _ => {
            let request = wire::SolveRequest {
                frontend: "dockerfile.v0".to_owned(),
                frontend_opt: options,
                ..wire::SolveRequest::default()
            };
            answer.result = Some(solve(&mut bridge, request).await?);
        }
    }
    bridge.r#return(answer).await?;
    // A thread waits for more input, and the runtime would wait for that.
    std::process::exit(0);
}

/// What the frontend was told.
fn options() -> BTreeMap<String, String> {
    let told = std::env::vars().filter(|(name, _)| name.starts_with("BUILDKIT_FRONTEND_OPT_"));
    told.filter_map(|(_, text)| {
        let (key, value) = text.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    })
    .collect()
}

async fn solve(bridge: &mut Bridge, request: wire::SolveRequest) -> anyhow::Result<wire::Result> {
    let request = wire::SolveRequest {
        allow_result_return: true,
        allow_result_array_ref: true,
        ..request
    };
    let result = bridge.solve(request).await?.into_inner().result;
    result.ok_or_else(|| anyhow::anyhow!("solve answered nothing"))
}

/// A file of what the frontend was told and where it runs.
fn tell(options: &BTreeMap<String, String>) -> wire::SolveRequest {
    let mut text = String::new();
    for (key, value) in options {
        text += &format!("{key}={value}\n");
    }
    for name in [
        "BUILDKIT_SESSION_ID",
        "BUILDKIT_WORKERS",
        "BUILDKIT_EXPORTEDPRODUCT",
        "OWN",
    ] {
        text += &format!("{name}={}\n", std::env::var(name).unwrap_or_default());
    }
    let metadata = std::fs::read("/run/config/buildkit/metadata/frontend.bin");
    let definition = metadata.map(|data| pb::Definition::decode(&data[..]).is_ok());
    text += &format!("definition={}\n", definition.unwrap_or_default());
    let directory = std::env::current_dir().unwrap_or_default();
    text += &format!("directory={}\n", directory.display());
    let links = std::fs::read_dir("/sys/class/net").map_or(0, Iterator::count);
    text += &format!("network={}\n", links > 1);
    let action = pb::FileActionMkFile {
        path: "/told".to_owned(),
        mode: 0o644,
        data: text.into_bytes().into(),
        timestamp: -1,
        ..pb::FileActionMkFile::default()
    };
    let file = pb::Op {
        op: Some(pb::op::Op::File(pb::FileOp {
            actions: vec![pb::FileAction {
                input: -1,
                secondary_input: -1,
                output: 0,
                action: Some(pb::file_action::Action::Mkfile(action)),
            }],
        })),
        ..pb::Op::default()
    };
    let file = file.encode_to_vec();
    let last = pb::Op {
        inputs: vec![pb::Input {
            digest: oci::Digest::of(&file).to_string(),
            index: 0,
        }],
        ..pb::Op::default()
    };
    wire::SolveRequest {
        definition: Some(pb::Definition {
            def: vec![file.into(), last.encode_to_vec().into()],
            ..pb::Definition::default()
        }),
        ..wire::SolveRequest::default()
    }
}
