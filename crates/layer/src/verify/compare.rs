//! Holds the table of contents, and the tar-split stream, against the headers of the tar.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};

use crossbeam_channel::Receiver;
use restow_oci::{Digest, Limits};

use super::Compared;
use super::segment::{Run, Runs};
use super::stream::Piece;
use super::tar_split::TarSplitReader;
use crate::blob::ReadAt;
use crate::buffer::Buffer;
use crate::listing;
use crate::locate::{Location, OpenToc, expect_digest};
use crate::tar::{Header, TarReader};
use crate::tarsplit::Checksum;
use crate::time::Timestamp;
use crate::toc::{Entry, EntryKind, TAR_NAME};
use crate::{Error, Result, path};

/// Bytes taken from the tar at once.
const STEP: u64 = 256 << 10;

/// The headers of the tar on one side, what was said of them on the other.
pub(super) struct Comparison<'a> {
    toc: OpenToc<'a>,
    tar_split: Option<TarSplitReader<'a>>,
    toc_in_tar: bool,
    podman: bool,
    limits: &'a Limits,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(blob: &'a dyn ReadAt, location: &'a Location<'a>, limits: &'a Limits) -> Result<Self> {
        let tar_split = location.tar_split.map(|position| TarSplitReader::new(blob, position, limits));
        Ok(Self {
            toc: location.open_toc(blob, limits)?,
            tar_split: tar_split.transpose()?,
            toc_in_tar: location.toc_in_tar(),
            podman: location.podman,
            limits,
        })
    }

    /// Reads the tar to its end.
    pub(super) fn run(self, feed: Feed) -> Compared {
        let mut tar = TarReader::new(feed, self.limits);
        let result = self.compare(&mut tar);
        match result {
            Ok(()) => Compared::Passed,
            Err(_) if tar.source().broken.get() => Compared::GaveUp,
            Err(error) => Compared::Failed(error),
        }
    }

    fn compare(mut self, tar: &mut TarReader<Feed>) -> Result<()> {
        let mut raw = Buffer::default();
        while let Some(header) = self.next_header(tar, &mut raw)? {
            match self.next_listed()? {
                Some(entry) => self.compare_entry(&entry, &header, tar, &mut raw)?,
                None if self.toc_in_tar && path::clean(&header.display_name()) == TAR_NAME => {
                    self.toc_in_tar = false;
                    skip(tar, &mut raw)?;
                }
                None => return Err(differ(&header.display_name(), "the table does not have it")),
            }
        }
        if let Some(entry) = self.next_listed()? {
            return Err(differ(&entry.name, "the tar does not have it"));
        }
        self.toc.finish()?;
        loop {
            if let Some(tar_split) = &mut self.tar_split {
                tar_split.expect_segment(raw.filled())?;
            }
            raw.truncate(0);
            if tar.read_trailing(&mut raw, STEP)? == 0 {
                break;
            }
        }
        self.tar_split.map_or(Ok(()), TarSplitReader::finish)
    }

    /// Reads up to the content of the next entry, leaving the bytes of the headers in `raw`.
    fn next_header(&mut self, tar: &mut TarReader<Feed>, raw: &mut Buffer) -> Result<Option<Header>> {
        raw.truncate(0);
        tar.source().inside.set(Inside::Headers);
        tar.next(raw)
    }

    fn next_listed(&mut self) -> Result<Option<Entry>> {
        loop {
            match self.toc.parser.next_entry()? {
                Some(entry) if entry.kind == EntryKind::Chunk => {}
                other => return Ok(other),
            }
        }
    }

    fn compare_entry(
        &mut self,
        entry: &Entry,
        header: &Header,
        tar: &mut TarReader<Feed>,
        raw: &mut Buffer,
    ) -> Result<()> {
        let listed = listing::list(header, self.limits)?.entry;
        for (field, same) in compare_fields(entry, &listed, self.podman) {
            if !same {
                return Err(differ(&listed.name, &format!("the {field} differs")));
            }
        }
        if let Some(tar_split) = &mut self.tar_split {
            tar_split.expect_segment(raw.filled())?;
        }
        let feed = tar.source();
        feed.entry.replace(listed.name);
        feed.inside.set(Inside::Payload);
        feed.checksum.take();
        if header.size > 0 {
            skip(tar, raw)?;
        } else if let Some(digest) = entry.digest.as_ref().filter(|_| entry.kind == EntryKind::Regular) {
            expect_digest(&Digest::sha256(b""), digest, || format!("the empty file {:?}", entry.name))?;
        }
        if let Some(tar_split) = &mut self.tar_split {
            let checksum = tar.source().checksum.get().unwrap_or_default();
            tar_split.expect_file(&header.name, header.size, checksum)?;
        }
        Ok(())
    }
}

fn skip(tar: &mut TarReader<Feed>, raw: &mut Buffer) -> Result<()> {
    raw.truncate(0);
    while tar.read_payload(raw, STEP)? > 0 {
        raw.truncate(0);
    }
    Ok(())
}

fn differ(entry: &str, problem: &str) -> Error {
    Error::Disagreement { entry: format!("{entry:?}"), problem: problem.into() }
}

