//! Writes tables of contents, byte for byte as their readers' own tools do where that matters.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use restow_oci::Digest;
use restow_oci::Timestamp;

use super::{Entry, EntryKind};

/// For whom a table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// What eStargz tools write: indented by tabs, times in whole seconds. The digest of the table is part of such
    /// layers, so the bytes are those of Go's `json.MarshalIndent`.
    Stargz,
    /// All that containerd's and podman's readers of zstd:chunked want, in one compact document: full times, the end
    /// of each file, runs of zeros.
    Superset,
}

/// Writes a table entry by entry.
#[derive(Debug)]
pub(crate) struct Writer {
    dialect: Dialect,
    started: bool,
}

impl Writer {
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self { dialect, started: false }
    }

    /// Appends an entry and what comes before it: the head of the document, or a comma.
    pub(crate) fn entry(&mut self, entry: &Entry, out: &mut Vec<u8>) {
        if self.started {
            out.push(b',');
        } else {
            self.head(out);
        }
        self.started = true;
        if self.dialect == Dialect::Stargz {
            new_line(2, out);
        }
        write_entry(entry, self.dialect, out);
    }

    /// Appends the end of the document.
    pub(crate) fn finish(self, tar_split_digest: Option<&Digest>, out: &mut Vec<u8>) {
        if !self.started {
            self.head(out);
        }
        match self.dialect {
            Dialect::Stargz if self.started => out.extend_from_slice(b"\n\t]\n}"),
            Dialect::Stargz => out.extend_from_slice(b"]\n}"),
            Dialect::Superset => {
                out.push(b']');
                if let Some(digest) = tar_split_digest {
                    out.extend_from_slice(b",\"tarSplitDigest\":\"");
                    out.extend_from_slice(digest.as_str().as_bytes());
                    out.push(b'"');
                }
                out.push(b'}');
            }
        }
    }

    fn head(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self.dialect {
            Dialect::Stargz => b"{\n\t\"version\": 1,\n\t\"entries\": [",
            Dialect::Superset => br#"{"version":1,"entries":["#,
        });
    }
}

/// Appends one entry as a JSON object.
pub(super) fn write_entry(entry: &Entry, dialect: Dialect, out: &mut Vec<u8>) {
    // podman compares every field with the tar header's, whatever the kind; eStargz lists what the kind gives a meaning.
    let superset = dialect == Dialect::Superset;
    let sized = superset || entry.kind == EntryKind::Regular;
    let linked = superset || matches!(entry.kind, EntryKind::Symlink | EntryKind::Hardlink);
    let device = superset || matches!(entry.kind, EntryKind::Char | EntryKind::Block);
    let mut object = Object { dialect, out, depth: 3, empty: true };
    object.open();
    object.text("name", &entry.name);
    object.text("type", entry.kind.as_str());
    if sized {
        object.number("size", entry.size);
    }
    object.time("modtime", entry.modified);
    if superset {
        object.time("accesstime", entry.accessed);
        object.time("changetime", entry.changed);
    }
    if linked {
        object.optional_text("linkName", &entry.link_name);
    }
    object.signed("mode", entry.mode);
    object.signed("uid", entry.uid);
    object.signed("gid", entry.gid);
    object.optional_text("userName", &entry.user_name);
    object.optional_text("groupName", &entry.group_name);
    object.number("offset", entry.offset);
    if superset {
        object.number("endOffset", entry.end_offset);
    }
    object.number("innerOffset", entry.inner_offset);
    if device {
        object.signed("devMajor", entry.device_major);
        object.signed("devMinor", entry.device_minor);
    }
    object.xattrs(entry);
    object.optional_text("digest", entry.digest.as_ref().map_or("", Digest::as_str));
    object.number("chunkOffset", entry.chunk_offset);
    object.number("chunkSize", entry.chunk_size);
    object.optional_text("chunkDigest", entry.chunk_digest.as_ref().map_or("", Digest::as_str));
    if superset && entry.zeros {
        object.text("chunkType", "zeros");
    }
    object.close();
}

/// A JSON object under construction.
struct Object<'a> {
    dialect: Dialect,
    out: &'a mut Vec<u8>,
    depth: usize,
    empty: bool,
}

impl Object<'_> {
    fn open(&mut self) {
        self.out.push(b'{');
    }

    fn close(self) {
        if !self.empty && self.dialect == Dialect::Stargz {
            new_line(self.depth - 1, self.out);
        }
        self.out.push(b'}');
    }

    fn key(&mut self, key: &str) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        let indented = self.dialect == Dialect::Stargz;
        if indented {
            new_line(self.depth, self.out);
        }
        write_string(key, self.out);
        self.out.extend_from_slice(if indented { b": " } else { b":" });
    }

    fn text(&mut self, key: &str, text: &str) {
        self.key(key);
        write_string(text, self.out);
    }

    fn optional_text(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            self.text(key, text);
        }
    }

    fn number(&mut self, key: &str, number: u64) {
        if number != 0 {
            self.key(key);
            self.out.extend_from_slice(number.to_string().as_bytes());
        }
    }

    fn signed(&mut self, key: &str, number: i64) {
        if number != 0 {
            self.key(key);
            self.out.extend_from_slice(number.to_string().as_bytes());
        }
    }

    /// stargz-snapshotter takes second 0 for "no time"; podman takes no time for the time at which it pulls.
    fn time(&mut self, key: &str, time: Option<Timestamp>) {
        let text = match (self.dialect, time) {
            (_, None) => return,
            (Dialect::Stargz, Some(time)) if time.seconds() == 0 => return,
            (Dialect::Stargz, Some(time)) => time.round().to_string(),
            (Dialect::Superset, Some(time)) => time.to_string(),
        };
        self.text(key, &text);
    }

    fn xattrs(&mut self, entry: &Entry) {
        if entry.xattrs.is_empty() {
            return;
        }
        self.key("xattrs");
        let mut xattrs = Object { dialect: self.dialect, out: self.out, depth: self.depth + 1, empty: true };
        xattrs.open();
        for (name, value) in &entry.xattrs {
            xattrs.text(name, &STANDARD.encode(value));
        }
        xattrs.close();
    }
}

fn new_line(depth: usize, out: &mut Vec<u8>) {
    out.push(b'\n');
    out.resize(out.len() + depth, b'\t');
}

/// Escapes as Go's encoder does, so that the digest of a table does not tell who wrote it.
pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    // The first byte of U+2028 and U+2029 stands for all that may need more than a look at one byte.
    let special = |byte: &u8| matches!(*byte, 0..=0x1f | b'"' | b'\\' | b'<' | b'>' | b'&' | 0xe2);
    if !text.as_bytes().iter().any(special) {
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return;
    }
    let mut plain = 0;
    for (position, character) in text.char_indices() {
        let short = match character {
            '"' => "\\\"",
            '\\' => "\\\\",
            '\n' => "\\n",
            '\r' => "\\r",
            '\t' => "\\t",
            '\u{8}' => "\\b",
            '\u{c}' => "\\f",
            '\0'..='\u{1f}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => "",
            _ => continue,
        };
        out.extend_from_slice(&text.as_bytes()[plain..position]);
        if short.is_empty() {
            out.extend_from_slice(format!("\\u{:04x}", u32::from(character)).as_bytes());
        } else {
            out.extend_from_slice(short.as_bytes());
        }
        plain = position + character.len_utf8();
    }
    out.extend_from_slice(&text.as_bytes()[plain..]);
    out.push(b'"');
}
