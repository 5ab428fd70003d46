//! Holds the table of contents, and the tar-split stream, against the headers of the tar.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};

use crossbeam_channel::Receiver;
use restow_oci::{Digest, Limits, Timestamp};

use super::Compared;
use super::segment::{Run, Runs};
use super::skipped::{self, Skipped};
use super::stream::Piece;
use super::tar_split::TarSplitReader;
use crate::blob::ReadAt;
use crate::buffer::Buffer;
use crate::codec::TocPlace;
use crate::listing::{self, Listing};
use crate::locate::{Location, OpenToc, expect_digest};
use crate::names::Names;
use crate::tar::{Header, TarReader};
use crate::tarsplit::Checksum;
use crate::toc::{Entry, EntryKind, TAR_NAME};
use crate::{Error, Result};

/// Bytes taken from the tar at once.
const STEP: u64 = 256 << 10;

const MISPLACED: &str = "the content is not where the table puts it";

/// The headers of the tar on one side, what was said of them on the other.
///
/// The table lists the entries of the tar in their order. It may leave out those that a later one of the same path
/// takes the place of; so an entry that is not the next one of the table is [`Skipped`], to be accounted for at the
/// end. Its content lies between the chunks.
pub(super) struct Comparison<'a> {
    blob: &'a dyn ReadAt,
    location: &'a Location<'a>,
    limits: &'a Limits,
    toc: OpenToc<'a>,
    /// The entry of the table that comes next, if it has been read.
    next: Option<Entry>,
    /// The tar-split stream, or what is wrong with it, which counts only if the table vouches for it. Its end tells.
    tar_split: Result<Option<TarSplitReader<'a>>>,
    /// Why podman would refuse the layer, were everything else as it wants it.
    refusal: Option<String>,
    names: Names,
}

/// What keeps readers from a layer whose table and tar agree.
#[derive(Default)]
pub(super) struct Obstacles {
    /// Why podman would refuse it.
    pub(super) refusal: Option<String>,
    /// Why nobody finds all entries by the table.
    pub(super) unlistable: Option<String>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(blob: &'a dyn ReadAt, location: &'a Location<'a>, limits: &'a Limits) -> Result<Self> {
        let tar_split = location.tar_split.map(|position| TarSplitReader::new(blob, position, limits));
        Ok(Self {
            blob,
            location,
            limits,
            toc: location.open_toc(blob, limits)?,
            next: None,
            tar_split: tar_split.transpose(),
            refusal: None,
            names: Names::new(limits),
        })
    }

    /// Reads the tar to its end.
    pub(super) fn run(self, feed: Feed) -> Compared {
        let Self { blob, location, limits, .. } = self;
        let mut tar = TarReader::new(feed, limits);
        let mut skipped = Skipped::default();
        let result = self.compare(&mut tar, &mut skipped);
        let same = |entry: &Entry, listed: &Entry| difference(entry, listed, location.podman).is_none();
        match (skipped.check(|| location.open_toc(blob, limits), same), result) {
            (Err(error), _) => Compared::Failed(error),
            (Ok(_), Ok(obstacles)) => Compared::Passed(obstacles),
            (Ok(_), Err(_)) if tar.source().broken.get() => Compared::GaveUp,
            // What follows from an entry that has not been found says less than what is wrong with it.
            (Ok(Some(stuck)), Err(Error::Disagreement { .. })) => Compared::Failed(stuck),
            (Ok(_), Err(error)) => Compared::Failed(error),
        }
    }

    fn compare(mut self, tar: &mut TarReader<Feed>, skipped: &mut Skipped) -> Result<Obstacles> {
        let (mut raw, mut content) = (Buffer::default(), Buffer::default());
        let mut toc_in_tar = self.location.toc_place() == TocPlace::InTar;
        while let Some(header) = self.next_header(tar, &mut raw)? {
            let listing = listing::list(&header, self.limits)?;
            self.peek_listed()?;
            if self.next.is_none() && toc_in_tar && listing.path == TAR_NAME {
                toc_in_tar = false;
                read_content(tar, &mut content, u64::MAX)?;
                continue;
            }
            self.names.add(&listing, header.offset)?;
            let Listing { entry: listed, path, refusal, .. } = listing;
            if let (None, Some(refusal)) = (&self.refusal, refusal) {
                self.refusal = Some(format!("{refusal} ({})", listed.name));
            }
            let field = match &self.next {
                None => Some("the table does not have it".to_string()),
                Some(entry) => difference(entry, &listed, self.location.podman)
                    .map(|field| format!("the {field} differs")),
            };
            tar.source()
                .expect(&listed.name, if field.is_none() { Inside::Content } else { Inside::Skipped });
            let problem = match field {
                // The first byte tells whose content it is.
                None if header.size > 0 => {
                    read_content(tar, &mut content, 1)?;
                    (tar.source().inside.get() == Inside::Skipped).then(|| MISPLACED.to_string())
                }
                other => other,
            };
            match problem {
                Some(problem) => skipped.add(listed, path, header.size > 0, problem)?,
                None => {
                    skipped.found();
                    self.next.take().map_or(Ok(()), |entry| check_empty(&entry))?;
                }
            }
            self.expect(|tar_split| tar_split.expect_segment(raw.filled()));
            read_content(tar, &mut content, u64::MAX)?;
            let checksum = tar.source().checksum.get().unwrap_or_default();
            self.expect(|tar_split| tar_split.expect_file(&header.name, header.size, checksum));
        }
        self.peek_listed()?;
        if let Some(entry) = self.next {
            return Err(differ(&entry.name, "the tar does not have it"));
        }
        loop {
            self.expect(|tar_split| tar_split.expect_segment(raw.filled()));
            raw.truncate(0);
            if tar.read_trailing(&mut raw, STEP)? == 0 {
                break;
            }
        }
        let refusal = match self.toc.finish()?.tar_split_digest {
            Some(_) => self.tar_split?.map_or(Ok(None), TarSplitReader::finish)?,
            None => None,
        };
        let names = self.names.finish();
        let unlistable = names.check().err().map(|error| error.to_string());
        let refusal = self.refusal.or(refusal.map(str::to_owned)).or_else(|| names.refusal());
        Ok(Obstacles { refusal: refusal.or_else(|| unlistable.clone()), unlistable })
    }

