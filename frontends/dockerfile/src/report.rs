//! Warnings and errors as the engine takes them: with the lines that they are about.

use std::sync::Arc;

use frontend::{FrontendError, SourceLocation, Warning};
use llb::builder::SourceFile;
use oci::Digest;

use crate::lint::LintWarning;
use crate::lower::Failure;
use crate::span::LineSpan;

/// Places in one file. They share its text, as there may be many.
pub(crate) struct Places<'a> {
    file: &'a SourceFile,
    data: Arc<[u8]>,
}

impl Places<'_> {
    pub(crate) fn of(file: &SourceFile) -> Places<'_> {
        let data = Arc::from(file.data.as_ref());
        Places { file, data }
    }

    fn at(&self, span: LineSpan) -> SourceLocation {
        SourceLocation {
            filename: self.file.filename.clone(),
            language: self.file.language.clone(),
            data: self.data.clone(),
            ranges: span.ranges(),
        }
    }

    /// What a rule found, shown on the vertex that brought the file in.
    pub(crate) fn warning(&self, vertex: Digest, found: &LintWarning) -> Warning {
        Warning {
            vertex,
            level: 1,
            short: found.short(),
            detail: vec![found.rule.description().to_owned()],
            url: found.rule.url(),
            location: Some(self.at(found.span)),
        }
    }
}

impl Failure {
    /// The error as the engine takes it.
    pub(crate) fn into_frontend(self, file: Option<&SourceFile>) -> FrontendError {
        let message = self.message();
        let spans = self.spans.iter().filter(|span| span.start > 0);
        let mut locations = match file.map(Places::of) {
            Some(places) => spans.map(|span| places.at(*span)).collect(),
            None => Vec::new(),
        };
        match self.engine_error() {
            Some(FrontendError::Step {
                class,
                vertex,
                exit_code,
                locations: inner,
                remains,
                ..
            }) => {
                let mut all = inner.clone();
                all.append(&mut locations);
                let (class, vertex, exit_code) = (*class, *vertex, *exit_code);
                FrontendError::Step {
                    message,
                    class,
                    vertex,
                    exit_code,
                    locations: all,
                    remains: remains.clone(),
                }
            }
            Some(FrontendError::Foreign {
                class,
                received,
                locations: inner,
                ..
            }) => {
                let mut all = inner.clone();
                all.append(&mut locations);
                FrontendError::Foreign {
                    message,
                    class: *class,
                    received: received.clone(),
                    locations: all,
                }
            }
            Some(
                FrontendError::Invalid { .. }
                | FrontendError::NotFound(_)
                | FrontendError::UnsupportedCapability(_)
                | FrontendError::UnsupportedSubrequest(_)
                | FrontendError::Unsupported(_),
            )
            | None => FrontendError::Invalid { message, locations },
        }
    }
}

/// An error of another frontend, with what led to it.
pub(crate) fn located(
    error: FrontendError,
    context: Option<&str>,
    file: &SourceFile,
    spans: &[LineSpan],
) -> FrontendError {
    let with_context = |message: String| match context {
        Some(context) => format!("{context}: {message}"),
        None => message,
    };
    let file = Places::of(file);
    let places = spans.iter().map(|span| file.at(*span));
    match error {
        FrontendError::Invalid {
            message,
            mut locations,
        } => {
            locations.extend(places);
            FrontendError::Invalid {
                message: with_context(message),
                locations,
            }
        }
        FrontendError::Step {
            message,
            class,
            vertex,
            exit_code,
            mut locations,
            remains,
        } => {
            locations.extend(places);
            let message = with_context(message);
            FrontendError::Step {
                message,
                class,
                vertex,
                exit_code,
                locations,
                remains,
            }
        }
        FrontendError::Foreign {
            message,
            class,
            received,
            mut locations,
        } => {
            locations.extend(places);
            FrontendError::Foreign {
                message: with_context(message),
                class,
                received,
                locations,
            }
        }
        FrontendError::NotFound(message) => FrontendError::Invalid {
            message: with_context(message),
            locations: places.collect(),
        },
        FrontendError::Unsupported(message) => FrontendError::Unsupported(with_context(message)),
        // These are typed for clients, which look at the name only.
        error @ (FrontendError::UnsupportedCapability(_)
        | FrontendError::UnsupportedSubrequest(_)) => error,
    }
}
