use std::fmt;
use std::io;
use std::path::PathBuf;

/// Where in a document something stands, both counted from 1.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Position {
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl From<serde_saphyr::Location> for Position {
    fn from(location: serde_saphyr::Location) -> Position {
        Position { line: location.line().max(1), column: location.column().max(1) }
    }
}

/// What can go wrong with rules and journals.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rules are not YAML, or not of the form that is asked for, or contradict each other.
    #[error("{at}: {problem}")]
    Rules {
        /// Where.
        at: Position,
        /// What is wrong there.
        problem: String,
    },

    /// The rules take more bytes than are read.
    #[error("the rules take more than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },

    /// A source cannot be listed.
    #[error("{at}: {source_name} cannot be listed")]
    Listing {
        /// Where the rules name the source.
        at: Position,
        /// The source.
        source_name: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// A journal cannot be read or written.
    #[error("cannot {action} journal {path}")]
    Journal {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// A line of a journal is none.
    #[error("{path}:{line}: this is not a line of a journal")]
    NotAJournal {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
}

/// Makes an error of a problem at a position.
pub(crate) fn wrong(at: impl Into<Position>, problem: impl Into<String>) -> Error {
    Error::Rules { at: at.into(), problem: problem.into() }
}