/// Compares an entry with what its header would be listed as.
///
/// podman wants every field as the header has it. The others round times, and leave out what has no meaning for the
/// kind of entry, and names that were given before.
fn compare_fields(entry: &Entry, listed: &Entry, podman: bool) -> [(&'static str, bool); 13] {
    let kind = listed.kind;
    let sized = podman || kind == EntryKind::Regular;
    let linked = podman || matches!(kind, EntryKind::Symlink | EntryKind::Hardlink);
    let device = podman || matches!(kind, EntryKind::Char | EntryKind::Block);
    let said = |said: &str, name: &str| said.is_empty() || said == name;
    [
        ("name", entry.name == listed.name),
        ("type", entry.kind == kind),
        ("size", !sized || entry.size == listed.size),
        ("mode", entry.mode == listed.mode),
        ("owner", entry.uid == listed.uid),
        ("group", entry.gid == listed.gid),
        ("link target", !linked || entry.link_name == listed.link_name),
        (
            "device number",
            !device || (entry.device_major, entry.device_minor) == (listed.device_major, listed.device_minor),
        ),
        ("modification time", same_time(entry.modified, listed.modified, podman)),
        (
            "access or change time",
            same_recorded_time(entry.accessed, listed.accessed, podman)
                && same_recorded_time(entry.changed, listed.changed, podman),
        ),
        ("owner's name", said(&entry.user_name, &listed.user_name)),
        ("group's name", said(&entry.group_name, &listed.group_name)),
        ("set of extended attributes", entry.xattrs == listed.xattrs),
    ]
}

/// Go's zero time, which its JSON has for no time.
const GO_ZERO: i64 = -62_135_596_800;

/// The ways to spell no time are the same time.
fn known(time: Option<Timestamp>) -> Option<Timestamp> {
    time.filter(|time| *time != Timestamp::EPOCH && (time.seconds(), time.nanoseconds()) != (GO_ZERO, 0))
}

fn same_time(entry: Option<Timestamp>, listed: Option<Timestamp>, exact: bool) -> bool {
    let (entry, listed) = (known(entry), known(listed));
    entry == listed
        || (!exact && entry == known(listed.map(Timestamp::round)))
        // eStargz leaves all of the second 0 out.
        || (!exact && entry.is_none() && listed.is_some_and(|time| time.seconds() == 0))
}

fn same_recorded_time(entry: Option<Timestamp>, listed: Option<Timestamp>, exact: bool) -> bool {
    (!exact && entry.is_none()) || known(entry) == known(listed)
}

/// The tar as its reader sees it: header bytes are there, content is only counted.
pub(super) struct Feed {
    pieces: Receiver<Piece>,
    runs: std::vec::IntoIter<Run>,
    headers: Vec<u8>,
    consumed: usize,
    run: Option<Run>,
    ended: bool,
    /// Whether the tar broke off.
    broken: Cell<bool>,
    /// What the reader is at.
    inside: Cell<Inside>,
    /// The entry it has come to.
    entry: RefCell<String>,
    /// The checksum of what it has read of that entry's content.
    checksum: Cell<Option<Checksum>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    Headers,
    Payload,
}

impl Feed {
    pub(super) fn new(pieces: Receiver<Piece>) -> Self {
        Self {
            pieces,
            runs: Vec::new().into_iter(),
            headers: Vec::new(),
            consumed: 0,
            run: None,
            ended: false,
            broken: Cell::new(false),
            inside: Cell::new(Inside::Headers),
            entry: RefCell::default(),
            checksum: Cell::default(),
        }
    }

    /// Moves to the next run and returns whether there is one.
    fn advance(&mut self) -> io::Result<bool> {
        while self.run.is_none() && !self.ended {
            self.run = self.runs.next();
            if self.run.is_some() {
                break;
            }
            match self.pieces.recv() {
                Ok(Piece::Runs(Runs { runs, headers })) => {
                    self.runs = runs.into_iter();
                    self.headers = headers;
                    self.consumed = 0;
                }
                Ok(Piece::End) => self.ended = true,
                Err(_) => {
                    self.broken.set(true);
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
        }
        Ok(self.run.is_some())
    }
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || !self.advance()? {
            return Ok(0);
        }
        match (&mut self.run, self.inside.get()) {
            (Some(Run::Headers(left)), Inside::Headers) => {
                let length = buffer.len().min(*left);
                buffer[..length].copy_from_slice(&self.headers[self.consumed..self.consumed + length]);
                self.consumed += length;
                *left -= length;
                if *left == 0 {
                    self.run = None;
                }
                Ok(length)
            }
            (Some(Run::Payload { length: left, end, .. }), Inside::Payload) => {
                // Nobody looks at content here: its digest has been checked, its place is checked by this match.
                let length = buffer.len().min(*left);
                *left -= length;
                if *left == 0 {
                    if let Some(end) = end {
                        // Joining checksums costs far more than taking one.
                        let before = self.checksum.get();
                        self.checksum
                            .set(Some(before.map_or(end.checksum, |sum| sum.then(end.checksum, end.size))));
                    }
                    self.run = None;
                }
                Ok(length)
            }
            _ => Err(io::Error::other(differ(
                &self.entry.borrow(),
                "the content is not where the table puts it",
            ))),
        }
    }
}
