//! The names of an image's layers, and which layer provides a path.

use std::collections::HashSet;

use restow_layer::path::OPAQUE_WHITEOUT;
use restow_layer::path::WHITEOUT_PREFIX;
use restow_layer::path::base;
use restow_layer::path::clean;
use restow_layer::path::parent;

use crate::path::ancestors;
use crate::path::join;

/// As many links as Linux follows before it calls them a loop.
const MAX_LINKS: usize = 40;
/// As many components as are walked for one path, those of link targets included.
const MAX_STEPS: usize = 4096;

/// Names that belong to a chunked layer rather than to the files it carries.
const RESERVED: [&str; 3] = [".prefetch.landmark", ".no.prefetch.landmark", "stargz.index.json"];

/// What a name in a layer stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A symbolic link with its target as it was written.
    Symlink(Box<str>),
    /// A file, a hard link, a device, a pipe.
    Other,
}

/// A name in a layer, whiteouts included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The clean path.
    pub path: Box<str>,
    /// What stands there.
    pub kind: Kind,
}

impl Entry {
    /// Returns an entry for a name as a tar spells it.
    pub fn new(name: &str, kind: Kind) -> Self {
        Self { path: clean(name).into(), kind }
    }
}

/// The names of the layers of one manifest, bottom layer first.
#[derive(Debug, Default)]
pub struct Tree {
    layers: Vec<Layer>,
}

impl Tree {
    /// Builds the tree of the given layers, bottom layer first, entries in tar order.
    pub fn new<L>(layers: impl IntoIterator<Item = L>) -> Self
    where
        L: IntoIterator<Item = Entry>,
    {
        Self::from_layers(layers.into_iter().map(Layer::from_iter).collect())
    }

    pub(crate) fn from_layers(layers: Vec<Layer>) -> Self {
        Self { layers }
    }

    /// Returns the position of the layer whose entry a container sees at the clean path.
    ///
    /// No link is followed, neither at the end of the path nor on the way to it.
    pub fn resolve(&self, path: &str) -> Option<usize> {
        self.find(path).map(|(position, _)| position)
    }

    /// Returns what opening the clean path touches, each with the layer that provides it: the links
    /// crossed, in order, then what they lead to.
    ///
    /// A link that leads nowhere is returned alone; a path with nothing there gives `None`. `..` and
    /// absolute targets stay inside the image.
    pub fn follow(&self, path: &str) -> Option<Vec<(usize, String)>> {
        let mut touched = Vec::new();
        let mut leaf_is_link = false;
        let mut here = String::new();
        let mut pending: Vec<&str> = path.rsplit('/').collect();
        let mut steps = 0;
        while let Some(component) = pending.pop() {
            steps += 1;
            if touched.len() == MAX_LINKS || steps > MAX_STEPS {
                return leaf_is_link.then_some(touched);
            }
            match component {
                "" | "." => {}
                ".." => here = parent(&here).unwrap_or_default().to_owned(),
                name => {
                    let next = join(&here, name);
                    if let Some((position, Entry { kind: Kind::Symlink(target), .. })) = self.find(&next) {
                        leaf_is_link |= pending.is_empty();
                        touched.push((position, next));
                        if target.starts_with('/') {
                            here.clear();
                        }
                        pending.extend(target.rsplit('/').take(MAX_STEPS));
                    } else {
                        here = next;
                    }
                }
            }
        }
        match self.resolve(&here) {
            Some(position) => touched.push((position, here)),
            None if leaf_is_link => {}
            None => return None,
        }
        Some(touched)
    }

    /// Yields what a container sees, with the providing layer: bottom layer first, then in tar order.
    pub fn visible(&self, matches: impl Fn(&str) -> bool) -> impl Iterator<Item = (usize, &str)> {
        self.layers
            .iter()
            .enumerate()
            .flat_map(move |(position, layer)| layer.entries.iter().map(move |entry| (position, entry)))
            .filter(move |(_, entry)| matches(&entry.path))
            // The entry itself, not its path: a name may stand twice in a layer, and the last one counts.
            .filter(|(_, entry)| self.find(&entry.path).is_some_and(|(_, seen)| std::ptr::eq(seen, *entry)))
            .map(|(position, entry)| (position, &*entry.path))
    }

