//! The daemon's images.

use serde_json::Value;

use crate::fixture::Fixture;

fn names(fixture: &Fixture) -> Vec<String> {
    let list = fixture.drydock(&["images"]);
    let column = |line: &str| {
        let mut words = line.split_whitespace();
        format!("{}:{}", words.next().unwrap(), words.next().unwrap())
    };
    let mut names: Vec<_> = list.ok().lines().skip(1).map(column).collect();
    names.sort();
    names
}

#[test]
fn a_name_is_given_and_taken() {
    let fixture = Fixture::with("FROM busybox\nCMD [\"echo\", \"made\"]\n");
    fixture.build(&["-t", "made:1"]).ran.ok();
    assert_eq!(names(&fixture), ["made:1"]);
    fixture.drydock(&["tag", "made:1", "other:2"]).ok();
    assert_eq!(names(&fixture), ["made:1", "other:2"]);
    fixture.drydock(&["rmi", "made:1"]).ok();
    assert_eq!(names(&fixture), ["other:2"]);
    assert_eq!(fixture.drydock(&["run", "--rm", "other:2"]).ok(), "made");
    let inspected: Value =
        serde_json::from_str(fixture.drydock(&["inspect", "other:2"]).ok()).unwrap();
    assert!(inspected.to_string().contains("\"made\""), "{inspected}");
    fixture.drydock(&["rmi", "other:2"]).ok();
    assert!(names(&fixture).is_empty());
    assert!(
        fixture
            .drydock(&["rmi", "other:2"])
            .err()
            .contains("other:2")
    );
}

#[test]
fn images_outlive_the_daemon_and_pruning() {
    let mut fixture =
        Fixture::with("FROM busybox\nRUN echo kept > /file\nCMD [\"cat\", \"/file\"]\n");
    fixture.build(&["-t", "made"]).ran.ok();
    fixture.daemon.restart().unwrap();
    fixture.drydock(&["prune", "--all", "--force"]).ok();
    assert_eq!(
        fixture
            .drydock(&["run", "--rm", "--pull", "never", "made"])
            .ok(),
        "kept"
    );
}
