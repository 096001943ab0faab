//! What `ADD` does with archives and with what is behind URLs.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;

use testing::http::{Answer, Server};

use crate::fixture::Fixture;

/// A tar with a directory, a file that is somebody's, and a link.
fn archive() -> Vec<u8> {
    let mut tar = Vec::new();
    tar.extend(header("d/", b'5', 0o750, 0, ""));
    tar.extend(header("d/f", b'0', 0o640, 5, ""));
    tar.extend(b"hello");
    tar.resize(tar.len().next_multiple_of(512), 0);
    tar.extend(header("l", b'2', 0o777, 0, "d/f"));
    tar.extend([0; 1024]);
    tar
}

/// A header of an entry that belongs to user 7 and group 8.
fn header(name: &str, kind: u8, mode: u32, size: usize, link: &str) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put =
        |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, "0000007");
    put(116, "0000010");
    put(124, &format!("{size:011o}"));
    put(136, "13132212000");
    put(148, "        ");
    put(157, link);
    put(257, "ustar\x0000");
    block[156] = kind;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// The archive in all five forms.
fn forms() -> Vec<(&'static str, Vec<u8>)> {
    let tar = archive();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&tar).unwrap();
    let mut xz = xz2::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&tar).unwrap();
    vec![
        ("gzip", gzip.finish().unwrap()),
        ("bzip2", bzip2.finish().unwrap()),
        ("xz", xz.finish().unwrap()),
        ("zstd", zstd::encode_all(&tar[..], 1).unwrap()),
        ("tar", tar),
    ]
}

#[test]
fn archives_of_all_compressions_are_unpacked() {
    let mut dockerfile = "FROM busybox\n".to_owned();
    let fixture = Fixture::new();
    for (name, bytes) in forms() {
        fixture.write(name, bytes);
        dockerfile += &format!("ADD {name} /{name}/\n");
    }
    dockerfile += "\
ADD --unpack=false gzip /whole/
ADD --chown=1:2 gzip /owned/
RUN for n in gzip bzip2 xz zstd tar; do stat -c '%n %a %u:%g %Y' $n/d $n/d/f; cat $n/l; echo; done
RUN ls /whole; stat -c %u:%g /owned/d/f /owned
";
    fixture.dockerfile(&dockerfile);
    let build = fixture.build(&[]);
    build.ran.ok();
    let expected: String = ["gzip", "bzip2", "xz", "zstd", "tar"]
        .iter()
        .map(|n| format!("{n}/d 750 7:8 1500058624\n{n}/d/f 640 7:8 1500058624\nhello\n"))
        .collect();
    assert_eq!(build.step("for n in").log, expected);
    assert_eq!(build.step("ls /whole").log, "gzip\n1:2\n1:2\n");
}

#[test]
fn what_an_archive_cannot_do_is_told_as_docker_does() {
    let mut up = header("../../up", b'0', 0o644, 0, "").to_vec();
    up.extend([0; 1024]);
    let mut through = header("l", b'2', 0o777, 0, "/etc").to_vec();
    through.extend(header("l/through", b'0', 0o644, 0, ""));
    through.extend([0; 1024]);
    let fixture = Fixture::with("FROM busybox\nADD up /x/y/\nRUN ls /x/y /up 2>/dev/null; true\n");
    fixture.write("up", up);
    fixture.write("through", through);
    fixture.write("cut", &archive()[..1300]);
    let build = fixture.build(&[]);
    build.ran.ok();
    assert_eq!(build.step("ls /x/y").log, "/x/y:\nup\n");
    for (before, step, error) in [
        (
            "true",
            "ADD through /x/y/",
            "open /l/through: no such file or directory",
        ),
        ("touch /x", "ADD through /x", "mkdir /x: not a directory"),
        (
            "mkdir /x && ln -s /none /x/d",
            "ADD cut /x",
            "unexpected EOF",
        ),
    ] {
        fixture.dockerfile(&format!("FROM busybox\nRUN {before}\n{step}\n"));
        let ran = fixture.drydock(&["build", "--progress", "plain", "."]);
        assert!(ran.err().contains(error), "no `{error}` in {}", ran.stderr);
    }
}

#[test]
fn urls_are_files_with_the_servers_name_and_time() {
    let server = Server::start(|call| match call.path.as_str() {
        "/file.txt" | "/file.txt?x=y" => {
            Answer::new(200, "over http").with("Last-Modified", "Tue, 13 May 2014 16:53:20 GMT")
        }
        "/a.tar" => Answer::new(200, archive()),
        _ => Answer::new(404, ""),
    })
    .unwrap();
    let url = server.url("");
    let digest = oci::Digest::of("over http");
    let dockerfile = format!(
        "FROM busybox\n\
         ADD {url}/file.txt /plain/\n\
         ADD --checksum={digest} --chmod=755 --chown=3:4 {url}/file.txt /checked\n\
         ADD {url}/a.tar /whole/\n\
         ADD --unpack=true {url}/a.tar /unpacked/\n\
         RUN stat -c '%n %a %u:%g %Y' /plain/file.txt /checked; ls /whole /unpacked\n"
    );
    let fixture = Fixture::with(&dockerfile);
    let build = fixture.build(&[]);
    build.ran.ok();
    let expected = "/plain/file.txt 600 0:0 1400000000\n/checked 755 3:4 1400000000\n\
                    /unpacked:\nd\nl\n\n/whole:\na.tar\n";
    assert_eq!(build.step("stat -c").log, expected);
    let other = oci::Digest::of("another");
    for (step, error) in [
        (
            format!("ADD --checksum={other} {url}/file.txt /"),
            format!("digest mismatch {digest}: {other}"),
        ),
        (
            format!("ADD {url}/nothing /"),
            "failed to load cache key: invalid response status 404".to_owned(),
        ),
        (
            "ADD http://127.0.0.1:1/x /".to_owned(),
            "Get \"http://127.0.0.1:1/x\": dial tcp 127.0.0.1:1: connect: connection refused"
                .to_owned(),
        ),
    ] {
        fixture.dockerfile(&format!("FROM scratch\n{step}\n"));
        let ran = fixture.drydock(&["build", "--progress", "plain", "."]);
        assert!(ran.err().contains(&error), "no `{error}` in {}", ran.stderr);
    }
}

#[test]
fn an_inherited_time_is_that_of_the_context() {
    let dockerfile = "FROM scratch\nADD tar /\n";
    let fixture = Fixture::with(dockerfile);
    fixture.write("tar", archive());
    let files = fixture.files(&["--build-arg", "SOURCE_DATE_EPOCH=1600000000"]);
    let metadata = std::fs::metadata(files.path("d/f")).unwrap();
    assert_eq!(metadata.mtime(), 1_600_000_000);
}
