use std::path::Path;
use std::path::PathBuf;

use restow_oci::Digest;

/// Why an image was not found, not read or not published.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reference names a kind of place that is known but cannot be used yet.
    #[error("{reference:?}: {transport} is not supported yet by this version")]
    UnsupportedTransport {
        /// The reference.
        reference: String,
        /// Its prefix.
        transport: &'static str,
    },

    /// The reference names no place.
    #[error("{reference:?} names no path")]
    NoPath {
        /// The reference.
        reference: String,
    },

    /// The reference has a tag that no index may hold.
    #[error("{tag:?} in {reference:?} is not a tag")]
    InvalidTag {
        /// The reference.
        reference: String,
        /// What should have been the tag.
        tag: String,
    },

    /// Nobody said where the store is.
    #[error("no directory is known for the store")]
    NoStore,

    /// An image in a store needs a name: what has none is collected.
    #[error("an image in {place} needs a name")]
    NoName {
        /// The store.
        place: PathBuf,
    },

    /// An image in a store would lose its name to another one.
    #[error("{name:?} already names {digest} in {place}")]
    NameTaken {
        /// The store.
        place: PathBuf,
        /// The name.
        name: String,
        /// The image that has it.
        digest: Digest,
    },

    /// There is nothing at the path.
    #[error("{path} does not exist")]
    NoSuchPath {
        /// The path.
        path: PathBuf,
    },

    /// What lies at the path is something else than an OCI layout.
    #[error("{path} is not an OCI layout: {reason}")]
    NotALayout {
        /// The directory or archive.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A new layout would mix with other files.
    #[error("{path} is neither an OCI layout nor empty: it holds {found:?}")]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// Something that it holds.
        found: String,
    },

    /// The archive is what `docker save` writes.
    #[error("{path} is a docker archive, not an OCI one")]
    DockerArchive {
        /// The archive.
        path: PathBuf,
    },

    /// A new archive would take the place of something that is no archive of images.
    #[error("{path} is not overwritten: it is no archive of images")]
    Occupied {
        /// The file.
        path: PathBuf,
        /// Why it is none.
        source: Box<Error>,
    },

    /// The archive is not readable as a tar.
    #[error("{path}: {problem} at byte {offset}")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// Where the entry or the problem starts.
        offset: u64,
        /// What is wrong.
        problem: String,
    },

    /// The place holds no image.
    #[error("{place} holds no image")]
    Empty {
        /// The layout or archive.
        place: PathBuf,
    },

    /// The place holds several images and the reference does not say which.
    #[error("{place} holds several images, {}; name one", listed(tags))]
    Ambiguous {
        /// The layout or archive.
        place: PathBuf,
        /// Their names, or their digests where they have none.
        tags: Vec<String>,
    },

    /// One tag stands for several images.
    #[error("{tag:?} names several images in {place}, {}; name one by its digest", listed(digests))]
    DuplicateTag {
        /// The layout or archive.
        place: PathBuf,
        /// The tag.
        tag: String,
        /// The images.
        digests: Vec<Digest>,
    },

    /// No image has this tag.
    #[error("{place} holds no image {tag:?}, only {}", listed(tags))]
    UnknownTag {
        /// The layout or archive.
        place: PathBuf,
        /// The tag asked for.
        tag: String,
        /// The tags there are.
        tags: Vec<String>,
    },

    /// No image has this digest.
    #[error("{place} names no image {digest}")]
    UnknownDigest {
        /// The layout or archive.
        place: PathBuf,
        /// The digest asked for.
        digest: Digest,
    },

    /// Blobs that an image needs are nowhere.
    #[error("image {root} lacks {} of its blobs: {}", missing.len(), listed(missing))]
    MissingBlobs {
        /// The image.
        root: Digest,
        /// The blobs.
        missing: Vec<Digest>,
    },

    /// Indexes nest deeper than allowed.
    #[error("image {root}: indexes nest deeper than {limit}")]
    TooDeep {
        /// The image.
        root: Digest,
        /// The limit.
        limit: usize,
    },

    /// The place or the image has more parts than allowed.
    #[error("{what} has more than {limit} parts")]
    TooMany {
        /// The image or the archive.
        what: String,
        /// The limit.
        limit: usize,
    },

    /// A document is not what it should be.
    #[error("cannot use {what}")]
    Document {
        /// The document.
        what: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// The text names nothing in a registry.
    #[error("{name:?} is not the name of an image: expected HOST/NAME[:TAG][@DIGEST]")]
    InvalidName {
        /// The text.
        name: String,
    },

    /// The registry does not have it, or does not show it.
    #[error("{name} not found")]
    NotInRegistry {
        /// The image or blob.
        name: String,
    },

    /// The registry answered with an error.
    #[error("{request}: {status}{}", said(message))]
    Status {
        /// Method and URL, without its query.
        request: String,
        /// The HTTP status.
        status: u16,
        /// The registry's own codes for what is wrong, such as `MANIFEST_BLOB_UNKNOWN`.
        codes: Vec<String>,
        /// What the registry said of it.
        message: String,
    },

    /// The registry could not be reached, or fell silent, as often as was tried.
    #[error("{request}: failed {attempts} times")]
    Connection {
        /// Method and URL, without its query.
        request: String,
        /// How often it was tried.
        attempts: u32,
        /// What the last attempt met.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// Nobody that is trusted vouches for the registry's certificate.
    #[error("the certificate of {host} is of an unknown authority")]
    UnknownAuthority {
        /// The registry.
        host: String,
    },

    /// The registry's certificate is none for it, or no longer.
    #[error("the certificate of {host} cannot be accepted")]
    InvalidCertificate {
        /// The registry.
        host: String,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// The registry answers without TLS where TLS was asked for.
    #[error("{host} does not speak TLS")]
    NoTls {
        /// The registry.
        host: String,
    },

    /// The registry answered with something that no registry should, or that is not safe to follow.
    #[error("{request}: {problem}")]
    Protocol {
        /// Method and URL, without its query.
        request: String,
        /// What is wrong.
        problem: String,
    },

    /// The registry asks for a login that is not known, or refuses the one that is.
    #[error("{host} refuses access to {what}: {problem}")]
    Unauthorized {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// Why.
        problem: String,
    },

    /// A file that says how registries are reached, or who we are to them, cannot be used.
    #[error("cannot use {path}: {problem}")]
    Configuration {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },

    /// A credential helper failed.
    #[error("credential helper {helper}: {problem}")]
    CredentialHelper {
        /// The program.
        helper: String,
        /// What is wrong.
        problem: String,
    },

    /// A line of input to a deployment is not one.
    #[error("cannot deploy {what}: {problem}")]
    Deployment {
        /// The first reference of the input, or what stands for it.
        what: String,
        /// What is wrong.
        problem: String,
    },

    /// An index cannot be made of what a reference names.
    #[error("cannot make an index of {name}: {problem}")]
    Synthesis {
        /// The reference.
        name: String,
        /// What is wrong.
        problem: String,
    },

    /// A place cannot be read from, or not be written to.
    #[error("{reference}: {problem}")]
    Unusable {
        /// The reference.
        reference: String,
        /// What is wrong with its use.
        problem: &'static str,
    },

    /// The files or the store.
    #[error(transparent)]
    Content(#[from] restow_content::Error),
}

impl Error {
    /// Returns whether something is missing rather than wrong.
    pub fn is_not_found(&self) -> bool {
        match self {
            Error::NotInRegistry { .. } => true,
            // Of a registry it may turn out when a blob is read.
            Error::Content(restow_content::Error::Read { source, .. }) => {
                let cause = source.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
                cause.is_some_and(Error::is_not_found)
            }
            Error::Content(error) => error.is_not_found(),
            _ => false,
        }
    }
}

/// Names the document that could not be used.
pub(crate) fn unusable<E>(what: impl Into<String>) -> impl FnOnce(E) -> Error
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |source| Error::Document { what: what.into(), source: source.into() }
}

pub(crate) fn not_a_layout(path: &Path, reason: impl Into<String>) -> Error {
    Error::NotALayout { path: path.to_owned(), reason: reason.into() }
}

/// Sets what a registry said apart from the status.
fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(", {message}") }
}

/// Joins names for a message, the first few of them.
fn listed<T: ToString>(names: &[T]) -> String {
    const SHOWN: usize = 10;
    let mut shown: Vec<_> = names.iter().take(SHOWN).map(T::to_string).collect();
    if names.len() > SHOWN {
        shown.push(format!("and {} more", names.len() - SHOWN));
    }
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}
