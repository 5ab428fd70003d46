//! Reads tables of contents strictly, entry by entry.
//!
//! Go's decoders take `Name` for `name`, let the last of two equal keys win, and skip what they do not expect. A table
//! that two readers may understand differently is refused here; a key that none of them knows is skipped.

use std::collections::BTreeMap;
use std::fmt;
use std::io::BufRead;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use restow_oci::{Digest, Limits, Timestamp};
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Entry, EntryKind};
use crate::decompress::into_error;
use crate::{Error, Result};

/// Reads a table of contents in order, holding one entry at a time.
///
/// Nothing is known to be sound before [`finish`](Self::finish) has returned: only then has the document ended where it
/// should, with a version this reader knows.
pub struct Parser<R> {
    source: Source<R>,
    keys: Keys,
    stage: Stage,
    entries: u64,
    limit: u64,
    version: Option<u64>,
    tar_split_digest: Option<Digest>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// In the array, before its first entry or the bracket that closes it.
    First,
    /// In the array, behind an entry.
    Next,
    /// Before or behind the array.
    Outside,
    /// Behind the document.
    Closed,
}

impl<R: BufRead> Parser<R> {
    /// Reads the head of the document, up to its first entry.
    pub fn new(document: R, limits: &Limits) -> Result<Self> {
        let mut parser = Self {
            source: Source { reader: document, offset: 0, value: Vec::new() },
            keys: Keys::default(),
            stage: Stage::Outside,
            entries: 0,
            limit: limits.tar_entries,
            version: None,
            tar_split_digest: None,
        };
        parser.source.expect(b'{')?;
        parser.members(true)?;
        if !parser.keys.seen("entries") {
            return Err(parser.source.problem("it has no entries"));
        }
        Ok(parser)
    }

    /// Returns the next entry, or `None` after the last.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        if matches!(self.stage, Stage::Outside | Stage::Closed) {
            return Ok(None);
        }
        match self.source.token()? {
            b']' => {
                self.source.skip();
                self.stage = Stage::Outside;
                return Ok(None);
            }
            _ if self.stage == Stage::First => {}
            b',' => self.source.skip(),
            _ => return Err(self.source.problem("expected a comma or the end of the entries")),
        }
        self.stage = Stage::Next;
        if self.entries == self.limit {
            let found = self.entries + 1;
            return Err(Error::Limit { what: "number of entries", found, limit: self.limit });
        }
        self.entries += 1;
        self.source.token()?;
        self.source.value().map(Some)
    }

    /// Returns how many entries have been read, chunks included.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Reads what is left of the document and returns the digest of the tar-split, if the table names one.
    pub fn finish(&mut self) -> Result<Option<Digest>> {
        while self.next_entry()?.is_some() {}
        if self.stage != Stage::Closed {
            self.members(false)?;
        }
        if self.source.peek()?.is_some() {
            return Err(self.source.problem("there are bytes behind the document"));
        }
        match self.version {
            Some(1) => Ok(self.tar_split_digest.take()),
            Some(version) => Err(Error::Toc(format!("version {version}, expected version 1"))),
            None => Err(Error::Toc("it has no version".into())),
        }
    }

    /// Returns what the document is read from.
    pub(crate) fn into_source(self) -> R {
        self.source.reader
    }

    /// Reads members of the document, to the start of the entries or to the end.
    fn members(&mut self, first: bool) -> Result<()> {
        let mut first = first;
        loop {
            match self.source.token()? {
                b'}' => {
                    self.source.skip();
                    self.stage = Stage::Closed;
                    return Ok(());
                }
                b',' if !first => self.source.skip(),
                _ if !first => {
                    return Err(self.source.problem("expected a comma or the end of the document"));
                }
                _ => {}
            }
            first = false;
            self.source.token()?;
            let key: String = self.source.value()?;
            let known = self.keys.take(&key, &["version", "entries", "tarSplitDigest"]);
            let known = known.map_err(|problem| self.source.problem(problem))?;
            self.source.expect(b':')?;
            let token = self.source.token()?;
            match known {
                Some("version") => self.version = Some(self.source.value()?),
                Some("tarSplitDigest") => self.tar_split_digest = Some(self.source.value::<DigestText>()?.0),
                Some(_) if token == b'[' => {
                    self.source.skip();
                    self.stage = Stage::First;
                    return Ok(());
                }
                // What Go writes for a list that was never made.
                Some(_) if token == b'n' => self.source.value::<()>()?,
                Some(_) => return Err(self.source.problem("the entries are not a list")),
                None => {
                    self.source.value::<Skipped>()?;
                }
            }
        }
    }
}

impl<R> fmt::Debug for Parser<R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Parser").field("entries", &self.entries).finish_non_exhaustive()
    }
}

/// The bytes of the document, cut into values without knowing what they mean.
struct Source<R> {
    reader: R,
    offset: u64,
    value: Vec<u8>,
}

/// An entry with the largest extended attributes a tar may carry stays well below this.
const MAX_VALUE: usize = 16 << 20;

