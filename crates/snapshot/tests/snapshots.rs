//! Layers on a real filesystem, with real mounts.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Fixture, Random, Tree, change, du, inside, read_tree};
use snapshot::{Diff, Kind, LayerId};

const KINDS: [Kind; 2] = [Kind::Overlay, Kind::Native];

#[test]
fn a_committed_layer_shows_on_top_of_those_below_and_changes_none() {
    for kind in KINDS {
        let fixture = Fixture::new(kind);
        let low = fixture.layer(&[], |root| {
            fs::create_dir(root.join("d")).unwrap();
            fs::write(root.join("d/a"), "a").unwrap();
            fs::write(root.join("b"), "b").unwrap();
        });
        let high = fixture.layer(&[low], |root| {
            fs::remove_file(root.join("b")).unwrap();
            fs::write(root.join("d/c"), "c").unwrap();
        });
        let names = |tree: Tree| tree.into_keys().collect::<Vec<_>>();
        assert_eq!(
            names(fixture.show(&[low])),
            ["b", "d", "d/a"].map(PathBuf::from)
        );
        assert_eq!(
            names(fixture.show(&[low, high])),
            ["d", "d/a", "d/c"].map(PathBuf::from)
        );
        assert!(fixture.show(&[]).is_empty());
        let view = fixture.store.view(&[low, high]).unwrap();
        let error = fs::write(inside(&view).join("x"), "").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
    }
}

#[test]
fn whiteouts_that_hide_nothing_do_not_show() {
    for kind in KINDS {
        let fixture = Fixture::new(kind);
        let low = fixture.layer(&[], |root| {
            fs::create_dir(root.join("d")).unwrap();
            fs::write(root.join("d/gone"), "").unwrap();
            fs::write(root.join("gone"), "").unwrap();
        });
        let high = fixture.layer(&[low], |root| {
            fs::remove_file(root.join("d/gone")).unwrap();
            fs::remove_file(root.join("gone")).unwrap();
            fs::write(root.join("d/here"), "").unwrap();
        });
        // As a difference is used: without what it was taken from.
        let tree = fixture.show(&[high]);
        assert_eq!(
            tree.into_keys().collect::<Vec<_>>(),
            ["d", "d/here"].map(PathBuf::from)
        );
    }
}

#[test]
fn the_root_directory_keeps_its_owner_and_mode() {
    for kind in KINDS {
        let fixture = Fixture::new(kind);
        let low = fixture.layer(&[], |root| {
            fs::set_permissions(root, fs::Permissions::from_mode(0o1777)).unwrap();
            chown(root, Some(7), Some(8)).unwrap();
        });
        let high = fixture.layer(&[low], |root| fs::write(root.join("x"), "").unwrap());
        let view = fixture.store.view(&[low, high]).unwrap();
        let root = fs::metadata(inside(&view)).unwrap();
        assert_eq!(
            (root.mode() & 0o7777, root.uid(), root.gid()),
            (0o1777, 7, 8)
        );
    }
}

#[test]
fn what_is_not_committed_goes_and_what_is_removed_frees_its_room() {
    for kind in KINDS {
        let fixture = Fixture::new(kind);
        let active = fixture.store.prepare(&[]).unwrap();
        let (id, mount) = (active.id(), active.mount().unwrap());
        fs::write(inside(&mount).join("x"), vec![1; 1 << 20]).unwrap();
        drop((mount, active));
        assert!(!fixture.store.contains(id));
        let layer = fixture.layer(&[], |root| fs::write(root.join("x"), "x").unwrap());
        assert_eq!(fixture.store.list().unwrap(), [layer]);
        fixture.store.remove(layer).unwrap();
        fixture.store.remove(layer).unwrap();
        assert!(fixture.store.list().unwrap().is_empty());
        fixture.store.wait_removed();
        let trash = fixture.root.path().join("snapshots/trash");
        assert_eq!(fs::read_dir(trash).unwrap().count(), 0);
        assert!(fixture.store.view(&[layer]).is_err());
    }
}

#[test]
fn opening_again_keeps_layers_and_their_numbers_and_empties_the_trash() {
    let fixture = Fixture::new(Kind::Auto);
    let layer = fixture.layer(&[], |root| fs::write(root.join("x"), "x").unwrap());
    let left = fixture.store.prepare(&[layer]).unwrap().leave();
    let root = fixture.root.path().join("snapshots");
    fs::create_dir_all(root.join("trash/7/sub")).unwrap();
    let again = snapshot::Snapshots::open(&root, Kind::Auto).unwrap();
    again.wait_removed();
    assert_eq!(fs::read_dir(root.join("trash")).unwrap().count(), 0);
    let mut found = again.list().unwrap();
    found.sort_unstable();
    assert_eq!(found, [layer, left]);
    let active = again.resume(left, &[layer]);
    let mount = active.mount().unwrap();
    assert_eq!(fs::read_to_string(inside(&mount).join("x")).unwrap(), "x");
    assert!(again.prepare(&[]).unwrap().id() > left);
}

