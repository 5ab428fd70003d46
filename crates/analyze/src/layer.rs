//! The names of one layer, and what predictions ask of its files.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::ops::Bound;
use std::sync::OnceLock;

use restow_layer::Buffer;
use restow_layer::GatheredFiles;
use restow_layer::Header;
use restow_layer::path::OPAQUE_WHITEOUT;
use restow_layer::path::RESERVED;
use restow_layer::path::WHITEOUT_PREFIX;
use restow_layer::path::base;
use restow_layer::path::clean;
use restow_layer::path::parent;
use restow_layer::path::removed;
use restow_oci::PredictionLimits;

use crate::Entry;
use crate::Kind;
use crate::path::ancestors;
use crate::path::join;
use crate::predict::passing;

/// The names of one layer.
///
/// [`add`](Self::add) each header of its tar, then [`finish`](Self::finish).
#[derive(Debug, Default)]
pub struct Layer {
    /// In tar order, whiteouts taken out.
    entries: Vec<Entry>,
    /// Indices of `entries` by path; of equal paths the last first. A map would hold every path twice.
    by_path: Vec<u32>,
    /// Paths deleted from the layers below.
    deleted: BTreeSet<Box<str>>,
    /// Directories that show nothing of the layers below.
    opaque: BTreeSet<Box<str>>,
    notes: Notes,
    /// Whether there was more to write down than there was room for.
    notes_lost: bool,
}

/// What is written down about files, by their indices in `entries`.
#[derive(Debug)]
enum Notes {
    /// While the layer was read.
    Written(HashMap<u32, Box<str>>),
    /// As soon as somebody asks.
    OnDemand {
        files: Option<GatheredFiles>,
        /// Where in the tar each entry stands, of those that [`Layer::add`] was shown.
        positions: Vec<u32>,
        /// How many it was shown.
        shown: u32,
        written: Pages,
    },
}

/// A place for the note of each entry, in pages that are made when one of their notes is written. Few ever are.
#[derive(Debug, Default)]
struct Pages(Vec<OnceLock<Page>>);

type Page = Box<[OnceLock<Box<str>>]>;

impl Pages {
    const SIZE: usize = 256;

    fn new(entries: usize) -> Self {
        Self((0..entries.div_ceil(Self::SIZE)).map(|_| OnceLock::new()).collect())
    }

    fn get(&self, index: usize) -> Option<&OnceLock<Box<str>>> {
        let empty = || (0..Self::SIZE).map(|_| OnceLock::new()).collect();
        self.0.get(index / Self::SIZE)?.get_or_init(empty).get(index % Self::SIZE)
    }
}

impl Default for Notes {
    fn default() -> Self {
        Self::Written(HashMap::new())
    }
}

impl FromIterator<Entry> for Layer {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        let mut layer = Self::default();
        entries.into_iter().for_each(|entry| layer.push(entry));
        layer.index();
        layer
    }
}

impl Layer {
    /// Starts a layer whose files can be looked into afterwards, for predictions.
    pub fn gathering() -> Self {
        let notes =
            Notes::OnDemand { files: None, positions: Vec::new(), shown: 0, written: Pages::default() };
        Self { notes, ..Self::default() }
    }

    /// Adds the next entry of the tar.
    pub fn add(&mut self, header: &Header) {
        let known = self.entries.len();
        if let Some(entry) = entry(header) {
            self.push(entry);
        }
        if let Notes::OnDemand { positions, shown, .. } = &mut self.notes {
            positions.extend((self.entries.len() > known).then_some(*shown));
            *shown += 1;
        }
    }

    /// Completes the layer. The files of one that was [gathered](Self::gathering) are in the order of its entries.
    pub fn finish(mut self, gathered: Option<GatheredFiles>) -> Self {
        self.index();
        if let Notes::OnDemand { files, written, .. } = &mut self.notes {
            *files = gathered;
            *written = Pages::new(self.entries.len());
        }
        self
    }

    /// Adds the next entry of the tar. After the last, [`index`](Self::index).
    pub(crate) fn push(&mut self, entry: Entry) {
        let name = base(&entry.path);
        if name == OPAQUE_WHITEOUT {
            self.opaque.insert(parent(&entry.path).unwrap_or_default().into());
        } else if name.starts_with(WHITEOUT_PREFIX) {
            self.deleted.extend(removed(&entry.path).map(String::into_boxed_str));
        } else if !RESERVED.contains(&&*entry.path) {
            self.entries.push(entry);
        }
    }

