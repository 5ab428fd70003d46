//! OCI documents that survive a rewrite: digests, descriptors, platforms, media types, edits; no I/O.
//!
//! The one rule: a document is *edited*, never rebuilt. [`Manifest`], [`Index`] and [`Config`] keep the JSON
//! they were parsed from; an edit replaces the fields it names and nothing else, and a document in which
//! nothing changed is written with its original bytes, and so keeps its digest.
//!
//! Everything parsed here is untrusted. A digest that exists as a [`Digest`] is safe as a path, a document
//! that exists as a value has passed its [`Limits`] and means the same to every reader: no key twice, none
//! that Go's case-insensitive decoder would take for another.
//!
//! To teach the crate a media type, add a constant and its [`Kind`] in `media_type.rs`; to read a new field of
//! a document, add it to the known keys of its file and to its reader.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests fail by panicking"))]

pub mod annotations;
mod config;
mod descriptor;
mod digest;
mod document;
mod error;
mod foreign;
mod index;
mod json;
mod limits;
mod manifest;
mod matcher;
mod media_type;
mod platform;
mod timestamp;

pub use config::Config;
pub use descriptor::Descriptor;
pub use digest::Algorithm;
pub use digest::Digest;
pub use digest::Digester;
pub use error::Error;
pub use error::Result;
pub use foreign::foreign_parts;
pub use index::Index;
pub use limits::Limits;
pub use limits::PredictionLimits;
pub use manifest::Manifest;
pub use matcher::PlatformMatcher;
pub use media_type::Compression;
pub use media_type::Kind;
pub use media_type::MediaType;
pub use platform::Platform;
pub use timestamp::InvalidTimestamp;
pub use timestamp::Timestamp;