    /// Holds the tar-split stream to what the tar has next.
    fn expect(&mut self, take: impl FnOnce(&mut TarSplitReader<'a>) -> Result<()>) {
        if let Ok(Some(tar_split)) = &mut self.tar_split
            && let Err(error) = take(tar_split)
        {
            self.tar_split = Err(error);
        }
    }

    /// Reads up to the content of the next entry, leaving the bytes of the headers in `raw`.
    fn next_header(&mut self, tar: &mut TarReader<Feed>, raw: &mut Buffer) -> Result<Option<Header>> {
        raw.truncate(0);
        tar.source().inside.set(Inside::Headers);
        tar.next(raw)
    }

    fn peek_listed(&mut self) -> Result<()> {
        if self.next.is_none() {
            self.next = skipped::next_listed(&mut self.toc)?;
        }
        Ok(())
    }
}

/// Checks the digest of a file that has no chunk to be checked with.
fn check_empty(entry: &Entry) -> Result<()> {
    match &entry.digest {
        Some(digest) if entry.kind == EntryKind::Regular && entry.size == 0 => {
            expect_digest(&Digest::sha256(b""), digest, || format!("the empty file {:?}", entry.name))
        }
        _ => Ok(()),
    }
}

/// Reads content of the current entry, up to `most` bytes, and nothing is kept of it.
fn read_content(tar: &mut TarReader<Feed>, content: &mut Buffer, mut most: u64) -> Result<()> {
    while most > 0 {
        content.truncate(0);
        match tar.read_payload(content, STEP.min(most))? {
            0 => break,
            read => most -= read,
        }
    }
    Ok(())
}

pub(super) fn differ(entry: &str, problem: &str) -> Error {
    Error::Disagreement { entry: format!("{entry:?}"), problem: problem.into() }
}

/// Returns the first field in which an entry differs from what its header would be listed as.
fn difference(entry: &Entry, listed: &Entry, podman: bool) -> Option<&'static str> {
    compare_fields(entry, listed, podman).into_iter().find_map(|(field, same)| (!same).then_some(field))
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
    /// Content, of which the next byte tells whether the table lists it. What has been listed before has been read, so
    /// listed content is that of the next file in the table.
    Content,
    /// Content that the table lists.
    Listed,
    /// Content that it does not list.
    Skipped,
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

    /// Gets ready for the content of an entry.
    fn expect(&self, entry: &str, inside: Inside) {
        self.entry.replace(entry.into());
        self.inside.set(inside);
        self.checksum.take();
    }

    /// Takes the checksum of the next bytes of content.
    fn add_checksum(&self, checksum: Checksum, length: u64) {
        // Joining checksums costs far more than taking one.
        let before = self.checksum.get();
        self.checksum.set(Some(before.map_or(checksum, |sum| sum.then(checksum, length))));
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
        if self.inside.get() == Inside::Content {
            let listed = matches!(self.run, Some(Run::Payload { .. }));
            self.inside.set(if listed { Inside::Listed } else { Inside::Skipped });
        }
        match (&mut self.run, self.inside.get()) {
            (Some(Run::Headers(left)), inside @ (Inside::Headers | Inside::Skipped)) => {
                let length = buffer.len().min(*left);
                buffer[..length].copy_from_slice(&self.headers[self.consumed..self.consumed + length]);
                self.consumed += length;
                *left -= length;
                if *left == 0 {
                    self.run = None;
                }
                if inside == Inside::Skipped {
                    self.add_checksum(Checksum::of(&buffer[..length]), length as u64);
                }
                Ok(length)
            }
            (Some(Run::Payload { length: left, end, .. }), Inside::Listed) => {
                // Nobody looks at content here: its digest has been checked, its place is checked by this match.
                let length = buffer.len().min(*left);
                *left -= length;
                if *left == 0 {
                    let end = end.take();
                    self.run = None;
                    if let Some(end) = end {
                        self.add_checksum(end.checksum, end.size);
                    }
                }
                Ok(length)
            }
            _ => Err(io::Error::other(differ(&self.entry.borrow(), MISPLACED))),
        }
    }
}
