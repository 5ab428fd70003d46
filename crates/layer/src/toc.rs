//! The table of contents of a seekable layer: one JSON document that lists every tar entry and where its bytes lie.
//!
//! | key | what it says |
//! |---|---|
//! | `version` | 1 |
//! | `entries` | tar entries in the order of the tar; each `chunk` continues the `reg` entry before it |
//! | `tarSplitDigest` | sha256 of the compressed tar-split stream (zstd:chunked for podman only) |
//!
//! [`Parser`] reads every spelling of it, entry by entry; [`Toc`] holds one in memory to look names up in.

mod index;
mod parse;
mod plan;
mod write;

use std::collections::BTreeMap;

use restow_oci::Digest;
use restow_oci::Timestamp;

pub use self::index::{Node, Toc};
pub use self::parse::Parser;
pub(crate) use self::parse::Text;
pub use self::plan::Chunk;
pub(crate) use self::plan::Plan;
pub use self::write::Dialect;
pub(crate) use self::write::{Writer, write_string};

/// The name of the table inside the tar archive that carries it in eStargz.
pub const TAR_NAME: &str = "stargz.index.json";

/// One entry of the table: a tar entry, or a further chunk of the regular file before it.
///
/// A number that is 0, a text that is empty and whatever is `None` are absent from the document.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// The name as the tar spells it: perhaps with `./` before it, or with `/` behind it.
    pub name: String,
    /// What kind of file it is.
    pub kind: EntryKind,
    /// The size of a regular file, all its chunks together.
    pub size: u64,
    /// Time of the last change of the content.
    pub modified: Option<Timestamp>,
    /// Time of the last access, where the tar has it.
    pub accessed: Option<Timestamp>,
    /// Time of the last change of the metadata, where the tar has it.
    pub changed: Option<Timestamp>,
    /// The target of a symbolic link, or the name of the entry that a hard link repeats.
    pub link_name: String,
    /// The mode as the number in the tar header.
    pub mode: i64,
    /// The number of the owner.
    pub uid: i64,
    /// The number of the group.
    pub gid: i64,
    /// The name of the owner; written only where it differs from the last one given for this number.
    pub user_name: String,
    /// The name of the group; written only where it differs from the last one given for this number.
    pub group_name: String,
    /// Where in the blob the frame or member starts that holds this chunk.
    pub offset: u64,
    /// Where in the blob the last frame of the file ends, or 0 if the table does not say.
    pub end_offset: u64,
    /// How many uncompressed bytes of that frame or member come before this chunk.
    pub inner_offset: u64,
    /// The major number of a device.
    pub device_major: i64,
    /// The minor number of a device.
    pub device_minor: i64,
    /// Extended attributes by name.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// The digest of the whole file.
    pub digest: Option<Digest>,
    /// Where in the file this chunk starts.
    pub chunk_offset: u64,
    /// The size of this chunk, or 0 if it reaches to the end of the file.
    pub chunk_size: u64,
    /// The digest of this chunk.
    pub chunk_digest: Option<Digest>,
    /// Whether the chunk is said to hold nothing but zeros (which lie in the blob nonetheless).
    pub zeros: bool,
}

/// The kinds of entries a table can list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EntryKind {
    /// A directory.
    Dir,
    /// A regular file, and its first or only chunk.
    #[default]
    Regular,
    /// A symbolic link.
    Symlink,
    /// Another name of an entry of this layer.
    Hardlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
    /// A further chunk of the regular file before it.
    Chunk,
}

impl EntryKind {
    /// Tells whether it is a device or a pipe.
    pub(crate) fn is_special(self) -> bool {
        matches!(self, Self::Char | Self::Block | Self::Fifo)
    }
}

impl EntryKind {
    const ALL: [Self; 8] = [
        Self::Dir,
        Self::Regular,
        Self::Symlink,
        Self::Hardlink,
        Self::Char,
        Self::Block,
        Self::Fifo,
        Self::Chunk,
    ];

    /// Returns the kind's name in the document.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dir => "dir",
            Self::Regular => "reg",
            Self::Symlink => "symlink",
            Self::Hardlink => "hardlink",
            Self::Char => "char",
            Self::Block => "block",
            Self::Fifo => "fifo",
            Self::Chunk => "chunk",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

#[cfg(test)]
mod tests;