    /// Keeps a note about the entry pushed last.
    pub(crate) fn push_note(&mut self, note: Box<str>) {
        let index = self.entries.len().checked_sub(1).and_then(|index| u32::try_from(index).ok());
        if let (Some(index), Notes::Written(notes)) = (index, &mut self.notes) {
            notes.insert(index, note);
        }
    }

    /// Remembers that a note was not kept.
    pub(crate) fn lose_note(&mut self) {
        self.notes_lost = true;
    }

    /// Tells whether there was more to note than there was room for.
    pub(crate) fn lost_notes(&self) -> bool {
        self.notes_lost
    }

    /// Makes the layer's names ready to be found.
    pub(crate) fn index(&mut self) {
        let entries = &self.entries;
        self.by_path = (0..u32::try_from(entries.len()).unwrap_or(u32::MAX)).rev().collect();
        // Stable, so that of equal paths the last in tar order stays first.
        self.by_path.sort_by_key(|&index| &entries[index as usize].path);
    }

    /// Returns the entries in tar order, without whiteouts.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns what is at the clean path; of several the last.
    pub(crate) fn get(&self, path: &str) -> Option<&Entry> {
        self.index_of(path).map(|index| &self.entries[index as usize])
    }

    fn index_of(&self, path: &str) -> Option<u32> {
        self.index_before(path, u32::MAX)
    }

    /// Returns the last entry of the path among those that stand before another one in the tar.
    fn index_before(&self, path: &str, before: u32) -> Option<u32> {
        let at =
            self.by_path.partition_point(|&index| match (*self.entries[index as usize].path).cmp(path) {
                Ordering::Equal => index >= before,
                order => order == Ordering::Less,
            });
        self.by_path.get(at).copied().filter(|&index| *self.entries[index as usize].path == *path)
    }

    /// Returns the entry of what is read at the clean path: of a hard link, of what it repeats.
    pub(crate) fn index_of_file(&self, path: &str) -> Option<u32> {
        let index = self.index_of(path)?;
        match &self.entries[index as usize].kind {
            // What has the name when the link is made; a later entry of that name is another file.
            Kind::Hardlink(target) => self.index_before(target, index).or_else(|| self.index_of(target)),
            _ => Some(index),
        }
    }

    /// Returns what is read at the clean path; for a hard link, what it repeats.
    pub(crate) fn file(&self, path: &str) -> Option<&Entry> {
        self.index_of_file(path).map(|index| &self.entries[index as usize])
    }

    /// Returns what is written down about the file of an [index](Self::index_of_file). A note that is not written yet is, if
    /// `keep` agrees to its size; the file is read into `scratch`.
    pub(crate) fn note(
        &self,
        index: u32,
        scratch: &mut Buffer,
        limits: &PredictionLimits,
        keep: impl FnOnce(usize) -> bool,
    ) -> Option<&str> {
        match &self.notes {
            Notes::Written(notes) => notes.get(&index).map(|note| &**note),
            Notes::OnDemand { files, positions, written, .. } => {
                let (index, files) = (index as usize, files.as_ref()?);
                let write = || {
                    let Entry { path, kind: Kind::File { size } } = &self.entries[index] else { return None };
                    let mut content = files.open(positions[index] as usize);
                    // What cannot be read will be told when the layer is put together.
                    scratch.truncate(0);
                    let note = passing::note(path, *size, &mut content, scratch, limits).ok()?;
                    note.filter(|note| keep(note.len()))
                };
                let note = written.get(index)?.get_or_init(|| write().unwrap_or_default());
                Some(&**note).filter(|note| !note.is_empty())
            }
        }
    }

