//! Looking at a Dockerfile without an engine.

use std::collections::BTreeMap;

use frontend::FrontendError;
use futures::FutureExt as _;
use llb::builder::SourceFile;
use oci::Platform;

use crate::build::LANGUAGE;
use crate::context::Offline;
use crate::lint::LintWarning;
use crate::lower::{self, Caps, Failure, LowerError, Lowered, Outline, Request, chain};
use crate::options::Options;
use crate::requests::{self, LintReport, Target};

/// A Dockerfile, and what goes with it.
#[derive(Clone, Debug, Default)]
pub struct SourceText {
    /// The file's name.
    pub filename: String,
    /// Its text.
    pub data: Vec<u8>,
    /// The ignore file of the context, if there is one.
    pub ignore: Option<Vec<u8>>,
}

/// Applies the lint rules to all stages, or to those that the option `target` needs.
///
/// # Errors
/// When the options, not the file, are wrong: what is wrong with the file is in the report.
pub fn lint(
    text: &SourceText,
    options: &BTreeMap<String, String>,
) -> Result<LintReport, FrontendError> {
    let (lowered, warnings) = lower(text, options, true)?;
    Ok(LintReport::new(warnings, lowered.err()))
}

/// What the target takes from outside.
///
/// # Errors
/// When the options or the file are wrong.
pub fn outline(
    text: &SourceText,
    options: &BTreeMap<String, String>,
) -> Result<Outline, FrontendError> {
    let (lowered, _) = lower(text, options, false)?;
    let lowered = lowered.map_err(|failure| failure.into_frontend(Some(&file(text))))?;
    Ok(lowered.outline)
}

/// The stages that can be built.
///
/// # Errors
/// When the file is wrong.
pub fn targets(text: &SourceText) -> Result<Vec<Target>, FrontendError> {
    requests::list(&text.data).map_err(|failure| failure.into_frontend(Some(&file(text))))
}

fn file(text: &SourceText) -> SourceFile {
    SourceFile {
        filename: text.filename.clone(),
        language: LANGUAGE.to_owned(),
        data: text.data.clone().into(),
        definition: None,
    }
}

type Looked = (Result<Lowered, Failure>, Vec<LintWarning>);

fn lower(
    text: &SourceText,
    options: &BTreeMap<String, String>,
    lint: bool,
) -> Result<Looked, FrontendError> {
    let options = Options::read(options, Platform::host())
        .map_err(|error| FrontendError::invalid(chain(&error)))?;
    let ignore = text
        .ignore
        .as_deref()
        .map(fstree::dockerignore::parse)
        .transpose();
    let ignore = ignore.map_err(|error| FrontendError::invalid(error.to_string()))?;
    let surroundings = Offline {
        ignore: ignore.unwrap_or_default(),
    };
    let request = Request {
        file: file(text),
        options: &options,
        target_platform: options.target_platforms.first().cloned(),
        all_stages: lint && options.target.is_empty(),
        lint,
        caps: Caps::of(|_| true),
    };
    let looked = lower::lower(request, &surroundings).now_or_never();
    // Nothing of these surroundings waits.
    Ok(looked.unwrap_or_else(|| (Err(LowerError::Empty.into()), Vec::new())))
}
