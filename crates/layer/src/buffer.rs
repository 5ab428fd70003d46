//! A growable byte buffer that is filled in place and used again without being cleared.

/// Bytes that have been written, followed by room that has been zeroed once and may hold anything.
///
/// A `Vec` would have to zero each region before a reader may fill it; a used `Buffer` does not.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    filled: usize,
}

impl Buffer {
    /// Returns the bytes written so far.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Returns the bytes written so far, to be changed in place.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.filled]
    }

    /// Returns how many bytes have been written.
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Returns whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Returns the next `length` bytes, to be written and then [`advance`](Self::advance)d over.
    pub fn room(&mut self, length: usize) -> &mut [u8] {
        let end = self.filled + length;
        if self.bytes.len() < end {
            self.bytes.resize(end.max(self.bytes.capacity()), 0);
        }
        &mut self.bytes[self.filled..end]
    }

    /// Counts the first `length` bytes of the [`room`](Self::room) as written.
    pub fn advance(&mut self, length: usize) {
        self.filled = (self.filled + length).min(self.bytes.len());
    }

    /// Appends `bytes`.
    pub fn append(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.advance(bytes.len());
    }

    /// Forgets all bytes after the first `length`.
    pub fn truncate(&mut self, length: usize) {
        self.filled = self.filled.min(length);
    }

    /// Returns how many bytes of memory are held.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_room_is_filled_again_without_growing() {
        let mut buffer = Buffer::default();
        buffer.append(b"header");
        buffer.room(4).copy_from_slice(b"body");
        buffer.advance(2);
        assert_eq!(buffer.filled(), b"headerbo");
        let capacity = buffer.capacity();
        buffer.truncate(0);
        buffer.append(b"again");
        assert_eq!(buffer.filled(), b"again");
        assert_eq!(buffer.capacity(), capacity);
    }
}
