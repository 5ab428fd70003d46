//! Which names a layer holds, in a few bytes each: enough to find duplicates, link targets and what is to be moved.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use restow_oci::Limits;

use crate::error::{Error, Result};
use crate::listing::Listing;
use crate::path;
use crate::toc::{Entry, EntryKind};

/// What stands for a name. In words, so that a million of them with their positions take 20 MB.
type Key = [u32; 4];

/// Makes keys of names. It is another one in each run, so nobody can make two names collide.
#[derive(Debug, Clone, Default)]
struct Keys([RandomState; 2]);

impl Keys {
    fn of(&self, path: &str) -> Key {
        let [one, other] = self.0.each_ref().map(|state| state.hash_one(path));
        [(one >> 32) as u32, one as u32, (other >> 32) as u32, other as u32]
    }

    fn look(&self, entry: &Entry) -> Look {
        let [state, _] = &self.0;
        let owner_and_time = state.hash_one((entry.uid, entry.gid, entry.modified)) as u32;
        let xattrs = if entry.xattrs.is_empty() { 0 } else { state.hash_one(&entry.xattrs) as u32 };
        Look { mode: (entry.mode & PERMISSIONS) as u16, owner_and_time, xattrs }
    }
}

/// The bits of a mode that a file has; others say of what kind it is, or nothing.
const PERMISSIONS: i64 = 0o7777;

/// What a name costs besides its text, in bytes.
const OVERHEAD: u64 = 64;

/// What stands for what a header says of a file: mode, owner, modification time; and extended attributes, 0 if there are
/// none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    mode: u16,
    owner_and_time: u32,
    xattrs: u32,
}

impl Look {
    /// Tells whether a file of this look stays as it is when a hard link of that look is unpacked: what the link says is
    /// applied to the file, and attributes that it does not name stay.
    /// A symbolic link has no mode.
    fn is_kept_by(self, link: Look, kind: EntryKind) -> bool {
        (self.mode == link.mode || kind == EntryKind::Symlink)
            && self.owner_and_time == link.owner_and_time
            && (link.xattrs == 0 || self.xattrs == link.xattrs)
    }
}

/// Collects the names of a layer's entries, in the order of the tar. [`finish`](Self::finish) makes them ready to be
/// found.
#[derive(Debug)]
pub(crate) struct Names {
    keys: Keys,
    /// How many bytes the texts of links and parents take, and how many they may.
    held: u64,
    limit: u64,
    /// The name of each entry, with its position.
    entries: Vec<(Key, u32)>,
    /// What each entry is, by position.
    kinds: Vec<EntryKind>,
    looks: Vec<Look>,
    links: BTreeMap<u32, Link>,
    /// What whiteouts remove.
    removed: Vec<Key>,
    /// Directories that entries lie in.
    parents: HashMap<Key, Parent>,
    /// The last of them that was met: the next entry lies in it more often than not.
    parent: String,
}

/// The names of a layer's entries, by their position in the tar.
#[derive(Debug, Default)]
pub(crate) struct NameIndex {
    keys: Keys,
    /// The last entry of each name, in the order of the keys.
    last: Vec<(Key, u32)>,
    kinds: Vec<EntryKind>,
    looks: Vec<Look>,
    /// Entries that a later one of the same name replaces.
    replaced: BTreeSet<u32>,
    /// Hard links that none replaces.
    links: BTreeMap<u32, Link>,
    removed: Vec<Key>,
    parents: Vec<Parent>,
}

#[derive(Debug)]
struct Link {
    name: String,
    target: String,
    offset: u64,
}

impl Link {
    fn refused(&self, problem: &str) -> Error {
        Error::Unlistable {
            offset: self.offset,
            entry: Some(self.name.clone()),
            problem: format!("it is a hard link to {:?}, {problem}", self.target),
        }
    }
}

/// A directory that something lies in.
#[derive(Debug)]
struct Parent {
    /// The first entry below it, and where that starts.
    entry: Arc<str>,
    offset: u64,
    /// How many bytes of the entry's path are the directory's.
    length: u32,
}

impl Parent {
    fn path(&self) -> &str {
        &self.entry[..self.length as usize]
    }
}

