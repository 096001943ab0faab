//! Subrequests: questions about a Dockerfile that build nothing.

mod convert;
mod describe;
mod json;
mod lint;
mod outline;
mod targets;

use bytes::Bytes;
use frontend::{BuildResult, FrontendError};

use crate::build::{Build, Source};
use crate::lower;

pub use lint::LintReport;
pub use targets::Target;

pub(crate) use targets::list;

/// Answers a subrequest.
pub(crate) async fn answer(
    build: &Build,
    source: &Source,
    request: &str,
) -> Result<BuildResult, FrontendError> {
    // Questions are about one platform, and what the file says of others is the same.
    match request {
        describe::NAME => Ok(describe::answer()),
        outline::NAME => {
            let lowered = build.lower(source, None, true).await?;
            Ok(outline::answer(&lowered.outline, &source.file))
        }
        targets::NAME => {
            let targets = list(&source.file.data)
                .map_err(|failure| failure.into_frontend(Some(&source.file)))?;
            Ok(targets::answer(&targets, &source.file))
        }
        lint::NAME => {
            let mut request = build.request(source, None, true);
            // Without a target, all of them.
            request.all_stages = build.options.target.is_empty();
            let (lowered, warnings) = lower::lower(request, &build.client).await;
            let report = LintReport::new(warnings, lowered.err());
            Ok(report.answer(&source.file))
        }
        convert::NAME => {
            let lowered = build.lower(source, None, true).await?;
            convert::answer(&lowered.definition())
        }
        other => Err(FrontendError::UnsupportedSubrequest(other.to_owned())),
    }
}

/// A result that is metadata only.
fn metadata(items: &[(&str, &str)]) -> BuildResult {
    let items = items.iter();
    let metadata = items
        .map(|(key, value)| ((*key).to_owned(), Bytes::copy_from_slice(value.as_bytes())))
        .collect();
    BuildResult {
        metadata,
        ..BuildResult::default()
    }
}