impl<R: BufRead> Source<R> {
    fn peek(&mut self) -> Result<Option<u8>> {
        loop {
            let buffer = fill(&mut self.reader, self.offset)?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let blank = buffer.iter().take_while(|byte| b" \t\r\n".contains(byte)).count();
            let next = buffer.get(blank).copied();
            self.advance(blank);
            if next.is_some() {
                return Ok(next);
            }
        }
    }

    /// Returns the next byte that is not blank, without taking it.
    fn token(&mut self) -> Result<u8> {
        self.peek()?.ok_or_else(|| self.problem("the document ends early"))
    }

    fn skip(&mut self) {
        self.advance(1);
    }

    fn advance(&mut self, length: usize) {
        self.reader.consume(length);
        self.offset += length as u64;
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.token()? != byte {
            return Err(self.problem(format_args!("expected {:?}", char::from(byte))));
        }
        self.skip();
        Ok(())
    }

    /// Takes one value, from the next byte to where its brackets or quotes close.
    fn value<T: de::DeserializeOwned>(&mut self) -> Result<T> {
        let start = self.offset;
        self.value.clear();
        let mut extent = Extent::default();
        loop {
            let buffer = fill(&mut self.reader, self.offset)?;
            if buffer.is_empty() {
                break;
            }
            let (length, done) = extent.scan(buffer);
            if self.value.len() + length > MAX_VALUE {
                return Err(self.problem(format_args!("a value of more than {MAX_VALUE} bytes")));
            }
            self.value.extend_from_slice(&buffer[..length]);
            self.advance(length);
            if done {
                break;
            }
        }
        serde_json::from_slice(&self.value)
            .map_err(|error| Error::Toc(format!("the value at byte {start}: {error}")))
    }

    fn problem(&self, problem: impl fmt::Display) -> Error {
        Error::Toc(format!("{problem} at byte {}", self.offset))
    }
}

fn fill<R: BufRead>(reader: &mut R, offset: u64) -> Result<&[u8]> {
    reader.fill_buf().map_err(|error| into_error(error, offset))
}

/// Finds the end of a JSON value by counting brackets. Whether the value is sound is for its parser to say.
#[derive(Default)]
struct Extent {
    depth: usize,
    quoted: bool,
    escaped: bool,
    started: bool,
}

impl Extent {
    /// Returns how many bytes belong to the value, and whether that is all of it.
    fn scan(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut position = 0;
        while let Some(&byte) = bytes.get(position) {
            if self.quoted {
                position += self.scan_string(&bytes[position..]);
                if !self.quoted && self.depth == 0 {
                    return (position, true);
                }
                continue;
            }
            match byte {
                b'"' if self.depth == 0 && self.started => return (position, true),
                b'"' => self.quoted = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth > 1 => self.depth -= 1,
                b'}' | b']' if self.depth == 1 => return (position + 1, true),
                // The end of a number or a word, which belongs to what follows.
                b'}' | b']' | b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' if self.depth == 0 => {
                    return (position, true);
                }
                _ => {}
            }
            self.started = true;
            position += 1;
        }
        (bytes.len(), false)
    }

    /// Returns how many bytes belong to the string whose quote has been opened.
    fn scan_string(&mut self, bytes: &[u8]) -> usize {
        if std::mem::take(&mut self.escaped) {
            return 1;
        }
        let Some(position) = bytes.iter().position(|byte| *byte == b'"' || *byte == b'\\') else {
            return bytes.len();
        };
        match bytes[position] {
            b'"' => self.quoted = false,
            _ => self.escaped = true,
        }
        position + 1
    }
}

