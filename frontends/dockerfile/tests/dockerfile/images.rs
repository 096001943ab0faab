//! What instructions say about containers of the image.

use serde_json::json;

use crate::engine::Engine;

#[test]
fn an_image_says_how_its_containers_start() {
    let text = r#"
        FROM alpine
        ENV A=1 B="2 3"
        LABEL org.name="drydock"
        EXPOSE 80 53/udp
        VOLUME /data
        USER me:us
        WORKDIR /app
        SHELL ["/bin/bash", "-c"]
        STOPSIGNAL SIGINT
        HEALTHCHECK --interval=5s --retries=2 CMD curl localhost
        ONBUILD RUN make
        ENTRYPOINT ["/app/run"]
        CMD serve
        "#;
    let image = Engine::new(text).build().image();
    assert_eq!(
        image["config"],
        json!({
            "User": "me:us",
            "ExposedPorts": {"53/udp": {}, "80/tcp": {}},
            "Env": ["PATH=/bin", "A=1", "B=2 3"],
            "Entrypoint": ["/app/run"],
            "Cmd": ["/bin/bash", "-c", "serve"],
            "Healthcheck": {
                "Test": ["CMD-SHELL", "curl localhost"],
                "Interval": 5_000_000_000_i64,
                "Retries": 2,
            },
            "ArgsEscaped": true,
            "Volumes": {"/data": {}},
            "WorkingDir": "/app",
            "Labels": {"org.name": "drydock"},
            "OnBuild": ["RUN make"],
            "StopSignal": "SIGINT",
            "Shell": ["/bin/bash", "-c"],
        })
    );
}

#[test]
fn the_history_tells_which_commands_made_layers() {
    let text = "FROM alpine\nENV A=1\nRUN make\n";
    let image = Engine::new(text).build().image();
    let history = image["history"].as_array().unwrap();
    let entries = history.iter().skip(1);
    let entries: Vec<_> = entries
        .map(|entry| (entry["created_by"].as_str().unwrap(), &entry["empty_layer"]))
        .collect();
    assert_eq!(
        entries,
        [
            ("ENV A=1", &json!(true)),
            ("RUN /bin/sh -c make # buildkit", &json!(null)),
        ]
    );
}

#[test]
fn a_new_entrypoint_drops_the_command_of_the_base() {
    let image = Engine::new("FROM alpine\nENTRYPOINT [\"a\"]\n")
        .build()
        .image();
    assert_eq!(image["config"]["Cmd"], json!(null));
    let image = Engine::new("FROM alpine\nCMD [\"b\"]\nENTRYPOINT [\"a\"]\n")
        .build()
        .image();
    assert_eq!(image["config"]["Cmd"], json!(["b"]));
}

#[test]
fn labels_of_the_client_are_added() {
    let engine = Engine::new("FROM scratch\nLABEL a=1 b=1\n").option("label:b", "2");
    assert_eq!(
        engine.build().image()["config"]["Labels"],
        json!({"a": "1", "b": "2"})
    );
}

#[test]
fn an_sbom_is_asked_of_a_scanner() {
    let config = r#"{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/scan"]}}"#;
    let engine = Engine::new("FROM alpine\nRUN make\n")
        .option("attest:sbom", "generator=scanner")
        .image("docker.io/library/scanner:latest", config);
    let result = engine.build().result.unwrap();
    let [attestation] = result.attestations["linux/amd64"].as_slice() else {
        panic!("one statement is wanted");
    };
    let graph = attestation.result.graph.as_ref().unwrap();
    let name = graph.result_vertex().name();
    assert!(
        name.starts_with("[linux/amd64] generating sbom using docker.io/library/scanner:latest@")
    );
    assert_eq!(attestation.predicate_type, "https://spdx.dev/Document");
    assert!(
        graph
            .vertex(&result.single.unwrap().graph.unwrap().result().digest)
            .is_some()
    );
}
