//! Who may do what.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use client::containers::{AttachTo, BindMount, CallErrorKind, Containers, CreateContainer};
use nix::unistd::{Uid, seteuid};
use proto::control::{self, control_client::ControlClient};
use proto::worker::{self as wire, worker_client::WorkerClient};
use tonic::Code;
use tonic::transport::Channel;

use crate::fixture::{Fixture, LIMIT};
use crate::graph::{Graph, image};

const NOBODY: u32 = 65534;

/// A container that is not made before it is asked for.
fn container(mount: &str, network: &str) -> CreateContainer {
    let mount = BindMount {
        source: mount.to_owned(),
        destination: "/there".to_owned(),
        readonly: true,
    };
    CreateContainer {
        image: "busybox".to_owned(),
        args: vec!["true".to_owned()],
        mounts: vec![mount],
        network: network.to_owned(),
        ..CreateContainer::default()
    }
}

/// A connection of a user who may use the socket and is nobody else.
async fn nobody(fixture: &Fixture) -> Containers {
    let address = fixture.daemon.address();
    let socket = Path::new(address.strip_prefix("unix://").unwrap());
    for (path, mode) in [(socket.parent().unwrap(), 0o711), (socket, 0o666)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    seteuid(Uid::from_raw(NOBODY)).unwrap();
    let client = fixture.daemon.client().await;
    // The connection is made by the first call.
    let client = client.unwrap();
    client.list_workers().await.unwrap();
    seteuid(Uid::from_raw(0)).unwrap();
    Containers::new(client.channel())
}

#[tokio::test]
async fn only_root_reaches_the_machine_through_containers() {
    let fixture = Fixture::new();
    fixture.drydock(&["pull", "busybox"]).ok();
    let root = Containers::new(fixture.daemon.client().await.unwrap().channel());
    let seen = root.create(container("/etc", "")).await.unwrap();

    let nobody = nobody(&fixture).await;
    for (mount, network, mend) in [
        ("/etc", "none", "use a named volume instead"),
        ("volume", "host", "use `--network bridge`"),
    ] {
        let refused = nobody.create(container(mount, network)).await.unwrap_err();
        assert_eq!(refused.kind, CallErrorKind::Denied, "{refused}");
        assert!(refused.message.contains(mend), "{refused}");
    }
    nobody.create(container("volume", "none")).await.unwrap();
    // Neither by way of what root has made.
    let Err(refused) = nobody
        .attach(
            AttachTo::Start {
                container: seen.clone(),
            },
            None,
        )
        .await
    else {
        panic!("attached to a container that sees the machine's files");
    };
    assert_eq!(refused.kind, CallErrorKind::Denied, "{refused}");
    root.remove(&seen, false).await.unwrap();
}

#[tokio::test]
async fn no_client_can_take_the_place_of_the_engine() {
    let fixture = Fixture::with("FROM busybox\nRUN echo built\n");
    let channel = fixture.daemon.client().await.unwrap().channel();
    let mut worker = WorkerClient::new(channel);
    let release = wire::ReleaseJobRequest::default();
    for refused in [
        worker
            .sessions(tokio_stream::empty())
            .await
            .map(drop)
            .unwrap_err(),
        worker
            .run(tokio_stream::empty())
            .await
            .map(drop)
            .unwrap_err(),
        worker.release_job(release).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    fixture.build(&[]).ran.ok();
}

/// Waits until the worker has let go of the jobs that are over, which it does after the answer.
async fn until_nothing_is_in_use(control: &mut ControlClient<Channel>) {
    let let_go = async {
        loop {
            let kept = control.disk_usage(control::DiskUsageRequest::default());
            let records = kept.await.unwrap().into_inner().record;
            assert!(!records.is_empty(), "the image is kept");
            if records.iter().all(|record| !record.in_use) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, let_go).await.unwrap();
}

#[tokio::test]
async fn a_name_can_be_used_for_one_build_after_another() {
    let fixture = Fixture::new();
    let channel = fixture.daemon.client().await.unwrap().channel();
    let mut control = ControlClient::new(channel);
    let mut graph = Graph::default();
    let busybox = graph.add(image("docker.io/library/busybox:latest"), &[]);
    let graph = graph.definition((busybox, 0));
    for _ in 0..3 {
        let request = control::SolveRequest {
            r#ref: "again".to_owned(),
            definition: Some(graph.clone()),
            ..control::SolveRequest::default()
        };
        control.solve(request).await.unwrap();
        until_nothing_is_in_use(&mut control).await;
    }
}

#[test]
fn nobody_else_can_look_at_what_is_kept() {
    let fixture = Fixture::new();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&fixture.daemon.root()), 0o700);
}

#[test]
fn a_frontend_that_is_switched_off_is_not_there() {
    let fixture = Fixture::configured("[frontend.\"dockerfile.v0\"]\nenabled = false\n");
    fixture.dockerfile("FROM busybox\n");
    let build = fixture.build(&[]);
    let failed = build.ran.err();
    assert!(
        failed.contains("invalid frontend: dockerfile.v0"),
        "{failed}"
    );
}
