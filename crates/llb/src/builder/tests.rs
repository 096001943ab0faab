use oci::{Digest, Reference};

use super::*;
use crate::{CopyAction, Graph, MkDirAction, OpKind};

fn image(builder: &mut Builder, name: &str) -> State {
    let reference = Reference::parse(name).unwrap().with_default_tag();
    let source = ImageSource {
        reference,
        resolve_mode: String::new(),
        layout: None,
    };
    builder.image(&source, Options::named(name))
}

fn copy(source: &State, src: &str, dest: &str) -> FileStep {
    let action = CopyAction {
        src: src.to_owned(),
        dest: dest.to_owned(),
        ..CopyAction::default()
    };
    FileStep::Copy(Box::new(Copy {
        source: source.clone(),
        action,
        owner: None,
    }))
}

fn names(builder: &Builder, state: &State) -> Vec<String> {
    let definition = builder.definition(state, &Defaults::default());
    let graph = Graph::new(&definition).unwrap();
    graph
        .vertices()
        .map(|vertex| vertex.name().to_owned())
        .collect()
}

#[test]
fn ops_come_in_the_order_of_buildkits_walk() {
    let mut builder = Builder::new();
    let base = image(&mut builder, "base");
    let (a, b) = (image(&mut builder, "a"), image(&mut builder, "b"));
    let steps = vec![
        copy(&a, "x", "/a"),
        copy(&b, "x", "/b"),
        copy(&a, "y", "/c"),
    ];
    let state = builder.file(&base, steps, Options::named("copy"));
    assert_eq!(names(&builder, &state), ["base", "a", "b", "copy"]);
    let graph = Graph::new(&builder.definition(&state, &Defaults::default())).unwrap();
    let OpKind::File(op) = &graph.result_vertex().op().kind else {
        panic!("not a file op")
    };
    let inputs: Vec<_> = op
        .actions
        .iter()
        .map(|action| (action.input, action.secondary))
        .collect();
    use crate::ActionInput::{Action, Input};
    assert_eq!(
        inputs,
        [
            (Input(0), Input(1)),
            (Action(0), Input(2)),
            (Action(1), Input(1))
        ]
    );
}

#[test]
fn equal_ops_are_one_and_share_what_is_said() {
    let mut builder = Builder::new();
    let (a, b) = (image(&mut builder, "a"), image(&mut builder, "a"));
    let run = || Run {
        args: vec!["x".to_owned()],
        ..Run::default()
    };
    let first = builder.run(&a, run(), Options::named("first"));
    let second = builder.run(&b, run(), Options::named("second"));
    let merged = builder.merge(&[&first, &second], Options::named("merge"));
    assert_eq!(names(&builder, &merged), ["a", "second", "merge"]);
}

#[test]
fn a_deferred_state_is_what_it_is_given() {
    let mut builder = Builder::new();
    let (id, context) = builder.defer();
    let made = builder.file(
        &State::scratch(),
        vec![copy(&context, ".", "/")],
        Options::named("copy"),
    );
    let local = LocalSource {
        name: "context".to_owned(),
        session: "s".to_owned(),
        ..LocalSource::default()
    };
    let source = builder.local(&local, Options::named("load"));
    builder.resolve(id, &source);
    assert_eq!(names(&builder, &made), ["load", "copy"]);
}

#[test]
fn an_imported_graph_keeps_its_bytes() {
    let mut builder = Builder::new();
    let file = builder.source_file(SourceFile {
        filename: "f".to_owned(),
        ..SourceFile::default()
    });
    let base = image(&mut builder, "a");
    let range = Range::default();
    let action = MkDirAction {
        path: "x".to_owned(),
        mode: 0o1755,
        ..MkDirAction::default()
    };
    let step = FileStep::MkDir {
        action,
        owner: Some(copy_owner("u:5")),
    };
    let options = Options::named("mkdir").at(Some((file, vec![range])));
    let made = builder.file(&base, vec![step], options);
    let definition = builder.definition(&made, &Defaults::default());
    let graph = Graph::new(&definition).unwrap();

    let mut other = Builder::new();
    let state = other.import(&graph);
    assert_eq!(other.definition(&state, &Defaults::default()), definition);
    assert_eq!(definition.metadata.len(), 3);
    assert!(
        definition
            .metadata
            .contains_key(&Digest::of(&definition.ops[2]))
    );
}

