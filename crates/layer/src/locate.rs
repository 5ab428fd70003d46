//! Where the table of contents of a layer is, and how to get at it.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};

use restow_oci::{Digest, Digester, Limits, annotations};

use crate::blob::{ReadAt, read_exact_at};
use crate::buffer::Buffer;
use crate::codec::TocPlace;
use crate::decompress::Format;
use crate::footer::{self, Footer, Position, SKIPPABLE_HEADER};
use crate::frames::Frames;
use crate::tar::{Kind, TarReader};
use crate::toc::{Parser, TAR_NAME};
use crate::{Error, Result, path};

/// What is known about a layer's table of contents from elsewhere: from the annotations of its descriptor, mostly.
///
/// Nothing needs to be known. What is known must hold.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    /// The digest of the table's JSON, as containerd's annotations have it.
    pub toc_digest: Option<Digest>,
    /// The digest of the compressed table, as podman's annotations have it.
    pub stored_toc_digest: Option<Digest>,
    /// Where the compressed table is. Layers of podman's tools can be opened by it even without a footer.
    pub toc: Option<Position>,
    /// Where the compressed tar-split is.
    pub tar_split: Option<Position>,
    /// The blob that holds the table of an eStargz layer that has none of its own.
    pub external_toc: Option<Vec<u8>>,
}

impl Hints {
    /// Reads the annotations of a layer's descriptor.
    ///
    /// Those of both readers on one descriptor are an error: such a layer has two tables, and no reader takes it.
    pub fn from_annotations(annotations: &BTreeMap<String, String>) -> Result<Self> {
        let get = |key| annotations.get(key).map(String::as_str);
        let digest = |key| match get(key) {
            Some(text) => Digest::parse(text)
                .map(Some)
                .map_err(|error| Error::Toc(format!("annotation {key}: {error}"))),
            None => Ok(None),
        };
        if get(annotations::STARGZ_TOC_DIGEST).is_some()
            && get(annotations::PODMAN_MANIFEST_CHECKSUM).is_some()
        {
            return Err(Error::Toc(
                "the descriptor has the annotations of containerd's and of podman's reader".into(),
            ));
        }
        let toc =
            get(annotations::PODMAN_MANIFEST_POSITION).or(get(annotations::STARGZ_ZSTD_MANIFEST_POSITION));
        let checksum = digest(annotations::PODMAN_MANIFEST_CHECKSUM)?;
        let tar_split = get(annotations::PODMAN_TARSPLIT_POSITION);
        Ok(Self {
            toc_digest: digest(annotations::STARGZ_TOC_DIGEST)?,
            stored_toc_digest: checksum.or(digest(annotations::STARGZ_ZSTD_MANIFEST_CHECKSUM)?),
            toc: toc.map(Position::parse_toc).transpose()?,
            tar_split: tar_split.map(Position::parse_tar_split).transpose()?,
            external_toc: None,
        })
    }
}

/// Where the parts of a seekable layer are.
#[derive(Debug)]
pub(crate) struct Location<'h> {
    pub(crate) format: Format,
    /// Where the frames of the tar end. In eStargz, that of the table follows.
    pub(crate) payload_end: u64,
    /// Where the footer starts.
    pub(crate) footer_start: u64,
    /// The compressed tar-split.
    pub(crate) tar_split: Option<Position>,
    /// Whether the layer says of itself that podman can read it.
    pub(crate) podman: bool,
    table: Table<'h>,
    hints: &'h Hints,
}

#[derive(Debug)]
enum Table<'h> {
    /// JSON in a skippable frame.
    Frame(Position),
    /// JSON in a tar in the last member but the footer.
    Member { start: u64, end: u64 },
    /// JSON in a tar in a gzip blob of its own.
    External(&'h [u8]),
}

