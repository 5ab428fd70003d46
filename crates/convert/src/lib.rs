//! Rewrites an image by converting its layers; the seam where converters plug in.
//!
//! [`convert()`] walks from a root document to the images that [`Platforms`] chooses, hands each of their layers to a
//! [`LayerConverter`], and edits configs, manifests and indexes until they tell the truth again. Two rules hold
//! throughout:
//!
//! - A layer is named by its manifest and its position, never by its digest: two layers of an image may be equal.
//! - What did not change keeps its bytes. An image in which no layer changed keeps its digest.
//!
//! To add a format or another treatment of layers, implement [`LayerConverter`]; `examples/custom_converter.rs` does it
//! outside this crate in a page. The project ships [`Seekable`], which makes layers of any
//! [`Codec`](restow_layer::Codec), [`Recompress`], which makes ordinary ones, [`Keep`], which makes none, and [`Chain`],
//! which gives what one converter makes to the next.

mod attestation;
mod cancel;
mod chain;
mod convert;
mod converter;
mod error;
mod image;
mod index;
mod memo;
mod mentions;
mod observer;
mod options;
mod ordered;
mod ordinary;
mod readers;
mod schedule;
mod seekable;
mod select;
mod survey;
mod toc_image;

pub use cancel::Cancel;
pub use cancel::Cancelled;
pub use chain::Chain;
pub use convert::Conversion;
pub use convert::convert;
pub use convert::convert_selection;
pub use converter::BoxError;
pub use converter::Converted;
pub use converter::ImageConverter;
pub use converter::Layer;
pub use converter::LayerConverter;
pub use converter::LayerReader;
pub use converter::LayerWriter;
pub use converter::Partial;
pub use converter::SourceImage;
pub use converter::Statistics;
pub use error::Error;
pub use error::Result;
pub use memo::Memo;
pub use memo::Memory;
pub use memo::NoMemo;
pub use memo::RunMemo;
pub use memo::Turn;
pub use memo::TurnLost;
pub use observer::ImageReport;
pub use observer::LayerReport;
pub use observer::Observer;
pub use observer::Outcome;
pub use observer::Silent;
pub use options::MediaTypes;
pub use options::Options;
pub use options::Unsupported;
pub use ordered::BegunImage;
pub use ordered::Ordered;
pub use ordered::Orderer;
pub use ordinary::Keep;
pub use ordinary::Recompress;
pub use readers::Readers;
pub use seekable::Pending;
pub use seekable::Prioritized;
pub use seekable::Seekable;
pub use select::Platforms;
pub use select::Selected;
pub use select::Selection;
pub use select::select;
pub use toc_image::read_toc_image;
pub use toc_image::write_toc_image;
