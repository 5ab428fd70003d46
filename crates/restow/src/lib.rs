//! Converts, copies, verifies, predicts and records container images: the engine behind the `restow` command.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests fail by panicking"))]
#![expect(
    missing_docs,
    missing_debug_implementations,
    reason = "parts that the command still joins by itself; they become private as the session takes them"
)]

pub mod blob;
mod error;
pub mod files;
pub mod image;
pub mod memo;
pub mod parallel;
pub mod prediction;
pub mod recorder;
pub mod referrers;
pub mod roots;
pub mod toc_image;
pub mod trees;
mod warning;
pub mod workload;

pub use error::Error;
pub use error::Result;
pub use error::describe;
pub use warning::Warning;
pub use warning::WarningKind;
