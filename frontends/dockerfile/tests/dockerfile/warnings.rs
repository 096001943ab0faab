//! What lint rules say.

use crate::engine::Engine;

fn found(text: &str) -> Vec<String> {
    let warnings = Engine::new(text).build().warnings;
    warnings.into_iter().map(|warning| warning.short).collect()
}

#[test]
fn a_warning_names_rule_line_and_what_was_meant() {
    assert_eq!(
        found("FROM alpine\nENV NAME=a\nLABEL x=$NAMES\n"),
        ["UndefinedVar: Usage of undefined variable '$NAMES' (did you mean $NAME?) (line 3)"]
    );
}

#[test]
fn a_file_says_which_rules_hold() {
    let text = "FROM alpine as x\nMAINTAINER me\n";
    assert_eq!(found(text).len(), 2);
    let some = found(&format!("# check=skip=FromAsCasing\n{text}"));
    assert_eq!(some.len(), 1);
    assert!(some[0].starts_with("MaintainerDeprecated: "));
    assert!(found(&format!("# check=skip=all\n{text}")).is_empty());
}

#[test]
fn rules_run_once_for_many_platforms() {
    let config = |arch| {
        format!(r#"{{"architecture":"{arch}","os":"linux","history":[{{"created_by":"x"}}]}}"#)
    };
    let engine = Engine::new("FROM base\nMAINTAINER me\n")
        .option("platform", "linux/amd64,linux/arm64")
        .option("multi-platform", "true")
        .image("docker.io/library/base:latest", &config("amd64"));
    let outcome = engine.build();
    assert_eq!(outcome.warnings.len(), 1);
    let result = outcome.result.unwrap();
    let platforms: Vec<&str> = result.refs.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
}
