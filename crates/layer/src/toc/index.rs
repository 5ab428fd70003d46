//! A table of contents held in memory, to look names up in.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;

use restow_oci::Limits;

use super::{Chunk, Entry, EntryKind, Plan};
use crate::{Error, Result, path};

/// A table of contents in which every name, link and chunk has been found sound.
///
/// Names are found cleaned ([`path::clean`]). Of entries with equal names the last counts, as it does when a tar is
/// unpacked.
#[derive(Debug)]
pub struct Toc {
    entries: Vec<Entry>,
    /// The last entry of each cleaned name.
    names: HashMap<Box<str>, usize>,
    /// For each hard link, the entry that is no link itself at the end of its chain.
    targets: HashMap<usize, usize>,
    /// Where the frames with payload start, in order.
    frames: Vec<u64>,
    /// Where the last of them ends.
    end: u64,
}

impl Toc {
    /// Indexes the entries of a layer whose payload ends at `end`, as they come.
    pub(crate) fn new(
        source: impl Iterator<Item = Result<Entry>>,
        end: u64,
        limits: &Limits,
    ) -> Result<Self> {
        let (mut entries, mut held) = (Vec::new(), 0);
        let mut plan = Plan::new(end);
        let mut frames = Vec::new();
        let mut names = HashMap::new();
        for (index, entry) in source.enumerate() {
            let entry = entry?;
            held += 1 + entry.xattrs.len() as u64;
            if held > limits.toc_entries {
                let what = "the number of entries and extended attributes in the table of contents";
                return Err(Error::Limit { what, found: held, limit: limits.toc_entries });
            }
            if let Some(chunk) = plan.add(&entry)?
                && frames.last() != Some(&chunk.offset)
            {
                frames.push(chunk.offset);
            }
            if entry.kind != EntryKind::Chunk {
                names.insert(check_name(&entry, limits)?.into_boxed_str(), index);
            }
            entries.push(entry);
        }
        plan.complete()?;
        let targets = Links { entries: &entries, names: &names, targets: HashMap::new() }.resolve()?;
        check_parents(&entries, &names)?;
        Ok(Self { entries, names, targets, frames, end })
    }

    /// Returns all entries in the order of the tar, but for the further chunks of files.
    pub fn entries(&self) -> impl Iterator<Item = Node<'_>> {
        let listed = |(_, entry): &(usize, &Entry)| entry.kind != EntryKind::Chunk;
        self.entries.iter().enumerate().filter(listed).map(|(index, _)| Node { toc: self, index })
    }

    /// Returns all entries in the order of the tar, the further chunks of files among them.
    pub fn all_entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Returns the entry of a name, however the name is spelled. A hard link is not followed.
    pub fn lookup(&self, name: &str) -> Option<Node<'_>> {
        self.names.get(path::clean(name).as_str()).map(|index| Node { toc: self, index: *index })
    }
}

/// An entry and its place in the table.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    toc: &'a Toc,
    index: usize,
}

impl<'a> Node<'a> {
    /// Returns the entry.
    pub fn entry(&self) -> &'a Entry {
        &self.toc.entries[self.index]
    }

    /// Returns the cleaned name.
    pub fn path(&self) -> String {
        path::clean(&self.entry().name)
    }

    /// Follows a hard link to the entry it repeats; returns any other entry as it is.
    pub fn target(&self) -> Node<'a> {
        let index = self.toc.targets.get(&self.index).copied().unwrap_or(self.index);
        Node { toc: self.toc, index }
    }

    /// Returns the chunks of a regular file, or of the file that a hard link repeats, in order.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> + use<'a> {
        let target = self.target();
        (0..).map_while(move |position| target.chunk(position))
    }

    /// Returns the chunk of a regular file that `position` others come before.
    pub(crate) fn chunk(&self, position: usize) -> Option<Chunk> {
        let file = self.entry();
        let entry = self.toc.entries.get(self.index + position)?;
        let kind = if position == 0 { EntryKind::Regular } else { EntryKind::Chunk };
        (entry.kind == kind && file.size > 0).then(|| Chunk::of(entry, file.size))
    }
}

