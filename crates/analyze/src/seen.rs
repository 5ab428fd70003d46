//! What a container sees of its layers, found in one pass from the top down.

use std::collections::BTreeSet;
use std::collections::HashSet;
use std::sync::Arc;

use restow_layer::path::parent;

use crate::Kind;
use crate::Layer;
use crate::path::ancestors;

/// What a container sees.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Layers and indices of their entries: bottom layer first, then in tar order.
    pub(crate) entries: Vec<(u32, u32)>,
    /// Directories that no layer has an entry for and that whiteouts stand in, sorted.
    pub(crate) implied: Vec<Box<str>>,
}

impl Seen {
    /// Merges layers, bottom layer first.
    pub(crate) fn of(layers: &[Arc<Layer>]) -> Self {
        let mut above = Above::default();
        let (mut entries, mut implied) = (Vec::new(), BTreeSet::new());
        for (position, layer) in layers.iter().enumerate().rev() {
            let position = position as u32;
            let marked = layer.marked().filter(|path| !path.is_empty());
            implied.extend(
                marked.filter(|path| layer.get(path).is_none() && layer.implies(path) && above.shows(path)),
            );
            let start = entries.len();
            for index in layer.lasting() {
                let entry = &layer.entries()[index as usize];
                let is_directory = entry.kind == Kind::Directory;
                if above.shows(&entry.path) && (is_directory || !above.holding.contains(&*entry.path)) {
                    entries.push((position, index));
                    if is_directory {
                        implied.remove(&*entry.path);
                    }
                }
            }
            // The whole is turned around in the end.
            entries[start..].sort_unstable_by(|one, other| other.cmp(one));
            if position > 0 {
                above.add(layer);
            }
        }
        entries.reverse();
        Self { entries, implied: implied.into_iter().map(Box::from).collect() }
    }
}

/// What the layers above do to those below.
#[derive(Default)]
struct Above<'a> {
    /// Paths that have an entry.
    taken: HashSet<&'a str>,
    /// Paths that were deleted.
    gone: HashSet<&'a str>,
    /// Directories that show nothing of the layers below, and what is no directory.
    closed: HashSet<&'a str>,
    /// Directories that something lies in, if only a whiteout. Unpacking makes one of whatever stands there.
    holding: HashSet<&'a str>,
}

impl<'a> Above<'a> {
    /// Tells whether a layer below has a say in what stands at the path.
    fn shows(&self, path: &str) -> bool {
        let hidden = || {
            self.gone.contains(path)
                || ancestors(path).any(|above| self.gone.contains(above) || self.closed.contains(above))
        };
        !self.taken.contains(path) && (self.gone.is_empty() && self.closed.is_empty() || !hidden())
    }

    fn add(&mut self, layer: &'a Layer) {
        for index in layer.lasting() {
            let entry = &layer.entries()[index as usize];
            self.taken.insert(&entry.path);
            if entry.kind != Kind::Directory {
                self.closed.insert(&entry.path);
            }
            self.hold(parent(&entry.path));
        }
        self.gone.extend(layer.deleted());
        self.closed.extend(layer.opaque());
        layer.marked().for_each(|directory| self.hold(Some(directory)));
    }

    /// Adds a directory and all above it.
    fn hold(&mut self, mut directory: Option<&'a str>) {
        while let Some(path) = directory
            && self.holding.insert(path)
        {
            directory = parent(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Entry;

    #[test]
    fn what_is_seen_does_not_depend_on_how_it_is_looked_for() {
        let mut random = restow_testkit::Random::new(1);
        let names = ["a", "b", "c", "a/b", "a/c", "a/b/c", "b/a", "b/a/c", "c/a/b"];
        for _ in 0..2000 {
            let layers = (0..1 + random.below(4)).map(|_| {
                let entries = (0..random.below(6)).map(|_| {
                    let name = *random.pick(&names);
                    let (directory, base) = name.rsplit_once('/').map_or(("", name), |(d, b)| (d, b));
                    let slash = if directory.is_empty() { "" } else { "/" };
                    match random.below(6) {
                        0 => Entry::new(name, Kind::Directory),
                        1 => Entry::new(&format!("{directory}{slash}.wh.{base}"), Kind::Other),
                        2 => Entry::new(&format!("{name}/.wh..wh..opq"), Kind::Other),
                        _ => Entry::new(name, Kind::Other),
                    }
                });
                Arc::new(Layer::from_iter(entries.collect::<Vec<_>>()))
            });
            let layers: Vec<_> = layers.collect();
            let tree = crate::Tree::from_layers(layers.iter().cloned());
            let visible: BTreeSet<_> = tree.visible(|_| true).collect();
            for name in names {
                let found = tree.resolve(name);
                let seen = visible.iter().find(|(_, path)| *path == name).map(|(layer, _)| *layer);
                assert_eq!(seen, found, "{name} in {layers:?}");
                if tree.implied().any(|path| path == name) {
                    assert!(found.is_none() && tree.is_there(name), "{name} in {layers:?}");
                }
            }
        }
    }
}
