//! Go's templates, as far as `--format` needs them: what is printed of a value of a daemon's answer.
//!
//! There are fields, variables, pipelines, `if`, `range`, `with` and the functions of `text/template` that
//! do not call into Go, and `json`. Templates that define others are refused.

mod evaluate;
mod functions;
mod lex;
mod parse;
mod value;

pub(crate) use value::{Field, Value, fields};

use parse::Node;

/// Why a template is none, or cannot be applied.
#[derive(Debug, thiserror::Error)]
#[error("template: {0}")]
pub(crate) struct TemplateError(String);

impl TemplateError {
    fn new(text: impl Into<String>) -> TemplateError {
        TemplateError(text.into())
    }
}

/// A template that was read.
#[derive(Debug)]
pub(crate) struct Template(Vec<Node>);

impl Template {
    /// Reads a template; `json` alone stands for `{{json .}}`.
    pub(crate) fn parse(text: &str) -> Result<Template, TemplateError> {
        let text = match text {
            "json" => "{{json .}}",
            text => text,
        };
        Ok(Template(parse::parse(text)?))
    }

    /// What it says of `value`.
    pub(crate) fn apply(&self, value: &Value) -> Result<String, TemplateError> {
        evaluate::apply(&self.0, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Value {
        let item = |id: &str, size: i64| {
            fields! {
                "ID" "id": id,
                "Size" "size": size,
                "InUse" "inUse": size > 10,
            }
        };
        fields! {
            "Name" "name": "a<b>\"",
            "Items" "items": Value::List(vec![item("x", 5), item("y", 50)]),
            "Labels" "labels": Value::Map([("k.1".to_owned(), Value::from("v"))].into()),
            "Last" "last": Value::Null,
        }
    }

    fn shown(template: &str) -> String {
        match Template::parse(template).and_then(|template| template.apply(&sample())) {
            Ok(text) => text,
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn values_are_found_and_printed() {
        assert_eq!(shown("{{.Name}} {{len .Items}}"), "a<b>\" 2");
        assert_eq!(shown("{{json .Name}}"), r#""a<b>\"""#);
        assert_eq!(
            shown("{{json (index .Items 0)}}"),
            r#"{"id":"x","size":5,"inUse":false}"#
        );
        assert_eq!(shown("{{(index .Items 1).ID}}"), "y");
        assert_eq!(shown(r#"{{index .Labels "k.1"}}"#), "v");
        assert_eq!(shown("{{.Labels}} {{.Last}}"), "map[k.1:v] <nil>");
        assert_eq!(
            shown(r#"{{printf "%-3s|%3d|%q" "a" 7 "b"}}"#),
            r#"a  |  7|"b""#
        );
        assert_eq!(shown("{{index .Items 0}}"), "{x 5 false}");
    }

    #[test]
    fn what_is_printed_depends() {
        let each = "{{range $i, $e := .Items}}{{if $i}}, {{end}}{{$e.ID}}{{end}}";
        assert_eq!(shown(each), "x, y");
        let used = "{{range .Items}}{{if .InUse}}{{.ID}}{{else if eq .Size 5}}five {{end}}{{end}}";
        assert_eq!(shown(used), "five y");
        assert_eq!(shown("{{range .Last}}a{{else}}none{{end}}"), "none");
        assert_eq!(
            shown("{{with .Last}}a{{else with .Name}}{{.}}{{end}}"),
            "a<b>\""
        );
        assert_eq!(
            shown("{{range $k, $v := .Labels}}{{$k}}={{$v}}{{end}}"),
            "k.1=v"
        );
        assert_eq!(shown("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}"), "2");
        assert_eq!(shown("{{range .Items}}{{.ID}}{{break}}{{end}}"), "x");
        assert_eq!(shown("{{and .Name (not .Last)}} {{or .Last 3}}"), "true 3");
        assert_eq!(shown(" a {{- /* no */ -}} b {{ .Name | len }}"), " ab 5");
        assert_eq!(
            shown("{{lt 1 2}} {{ne .Name \"a\" }} {{ge 2.5 2.5}}"),
            "true true true"
        );
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for (template, reason) in [
            ("{{.Nope}}", "no field `Nope`"),
            ("{{nope .}}", "function \"nope\" not defined"),
            ("{{.Name", "unclosed action"),
            ("{{if .Name}}", "unexpected EOF"),
            ("{{end}}", "unexpected {{end}}"),
            ("{{$x}}", "undefined variable \"$x\""),
            ("{{index .Items 7}}", "index out of range: 7"),
            ("{{.Name.More}}", "no field `More`"),
            ("{{", "unclosed action"),
            ("{{}}", "missing value for command"),
            ("{{template \"x\"}}", "`template` is not supported"),
        ] {
            let text = shown(template);
            assert!(text.starts_with("error: template: "), "{template}: {text}");
            assert!(text.contains(reason), "{template}: {text}");
        }
    }
}
