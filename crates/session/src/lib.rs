//! A live client, seen from the daemon and from a worker.
//!
//! Owns the registry of sessions ([`Sessions`]), the service that carries a worker's calls to them
//! ([`Proxy`]) and the calls that a worker makes ([`SessionCalls`]). Knows nothing of builds. Start
//! at [`Sessions::accept`]. (BuildKit: `session/`.)

mod calls;
mod error;
mod exporters;
mod health;
mod output;
mod proxy;
mod registry;
mod store;
mod sync;

pub use calls::{Authority, FetchToken, Login, SessionCalls, Token};
pub use error::{FilesError, SessionError};
pub use exporters::WantedExporter;
pub use output::{DirTarget, TarWriter};
pub use proxy::{HEADER, Proxy};
pub use registry::{Identity, Session, Sessions};
pub use store::BlobStream;
pub use sync::Patterns;
