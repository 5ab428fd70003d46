//! Moves images between a store and a registry, a layout or an archive; index synthesis.
//!
//! A [`Reference`] says where an image lies. [`Access`] makes of it a [`Source`], the blobs to read and the
//! descriptor to start from, or a [`Destination`], whatever kind of place it is. A destination's rule: blobs
//! first, then the name, at once, so that a reader meets the old image or the new one.
//!
//! Registries are spoken to by a [`Client`], which the rest is built on; [`Client`] stands alone.
//!
//! To add a kind of place, add its prefix to `reference.rs`, a module that makes a [`Provider`] and a root of
//! it, or a [`Destination`], and a branch in `access.rs`.
//!
//! [`Provider`]: restow_content::Provider
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests fail by panicking"))]

mod access;
mod archive;
mod catalogue;
pub mod client;
pub mod deploy;
mod destination;
mod error;
mod graph;
mod layout;
mod lookup;
mod name;
mod named;
mod parallel;
mod publish;
mod push;
mod reference;
mod remote;
mod scratch;
mod store;
pub mod synthesize;
mod upload;
mod watch;
mod whole;

pub use crate::access::Access;
pub use crate::access::Reading;
pub use crate::access::Source;
pub use crate::access::Writing;
pub use crate::archive::ArchiveDestination;
pub use crate::archive::ArchiveForm;
pub use crate::archive::DockerArchive;
pub use crate::archive::OciArchive;
pub use crate::client::Client;
pub use crate::client::Settings;
pub use crate::destination::Destination;
pub use crate::error::Error;
pub use crate::layout::Layout;
pub use crate::name::Name;
pub use crate::name::Repository;
pub use crate::named::Named;
pub use crate::publish::Notice;
pub use crate::publish::Transfer;
pub use crate::push::Existing;
pub use crate::reference::Place;
pub use crate::reference::Reference;
pub use crate::reference::Selector;
pub use crate::remote::Remote;
pub use crate::scratch::Scratch;
pub use crate::store::StoreImages;
pub use crate::upload::RemoteDestination;
pub use crate::watch::Observer;
pub use crate::watch::Watched;
pub use crate::whole::Gap;
pub use crate::whole::Needs;
pub use crate::whole::Whole;

/// The result of moving an image or of looking for one.
pub type Result<T, E = Error> = std::result::Result<T, E>;
