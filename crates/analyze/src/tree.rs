//! The names of an image's layers, and which layer provides a path.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use restow_layer::Buffer;
use restow_layer::path::clean;
use restow_layer::path::parent;
use restow_oci::PredictionLimits;

use crate::Layer;
use crate::path::MAX_LINKS;
use crate::path::MAX_STEPS;
use crate::path::depth;
use crate::path::join;
use crate::seen::Seen;

/// What a name in a layer stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A symbolic link with its target as it was written.
    Symlink(Box<str>),
    /// A second name of a file in the same layer, with that file's clean path.
    Hardlink(Box<str>),
    /// A regular file.
    File {
        /// Its size in bytes.
        size: u64,
    },
    /// A device, a pipe.
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

/// A path followed through links.
struct Walk {
    /// The links crossed.
    touched: Vec<(usize, String)>,
    /// Where they lead; nowhere if there are too many.
    end: Option<String>,
    /// Whether what the path names itself is a link.
    leaf_is_link: bool,
    /// How many parts of paths were looked up.
    parts: usize,
}

/// The names of the layers of one manifest, bottom layer first.
#[derive(Debug, Default)]
pub struct Tree {
    layers: Vec<Arc<Layer>>,
    seen: OnceLock<Seen>,
    /// Bytes of notes that were written on demand, those that were not kept among them.
    noted: AtomicU64,
    /// What a file is read into while its note is written, kept so that the memory is not taken anew for each.
    scratch: Mutex<Buffer>,
}

impl Tree {
    /// Builds the tree of the given layers, bottom layer first, entries in tar order.
    pub fn new<L>(layers: impl IntoIterator<Item = L>) -> Self
    where
        L: IntoIterator<Item = Entry>,
    {
        Self::from_layers(layers.into_iter().map(Layer::from_iter))
    }

    /// Builds the tree of the given layers, bottom layer first. A layer may be part of several trees.
    pub fn from_layers(layers: impl IntoIterator<Item: Into<Arc<Layer>>>) -> Self {
        Self { layers: layers.into_iter().map(Into::into).collect(), ..Self::default() }
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
        let Walk { mut touched, end, leaf_is_link, .. } = self.walk(path, usize::MAX);
        match end.and_then(|end| Some((self.resolve(&end)?, end))) {
            Some(end) => touched.push(end),
            None if leaf_is_link => {}
            None => return None,
        }
        Some(touched)
    }

    /// Returns the links that are crossed on the way to the clean path and the path that they lead to, whether or not anything
    /// is there; and how many parts of paths were looked up for that, `most` of which end it.
    pub(crate) fn way(&self, path: &str, most: usize) -> (Vec<(usize, String)>, Option<String>, usize) {
        let Walk { touched, end, parts, .. } = self.walk(path, most);
        (touched, end, parts)
    }

