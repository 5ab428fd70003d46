//! The entry that tells a reader how far to fetch ahead (eStargz specification, "Prioritized Files and Landmark Files").

use crate::tar::{BLOCK, plain_header};

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

/// Returns the header block of a landmark.
pub(crate) fn header(name: &str) -> [u8; BLOCK] {
    plain_header(name, CONTENT.len() as u64)
}
