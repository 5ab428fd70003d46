//! Makes seekable layers for tests, sound ones and others, without a line of the encoder.

use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use restow_oci::{Digest, Limits};
use restow_testkit::TarBuilder;

use crate::buffer::Buffer;
use crate::decompress::Format;
use crate::footer::{self, Position};
use crate::listing;
use crate::tar::TarReader;
use crate::tarsplit::Checksum;
use crate::toc::{Dialect, Entry, EntryKind, TAR_NAME, Writer};

/// The parts of a layer, each open to change until it is sealed.
#[derive(Clone)]
pub(crate) struct Forged {
    pub(crate) format: Format,
    pub(crate) frames: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
    /// The lines of the tar-split stream, and a change to its digest in the table.
    pub(crate) tar_split: Option<String>,
    pub(crate) tar_split_digest: Option<Digest>,
    /// How many bytes the table is said to have more than it has.
    pub(crate) toc_size_lie: i64,
    /// Put behind the JSON of the table.
    pub(crate) behind_toc: Vec<u8>,
    /// Put behind the table, before the footer.
    pub(crate) before_footer: Vec<u8>,
}

impl Forged {
    /// Cuts a tar into frames and lists it, with at most `chunk_size` bytes of a file in a chunk.
    pub(crate) fn new(format: Format, tar: &[u8], chunk_size: usize) -> Self {
        let mut forged = Self {
            format,
            frames: Vec::new(),
            entries: Vec::new(),
            tar_split: None,
            tar_split_digest: None,
            toc_size_lie: 0,
            behind_toc: Vec::new(),
            before_footer: Vec::new(),
        };
        let limits = Limits::default();
        let mut reader = TarReader::new(tar, &limits);
        let mut headers = Vec::new();
        let mut lines = Lines::default();
        let mut raw = Buffer::default();
        loop {
            raw.truncate(0);
            let header = reader.next(&mut raw).unwrap();
            headers.extend_from_slice(raw.filled());
            let Some(header) = header else { break };
            lines.segment(raw.filled());
            let mut entry = listing::list(&header, &limits).unwrap().entry;
            raw.truncate(0);
            while reader.read_payload(&mut raw, 1 << 20).unwrap() > 0 {}
            lines.file(&entry.name, raw.filled());
            if entry.kind == EntryKind::Regular {
                entry.digest = Some(Digest::sha256(raw.filled()));
            }
            if raw.is_empty() {
                forged.entries.push(entry);
                continue;
            }
            forged.frame(&mut headers);
            forged.file(entry, raw.filled(), chunk_size);
        }
        lines.segment(raw.filled());
        let at = reader.position() as usize;
        headers.extend_from_slice(&tar[at..]);
        lines.segment(&tar[at..]);
        forged.frame(&mut headers);
        if format == Format::Zstd {
            forged.tar_split = Some(lines.text);
        }
        forged
    }

    fn file(&mut self, mut entry: Entry, content: &[u8], chunk_size: usize) {
        let name = entry.name.clone();
        let whole = content.len() <= chunk_size;
        for (position, chunk) in content.chunks(chunk_size).enumerate() {
            entry.offset = self.frames.len() as u64;
            entry.chunk_digest = Some(Digest::sha256(chunk));
            entry.chunk_offset = (position * chunk_size) as u64;
            entry.chunk_size = if whole { 0 } else { chunk.len() as u64 };
            self.entries.push(std::mem::take(&mut entry));
            entry = Entry { name: name.clone(), kind: EntryKind::Chunk, ..Entry::default() };
            self.frame(&mut chunk.to_vec());
        }
    }

    /// Appends a frame or member of its own and empties `bytes`.
    pub(crate) fn frame(&mut self, bytes: &mut Vec<u8>) {
        if !bytes.is_empty() {
            self.frames.extend(compress(self.format, &std::mem::take(bytes)));
        }
    }

    /// Returns the entry of a name.
    pub(crate) fn entry(&mut self, name: &str) -> &mut Entry {
        self.entries.iter_mut().find(|entry| entry.name == name).unwrap()
    }

