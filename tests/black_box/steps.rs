//! What steps leave behind, to the letter: it is what BuildKit's leave.

use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use serde_json::Value;

use crate::fixture::{Fixture, Layout, tool};

/// The names in a layer, in its order.
fn names(layout: &Layout, layer: &Value) -> Vec<String> {
    let blob = layout.blob(&layer["digest"]);
    let path =
        std::env::temp_dir().join(format!("layer-{}", layer["digest"]).replace(['"', ':'], ""));
    std::fs::write(&path, blob).unwrap();
    let listing = tool("tar", &["-tzf", path.to_str().unwrap()]);
    std::fs::remove_file(path).unwrap();
    listing.lines().map(str::to_owned).collect()
}

#[test]
fn a_step_that_changes_nothing_has_an_empty_layer() {
    let fixture = Fixture::with("FROM busybox\nRUN true\nRUN touch /etc/made\n");
    let layout = fixture.layout(&[]);
    let manifest = layout.manifest();
    let layers = manifest["layers"].as_array().unwrap();
    let last: Vec<_> = layers[layers.len() - 2..]
        .iter()
        .map(|layer| names(&layout, layer))
        .collect();
    assert_eq!(
        last,
        [vec![], vec!["etc/".to_owned(), "etc/made".to_owned()]]
    );
}

#[test]
fn steps_of_a_build_that_reuses_nothing_still_share_their_cache_mounts() {
    let dockerfile = "\
FROM busybox
RUN --mount=type=cache,id=shared,target=/a ls /a; echo here > /a/file
RUN --mount=type=cache,id=shared,target=/b ls /b
";
    let fixture = Fixture::with(dockerfile);
    for _ in 0..2 {
        let build = fixture.build(&["--no-cache"]);
        build.ran.ok();
        assert_eq!(build.step("ls /a").log, "");
        assert_eq!(build.step("ls /b").log.trim(), "file");
    }
}

#[test]
fn a_directory_in_memory_is_like_the_one_it_hides() {
    let dockerfile = "\
FROM busybox
RUN mkdir -m 711 /hidden
RUN --mount=type=tmpfs,target=/hidden --mount=type=tmpfs,target=/new stat -c %a /hidden /new; \
    grep -c ' /hidden tmpfs rw,nosuid' /proc/mounts
";
    let fixture = Fixture::with(dockerfile);
    let build = fixture.build(&[]);
    build.ran.ok();
    let log = &build.step("stat").log;
    assert_eq!(log.lines().collect::<Vec<_>>(), ["711", "1777", "1"]);
}

#[test]
fn users_that_are_not_there_are_refused() {
    for (dockerfile, said) in [
        (
            "FROM busybox\nUSER nosuch\nRUN id\n",
            "process \"/bin/sh -c id\" did not complete successfully: unable to find user nosuch: \
             no matching entries in passwd file",
        ),
        (
            "FROM busybox\nUSER 4294967296\nRUN id\n",
            "uids and gids must be in range 0-2147483647",
        ),
        (
            "FROM scratch\nCOPY --chown=nobody a /\n",
            "invalid user index: -1",
        ),
        (
            "FROM busybox\nCOPY --link --chown=nobody a /\n",
            "invalid user index: -1",
        ),
    ] {
        let fixture = Fixture::with(dockerfile);
        fixture.write("a", "a");
        let build = fixture.build(&[]);
        let error = build.ran.err();
        assert!(error.contains(said), "{dockerfile}: {error}");
    }
}

#[test]
fn a_checked_download_has_the_time_that_the_server_says() {
    let server = testing::http::Server::start(|_| {
        testing::http::Answer::new(200, "content")
            .with("Last-Modified", "Tue, 13 May 2014 16:53:20 GMT")
    })
    .unwrap();
    let digest = oci::Digest::of("content");
    let url = server.url("/file");
    let fixture = Fixture::with(&format!("FROM scratch\nADD --checksum={digest} {url} /\n"));
    let files = fixture.files(&[]);
    let metadata = std::fs::metadata(files.path("file")).unwrap();
    assert_eq!(metadata.mtime(), 1_400_000_000);
}

#[test]
fn a_file_of_an_archive_is_what_its_last_name_says() {
    let fixture = Fixture::with("FROM scratch\nADD a.tar /\n");
    let mut archive = Vec::new();
    archive.extend(header("file", b'0', 0o755, ""));
    archive.extend(header("link", b'1', 0o640, "file"));
    archive.extend([0; 1024]);
    fixture.write("a.tar", archive);
    let files = fixture.files(&[]);
    let mode = |name: &str| {
        let metadata = std::fs::metadata(files.path(name)).unwrap();
        (metadata.permissions().mode() & 0o7777, metadata.ino())
    };
    assert_eq!(mode("file").0, 0o640);
    assert_eq!(mode("link").0, 0o640);
}

#[test]
fn marks_of_removal_have_no_time_of_their_own() {
    let fixture = Fixture::with("FROM busybox\nRUN rm /etc/passwd\n");
    let directory = fixture.scratch().join("image.tar");
    let output = format!(
        "type=oci,rewrite-timestamp=true,dest={}",
        directory.display()
    );
    let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=1600000000"];
    fixture
        .build(&[&["--output", &output], &epoch[..]].concat())
        .ran
        .ok();
    let unpacked = fixture.scratch().join("image");
    crate::fixture::untar(&directory, &unpacked);
    let layout = Layout::at(&unpacked);
    let manifest = layout.manifest();
    let layer = manifest["layers"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .clone();
    let mut tar = Vec::new();
    let path = fixture.scratch().join("layer.tar.gz");
    std::fs::write(&path, layout.blob(&layer["digest"])).unwrap();
    tool("gunzip", &[path.to_str().unwrap()]);
    std::fs::File::open(path.with_extension(""))
        .unwrap()
        .read_to_end(&mut tar)
        .unwrap();
    let at = tar
        .chunks(512)
        .find(|block| block.starts_with(b"etc/.wh.passwd\0"))
        .unwrap();
    let time = std::str::from_utf8(&at[136..147]).unwrap();
    assert_eq!(i64::from_str_radix(time, 8).unwrap(), 0);
}

/// The header of an empty entry in a tar.
fn header(name: &str, kind: u8, mode: u32, link: &str) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put =
        |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}"));
    for (at, digits) in [(108, 7), (116, 7), (124, 11), (136, 11)] {
        put(at, &"0".repeat(digits));
    }
    put(148, "        ");
    put(157, link);
    put(257, "ustar\u{0}00");
    block[156] = kind;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}