impl Names {
    /// Starts with no names; `limits` says how much may be held of them.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            keys: Keys::default(),
            held: 0,
            limit: limits.layer_names,
            entries: Vec::new(),
            kinds: Vec::new(),
            looks: Vec::new(),
            links: BTreeMap::new(),
            removed: Vec::new(),
            parents: HashMap::new(),
            parent: String::new(),
        }
    }

    /// Adds the next entry of the tar, which starts at tar byte `offset`.
    pub(crate) fn add(&mut self, listing: &Listing, offset: u64) -> Result<()> {
        let entry = &listing.entry;
        let target = (entry.kind == EntryKind::Hardlink).then(|| path::clean(&entry.link_name));
        self.looks.push(self.keys.look(entry));
        self.add_path(&listing.path, entry.kind, target, offset)
    }

    fn add_path(&mut self, path: &str, kind: EntryKind, link: Option<String>, offset: u64) -> Result<()> {
        let position = self.kinds.len() as u32;
        self.kinds.push(kind);
        self.entries.push((self.keys.of(path), position));
        if let Some(removed) = path::removed(path) {
            self.removed.push(self.keys.of(&removed));
        }
        if let Some(target) = link {
            self.held += (path.len() + target.len()) as u64 + OVERHEAD;
            self.links.insert(position, Link { name: path.to_string(), target, offset });
        }
        self.add_parents(path, offset);
        if self.held > self.limit {
            return Err(Error::TarLimit {
                offset,
                entry: Some(path.to_string()),
                what: "the size in bytes of the names of hard links, and of directories that something lies in",
                found: self.held,
                limit: self.limit,
            });
        }
        Ok(())
    }

    fn add_parents(&mut self, path: &str, offset: u64) {
        let Some(nearest) = path::parent(path) else { return };
        if nearest == self.parent && !self.parents.is_empty() {
            return;
        }
        // One text for all of them: each is the beginning of it.
        let mut entry: Option<Arc<str>> = None;
        let mut next = Some(nearest);
        while let Some(parent) = next {
            let key = self.keys.of(parent);
            if self.parents.contains_key(&key) {
                break;
            }
            let entry = entry.get_or_insert_with(|| {
                self.held += path.len() as u64;
                path.into()
            });
            self.held += OVERHEAD;
            let parent_of = Parent { entry: entry.clone(), offset, length: parent.len() as u32 };
            self.parents.insert(key, parent_of);
            next = path::parent(parent);
        }
        nearest.clone_into(&mut self.parent);
    }

    /// Makes the names ready to be found.
    pub(crate) fn finish(self) -> NameIndex {
        let Self { keys, entries: mut last, kinds, looks, mut links, removed, parents, .. } = self;
        last.sort_unstable();
        let replaced: BTreeSet<u32> =
            last.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| pair[0].1).collect();
        if !replaced.is_empty() {
            last.retain(|(_, position)| !replaced.contains(position));
            links.retain(|position, _| !replaced.contains(position));
        }
        let parents = parents.into_values().collect();
        NameIndex { keys, last, kinds, looks, replaced, links, removed, parents }
    }
}

impl NameIndex {
    /// Returns the entries that later ones of the same name replace.
    pub(crate) fn replaced(&self) -> &BTreeSet<u32> {
        &self.replaced
    }

    /// Returns why podman does not read a layer of these names in part, or should not: of a directory that no entry names
    /// it makes one without any permissions.
    pub(crate) fn refusal(&self) -> Option<String> {
        if !self.replaced.is_empty() {
            return Some("it has several entries of the same name".into());
        }
        if self.removed.iter().any(|key| self.find_key(key).is_some()) {
            // podman makes a device of the whiteout, under the name that the entry wants.
            return Some("it has an entry and a whiteout for the same name".into());
        }
        if let Some(link) = self.link_to_special() {
            return Some(format!("it has a hard link to a device or pipe, {:?}", link.name));
        }
        self.unlisted().map(|path| {
            format!("it has no entry for the directory {path:?}, which podman would let nobody into")
        })
    }

    /// Returns the first hard link to a device or pipe: podman makes none of these, and then fails to link to them.
    fn link_to_special(&self) -> Option<&Link> {
        let is_special = |position: u32| self.kinds[position as usize].is_special();
        self.links.values().find(|link| self.find(&link.target).is_some_and(is_special))
    }

    /// Returns the first directory, by its path, that entries lie in and that no entry names, the root aside.
    pub(crate) fn unlisted(&self) -> Option<&str> {
        let parents = self.parents.iter().map(Parent::path).filter(|path| !path.is_empty());
        parents.filter(|path| self.find(path).is_none()).min()
    }

