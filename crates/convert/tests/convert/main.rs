//! Conversions of whole images.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

/// Which images are chosen, and what becomes of the others.
mod selection;

/// Configs, manifests and indexes after a conversion.
mod documents;

/// Labels and annotations that name digests which change.
mod mentions;

/// Documents that are refused.
mod malformed;

/// The converter of examples/custom_converter.rs.
mod example;

/// The converter that makes layers seekable, from one end to the other.
mod seekable;

/// The converters that make ordinary layers or none, and layers that are kept because they will do.
mod ordinary;

/// From any format to any other.
mod matrix;

/// Converters one after another.
mod chains;

/// Tables of contents in an image of their own.
mod toc_image;

/// Manifests for containerd's and for podman's readers.
mod readers;

/// A store that fails at each of its operations.
mod faults;

/// Work that is shared, remembered, refused or stopped.
mod work;
