//! What each flag of `COPY` does, and what it makes of unusual files.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::fixture::{Build, Fixture, Layout};

/// What the last step printed.
fn printed(build: &Build) -> Vec<&str> {
    build.ran.ok();
    build.step("RUN").log.lines().map(str::trim_end).collect()
}

/// A context of some files, directories and links.
fn tree(fixture: &Fixture) {
    for (path, content) in [("a.txt", "a"), ("b.txt", "b"), ("d/x", "x"), ("d/e/y", "y")] {
        fixture.write(path, content);
    }
    let at = |path: &str| fixture.context().join(path);
    for (path, mode) in [
        ("a.txt", 0o644),
        ("b.txt", 0o600),
        ("d/e/y", 0o755),
        ("d/x", 0o644),
    ] {
        std::fs::set_permissions(at(path), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    symlink("a.txt", at("to-file")).unwrap();
    symlink("d", at("to-dir")).unwrap();
    symlink("/d/x", at("absolute")).unwrap();
}

#[test]
fn modes_are_octal_or_symbolic() {
    let dockerfile = "\
FROM busybox
COPY --chmod=640 d /1
COPY --chmod=4711 a.txt /2
COPY --chmod=u=rwX,go=rX d /3
COPY --chmod=a+x,g-r a.txt /4
COPY --chmod=u+s,o+t a.txt /5
ARG MODE=600
COPY --chmod=$MODE a.txt /6
RUN stat -c '%n %a' /1 /1/e/y /2 /3 /3/x /3/e/y /4 /5 /6
";
    let fixture = Fixture::with(dockerfile);
    tree(&fixture);
    let build = fixture.build(&[]);
    let expected = [
        "/1 640",
        "/1/e/y 640",
        "/2 4711",
        "/3 755",
        "/3/x 644",
        "/3/e/y 755",
        "/4 715",
        "/5 4644",
        "/6 600",
    ];
    assert_eq!(printed(&build), expected);
    for mode in ["999", "77777"] {
        fixture.dockerfile(&format!("FROM scratch\nCOPY --chmod={mode} a.txt /\n"));
        let error = fixture.drydock(&["build", "--progress", "plain", "."]);
        assert!(
            error.err().contains("invalid chmod parameter"),
            "{}",
            error.stderr
        );
    }
}

#[test]
fn owners_are_names_or_numbers() {
    let dockerfile = "\
FROM busybox
COPY passwd group /etc/
COPY --chown=alice a.txt /1
COPY --chown=alice:staff d /2
COPY --chown=5 a.txt /3
COPY --chown=5:6 d /new/4
COPY --chown=:staff a.txt /5
COPY --chown=unknown a.txt /6
COPY --link --chown=7:8 a.txt /7
COPY --chown=-1 a.txt /8
RUN stat -c '%n %u:%g' /1 /2/e/y /3 /new /new/4 /5 /6 /7 /8
";
    let fixture = Fixture::with(dockerfile);
    tree(&fixture);
    fixture.write("passwd", "root:x:0:0::/:\nalice:x:1000:1001::/:\n");
    fixture.write("group", "root:x:0:\nstaff:x:50:\n");
    let build = fixture.build(&[]);
    let expected = [
        "/1 1000:1001",
        "/2/e/y 1000:50",
        "/3 5:5",
        "/new 5:6",
        "/new/4 5:6",
        "/5 0:50",
        "/6 0:0",
        "/7 7:8",
        "/8 0:0",
    ];
    assert_eq!(printed(&build), expected);
}

#[test]
fn a_linked_copy_does_not_look_at_what_is_below() {
    let dockerfile = "\
FROM busybox
RUN ln -s /tmp /link && mkdir /dir && touch /dir/kept
COPY --link a.txt /link/f
COPY --link d /dir
COPY a.txt /dir/
ENV DONE=1
RUN stat -c '%n %F' /link /link/f; ls /dir
";
    let fixture = Fixture::with(dockerfile);
    tree(&fixture);
    let build = fixture.build(&[]);
    build.ran.ok();
    let log = &build.step("stat -c").log;
    let expected = "/link directory\n/link/f regular file\na.txt\ne\nkept\nx\n";
    assert_eq!(log, expected);
}

#[test]
fn parents_and_exclusions_choose_what_is_copied() {
    let dockerfile = "\
FROM busybox
COPY --parents d/e/y a.txt /1/
COPY --parents d/./e/y /2/
COPY --parents **/y /3/
COPY --exclude=*.txt --exclude=d/e --exclude=Dockerfile . /4/
COPY --exclude=e d /5/
COPY --parents --exclude=**/x d /6/
RUN for n in 1 2 3 4 5 6; do (cd /$n && echo $n $(find . ! -type d | sort)); done
";
    let fixture = Fixture::with(dockerfile);
    tree(&fixture);
    let build = fixture.build(&[]);
    let expected = [
        "1 ./a.txt ./d/e/y",
        "2 ./e/y",
        "3 ./d/e/y",
        "4 ./absolute ./d/x ./to-dir ./to-file",
        "5 ./x",
        "6 ./d/e/y",
    ];
    assert_eq!(printed(&build), expected);
    fixture.dockerfile("FROM scratch\nCOPY --parents d/nothing /\n");
    let error = fixture.drydock(&["build", "--progress", "plain", "."]);
    assert!(error.err().contains("not found"), "{}", error.stderr);
}

#[test]
fn wildcards_and_links_are_followed_where_they_are_named() {
    let dockerfile = "\
FROM busybox
RUN mkdir -p /real; ln -s real /relative; ln -s /nowhere/x /dangling; ln -s ../../../real /up
COPY *.txt /w/
COPY [ab].txt d/?/y /q/
COPY nothing* /none/
COPY to-file /1
COPY to-dir /2
COPY absolute /3
COPY to-dir/e /4
COPY a.txt /relative/
COPY b.txt /up
COPY a.txt /dangling/
COPY --from=0 /w/a.txt /twice
RUN find /w /q /1 /2 /3 /4 /real /nowhere /twice ! -type d | sort; test ! -e /none && stat -c %F /1
";
    let fixture = Fixture::with(
        &dockerfile
            .replace("FROM busybox\n", "FROM busybox AS first\n")
            .replace(
                "COPY --from=0 /w/a.txt /twice\n",
                "FROM first\nCOPY --from=0 /w/a.txt /twice\n",
            ),
    );
    tree(&fixture);
    let build = fixture.build(&[]);
    build.ran.ok();
    let log = &build.step("find /w").log;
    let expected = [
        "/1",
        "/2/e/y",
        "/2/x",
        "/3",
        "/4/y",
        "/nowhere/x/a.txt",
        "/q/a.txt",
        "/q/b.txt",
        "/q/y",
        "/real/a.txt",
        "/real/b.txt",
        "/twice",
        "/w/a.txt",
        "/w/b.txt",
        "regular file",
    ];
    assert_eq!(log.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn unusual_files_arrive_as_what_they_are() {
    let dockerfile = "\
FROM busybox AS files
COPY . /in/
RUN cd /in && stat -c '%n %F %s' pipe socket sparse && test hard1 -ef hard2 && test $(du -k sparse | cut -f1) -lt 2000 && ls | od -c | head -40 && mkfifo made && ln hard1 hard3
FROM busybox
COPY --from=files /in /out
COPY [\"sp ace\", \"/named/s p\"]
RUN cd /out && stat -c '%n %F' pipe made && test hard1 -ef hard3 && cat */inner 'sp ace' \"$(printf 'new\\nline')\" \"$(printf 'bad\\377')\" '/named/s p'
";
    let fixture = Fixture::with(dockerfile);
    let at = |path: &[u8]| fixture.context().join(OsStr::from_bytes(path));
    for name in [&b"sp ace"[..], b"new\nline", b"bad\xff", b"hard1"] {
        std::fs::write(at(name), b"1").unwrap();
    }
    std::fs::create_dir(at(b"dir\xfe")).unwrap();
    std::fs::write(at(b"dir\xfe/inner"), "2").unwrap();
    std::fs::hard_link(at(b"hard1"), at(b"hard2")).unwrap();
    std::fs::File::create(at(b"sparse"))
        .unwrap()
        .set_len(5_000_000)
        .unwrap();
    nix::unistd::mkfifo(&at(b"pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = UnixListener::bind(at(b"socket")).unwrap();
    let build = fixture.build(&[]);
    build.ran.ok();
    let first = &build.step("stat -c '%n %F %s'").log;
    assert!(first.starts_with("pipe fifo 0\n"), "{first}");
    assert!(first.contains("sparse regular file 5000000\n"), "{first}");
    assert_eq!(build.step("cd /out").log, "pipe fifo\nmade fifo\n21111");
}

#[test]
fn extended_attributes_are_kept() {
    let fixture = Fixture::with("FROM scratch\nCOPY file /\n");
    fixture.write("file", "x");
    let path = fixture.context().join("file");
    set_attribute(&path, "user.kept", "value");
    let layout = fixture.layout(&[]);
    let manifest = layout.manifest();
    let layer = unpacked(&layout, &manifest["layers"][0]["digest"]);
    let text = String::from_utf8_lossy(&layer);
    assert!(text.contains("SCHILY.xattr.user.kept=value"));
}

/// With Python, as the tests have no call for it.
fn set_attribute(path: &Path, name: &str, value: &str) {
    let code = "import os, sys; os.setxattr(sys.argv[1], sys.argv[2], sys.argv[3].encode())";
    crate::fixture::tool(
        "python3",
        &["-c", code, path.to_str().unwrap(), name, value],
    );
}

fn unpacked(layout: &Layout, digest: &serde_json::Value) -> Vec<u8> {
    use std::io::Read as _;
    let mut tar = Vec::new();
    let blob = layout.blob(digest);
    flate2::read::GzDecoder::new(&blob[..])
        .read_to_end(&mut tar)
        .unwrap();
    tar
}

#[test]
fn what_is_in_the_way_is_told_in_the_words_of_buildkit() {
    let fixture = Fixture::new();
    tree(&fixture);
    for (before, step, error) in [
        ("touch /t", "COPY d /t", "cannot copy to non-directory: /t"),
        ("touch /t", "COPY a.txt /t/x", "mkdir /t: not a directory"),
        ("touch /t", "WORKDIR /t", "mkdir /t: not a directory"),
        (
            "mkdir -p /t/x",
            "COPY d /t",
            "cannot replace to directory /t/x with file",
        ),
        ("ln -s loop /loop", "COPY a.txt /loop/x", "too many links"),
        ("true", "COPY nothing /", "\"/nothing\": not found"),
    ] {
        fixture.dockerfile(&format!("FROM busybox\nRUN {before}\n{step}\n"));
        let ran = fixture.drydock(&["build", "--progress", "plain", "."]);
        assert!(ran.err().contains(error), "no `{error}` in {}", ran.stderr);
        let marked = format!("   3 | >>> {step}\n");
        assert!(ran.stderr.contains(&marked), "{}", ran.stderr);
    }
}

#[test]
fn a_linked_copy_can_be_on_top_of_its_own_state_from_before() {
    let copy = |base: &str| format!("FROM {base}\nCOPY --link . /app\n");
    let image = "example.org/before:1";
    let fixture = Fixture::with(&copy("busybox"));
    // Enough for a copy to be brought up to date rather than made again.
    for n in 0..300 {
        fixture.write(&format!("f{n}"), format!("content {n}"));
    }
    let store = ["--output", &format!("type=image,name={image}")];
    fixture.build(&store).ran.ok();
    for changed in ["f1", "f2"] {
        // First on the layer that all was copied to, then on a change of it.
        fixture.write(changed, "changed");
        let dockerfile = copy(image) + "RUN cat /app/f1 /app/f2 /app/f3 > /seen\n";
        fixture.write("Dockerfile", dockerfile);
        let seen = fixture.files(&[]).text("seen");
        let is_first = changed == "f1";
        let second = if is_first { "content 2" } else { "changed" };
        assert_eq!(seen, format!("changed{second}content 3"));
        fixture.write("Dockerfile", copy("busybox"));
        fixture.build(&store).ran.ok();
    }
}
