//! When two vertices have the same key.

use llb::{
    ActionInput, CacheMount, CacheSharing, ContentMatching, ExecOp, FileActionKind, FileOp, HostIp,
    Input, Keying, Mount, MountKind, Op, OpKind, OpMetadata, Owner, Selector, UserRef, Vertex,
};
use oci::{Digest, Platform};

use crate::{copy, exec, root};

fn keying_of(inputs: u8, kind: OpKind) -> Result<Keying, String> {
    let inputs = (0..inputs)
        .map(|n| Input {
            digest: Digest::of([n]),
            output: 0,
        })
        .collect();
    let platform = Some(Platform::host());
    let op = Op {
        inputs,
        kind,
        platform,
        constraints: None,
    };
    match Vertex::decode(op.encode().into(), OpMetadata::default()) {
        Ok(vertex) => Ok(vertex.keying().clone()),
        Err(error) => Err(error.to_string()),
    }
}

fn exec_keying(exec: ExecOp) -> Keying {
    keying_of(2, OpKind::Exec(Box::new(exec))).unwrap()
}

fn file_keying(file: FileOp) -> Keying {
    keying_of(2, OpKind::File(file)).unwrap()
}

fn bind(selector: &str) -> Mount {
    Mount {
        input: Some(1),
        selector: selector.into(),
        dest: "/src".into(),
        readonly: true,
        ..Mount::default()
    }
}

fn paths(keying: &Keying, input: usize) -> Option<Vec<&str>> {
    let content = keying.inputs[input].content.as_ref()?;
    Some(
        content
            .iter()
            .map(|selector| selector.path.as_str())
            .collect(),
    )
}

#[test]
fn an_exec_key_leaves_out_what_does_not_change_the_result() {
    let with = |change: &dyn Fn(&mut ExecOp)| {
        let mut exec = exec("make", vec![root(), bind("")]);
        exec.meta.extra_hosts.push(HostIp {
            host: "h".into(),
            ip: "1".into(),
        });
        exec.mounts.push(Mount {
            dest: "/cache".into(),
            kind: MountKind::Cache(CacheMount {
                id: "c".into(),
                sharing: CacheSharing::Shared,
            }),
            ..Mount::default()
        });
        change(&mut exec);
        exec_keying(exec).op_key
    };
    let plain = with(&|_| ());
    assert_eq!(
        plain,
        with(&|exec| exec.meta.proxy_env = Some(llb::ProxyEnv::default()))
    );
    assert_eq!(
        plain,
        with(&|exec| exec.meta.extra_hosts[0].ip = "2".into())
    );
    assert_eq!(plain, with(&|exec| exec.mounts[1].selector = "/sub".into()));
    let cache = |id: &str, sharing| {
        let id = id.to_owned();
        with(&move |exec| {
            exec.mounts[2].kind = MountKind::Cache(CacheMount {
                id: id.clone(),
                sharing,
            });
        })
    };
    assert_eq!(plain, cache("other", CacheSharing::Locked));

    assert_ne!(plain, with(&|exec| exec.meta.args.push("x".into())));
    assert_ne!(
        plain,
        with(&|exec| exec.meta.extra_hosts[0].host = "g".into())
    );
    assert_ne!(plain, with(&|exec| exec.network = llb::NetMode::None));
    assert_ne!(plain, with(&|exec| exec.mounts[1].dest = "/else".into()));
    // A Dockerfile's unnamed cache mount stays in the key.
    assert_ne!(plain, cache("/cache", CacheSharing::Shared));
    assert_ne!(
        cache("ns//cache", CacheSharing::Shared),
        cache("/cache", CacheSharing::Shared)
    );
    assert_eq!(plain, cache("/cache", CacheSharing::Locked));
}

#[test]
fn the_platform_is_in_the_key_of_an_exec_only() {
    let key = |kind: OpKind, platform: &str| {
        let platform = Some(platform.parse().unwrap());
        let inputs = vec![
            Input {
                digest: Digest::of("a"),
                output: 0
            };
            2
        ];
        let op = Op {
            inputs,
            kind,
            platform,
            constraints: None,
        };
        Vertex::decode(op.encode().into(), OpMetadata::default())
            .unwrap()
            .keying()
            .op_key
    };
    let run = || OpKind::Exec(Box::new(exec("true", vec![root()])));
    assert_ne!(key(run(), "linux/arm64"), key(run(), "linux/amd64"));
    assert_eq!(key(run(), "linux/arm64/v8"), key(run(), "linux/arm64"));
    let file = || OpKind::File(copy("/a"));
    assert_eq!(key(file(), "linux/arm64"), key(file(), "linux/amd64"));
}