/// Random changes, layer by layer, against the same changes made in a plain directory.
fn grow(fixture: &Fixture, seed: u64, count: usize) -> (Vec<LayerId>, Vec<Tree>) {
    let plain = tempfile::tempdir().unwrap();
    let mut random = Random(seed);
    let (mut layers, mut trees) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let layer = fixture.layer(&layers, |root| change(&mut random, &[root, plain.path()]));
        layers.push(layer);
        trees.push(read_tree(plain.path()));
    }
    (layers, trees)
}

#[test]
fn deep_stacks_show_what_was_made_in_them() {
    for seed in 0..3 {
        let fixture = Fixture::new(Kind::Overlay);
        let (layers, trees) = grow(&fixture, seed, 200);
        for depth in (60..=layers.len()).step_by(7).chain([200]) {
            assert_eq!(
                fixture.show(&layers[..depth]),
                trees[depth - 1],
                "seed {seed}, {depth} layers"
            );
        }
        assert!(
            fs::read_dir(fixture.root.path().join("snapshots/merged"))
                .unwrap()
                .count()
                > 0
        );
    }
}

#[test]
fn copies_show_what_overlays_show() {
    let fixture = Fixture::new(Kind::Native);
    let (layers, trees) = grow(&fixture, 11, 40);
    for depth in 1..=layers.len() {
        assert_eq!(
            fixture.show(&layers[..depth]),
            trees[depth - 1],
            "{depth} layers"
        );
    }
}

#[test]
fn merged_layers_hide_what_is_below_them_and_go_with_their_layers() {
    let fixture = Fixture::new(Kind::Overlay);
    let mut layers = vec![fixture.layer(&[], |root| {
        for dir in ["opaque", "whiteout"] {
            fs::create_dir(root.join(dir)).unwrap();
            fs::write(root.join(dir).join("low"), "").unwrap();
        }
    })];
    for at in 1..70 {
        let layer = fixture.layer(&layers, |root| match at {
            40 => {
                fs::remove_dir_all(root.join("opaque")).unwrap();
                fs::create_dir(root.join("opaque")).unwrap();
                fs::remove_file(root.join("whiteout/low")).unwrap();
            }
            _ => fs::write(root.join(format!("f{at}")), "").unwrap(),
        });
        layers.push(layer);
    }
    let shown = fixture.show(&layers);
    assert!(!shown.keys().any(|path| path.ends_with("low")), "{shown:?}");
    assert_eq!(shown.len(), 70);
    fixture.store.remove(layers[69]).unwrap();
    assert_eq!(fixture.show(&layers[..69]).len(), 69);
    // A stack whose group lost a layer is merged anew.
    fixture.store.remove(layers[40]).unwrap();
    layers.remove(40);
    layers.truncate(68);
    let shown = fixture.show(&layers);
    assert!(shown.keys().any(|path| path.ends_with("low")));
}

#[test]
fn the_difference_of_two_stacks_turns_the_one_into_the_other() {
    for (kind, seeds) in [(Kind::Overlay, 0..8u64), (Kind::Native, 8..10)] {
        for seed in seeds {
            let fixture = Fixture::new(kind);
            let base = grow(&fixture, seed, 6).0;
            let branch = |seed, count| {
                let mut random = Random(seed);
                let mut layers = base.clone();
                for _ in 0..count {
                    layers.push(fixture.layer(&layers, |root| change(&mut random, &[root])));
                }
                layers
            };
            let (lower, upper) = (branch(seed * 2 + 100, 2), branch(seed * 2 + 101, 3));
            let Diff::Written(active) = fixture.store.diff(&lower, &upper).unwrap() else {
                panic!("neither continues the other");
            };
            let mut both = lower.clone();
            both.push(active.commit().unwrap());
            assert_eq!(
                fixture.show(&both),
                fixture.show(&upper),
                "{kind:?}, seed {seed}"
            );
            let Diff::Layers(rest) = fixture.store.diff(&base, &upper).unwrap() else {
                panic!("the upper one continues the base");
            };
            assert_eq!(rest, upper[6..]);
        }
    }
}

