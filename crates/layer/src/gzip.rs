//! Single gzip members, made and decoded whole.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use libdeflater::{CompressionLvl, Compressor, Decompressor};

use crate::error::{Error, Result};

/// What decides the bytes of a member besides its content and level.
pub(crate) const LIBRARY: &str = "libdeflate=1.26";

thread_local! {
    /// Costly to make and used by one thread at a time: each thread keeps its own, by level.
    static COMPRESSORS: RefCell<BTreeMap<i32, Compressor>> = const { RefCell::new(BTreeMap::new()) };
    static DECOMPRESSOR: RefCell<Decompressor> = RefCell::new(Decompressor::new());
}

/// Appends a member that holds `bytes`, compressed at `level`, 1 to 12. Its header names no time, file or system.
pub(crate) fn compress(level: i32, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    COMPRESSORS.with_borrow_mut(|compressors| {
        let compressor = match compressors.entry(level) {
            Entry::Occupied(compressor) => compressor.into_mut(),
            Entry::Vacant(place) => {
                let level = CompressionLvl::new(level)
                    .map_err(|_| failed(format!("there is no level {level}, only 1 to 12")))?;
                place.insert(Compressor::new(level))
            }
        };
        let start = out.len();
        out.resize(start + compressor.gzip_compress_bound(bytes.len()), 0);
        let written =
            compressor.gzip_compress(bytes, &mut out[start..]).map_err(|error| failed(error.to_string()))?;
        out.truncate(start + written);
        Ok(())
    })
}

/// Decodes a member that [`compress`] made of as many bytes as `out` has.
pub(crate) fn decompress(member: &[u8], out: &mut [u8]) -> Result<()> {
    let decoded = DECOMPRESSOR.with_borrow_mut(|decompressor| decompressor.gzip_decompress(member, out));
    match decoded {
        Ok(decoded) if decoded == out.len() => Ok(()),
        Ok(decoded) => Err(failed(format!("a member of {} bytes decodes to {decoded}", out.len()))),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn failed(problem: String) -> Error {
    Error::Compressor { format: "gzip", problem }
}

#[cfg(test)]
mod tests {
    use restow_testkit::plain;

    use super::*;

    #[test]
    fn members_are_read_by_any_decoder() {
        for level in 1..=12 {
            let mut members = Vec::new();
            let parts = [&b""[..], b"one", &[7; 100_000]];
            for part in parts {
                let start = members.len();
                compress(level, part, &mut members).unwrap();
                let mut decoded = vec![0; part.len()];
                decompress(&members[start..], &mut decoded).unwrap();
                assert_eq!(decoded, part);
                // No flags, no time, and no system.
                assert_eq!(members[start..start + 8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
                assert_eq!(members[start + 9], 0xff);
            }
            assert_eq!(plain::decompress(members).unwrap(), parts.concat());
        }
    }

    #[test]
    fn a_level_that_does_not_exist_and_a_damaged_member_are_errors() {
        for level in [-1, 13] {
            assert!(compress(level, b"bytes", &mut Vec::new()).is_err(), "{level}");
        }
        let mut member = Vec::new();
        compress(6, b"bytes", &mut member).unwrap();
        assert!(decompress(&member, &mut [0; 4]).is_err());
        assert!(decompress(&member, &mut [0; 6]).is_err());
        let last = member.len() - 5;
        member[last] ^= 1;
        assert!(decompress(&member, &mut [0; 5]).is_err());
    }
}