#[test]
fn mounts_are_matched_by_content_where_that_is_safe() {
    let content = |change: &dyn Fn(&mut Mount)| {
        let mut mount = bind("sub/../dir/");
        change(&mut mount);
        paths(&exec_keying(exec("make", vec![root(), mount])), 1).map(|paths| paths.join(" "))
    };
    assert_eq!(content(&|_| ()).as_deref(), Some("/dir"));
    assert_eq!(content(&|mount| mount.content = ContentMatching::Off), None);
    // Writable, but thrown away.
    assert_eq!(
        content(&|mount| mount.readonly = false).as_deref(),
        Some("/dir")
    );
    // Writable and kept: files beside `/dir` would be in the result.
    let kept = |mount: &mut Mount| {
        mount.readonly = false;
        mount.output = Some(1);
    };
    assert_eq!(content(&kept), None);
    let kept_whole = |mount: &mut Mount| {
        kept(mount);
        mount.selector.clear();
    };
    assert_eq!(content(&kept_whole).as_deref(), Some("/"));

    let mut mount = bind("/dir");
    kept(&mut mount);
    mount.content = ContentMatching::On;
    let error = keying_of(2, OpKind::Exec(Box::new(exec("make", vec![root(), mount]))));
    assert_eq!(error, Err("invalid mount cache content for /src".into()));
}

#[test]
fn the_root_mount_is_matched_by_content_only_if_asked_for() {
    let root_with = |content| Mount { content, ..root() };
    let keying = |mounts| exec_keying(exec("make", mounts));
    assert_eq!(paths(&keying(vec![root()]), 0), None);
    let on = keying(vec![root_with(ContentMatching::On)]);
    assert_eq!(on.inputs[0].content, Some(vec![Selector::all()]));
    assert_eq!(on.inputs[1], llb::InputKeying::default());
    // One mount of an input that must be matched by identity decides for all of them.
    let mut other = bind("/dir");
    other.input = Some(0);
    assert_eq!(paths(&keying(vec![root(), other]), 0), None);
}

#[test]
fn several_mounts_of_one_input_select_their_outermost_paths() {
    let keying = exec_keying(exec(
        "make",
        vec![root(), bind("/a/b"), bind("/a"), bind("/ab")],
    ));
    assert_eq!(paths(&keying, 1), Some(vec!["/a", "/ab"]));
    let keying = exec_keying(exec("make", vec![root(), bind("/a"), bind("/")]));
    assert_eq!(keying.inputs[1].content, Some(vec![Selector::all()]));
}

#[test]
fn what_begins_like_a_path_is_not_below_it() {
    let mounts = ["/a.b", "/a/b/c", "/a/b", "/a.b/c", "/a-b", "/b"].map(bind);
    let keying = exec_keying(exec("make", [vec![root()], mounts.into()].concat()));
    let expected = vec!["/a-b", "/a.b", "/a/b", "/b"];
    assert_eq!(paths(&keying, 1), Some(expected));
}

#[test]
fn a_path_of_many_components_costs_no_more_than_its_length() {
    let deep = "/a".repeat(1 << 20);
    let keying = exec_keying(exec("make", vec![root(), bind(&deep), bind("/b")]));
    assert_eq!(paths(&keying, 1), Some(vec![deep.as_str(), "/b"]));
}

#[test]
fn a_moved_source_of_a_copy_has_the_same_key_but_another_selector() {
    let (one, two) = (file_keying(copy("/a/file")), file_keying(copy("/b/file")));
    assert_eq!(one.op_key, two.op_key);
    assert_ne!(one.inputs[1].selector, two.inputs[1].selector);
    assert_eq!(paths(&one, 1), Some(vec!["/a/file"]));
    assert_eq!(one.inputs[0], llb::InputKeying::default());
    assert_ne!(one.op_key, file_keying(copy("/a/other")).op_key);
}

#[test]
fn an_input_that_is_built_on_is_never_matched_by_content() {
    let same = |src: &str| {
        let mut op = copy(src);
        op.actions[0].input = ActionInput::Input(1);
        file_keying(op)
    };
    let keying = same("/a/file");
    assert_eq!(keying.inputs[1], llb::InputKeying::default());
    // Then the directory of the source counts too, which BuildKit forgets.
    assert_ne!(keying.op_key, same("/b/file").op_key);
}

#[test]
fn named_owners_select_the_files_they_are_looked_up_in() {
    let mut op = copy("/a/*.txt");
    let FileActionKind::Copy(copy) = &mut op.actions[0].kind else {
        panic!()
    };
    copy.allow_wildcard = true;
    let by_name = |name: &str| {
        Some(UserRef::ByName {
            name: name.into(),
            input: ActionInput::Input(1),
        })
    };
    copy.owner = Some(Owner {
        user: by_name("u"),
        group: by_name("g"),
    });
    let keying = file_keying(op);
    assert_eq!(
        paths(&keying, 1),
        Some(vec!["/a/*.txt", "/etc/group", "/etc/passwd"])
    );
    let wildcards: Vec<_> = keying.inputs[1]
        .content
        .iter()
        .flatten()
        .map(|selector| selector.wildcard)
        .collect();
    assert_eq!(wildcards, [true, false, false]);
}

#[test]
fn an_escaped_pattern_is_a_path() {
    let wildcard = |src: &str, allow| {
        let mut op = copy(src);
        let FileActionKind::Copy(copy) = &mut op.actions[0].kind else {
            panic!()
        };
        copy.allow_wildcard = allow;
        file_keying(op).inputs[1].content.as_ref().unwrap()[0].wildcard
    };
    assert!(wildcard("/a*", true));
    assert!(!wildcard("/a*", false));
    assert!(!wildcard(r"/a\*", true));
}
