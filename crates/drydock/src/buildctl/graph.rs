//! `buildctl debug dump-llb`: what is in a graph, without a daemon.

use std::fs::File;
use std::io::{Read, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use client::{DumpedOp, dump_graph};

use crate::cli::build::buildctl::MAX_GRAPH;

/// Show what is in a graph. Needs no daemon.
#[derive(Debug, clap::Args)]
pub(super) struct DumpLlb {
    /// The graph; standard input if it is missing or `-`.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print what Graphviz draws.
    #[arg(long)]
    dot: bool,
}

pub(super) fn dump(arguments: &DumpLlb) -> anyhow::Result<()> {
    let file = arguments.file.as_deref();
    let bytes = match file.filter(|file| file.as_os_str() != "-") {
        Some(path) => {
            let name = || format!("failed to open `{}`", path.display());
            read(File::open(path).with_context(name)?)
        }
        None => read(std::io::stdin().lock()),
    };
    let ops = dump_graph(&bytes?)?;
    let text = match arguments.dot {
        true => dot(&ops),
        false => ops.iter().map(|op| escaped(&op.json) + "\n").collect(),
    };
    let printed = std::io::stdout().lock().write_all(text.as_bytes());
    printed.context("failed to print")
}

fn read(from: impl Read) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = from.take(MAX_GRAPH + 1).read_to_end(&mut bytes);
    if read.context("failed to read the graph")? as u64 > MAX_GRAPH {
        bail!("the graph is larger than {} MiB", MAX_GRAPH >> 20);
    }
    Ok(bytes)
}

/// As Go writes JSON: safe to stand in a page. The characters can only be within strings.
fn escaped(json: &serde_json::Value) -> String {
    let text = json.to_string();
    text.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}

fn dot(ops: &[DumpedOp]) -> String {
    let mut text = String::from("digraph {\n");
    for op in ops {
        let DumpedOp {
            digest,
            label,
            shape,
            ..
        } = op;
        text.push_str(&format!(
            "  {digest:?} [label={label:?} shape={shape:?}];\n"
        ));
    }
    for op in ops {
        for (input, label) in &op.inputs {
            text.push_str(&format!(
                "  {input:?} -> {:?} [label={label:?}];\n",
                op.digest
            ));
        }
    }
    text.push_str("}\n");
    text
}
