//! The digests of two tars that are mostly the same: the source's and the result's.

use restow_oci::{Digest, Digester};

use super::batch::Batch;
use crate::codec::Tar;

/// Hashes the source and the result of an encoding, together for as long as they are the same bytes.
pub(super) struct Diff {
    source: Digester,
    /// The result's, from where it differs.
    result: Option<Digester>,
    size: u64,
    /// What is hashed.
    of: Of,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Both,
    Result,
    Nothing,
}

impl Diff {
    /// Hashes both.
    pub(super) fn new() -> Self {
        Self { source: Digester::sha256(), result: None, size: 0, of: Of::Both }
    }

    /// Hashes the result alone.
    pub(super) fn of_result() -> Self {
        Self { of: Of::Result, ..Self::new() }
    }

    /// Hashes nothing: the digests are known. Counts bytes.
    pub(super) fn known() -> Self {
        Self { of: Of::Nothing, ..Self::new() }
    }

    /// Adds the bytes of a batch, in the source without what was inserted and with what was dropped.
    pub(super) fn add(&mut self, batch: &Batch) {
        let bytes = batch.bytes.filled();
        self.size += bytes.len() as u64;
        if self.of == Of::Nothing {
            return;
        }
        if self.of == Of::Result || (batch.dropped.is_empty() && batch.inserted.is_empty()) {
            self.both(bytes);
            return;
        }
        // Where the two part, as (place, end of what only the result has, what only the source has).
        let mut edits: Vec<(usize, usize, &[u8])> = Vec::new();
        edits.extend(batch.dropped.iter().map(|(place, dropped)| (*place, *place, dropped.as_slice())));
        edits.extend(batch.inserted.iter().map(|range| (range.start, range.end, &[][..])));
        edits.sort_by_key(|(place, end, _)| (*place, *end));
        let mut done = 0;
        for (place, end, dropped) in edits {
            self.both(&bytes[done..place]);
            let result = self.result.get_or_insert_with(|| self.source.clone());
            result.update(&bytes[place..end]);
            self.source.update(dropped);
            done = end;
        }
        self.both(&bytes[done..]);
    }

    fn both(&mut self, bytes: &[u8]) {
        self.source.update(bytes);
        if let Some(result) = &mut self.result {
            result.update(bytes);
        }
    }

    /// Returns the digest of the source, and the result as far as it has come.
    pub(super) fn finish(self) -> (Digest, Tar) {
        let digester = self.result.unwrap_or_else(|| self.source.clone());
        (self.source.finish(), Tar { digester, size: self.size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_counts_for_the_source_and_what_is_inserted_for_the_result() {
        let mut diff = Diff::new();
        let mut batch = Batch::default();
        batch.bytes.append(b"common");
        diff.add(&batch);
        let mut batch = Batch::default();
        batch.bytes.append(b"ABnewCD");
        batch.inserted.push(2..5);
        batch.dropped.push((2, b"old".to_vec()));
        batch.dropped.push((7, b"end".to_vec()));
        diff.add(&batch);
        let (source, result) = diff.finish();
        assert_eq!(source, Digest::sha256(b"commonABoldCDend"));
        assert_eq!(result.digester.finish(), Digest::sha256(b"commonABnewCD"));
        assert_eq!(result.size, 13);
    }

    #[test]
    fn equal_tars_are_hashed_once() {
        let mut diff = Diff::new();
        let mut batch = Batch::default();
        batch.bytes.append(b"same");
        diff.add(&batch);
        assert!(diff.result.is_none());
        let (source, result) = diff.finish();
        assert_eq!(source, result.digester.finish());
    }
}
