//! Converts, copies, verifies, predicts and records container images: the engine behind the `restow` command.
//!
//! A [`Session`] holds what pieces of work share: threads, memory, places, connections to registries. Each of its methods
//! is one piece of work; it takes references or a [`Destination`] and plain options, tells an [`Observer`] how it goes
//! on, and returns a [`report`] that is, as JSON, the document that the command prints.
//!
//! | method | work | options | report |
//! |---|---|---|---|
//! | [`convert`](Session::convert) | makes new layers of an image's | [`ConvertOptions`] | [`report::ConvertReport`] |
//! | [`copy`](Session::copy) | copies an image, every byte as it is | [`CopyOptions`] | [`report::CopyReport`] |
//! | [`verify`](Session::verify) | reads an image back in full | [`VerifyOptions`] | [`report::VerifyReport`] |
//! | [`predict`](Session::predict) | tells which files a container reads first | [`PredictOptions`] | [`report::PredictReport`] |
//! | [`record`](Session::record) | runs an image and records which files it reads | [`RecordOptions`] | [`report::RecordReport`] |
//! | [`inspect`](Session::inspect) | looks at the layers of an image | [`ReadOptions`] | [`report::InspectReport`] |
//! | [`list`](Session::list), [`cat`](Session::cat) | read the files of an image | [`ReadOptions`] | [`report::ListReport`] |
//! | [`synthesize`](Session::synthesize) | makes an index of whatever a reference leads to | – | a document |
//!
//! A converter of one's own, here one that keeps every layer, on a layout:
//!
//! ```
//! use restow::{Session, Settings};
//! use restow_convert::Keep;
//!
//! # let directory = tempfile::tempdir()?;
//! # let busybox = restow_testkit::testdata("layouts/busybox");
//! # let source = format!("oci:{}:demo", busybox.display());
//! # let destination = format!("oci:{}:demo", directory.path().join("out").display());
//! let session = Session::new(Settings::default())?;
//! let report = session.convert(source.as_str(), destination.as_str(), &Keep)?;
//! assert!(!report.changed);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The crates below are used as they are where one part of the work is enough: `restow-convert` knows converters,
//! `restow-layer` formats, `restow-registry` places, `restow-content` stores, `restow-analyze` read orders.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests fail by panicking"))]

mod blob;
mod cause;
mod conversion;
mod copy;
mod destination;
mod error;
mod files;
mod gaps;
mod image;
mod inspect;
mod list;
mod memo;
mod observer;
mod order;
pub mod parallel;
mod predict;
mod prediction;
mod readership;
mod record;
mod recorder;
mod referrers;
pub mod report;
mod roots;
mod session;
mod synthesize;
mod toc_image;
mod trees;
mod verify;
mod warning;
pub mod workload;

pub use cause::Cause;
pub use cause::causes;
pub use conversion::ConvertOptions;
pub use conversion::Format;
pub use conversion::SeekableLayers;
pub use conversion::Target;
pub use conversion::TocImage;
pub use conversion::Verify;
pub use copy::CopyOptions;
pub use destination::Destination;
pub use destination::place_key;
pub use error::Error;
pub use error::Result;
pub use error::describe;
pub use list::ReadOptions;
pub use observer::Observer;
pub use observer::Part;
pub use observer::Silent;
pub use observer::Step;
pub use order::DEFAULT_MOST_UNREAD;
pub use order::Order;
pub use predict::PredictOptions;
pub use record::RecordOptions;
pub use report::platforms;
pub use session::Registries;
pub use session::Session;
pub use session::Settings;
pub use toc_image::tag as toc_image_tag;
pub use verify::VerifyOptions;
pub use warning::Warning;
pub use warning::WarningKind;
