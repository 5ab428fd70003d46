//! Tars, images, a faulty disk and a registry for tests (dev-dependency only).
//!
//! Everything here is a function of its arguments: no clock, no random seed of its own, no machine in it. What
//! the builders write is exact to the byte, so that a test can say which byte is wrong; what the oracles read
//! is read without a line of the code under test.
//!
//! - [`TarBuilder`] and [`Entry`] make tars, right and wrong ones.
//! - [`compress`] makes gzip members and zstd frames, right and wrong ones.
//! - [`ImageBuilder`], [`IndexBuilder`] and [`Layer`] make images; [`write_layout`] writes them to a disk.
//! - [`random_tar`], [`random_image`] and [`mutate`] make what nobody thought of.
//! - [`registry`] is a registry on this machine that counts and misbehaves.
//! - [`Faulty`] is a store that fails at a step of one's choice; [`trace`] lets a program fail, or kills it, at a
//!   system call.
//! - [`plain`] reads tars and compressed streams again.
//! - [`elf`] forges programs.
//! - [`testdata`] finds the images that other tools made.
//!
//! A helper asserts its own use and panics with a message: nobody recovers from an error in a test's set-up.

mod builder;
pub mod compress;
pub mod elf;
mod entry;
mod faulty;
mod image;
pub mod plain;
mod random;
pub mod registry;
pub mod trace;

use std::path::Path;
use std::path::PathBuf;

pub use builder::End;
pub use builder::TarBuilder;
pub use entry::Entry;
pub use entry::Format;
pub use entry::MTIME;
pub use entry::Sparse;
pub use entry::pax_record;
pub use faulty::Fault;
pub use faulty::Faulty;
pub use image::Image;
pub use image::ImageBuilder;
pub use image::IndexBuilder;
pub use image::Layer;
pub use image::random_image;
pub use image::write_layout;
pub use random::Random;
pub use random::TarOptions;
pub use random::mutate;
pub use random::random_tar;
pub use registry::Registry;

/// Returns where a stored fixture lies, as `golden/src` or `layouts/busybox`.
pub fn testdata(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(path)
}
