//! Where a result goes.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};

use super::Arguments;
use super::fields;
use crate::error::hinted;

/// One exporter of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Output {
    /// BuildKit's name of the exporter.
    pub(super) kind: String,
    pub(super) attrs: BTreeMap<String, String>,
    pub(super) destination: Destination,
}

/// What this program does with what the exporter sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// Nothing is sent to it.
    None,
    Directory(PathBuf),
    File(PathBuf),
    Stdout,
}

/// The outputs that `arguments` ask for, with the names of the image where they belong.
pub(super) fn outputs(arguments: &Arguments) -> anyhow::Result<Vec<Output>> {
    let mut outputs = Vec::new();
    for text in &arguments.output {
        outputs.extend(parse(text)?);
    }
    if arguments.push {
        push(&mut outputs, &arguments.tag)?;
    }
    let is_wanted = !arguments.tag.is_empty()
        || arguments.load
        || arguments.quiet
        || arguments.iidfile.is_some();
    if arguments.load || (is_wanted && outputs.is_empty() && arguments.output.is_empty()) {
        outputs.push(stored());
    }
    let names = names(&arguments.tag)?;
    for output in &mut outputs {
        let holds_names = matches!(output.kind.as_str(), "image" | "oci" | "docker");
        if holds_names && !names.is_empty() && !output.attrs.contains_key("name") {
            output.attrs.insert("name".to_owned(), names.clone());
        }
    }
    let to_stdout = outputs
        .iter()
        .filter(|output| output.destination == Destination::Stdout);
    match to_stdout.count() {
        0 | 1 => Ok(outputs),
        _ => bail!("only one output can be written to standard output"),
    }
}

/// The image kept in the daemon's store. It is not compressed: nobody is to fetch it.
fn stored() -> Output {
    let attrs = [
        ("store", "true"),
        ("push", "false"),
        ("compression", "uncompressed"),
    ];
    Output {
        kind: "image".to_owned(),
        attrs: attrs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        destination: Destination::None,
    }
}

fn push(outputs: &mut Vec<Output>, tags: &[String]) -> anyhow::Result<()> {
    let pushed = |output: &mut Output| {
        output.attrs.insert("push".to_owned(), "true".to_owned());
    };
    if let Some(image) = outputs.iter_mut().find(|output| output.kind == "image") {
        pushed(image);
        return Ok(());
    }
    if tags.is_empty() {
        return Err(hinted(
            "`--push` needs the image to have a name",
            "name it with `-t`",
        ));
    }
    let mut image = Output {
        kind: "image".to_owned(),
        attrs: BTreeMap::new(),
        destination: Destination::None,
    };
    pushed(&mut image);
    outputs.push(image);
    Ok(())
}

/// All names, normalized, as the exporters want them.
fn names(tags: &[String]) -> anyhow::Result<String> {
    let name = |tag: &String| -> anyhow::Result<String> {
        let reference =
            oci::Reference::parse(tag).with_context(|| format!("`{tag}` cannot name an image"))?;
        Ok(reference.with_default_tag().to_string())
    };
    Ok(tags
        .iter()
        .map(name)
        .collect::<anyhow::Result<Vec<_>>>()?
        .join(","))
}

/// Reads one `--output`. None for `type=cacheonly`.
fn parse(text: &str) -> anyhow::Result<Option<Output>> {
    if text == "-" {
        return finish("tar", BTreeMap::new(), Some("-")).map(Some);
    }
    let parts = fields::split(text)?;
    if let [only] = parts.as_slice()
        && !only.starts_with("type=")
    {
        return finish("local", BTreeMap::new(), Some(only)).map(Some);
    }
    let mut attrs: BTreeMap<String, String> = fields::pairs(text)?.into_iter().collect();
    let kind = attrs.remove("type").filter(|kind| !kind.is_empty());
    let kind =
        kind.ok_or_else(|| hinted(format!("output `{text}` has no type"), "add type=TYPE"))?;
    let destination = attrs.remove("dest");
    match kind.as_str() {
        "cacheonly" => Ok(None),
        "registry" => {
            attrs
                .entry("push".to_owned())
                .or_insert_with(|| "true".to_owned());
            finish("image", attrs, destination.as_deref()).map(Some)
        }
        // Docker would load it into its engine; this engine is the daemon.
        "docker" if destination.is_none() => {
            let mut output = stored();
            output.attrs.extend(attrs);
            Ok(Some(output))
        }
        kind => finish(kind, attrs, destination.as_deref()).map(Some),
    }
}