    /// Yields the names this layer has right below the directory, some more than once. What a whiteout stands in is there,
    /// too.
    pub(crate) fn names<'a>(&'a self, directory: &str) -> impl Iterator<Item = &'a str> {
        let prefix = if directory.is_empty() { String::new() } else { format!("{directory}/") };
        let deleted = children(&self.deleted, &prefix).filter(|(_, deeper)| *deeper);
        let mut implied: BTreeSet<&str> =
            deleted.chain(children(&self.opaque, &prefix)).map(|(name, _)| name).collect();
        implied.retain(|name| !self.deleted.contains(join(directory, name).as_str()));
        self.entries_in(prefix).chain(implied).filter(|name| !name.is_empty())
    }

    /// Yields the first part of what follows the prefix, without going through all that is below a name.
    fn entries_in(&self, prefix: String) -> impl Iterator<Item = &str> {
        let path = |index: &u32| &*self.entries[*index as usize].path;
        let mut at = self.by_path.partition_point(|index| path(index) < prefix.as_str());
        std::iter::from_fn(move || {
            let inside = path(self.by_path.get(at)?).strip_prefix(prefix.as_str())?;
            let (name, deeper) = first(inside);
            at += 1;
            if deeper {
                let end = behind(&prefix, name);
                at += self.by_path[at..].partition_point(|index| path(index) < end.as_str());
            }
            Some(name)
        })
    }

    /// Says whether the layer has something below the path, if only a whiteout, so that a directory stands there.
    pub(crate) fn implies(&self, path: &str) -> bool {
        // The first that does not stand before `path/`.
        let start = self.by_path.partition_point(|&index| {
            let entry = self.entries[index as usize].path.as_bytes();
            match entry[..entry.len().min(path.len())].cmp(path.as_bytes()) {
                Ordering::Equal => entry.get(path.len()).is_none_or(|&byte| byte < b'/'),
                order => order == Ordering::Less,
            }
        });
        let below = |entry: &Entry| entry.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        let holds_entry = self.by_path.get(start).is_some_and(|&index| below(&self.entries[index as usize]));
        let holds = |marks: &BTreeSet<Box<str>>| {
            !marks.is_empty() && within(marks, &format!("{path}/")).next().is_some()
        };
        let holds_mark = || self.opaque.contains(path) || holds(&self.opaque) || holds(&self.deleted);
        holds_entry || !self.deleted.contains(path) && holds_mark()
    }

    /// Yields the directories that whiteouts stand in, some more than once.
    pub(crate) fn marked(&self) -> impl Iterator<Item = &str> {
        let deleted = self.deleted.iter().filter_map(|path| parent(path));
        deleted.chain(self.opaque.iter().map(|path| &**path))
    }

    /// Says whether this layer takes the path away from the layers below.
    pub(crate) fn hides(&self, path: &str) -> bool {
        self.deletes(path) || parent(path).is_some_and(|directory| self.closes(directory))
    }

    /// Says whether a whiteout of this layer names the path itself.
    pub(crate) fn deletes(&self, path: &str) -> bool {
        self.deleted.contains(path)
    }

    /// Says whether nothing that the layers below have in the directory is seen.
    pub(crate) fn closes(&self, directory: &str) -> bool {
        std::iter::once(directory).chain(ancestors(directory)).any(|directory| {
            self.deleted.contains(directory)
                || self.opaque.contains(directory)
                || self.get(directory).is_some_and(|entry| entry.kind != Kind::Directory)
        })
    }
}

/// Returns the first part of a path, and whether there is more.
fn first(path: &str) -> (&str, bool) {
    path.split_once('/').map_or((path, false), |(name, _)| (name, true))
}

/// Returns what sorts right behind all that is below a name: `0` follows `/`.
fn behind(prefix: &str, name: &str) -> String {
    format!("{prefix}{name}0")
}

/// Yields the first part of what follows the prefix in the paths that start with it, and whether there is more. What is
/// below a name is not gone through.
fn children<'a>(paths: &'a BTreeSet<Box<str>>, prefix: &str) -> impl Iterator<Item = (&'a str, bool)> {
    let prefix = prefix.to_owned();
    let mut from = Bound::Included(prefix.clone());
    std::iter::from_fn(move || {
        let path = paths.range::<str, _>((from.as_ref().map(String::as_str), Bound::Unbounded)).next()?;
        let (name, deeper) = first(path.strip_prefix(prefix.as_str())?);
        from = match deeper {
            true => Bound::Included(behind(&prefix, name)),
            false => Bound::Excluded(path.to_string()),
        };
        Some((name, deeper))
    })
}

/// Yields what follows the prefix in the paths that start with it.
fn within<'a>(paths: &'a BTreeSet<Box<str>>, prefix: &str) -> impl Iterator<Item = &'a str> {
    let from = paths.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
    from.map_while(move |path| path.strip_prefix(prefix))
}

/// Returns the entry; lists and records are text and cannot mean a name that is not.
pub(crate) fn entry(header: &Header) -> Option<Entry> {
    let kind = match header.kind {
        restow_layer::Kind::Directory => Kind::Directory,
        restow_layer::Kind::Symlink => Kind::Symlink(String::from_utf8_lossy(&header.link_name).into()),
        restow_layer::Kind::Hardlink => {
            Kind::Hardlink(clean(&String::from_utf8_lossy(&header.link_name)).into())
        }
        restow_layer::Kind::Regular => Kind::File { size: header.size },
        _ => Kind::Other,
    };
    std::str::from_utf8(&header.name).ok().map(|name| Entry::new(name, kind))
}
