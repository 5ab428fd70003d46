//! A library of images: rules that say which tags go where, the jobs they make, and the journal of a run.
//!
//! [`Rules::parse`] reads a document in YAML. [`Rules::expand`] asks a [`Catalogue`] which repositories and tags there
//! are, and makes a [`Job`] for each image that the rules select: the words of a command line, as a line of `restow batch`
//! has them. [`Journal`] keeps a line for each job that has ended, so that the same run goes on where it was stopped.
//!
//! Nothing here moves an image or opens a connection.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests fail by panicking"))]

mod duration;
mod error;
mod expand;
mod journal;
mod rules;
mod source;
mod tags;
mod template;

pub use crate::error::Error;
pub use crate::error::Position;
pub use crate::expand::Catalogue;
pub use crate::expand::Expanded;
pub use crate::expand::Job;
pub use crate::expand::Selected;
pub use crate::journal::Journal;
pub use crate::rules::Only;
pub use crate::rules::Operation;
pub use crate::rules::Rules;
pub use crate::source::Source;
pub use crate::tags::Pattern;

/// The result of reading rules or a journal.
pub type Result<T, E = Error> = std::result::Result<T, E>;