impl<'h> Location<'h> {
    /// Finds the parts of a layer by its footer, or by the annotations where it has none.
    pub(crate) fn find(blob: &dyn ReadAt, hints: &'h Hints, limits: &Limits) -> Result<Self> {
        let size = blob.size();
        let tail_size = size.min(footer::TAIL as u64);
        let mut tail = vec![0; tail_size as usize];
        read_exact_at(blob, &mut tail, size - tail_size)?;
        match (footer::parse(&tail, size)?, hints.toc) {
            (Some(Footer::Zstd { toc, tar_split, podman, start }), hint) => {
                agree("table of contents", Some(toc), hint)?;
                agree("tar-split", tar_split, hints.tar_split)?;
                let tar_split = tar_split.or(hints.tar_split);
                let podman = podman || hints.tar_split.is_some();
                Self::of_frames(blob, Frame { toc, tar_split, podman, footer_start: start }, hints, limits)
            }
            (None, Some(toc)) => {
                let frame = Frame { toc, tar_split: hints.tar_split, podman: true, footer_start: size };
                Self::of_frames(blob, frame, hints, limits)
            }
            (None, None) => Err(Error::NotSeekable),
            (Some(_), Some(toc)) => {
                Err(Error::Footer(format!("it is one of eStargz, but the annotations put a table at {toc}")))
            }
            (Some(Footer::Gzip { toc_offset, start }), None) => Ok(Self::of_members(
                start,
                toc_offset,
                Table::Member { start: toc_offset, end: start },
                hints,
            )),
            (Some(Footer::ExternalToc { start }), None) => match &hints.external_toc {
                Some(toc) => Ok(Self::of_members(start, start, Table::External(toc), hints)),
                None => Err(Error::Toc("it is in a blob of its own, which was not given".into())),
            },
        }
    }

    fn of_members(footer_start: u64, payload_end: u64, table: Table<'h>, hints: &'h Hints) -> Self {
        Self { format: Format::Gzip, payload_end, footer_start, tar_split: None, podman: false, table, hints }
    }

    fn of_frames(blob: &dyn ReadAt, frame: Frame, hints: &'h Hints, limits: &Limits) -> Result<Self> {
        let Frame { toc, tar_split, podman, footer_start } = frame;
        let toc_end = toc.end_within(0, footer_start)?;
        check_skippable(blob, toc)?;
        for (what, found) in [
            ("the compressed size in bytes of the table of contents", toc.size),
            ("the size in bytes of the table of contents", toc.uncompressed_size),
        ] {
            if found > limits.toc_size {
                return Err(Error::Limit { what, found, limit: limits.toc_size });
            }
        }
        if let Some(tar_split) = tar_split {
            tar_split.end_within(toc_end, footer_start)?;
            check_skippable(blob, tar_split)?;
        }
        Ok(Self {
            format: Format::Zstd,
            payload_end: toc.offset - SKIPPABLE_HEADER,
            footer_start,
            tar_split,
            podman,
            table: Table::Frame(toc),
            hints,
        })
    }

