//! Untyped instructions to typed ones.

use super::files::{read_add, read_copy};
use super::flags::{Flags, read_device};
use super::healthcheck::read_healthcheck;
use super::stage::read_stage;
use super::{
    Arg, Command, CommandKind, CommandLine, InstructionError, KeyValue, Mount, Run, RunHeredoc,
    Stage,
};
use crate::lint::{Linter, Rule};
use crate::parse::{Arguments, Document, Node};
use crate::span::LineSpan;

/// An instruction error and where it is. `in_parse` says whether BuildKit reports it as a parse
/// error, with the line in front.
#[derive(Debug)]
pub(crate) struct Misplaced {
    pub(crate) error: InstructionError,
    pub(crate) span: LineSpan,
    pub(crate) in_parse: bool,
}

/// A typed instruction.
enum Instruction {
    Stage(Stage),
    Command(Command),
}

/// The global arguments and the stages of a file.
pub(crate) fn read_document(
    document: &Document,
    lint: &Linter,
) -> Result<(Vec<Command>, Vec<Stage>), Misplaced> {
    let mut globals = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    for node in &document.instructions {
        let lint = lint.for_comments(&node.comments);
        let instruction = read(node, &lint).map_err(|error| Misplaced {
            error,
            span: node.span,
            in_parse: true,
        })?;
        match (instruction, stages.last_mut()) {
            (Instruction::Stage(stage), _) => stages.push(stage),
            (Instruction::Command(command), Some(stage)) => stage.commands.push(command),
            (Instruction::Command(command), None) => {
                if !matches!(command.kind, CommandKind::Arg(_)) {
                    let error = InstructionError::NoStage;
                    return Err(Misplaced {
                        error,
                        span: node.span,
                        in_parse: false,
                    });
                }
                globals.push(command);
            }
        }
    }
    Ok((globals, stages))
}

/// A single command, as a trigger of an image is.
pub(crate) fn read_command(node: &Node, lint: &Linter) -> Result<Command, InstructionError> {
    match read(node, lint)? {
        Instruction::Command(command) => Ok(command),
        Instruction::Stage(_) => Err(InstructionError::NotCommand),
    }
}

fn read(node: &Node, lint: &Linter) -> Result<Instruction, InstructionError> {
    let flags = Flags::new(&node.flags);
    let kind = match node.keyword.to_lowercase().as_str() {
        "from" => return read_stage(node, lint).map(Instruction::Stage),
        "add" => read_add(node, flags)?,
        "copy" => read_copy(node, flags)?,
        "arg" => read_arg(node, lint)?,
        "cmd" => {
            flags.read()?;
            CommandKind::Cmd(command_line(node))
        }
        "entrypoint" => {
            flags.read()?;
            CommandKind::Entrypoint(command_line(node))
        }
        "env" => {
            flags.read()?;
            CommandKind::Env(pairs(node, "ENV")?)
        }
        "label" => {
            flags.read()?;
            CommandKind::Label(pairs(node, "LABEL")?)
        }
        "expose" => {
            let mut ports = some_words(node, "EXPOSE")?;
            flags.read()?;
            ports.sort();
            CommandKind::Expose(ports)
        }
        "healthcheck" => read_healthcheck(node, flags)?,
        "maintainer" => {
            lint.warn(Rule::MaintainerDeprecated, node.span, &[]);
            let text = one_word(node, "MAINTAINER")?;
            flags.read()?;
            CommandKind::Maintainer(text)
        }
        "onbuild" => read_onbuild(node, flags)?,
        "run" => read_run(node, flags)?,
        "shell" => {
            flags.read()?;
            match &node.arguments {
                Arguments::Json(words) if !words.is_empty() => CommandKind::Shell(words.clone()),
                Arguments::Words(words) if !words.is_empty() => {
                    return Err(InstructionError::ShellNotJson);
                }
                _ => return Err(InstructionError::AtLeastOne("SHELL")),
            }
        }
        // BuildKit takes any flag here, unread.
        "stopsignal" => CommandKind::Stopsignal(one_word(node, "STOPSIGNAL")?),
        "user" => {
            let text = one_word(node, "USER")?;
            flags.read()?;
            CommandKind::User(text)
        }
        "volume" => {
            let volumes = some_words(node, "VOLUME")?;
            flags.read()?;
            let volumes: Vec<String> = volumes.iter().map(|v| v.trim().to_owned()).collect();
            if volumes.iter().any(String::is_empty) {
                return Err(InstructionError::EmptyVolume);
            }
            CommandKind::Volume(volumes)
        }
        "workdir" => {
            let text = one_word(node, "WORKDIR")?;
            flags.read()?;
            CommandKind::Workdir(text)
        }
        _ => return Err(InstructionError::Unknown(node.keyword.clone())),
    };
    Ok(Instruction::Command(Command {
        keyword: node.keyword.clone(),
        source: node.original.trim().to_owned(),
        span: node.span,
        comments: node.comments.clone(),
        kind,
    }))
}