/// The keys an object has shown so far.
#[derive(Default)]
struct Keys(Vec<&'static str>);

impl Keys {
    fn seen(&self, key: &str) -> bool {
        self.0.contains(&key)
    }

    /// Returns the known key that `key` is, or `None` for one that no reader knows.
    fn take(&mut self, key: &str, known: &[&'static str]) -> Result<Option<&'static str>, String> {
        match known.iter().find(|known| **known == key) {
            Some(key) if self.seen(key) => Err(format!("the key {key:?} comes twice")),
            Some(key) => {
                self.0.push(key);
                Ok(Some(key))
            }
            None => match known.iter().find(|known| folds_to(key, known)) {
                Some(known) => Err(format!("the key {key:?} is taken for {known:?} by some readers")),
                None => Ok(None),
            },
        }
    }
}

/// Returns whether a reader that ignores case takes `key` for `known`. Two letters beyond ASCII fold to ASCII.
fn folds_to(key: &str, known: &str) -> bool {
    let fold = |character: char| match character {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    key.chars().map(fold).eq(known.chars().map(fold))
}

const ENTRY_KEYS: [&str; 23] = [
    "name",
    "type",
    "size",
    "modtime",
    "accesstime",
    "changetime",
    "linkName",
    "mode",
    "uid",
    "gid",
    "userName",
    "groupName",
    "offset",
    "endOffset",
    "innerOffset",
    "devMajor",
    "devMinor",
    "xattrs",
    "digest",
    "chunkOffset",
    "chunkSize",
    "chunkDigest",
    "chunkType",
];

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an entry")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
        let mut keys = Keys::default();
        let mut entry = Entry::default();
        while let Some(Text(key)) = map.next_key()? {
            let Some(key) = keys.take(&key, &ENTRY_KEYS).map_err(de::Error::custom)? else {
                map.next_value::<Skipped>()?;
                continue;
            };
            match key {
                "name" => entry.name = map.next_value()?,
                "type" => entry.kind = map.next_value::<Kind>()?.0,
                "size" => entry.size = map.next_value()?,
                "modtime" => entry.modified = Some(map.next_value::<Time>()?.0),
                "accesstime" => entry.accessed = Some(map.next_value::<Time>()?.0),
                "changetime" => entry.changed = Some(map.next_value::<Time>()?.0),
                "linkName" => entry.link_name = map.next_value()?,
                "mode" => entry.mode = map.next_value()?,
                "uid" => entry.uid = map.next_value()?,
                "gid" => entry.gid = map.next_value()?,
                "userName" => entry.user_name = map.next_value()?,
                "groupName" => entry.group_name = map.next_value()?,
                "offset" => entry.offset = map.next_value()?,
                "endOffset" => entry.end_offset = map.next_value()?,
                "innerOffset" => entry.inner_offset = map.next_value()?,
                "devMajor" => entry.device_major = map.next_value()?,
                "devMinor" => entry.device_minor = map.next_value()?,
                "xattrs" => entry.xattrs = map.next_value::<Xattrs>()?.0,
                "digest" => entry.digest = Some(map.next_value::<DigestText>()?.0),
                "chunkOffset" => entry.chunk_offset = map.next_value()?,
                "chunkSize" => entry.chunk_size = map.next_value()?,
                "chunkDigest" => entry.chunk_digest = Some(map.next_value::<DigestText>()?.0),
                _ => entry.zeros = map.next_value::<ChunkType>()?.0,
            }
        }
        for key in ["name", "type"] {
            if !keys.seen(key) {
                return Err(de::Error::custom(format_args!("an entry without {key:?}")));
            }
        }
        Ok(entry)
    }
}

/// A string that is borrowed where it can be.
pub(crate) struct Text<'de>(pub(crate) std::borrow::Cow<'de, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(text.into()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(text.to_owned().into()))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// Declares a value that is spelled as a string.
macro_rules! spelled {
    ($name:ident($inner:ty) = |$text:ident| $parse:expr) => {
        struct $name($inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let Text($text) = Text::deserialize(deserializer)?;
                $parse.map($name).map_err(|error| de::Error::custom(format_args!("{:?}: {error}", $text)))
            }
        }
    };
}

spelled!(Kind(EntryKind) = |text| EntryKind::from_name(&text).ok_or("not a kind of entry"));
spelled!(Time(Timestamp) = |text| text.parse::<Timestamp>());
spelled!(DigestText(Digest) = |text| Digest::parse(&text));
spelled!(
    ChunkType(bool) = |text| match &*text {
        "" => Ok(false),
        "zeros" => Ok(true),
        _ => Err("not a type of chunk"),
    }
);
spelled!(Base64(Vec<u8>) = |text| STANDARD.decode(text.as_bytes()));

struct Xattrs(BTreeMap<String, Vec<u8>>);

impl<'de> Deserialize<'de> for Xattrs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct XattrsVisitor;
        impl<'de> Visitor<'de> for XattrsVisitor {
            type Value = Xattrs;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("extended attributes by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Xattrs, A::Error> {
                let mut xattrs = BTreeMap::new();
                while let Some((name, Base64(value))) = map.next_entry::<String, _>()? {
                    if xattrs.contains_key(&name) {
                        return Err(de::Error::custom(format_args!(
                            "the extended attribute {name:?} comes twice"
                        )));
                    }
                    xattrs.insert(name, value);
                }
                Ok(Xattrs(xattrs))
            }
        }
        deserializer.deserialize_map(XattrsVisitor)
    }
}

/// A value nobody reads. `IgnoredAny` would accept any depth, which the recursive parsers of others do not survive.
struct Skipped;

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SkippedVisitor;
        impl<'de> Visitor<'de> for SkippedVisitor {
            type Value = Skipped;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("any value")
            }

            fn visit_bool<E>(self, _: bool) -> Result<Skipped, E> {
                Ok(Skipped)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Skipped, E> {
                Ok(Skipped)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Skipped, E> {
                Ok(Skipped)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Skipped, E> {
                Ok(Skipped)
            }

            fn visit_str<E>(self, _: &str) -> Result<Skipped, E> {
                Ok(Skipped)
            }

            fn visit_unit<E>(self) -> Result<Skipped, E> {
                Ok(Skipped)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Skipped, A::Error> {
                while list.next_element::<Skipped>()?.is_some() {}
                Ok(Skipped)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Skipped, A::Error> {
                while map.next_entry::<IgnoredAny, Skipped>()?.is_some() {}
                Ok(Skipped)
            }
        }
        deserializer.deserialize_any(SkippedVisitor)
    }
}
