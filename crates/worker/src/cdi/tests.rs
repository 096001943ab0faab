use std::path::Path;

use super::*;

const GOOD: &str = r#"
cdiVersion: "0.6.0"
kind: vendor.com/class
annotations:
  org.mobyproject.buildkit.device.class: fast
containerEdits:
  env: [COMMON=1]
  additionalGids: [0, 44]
devices:
- name: one
  containerEdits:
    env: [ONE=1]
    deviceNodes:
    - {path: /dev/one, hostPath: /dev/zero, permissions: r}
    - {path: /dev/whole, type: b, major: 7, minor: 1, fileMode: 0o640, uid: 5}
    mounts:
    - {hostPath: /etc, containerPath: /host-etc, options: [ro, bind]}
- name: two
  annotations:
    org.mobyproject.buildkit.device.autoallow: "true"
  containerEdits:
    env: [TWO=1]
"#;

fn options(directories: &[&Path]) -> DeviceOptions {
    DeviceOptions {
        directories: directories.iter().map(|path| (*path).to_owned()).collect(),
        auto_allowed: Vec::new(),
    }
}

fn wanted(text: &str) -> CdiDevice {
    CdiDevice {
        name: text.trim_end_matches('?').to_owned(),
        optional: text.ends_with('?'),
    }
}

fn good() -> (tempfile::TempDir, Devices) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.yaml"), GOOD).unwrap();
    let devices = Devices::read(&options(&[directory.path()]));
    (directory, devices)
}

#[test]
fn devices_are_found_by_name_kind_and_class() {
    let (_directory, devices) = good();
    let (one, two) = ("vendor.com/class=one", "vendor.com/class=two");
    for (text, want) in [
        (one, &[one][..]),
        ("vendor.com/class", &[one]),
        ("vendor.com/class=*", &[one, two]),
        ("fast", &[one, two]),
        ("vendor.com/class=three?", &[]),
        ("slow?", &[]),
        ("?", &[]),
    ] {
        assert_eq!(devices.find(&[wanted(text)]).unwrap(), want, "{text}");
    }
    let both = [wanted(two), wanted("fast")];
    assert_eq!(devices.find(&both).unwrap(), [two, one]);
    let error = devices.find(&[wanted("vendor.com/class=three")]);
    let text = "required device \"vendor.com/class=three\" is not registered";
    assert_eq!(error.unwrap_err().message, text);
    let allowed = |name: &str| devices.known[name].auto_allow;
    assert_eq!((allowed(one), allowed(two)), (false, true));
}

#[test]
fn a_container_gets_what_the_description_says() {
    let (_directory, devices) = good();
    let mut spec = Spec::default();
    let all = [wanted("vendor.com/class=*")];
    devices.inject(&mut spec, &all).unwrap();
    let process = spec.process().as_ref().unwrap();
    let env = process.env().as_ref().unwrap();
    assert!(env.ends_with(&["COMMON=1".into(), "ONE=1".into(), "TWO=1".into()]));
    assert_eq!(process.user().additional_gids(), &Some(vec![44]));
    let linux = spec.linux().as_ref().unwrap();
    let nodes: Vec<_> = linux.devices().as_ref().unwrap().iter().collect();
    let facts = |at: usize| (nodes[at].major(), nodes[at].minor(), nodes[at].file_mode());
    assert_eq!(facts(0), (1, 5, Some(0o666)));
    assert_eq!(facts(1), (7, 1, Some(0o640)));
    assert_eq!((nodes[1].uid(), nodes[1].gid()), (Some(5), None));
    let rules = linux
        .resources()
        .as_ref()
        .unwrap()
        .devices()
        .clone()
        .unwrap();
    let access = rules.iter().map(|rule| rule.access().clone());
    let access: Vec<_> = access.flatten().collect();
    assert!(access.ends_with(&["r".into(), "rwm".into()]));
    let mounts = spec.mounts().as_ref().unwrap();
    assert_eq!(mounts.last().unwrap().destination(), Path::new("/host-etc"));
}

#[test]
fn a_later_directory_is_stronger_and_doubles_do_not_count() {
    let (first, _) = good();
    let second = tempfile::tempdir().unwrap();
    let json = r#"{"cdiVersion":"1.0.0","kind":"vendor.com/class","devices":
        [{"name":"one","containerEdits":{"env":["OTHER=1"]}}]}"#;
    std::fs::write(second.path().join("b.json"), json).unwrap();
    std::fs::write(second.path().join("ignored.yml"), "nonsense").unwrap();
    std::fs::write(second.path().join("broken.yaml"), "cdiVersion: [").unwrap();
    let env = |devices: &Devices| {
        let mut spec = Spec::default();
        devices.inject(&mut spec, &[wanted("vendor.com/class=one")])?;
        let process = spec.process().as_ref().unwrap();
        Ok::<_, Failure>(process.env().clone().unwrap().pop().unwrap())
    };
    let both = options(&[first.path(), second.path()]);
    assert_eq!(env(&Devices::read(&both)).unwrap(), "OTHER=1");
    std::fs::write(second.path().join("c.json"), json).unwrap();
    assert!(env(&Devices::read(&both)).is_err());
    assert!(Devices::read(&DeviceOptions::default()).names().is_empty());
}

#[test]
fn wrong_descriptions_are_refused() {
    for (text, why) in [
        ("{}", "missing field"),
        (
            "cdiVersion: '9.0'\nkind: a/b\ndevices: [{name: x}]",
            "`9.0` is not known",
        ),
        (
            "cdiVersion: '1.0.0'\nkind: b\ndevices: [{name: x}]",
            "`b` is no kind",
        ),
        ("cdiVersion: '1.0.0'\nkind: a/b\ndevices: []", "no devices"),
        (
            "cdiVersion: '1.0.0'\nkind: a/b\ndevices: [{name: ':'}]",
            "`:` is no name",
        ),
        (
            "cdiVersion: '1.0.0'\nkind: a/b\ndevices: [{name: x}, {name: x}]",
            "twice",
        ),
    ] {
        let error = file::parse(text).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn what_cannot_be_done_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let text = "cdiVersion: 1.0.0\nkind: a/b\ndevices:\n- name: x\n  containerEdits:\n    \
                hooks: [{hookName: createContainer, path: /bin/true}]\n- name: y\n  \
                containerEdits:\n    deviceNodes: [{path: /dev/none-such}]\n";
    std::fs::write(directory.path().join("a.yaml"), text).unwrap();
    let devices = Devices::read(&options(&[directory.path()]));
    let inject = |name: &str| devices.inject(&mut Spec::default(), &[wanted(name)]);
    let hooks = inject("a/b=x").unwrap_err().message;
    assert!(
        hooks.contains("hooks of devices cannot be set up"),
        "{hooks}"
    );
    let missing = inject("a/b=y").unwrap_err().message;
    assert!(
        missing.contains("failed to stat CDI host device \"/dev/none-such\""),
        "{missing}"
    );
}