impl Toc {
    /// Returns where the frame of a chunk, and perhaps some header bytes behind it, ends in the blob.
    pub(crate) fn frame_end(&self, chunk: &Chunk) -> u64 {
        let next = self.frames.partition_point(|offset| *offset <= chunk.offset);
        self.frames.get(next).copied().unwrap_or(self.end)
    }
}

impl Deref for Node<'_> {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        self.entry()
    }
}

impl fmt::Debug for Node<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entry().fmt(formatter)
    }
}

fn check_name(entry: &Entry, limits: &Limits) -> Result<String> {
    let cleaned = path::clean(&entry.name);
    let components = cleaned.split('/').count();
    for (what, found, limit) in [
        ("the length in bytes of a name in the table of contents", cleaned.len(), limits.path_length),
        ("the number of components of a name in the table of contents", components, limits.path_components),
    ] {
        if found > limit {
            return Err(Error::Limit { what, found: found as u64, limit: limit as u64 });
        }
    }
    if cleaned.is_empty() && entry.kind != EntryKind::Dir {
        return Err(Error::Toc(format!("{:?}: the root is not a directory", entry.name)));
    }
    Ok(cleaned)
}

/// Checks that what lies in a directory of the table lies in a directory. Symbolic links are not followed: they may
/// lead to one.
fn check_parents(entries: &[Entry], names: &HashMap<Box<str>, usize>) -> Result<()> {
    for (name, index) in names {
        let mut ancestor = path::parent(name);
        while let Some(directory) = ancestor {
            match names.get(directory).map(|parent| &entries[*parent]) {
                None => ancestor = path::parent(directory),
                Some(parent) if matches!(parent.kind, EntryKind::Dir | EntryKind::Symlink) => break,
                Some(parent) => {
                    let name = &entries[*index].name;
                    return Err(Error::Toc(format!(
                        "{name:?}: its parent {:?} is not a directory",
                        parent.name
                    )));
                }
            }
        }
    }
    Ok(())
}

/// Hard links being followed.
struct Links<'a> {
    entries: &'a [Entry],
    names: &'a HashMap<Box<str>, usize>,
    targets: HashMap<usize, usize>,
}

impl Links<'_> {
    fn resolve(mut self) -> Result<HashMap<usize, usize>> {
        for (index, entry) in self.entries.iter().enumerate() {
            if entry.kind == EntryKind::Hardlink {
                self.follow(index)?;
            }
        }
        Ok(self.targets)
    }

    /// Follows a chain to its end or to where it has been before, without recursion: a chain may have any length.
    fn follow(&mut self, start: usize) -> Result<()> {
        let mut chain = Vec::new();
        let mut current = start;
        let target = loop {
            if let Some(target) = self.targets.get(&current) {
                // A link on the current chain points to itself until the end is known.
                if *target == current {
                    return Err(self.problem(start, "leads in a circle"));
                }
                break *target;
            }
            let entry = &self.entries[current];
            match entry.kind {
                EntryKind::Hardlink => {}
                EntryKind::Dir => return Err(self.problem(start, "leads to a directory")),
                _ => break current,
            }
            self.targets.insert(current, current);
            chain.push(current);
            let next = self.names.get(path::clean(&entry.link_name).as_str());
            current = *next.ok_or_else(|| self.problem(current, "is missing"))?;
        };
        for link in chain {
            self.targets.insert(link, target);
        }
        Ok(())
    }

    fn problem(&self, link: usize, problem: &str) -> Error {
        let link = &self.entries[link];
        Error::Toc(format!("{:?}: the target {:?} of the hard link {problem}", link.name, link.link_name))
    }
}