pub(super) fn words(node: &Node) -> &[String] {
    match &node.arguments {
        Arguments::Words(words) | Arguments::Json(words) => words,
        Arguments::Pairs(_) | Arguments::Probe { .. } | Arguments::Trigger(_) => &[],
    }
}

fn some_words(node: &Node, name: &'static str) -> Result<Vec<String>, InstructionError> {
    match words(node) {
        [] => Err(InstructionError::AtLeastOne(name)),
        words => Ok(words.to_vec()),
    }
}

fn one_word(node: &Node, name: &'static str) -> Result<String, InstructionError> {
    match words(node) {
        [one] => Ok(one.clone()),
        _ => Err(InstructionError::ExactlyOne(name)),
    }
}

fn pairs(node: &Node, name: &'static str) -> Result<Vec<KeyValue>, InstructionError> {
    let Arguments::Pairs(pairs) = &node.arguments else {
        return Err(InstructionError::AtLeastOne(name));
    };
    if pairs.is_empty() {
        return Err(InstructionError::AtLeastOne(name));
    }
    pairs
        .iter()
        .map(|pair| {
            if pair.key.is_empty() {
                return Err(InstructionError::BlankName(name));
            }
            let (key, value) = (pair.key.clone(), pair.value.clone());
            Ok(KeyValue {
                key,
                value,
                legacy: pair.legacy,
            })
        })
        .collect()
}

fn command_line(node: &Node) -> CommandLine {
    CommandLine {
        words: words(node).to_vec(),
        shell: !node.arguments.is_json(),
    }
}