    /// Refuses what readers of a table of contents cannot resolve: hard links to nothing, to directories or to later
    /// entries (which rules out cycles), and entries below something that is not a directory.
    pub(crate) fn check(&self) -> Result<()> {
        for (position, link) in &self.links {
            let problem = match self.find(&link.target) {
                None => "which this layer does not have".to_string(),
                Some(target) if target == *position => "which is itself".to_string(),
                Some(target) if target > *position => "which comes later in the tar".to_string(),
                Some(target) if self.is_directory(target) => "which is a directory".to_string(),
                Some(_) => continue,
            };
            return Err(link.refused(&problem));
        }
        // In the order of the tar, so that the error is the same each time.
        let mut parents: Vec<_> = self.parents.iter().collect();
        parents.sort_by_key(|parent| (parent.offset, parent.length));
        for parent in parents {
            let path = parent.path();
            if self.find(path).is_some_and(|position| !self.is_directory(position)) {
                return Err(Error::Unlistable {
                    offset: parent.offset,
                    entry: Some(parent.entry.to_string()),
                    problem: format!("it lies below {path:?}, which is not a directory"),
                });
            }
        }
        Ok(())
    }

    /// Refuses hard links that say something else of a file than its own entry, in a layer that [`check`](Self::check)
    /// has passed: a table lists both, and its readers do not agree which of them counts.
    pub(crate) fn check_looks(&self) -> Result<()> {
        match self.first_diverging() {
            None => Ok(()),
            Some(link) => Err(link.refused("whose mode, owner, time or attributes it would change")),
        }
    }

    /// Returns the name of the first hard link that [`check_looks`](Self::check_looks) would refuse.
    pub(crate) fn diverging_link(&self) -> Option<String> {
        self.first_diverging().map(|link| link.name.clone())
    }

    fn first_diverging(&self) -> Option<&Link> {
        let diverging = |(position, link): &(&u32, &Link)| {
            self.find(&link.target).is_some_and(|target| self.changes(target, **position))
        };
        self.links.iter().find(diverging).map(|(_, link)| link)
    }

    /// Tells whether a hard link says something else of the file it leads to than the file's own entry.
    fn changes(&self, target: u32, link: u32) -> bool {
        let [target, link] = [target, link].map(|position| position as usize);
        !self.looks[target].is_kept_by(self.looks[link], self.kinds[target])
    }

    fn is_directory(&self, position: u32) -> bool {
        self.kinds[position as usize] == EntryKind::Dir
    }

    fn find(&self, path: &str) -> Option<u32> {
        self.find_key(&self.keys.of(path))
    }

    fn find_key(&self, key: &Key) -> Option<u32> {
        let found = self.last.binary_search_by_key(key, |(key, _)| *key);
        found.ok().map(|at| self.last[at].1)
    }

    /// Returns the entries to move to the front, in their new order, and the paths that are not there.
    ///
    /// Before each path come its ancestors, the whiteouts that came before it and would remove it if they came after
    /// it now (some readers unpack a tar in order), and the target of a hard link with all of its own. What the layer
    /// lacks of these needs no place.
    pub(crate) fn order(&self, prioritized: &[String]) -> (Vec<u32>, Vec<String>) {
        let mut order = Vec::new();
        let mut missing = Vec::new();
        let mut entered = BTreeSet::new();
        for wanted in prioritized {
            let wanted = path::clean(wanted);
            let Some(position) = self.find(&wanted) else {
                missing.push(wanted);
                continue;
            };
            // An explicit stack: chains of links and of directories are as long as the image likes.
            let mut steps = vec![Step::Enter(wanted, position)];
            while let Some(step) = steps.pop() {
                match step {
                    Step::Place(position) => order.push(position),
                    Step::Enter(path, below) => self.enter(&path, below, &mut entered, &mut steps),
                }
            }
        }
        (order, missing)
    }

    /// Enters a path for the sake of the entry at `moved`, which is the path itself or lies below it.
    fn enter(&self, path: &str, moved: u32, entered: &mut BTreeSet<Key>, steps: &mut Vec<Step>) {
        if !entered.insert(self.keys.of(path)) {
            return;
        }
        if let Some(position) = self.find(path) {
            steps.push(Step::Place(position));
            if let Some(link) = self.links.get(&position) {
                let target = self.find(&link.target).unwrap_or(position);
                steps.push(Step::Enter(link.target.clone(), target));
            }
        }
        if let Some(parent) = path::parent(path) {
            let separator = if parent.is_empty() { "" } else { "/" };
            let whiteout = format!("{parent}{separator}{}{}", path::WHITEOUT_PREFIX, path::base(path));
            if self.find(&whiteout).is_some_and(|whiteout| whiteout < moved) {
                steps.push(Step::Enter(whiteout, moved));
            }
            steps.push(Step::Enter(parent.to_string(), moved));
        }
    }
}

