//! Devices that a machine describes (Container Device Interface), in steps that ask for them.

use proto::control;
use proto::control::control_client::ControlClient;
use proto::pb::{self, op::Op as Kind};

use crate::fixture::Fixture;
use crate::graph::{self, Graph};

const DESCRIPTION: &str = r#"
cdiVersion: "0.6.0"
kind: vendor.com/thing
annotations:
  org.mobyproject.buildkit.device.class: things
devices:
- name: locked
  containerEdits:
    env: [LOCKED=1]
    deviceNodes:
    - {path: /dev/thing, hostPath: /dev/zero}
    mounts:
    - {hostPath: /etc/hostname, containerPath: /thing-name, options: [ro, bind]}
- name: open
  annotations:
    org.mobyproject.buildkit.device.autoallow: "true"
  containerEdits:
    env: [OPEN=1]
"#;

/// A daemon on a machine with these devices; the directory goes with it.
fn fixture() -> (Fixture, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("thing.yaml"), DESCRIPTION).unwrap();
    let config = format!(
        "[cdi]\nspecDirs = [\"{}\"]\n\
         [frontend.\"dockerfile.v0\"]\nstandsInFor = [\"docker/dockerfile\"]\n",
        directory.path().display()
    );
    (Fixture::configured(&config), directory)
}

/// Runs `command` with `device` (optional with a `?`), under these grants; the error if it fails.
async fn run(fixture: &Fixture, device: &str, grants: &[&str], command: &str) -> Option<String> {
    let mut graph = Graph::default();
    let base = graph.add(graph::image("busybox"), &[]);
    let Kind::Exec(mut exec) = graph::shell(command) else {
        panic!("a shell command is an exec op");
    };
    exec.cdi_devices = vec![pb::CdiDevice {
        name: device.trim_end_matches('?').to_owned(),
        optional: device.ends_with('?'),
    }];
    let step = graph.add(Kind::Exec(exec), &[(base, 0)]);
    let request = control::SolveRequest {
        r#ref: format!("{device} {grants:?}"),
        definition: Some(graph.definition((step, 0))),
        entitlements: grants.iter().map(|name| (*name).to_owned()).collect(),
        ..control::SolveRequest::default()
    };
    let channel = fixture.daemon.client().await.unwrap().channel();
    let solved = ControlClient::new(channel).solve(request).await;
    solved.err().map(|status| status.message().to_owned())
}

#[tokio::test]
async fn steps_get_the_devices_that_they_may_have() {
    let (fixture, _directory) = fixture();
    let with = "test $LOCKED = 1 && head -c 1 /dev/thing && test -s /thing-name";
    let locked = "vendor.com/thing=locked";
    for grant in ["device", "device=vendor.com/thing=locked", "device=things"] {
        assert_eq!(run(&fixture, locked, &[grant], with).await, None, "{grant}");
    }
    let alias = ["device=vendor.com/thing=locked,alias=mine"];
    assert_eq!(run(&fixture, "mine", &alias, with).await, None);
    let open = "test $OPEN = 1 && test -z $LOCKED && ! test -e /dev/thing";
    assert_eq!(
        run(&fixture, "vendor.com/thing=open", &[], open).await,
        None
    );
    let both = "test $OPEN$LOCKED = 11";
    assert_eq!(run(&fixture, "things", &["device"], both).await, None);
    let none = "test -z $OPEN$LOCKED";
    assert_eq!(run(&fixture, "vendor.com/other=a?", &[], none).await, None);
}

#[tokio::test]
async fn a_device_that_must_not_or_cannot_be_used_fails_the_build() {
    let (fixture, _directory) = fixture();
    let error = async |device, grants| run(&fixture, device, grants, "true").await.unwrap();
    assert_eq!(
        error("vendor.com/thing=locked", &[]).await,
        "failed to load LLB: device vendor.com/thing=locked is requested by the build but not allowed"
    );
    assert_eq!(
        error("vendor.com/thing=none", &[]).await,
        "failed to load LLB: required device \"vendor.com/thing=none\" is not registered"
    );
    assert_eq!(
        error("vendor.com/thing=none", &["device"]).await,
        "process \"sh -c true\" did not complete successfully: CDI device injection failed: required \
         device \"vendor.com/thing=none\" is not registered"
    );
    let unknown = run(&fixture, "x?", &["devices"], "true").await.unwrap();
    assert_eq!(unknown, "unknown entitlement devices");
}

#[tokio::test]
async fn the_worker_tells_its_devices() {
    let (fixture, _directory) = fixture();
    let channel = fixture.daemon.client().await.unwrap().channel();
    let request = control::ListWorkersRequest::default();
    let answer = ControlClient::new(channel).list_workers(request).await;
    let workers = answer.unwrap().into_inner().record;
    let devices: Vec<_> = workers[0]
        .cdi_devices
        .iter()
        .map(|device| (device.name.as_str(), device.auto_allow))
        .collect();
    let want = [
        ("vendor.com/thing=locked", false),
        ("vendor.com/thing=open", true),
    ];
    assert_eq!(devices, want);
}

#[test]
fn a_dockerfile_asks_for_devices() {
    let (fixture, _directory) = fixture();
    fixture.dockerfile(
        "# syntax=docker/dockerfile:1-labs\n\
         FROM busybox\n\
         RUN --device=vendor.com/thing=open --device=vendor.com/other=a echo open $OPEN\n\
         RUN --device=vendor.com/thing=locked,required echo locked $LOCKED$OPEN && test -c /dev/thing\n",
    );
    let build = fixture.build(&["--allow", "device"]);
    build.ran.ok();
    assert_eq!(build.step("open $OPEN").log, "open 1\n");
    assert_eq!(build.step("locked").log, "locked 1\n");
    let refused = fixture.build(&["--no-cache"]);
    let told = refused.ran.err();
    assert!(told.contains("vendor.com/thing=locked"), "{told}");
}
