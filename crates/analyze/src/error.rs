use std::path::PathBuf;

use restow_oci::Digest;

/// Why accesses could not be turned into a read order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of accesses is of no use.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// A file cannot be read.
    #[error("cannot be read")]
    Read(#[source] std::io::Error),
    /// A file is longer than this crate reads.
    #[error("longer than {limit} bytes")]
    TooLong {
        /// The most that is read.
        limit: u64,
    },
    /// A file is not text.
    #[error("not UTF-8 from byte {offset} on")]
    NotText {
        /// The first byte that is not UTF-8.
        offset: usize,
    },
    /// A line holds a pattern that cannot be compiled.
    #[error("line {line}: the pattern {pattern:?} is malformed")]
    Pattern {
        /// The line, from 1.
        line: usize,
        /// The pattern as it stands there.
        pattern: String,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A line holds a path that no layer can hold.
    #[error("line {line}: {reason} in the path {path:?}")]
    Path {
        /// The line, from 1.
        line: usize,
        /// The start of the path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A line of a record is not an access.
    #[error("line {line} is not an access record")]
    Record {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file of accesses has more lines than are kept.
    #[error("line {line}: more than {limit} paths")]
    TooMany {
        /// The line, from 1.
        line: usize,
        /// The most that are kept.
        limit: usize,
    },
    /// The names of a layer could not be read.
    #[error("cannot list the files of layer {position}, {digest}")]
    Layer {
        /// The position of the layer in its manifest, from 0.
        position: usize,
        /// The layer's digest.
        digest: Digest,
        /// What reading it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A container could not be run and watched.
    #[error("the container cannot be run: {problem}")]
    Sandbox {
        /// What failed.
        problem: String,
    },
    /// Who runs this may not make the namespaces in which a container runs.
    #[error("this user may not make namespaces: {problem}")]
    Namespaces {
        /// What the kernel said.
        problem: String,
    },
    /// A config names more or fewer layers than the manifest has.
    #[error("the config names {diff_ids} layers, the manifest {layers}")]
    LayerCount {
        /// How many the config names.
        diff_ids: usize,
        /// How many the manifest names.
        layers: usize,
    },
    /// A layer's tar is not the one that the config names.
    #[error("the tar of layer {position} is {actual}, the config names {expected}")]
    DiffId {
        /// The position of the layer in its manifest, from 0.
        position: usize,
        /// The digest that the config names.
        expected: Digest,
        /// The digest of its bytes.
        actual: Digest,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}
