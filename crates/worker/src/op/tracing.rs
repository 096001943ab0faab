//! What a step of a build that belongs to a trace finds: where to send spans of its own, and the span
//! that they belong to (as BuildKit: `executor/oci/spec.go`).

use std::os::fd::AsFd as _;
use std::path::PathBuf;

use executor::MountAt;
use oci_spec::runtime::Spec;
use sys::mount::{Bind, bind_clone};
use sys::root::{Follow, RootDir};

use super::exec::Step;
use crate::failure::Failure;
use crate::state::Shared;

/// Where the socket is in a container.
const SOCKET: &str = "/dev/otel-grpc.sock";

/// What OpenTelemetry's libraries look for. What the build sets stays as it is.
const EXPORTER: [(&str, &str); 3] = [
    ("OTEL_TRACES_EXPORTER", "otlp"),
    (
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "unix:///dev/otel-grpc.sock",
    ),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
];

/// The span of whoever started the process.
const PARENT: &str = "TRACEPARENT";

/// The tracing of one step.
pub(super) struct Tracing {
    pub(super) mount: MountAt,
    parent: String,
}

impl Tracing {
    /// `None` for a step that belongs to no trace, or where nobody listens for spans.
    pub(super) fn of(shared: &Shared, step: &Step<'_>) -> Result<Option<Tracing>, Failure> {
        let (parent, path) = match (step.trace_parent, &shared.options.trace_socket) {
            ("", _) | (_, None) => return Ok(None),
            (parent, Some(path)) => (parent, path),
        };
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(None);
        };
        let clone = || {
            let socket = RootDir::open(directory)?.resolve(name.as_ref(), Follow::No)?;
            let how = Bind {
                readonly: true,
                recursive: false,
            };
            bind_clone(socket.as_fd(), how)
        };
        let mount = clone().map_err(|error| {
            Failure::host(error).context(format!("failed to mount `{}`", path.display()))
        })?;
        Ok(Some(Tracing {
            mount: MountAt {
                mount,
                destination: PathBuf::from(SOCKET),
                readonly: true,
            },
            parent: parent.to_owned(),
        }))
    }

    /// Adds to the environment of the step's process.
    pub(super) fn tell(&self, spec: &mut Spec) {
        let Some(process) = spec.process_mut() else {
            return;
        };
        let mut env = process.env().clone().unwrap_or_default();
        let is = |entry: &String, name: &str| entry.split('=').next() == Some(name);
        for (name, value) in EXPORTER {
            if !env.iter().any(|entry| is(entry, name)) {
                env.push(format!("{name}={value}"));
            }
        }
        env.retain(|entry| !is(entry, PARENT));
        env.push(format!("{PARENT}={}", self.parent));
        process.set_env(Some(env));
    }
}
