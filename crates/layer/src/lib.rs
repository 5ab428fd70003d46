//! Encodes, reads and verifies seekable layers (eStargz, zstd:chunked): a pure function of tar and options.
//!
//! The one rule: bytes out are decided by the tar and the options. No clock, no path, no number of threads.
//!
//! - [`encode`] turns a layer, however compressed, into a seekable one; a [`Codec`] is the format it writes. [`gather`] does
//!   the first half of it, for those whose order depends on what the layer holds.
//! - [`recompress`] turns a layer into an ordinary one.
//! - [`Reader`] opens a seekable layer of any known format; [`verify`] reads one back and holds it to all it says.
//! - [`TarReader`] and [`decompress`] read any layer from front to end.
//!
//! To add a format: a [`Codec`] in a file of its own (see `zstdchunked.rs`), its footer in `footer.rs`, its spelling of
//! the table of contents in `toc/write.rs`.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests fail by panicking"))]

mod blob;
mod buffer;
mod codec;
mod decompress;
mod encode;
mod error;
mod estargz;
pub mod footer;
#[cfg(test)]
mod forge;
mod frames;
mod gzip;
#[cfg(test)]
mod hostile;
mod landmark;
mod listing;
mod locate;
mod names;
pub mod path;
mod reader;
mod recompress;
mod spool;
mod tar;
mod tarsplit;
pub mod toc;
mod verify;
mod workers;
mod zstdchunked;
mod zstdframe;

pub use blob::ReadAt;
pub use buffer::Buffer;
pub use codec::{Codec, Contents, Layout, Placement, Seal, TocPlace};
pub use decompress::{Decompress, Format, check_tar, decompress, diff_id, sniff};
pub use encode::{Chunking, DEFAULT_CHUNK_SIZE, EncodeOptions, Encoded, encode};
pub use encode::{Gathered, GatheredFile, GatheredFiles, gather, gather_files};
pub use error::{Error, Result};
pub use estargz::{DEFAULT_LEVEL as ESTARGZ_DEFAULT_LEVEL, Estargz};
pub use landmark::{Landmark, NO_PREFETCH as NO_PREFETCH_LANDMARK, PREFETCH as PREFETCH_LANDMARK};
pub use locate::Hints;
pub use reader::{File, Reader, read_toc};
pub use recompress::{Recompressed, Recompression, recompress};
pub use restow_oci::Timestamp;
pub use spool::TocBlob;
pub use tar::{Content, Extent, Header, Kind, Map as SparseMap, Sparse, TarReader, Time};
pub use verify::{Depth, Verified, VerifiedContent, VerifyOptions, verify};
pub use workers::Workers;
pub use zstdchunked::{DEFAULT_LEVEL as ZSTD_CHUNKED_DEFAULT_LEVEL, FORMAT_VERSION, ZstdChunked};