    /// Opens the table. Its digests are checked as far as they are known: that of the compressed table now, that of
    /// the JSON by [`OpenToc::finish`].
    pub(crate) fn open_toc<'a>(&'a self, blob: &'a dyn ReadAt, limits: &'a Limits) -> Result<OpenToc<'a>> {
        let json = BufReader::with_capacity(JSON_BUFFER, self.json(blob, limits)?);
        Ok(OpenToc { parser: Parser::new(json, limits)?, hints: self.hints })
    }

    /// Returns the bytes of the table.
    pub(crate) fn json<'a>(&'a self, blob: &'a dyn ReadAt, limits: &'a Limits) -> Result<Json<'a>> {
        Ok(match &self.table {
            Table::Frame(toc) => {
                if let Some(expected) = &self.hints.stored_toc_digest {
                    check_digest(blob, toc, expected, "the compressed table of contents")?;
                }
                let frames = Frames::new(self.format, blob, toc.offset, toc.offset + toc.size, limits)?;
                Json::new(Box::new(frames), toc.uncompressed_size, true)
            }
            Table::Member { start, end } => {
                let frames = Frames::new(Format::Gzip, blob, *start, *end, limits)?;
                Json::new(Box::new(TarContent::new(frames, limits)), limits.toc_size, false)
            }
            Table::External(toc) => {
                let frames = Frames::new(Format::Gzip, toc, 0, toc.size(), limits)?;
                Json::new(Box::new(TarContent::new(frames, limits)), limits.toc_size, false)
            }
        })
    }

    /// Returns what annotations say of where the table is, or nothing where containerd's readers would not find it: they
    /// look for their own footer. Where a table in a blob of its own is, the blob's place says.
    pub(crate) fn lazy_annotations(&self, blob: &dyn ReadAt) -> Result<Option<BTreeMap<String, String>>> {
        match &self.table {
            Table::Member { .. } | Table::External(_) => Ok(Some(BTreeMap::new())),
            Table::Frame(_) if !footer::is_stargz(blob.size() - self.footer_start) => Ok(None),
            Table::Frame(toc) => {
                let mut digester = Digester::sha256();
                hash(blob, toc, &mut digester)?;
                Ok(Some(BTreeMap::from([
                    (annotations::STARGZ_ZSTD_MANIFEST_CHECKSUM.into(), digester.finish().to_string()),
                    (annotations::STARGZ_ZSTD_MANIFEST_POSITION.into(), toc.toc_annotation()),
                ])))
            }
        }
    }

    /// Returns what podman's reader finds the table and the tar-split stream by, where there are both.
    pub(crate) fn partial_annotations(&self, blob: &dyn ReadAt) -> Result<Option<BTreeMap<String, String>>> {
        let (Table::Frame(toc), Some(tar_split)) = (&self.table, self.tar_split) else { return Ok(None) };
        let mut digester = Digester::sha256();
        hash(blob, toc, &mut digester)?;
        Ok(Some(BTreeMap::from([
            (annotations::PODMAN_MANIFEST_CHECKSUM.into(), digester.finish().to_string()),
            (annotations::PODMAN_MANIFEST_POSITION.into(), toc.toc_annotation()),
            (annotations::PODMAN_TARSPLIT_POSITION.into(), tar_split.tar_split_annotation()),
        ])))
    }

    /// Returns where the table is.
    pub(crate) fn toc_place(&self) -> TocPlace {
        match self.table {
            Table::Frame(_) => TocPlace::Hidden,
            Table::Member { .. } => TocPlace::InTar,
            Table::External(_) => TocPlace::Apart,
        }
    }
}

/// What locates the skippable frames of a zstd layer.
struct Frame {
    toc: Position,
    tar_split: Option<Position>,
    podman: bool,
    footer_start: u64,
}

const JSON_BUFFER: usize = 64 << 10;

fn agree(what: &str, footer: Option<Position>, annotation: Option<Position>) -> Result<()> {
    match (footer, annotation) {
        (Some(footer), Some(annotation)) if footer != annotation => {
            Err(Error::Footer(format!("it puts the {what} at {footer}, the annotations at {annotation}")))
        }
        _ => Ok(()),
    }
}

/// Checks that what lies at `position` is hidden from decoders of the tar.
fn check_skippable(blob: &dyn ReadAt, position: Position) -> Result<()> {
    let mut header = [0; SKIPPABLE_HEADER as usize];
    read_exact_at(blob, &mut header, position.offset - SKIPPABLE_HEADER)?;
    if footer::skippable_length(header) != Some(position.size) {
        let problem =
            format!("there is no skippable frame of {} bytes at {}", position.size, position.offset);
        return Err(Error::Footer(problem));
    }
    Ok(())
}

/// Checks the digest of compressed bytes before they are decoded.
pub(crate) fn check_digest(
    blob: &dyn ReadAt,
    position: &Position,
    expected: &Digest,
    what: &str,
) -> Result<()> {
    let unverifiable = |_| Error::Unverifiable { what: what.to_string() };
    let mut digester = Digester::new(expected.algorithm()).map_err(unverifiable)?;
    hash(blob, position, &mut digester)?;
    expect_digest(&digester.finish(), expected, || what.to_string())
}

fn hash(blob: &dyn ReadAt, position: &Position, digester: &mut Digester) -> Result<()> {
    let mut buffer = vec![0; JSON_BUFFER];
    let mut left = position.size;
    while left > 0 {
        let length = left.min(buffer.len() as u64) as usize;
        read_exact_at(blob, &mut buffer[..length], position.offset + position.size - left)?;
        digester.update(&buffer[..length]);
        left -= length as u64;
    }
    Ok(())
}

pub(crate) fn expect_digest(actual: &Digest, expected: &Digest, what: impl FnOnce() -> String) -> Result<()> {
    if actual == expected {
        return Ok(());
    }
    Err(Error::Mismatch { what: what(), expected: expected.clone(), actual: actual.clone() })
}