#[test]
fn the_difference_of_equal_trees_is_empty_and_keeps_hard_links() {
    let fixture = Fixture::new(Kind::Overlay);
    let write = |root: &Path| {
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/a"), "same").unwrap();
        let file = fs::File::open(root.join("d/a")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(5))
            .unwrap();
    };
    let (one, two) = (fixture.layer(&[], write), fixture.layer(&[], write));
    let Diff::Written(active) = fixture.store.diff(&[one], &[two]).unwrap() else {
        panic!()
    };
    assert!(read_tree(&fixture.dir(active.id()).join("fs")).is_empty());
    let linked = fixture.layer(&[two], |root| {
        fs::write(root.join("x"), "x").unwrap();
        fs::hard_link(root.join("x"), root.join("d/y")).unwrap();
    });
    let Diff::Written(active) = fixture.store.diff(&[one], &[two, linked]).unwrap() else {
        panic!()
    };
    let dir = fixture.dir(active.id()).join("fs");
    let [x, y] = ["x", "d/y"].map(|name| fs::metadata(dir.join(name)).unwrap());
    assert_eq!((x.ino(), x.nlink()), (y.ino(), 2));
}

#[test]
fn a_clone_shares_its_files_until_they_are_replaced() {
    let fixture = Fixture::new(Kind::Auto);
    let active = fixture.store.prepare(&[]).unwrap();
    let root = fixture.dir(active.id()).join("fs");
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/a"), vec![b'a'; 1 << 20]).unwrap();
    std::os::unix::fs::symlink("d/a", root.join("l")).unwrap();
    active
        .notes()
        .unwrap()
        .create(Path::new("list"), 0o600, true)
        .unwrap();
    let from = active.commit().unwrap();
    let clone = fixture.store.clone_layer(from).unwrap();
    let cloned = fixture.dir(clone.id()).join("fs");
    assert_eq!(read_tree(&cloned), fixture.show(&[from]));
    assert!(fixture.dir(clone.id()).join("notes/list").exists());
    fs::write(cloned.join("d/new"), "new").unwrap();
    fs::write(cloned.join("d/b"), "b").unwrap();
    fs::rename(cloned.join("d/b"), cloned.join("d/a")).unwrap();
    assert_eq!(fixture.show(&[from]).len(), 3);
    assert_eq!(fs::metadata(root.join("d/a")).unwrap().len(), 1 << 20);
}

#[test]
fn usage_is_what_the_disk_says() {
    let fixture = Fixture::new(Kind::Overlay);
    let mut layers = Vec::new();
    for at in 0..70u64 {
        layers.push(fixture.layer(&layers, |root| {
            fs::create_dir_all(root.join("dir")).unwrap();
            fs::write(root.join(format!("dir/f{at}")), vec![1; at as usize * 1000]).unwrap();
            fs::hard_link(root.join(format!("dir/f{at}")), root.join(format!("g{at}"))).unwrap();
        }));
    }
    fixture.show(&layers);
    let clone = fixture.store.clone_layer(layers[69]).unwrap();
    fs::write(fixture.dir(clone.id()).join("fs/more"), vec![1; 5000]).unwrap();
    fixture.store.wait_removed();
    // Merges that were asked for ahead of need may still be running.
    let merged = fixture.root.path().join("snapshots/merged");
    let start = Instant::now();
    loop {
        let all: Vec<LayerId> = layers.iter().copied().chain([clone.id()]).collect();
        let usage = fixture.store.usage(&all).unwrap();
        let mut paths: Vec<PathBuf> = all.iter().map(|layer| fixture.dir(*layer)).collect();
        paths.extend(
            fs::read_dir(&merged)
                .unwrap()
                .map(|entry| entry.unwrap().path()),
        );
        let extra: u64 = all
            .iter()
            .map(|layer| fixture.store.further_usage(*layer).bytes)
            .sum();
        if usage.iter().map(|usage| usage.bytes).sum::<u64>() + extra == du(&paths) {
            break;
        }
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{usage:?} is not {}",
            du(&paths)
        );
    }
}

#[test]
fn a_very_deep_tree_is_cloned_counted_and_removed() {
    let fixture = Fixture::new(Kind::Overlay);
    let active = fixture.store.prepare(&[]).unwrap();
    let mut dir = active.fs().unwrap();
    for _ in 0..300 {
        dir.mkdir(Path::new("d"), 0o755).unwrap();
        dir = dir.open_dir(Path::new("d")).unwrap();
    }
    let layer = active.commit().unwrap();
    let clone = fixture.store.clone_layer(layer).unwrap();
    let usage = fixture.store.usage(&[layer, clone.id()]).unwrap();
    assert_eq!(usage[0].bytes, usage[1].bytes);
    assert!(usage[0].inodes >= 301);
    drop(clone);
    fixture.store.remove(layer).unwrap();
    fixture.store.wait_removed();
}