    fn walk(&self, path: &str, most: usize) -> Walk {
        let mut touched = Vec::new();
        let (mut leaf_is_link, mut parts) = (false, 0_usize);
        let mut here = String::new();
        let mut pending: Vec<&str> = path.rsplit('/').collect();
        let mut steps = 0;
        while let Some(component) = pending.pop() {
            steps += 1;
            if touched.len() == MAX_LINKS || steps > MAX_STEPS || parts > most {
                return Walk { touched, end: None, leaf_is_link, parts };
            }
            match component {
                "" | "." => {}
                ".." => here = parent(&here).unwrap_or_default().to_owned(),
                name => {
                    let next = join(&here, name);
                    // Each directory above it is looked up, too.
                    parts = parts.saturating_add(depth(&next));
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
        Walk { touched, end: Some(here), leaf_is_link, parts }
    }

    /// Says whether the clean path leads to something, be it a directory that no layer has an entry for.
    pub(crate) fn is_there(&self, path: &str) -> bool {
        let Walk { end, leaf_is_link, .. } = self.walk(path, usize::MAX);
        leaf_is_link || end.is_some_and(|end| self.resolve(&end).is_some() || self.is_implied(&end))
    }

    /// Returns what stands at the clean path, as a container sees it; no link is followed.
    pub fn kind(&self, path: &str) -> Option<&Kind> {
        self.find(path).map(|(_, entry)| &entry.kind)
    }

    /// Returns the same, and the layer that provides it.
    pub(crate) fn place(&self, path: &str) -> Option<(usize, &Kind)> {
        self.find(path).map(|(position, entry)| (position, &entry.kind))
    }

    /// Returns the size in bytes of the file at the clean path, or of the one it is a hard link to.
    pub fn size(&self, path: &str) -> Option<u64> {
        let (position, _) = self.find(path)?;
        if let Kind::File { size } = self.layers[position].file(path)?.kind { Some(size) } else { None }
    }

    /// Returns how many bytes the files of each layer have, whether or not a container sees them.
    pub(crate) fn layer_sizes(&self) -> Vec<u64> {
        let size = |entry: &Entry| if let Kind::File { size } = entry.kind { size } else { 0 };
        let of_layer = |layer: &Arc<Layer>| layer.entries().iter().map(size).fold(0, u64::saturating_add);
        self.layers.iter().map(of_layer).collect()
    }

    /// Returns the names a container sees in the directory at the clean path, sorted. A directory that no tar mentions is
    /// there if something in it is.
    pub fn names(&self, directory: &str) -> BTreeSet<&str> {
        self.names_within(directory, usize::MAX).unwrap_or_default()
    }

    /// Returns the same, or nothing if there are more names than that in the layers.
    pub(crate) fn names_within(&self, directory: &str, most: usize) -> Option<BTreeSet<&str>> {
        let mut names = BTreeSet::new();
        let mut count = 0;
        for (position, layer) in self.layers.iter().enumerate().rev() {
            let above = &self.layers[position + 1..];
            for name in layer.names(directory) {
                count += 1;
                if count > most {
                    return None;
                }
                let path = join(directory, name);
                if above.iter().all(|layer| !layer.deletes(&path)) {
                    names.insert(name);
                }
            }
            if layer.closes(directory) {
                break;
            }
        }
        Some(names)
    }

    /// Returns the directories that no layer has an entry for and that whiteouts stand in. Nothing else need be left of
    /// them.
    pub fn implied(&self) -> impl Iterator<Item = &str> {
        self.seen().implied.iter().map(|path| &**path)
    }

    fn seen(&self) -> &Seen {
        self.seen.get_or_init(|| Seen::of(&self.layers))
    }

    /// Returns the file that is read at the clean path, or the one that it is a hard link to: its layer, its place there, its
    /// size.
    pub(crate) fn file(&self, path: &str) -> Option<(usize, u32, u64)> {
        let (position, _) = self.find(path)?;
        let index = self.layers[position].index_of_file(path)?;
        match self.layers[position].entries()[index as usize].kind {
            Kind::File { size } => Some((position, index, size)),
            _ => None,
        }
    }

    /// Returns what is written down about such a file.
    pub(crate) fn note(&self, position: usize, index: u32, limits: &PredictionLimits) -> Option<&str> {
        let keep = |size: usize| {
            let size = size as u64;
            self.noted.fetch_add(size, Ordering::Relaxed).saturating_add(size) <= limits.notes
        };
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        self.layers.get(position)?.note(index, &mut scratch, limits, keep)
    }

    /// Tells whether there was more to note than there was room for.
    pub(crate) fn lost_notes(&self, limits: &PredictionLimits) -> bool {
        self.noted.load(Ordering::Relaxed) > limits.notes
            || self.layers.iter().any(|layer| layer.lost_notes())
    }

    /// Returns how many layers there are.
    pub(crate) fn height(&self) -> usize {
        self.layers.len()
    }

    /// Yields what a container sees, with the providing layer: bottom layer first, then in tar order.
    pub fn visible(&self, matches: impl Fn(&str) -> bool) -> impl Iterator<Item = (usize, &str)> {
        let entry = |&(position, index): &(u32, u32)| {
            let position = position as usize;
            (position, &*self.layers[position].entries()[index as usize].path)
        };
        self.seen().entries.iter().map(entry).filter(move |(_, path)| matches(path))
    }

    fn find(&self, path: &str) -> Option<(usize, &Entry)> {
        for (position, layer) in self.layers.iter().enumerate().rev() {
            // A file beats a whiteout of its own layer: whiteouts are for the layers below.
            if let Some(entry) = layer.get(path) {
                let replaced = entry.kind != Kind::Directory && self.is_implied_above(position, path);
                return (!replaced).then_some((position, entry));
            }
            if layer.hides(path) {
                return None;
            }
        }
        None
    }

    /// Says whether a layer above that position has something below the path. Unpacking it makes a directory there, which
    /// takes the place of a link or a file of the layers below and is merged with their directories.
    fn is_implied_above(&self, position: usize, path: &str) -> bool {
        self.layers[position + 1..].iter().any(|layer| layer.implies(path))
    }

    /// Says whether a container sees a directory at the clean path that no layer has an entry for.
    fn is_implied(&self, path: &str) -> bool {
        let mut implied = false;
        for layer in self.layers.iter().rev() {
            match layer.get(path).map(|entry| &entry.kind) {
                Some(Kind::Directory) => return false,
                Some(_) => return implied,
                None if layer.hides(path) => return implied || layer.implies(path),
                None => implied |= layer.implies(path),
            }
        }
        implied
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
                None => Entry::new(word, Kind::File { size: word.len() as u64 }),
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
            (["a/", "a/.wh..wh..opq"], "a", Some(0)),
            (["a/b", ".wh..wh..opq"], "a/b", None),
            // What there is something in is a directory, entry or not: it replaces all but a directory.
            (["a>c", "a/b"], "a", None),
            (["a", "a/b"], "a", None),
            (["a/", "a/b"], "a", Some(0)),
            (["a", "a-b a/b/c a0"], "a", None),
            (["a", "a-b a0 ab a.b/c"], "a", Some(0)),
            (["a", "a/.wh..wh..opq"], "a", None),
            (["a", "a/b/.wh..wh..opq"], "a", None),
            (["a", "a/.wh.b"], "a", None),
            (["a>c", "a/b a>d"], "a", Some(1)),
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
            // A directory that is only implied has taken the place of the link.
            (["lib>usr/lib usr/lib/y", "lib/x"], "lib/y", "none"),
            (["lib>usr/lib usr/lib/x", "lib/x"], "lib/x", "1 lib/x"),
            (["lib>usr/lib usr/lib/x", "lib/.wh.x"], "lib/x", "none"),
            (["lib/ lib/y", "lib/x"], "lib/y", "0 lib/y"),
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
    fn a_directory_holds_what_all_layers_show_in_it() {
        let tree = tree(["a/ a/x a/y a/sub/z ab", "a/.wh.x a/w"]);
        assert_eq!(tree.names("a").into_iter().collect::<Vec<_>>(), ["sub", "w", "y"]);
        assert_eq!(tree.names("").into_iter().collect::<Vec<_>>(), ["a", "ab"]);
        assert!(tree.names("a/w").is_empty() && tree.names("none").is_empty());
    }

    #[test]
    fn a_directory_is_there_if_something_is_in_it_be_it_a_whiteout() {
        let tree = tree([
            "lib>usr/lib usr/lib/y a/x b/old c/d/e f g/h m/",
            "lib/x a/.wh.x b/.wh..wh..opq c/d/.wh.e f/.wh.gone .wh.g g/.wh..wh..opq i/j/.wh..wh..opq m/.wh.n \
             n/.wh..wh..opq o/p/.wh.q",
            ".wh.i k.wh.x .wh..wh..opq2",
        ]);
        let names = |directory| tree.names(directory).into_iter().collect::<Vec<_>>();
        assert_eq!(names(""), ["a", "b", "c", "f", "k.wh.x", "lib", "m", "n", "o", "usr"]);
        assert_eq!(
            (names("lib"), names("a"), names("b"), names("c")),
            (vec!["x"], vec![], vec![], vec!["d"])
        );
        assert_eq!((names("n"), names("o"), names("o/p")), (vec![], vec!["p"], vec![]));
        assert_eq!(tree.implied().collect::<Vec<_>>(), ["a", "b", "c/d", "f", "n", "o/p"]);
        let seen: Vec<_> = tree.visible(|_| true).collect();
        assert_eq!(seen, [(0, "usr/lib/y"), (0, "m"), (1, "lib/x"), (2, "k.wh.x")]);
        for (path, expected) in
            [("lib", true), ("b", true), ("usr", true), ("g", false), ("i/j", false), ("m", true)]
        {
            assert_eq!(tree.is_there(path), expected, "{path}");
        }
        assert_eq!((tree.size("f"), tree.kind("lib"), tree.kind("m")), (None, None, Some(&Kind::Directory)));
    }

    #[test]
    fn a_hard_link_repeats_what_has_the_name_at_that_point_of_the_tar() {
        let link = |name, target: &str| Entry::new(name, Kind::Hardlink(target.into()));
        let file = |name, size| Entry::new(name, Kind::File { size });
        let tree = Tree::new([[
            file("a", 1),
            link("b", "a"),
            file("a", 2),
            file("a", 3),
            link("c", "a"),
            file("a", 4),
            link("late", "z"),
            file("z", 5),
            file("z", 6),
        ]]);
        for (path, expected) in [("a", 4), ("b", 1), ("c", 3), ("late", 6)] {
            assert_eq!(tree.size(path), Some(expected), "{path}");
        }
    }

    #[test]
    fn a_hard_link_is_as_large_as_what_it_links_to() {
        let link = |name, target: &str| Entry::new(name, Kind::Hardlink(target.into()));
        let file = |name, size| Entry::new(name, Kind::File { size });
        let layers =
            [vec![file("f", 7), link("a", "f"), link("b", "gone"), link("c", "c")], vec![file("f", 9)]];
        let tree = Tree::new(layers);
        for (path, expected) in [("f", Some(9)), ("a", Some(7)), ("b", None), ("c", None), ("none", None)] {
            assert_eq!(tree.size(path), expected, "{path}");
        }
    }

    #[test]
    fn what_is_visible_comes_layer_by_layer_in_tar_order_and_once() {
        let tree = tree(["c b/ b/x a a", "d .wh.c b/x .wh.gone"]);
        let seen: Vec<_> = tree.visible(|_| true).collect();
        assert_eq!(seen, [(0, "b"), (0, "a"), (1, "d"), (1, "b/x")]);
        assert_eq!(tree.visible(|path| path.ends_with('x')).collect::<Vec<_>>(), [(1, "b/x")]);
    }
}
