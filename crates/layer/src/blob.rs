//! Random access to the bytes of a layer, wherever they are kept.

use std::io::{self, Read};
use std::sync::Arc;

use crate::decompress::into_error;
use crate::{Error, Result};

/// A blob of known size that can be read at any offset, by several threads at once.
pub trait ReadAt: Send + Sync {
    /// Returns the number of bytes in the blob.
    fn size(&self) -> u64;

    /// Reads some bytes from `offset` on, as `Read::read` does: fewer than asked for is no error, none is the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        let length = buffer.len().min(self.len() - start);
        buffer[..length].copy_from_slice(&self[start..start + length]);
        Ok(length)
    }
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        self.as_slice().size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.as_slice().read_at(buffer, offset)
    }
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<B: ReadAt + ?Sized> ReadAt for $pointer {
            fn size(&self) -> u64 {
                (**self).size()
            }

            fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
                (**self).read_at(buffer, offset)
            }
        }
    )*};
}

forward!(&B, Box<B>, Arc<B>);

/// Fills `buffer` from `offset` on.
pub(crate) fn read_exact_at(blob: &dyn ReadAt, buffer: &mut [u8], offset: u64) -> Result<()> {
    let end = offset.saturating_add(buffer.len() as u64);
    Section::new(blob, offset, end).read_exact(buffer).map_err(|error| into_error(error, offset))
}

/// Reads the bytes `start..end` of a blob in order, and no others. Errors carry [`Error::Read`].
pub(crate) struct Section<'a> {
    blob: &'a dyn ReadAt,
    position: u64,
    end: u64,
}

impl<'a> Section<'a> {
    /// An `end` beyond the blob shows as an early end of the reading.
    pub(crate) fn new(blob: &'a dyn ReadAt, start: u64, end: u64) -> Self {
        Self { blob, position: start, end }
    }

    /// Returns how far the reading has come, in bytes of the blob.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_sub(self.position);
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        // Readers of what comes out of a decoder are not prepared to try again.
        loop {
            match self.blob.read_at(&mut buffer[..wanted], self.position) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(io::Error::other(Error::Read { offset: self.position, source })),
                Ok(length) => {
                    self.position += length as u64;
                    return Ok(length);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_ends_where_it_was_told_to_or_with_the_blob() {
        let blob: Vec<u8> = (0..10).collect();
        for (start, end, expected) in
            [(2, 5, &[2, 3, 4][..]), (8, 100, &[8, 9]), (10, 12, &[]), (u64::MAX, u64::MAX, &[]), (7, 3, &[])]
        {
            let mut read = Vec::new();
            Section::new(&blob, start, end).read_to_end(&mut read).unwrap();
            assert_eq!(read, expected, "{start}..{end}");
        }
    }

    #[test]
    fn filling_a_buffer_past_the_end_fails() {
        let blob = vec![0; 10];
        let mut buffer = [1; 4];
        read_exact_at(&blob, &mut buffer, 6).unwrap();
        assert_eq!(buffer, [0; 4]);
        for offset in [7, 10, u64::MAX] {
            let error = read_exact_at(&blob, &mut buffer, offset).unwrap_err();
            assert!(matches!(error, Error::Read { offset: at, .. } if at == offset), "{error}");
        }
    }
}