fn read_arg(node: &Node, lint: &Linter) -> Result<CommandKind, InstructionError> {
    let words = some_words(node, "ARG")?;
    let mut args = Vec::with_capacity(words.len());
    for word in words {
        let (key, value) = match word.split_once('=') {
            Some(("", _)) => return Err(InstructionError::BlankName("ARG")),
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        args.push(Arg {
            doc: doc_comment(&node.comments, &key),
            key,
            value,
        });
    }
    let keys: Vec<&str> = args.iter().map(|arg| arg.key.as_str()).collect();
    check_description(lint, "ARG", &keys, node);
    Ok(CommandKind::Arg(args))
}

/// The description of `name` in comments of the form `# name description`.
pub(super) fn doc_comment(comments: &[String], name: &str) -> String {
    if name.is_empty() {
        return String::new();
    }
    let described = |line: &String| Some(line.strip_prefix(name)?.strip_prefix(' ')?.to_owned());
    comments.iter().find_map(described).unwrap_or_default()
}

pub(super) fn check_description(lint: &Linter, instruction: &str, keys: &[&str], node: &Node) {
    let Some(comment) = node.comments.last() else {
        return;
    };
    let first = comment.split(' ').next().unwrap_or_default();
    if keys.contains(&first) {
        return;
    }
    let example = if let [one] = keys { one } else { "<arg_key>" };
    lint.warn(
        Rule::InvalidDefinitionDescription,
        node.span,
        &[instruction, example],
    );
}

fn read_run(node: &Node, flags: Flags<'_>) -> Result<CommandKind, InstructionError> {
    let flags = flags
        .texts(&["network", "security"])
        .lists(&["mount", "device"])
        .read()?;
    let heredocs = node.heredocs.iter().map(|heredoc| RunHeredoc {
        name: heredoc.mark.name.clone(),
        content: String::from_utf8_lossy(&heredoc.content).into_owned(),
        chomp: heredoc.mark.chomp,
    });
    let mounts = flags.list("mount");
    let devices = flags.list("device");
    // The order in which BuildKit looks: devices, mounts, network, security.
    let devices = devices
        .iter()
        .map(|device| read_device(device).map_err(InstructionError::Device))
        .collect::<Result<Vec<_>, _>>()?;
    for mount in &mounts {
        Mount::read_from(mount)?;
    }
    let network = match flags.get("network").unwrap_or("default") {
        "default" => llb::NetMode::Sandbox,
        "none" => llb::NetMode::None,
        "host" => llb::NetMode::Host,
        other => return Err(InstructionError::Network(other.to_owned())),
    };
    let security = match flags.get("security").unwrap_or("sandbox") {
        "sandbox" => llb::SecurityMode::Sandbox,
        "insecure" => llb::SecurityMode::Insecure,
        other => return Err(InstructionError::Security(other.to_owned())),
    };
    Ok(CommandKind::Run(Run {
        line: command_line(node),
        heredocs: heredocs.collect(),
        mounts,
        network,
        security,
        devices,
    }))
}

fn read_onbuild(node: &Node, flags: Flags<'_>) -> Result<CommandKind, InstructionError> {
    let Arguments::Trigger(trigger) = &node.arguments else {
        return Err(InstructionError::AtLeastOne("ONBUILD"));
    };
    flags.read()?;
    match trigger.keyword.trim().to_uppercase().as_str() {
        "ONBUILD" => return Err(InstructionError::OnbuildChain),
        keyword @ ("MAINTAINER" | "FROM") => {
            return Err(InstructionError::OnbuildTrigger(keyword.to_owned()));
        }
        _ => {}
    }
    let mut text = strip_keyword(&node.original).to_owned();
    for heredoc in &node.heredocs {
        text.push('\n');
        text.push_str(&String::from_utf8_lossy(&heredoc.content));
        text.push_str(&heredoc.mark.name);
    }
    Ok(CommandKind::Onbuild(text))
}

/// The line after its `ONBUILD`.
fn strip_keyword(line: &str) -> &str {
    let space = [' ', '\t', '\n', '\x0c', '\r'];
    let trimmed = line.trim_start_matches(space);
    match trimmed.get(..7) {
        Some(word) if word.eq_ignore_ascii_case("onbuild") => {
            trimmed[7..].trim_start_matches(space)
        }
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> String {
        let document = crate::parse::parse(text.as_bytes()).unwrap();
        match read_document(&document, &Linter::silent()) {
            Ok((globals, stages)) => {
                let commands = stages
                    .iter()
                    .flat_map(|stage| &stage.commands)
                    .chain(&globals);
                commands
                    .map(|command| format!("{:?}", command.kind))
                    .collect::<Vec<_>>()
                    .join("; ")
            }
            Err(misplaced) => format!("{}: {}", misplaced.span.start, misplaced.error),
        }
    }

    #[test]
    fn wrong_instructions_are_named_as_buildkit_names_them() {
        for (text, want) in [
            (
                "FROM a\nRUNN x",
                "2: unknown instruction: RUNN (did you mean RUN?)",
            ),
            ("FROM a b", "1: FROM requires either one or three arguments"),
            (
                "FROM a AS 1",
                "1: invalid name for build stage: \"1\", name can't start with a number or contain symbols",
            ),
            ("RUN x\nFROM a", "1: no build stage in current context"),
            ("FROM a\nENV =x", "2: ENV names can not be blank"),
            ("FROM a\nENV", "2: ENV requires at least one argument"),
            ("FROM a\nUSER", "2: USER requires exactly one argument"),
            (
                "FROM a\nVOLUME [\"\"]",
                "2: VOLUME specified can not be an empty string",
            ),
            (
                "FROM a\nCOPY <<A <<B\nA\nB",
                "2: COPY cannot accept a heredoc as a destination",
            ),
            (
                "FROM a\nONBUILD ONBUILD RUN x",
                "2: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
            ),
            (
                "FROM a\nONBUILD from x",
                "2: FROM isn't allowed as an ONBUILD trigger",
            ),
            (
                "FROM a\nHEALTHCHECK NONE x",
                "2: HEALTHCHECK NONE takes no arguments",
            ),
            (
                "FROM a\nHEALTHCHECK CMD",
                "2: Missing command after HEALTHCHECK CMD",
            ),
            (
                "FROM a\nHEALTHCHECK --interval=5 CMD x",
                "2: time: missing unit in duration \"5\"",
            ),
            (
                "FROM a\nHEALTHCHECK --retries=-1 CMD x",
                "2: --retries cannot be negative (-1)",
            ),
            (
                "FROM a\nSHELL x",
                "2: SHELL requires the arguments to be in JSON form",
            ),
            (
                "FROM a\nSHELL []",
                "2: SHELL requires at least one argument",
            ),
            (
                "FROM a\nRUN --security=x y",
                "2: security \"x\" is not valid",
            ),
        ] {
            assert_eq!(check(text), want, "{text}");
        }
    }

    #[test]
    fn triggers_keep_their_heredocs() {
        assert_eq!(
            check("FROM a\nONBUILD  RUN <<E\nx\nE\n"),
            "Onbuild(\"RUN <<E\\nx\\nE\")"
        );
    }

    #[test]
    fn descriptions_come_from_comments() {
        let text = "# v the version\nARG v=1\n# x builds\nFROM a AS X";
        let document = crate::parse::parse(text.as_bytes()).unwrap();
        let (globals, stages) = read_document(&document, &Linter::silent()).unwrap();
        let CommandKind::Arg(args) = &globals[0].kind else {
            panic!("not an argument")
        };
        assert_eq!(args[0].doc, "the version");
        assert_eq!(
            (stages[0].name.as_str(), stages[0].doc.as_str()),
            ("x", "builds")
        );
    }
}
