//! What can be wrong with a document or one of its parts.

/// The result of everything here that reads untrusted input.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a digest, a platform or a document was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not a digest of the OCI grammar.
    #[error("expected {expected}, found digest {digest:?}")]
    Digest {
        /// The text, cut where it is long.
        digest: String,
        /// The rule it breaks.
        expected: &'static str,
    },
    /// The digest is well-formed, but its algorithm cannot be computed here.
    #[error("cannot verify digests other than sha256 and sha512")]
    Unverifiable,
    /// The text is not a media type.
    #[error("expected {expected}, found media type {media_type:?}")]
    MediaType {
        /// The text, cut where it is long.
        media_type: String,
        /// The rule it breaks.
        expected: &'static str,
    },
    /// The text is not a platform specifier.
    #[error("expected {expected}, found platform {platform:?}")]
    Platform {
        /// The text, cut where it is long.
        platform: String,
        /// The rule it breaks.
        expected: &'static str,
    },
    /// The document is longer than its limit allows.
    #[error("expected {document} of at most {limit} bytes, found {size}")]
    TooLarge {
        /// The kind of document.
        document: &'static str,
        /// Its size.
        size: u64,
        /// The limit it exceeds.
        limit: u64,
    },
    /// The document is not JSON, holds a key twice, nests too deeply or holds too many values.
    #[error("{document} is not strict JSON")]
    Json {
        /// The kind of document.
        document: &'static str,
        /// The rule it breaks, with line and column.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A field is missing or holds something else than it should.
    #[error("{document}: expected {expected} at {field:?}, found {found}")]
    Field {
        /// The kind of document.
        document: &'static str,
        /// The way to the field from the document's root, for instance `layers[3].size`.
        field: String,
        /// What belongs there.
        expected: String,
        /// What is there, cut where it is long.
        found: String,
    },
    /// A key differs from a known key by case alone, so that readers disagree on what it means.
    #[error("{document}: expected key {known:?}, found {found:?}, which only some readers take for it")]
    CaseVariant {
        /// The kind of document.
        document: &'static str,
        /// The way to the key from the document's root.
        found: String,
        /// The key as it should be written.
        known: &'static str,
    },
    /// The document's media type is not the one its descriptor or its shape calls for.
    #[error("expected {document} of media type {expected}, found {found}")]
    Contradiction {
        /// The kind of document its reader expects.
        document: &'static str,
        /// The media type that belongs there.
        expected: String,
        /// The media type that the document or its descriptor names.
        found: String,
    },
    /// The document holds what belongs to another kind of document.
    #[error("expected {document}, found a document with {key:?}")]
    Shape {
        /// The kind of document its reader expects.
        document: &'static str,
        /// The key that belongs to the other kind.
        key: &'static str,
    },
    /// The document is of Docker's image manifest schema 1, which no longer has a use.
    #[error("image manifest schema 1 is not supported")]
    Schema1,
    /// An edit names a position that the document does not have.
    #[error("{document}: expected a position below {count} in {field}, found {position}")]
    Position {
        /// The kind of document.
        document: &'static str,
        /// The list the edit is for.
        field: &'static str,
        /// The position asked for.
        position: usize,
        /// How many there are.
        count: usize,
    },
}

/// Returns the start of `text`, short enough for a message.
pub(crate) fn excerpt(text: &str) -> String {
    const LENGTH: usize = 100;
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Returns an error and its sources as one line.
#[cfg(test)]
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let messages = std::iter::successors(Some(error), |error| error.source());
    messages.map(|error| error.to_string()).collect::<Vec<_>>().join(": ")
}