#[test]
fn a_step_on_500_layers_mounts_few() {
    let fixture = Fixture::new(Kind::Overlay);
    let mut layers = Vec::new();
    for at in 0..500 {
        let active = fixture.store.prepare(&layers).unwrap();
        let mount = active.mount().unwrap();
        fs::write(inside(&mount).join(format!("f{at}")), "x").unwrap();
        drop(mount);
        layers.push(active.commit().unwrap());
    }
    // The kernel is given the merged directories in place of the layers.
    let merged = |layer: &LayerId| fixture.store.further_usage(*layer).inodes > 0;
    assert!(layers.iter().filter(|layer| merged(layer)).count() >= 14);
    assert_eq!(fixture.show(&layers).len(), 500);
}

#[test]
fn a_change_of_a_layer_shows_with_it_and_keeps_its_files() {
    let fixture = Fixture::new(Kind::Overlay);
    let base = fixture.layer(&[], |root| {
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/base"), "base").unwrap();
    });
    let first = fixture.layer(&[base], |root| {
        fs::create_dir(root.join("d/e")).unwrap();
        for name in ["d/e/one", "d/e/two"] {
            fs::write(root.join(name), "old").unwrap();
        }
    });
    let make = |write: &dyn Fn(&Path)| {
        let active = fixture.store.prepare_over(&[base], first).unwrap().unwrap();
        let mount = active.mount().unwrap();
        write(&inside(&mount));
        drop(mount);
        assert_eq!(active.lower(), [base]);
        active.commit().unwrap()
    };
    let second = make(&|root| fs::write(root.join("d/e/two"), "new").unwrap());
    let third = make(&|root| fs::write(root.join("d/three"), "new").unwrap());
    assert!(
        fixture
            .store
            .prepare_over(&[base], second)
            .unwrap()
            .is_none(),
        "a change of a change is not made"
    );
    let read = |layers: &[LayerId], path: &str| {
        let view = fixture.store.view(layers).unwrap();
        fs::read_to_string(inside(&view).join(path)).ok()
    };
    let text = |text: &str| Some(text.to_owned());
    for (layer, two, three) in [
        (first, text("old"), None),
        (second, text("new"), None),
        (third, text("old"), text("new")),
    ] {
        assert_eq!(read(&[base, layer], "d/base"), text("base"));
        assert_eq!(read(&[base, layer], "d/e/one"), text("old"));
        assert_eq!(read(&[base, layer], "d/e/two"), two);
        assert_eq!(read(&[base, layer], "d/three"), three);
    }
    // Alone, and below another.
    let alone = fixture.store.layer(second).unwrap();
    assert!(alone.exists(Path::new("d/e/one")).unwrap());
    assert!(!alone.exists(Path::new("d/base")).unwrap());
    drop(alone);
    let above = fixture.layer(&[base, second], |root| {
        fs::remove_file(root.join("d/e/one")).unwrap();
    });
    assert_eq!(read(&[base, second, above], "d/e/one"), None);
    assert_eq!(read(&[base, second, above], "d/e/two"), text("new"));

    // The layer goes, and its files stay for those who need them.
    let kept = || fixture.dir(first).exists();
    assert_eq!(fixture.store.further_usage(second).bytes, 0);
    fixture.store.remove(first).unwrap();
    assert!(kept());
    assert!(fixture.store.further_usage(second).bytes > 0);
    assert_eq!(fixture.store.further_usage(third).bytes, 0);
    fixture.store.remove(second).unwrap();
    assert_eq!(read(&[base, third], "d/e/one"), text("old"));
    assert!(fixture.store.further_usage(third).bytes > 0);
    let dropped = fixture.store.prepare_over(&[base], first).unwrap().unwrap();
    drop(dropped);
    assert!(kept());
    fixture.store.remove(third).unwrap();
    assert!(!kept());
}