    /// Returns the chunks behind the entry of a name.
    pub(crate) fn chunk(&mut self, name: &str, position: usize) -> &mut Entry {
        self.entries.iter_mut().filter(|entry| entry.name == name).nth(position).unwrap()
    }

    pub(crate) fn toc(&self) -> Vec<u8> {
        let dialect = if self.format == Format::Zstd { Dialect::Superset } else { Dialect::Stargz };
        let split =
            self.tar_split.as_ref().map(|lines| Digest::sha256(&compress(Format::Zstd, lines.as_bytes())));
        let mut json = Vec::new();
        let mut writer = Writer::new(dialect);
        self.entries.iter().for_each(|entry| writer.entry(entry, &mut json));
        writer.finish(self.tar_split_digest.as_ref().or(split.as_ref()), &mut json);
        json.extend_from_slice(&self.behind_toc);
        json
    }

    /// Returns the blob.
    pub(crate) fn seal(&self) -> Vec<u8> {
        self.seal_with(&self.toc())
    }

    /// Returns the blob with another table.
    pub(crate) fn seal_with(&self, json: &[u8]) -> Vec<u8> {
        match self.format {
            Format::Zstd => self.seal_zstd(json),
            _ => {
                let toc = compress(Format::Gzip, &toc_tar(json));
                let footer = footer::gzip(self.frames.len() as u64);
                [&self.frames[..], &toc, &self.before_footer, &footer].concat()
            }
        }
    }

    /// Returns an eStargz blob without a table, and the blob of the table.
    pub(crate) fn seal_external(&self) -> (Vec<u8>, Vec<u8>) {
        let blob = [&self.frames[..], &footer::external()].concat();
        (blob, compress(Format::Gzip, &toc_tar(&self.toc())))
    }

    fn seal_zstd(&self, json: &[u8]) -> Vec<u8> {
        let mut blob = self.frames.clone();
        let uncompressed_size = json.len().checked_add_signed(self.toc_size_lie as isize).unwrap() as u64;
        let toc = Position { uncompressed_size, ..skippable(&mut blob, json) };
        let tar_split = self.tar_split.as_ref().map(|lines| skippable(&mut blob, lines.as_bytes()));
        blob.extend_from_slice(&self.before_footer);
        if let Some(tar_split) = tar_split {
            blob.extend_from_slice(&footer::podman(toc, tar_split));
        }
        blob.extend_from_slice(&footer::stargz(toc));
        blob
    }
}

/// Appends compressed bytes that decoders skip.
fn skippable(blob: &mut Vec<u8>, content: &[u8]) -> Position {
    let compressed = compress(Format::Zstd, content);
    blob.extend_from_slice(&footer::skippable_header(compressed.len() as u32));
    let offset = blob.len() as u64;
    blob.extend_from_slice(&compressed);
    Position { offset, size: compressed.len() as u64, uncompressed_size: content.len() as u64 }
}

pub(crate) fn toc_tar(json: &[u8]) -> Vec<u8> {
    TarBuilder::new().file(TAR_NAME, json).finish()
}

pub(crate) fn compress(format: Format, bytes: &[u8]) -> Vec<u8> {
    if format == Format::Zstd {
        return zstd::bulk::compress(bytes, 1).unwrap();
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[derive(Default)]
struct Lines {
    text: String,
    position: u64,
}

impl Lines {
    fn segment(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.line(&format!(r#"{{"type":2,"payload":"{}""#, STANDARD.encode(bytes)));
        }
    }

    fn file(&mut self, name: &str, content: &[u8]) {
        let name = serde_json::to_string(name).unwrap();
        if content.is_empty() {
            return self.line(&format!(r#"{{"type":1,"name":{name},"payload":null"#));
        }
        let sum = STANDARD.encode(Checksum::of(content).to_bytes());
        self.line(&format!(r#"{{"type":1,"name":{name},"size":{},"payload":"{sum}""#, content.len()));
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(&format!("{line},\"position\":{}}}\n", self.position));
        self.position += 1;
    }
}
