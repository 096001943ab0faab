//! How a build ended.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::progress::SourceExcerpt;
use serde_json::{Map, Value};

use super::Arguments;
use crate::error::{Exit, FAILURE};
use crate::excerpt;

/// What the exporters answered.
pub(super) type Response = BTreeMap<String, String>;

/// Prints and writes what the flags ask for.
pub(super) fn success(arguments: &Arguments, response: &Response) -> anyhow::Result<()> {
    if arguments.quiet
        && let Some(id) = image_id(response)
    {
        println!("{id}");
    }
    if let Some(path) = &arguments.iidfile {
        write(path, image_id(response).unwrap_or_default().as_bytes())?;
    }
    if let Some(path) = &arguments.metadata_file {
        let text = serde_json::to_string_pretty(&metadata(response))?;
        write(path, text.as_bytes())?;
    }
    Ok(())
}

/// Prints why the build failed: the lines at fault, then the error after `prefix`.
pub(super) fn failure(prefix: &str, sources: &[SourceExcerpt], message: &str) -> anyhow::Error {
    for source in sources {
        eprint!("{}", excerpt::render(source));
    }
    let message = match message.starts_with("failed to solve") {
        true => message.to_owned(),
        false => format!("failed to solve: {message}"),
    };
    eprintln!("{prefix}{message}");
    Exit(FAILURE).into()
}

fn image_id(response: &Response) -> Option<&str> {
    let keys = ["containerimage.config.digest", "containerimage.digest"];
    keys.iter()
        .find_map(|key| response.get(*key))
        .map(String::as_str)
}

/// The answers as JSON; what is JSON in base64 is unpacked.
pub(super) fn metadata(response: &Response) -> Value {
    let value = |key: &str, text: &String| -> Value {
        let bytes = match key {
            "result.json" => Some(text.clone().into_bytes()),
            _ => STANDARD.decode(text).ok(),
        };
        let parsed: Option<Value> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let structured = parsed.filter(|value| match value {
            Value::Object(members) => !members.is_empty(),
            Value::Array(items) => items.first().is_some_and(Value::is_object),
            _ => false,
        });
        structured.unwrap_or_else(|| Value::String(text.clone()))
    };
    let members = response
        .iter()
        .map(|(key, text)| (key.clone(), value(key, text)));
    Value::Object(members.collect::<Map<_, _>>())
}

/// Writes aside and renames, so that nobody reads half of it.
pub(super) fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let name = || format!("failed to write `{}`", path.display());
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let mut file =
        tempfile::NamedTempFile::new_in(directory.unwrap_or(Path::new("."))).with_context(name)?;
    std::io::Write::write_all(&mut file, content).with_context(name)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(mode).with_context(name)?;
    file.persist(path).with_context(name)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_in_base64_is_unpacked() {
        let response: Response = [
            ("a", STANDARD.encode(r#"{"mediaType":"x"}"#)),
            ("b", "sha256:00".to_owned()),
            ("c", STANDARD.encode("{}")),
            ("result.json", r#"{"k":1}"#.to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        let expected =
            r#"{"a":{"mediaType":"x"},"b":"sha256:00","c":"e30=","result.json":{"k":1}}"#;
        assert_eq!(metadata(&response).to_string(), expected);
    }

    #[test]
    fn the_config_names_the_image() {
        let mut response = Response::new();
        assert_eq!(image_id(&response), None);
        response.insert("containerimage.digest".into(), "sha256:m".into());
        assert_eq!(image_id(&response), Some("sha256:m"));
        response.insert("containerimage.config.digest".into(), "sha256:c".into());
        assert_eq!(image_id(&response), Some("sha256:c"));
    }
}
