//! Writing graphs in Rust: states in, a [`crate::Definition`] out.
//!
//! The ops, their order and their metadata are those that BuildKit's `client/llb` makes of the
//! same calls, byte for byte, since digests depend on them. A [`Builder`] owns the vertices; a
//! [`State`] is a cheap handle to one output together with what a container on it starts with.

mod env;
mod exec;
mod file;
mod import;
mod marshal;
mod source;
mod state;

use bytes::Bytes;
use oci::Platform;

use crate::{OpMetadata, Range};

pub use env::Env;
pub use exec::{BuilderMount, Run, SecretSpec, SshSpec};
pub use file::{Copy, FileStep, OwnerSpec, UserSpec, copy_owner};
pub use marshal::{DEFAULT_PATH, Defaults};
pub use source::{GitSource, HttpSource, ImageSource, LocalSource};
pub use state::State;

use exec::ExecVertex;
use file::FileVertex;
use import::ImportedVertex;
use source::SourceVertex;

/// Owns the vertices of graphs that are being written.
#[derive(Debug, Default)]
pub struct Builder {
    vertices: Vec<Vertex>,
    /// Outputs that are known only later, e.g. the build context, whose filter depends on its use.
    deferred: Vec<Option<Output>>,
    files: Vec<SourceFile>,
}

/// A vertex and what is said about it.
#[derive(Debug)]
struct Vertex {
    kind: VertexKind,
    options: Options,
}

#[derive(Debug)]
enum VertexKind {
    Source(SourceVertex),
    Exec(Box<ExecVertex>),
    File(FileVertex),
    Merge(Vec<Output>),
    Imported(ImportedVertex),
}

/// One output of a vertex, or one that will be known later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Vertex { vertex: usize, index: u32 },
    Deferred(usize),
}

/// What is said about a vertex, apart from what it does.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where it runs; `None` is the state's platform, else the definition's.
    pub platform: Option<Platform>,
    /// Names, capabilities and the like.
    pub metadata: OpMetadata,
    /// Where it is written.
    pub locations: Vec<(FileId, Vec<Range>)>,
}

impl Options {
    /// Options with nothing but a name to show.
    pub fn named(name: impl Into<String>) -> Options {
        Options::default().name(name)
    }

    /// Sets the name to show.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Options {
        self.describe("llb.customname", name)
    }

    /// Adds a description.
    #[must_use]
    pub fn describe(mut self, key: &str, value: impl Into<String>) -> Options {
        self.metadata
            .description
            .insert(key.to_owned(), value.into());
        self
    }

    /// Adds a place.
    #[must_use]
    pub fn at(mut self, place: Option<(FileId, Vec<Range>)>) -> Options {
        self.locations.extend(place);
        self
    }

    fn cap(&mut self, id: &str) {
        self.metadata.caps.insert(id.to_owned(), true);
    }
}

/// Names a source file of a [`Builder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId(usize);

/// A source file that vertices are written in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceFile {
    /// Its name.
    pub filename: String,
    /// Its language, e.g. `Dockerfile`.
    pub language: String,
    /// Its text.
    pub data: Bytes,
    /// What brought it in.
    pub definition: Option<crate::Definition>,
}

/// Names an output that is known only later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeferredId(usize);

impl Builder {
    /// A builder without vertices.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Adds a source file.
    pub fn source_file(&mut self, file: SourceFile) -> FileId {
        self.files.push(file);
        FileId(self.files.len() - 1)
    }

    /// A state whose output is given later with [`Builder::resolve`].
    pub fn defer(&mut self) -> (DeferredId, State) {
        self.deferred.push(None);
        let id = self.deferred.len() - 1;
        (DeferredId(id), State::of(Some(Output::Deferred(id)), None))
    }

    /// Gives a deferred state its output; without one it stays empty.
    pub fn resolve(&mut self, id: DeferredId, state: &State) {
        self.deferred[id.0] = state.output;
    }

    /// Stacks states, the later over the earlier. Empty states are left out; what is left of one
    /// state alone is that state.
    pub fn merge(&mut self, states: &[&State], mut options: Options) -> State {
        let full: Vec<&State> = states.iter().copied().filter(|s| !s.is_scratch()).collect();
        match full.as_slice() {
            [] => State::scratch(),
            [one] => (*one).clone(),
            [first, ..] => {
                options.cap("mergeop");
                let inputs = full.iter().filter_map(|state| state.output).collect();
                let output = self.add(VertexKind::Merge(inputs), options);
                first.with_output(output)
            }
        }
    }

    fn add(&mut self, kind: VertexKind, options: Options) -> Output {
        self.vertices.push(Vertex { kind, options });
        Output::Vertex {
            vertex: self.vertices.len() - 1,
            index: 0,
        }
    }
}

#[cfg(test)]
mod tests;