#[test]
fn long_chains_do_not_exhaust_the_stack() {
    let mut builder = Builder::new();
    let mut state = image(&mut builder, "a");
    for step in 0..20_000 {
        let run = Run {
            args: vec![step.to_string()],
            ..Run::default()
        };
        state = builder.run(&state, run, Options::default());
    }
    assert_eq!(
        builder.definition(&state, &Defaults::default()).ops.len(),
        20_002
    );
}

#[test]
fn paths_keep_the_end_that_a_copy_needs() {
    let mut builder = Builder::new();
    let mut base = image(&mut builder, "a");
    base.set_dir("/w");
    for (dest, want) in [
        ("a/", "/w/a/"),
        ("/a/.", "/a/."),
        (".", "/w"),
        ("/", "/"),
        ("/../x", "/x"),
    ] {
        let state = builder.file(
            &base,
            vec![copy(&base, "../s/./t", dest)],
            Options::default(),
        );
        let graph = Graph::new(&builder.definition(&state, &Defaults::default())).unwrap();
        let OpKind::File(op) = &graph.result_vertex().op().kind else {
            panic!("not a file op")
        };
        let crate::FileActionKind::Copy(copy) = &op.actions[0].kind else {
            panic!("not a copy")
        };
        assert_eq!((copy.src.as_str(), copy.dest.as_str()), ("/s/t", want));
    }
}

#[test]
fn a_writable_mount_is_a_result_of_its_command() {
    let mut builder = Builder::new();
    let base = image(&mut builder, "base");
    let mount = |target: &str, readonly| BuilderMount {
        target: target.to_owned(),
        readonly,
        ..BuilderMount::default()
    };
    let run = Run {
        args: vec!["x".to_owned()],
        mounts: vec![mount("/out", false), mount("/in", true)],
        ..Run::default()
    };
    let ran = builder.run(&base, run, Options::named("run"));
    let out = builder.mounted(&ran, "/out");
    let graph = Graph::new(&builder.definition(&out, &Defaults::default())).unwrap();
    assert_eq!(graph.result().output, 1);
    assert!(builder.mounted(&ran, "/in").is_scratch());
    assert!(builder.mounted(&base, "/out").is_scratch());
}

#[test]
fn an_ssh_server_gets_the_key_that_was_found_for_it() {
    let mut builder = Builder::new();
    let mut git = |url: &str, host_path: &str| {
        let source = GitSource {
            url: url.to_owned(),
            host_path: host_path.to_owned(),
            ssh: url.starts_with("ssh"),
            reference: "main".to_owned(),
            ..GitSource::default()
        };
        builder.git(&source, Options::default())
    };
    let states = [
        git("ssh://git@one:2222/a", "one:2222/a"),
        git("ssh://git@two/b", "two/b"),
        git("https://three/c", "three/c"),
    ];
    let hosts = builder.unknown_ssh_hosts();
    assert_eq!(Vec::from_iter(hosts), ["one:2222", "two"]);
    builder.know_ssh_host("one:2222", "[one]:2222 ssh-ed25519 K");
    assert_eq!(Vec::from_iter(builder.unknown_ssh_hosts()), ["two"]);
    let known = states.map(|state| {
        let graph = Graph::new(&builder.definition(&state, &Defaults::default())).unwrap();
        let OpKind::Source(op) = &graph.result_vertex().op().kind else {
            panic!("not a source")
        };
        op.attrs.get("git.knownsshhosts").cloned()
    });
    assert_eq!(
        known,
        [Some("[one]:2222 ssh-ed25519 K".to_owned()), None, None]
    );
}
