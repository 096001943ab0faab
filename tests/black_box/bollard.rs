//! A client in Rust that others wrote: `bollard`. It sends its context as one archive, serves no
//! directories, and fills only the fields of a request that BuildKit has given up.

use std::collections::HashMap;
use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use bollard::auth::DockerCredentials;
use bollard::grpc::build::{
    ImageBuildFrontendOptions, ImageBuildLoadInput, ImageBuildPlatform, NamedContext, SecretSource,
};
use bollard::grpc::driver::buildkitd::{BuildkitDaemon, Endpoint};
use bollard::grpc::driver::{Export, Image, ImageExporterEnum};
use bollard::grpc::error::GrpcError;
use bollard::grpc::export::ImageExporterOutput;
use bollard::grpc::registry::ImageRegistryOutput;
use serde_json::json;
use testing::registry::{DockerRegistry, PASSWORD, USER};

use crate::fixture::{Fixture, Layout, tool, untar};

/// Connects as bollard does when it is given an address.
fn daemon(fixture: &Fixture) -> BuildkitDaemon {
    BuildkitDaemon::new(Endpoint::from_shared(fixture.daemon.address()).unwrap())
}

/// The context as a compressed archive.
fn context(fixture: &Fixture) -> ImageBuildLoadInput {
    let archive = fixture.scratch().join("context.tar.gz");
    let (file, directory) = (archive.to_str().unwrap(), fixture.context());
    tool(
        "tar",
        &["-czf", file, "-C", directory.to_str().unwrap(), "."],
    );
    ImageBuildLoadInput::Upload(fs::read(archive).unwrap().into())
}

/// A place for an archive, and the request that has it filled.
fn archive(fixture: &Fixture) -> (PathBuf, ImageExporterEnum) {
    let path = fixture.scratch().join("image.tar");
    let output = ImageExporterOutput::builder("example.org/of/bollard:1");
    let output = output.annotation("made.by", "bollard").oci_mediatypes(true);
    let request = output.dest(&path);
    (path, ImageExporterEnum::OCI(request))
}

/// What the image in `archive` is.
fn image(fixture: &Fixture, archive: &Path) -> Layout {
    let directory = fixture.scratch().join("image");
    untar(archive, &directory);
    Layout::at(&directory)
}

/// The text of the error that the daemon answered.
fn refusal(result: Result<(), GrpcError>) -> String {
    let error: &dyn std::error::Error = &result.unwrap_err();
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect()
}

#[tokio::test]
async fn an_archive_becomes_an_image() {
    let fixture = Fixture::with(
        "FROM busybox AS base\nARG WHO\nCOPY file /file\n\
         RUN echo \"$WHO and $(cat /file)\" > /said\n\
         RUN --mount=type=secret,id=word test \"$(cat /run/secrets/word)\" = secret\n\
         RUN grep -q '10.1.2.3.*host.test' /etc/hosts\n\
         COPY --from=other /bin/sh /other\n\
         FROM base AS wanted\nENTRYPOINT [\"cat\", \"/said\"]\n\
         FROM busybox\nRUN false\n",
    );
    fixture.write("file", "a file");
    let secret = fixture.scratch().join("secret");
    fs::write(&secret, "secret").unwrap();
    let host = bollard::grpc::build::ImageBuildHostIp {
        host: "host.test".into(),
        ip: "10.1.2.3".parse().unwrap(),
    };
    let platform = ImageBuildPlatform {
        architecture: "amd64".into(),
        os: "linux".into(),
        variant: None,
    };
    let other = NamedContext {
        path: "docker-image://docker.io/library/busybox:latest".into(),
    };
    let options = ImageBuildFrontendOptions::builder()
        .target("wanted")
        .buildarg("WHO", "a program")
        .label("of", "bollard")
        .extrahost(&host)
        .platforms(&platform)
        .set_secret("word", &SecretSource::File(secret))
        .named_context("other", other)
        .pull(true)
        .build();
    let (path, request) = archive(&fixture);
    daemon(&fixture)
        .export(request, options, context(&fixture), None, None)
        .await
        .unwrap();

    let image = image(&fixture, &path);
    let manifest = image.manifest();
    assert_eq!(manifest["annotations"], json!({"made.by": "bollard"}));
    let config = image.config();
    assert_eq!(config["config"]["Labels"], json!({"of": "bollard"}));
    fixture
        .drydock(&["load", "-i", path.to_str().unwrap()])
        .ok();
    let ran = fixture.drydock(&["run", "--rm", "example.org/of/bollard:1"]);
    assert_eq!(ran.ok(), "a program and a file");
}

#[tokio::test]
async fn an_image_goes_to_a_registry_that_knows_the_client() {
    let fixture = Fixture::with("FROM busybox\nRUN echo it > /it\n");
    let registry = DockerRegistry::start_with_password().unwrap();
    let output = ImageRegistryOutput::builder(&registry.reference("made:1"))
        .push(true)
        .oci_mediatypes(true)
        .consume();
    let options = || ImageBuildFrontendOptions::builder().build();
    let credentials = DockerCredentials {
        username: Some(USER.into()),
        password: Some(PASSWORD.into()),
        ..DockerCredentials::default()
    };
    let credentials = HashMap::from([(registry.host(), credentials)]);
    let push = |credentials| {
        let (output, context) = (output.clone(), context(&fixture));
        daemon(&fixture).registry(output, options(), context, credentials, None)
    };
    let refused = refusal(push(None).await);
    assert!(refused.contains("push access denied"), "{refused}");
    push(Some(credentials)).await.unwrap();
    let manifest = registry.manifest("made", "1").unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_failed_step_is_told_and_no_file_is_made() {
    let fixture = Fixture::with("FROM busybox\nRUN exit 7\n");
    let (path, request) = archive(&fixture);
    let options = ImageBuildFrontendOptions::builder().build();
    let built = daemon(&fixture).export(request, options, context(&fixture), None, None);
    let told = refusal(built.await);
    let expected = "process \"/bin/sh -c exit 7\" did not complete successfully: exit code: 7";
    assert!(told.contains(expected), "{told}");
    // bollard opens the file when the first byte comes.
    assert!(!path.exists());
}

/// Listens for one connection and gives it to `buildctl dial-stdio`, as builders in containers are
/// reached.
fn through_a_program(fixture: &Fixture) -> BuildkitDaemon {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let mut command = Command::new(testing::daemon::program().unwrap());
    command
        .arg0("buildctl")
        .args(["--addr", &fixture.daemon.address(), "dial-stdio"]);
    std::thread::spawn(move || {
        let (connection, _) = listener.accept().unwrap();
        command.stdin(OwnedFd::from(connection.try_clone().unwrap()));
        command.stdout(OwnedFd::from(connection));
        assert!(command.status().unwrap().success());
    });
    BuildkitDaemon::new(Endpoint::from_shared(address).unwrap())
}

#[tokio::test]
async fn a_connection_may_go_through_a_program() {
    let fixture = Fixture::with("FROM busybox\nCOPY big /big\n");
    // More than one message, and more than what is in flight at once.
    let big: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fixture.write("big", big);
    let options = ImageBuildFrontendOptions::builder().build();
    let output = ImageRegistryOutput::builder(&fixture.registry.reference("big:1"));
    let output = output.push(true).oci_mediatypes(true).consume();
    through_a_program(&fixture)
        .registry(output, options, context(&fixture), None, None)
        .await
        .unwrap();
    fixture.registry.manifest("big", "1").unwrap();
}
