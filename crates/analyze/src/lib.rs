//! Turns accesses into a per-layer read order.
//!
//! What a container reads first is said by a [`list`] (paths and globs written by hand) or a
//! [`record`] (paths observed, layer by layer). Both end as one [`Workload`]: the paths to put first,
//! for each layer of each manifest. A layer is named by its **position** in its manifest, never by its
//! digest, because two layers may be equal and still be asked for different files.
//!
//! A [`Tree`] says which layer provides a path. It costs a decompression of every layer, by a [`Reading`] or by whoever
//! shows a [`Layer`] its headers, so [`plan`] asks for it only when a wish does not already name its layer.
//!
//! To add a source of accesses (prediction, a traced run), write a function that returns
//! [`Access`]es in the order they happen; everything after that is shared.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests fail by panicking"))]

mod error;
mod layer;
mod links;
pub mod list;
mod path;
pub mod predict;
mod read;
pub mod record;
pub mod sandbox;
mod seen;
mod tree;
mod unpack;
mod workload;

pub use error::Error;
pub use layer::Layer;
pub use links::Links;
pub use list::Pattern;
pub use predict::Launch;
pub use predict::Predicted;
pub use predict::Prediction;
pub use predict::predict;
pub use read::Reading;
pub use record::Access;
pub use record::Share;
pub use tree::Entry;
pub use tree::Kind;
pub use tree::Tree;
pub use workload::Manifest;
pub use workload::Miss;
pub use workload::Wishes;
pub use workload::Workload;
pub use workload::plan;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
