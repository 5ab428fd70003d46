//! What can go wrong with a layer.

use std::io;

use restow_oci::Digest;

/// The result of reading or writing a layer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A layer that could not be read, encoded or verified.
///
/// Offsets called "tar byte" count uncompressed bytes from the start of the tar; "blob byte" counts compressed ones.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source stopped delivering bytes.
    #[error("could not read the layer at blob byte {offset}")]
    Read {
        /// Compressed bytes read before the failure.
        offset: u64,
        /// What the source said.
        source: io::Error,
    },

    /// The destination stopped taking bytes.
    #[error("could not write the layer at blob byte {offset}")]
    Write {
        /// Compressed bytes written before the failure.
        offset: u64,
        /// What the destination said.
        source: io::Error,
    },

    /// The temporary file of compressed frames could not be used.
    #[error("could not use a temporary file in the spool directory")]
    Spool(#[source] io::Error),

    /// The compressed stream is damaged.
    #[error("the {format} stream is corrupt near blob byte {offset}: {problem}")]
    Compression {
        /// `gzip` or `zstd`.
        format: &'static str,
        /// Compressed bytes consumed when the damage was noticed.
        offset: u64,
        /// What is wrong.
        problem: String,
    },

    /// The layer is compressed in a way no runtime reads.
    #[error("unsupported compression {format}")]
    UnsupportedCompression {
        /// The name of the format the first bytes announce.
        format: &'static str,
    },

    /// A zstd frame wants more memory of its reader than is given: what it repeats may lie that far back.
    #[error(
        "the zstd frame at blob byte {offset} asks for a window of {}more than the limit of {limit} bytes",
        window.map_or_else(String::new, |window| format!("{window} bytes, "))
    )]
    Window {
        /// Where the frame starts.
        offset: u64,
        /// The size of the window in bytes, where it is known.
        window: Option<u64>,
        /// The largest that is accepted.
        limit: u64,
    },

    /// The compressor refused its input or parameters.
    #[error("the {format} compressor failed: {problem}")]
    Compressor {
        /// `gzip` or `zstd`.
        format: &'static str,
        /// What it said.
        problem: String,
    },

    /// A frame was compressed wrongly, by the compressor or by broken memory.
    #[error("a frame made of {size} bytes does not decode to them")]
    Frame {
        /// Uncompressed bytes in the frame.
        size: usize,
    },

    /// The tar stream is malformed.
    #[error("tar entry at byte {offset}{}: {problem}", named(.entry))]
    Tar {
        /// Where the entry's first header block starts, in tar bytes.
        offset: u64,
        /// The entry's name, where it is known.
        entry: Option<String>,
        /// What is wrong.
        problem: String,
    },

    /// The entry is well formed, but a table of contents cannot express it.
    ///
    /// Such a layer is fine as a plain layer; the caller may keep it as it is.
    #[error("tar entry at byte {offset}{} cannot be listed in a table of contents: {problem}", named(.entry))]
    Unlistable {
        /// Where the entry's first header block starts, in tar bytes.
        offset: u64,
        /// The entry's name, where it is known.
        entry: Option<String>,
        /// What cannot be expressed.
        problem: String,
    },

    /// A size is beyond what [`restow_oci::Limits`] allows.
    #[error("{what} is {found}, more than the limit of {limit}")]
    Limit {
        /// What was measured, with its unit.
        what: &'static str,
        /// The size found.
        found: u64,
        /// The size allowed.
        limit: u64,
    },

    /// Something in the tar is beyond what [`restow_oci::Limits`] allows.
    #[error("tar entry at byte {offset}{}: {what} is {found}, more than the limit of {limit}", named(.entry))]
    TarLimit {
        /// Where the entry, or the extended header that is too large, starts, in tar bytes.
        offset: u64,
        /// The entry's name, where it is known.
        entry: Option<String>,
        /// What was measured, with its unit.
        what: &'static str,
        /// The size found.
        found: u64,
        /// The size allowed.
        limit: u64,
    },

    /// The layer's table of contents would be larger than [`restow_oci::Limits`] allows.
    ///
    /// Such a layer is fine as a plain one.
    #[error("its table of contents has {found} {unit}, more than the limit of {limit}")]
    TocSize {
        /// How many there are.
        found: u64,
        /// Of what: bytes of JSON, or entries with those of chunks among them.
        unit: &'static str,
        /// How many are allowed.
        limit: u64,
    },

    /// The layer's tar was to stay as it is.
    ///
    /// Files were to be moved, or the tar holds a table of contents or a landmark of an earlier conversion.
    #[error("its tar would change, from DiffID {source_diff_id} to {diff_id}")]
    NewDiffId {
        /// The digest of the source's tar.
        source_diff_id: Digest,
        /// The digest of the result's.
        diff_id: Digest,
    },

    /// Bytes do not have the digest they were announced with.
    #[error("{what} has digest {actual}, expected {expected}")]
    Mismatch {
        /// What was hashed.
        what: String,
        /// The digest announced.
        expected: Digest,
        /// The digest found.
        actual: Digest,
    },

    /// Content cannot be verified, because nothing says what its sha256 digest is.
    #[error("{what} has no sha256 digest to be verified with")]
    Unverifiable {
        /// What would be hashed.
        what: String,
    },

    /// The layer's footer is not valid.
    #[error("the footer is not valid: {0}")]
    Footer(String),

    /// The layer's table of contents is not valid.
    #[error("the table of contents is not valid: {0}")]
    Toc(String),

    /// The layer's tar-split stream is not valid, or not that of its tar.
    #[error("the tar-split stream is not valid: {0}")]
    TarSplit(String),

    /// The layer has no table of contents that can be found.
    #[error("the layer has no table of contents")]
    NotSeekable,

    /// The table of contents and the tar stream disagree.
    #[error("the table of contents and the tar differ at {entry}: {problem}")]
    Disagreement {
        /// The entry's name.
        entry: String,
        /// Where they differ.
        problem: String,
    },

    /// The threads that do the work could not be started, or one of them panicked.
    #[error("the worker threads failed: {0}")]
    Workers(String),
}

impl Error {
    /// Returns whether the layer is a sound tar that merely has no form as a seekable layer.
    pub fn is_unlistable(&self) -> bool {
        matches!(self, Error::Unlistable { .. } | Error::TocSize { .. } | Error::NewDiffId { .. })
    }
}

fn named(entry: &Option<String>) -> String {
    entry.as_ref().map(|name| format!(" ({})", name.escape_debug())).unwrap_or_default()
}
