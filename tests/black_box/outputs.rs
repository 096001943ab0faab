//! What leaves the daemon, read by other programs.

use std::fs;
use std::io::Read as _;
use std::process::{Command, Stdio};

use oci::Digest;
use serde_json::{Value, json};

use crate::fixture::{Fixture, Layout, run, tool};

const DOCKERFILE: &str = "\
FROM busybox
LABEL made=by-hand
RUN echo text > /file && ln -s file /link && mkfifo /pipe && chmod 4755 /file
RUN rm -r /var && mkdir /var && ln /file /hard
CMD [\"sh\", \"-c\", \"cat /file\"]
";

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn skopeo_and_umoci_read_the_oci_output() {
    let fixture = Fixture::with(DOCKERFILE);
    let archive = fixture.scratch().join("image.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let build = fixture.build(&["--tag", "example.org/made:1", "--output", &output]);
    build.ran.ok();
    let source = format!("oci-archive:{}", archive.display());
    let inspected = parsed(&tool("skopeo", &["inspect", &source]));
    assert_eq!(inspected["Labels"], json!({"made": "by-hand"}));
    assert_eq!(inspected["Layers"].as_array().unwrap().len(), 3);

    let layout = fixture.scratch().join("layout");
    fs::create_dir(&layout).unwrap();
    tool(
        "tar",
        &[
            "-xf",
            archive.to_str().unwrap(),
            "-C",
            layout.to_str().unwrap(),
        ],
    );
    let bundle = fixture.scratch().join("bundle");
    let image = format!("{}:1", layout.display());
    tool(
        "umoci",
        &["unpack", "--image", &image, bundle.to_str().unwrap()],
    );
    let root = bundle.join("rootfs");
    assert_eq!(fs::read_to_string(root.join("hard")).unwrap(), "text\n");
    assert_eq!(
        fs::read_link(root.join("link")).unwrap().to_str(),
        Some("file")
    );
    assert_eq!(fs::read_dir(root.join("var")).unwrap().count(), 0);
    let spec = parsed(&fs::read_to_string(bundle.join("config.json")).unwrap());
    assert_eq!(spec["process"]["args"], json!(["sh", "-c", "cat /file"]));
}

#[test]
fn layers_are_gzip_and_have_the_digests_that_are_told() {
    let fixture = Fixture::with(DOCKERFILE);
    let layout = fixture.layout(&[]);
    let manifest = layout.manifest();
    let config = layout.config();
    let layers = manifest["layers"].as_array().unwrap();
    let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
    assert_eq!(layers.len(), 3);
    assert_eq!(diff_ids.len(), 3);
    for (layer, diff_id) in layers.iter().zip(diff_ids) {
        assert_eq!(
            layer["mediaType"],
            "application/vnd.oci.image.layer.v1.tar+gzip"
        );
        let blob = layout.blob(&layer["digest"]);
        assert_eq!(layer["digest"], Digest::of(&blob).to_string());
        assert_eq!(layer["size"], blob.len());
        assert_eq!(*diff_id, Digest::of(gunzip(&blob)).to_string());
    }
    let history = config["history"].as_array().unwrap();
    let is_layer = |entry: &&Value| entry["empty_layer"] != json!(true);
    assert_eq!(history.iter().filter(is_layer).count(), 3);
}

/// What gzip, the program, reads.
fn gunzip(blob: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip")
        .args(["--decompress", "--stdout"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(move || std::io::Write::write_all(&mut input, blob));
        child.stdout.take().unwrap().read_to_end(&mut output)
    })
    .unwrap();
    assert!(child.wait().unwrap().success());
    output
}

#[test]
fn the_same_build_elsewhere_has_the_same_layers() {
    let digests = || {
        let fixture = Fixture::with("FROM busybox\nCOPY file /\n");
        fixture.write("file", "same");
        // A copy keeps the time, as in BuildKit.
        let file = fs::File::options()
            .write(true)
            .open(fixture.context().join("file"));
        file.unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        let argument = ["--build-arg", "SOURCE_DATE_EPOCH=1000"];
        let layout = fixture.layout(&argument);
        (layout.manifest(), layout.config())
    };
    assert_eq!(digests(), digests());
}

#[test]
fn compression_is_chosen() {
    let fixture = Fixture::with(DOCKERFILE);
    for (compression, suffix) in [("zstd", "+zstd"), ("uncompressed", "")] {
        let layout = fixture.scratch().join(compression);
        let output = format!(
            "type=oci,dest={}.tar,compression={compression},force-compression=true",
            layout.display()
        );
        fixture.build(&["--output", &output]).ran.ok();
        crate::fixture::untar(&layout.with_extension("tar"), &layout);
        let manifest = Layout::at(&layout).manifest();
        for layer in manifest["layers"].as_array().unwrap() {
            let expected = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
            assert_eq!(layer["mediaType"], expected);
        }
    }
}

#[test]
fn skopeo_reads_the_docker_output() {
    let fixture = Fixture::with(DOCKERFILE);
    let archive = fixture.scratch().join("image.tar");
    let output = format!("type=docker,dest={}", archive.display());
    let build = fixture.build(&["--tag", "example.org/made:1", "--output", &output]);
    build.ran.ok();
    let source = format!("docker-archive:{}", archive.display());
    let inspected = parsed(&tool("skopeo", &["inspect", &source]));
    assert_eq!(inspected["Labels"], json!({"made": "by-hand"}));
    let list = tool("tar", &["-xOf", archive.to_str().unwrap(), "manifest.json"]);
    assert_eq!(parsed(&list)[0]["RepoTags"], json!(["example.org/made:1"]));
}

#[test]
fn a_tar_holds_the_files() {
    let fixture = Fixture::with(DOCKERFILE);
    let archive = fixture.scratch().join("files.tar");
    let output = format!("type=tar,dest={}", archive.display());
    fixture.build(&["--output", &output]).ran.ok();
    let list = tool("tar", &["-tvf", archive.to_str().unwrap()]);
    let line = |path: &str| {
        let found = list.lines().find(|line| line.contains(path));
        found.unwrap_or_else(|| panic!("no {path} in {list}"))
    };
    assert!(line(" link ->").starts_with('l'));
    assert!(line(" pipe").starts_with('p'));
    assert!(line(" file").starts_with("-rwsr-xr-x") || line(" file").starts_with('h'));
    // `-o -` is the same on standard output.
    let ran = fixture
        .command(&["build", "-q", "-o", "-", "."])
        .output()
        .unwrap();
    assert!(ran.status.success());
    assert_eq!(ran.stdout.get(257..262), Some(&b"ustar"[..]));
}

#[test]
fn a_directory_holds_the_files() {
    let fixture = Fixture::with(DOCKERFILE);
    let files = fixture.files(&[]);
    assert_eq!(files.text("hard"), "text");
    assert_eq!(
        fs::read_link(files.path("link")).unwrap().to_str(),
        Some("file")
    );
    assert!(files.names("var").is_empty());
}

#[test]
fn what_is_pushed_is_what_skopeo_gets() {
    let fixture = Fixture::with(DOCKERFILE);
    let name = fixture.registry.reference("made:1");
    let metadata = fixture.scratch().join("metadata.json");
    let file = metadata.to_str().unwrap();
    let build = fixture.build(&["--tag", &name, "--push", "--metadata-file", file]);
    build.ran.ok();
    let metadata = parsed(&fs::read_to_string(&metadata).unwrap());
    let digest = &metadata["containerimage.digest"];
    let pushed = fixture.registry.manifest("made", "1").unwrap();
    assert_eq!(*digest, Digest::of(&pushed).to_string());

    let copy = fixture.scratch().join("copy");
    let (source, destination) = (
        format!("docker://{name}"),
        format!("oci:{}:1", copy.display()),
    );
    let arguments = ["copy", "-q", "--src-tls-verify=false", "--preserve-digests"];
    tool(
        "skopeo",
        &[&arguments[..], &[&source, &destination]].concat(),
    );
    let copied = Layout::at(&copy);
    assert_eq!(copied.index()["manifests"][0]["digest"], *digest);
    assert_eq!(
        copied.manifest()["config"]["digest"],
        metadata["containerimage.config.digest"]
    );
    // What is there is not sent again, and the name says the same.
    let again = fixture.build(&["--tag", &name, "--push"]);
    again.ran.ok();
    assert_eq!(fixture.registry.manifest("made", "1").unwrap(), pushed);
}

#[test]
fn a_build_has_several_outputs() {
    let fixture = Fixture::with("FROM scratch\nCOPY file /\n");
    fixture.write("file", "x");
    let (directory, archive) = (fixture.scratch().join("d"), fixture.scratch().join("t.tar"));
    let local = format!("type=local,dest={}", directory.display());
    let tar = format!("type=tar,dest={}", archive.display());
    fixture.build(&["-o", &local, "-o", &tar]).ran.ok();
    assert_eq!(fs::read_to_string(directory.join("file")).unwrap(), "x");
    assert_eq!(tool("tar", &["-tf", archive.to_str().unwrap()]), "file");
}

#[test]
fn the_metadata_file_names_what_was_made() {
    let fixture = Fixture::with(DOCKERFILE);
    let path = |name: &str| fixture.scratch().join(name).to_str().unwrap().to_owned();
    let (metadata, id) = (path("metadata.json"), path("id"));
    let arguments = ["-t", "made", "--metadata-file", &metadata, "--iidfile", &id];
    fixture.build(&arguments).ran.ok();
    let metadata = parsed(&fs::read_to_string(metadata).unwrap());
    assert_eq!(metadata["image.name"], "docker.io/library/made:latest");
    let config = metadata["containerimage.config.digest"].as_str().unwrap();
    assert_eq!(fs::read_to_string(id).unwrap(), config);
    let quiet = run(&mut fixture.command(&["build", "-q", "-t", "made", "."]));
    assert_eq!(quiet.ok(), config);
    assert_eq!(quiet.stderr, "");
}

#[test]
fn a_layout_of_the_client_is_an_image_to_build_from() {
    let fixture = Fixture::with("FROM scratch\nCOPY f /f\n");
    fixture.write("f", "content");
    let layout = fixture.layout(&[]);
    let index = fs::read_to_string(layout.path.join("index.json")).unwrap();
    let digest = parsed(&index)["manifests"][0]["digest"].clone();
    let base = format!(
        "base=oci-layout://{}@{}",
        layout.path.display(),
        digest.as_str().unwrap()
    );
    fixture.dockerfile("FROM base\nCOPY --from=base /f /g\n");
    let files = fixture.files(&["--build-context", &base]);
    assert_eq!(files.text("g"), "content");
}
