//! Images for several platforms, of stages for the machine and for the target.

use serde_json::Value;

use crate::fixture::Fixture;

const DOCKERFILE: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS build
ARG TARGETPLATFORM TARGETARCH TARGETVARIANT BUILDARCH
RUN echo \"$TARGETPLATFORM $TARGETARCH $TARGETVARIANT\" > /target; test -n $BUILDARCH && uname -m > /machine
FROM scratch
COPY --from=build /target /machine /
";

#[test]
fn each_platform_has_its_own_files_made_by_the_machine_s_stage() {
    let fixture = Fixture::with(DOCKERFILE);
    let files = fixture.files(&["--platform", "linux/amd64,linux/arm64,linux/arm/v7"]);
    assert_eq!(
        files.names("."),
        ["linux_amd64", "linux_arm64", "linux_arm_v7"]
    );
    for (directory, target) in [
        ("linux_amd64", "linux/amd64 amd64"),
        ("linux_arm64", "linux/arm64 arm64"),
        ("linux_arm_v7", "linux/arm/v7 arm v7"),
    ] {
        assert_eq!(files.text(&format!("{directory}/target")), target);
        let machine = files.text(&format!("{directory}/machine"));
        assert_eq!(machine, std::env::consts::ARCH);
    }
}

#[test]
fn an_image_for_several_platforms_is_an_index_of_one_for_each() {
    let fixture = Fixture::with(DOCKERFILE);
    let layout = fixture.layout(&["--platform", "linux/amd64,linux/arm64"]);
    let index: Value = {
        let top = layout.index();
        serde_json::from_slice(&layout.blob(&top["manifests"][0]["digest"])).unwrap()
    };
    let manifests = index["manifests"].as_array().unwrap();
    let mut seen = Vec::new();
    for manifest in manifests {
        if manifest["platform"]["architecture"] == "unknown" {
            continue;
        }
        let image: Value = serde_json::from_slice(&layout.blob(&manifest["digest"])).unwrap();
        let config: Value =
            serde_json::from_slice(&layout.blob(&image["config"]["digest"])).unwrap();
        assert_eq!(config["architecture"], manifest["platform"]["architecture"]);
        assert_eq!(config["os"], "linux");
        seen.push(config["architecture"].as_str().unwrap().to_owned());
    }
    assert_eq!(seen, ["amd64", "arm64"]);
}
