//! Copying a layer's tar without some of its entries.

use std::collections::BTreeSet;
use std::io::{Read, Write};

use restow_oci::{Digest, Digester, Limits};

use crate::buffer::Buffer;
use crate::decompress::decompress;
use crate::error::{Error, Result};
use crate::path;
use crate::tar::{Header, Kind, TarReader};

/// Bytes of a file that are passed on at a time.
const STEP: u64 = 1 << 20;

/// A tar that was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Filtered {
    /// The digest of the source without compression: its DiffID.
    pub source: Digest,
    /// The digest of what was written: its DiffID, if it becomes a layer. The same where no entry was left out.
    pub result: Digest,
    /// How many entries were left out.
    pub dropped: u64,
}

/// Copies the tar of a layer, however compressed, to `output` without compression and without the entries that `keep` says
/// no to. All other bytes stay as they are.
///
/// The caller holds [`Filtered::source`] to the DiffID of the config. An entry cannot be left out where others need it: a
/// hard link leads to it, or a global extended header comes with it that holds for the files behind.
pub fn filter_tar(
    source: impl Read,
    output: impl Write,
    limits: &Limits,
    mut keep: impl FnMut(&Header) -> bool,
) -> Result<Filtered> {
    let mut tar = TarReader::new(decompress(source, limits)?, limits);
    let mut copy = Copy::new(output);
    let (mut dropped, mut gone) = (0, BTreeSet::new());
    while let Some(header) = tar.next(&mut copy.raw)? {
        let kept = keep(&header);
        check(&header, kept, &gone)?;
        let name = path::clean(&header.display_name());
        if kept {
            gone.remove(&name);
        } else {
            gone.insert(name);
            dropped += 1;
        }
        copy.pass(kept)?;
        while tar.read_payload(&mut copy.raw, STEP)? > 0 {
            copy.pass(kept)?;
        }
        tar.read_padding(&mut copy.raw)?;
        copy.pass(kept)?;
    }
    copy.pass(true)?;
    while tar.read_trailing(&mut copy.raw, STEP)? > 0 {
        copy.pass(true)?;
    }
    Ok(Filtered { source: copy.source.finish(), result: copy.result.finish(), dropped })
}

/// Refuses what cannot stay without what is left out, and the other way round.
fn check(header: &Header, kept: bool, gone: &BTreeSet<String>) -> Result<()> {
    let problem = match header.kind {
        Kind::Hardlink if kept => {
            let target = path::clean(&String::from_utf8_lossy(&header.link_name));
            gone.contains(&target).then(|| format!("it is a hard link to {target}, which is left out"))
        }
        _ if !kept && header.follows_global => {
            Some("it cannot be left out: it comes with a header that holds for others, too".to_owned())
        }
        _ => None,
    };
    match problem {
        None => Ok(()),
        Some(problem) => {
            Err(Error::Tar { offset: header.offset, entry: Some(header.display_name()), problem })
        }
    }
}

/// Takes the bytes of a tar and lets some of them through.
struct Copy<W> {
    raw: Buffer,
    source: Digester,
    result: Digester,
    written: u64,
    output: W,
}

impl<W: Write> Copy<W> {
    fn new(output: W) -> Self {
        let (source, result) = (Digester::sha256(), Digester::sha256());
        Self { raw: Buffer::default(), source, result, written: 0, output }
    }

    fn pass(&mut self, keep: bool) -> Result<()> {
        let bytes = self.raw.filled();
        self.source.update(bytes);
        if keep {
            self.result.update(bytes);
            let offset = self.written;
            self.output.write_all(bytes).map_err(|source| Error::Write { offset, source })?;
            self.written += bytes.len() as u64;
        }
        self.raw.truncate(0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use restow_testkit::TarBuilder;

    use super::*;

    fn filtered(tar: &[u8], dropped: &str) -> Result<(Vec<u8>, Filtered)> {
        let mut output = Vec::new();
        let keep = |header: &Header| header.display_name() != dropped;
        let done = filter_tar(tar, &mut output, &Limits::default(), keep)?;
        Ok((output, done))
    }

    #[test]
    fn what_stays_is_the_tar_without_what_is_left_out() {
        let all = TarBuilder::new().file("a", "first").file("b", "second").file("c", "third").finish();
        let left = TarBuilder::new().file("a", "first").file("c", "third").finish();
        let (output, done) = filtered(&all, "b").unwrap();
        assert!(output == left);
        assert_eq!(
            (done.source, done.result, done.dropped),
            (Digest::sha256(&all), Digest::sha256(&left), 1)
        );
        let (output, done) = filtered(&all, "none").unwrap();
        assert!(output == all);
        assert_eq!((done.source, done.dropped), (done.result, 0));
    }

    #[test]
    fn what_others_need_is_not_left_out() {
        let tar = TarBuilder::new().file("a", "first").hardlink("b", "./a").finish();
        let problem = filtered(&tar, "a").unwrap_err().to_string();
        assert!(problem.contains("a hard link to a, which is left out"), "{problem}");
        assert_eq!(filtered(&tar, "b").unwrap().1.dropped, 1);
    }
}