/// A table of contents being read.
pub(crate) struct OpenToc<'a> {
    pub(crate) parser: Parser<BufReader<Json<'a>>>,
    hints: &'a Hints,
}

/// What is known of a table that has been read to its end.
#[derive(Debug)]
pub(crate) struct TocFacts {
    /// The digest of the JSON.
    pub(crate) digest: Digest,
    /// The size of the JSON in bytes.
    pub(crate) size: u64,
    /// The digest of the compressed tar-split, where the table names one.
    pub(crate) tar_split_digest: Option<Digest>,
}

impl OpenToc<'_> {
    /// Reads the rest and checks the whole.
    pub(crate) fn finish(mut self) -> Result<TocFacts> {
        let tar_split_digest = self.parser.finish()?;
        let (digest, size) = self.parser.into_source().into_inner().finish()?;
        if let Some(expected) = &self.hints.toc_digest {
            expect_digest(&digest, expected, || "the table of contents".into())?;
        }
        Ok(TocFacts { digest, size, tar_split_digest })
    }
}

/// The bytes of a table, hashed and counted.
pub(crate) struct Json<'a> {
    source: Box<dyn Read + Send + 'a>,
    digester: Digester,
    size: u64,
    limit: u64,
    exact: bool,
}

impl<'a> Json<'a> {
    /// Reads no more than `limit` bytes, and no fewer either if that is the `exact` size.
    fn new(source: Box<dyn Read + Send + 'a>, limit: u64, exact: bool) -> Self {
        Self { source, digester: Digester::sha256(), size: 0, limit, exact }
    }

    fn finish(self) -> Result<(Digest, u64)> {
        if self.exact && self.size != self.limit {
            return Err(Error::Toc(format!("it has {} bytes, expected {}", self.size, self.limit)));
        }
        Ok((self.digester.finish(), self.size))
    }
}

impl Read for Json<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.size += length as u64;
        if self.size > self.limit {
            let what = "the size in bytes of the table of contents";
            return Err(io::Error::other(Error::Limit { what, found: self.size, limit: self.limit }));
        }
        self.digester.update(&buffer[..length]);
        Ok(length)
    }
}

/// The content of the one file in a tar, [`TAR_NAME`].
struct TarContent<R> {
    tar: TarReader<R>,
    piece: Buffer,
    consumed: usize,
    stage: Stage,
}

enum Stage {
    Header,
    Content,
    End,
}

impl<R: Read> TarContent<R> {
    fn new(source: R, limits: &Limits) -> Self {
        Self {
            tar: TarReader::new(source, limits),
            piece: Buffer::default(),
            consumed: 0,
            stage: Stage::Header,
        }
    }

    /// Fills the piece, leaving it empty at the end of the file, which must be that of the tar.
    fn advance(&mut self) -> Result<()> {
        let raw = &mut self.piece;
        raw.truncate(0);
        self.consumed = 0;
        if matches!(self.stage, Stage::Header) {
            let header = self.tar.next(raw)?;
            let found = header.is_some_and(|header| {
                header.kind == Kind::Regular && path::clean(&header.display_name()) == TAR_NAME
            });
            if !found {
                return Err(Error::Toc(format!("its tar does not start with the file {TAR_NAME}")));
            }
            raw.truncate(0);
            self.stage = Stage::Content;
        }
        if matches!(self.stage, Stage::Content) && self.tar.read_payload(raw, JSON_BUFFER as u64)? == 0 {
            if self.tar.next(raw)?.is_some() {
                return Err(Error::Toc(format!("its tar has more than the file {TAR_NAME}")));
            }
            self.end()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.stage = Stage::End;
        let raw = &mut self.piece;
        raw.truncate(0);
        // As much as any tool pads an archive with.
        self.tar.read_trailing(raw, 1 << 20)?;
        let padded = raw.filled().iter().all(|byte| *byte == 0);
        raw.truncate(0);
        if padded && self.tar.read_trailing(raw, 1)? == 0 {
            return Ok(());
        }
        Err(Error::Toc("there are bytes behind its tar".into()))
    }
}

impl<R: Read> Read for TarContent<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.consumed == self.piece.len() {
            self.advance().map_err(io::Error::other)?;
        }
        let rest = &self.piece.filled()[self.consumed..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.consumed += length;
        Ok(length)
    }
}