    fn find(&self, path: &str) -> Option<(usize, &Entry)> {
        for (position, layer) in self.layers.iter().enumerate().rev() {
            // A file beats a whiteout of its own layer: whiteouts are for the layers below.
            if let Some(entry) = layer.get(path) {
                return Some((position, entry));
            }
            if layer.hides(path) {
                return None;
            }
        }
        None
    }
}

/// The names of one layer.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    /// In tar order, whiteouts taken out.
    entries: Vec<Entry>,
    /// Indices of `entries` by path; of equal paths the last. A map would hold every path twice.
    by_path: Vec<u32>,
    /// Paths deleted from the layers below.
    deleted: HashSet<Box<str>>,
    /// Directories that show nothing of the layers below.
    opaque: HashSet<Box<str>>,
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
    /// Adds the next entry of the tar. After the last, [`index`](Self::index).
    pub(crate) fn push(&mut self, entry: Entry) {
        let (directory, name) = (parent(&entry.path).unwrap_or_default(), base(&entry.path));
        if name == OPAQUE_WHITEOUT {
            self.opaque.insert(directory.into());
        } else if let Some(name) = name.strip_prefix(WHITEOUT_PREFIX) {
            // What else starts with the prefix twice is bookkeeping of aufs and deletes nothing.
            if !name.starts_with(WHITEOUT_PREFIX) {
                self.deleted.insert(join(directory, name).into());
            }
        } else if !RESERVED.contains(&&*entry.path) {
            self.entries.push(entry);
        }
    }

    /// Makes the layer's names ready to be found.
    pub(crate) fn index(&mut self) {
        let entries = &self.entries;
        self.by_path = (0..u32::try_from(entries.len()).unwrap_or(u32::MAX)).rev().collect();
        // Stable, so that of equal paths the last in tar order stays first and is kept.
        self.by_path.sort_by_key(|&index| &entries[index as usize].path);
        self.by_path.dedup_by_key(|index| &entries[*index as usize].path);
    }

    fn get(&self, path: &str) -> Option<&Entry> {
        let found = self.by_path.binary_search_by_key(&path, |&index| &self.entries[index as usize].path);
        found.ok().map(|at| &self.entries[self.by_path[at] as usize])
    }

    /// Says whether this layer takes the path away from the layers below.
    fn hides(&self, path: &str) -> bool {
        self.deleted.contains(path)
            || ancestors(path).any(|directory| {
                self.deleted.contains(directory)
                    || self.opaque.contains(directory)
                    || self.get(directory).is_some_and(|entry| entry.kind != Kind::Directory)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a tree from words: `a/` is a directory, `a>b` a link, anything else a file.
    fn tree<const N: usize>(layers: [&str; N]) -> Tree {
        Tree::new(layers.map(|layer| {
            layer.split_whitespace().map(|word| match word.split_once('>') {
                Some((name, target)) => Entry::new(name, Kind::Symlink(target.into())),
                None if word.ends_with('/') => Entry::new(word, Kind::Directory),
                None => Entry::new(word, Kind::Other),
            })
        }))
    }

    #[test]
    fn the_topmost_layer_that_shows_a_path_provides_it() {
        for (layers, path, expected) in [
            (["a", ""], "a", Some(0)),
            (["a", "a"], "a", Some(1)),
            (["", ""], "a", None),
            (["./a/b", "a/"], "a/b", Some(0)),
            // Whiteouts of the path and of what is above it.
            (["a", ".wh.a"], "a", None),
            (["a/b", ".wh.a"], "a/b", None),
            (["a/b/c/d", "a/.wh.b"], "a/b/c/d", None),
            (["a/b/c/d", "a/.wh.c"], "a/b/c/d", Some(0)),
            (["ab", ".wh.a"], "ab", Some(0)),
            // Opaque directories, the root among them.
            (["a/b", "a/ a/.wh..wh..opq"], "a/b", None),
            (["a/b/c", "a/.wh..wh..opq"], "a/b/c", None),
            (["a", "a/.wh..wh..opq"], "a", Some(0)),
            (["a/b", ".wh..wh..opq"], "a/b", None),
            // A file beats a whiteout of its own layer, and a whiteout below it.
            (["a", ".wh.a a"], "a", Some(1)),
            (["a/b", "a/b .wh.a"], "a/b", Some(1)),
            (["a/c", "a/ a/b .wh.a"], "a/c", None),
            (["a/b", "a/b a/.wh..wh..opq"], "a/b", Some(1)),
            ([".wh.a", "a"], "a", Some(1)),
            ([".wh.a a", ""], "a", Some(0)),
            // What is no directory has nothing in it.
            (["a/b", "a"], "a/b", None),
            (["a/b", "a>c"], "a/b", None),
            // Bookkeeping of aufs deletes nothing.
            (["a", ".wh..wh.a"], "a", Some(0)),
            // What a chunked layer carries for itself is no file of the image, only at the root.
            ([".prefetch.landmark", "stargz.index.json"], ".prefetch.landmark", None),
            (["a/.prefetch.landmark", ""], "a/.prefetch.landmark", Some(0)),
        ] {
            assert_eq!(tree(layers).resolve(path), expected, "{path} in {layers:?}");
        }
    }

    #[test]
    fn links_are_crossed_inside_the_image_and_named_on_the_way() {
        for (layers, path, expected) in [
            (["a", ""], "a", "0 a"),
            // usr-merge: a link on the way, a link at the end, each from its own layer.
            (
                ["bin>usr/bin usr/bin/sh>dash", "usr/bin/dash"],
                "bin/sh",
                "0 bin, 0 usr/bin/sh, 1 usr/bin/dash",
            ),
            (["a>/b b/c", ""], "a/c", "0 a, 0 b/c"),
            (["x/a>/b b", ""], "x/a", "0 x/a, 0 b"),
            (["x/a>../b b", ""], "x/a", "0 x/a, 0 b"),
            (["x/a>b x/b", "x/b>c"], "x/a", "0 x/a, 1 x/b"),
            // Nothing leads out of the image.
            (["a>../../../b b", ""], "a", "0 a, 0 b"),
            (["a>/../b b", ""], "a", "0 a, 0 b"),
            // Dangling: the link is there, what is beyond it is not.
            (["a>gone", ""], "a", "0 a"),
            (["a>gone", ""], "a/b", "none"),
            (["a>b b/", ""], "a/c", "none"),
            (["a>b b", ".wh.b"], "a", "0 a"),
            (["a>b b", ".wh.a"], "a", "none"),
            (["a>b/ b/", ""], "a", "0 a, 0 b"),
            (["a", ""], "gone", "none"),
        ] {
            let words = match tree(layers).follow(path) {
                Some(touched) => touched
                    .iter()
                    .map(|(position, path)| format!("{position} {path}"))
                    .collect::<Vec<_>>()
                    .join(", "),
                None => "none".into(),
            };
            assert_eq!(words, expected, "{path} in {layers:?}");
        }
    }

    #[test]
    fn loops_and_endless_targets_end() {
        let long = format!("a>{}b b", "c/../".repeat(10_000));
        for layers in [["a>a", ""], ["a>b b>a", ""], [long.as_str(), ""]] {
            assert_eq!(tree(layers).follow("a").unwrap()[0], (0, "a".into()));
            assert_eq!(tree(layers).follow("a/x"), None);
        }
        assert_eq!(tree(["a>a/a", ""]).follow("a").unwrap().len(), MAX_LINKS);
    }

    #[test]
    fn what_is_visible_comes_layer_by_layer_in_tar_order_and_once() {
        let tree = tree(["c b/ b/x a a", "d .wh.c b/x .wh.gone"]);
        let seen: Vec<_> = tree.visible(|_| true).collect();
        assert_eq!(seen, [(0, "b"), (0, "a"), (1, "d"), (1, "b/x")]);
        assert_eq!(tree.visible(|path| path.ends_with('x')).collect::<Vec<_>>(), [(1, "b/x")]);
    }
}