/// What is done with the output of an exporter.
pub(super) fn finish(
    kind: &str,
    attrs: BTreeMap<String, String>,
    destination: Option<&str>,
) -> anyhow::Result<Output> {
    let destination = match (kind, destination) {
        ("image", None) => Destination::None,
        ("image", Some(_)) => bail!("output `image` writes no file, but has `dest`"),
        ("local", Some("-")) => bail!("output `local` cannot be written to standard output"),
        ("local", Some(path)) => Destination::Directory(path.into()),
        ("local", None) => {
            return Err(hinted("output `local` has no `dest`", "add dest=DIRECTORY"));
        }
        ("tar" | "oci" | "docker", None | Some("-")) => {
            if std::io::stdout().is_terminal() {
                return Err(hinted(
                    format!("output `{kind}` would be written to a terminal"),
                    "add dest=FILE, or redirect standard output",
                ));
            }
            Destination::Stdout
        }
        ("tar" | "oci" | "docker", Some(path)) => Destination::File(path.into()),
        (unknown, _) => {
            let known = "one of image, registry, docker, oci, tar, local, cacheonly";
            return Err(hinted(
                format!("output type `{unknown}` is not known"),
                known,
            ));
        }
    };
    Ok(Output {
        kind: kind.to_owned(),
        attrs,
        destination,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(arguments: Arguments) -> Vec<String> {
        let outputs = outputs(&arguments).unwrap();
        let show = |output: Output| {
            let attrs: Vec<_> = output
                .attrs
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            format!(
                "{} {} {:?}",
                output.kind,
                attrs.join(" "),
                output.destination
            )
        };
        outputs.into_iter().map(show).collect()
    }

    fn with_output(text: &str) -> Arguments {
        Arguments {
            output: vec![text.to_owned()],
            ..Arguments::default()
        }
    }

    #[test]
    fn a_name_alone_stores_the_image() {
        let arguments = Arguments {
            tag: vec!["app".into(), "x/y:1".into()],
            ..Arguments::default()
        };
        let name = "name=docker.io/library/app:latest,docker.io/x/y:1";
        let expected = format!("image compression=uncompressed {name} push=false store=true None");
        assert_eq!(show(arguments), [expected]);
        assert!(show(Arguments::default()).is_empty());
    }

    #[test]
    fn push_and_load_are_two_outputs() {
        let arguments = Arguments {
            tag: vec!["r.io/app:1".into()],
            push: true,
            load: true,
            ..Arguments::default()
        };
        let expected = [
            "image name=r.io/app:1 push=true None",
            "image compression=uncompressed name=r.io/app:1 push=false store=true None",
        ];
        assert_eq!(show(arguments), expected);
        assert!(
            outputs(&Arguments {
                push: true,
                ..Arguments::default()
            })
            .is_err()
        );
    }

    #[test]
    fn a_bare_path_is_a_directory() {
        assert_eq!(show(with_output("out")), [r#"local  Directory("out")"#]);
        assert_eq!(
            show(with_output("type=local,dest=out")),
            [r#"local  Directory("out")"#]
        );
        assert_eq!(
            show(with_output("type=oci,dest=a.tar,tar=true")),
            [r#"oci tar=true File("a.tar")"#]
        );
        assert_eq!(
            show(with_output("type=registry,name=a")),
            ["image name=a push=true None"]
        );
        assert!(show(with_output("type=cacheonly")).is_empty());
    }

    #[test]
    fn wrong_outputs_say_what_is_missing() {
        let error = |text| crate::error::chain(&outputs(&with_output(text)).unwrap_err());
        assert_eq!(error("type=local"), "output `local` has no `dest`");
        assert_eq!(error("dest=a,b=c"), "output `dest=a,b=c` has no type");
        assert_eq!(error("type=moon"), "output type `moon` is not known");
        assert_eq!(
            error("type=oci,dest"),
            "`dest` in `type=oci,dest` is no field"
        );
    }
}
