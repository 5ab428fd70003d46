//! What the header of a zstd frame asks of those who decode it (RFC 8878, 3.1.1.1).
//!
//! | bytes | field |
//! |---|---|
//! | 0–3 | magic number |
//! | 4 | descriptor: bits 0–1 the size of the dictionary's number, bit 5 whether there is no window, bits 6–7 the size of the content's size |
//! | then | window descriptor, unless bit 5 is set; dictionary's number; content's size |

use restow_oci::Limits;

use crate::error::Error;

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What libzstd says of a window that is too large, whose size is not known here.
const TOO_LARGE: &str = "Frame requires too much memory for decoding";

/// What a frame asks for.
#[derive(Debug, PartialEq, Eq)]
struct Needs {
    /// The size of the window in bytes: of a single segment, that of the content.
    window: u64,
    dictionary: bool,
}

impl Needs {
    /// Reads the header that `bytes` start with, if it is all there.
    fn of(bytes: &[u8]) -> Option<Self> {
        let (descriptor, mut rest) = bytes.strip_prefix(&MAGIC)?.split_first()?;
        let single_segment = descriptor & 0x20 != 0;
        let mut window = 0;
        if !single_segment {
            let (byte, behind) = rest.split_first()?;
            let base = 1u64 << (10 + (byte >> 3));
            window = base + base / 8 * u64::from(byte & 7);
            rest = behind;
        }
        let number = rest.split_off(..[0, 1, 2, 4][usize::from(descriptor & 3)])?;
        if single_segment {
            let size = rest.get(..1 << (descriptor >> 6))?;
            window = size.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            // Of two bytes, the smallest is 256 (RFC 8878, 3.1.1.1.4).
            window += if size.len() == 2 { 256 } else { 0 };
        }
        Some(Self { window, dictionary: number.iter().any(|byte| *byte != 0) })
    }
}

/// Says why a frame cannot be decoded, if that is for what it asks. `bytes` start with it, at blob byte `offset`.
pub(crate) fn refusal(bytes: &[u8], offset: u64, limits: &Limits) -> Option<Error> {
    let Needs { window, dictionary } = Needs::of(bytes)?;
    let limit = largest_window(limits);
    if dictionary {
        return Some(Error::UnsupportedCompression { format: "zstd with a dictionary" });
    }
    (window > limit).then_some(Error::Window { offset, window: Some(window), limit })
}

/// Names what libzstd has against a frame, if it is what the frame asks for.
pub(crate) fn named(problem: &str, offset: u64, limits: &Limits) -> Option<Error> {
    let limit = largest_window(limits);
    (problem == TOO_LARGE).then_some(Error::Window { offset, window: None, limit })
}

fn largest_window(limits: &Limits) -> u64 {
    1u64.checked_shl(limits.zstd_window_log).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use restow_testkit::compress::RawFrame;

    use super::*;

    #[test]
    fn headers_say_how_large_their_window_is() {
        for (frame, expected) in [
            (RawFrame::new().window_log(20), Needs { window: 1 << 20, dictionary: false }),
            (RawFrame::new().window_log(31).content_size(5), Needs { window: 1 << 31, dictionary: false }),
            (RawFrame::new().single_segment(1 << 40), Needs { window: 1 << 40, dictionary: false }),
            (RawFrame::new().window_log(10).dictionary(7), Needs { window: 1 << 10, dictionary: true }),
        ] {
            assert_eq!(Needs::of(&frame.header()), Some(expected), "{frame:?}");
        }
        let frame = RawFrame::new().single_segment(1).header();
        assert_eq!(Needs::of(&frame[..frame.len() - 1]), None);
        // A content of 256 bytes in two, and seven eighths more of window.
        assert_eq!(
            Needs::of(&[0x28, 0xb5, 0x2f, 0xfd, 0x60, 0, 0]),
            Some(Needs { window: 256, dictionary: false })
        );
        assert_eq!(
            Needs::of(&[0x28, 0xb5, 0x2f, 0xfd, 0, 7]),
            Some(Needs { window: 1920, dictionary: false })
        );
        assert_eq!(Needs::of(b"\x50\x2a\x4d\x18\0\0\0\0"), None);
    }
}
