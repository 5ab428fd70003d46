//! Where chunks end that follow the content of a file: where podman's writer (`compressor.go`) ends them.
//!
//! A chunk ends after a byte at which a rolling sum of the 64 bytes before takes a certain value, on average after
//! 64 KiB. A run of zeros is a chunk of its own. So a file that was changed in one place has its other chunks in common
//! with what it was, and a reader that has those need not fetch them.

/// Bytes that the sum is taken of.
const WINDOW: usize = 64;

/// What is added to each byte, so that zeros count.
const OFFSET: u32 = 31;

/// The bits of the sum that are all set where a chunk ends.
const SPLIT: u32 = (1 << 16) - 1;

/// Zeros that make a chunk of their own.
const HOLE: u64 = 1024;

/// Finds the ends of the chunks of one file.
#[derive(Debug)]
pub(super) struct Boundaries {
    sum: u32,
    weighted: u32,
    window: [u8; WINDOW],
    oldest: usize,
    /// Bytes taken.
    position: u64,
    /// How many of the last of them are zeros, and not yet in the sum.
    zeros: u64,
}

impl Boundaries {
    /// Begins a file.
    pub(super) fn new() -> Self {
        let window = WINDOW as u32;
        Self {
            sum: window * OFFSET,
            weighted: window * (window - 1) * OFFSET,
            window: [0; WINDOW],
            oldest: 0,
            position: 0,
            zeros: 0,
        }
    }

    /// Takes the next bytes of the file, and adds the ends of chunks as offsets in the file, in order.
    pub(super) fn add(&mut self, bytes: &[u8], ends: &mut Vec<u64>) {
        for byte in bytes {
            if *byte == 0 {
                self.zeros += 1;
                self.position += 1;
                if self.zeros == HOLE {
                    ends.push(self.position - HOLE);
                }
                continue;
            }
            self.end_zeros(ends);
            self.position += 1;
            if self.roll(*byte) {
                ends.push(self.position);
            }
        }
    }

    /// Ends the file.
    pub(super) fn finish(&mut self, ends: &mut Vec<u64>) {
        self.end_zeros(ends);
        ends.push(self.position);
    }

    fn end_zeros(&mut self, ends: &mut Vec<u64>) {
        let zeros = std::mem::take(&mut self.zeros);
        if zeros >= HOLE {
            // More of them change the sum no more.
            for _ in 0..WINDOW {
                self.roll(0);
            }
            ends.push(self.position);
            return;
        }
        for end in self.position - zeros + 1..=self.position {
            if self.roll(0) {
                ends.push(end);
            }
        }
    }

    /// Puts a byte into the sum and returns whether a chunk may end after it.
    fn roll(&mut self, byte: u8) -> bool {
        let oldest = u32::from(std::mem::replace(&mut self.window[self.oldest], byte));
        self.oldest = (self.oldest + 1) % WINDOW;
        self.sum = self.sum.wrapping_add(u32::from(byte)).wrapping_sub(oldest);
        self.weighted = self.weighted.wrapping_add(self.sum).wrapping_sub(WINDOW as u32 * (oldest + OFFSET));
        self.weighted & SPLIT == SPLIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes without any pattern.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1u64;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    fn ends(content: &[u8], step: usize) -> Vec<u64> {
        let (mut boundaries, mut ends) = (Boundaries::new(), Vec::new());
        content.chunks(step).for_each(|bytes| boundaries.add(bytes, &mut ends));
        boundaries.finish(&mut ends);
        ends.dedup();
        ends
    }

    #[test]
    fn chunks_have_some_64_kib_however_the_file_is_read() {
        let content = noise(4 << 20);
        let expected = ends(&content, content.len());
        assert!((30..130).contains(&expected.len()), "{}", expected.len());
        for step in [1, 1000, 65_536] {
            assert_eq!(ends(&content, step), expected);
        }
    }

    #[test]
    fn what_was_inserted_changes_the_chunks_around_it_only() {
        let content = noise(2 << 20);
        let mut changed = content.clone();
        changed.splice(1 << 20..1 << 20, *b"inserted");
        let [before, after] = [ends(&content, 4096), ends(&changed, 4096)];
        let shifted: Vec<_> = before.iter().map(|end| if *end > 1 << 20 { end + 8 } else { *end }).collect();
        let common = after.iter().filter(|end| shifted.contains(end)).count();
        assert!(before.len() > 10 && common + 2 >= before.len(), "{common} of {}", before.len());
    }

    #[test]
    fn a_long_run_of_zeros_is_a_chunk_and_a_short_one_is_not() {
        let content = [&[1; 100][..], &[0; 1023], &[2; 100], &[0; 1024], &[3; 50], &[0; 5000]].concat();
        for step in [1, 7, content.len()] {
            assert_eq!(ends(&content, step), [1223, 2247, 2297, 7297]);
        }
        assert_eq!(ends(&[0; 5000], 512), [0, 5000]);
        assert_eq!(ends(&[], 1), [0]);
    }
}