enum Step {
    /// Look at a path, for the sake of the entry at a position.
    Enter(String, u32),
    /// Put an entry next.
    Place(u32),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::Role;
    use restow_oci::Timestamp;

    fn listing(path: &str, entry: Entry) -> Listing {
        let entry = Entry { name: path.to_string(), ..entry };
        Listing { entry, path: path.to_string(), role: Role::Content, refusal: None }
    }

    fn names(entries: &[(&str, EntryKind, &str)]) -> NameIndex {
        let mut names = Names::new(&Limits::default());
        for (index, (path, kind, target)) in entries.iter().enumerate() {
            let link_name = if *kind == EntryKind::Hardlink { (*target).to_string() } else { String::new() };
            names
                .add(&listing(path, Entry { kind: *kind, link_name, ..Entry::default() }), index as u64 * 512)
                .unwrap();
        }
        names.finish()
    }

    use EntryKind::{Block, Dir, Fifo, Hardlink, Regular, Symlink};

    #[test]
    fn ancestors_whiteouts_and_link_targets_come_first_each_once() {
        let names = names(&[
            ("a", Dir, ""),
            ("a/.wh.file", Regular, ""),
            ("a/file", Regular, ""),
            ("b", Dir, ""),
            ("b/target", Regular, ""),
            ("c/link", Hardlink, "b/target"),
            ("rest", Regular, ""),
        ]);
        let wanted = ["c/link", "a/file", "/a/file", "nowhere"].map(String::from);
        let (order, missing) = names.order(&wanted);
        assert_eq!(order, [3, 4, 5, 0, 1, 2]);
        assert_eq!(missing, ["nowhere"]);
    }

    #[test]
    fn whiteouts_keep_their_side_of_what_they_remove() {
        let names = names(&[
            (".wh.lib", Regular, ""),
            ("lib/file", Regular, ""),
            ("gone", Regular, ""),
            (".wh.gone", Regular, ""),
            (".wh.other", Regular, ""),
        ]);
        // The directory has no entry of its own; its whiteout still has to come first.
        assert_eq!(names.order(&["lib/file".to_string()]).0, [0, 1]);
        assert_eq!(names.order(&["gone".to_string()]).0, [2]);
    }

    #[test]
    fn a_long_chain_of_links_is_followed_without_recursion() {
        let mut names = Names::new(&Limits::default());
        names.add(&listing("0", Entry::default()), 0).unwrap();
        for index in 1..100_000u64 {
            let link_name = (index - 1).to_string();
            let link = Entry { kind: Hardlink, link_name, ..Entry::default() };
            names.add(&listing(&index.to_string(), link), index * 512).unwrap();
        }
        let (order, missing) = names.finish().order(&["99999".to_string()]);
        assert!(missing.is_empty());
        assert!(order.iter().copied().eq(0..100_000));
    }

