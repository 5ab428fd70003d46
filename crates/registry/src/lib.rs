//! Moves images between a store and a registry, a layout or an archive; index synthesis.
//!
//! A [`Reference`] says where an image lies; [`open_source`] makes of it a [`Source`], the blobs to read and
//! the descriptor to start from, whatever kind of place it is. Only a [`Layout`] can be written to so far.
//! Its rule: blobs first, then `index.json`, which is replaced at once, so that a reader meets the old image
//! or the new one.
//!
//! To add a kind of place, add its prefix to `reference.rs`, a module that makes a [`Provider`] and a root of
//! it, and a branch in [`open_source`].
//!
//! [`Provider`]: restow_content::Provider
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests fail by panicking"))]

mod archive;
mod catalogue;
pub mod client;
mod error;
mod graph;
mod layout;
mod name;
mod publish;
mod reference;
mod remote;
mod source;

pub use crate::archive::OciArchive;
pub use crate::client::Client;
pub use crate::client::Settings;
pub use crate::error::Error;
pub use crate::layout::Layout;
pub use crate::name::Name;
pub use crate::name::Repository;
pub use crate::publish::Notice;
pub use crate::reference::Place;
pub use crate::reference::Reference;
pub use crate::reference::Selector;
pub use crate::remote::Remote;
pub use crate::source::Source;
pub use crate::source::open_source;

/// The result of moving an image or of looking for one.
pub type Result<T, E = Error> = std::result::Result<T, E>;
