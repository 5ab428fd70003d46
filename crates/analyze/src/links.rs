//! Where the entries of a layer come to lie: behind the symbolic links of that layer that stand on their way.

use std::collections::HashMap;

use restow_layer::path::base;
use restow_layer::path::parent;

use crate::Entry;
use crate::Kind;
use crate::path::MAX_LENGTH;
use crate::path::MAX_LINKS;
use crate::path::MAX_STEPS;
use crate::path::join;

/// The symbolic links of a layer, as far as its tar has been read.
///
/// Whoever unpacks a tar follows the links that are there on the way to an entry, and does not leave the layer for it
/// (containerd by looking, podman in a root of its own). Links of the layers below are not there: a directory takes
/// their place.
#[derive(Debug, Default)]
pub struct Links {
    targets: HashMap<Box<str>, Box<str>>,
    /// The directory that was looked for last, and where it leads: the next entry lies in it more often than not.
    last: Option<(Box<str>, Option<Box<str>>)>,
}

impl Links {
    /// Returns the next entry of the tar where it comes to lie; of a hard link the target, too.
    pub fn place(&mut self, mut entry: Entry) -> Entry {
        if let Some(path) = self.lead(&entry.path) {
            entry.path = path;
        }
        match &mut entry.kind {
            Kind::Symlink(target) => {
                self.targets.insert(entry.path.clone(), target.clone());
                self.last = None;
            }
            kind => {
                if self.targets.remove(&entry.path).is_some() {
                    self.last = None;
                }
                if let Kind::Hardlink(target) = kind
                    && let Some(path) = self.lead(target)
                {
                    *target = path;
                }
            }
        }
        entry
    }

    /// Returns where a clean path leads, if anywhere else. A link at its end is not followed.
    fn lead(&mut self, path: &str) -> Option<Box<str>> {
        if self.targets.is_empty() {
            return None;
        }
        let directory = parent(path)?;
        if self.last.as_ref().is_none_or(|(last, _)| **last != *directory) {
            let real = self.follow(directory).filter(|real| real != directory);
            self.last = Some((directory.into(), real.map(String::into_boxed_str)));
        }
        let (_, real) = self.last.as_ref()?;
        Some(join(real.as_ref()?, base(path)).into())
    }

    /// Follows a clean path; to nowhere if that takes too many steps, or leads deeper than any path may be.
    fn follow(&self, path: &str) -> Option<String> {
        let mut here = String::new();
        let mut pending: Vec<&str> = path.rsplit('/').collect();
        let mut links = 0;
        for _ in 0..MAX_STEPS {
            let Some(component) = pending.pop() else { return Some(here) };
            match component {
                "" | "." => {}
                ".." => here.truncate(parent(&here).unwrap_or_default().len()),
                name => {
                    let next = join(&here, name);
                    match self.targets.get(next.as_str()) {
                        None => here = next,
                        Some(target) => {
                            links += 1;
                            if target.starts_with('/') {
                                here.clear();
                            }
                            pending.extend(target.rsplit('/').take(MAX_STEPS));
                        }
                    }
                }
            }
            if here.len() > MAX_LENGTH || links > MAX_LINKS {
                return None;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places entries one after another: `a>b` is a symbolic link, `a=b` a hard link, `a/` a directory.
    fn placed(words: &str) -> String {
        let mut links = Links::default();
        let place = |word: &str| {
            let entry = match (word.split_once('>'), word.split_once('=')) {
                (Some((name, target)), _) => Entry::new(name, Kind::Symlink(target.into())),
                (_, Some((name, target))) => Entry::new(name, Kind::Hardlink(target.into())),
                _ if word.ends_with('/') => Entry::new(word, Kind::Directory),
                _ => Entry::new(word, Kind::Other),
            };
            match links.place(entry) {
                Entry { path, kind: Kind::Hardlink(target) } => format!("{path}={target}"),
                Entry { path, .. } => path.into(),
            }
        };
        words.split_whitespace().map(place).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn entries_lie_behind_the_links_on_their_way() {
        for (words, expected) in [
            ("a/x b/y", "a/x b/y"),
            (
                "lib>usr/lib lib/x lib/.wh.y lib/d/ lib/d/z",
                "lib usr/lib/x usr/lib/.wh.y usr/lib/d usr/lib/d/z",
            ),
            // What comes before the link lies where it says, and the link itself is not followed.
            ("lib/x lib>usr/lib lib>other lib/x", "lib/x lib lib other/x"),
            ("a>/b b>c a/x", "a b c/x"),
            ("d/a>../../e d/a/x", "d/a e/x"),
            ("a>b a/x=a/y", "a b/x=b/y"),
            // Whatever takes the link's place is no link.
            ("a>b a/ a/x", "a a a/x"),
            ("a>b a a/x", "a a a/x"),
            // A loop leads nowhere.
            ("a>a a/x", "a a/x"),
            ("a>b b>a a/x", "a b a/x"),
        ] {
            assert_eq!(placed(words), expected, "{words}");
        }
    }

    #[test]
    fn a_way_that_gets_too_long_is_not_taken() {
        let long = "d/".repeat(MAX_LENGTH / 2 - 10);
        assert_eq!(placed(&format!("a>{long} a/x")), format!("a {long}x"));
        assert_eq!(
            placed(&format!("a>{long}a b>{long}d/d/d/d/d/d/d/d/d/d/d/d b/x")).split(' ').nth(2),
            Some("b/x")
        );
    }
}
