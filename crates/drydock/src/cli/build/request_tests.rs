//! Flags in, options out.

use super::*;

fn arguments() -> (tempfile::TempDir, Arguments) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("Dockerfile"), "FROM scratch\n").unwrap();
    let context = directory.path().to_str().unwrap().to_owned();
    (
        directory,
        Arguments {
            context,
            ..Arguments::default()
        },
    )
}

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

#[test]
fn flags_become_the_frontends_options() {
    let (_directory, arguments) = arguments();
    let request = Request::new(&Arguments {
        build_arg: strings(&["A=1", "B=x=y", "DRYDOCK_NOT_SET"]),
        label: strings(&["k=v", "bare"]),
        target: Some("final".into()),
        platform: strings(&["linux/amd64", "linux/arm64"]),
        no_cache: true,
        pull: true,
        network: Some("host".into()),
        add_host: strings(&["a:10.0.0.1", "b=::1", "c:[::2]"]),
        shm_size: Some("64m".into()),
        ulimit: strings(&["nofile=1024", "nproc=10:20"]),
        ..arguments
    })
    .unwrap();
    let attrs: Vec<_> = request
        .attrs
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let expected = [
        "add-hosts=a=10.0.0.1,b=::1,c=::2",
        "build-arg:A=1",
        "build-arg:B=x=y",
        "filename=Dockerfile",
        "force-network-mode=host",
        "image-resolve-mode=pull",
        "label:bare=",
        "label:k=v",
        "no-cache=",
        "platform=linux/amd64,linux/arm64",
        "shm-size=67108864",
        "target=final",
        "ulimit=nofile=1024:1024,nproc=10:20",
    ];
    assert_eq!(attrs, expected);
    assert_eq!(request.entitlements, ["network.host"]);
    assert_eq!(request.directories.len(), 2);
}

#[test]
fn contexts_are_images_urls_layouts_or_directories() {
    let (directory, arguments) = arguments();
    let context = directory.path().to_str().unwrap();
    let request = Request::new(&Arguments {
        build_context: vec![
            "base=docker-image://alpine".into(),
            "src=https://example.com/r.git".into(),
            "img=oci-layout:///layout:latest".into(),
            format!("more={context}"),
            format!("context={context}"),
        ],
        ..arguments
    })
    .unwrap();
    assert_eq!(request.attrs["context:base"], "docker-image://alpine");
    assert_eq!(request.attrs["context:src"], "https://example.com/r.git");
    assert_eq!(request.attrs["context:img"], "oci-layout://img:latest");
    assert_eq!(request.layouts["img"], Path::new("/layout"));
    assert_eq!(request.attrs["context:more"], "local:more");
    assert_eq!(request.attrs["context:context"], "local:_context");
    assert_eq!(request.directories["_context"], directory.path());
}

#[test]
fn a_secret_is_a_file_or_a_variable() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let of_file = secret(&format!("id=a,src={path}")).unwrap();
    assert_eq!(of_file.source, SecretSource::File(file.path().to_owned()));
    let of_variable = secret("id=a,env=HOME").unwrap();
    assert_eq!(of_variable.source, SecretSource::Environment("HOME".into()));
    assert_eq!(
        secret("type=env,id=a,src=PATH").unwrap().source,
        SecretSource::Environment("PATH".into())
    );
    assert_eq!(
        secret("id=PATH").unwrap().source,
        SecretSource::Environment("PATH".into())
    );
    for wrong in [
        "src=/does/not/exist",
        "id=/does/not/exist",
        "x=y",
        "type=magic,id=a",
        "id",
    ] {
        assert!(secret(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_bare_cache_is_in_a_registry() {
    let cache = &caches(&["r.io/cache".into(), "type=local,dest=x".into()]).unwrap();
    assert_eq!(
        (cache[0].kind.as_str(), cache[0].attrs["ref"].as_str()),
        ("registry", "r.io/cache")
    );
    assert_eq!(
        (cache[1].kind.as_str(), cache[1].attrs["dest"].as_str()),
        ("local", "x")
    );
    assert!(caches(&["mode=max".into()]).is_err());
}

#[test]
fn wrong_values_are_refused_here() {
    let (_directory, arguments) = arguments();
    let refused = |change: &dyn Fn(&mut Arguments)| {
        let mut arguments = arguments.clone();
        change(&mut arguments);
        crate::error::chain(&Request::new(&arguments).unwrap_err())
    };
    let error = refused(&|arguments| arguments.network = Some("moon".into()));
    assert_eq!(error, "network mode `moon` is not known");
    let error = refused(&|arguments| arguments.ulimit = strings(&["nofile=2:1"]));
    assert_eq!(error, "`nofile=2:1` is no limit");
    let error = refused(&|arguments| arguments.add_host = strings(&["a:b"]));
    assert_eq!(error, "`a:b` adds no host: `b` is no address");
    let error = refused(&|arguments| arguments.build_context = strings(&["a=/does/not/exist"]));
    assert_eq!(error, "context `a`: `/does/not/exist` is no directory");
    let error = refused(&|arguments| arguments.platform = strings(&["///"]));
    assert!(error.starts_with("failed to read `--platform`"), "{error}");
}