#[test]
fn changes_of_layers_are_known_after_a_restart() {
    let fixture = Fixture::new(Kind::Overlay);
    let first = fixture.layer(&[], |root| fs::write(root.join("a"), "a").unwrap());
    let lost = fixture.layer(&[], |root| fs::write(root.join("a"), "a").unwrap());
    let make = |over| {
        let active = fixture.store.prepare_over(&[], over).unwrap().unwrap();
        active
            .fs()
            .unwrap()
            .create(Path::new("b"), 0o644, true)
            .unwrap();
        active.commit().unwrap()
    };
    let (change, orphan) = (make(first), make(lost));
    let root = fixture.root.path().join("snapshots");
    let snapshots = snapshot::Snapshots::open(&root, Kind::Overlay).unwrap();
    let view = snapshots.view(&[change]).unwrap();
    assert!(inside(&view).join("a").exists() && inside(&view).join("b").exists());
    drop(view);
    // Nobody names it any more, which is found out at a start.
    snapshots.remove(first).unwrap();
    assert!(snapshots.view(&[change]).is_ok());
    fs::remove_dir_all(root.join(lost.to_string())).unwrap();
    let garbled = make(first);
    fs::write(root.join(garbled.to_string()).join("over"), b"\xff\0").unwrap();
    let snapshots = snapshot::Snapshots::open(&root, Kind::Overlay).unwrap();
    assert!(!snapshots.contains(orphan), "half a layer is none");
    assert!(
        !snapshots.contains(garbled),
        "nobody knows what it belongs to"
    );
    assert!(snapshots.contains(change) && snapshots.contains(first));
    snapshots.remove(change).unwrap();
    snapshots.remove(first).unwrap();
    assert!(!snapshots.contains(first));
}

/// A layer, and two changes of it.
fn changes(fixture: &Fixture) -> [LayerId; 3] {
    let first = fixture.layer(&[], |root| {
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/a"), "old").unwrap();
        fs::write(root.join("d/b"), "old").unwrap();
    });
    let make = |name: &str| {
        let active = fixture.store.prepare_over(&[], first).unwrap().unwrap();
        let mount = active.mount().unwrap();
        fs::write(inside(&mount).join(name), "new").unwrap();
        drop(mount);
        active.commit().unwrap()
    };
    [first, make("d/a"), make("d/c")]
}

#[test]
fn one_stack_may_have_a_layer_and_changes_of_it() {
    let fixture = Fixture::new(Kind::Overlay);
    let [first, second, third] = changes(&fixture);
    let between = fixture.layer(&[first], |root| {
        fs::remove_dir_all(root.join("d")).unwrap();
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/e"), "e").unwrap();
    });
    for (layers, expected) in [
        (vec![first, second], "a=new b=old"),
        (vec![second, first], "a=old b=old"),
        (vec![second, third], "a=old b=old c=new"),
        (vec![third, second], "a=new b=old c=new"),
        (vec![first, between, second], "a=new b=old e=e"),
        (vec![third, between, first], "a=old b=old e=e"),
        (vec![first, third, between], "e=e"),
    ] {
        let view = fixture.store.view(&layers).unwrap();
        let mut found: Vec<_> = fs::read_dir(inside(&view).join("d"))
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap();
                format!("{name}={}", fs::read_to_string(&path).unwrap())
            })
            .collect();
        found.sort();
        assert_eq!(found.join(" "), expected, "{layers:?}");
        // It can be built on, too.
        let above = fixture.layer(&layers, |root| fs::write(root.join("x"), "").unwrap());
        let all = [&layers[..], &[above]].concat();
        assert!(fixture.show(&all).contains_key(Path::new("x")));
    }
}

#[test]
fn changes_of_layers_are_whole_where_overlayfs_is_not_used_any_more() {
    let fixture = Fixture::new(Kind::Overlay);
    let [_, second, third] = changes(&fixture);
    let stacks = [vec![second], vec![third], vec![second, third]];
    let shown = stacks.each_ref().map(|layers| fixture.show(layers));
    let root = fixture.root.path().join("snapshots");
    let store = snapshot::Snapshots::open(&root, Kind::Native).unwrap();
    for (layers, expected) in stacks.iter().zip(shown) {
        assert_eq!(read_tree(&inside(&store.view(layers).unwrap())), expected);
        let active = store.prepare(layers).unwrap();
        let mount = active.mount().unwrap();
        assert_eq!(read_tree(&inside(&mount)), expected);
        fs::write(inside(&mount).join("x"), "").unwrap();
        drop(mount);
        let above = active.commit().unwrap();
        let alone = read_tree(&inside(&store.layer(above).unwrap().as_fd()));
        assert_eq!(Vec::from_iter(alone.keys()), [Path::new("x")]);
    }
    let alone = store.layer(second).unwrap();
    assert_eq!(read_tree(&inside(&alone.as_fd())), fixture.show(&[second]));
}
