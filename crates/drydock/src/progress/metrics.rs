//! How much of a build was found in the build cache.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context as _;
use client::progress::Progress;
use serde_json::json;

/// Steps that are not the user's begin so.
const INTERNAL: [&str; 4] = ["[internal]", "[auth]", "importing cache", "exporting "];

/// Counts the steps of one build. Clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    begun: Instant,
    steps: Arc<Mutex<BTreeMap<String, Step>>>,
}

#[derive(Debug, Default)]
struct Step {
    name: String,
    cached: bool,
    completed: bool,
}

impl Step {
    fn is_internal(&self) -> bool {
        INTERNAL.iter().any(|prefix| self.name.starts_with(prefix))
    }

    /// Whether it is an image that another step begins with: `[1/3] FROM …`.
    fn is_base(&self) -> bool {
        self.name.starts_with('[') && self.name.contains("] FROM")
    }
}

impl Metrics {
    /// For a build that begins now.
    pub(crate) fn begin() -> Metrics {
        Metrics {
            begun: Instant::now(),
            steps: Arc::default(),
        }
    }

    pub(super) fn update(&self, progress: &Progress) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        for vertex in &progress.vertexes {
            let step = steps.entry(vertex.digest.clone()).or_default();
            step.name.clone_from(&vertex.name);
            step.cached |= vertex.cached;
            step.completed |= vertex.completed.is_some();
        }
    }

    /// Writes what was counted: steps that were not found, and the counts as JSON.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let failed = || format!("failed to write metrics to `{}`", path.display());
        let mut out: Box<dyn Write> = match path.to_str() {
            Some("stdout") => Box::new(io::stdout()),
            Some("stderr") => Box::new(io::stderr()),
            _ => {
                let mut options = File::options();
                options.write(true).create(true).truncate(true).mode(0o600);
                Box::new(options.open(path).with_context(failed)?)
            }
        };
        out.write_all(self.text().as_bytes()).with_context(failed)
    }

    fn text(&self) -> String {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |test: &dyn Fn(&Step) -> bool| steps.values().filter(|step| test(step)).count();
        let own = |step: &Step| !step.is_internal();
        let missed = |step: &Step| own(step) && !step.cached && !step.is_base();
        let mut text = String::new();
        for step in steps.values().filter(|step| missed(step)) {
            text.push_str(&format!("cache miss: {}\n", step.name));
        }
        let counts = json!({
            "total": steps.len(),
            "completed": count(&|step| step.completed),
            "user_total": count(&own),
            "user_cached": count(&|step| own(step) && step.cached),
            "user_completed": count(&|step| own(step) && step.completed),
            "user_cacheable": count(&|step| own(step) && !step.is_base()),
            "from": count(&|step| own(step) && step.is_base()),
            "miss": count(&missed),
            "client_duration_ms": u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        });
        text + &format!("{counts}\n")
    }
}

#[cfg(test)]
mod tests {
    use client::progress::Vertex;

    use super::*;

    #[test]
    fn steps_of_the_user_are_counted() {
        let metrics = Metrics::begin();
        let vertex = |name: &str, cached: bool| Vertex {
            digest: name.to_owned(),
            name: name.to_owned(),
            cached,
            completed: Some(std::time::SystemTime::now()),
            ..Vertex::default()
        };
        metrics.update(&Progress {
            vertexes: vec![
                vertex("[internal] load", false),
                vertex("[1/3] FROM a", false),
                vertex("[2/3] RUN b", true),
                vertex("[3/3] RUN c", false),
            ],
            ..Progress::default()
        });
        let text = metrics.text();
        let (missed, counts) = text.split_once('\n').unwrap();
        assert_eq!(missed, "cache miss: [3/3] RUN c");
        let counts: serde_json::Value = serde_json::from_str(counts).unwrap();
        assert_eq!(
            (&counts["total"], &counts["user_total"]),
            (&json!(4), &json!(3))
        );
        assert_eq!(
            (&counts["user_cached"], &counts["miss"]),
            (&json!(1), &json!(1))
        );
        assert_eq!(
            (&counts["user_cacheable"], &counts["from"]),
            (&json!(2), &json!(1))
        );
    }
}
