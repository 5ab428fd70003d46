//! The entry that tells a reader how far to fetch ahead (eStargz specification, "Prioritized Files and Landmark Files").

use crate::tar::BLOCK;

/// The landmark that ends the region of prioritised files.
pub const PREFETCH: &str = ".prefetch.landmark";

/// The landmark that says that no file is prioritised.
pub const NO_PREFETCH: &str = ".no.prefetch.landmark";

/// The content of either landmark.
pub(crate) const CONTENT: [u8; 1] = [0x0f];

/// When a layer gets a landmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Landmark {
    /// [`PREFETCH`] exactly where files were moved to the front. Where nothing moves, an old [`PREFETCH`] stays, for
    /// the order it speaks of stays, and an old [`NO_PREFETCH`] goes.
    #[default]
    Auto,
    /// Every layer: [`NO_PREFETCH`] as the first entry where nothing was moved.
    Always,
    /// No layer; old ones go.
    Never,
}

/// Returns the header block of a landmark: a regular file of one byte, everything else zero.
pub(crate) fn header(name: &str) -> [u8; BLOCK] {
    let mut block = [0u8; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000000");
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(b"00000000001");
    block[136..147].copy_from_slice(b"00000000000");
    block[148..156].copy_from_slice(b"        ");
    block[156] = b'0';
    block[257..265].copy_from_slice(b"ustar\x0000");
    let checksum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{checksum:06o}\0").as_bytes());
    block
}