    #[test]
    fn links_that_lead_nowhere_and_files_below_files_are_refused() {
        for (entries, problem) in [
            (vec![("l", Hardlink, "gone")], "which this layer does not have"),
            (vec![("l", Hardlink, "l")], "which is itself"),
            (vec![("l", Hardlink, "d"), ("d", Regular, "")], "which comes later"),
            (vec![("a", Hardlink, "b"), ("b", Hardlink, "a")], "which comes later"),
            (vec![("d", Dir, ""), ("l", Hardlink, "d")], "which is a directory"),
            (vec![("f", Regular, ""), ("f/g", Regular, "")], "below \"f\""),
            (vec![("s", Symlink, ""), ("s/d/g", Regular, "")], "below \"s\""),
        ] {
            let error = names(&entries).check().unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
        // A name that ends up as a directory is one, whatever stood there before.
        names(&[("d", Regular, ""), ("d", Dir, ""), ("d/f", Regular, "")]).check().unwrap();
        names(&[("t", Regular, ""), ("l", Hardlink, "t")]).check().unwrap();
    }

    #[test]
    fn the_first_directory_without_an_entry_is_found() {
        for (entries, expected) in [
            (vec![("f", Regular, ""), ("d/f", Regular, ""), ("d", Dir, "")], None),
            (vec![("d", Dir, ""), ("d/e/f", Regular, ""), ("a/f", Regular, "")], Some("a")),
            (vec![("d/e/f", Regular, "")], Some("d")),
            (vec![("d/.wh.f", Regular, "")], Some("d")),
        ] {
            assert_eq!(names(&entries).unlisted(), expected, "{entries:?}");
        }
    }

    #[test]
    fn what_podman_would_trip_over_is_found() {
        let conflict = Some("it has an entry and a whiteout for the same name");
        for (entries, expected) in [
            (vec![(".wh.f", Regular, ""), ("f", Regular, "")], conflict),
            (vec![("f", Symlink, ""), (".wh.f", Regular, "")], conflict),
            (vec![("d", Dir, ""), ("d/.wh.e", Regular, ""), ("d/e", Dir, "")], conflict),
            (vec![(".wh.f", Regular, ""), ("g", Regular, "")], None),
            (vec![("d", Dir, ""), ("d/.wh..wh..opq", Regular, ""), ("d/.wh..opq", Regular, "")], None),
            (vec![("p", Fifo, ""), ("f", Regular, ""), ("l", Hardlink, "f")], None),
            (
                vec![("p", Fifo, ""), ("l", Hardlink, "p"), ("m", Hardlink, "l")],
                Some("it has a hard link to a device or pipe, \"l\""),
            ),
            (
                vec![("b", Block, ""), ("l", Hardlink, "b")],
                Some("it has a hard link to a device or pipe, \"l\""),
            ),
        ] {
            assert_eq!(names(&entries).refusal().as_deref(), expected, "{entries:?}");
        }
    }

    #[test]
    fn the_last_of_equal_names_counts() {
        let names = names(&[("f", Regular, ""), ("g", Regular, ""), ("f", Regular, "")]);
        assert!(names.replaced().iter().copied().eq([0]));
        assert_eq!(names.order(&["f".to_string()]).0, [2]);
    }

    #[test]
    fn a_hard_link_that_would_change_its_file_is_refused() {
        let mode = |mode| Entry { mode, ..Entry::default() };
        let xattr = |name: &str| Entry {
            xattrs: BTreeMap::from([(name.to_string(), b"v".to_vec())]),
            ..Entry::default()
        };
        let time = |seconds| Entry { modified: Timestamp::new(seconds, 0), ..Entry::default() };
        for (file, link, kept) in [
            (mode(0o644), mode(0o644), true),
            // The file's type is no part of what is applied.
            (mode(0o100_644), mode(0o644), true),
            (mode(0o644), mode(0o4644), false),
            (mode(0o644), mode(0o600), false),
            (Entry { uid: 1, ..Entry::default() }, Entry::default(), false),
            (Entry { gid: 1, ..Entry::default() }, Entry::default(), false),
            (Entry { user_name: "u".into(), ..Entry::default() }, Entry::default(), true),
            (time(1), time(1), true),
            (time(1), time(2), false),
            (xattr("a"), xattr("a"), true),
            (xattr("a"), Entry::default(), true),
            (Entry::default(), xattr("a"), false),
            (xattr("a"), xattr("b"), false),
        ] {
            let mut names = Names::new(&Limits::default());
            names.add(&listing("f", file.clone()), 0).unwrap();
            let link = Entry { kind: Hardlink, link_name: "f".into(), ..link };
            names.add(&listing("l", link.clone()), 512).unwrap();
            let names = names.finish();
            names.check().unwrap();
            let checked = names.check_looks();
            assert_eq!(checked.is_ok(), kept, "{file:?} {link:?}");
            if let Err(error) = checked {
                assert!(error.is_unlistable() && error.to_string().contains("(l)"), "{error}");
            }
        }
    }

    #[test]
    fn what_is_held_of_links_and_directories_is_bounded() {
        // The root, d, d/e; then the link.
        let exact = (OVERHEAD * 3 + "d/e/f".len() as u64) + (OVERHEAD + "l".len() as u64 + "f".len() as u64);
        let add = |limit: u64| {
            let mut names = Names::new(&Limits { layer_names: limit, ..Limits::default() });
            names.add(&listing("d/e/f", Entry::default()), 0)?;
            names.add(&listing("d/e/g", Entry::default()), 512)?;
            let link = Entry { kind: Hardlink, link_name: "f".into(), ..Entry::default() };
            names.add(&listing("l", link), 1024)
        };
        add(exact).unwrap();
        let error = add(exact - 1).unwrap_err();
        assert!(
            matches!(&error, Error::TarLimit { offset: 1024, entry: Some(entry), .. } if entry == "l"),
            "{error}"
        );
        // Deep paths cost what their directories do, not the square of that.
        let deep = vec!["d"; 250].join("/");
        let mut names = Names::new(&Limits::default());
        for number in 0..100 {
            names.add(&listing(&format!("{number}/{deep}/f"), Entry::default()), number * 512).unwrap();
        }
        assert!(names.held < 100 * (600 + 252 * OVERHEAD), "{}", names.held);
    }
}
