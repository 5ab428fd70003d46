//! Why something could not be done.

use std::error::Error as StdError;
use std::io;

use restow_analyze as analyze;
use restow_content as content;
use restow_convert as convert;
use restow_layer as layer;
use restow_oci as oci;
use restow_registry as registry;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be done. The destination is then as it was.
///
/// An error of one of the crates below says what it says there: [`source`](StdError::source) goes on behind it, and
/// [`carried`](Error::carried) is the error itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something is wrong with one image, layer or file.
    #[error("{place}")]
    At {
        /// Which one: the name of an image, a layer's position and digest, a path.
        place: String,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// What was asked for contradicts itself.
    #[error("{0}")]
    Options(String),
    /// A reference leads to no image.
    #[error("{name} is no image and leads to none")]
    NoImage {
        /// The reference.
        name: String,
    },
    /// A reference leads to several images where one is meant.
    #[error("{name}: {count} images are meant, choose one with --platform")]
    SeveralImages {
        /// The reference.
        name: String,
        /// How many there are.
        count: usize,
    },
    /// An image has fewer layers.
    #[error("{name}: there is no layer {position}, only {count} layer{}", if *.count == 1 { "" } else { "s" })]
    NoSuchLayer {
        /// The image.
        name: String,
        /// The layer's position, counted from 0.
        position: usize,
        /// How many there are.
        count: usize,
    },
    /// A path leads to nothing in an image.
    #[error("there is no {}", path.escape_debug())]
    NoSuchFile {
        /// The path.
        path: String,
    },
    /// A path leads to something without content that could be read.
    #[error("{} {problem}", path.escape_debug())]
    NotAFile {
        /// The path.
        path: String,
        /// What it is, as the rest of a sentence.
        problem: String,
    },
    /// A blob is another one than it was a moment ago.
    #[error("the layer has changed while it was read")]
    Changed,
    /// The table of contents of a layer is in another image, which was not found.
    #[error("the table of contents is in another image; --toc-image says in which")]
    TocElsewhere,
    /// A digest or a count is another one than a document says.
    #[error("{0}")]
    Mismatch(String),
    /// So much refers to an image that it is not looked at.
    #[error("{subject} has too many referrers")]
    TooManyReferrers {
        /// The image.
        subject: oci::Digest,
    },
    /// A workload's program ended before the watching did, and not well.
    #[error(
        "{name}: the container's program ended with {code} before the watching did; --allow-failure takes what it read"
    )]
    WorkloadFailed {
        /// The name of the workload.
        name: String,
        /// The exit status of its program.
        code: i32,
    },
    /// The work was asked to stop.
    #[error(transparent)]
    Cancelled(#[from] convert::Cancelled),
    /// A document is malformed.
    #[error(transparent)]
    Oci(#[from] oci::Error),
    /// A blob could not be read or written.
    #[error(transparent)]
    Content(#[from] content::Error),
    /// A layer could not be read.
    #[error(transparent)]
    Layer(#[from] layer::Error),
    /// An image could not be converted.
    #[error(transparent)]
    Convert(#[from] convert::Error),
    /// An image could not be found or moved.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// The accesses to an image's files could not be had.
    #[error(transparent)]
    Analyze(#[from] analyze::Error),
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Error {
    /// Returns the error of another crate that this one stands for.
    pub fn carried(&self) -> Option<&(dyn StdError + 'static)> {
        Some(match self {
            Error::Cancelled(error) => error,
            Error::Oci(error) => error,
            Error::Content(error) => error,
            Error::Layer(error) => error,
            Error::Convert(error) => error,
            Error::Registry(error) => error,
            Error::Analyze(error) => error,
            Error::Io(error) => error,
            _ => return None,
        })
    }

    /// Says whether a blob or an image is not there.
    pub fn is_not_found(&self) -> bool {
        match self {
            Error::Content(error) => error.is_not_found(),
            Error::Registry(error) => error.is_not_found(),
            _ => false,
        }
    }

    pub(crate) fn not_a_file(path: &str, problem: impl Into<String>) -> Self {
        Error::NotAFile { path: path.to_owned(), problem: problem.into() }
    }
}

/// Says of an error what it is about.
pub(crate) trait Context<T> {
    /// Says it by `place`, if there is an error.
    fn with_context(self, place: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn with_context(self, place: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::At { place: place(), source: Box::new(error.into()) })
    }
}

/// Returns an error and what caused it in one line.
pub fn describe(error: &(dyn StdError + 'static)) -> String {
    let mut words: Vec<String> = Vec::new();
    for cause in std::iter::successors(Some(error), |&error| error.source()).map(ToString::to_string) {
        // Some wrappers repeat what they wrap.
        if words.last() != Some(&cause) {
            words.push(cause);
        }
    }
    words.join(": ").replace('\n', " ")
}
