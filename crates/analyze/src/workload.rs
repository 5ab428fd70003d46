//! The order in which each layer is to be read.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::fmt;

use restow_oci::Descriptor;
use restow_oci::Digest;

use crate::Access;
use crate::Pattern;
use crate::Result;
use crate::Tree;
use crate::list::Glob;
use crate::path::join;

/// What is to come first, as the user said it.
///
/// The list goes before the record: it was written by hand, so it was meant.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Paths and globs.
    pub list: Vec<Pattern>,
    /// Recorded accesses.
    pub record: Vec<Access>,
    /// The most bytes that a recorded file may have in chunks of which nothing is read; one with more keeps its place,
    /// because what comes first is fetched whole.
    pub most_unread: Option<u64>,
}

impl Wishes {
    /// Says whether nothing is wished for.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty() && self.record.is_empty()
    }
}

/// A manifest to order the layers of.
#[derive(Debug, Clone, Copy)]
pub struct Manifest<'a> {
    /// The manifest's digest.
    pub digest: &'a Digest,
    /// Its layers, bottom layer first.
    pub layers: &'a [Descriptor],
}

/// How many of the first paths of a manifest are told in the order of all its layers.
const FIRST: usize = 20;

/// The paths to put first in each layer, and what of the wishes came to nothing.
#[derive(Debug, Default)]
pub struct Workload {
    paths: BTreeMap<(Digest, usize), Vec<String>>,
    first: Vec<(Digest, usize, String)>,
    misses: Vec<Miss>,
    notices: Vec<Notice>,
}

/// A wish that no file of the image fulfils.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miss {
    /// The manifest it was looked for in.
    pub manifest: Digest,
    /// The path or glob.
    pub path: String,
}

/// Something the user should know about how wishes were read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// Entries of the record were not made on this manifest and were looked up by path.
    Rematched {
        /// The manifest they were looked up in.
        manifest: Digest,
        /// How many were found.
        found: usize,
        /// How many there were.
        of: usize,
    },
    /// A line of the list names the root directory.
    Root {
        /// The manifest it was looked for in.
        manifest: Digest,
    },
    /// Large files of which little was read keep their places.
    LeftOut {
        /// The manifest they are in.
        manifest: Digest,
        /// How many there are.
        files: usize,
        /// Their size, in bytes.
        size: u64,
        /// How much of them is read, in bytes.
        read: u64,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rematched { manifest, found, of } => write!(
                f,
                "the record was made on another build of {manifest}; {found} of {of} paths re-matched by path"
            ),
            Self::Root { manifest } => write!(
                f,
                "a line of the list names all of {manifest} and no file in it; nothing is put first for that line"
            ),
            Self::LeftOut { manifest, files, size, read } => write!(
                f,
                "{files} of the files to put first in {manifest} keep their places: of {size} bytes, {read} are read"
            ),
        }
    }
}

impl Workload {
    /// Returns the paths to put first in a layer, in order; none if nothing was wished for there.
    pub fn paths(&self, manifest: &Digest, position: usize) -> &[String] {
        self.paths.get(&(manifest.clone(), position)).map_or(&[], Vec::as_slice)
    }

    /// Returns how many paths come first, over all layers.
    pub fn len(&self) -> usize {
        self.paths.values().map(Vec::len).sum()
    }

    /// Says whether no path comes first in any layer.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Returns the paths to put first in each layer that has any.
    pub fn into_paths(self) -> BTreeMap<(Digest, usize), Vec<String>> {
        self.paths
    }

    /// Returns manifest, layer and path of the first few paths of each manifest, in order.
    pub fn first(&self) -> &[(Digest, usize, String)] {
        &self.first
    }

    /// Returns the wishes that no file fulfils, in the order they were made.
    ///
    /// A path that a record places in a layer is taken at its word; only the encoder can miss it.
    pub fn misses(&self) -> &[Miss] {
        &self.misses
    }

    /// Returns what the user should know.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }
}

/// Orders the layers of the manifests by the wishes.
///
/// `read` is called at most once for each manifest, and only if a wish does not name its layer.
pub fn plan(
    wishes: &Wishes,
    manifests: &[Manifest<'_>],
    mut read: impl FnMut(&Manifest<'_>) -> Result<Tree>,
) -> Result<Workload> {
    let mut workload = Workload::default();
    for manifest in manifests {
        let record = record_for(manifest, wishes, manifests);
        let needs_tree =
            !wishes.list.is_empty() || record.iter().any(|access| place(access, manifest).is_none());
        let tree = if needs_tree { read(manifest)? } else { Tree::default() };
        let mut order =
            Order { manifest: manifest.digest, tree: &tree, seen: HashSet::new(), workload: &mut workload };
        order.add_list(&wishes.list);
        order.add_record(&record, manifest, wishes.most_unread);
    }
    Ok(workload)
}

/// Returns the accesses that speak of this manifest.
///
/// A record of an image for several platforms holds accesses for each. They are kept apart, unless
/// there is none for this manifest: then the other platforms' are better than nothing.
fn record_for<'a>(manifest: &Manifest<'_>, wishes: &'a Wishes, all: &[Manifest<'_>]) -> Vec<&'a Access> {
    let is =
        |access: &Access, manifest: &Manifest<'_>| access.manifest_digest.as_ref() == Some(manifest.digest);
    let others = |access: &Access| !is(access, manifest) && all.iter().any(|other| is(access, other));
    let has_own = wishes.record.iter().any(|access| is(access, manifest));
    wishes.record.iter().filter(|access| !has_own || !others(access)).collect()
}

/// Returns the layer the access names, if it was recorded on this very manifest.
fn place(access: &Access, manifest: &Manifest<'_>) -> Option<usize> {
    let same = access.manifest_digest.as_ref() == Some(manifest.digest);
    access.layer_index.filter(|&position| same && position < manifest.layers.len())
}

/// The order of one manifest while it is made.
struct Order<'a> {
    manifest: &'a Digest,
    tree: &'a Tree,
    seen: HashSet<(usize, String)>,
    workload: &'a mut Workload,
}

impl Order<'_> {
    fn add_list(&mut self, list: &[Pattern]) {
        for pattern in list {
            match pattern {
                Pattern::Literal(path) if path.is_empty() => {
                    let notice = Notice::Root { manifest: self.manifest.clone() };
                    if !self.workload.notices.contains(&notice) {
                        self.workload.notices.push(notice);
                    }
                }
                Pattern::Literal(path) => {
                    self.follow(path);
                }
                // Names like `[id].js` are no rarity, and whoever writes one down wants that file and not `i.js`.
                Pattern::Glob(glob) if self.tree.is_there(glob.as_str()) => {
                    self.follow(glob.as_str());
                }
                Pattern::Glob(glob) => self.add_glob(glob),
            }
        }
    }

    /// Adds what the glob matches, or a miss. Links that its directory is reached through come along, as those of a path do.
    fn add_glob(&mut self, glob: &Glob) {
        let directory = glob.directory();
        let (links, real, _) = self.tree.way(directory, usize::MAX);
        let matches = |path: &str| match &real {
            Some(real) if !links.is_empty() => {
                let below = match real.as_str() {
                    "" => Some(path).filter(|path| !path.is_empty()),
                    real => path.strip_prefix(real).and_then(|rest| rest.strip_prefix('/')),
                };
                below.is_some_and(|name| glob.matches(&join(directory, name)))
            }
            _ => glob.matches(path),
        };
        let mut found = self.tree.visible(matches).peekable();
        if found.peek().is_none() {
            return self.miss(glob.as_str());
        }
        let found: Vec<_> = found.map(|(position, path)| (position, path.to_owned())).collect();
        links.iter().cloned().chain(found).for_each(|(position, path)| self.add(position, path));
    }

    fn add_record(&mut self, record: &[&Access], manifest: &Manifest<'_>, most_unread: Option<u64>) {
        let (mut found, mut of, mut moved) = (0, 0, false);
        let (mut files, mut size, mut read) = (0, 0, 0);
        for access in record {
            if let (Some(share), Some(most)) = (access.share, most_unread)
                && share.untouched() > most
            {
                (files, size, read) =
                    (files + 1, u64::saturating_add(size, share.size), u64::saturating_add(read, share.read));
                continue;
            }
            if let Some(position) = place(access, manifest) {
                self.add(position, access.path.clone());
                continue;
            }
            of += 1;
            // A path without a layer was never bound to a build.
            moved |= access.manifest_digest.as_ref().is_some_and(|digest| digest != self.manifest)
                || access.layer_index.is_some();
            // What was recorded was opened there, so a plain file is meant as it stands. Where that is
            // gone, the directory above it may have become a link since (`/bin` did).
            found += usize::from(match self.tree.resolve(&access.path) {
                Some(position) => {
                    self.add(position, access.path.clone());
                    true
                }
                None => self.follow(&access.path),
            });
        }
        if moved {
            self.workload.notices.push(Notice::Rematched { manifest: self.manifest.clone(), found, of });
        }
        if files > 0 {
            let manifest = self.manifest.clone();
            self.workload.notices.push(Notice::LeftOut { manifest, files, size, read });
        }
    }

    /// Adds what opening the path touches, or a miss.
    fn follow(&mut self, path: &str) -> bool {
        let touched = self.tree.follow(path);
        let found = touched.is_some();
        match touched {
            Some(touched) => touched.into_iter().for_each(|(position, path)| self.add(position, path)),
            None => self.miss(path),
        }
        found
    }

    fn add(&mut self, position: usize, path: String) {
        if self.seen.insert((position, path.clone())) {
            if self.seen.len() <= FIRST {
                self.workload.first.push((self.manifest.clone(), position, path.clone()));
            }
            self.workload.paths.entry((self.manifest.clone(), position)).or_default().push(path);
        }
    }

    fn miss(&mut self, path: &str) {
        self.workload.misses.push(Miss { manifest: self.manifest.clone(), path: path.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use restow_oci::MediaType;

    use super::*;
    use crate::Entry;
    use crate::Kind;
    use crate::Share;
    use crate::list;
    use crate::record;

    fn digest(name: &str) -> Digest {
        Digest::sha256(name.as_bytes())
    }

    fn layers(count: usize) -> Vec<Descriptor> {
        vec![Descriptor::new(MediaType::OCI_LAYER, digest("layer"), 1); count]
    }

    /// Two equal layers that differ in nothing but their position, and one above them.
    fn sample() -> Tree {
        let link = |name, target: &str| Entry::new(name, Kind::Symlink(target.into()));
        let file = |name| Entry::new(name, Kind::File { size: 1 });
        Tree::new([
            vec![file("z.so"), file("a.so"), link("bin", "usr/bin"), link("usr/bin/sh", "dash"), file("old")],
            vec![file("usr/bin/dash"), file("m.so"), file("lib/n.so")],
            vec![file(".wh.old"), file("a.so")],
        ])
    }

    /// Returns the order of manifest `m` as one line per layer.
    fn order(wishes: &Wishes, others: &[&str]) -> (Vec<String>, Workload) {
        let layers = layers(3);
        let digests: Vec<_> = ["m"].iter().chain(others).map(|name| digest(name)).collect();
        let manifests: Vec<_> = digests.iter().map(|digest| Manifest { digest, layers: &layers }).collect();
        let workload = plan(wishes, &manifests, |_| Ok(sample())).unwrap();
        ((0..3).map(|position| workload.paths(&digests[0], position).join(" ")).collect(), workload)
    }

    fn misses(workload: &Workload) -> Vec<&str> {
        workload.misses().iter().map(|miss| miss.path.as_str()).collect()
    }

    #[test]
    fn a_list_is_ordered_by_line_then_layer_then_tar_and_the_first_mention_wins() {
        let list = list::parse("bin/sh\nm.so\n*.so\nusr/bin/dash\nold\nnone/*\n").unwrap();
        let (lines, workload) = order(&Wishes { list, ..Wishes::default() }, &[]);
        assert_eq!(lines, ["bin usr/bin/sh z.so", "usr/bin/dash m.so", "a.so"]);
        assert_eq!(misses(&workload), ["old", "none/*"]);
        assert_eq!(workload.len(), 6);
        let first: Vec<_> =
            workload.first().iter().map(|(_, layer, path)| format!("{layer} {path}")).collect();
        assert_eq!(first, ["0 bin", "0 usr/bin/sh", "1 usr/bin/dash", "1 m.so", "0 z.so", "2 a.so"]);
        assert!(workload.notices().is_empty());
    }

    /// Returns the order of the files for a list, the notices, and the misses.
    fn listed<const N: usize>(layers: [&[Entry]; N], list: &str) -> (String, String, String) {
        let (digest, descriptors) = (digest("m"), self::layers(N));
        let wishes = Wishes { list: list::parse(list).unwrap(), ..Wishes::default() };
        let tree = |_: &Manifest<'_>| Ok(Tree::new(layers.map(<[Entry]>::to_vec)));
        let workload = plan(&wishes, &[Manifest { digest: &digest, layers: &descriptors }], tree).unwrap();
        let first: Vec<_> =
            workload.first().iter().map(|(_, layer, path)| format!("{layer} {path}")).collect();
        let notices: Vec<_> = workload.notices().iter().map(ToString::to_string).collect();
        (first.join(", "), notices.join(", "), misses(&workload).join(", "))
    }

    #[test]
    fn a_line_with_the_characters_of_a_glob_is_a_path_where_there_is_one() {
        let file = |name| Entry::new(name, Kind::File { size: 1 });
        let link = |name, target: &str| Entry::new(name, Kind::Symlink(target.into()));
        let base = [file("pages/i.js"), file("pages/[id].js"), file("d/x"), file("[d]/y"), file("bin/[")];
        let top =
            [link("pages/[slug]", "[id].js"), file(r"pages/\[id\].js"), file(".wh.d"), link("p", "pages")];
        let layers = [&base[..], &top[..]];
        for (list, expected) in [
            ("/pages/[id].js", "0 pages/[id].js"),
            ("/pages/[slug]", "1 pages/[slug], 0 pages/[id].js"),
            ("/p/[id].js", "1 p, 0 pages/[id].js"),
            ("/pages/[ij].js", "0 pages/i.js"),
            (r"/pages/\[id\].js", "0 pages/[id].js"),
            (r"/pages/\\\[id\\\].js", r"1 pages/\[id\].js"),
            ("/bin/[", "0 bin/["),
            ("[d]/y", "0 [d]/y"),
        ] {
            assert_eq!(listed(layers, list), (expected.into(), String::new(), String::new()), "{list}");
        }
        // A directory that no layer has an entry for is one all the same; `d` is not meant.
        assert_eq!(listed([&[file("[d]/y"), file("d")]], "[d]").2, "[d]");
        assert_eq!(listed(layers, "/usr/bin/[[").2, "usr/bin/[[");
        // What `predict` writes names the same files.
        for (position, path) in
            [(0, "pages/i.js"), (0, "pages/[id].js"), (1, r"pages/\[id\].js"), (0, "bin/[")]
        {
            assert_eq!(listed(layers, &list::line(path).unwrap()).0, format!("{position} {path}"));
        }
    }

    #[test]
    fn a_glob_is_followed_through_links_to_its_directory() {
        let file = |name| Entry::new(name, Kind::File { size: 1 });
        let link = |name, target: &str| Entry::new(name, Kind::Symlink(target.into()));
        let base = [
            link("lib/py", "python3"),
            file("lib/python3/a.py"),
            file("lib/python3/b/c.py"),
            file("lib/python3.py"),
            link("root", "/"),
            link("loop", "loop"),
            link("up", "gone"),
        ];
        let top = [file("lib/python3/d.py"), file("a.py"), file("loop/x/.wh.y")];
        let layers = [&base[..], &top[..]];
        let found = "0 lib/py, 0 lib/python3/a.py, 1 lib/python3/d.py";
        for (list, expected, missing) in [
            ("lib/py/*.py", found, ""),
            ("root/lib/py/*.py", &format!("0 root, {found}"), ""),
            ("root/*.py", "0 root, 1 a.py", ""),
            ("lib/py/**/c.py", "0 lib/py, 0 lib/python3/b/c.py", ""),
            ("lib/py/*.so", "", "lib/py/*.so"),
            ("up/*", "", "up/*"),
            ("lib/p*/a.py", "0 lib/python3/a.py", ""),
        ] {
            assert_eq!(listed(layers, list), (expected.into(), String::new(), missing.into()), "{list}");
        }
        assert_eq!(listed([&base[..]], "loop/*").2, "loop/*");
    }

    #[test]
    fn a_line_for_the_root_is_told_and_puts_nothing_first() {
        let notice = format!(
            "a line of the list names all of {} and no file in it; nothing is put first for that line",
            digest("m")
        );
        for root in [&[][..], &[Entry::new("./", Kind::Directory)]] {
            let layers = [root, &[Entry::new("a", Kind::File { size: 1 })]];
            for list in ["/", ".", "/\n./\n"] {
                assert_eq!(listed(layers, list), (String::new(), notice.clone(), String::new()), "{list:?}");
            }
        }
    }

    #[test]
    fn a_record_of_this_very_manifest_is_taken_at_its_word_and_no_layer_is_read() {
        let record = record::parse(&format!(
            "{{\"path\":\"old\",\"manifestDigest\":\"{0}\",\"layerIndex\":0}}\n\
             {{\"path\":\"x\",\"manifestDigest\":\"{0}\",\"layerIndex\":2}}\n\
             {{\"path\":\"old\",\"manifestDigest\":\"{0}\",\"layerIndex\":1}}\n\
             {{\"path\":\"x\",\"manifestDigest\":\"{0}\",\"layerIndex\":2}}\n",
            digest("m")
        ))
        .unwrap();
        let layers = layers(3);
        let digest = digest("m");
        let manifests = [Manifest { digest: &digest, layers: &layers }];
        let wishes = Wishes { record, ..Wishes::default() };
        let workload = plan(&wishes, &manifests, |_| panic!("a layer was read")).unwrap();
        let lines: Vec<_> = (0..3).map(|position| workload.paths(&digest, position).join(" ")).collect();
        assert_eq!(lines, ["old", "old", "x"]);
        assert!(workload.misses().is_empty() && workload.notices().is_empty());
    }

    #[test]
    fn a_record_of_another_build_is_matched_by_path_with_a_notice() {
        let access = |path: &str, manifest: Option<&str>, layer_index| Access {
            path: path.into(),
            manifest_digest: manifest.map(digest),
            layer_index,
            share: None,
        };
        let record = vec![
            access("usr/bin/dash", Some("before"), Some(0)),
            access("bin/sh", Some("before"), Some(7)),
            access("usr/bin/sh", Some("before"), None),
            access("old", Some("before"), Some(0)),
        ];
        let (lines, workload) = order(&Wishes { record, ..Wishes::default() }, &[]);
        assert_eq!(lines, ["bin usr/bin/sh", "usr/bin/dash", ""]);
        assert_eq!(misses(&workload), ["old"]);
        let expected = Notice::Rematched { manifest: digest("m"), found: 3, of: 4 };
        assert_eq!(workload.notices(), [expected]);

        // The right manifest with a layer it does not have was damaged or made by another tool.
        let (lines, workload) =
            order(&Wishes { record: vec![access("m.so", Some("m"), Some(3))], ..Wishes::default() }, &[]);
        assert_eq!((lines[1].as_str(), workload.notices().len()), ("m.so", 1));

        // Bare paths, as lists of other tools hold them, were never bound to a build.
        let (lines, workload) =
            order(&Wishes { record: vec![access("m.so", None, None)], ..Wishes::default() }, &[]);
        assert_eq!((lines[1].as_str(), workload.notices().len()), ("m.so", 0));
    }

    #[test]
    fn a_large_file_of_which_little_was_read_keeps_its_place() {
        let access = |path: &str, size, read| Access {
            path: path.into(),
            manifest_digest: Some(digest("m")),
            layer_index: Some(1),
            share: Some(Share { size, read: 1, touched: read }),
        };
        let record = vec![access("usr/bin/dash", 100, 90), access("m.so", 100, 89), access("lib/n.so", 9, 0)];
        let wishes = |most_unread| Wishes { record: record.clone(), most_unread, ..Wishes::default() };
        let (lines, workload) = order(&wishes(Some(10)), &[]);
        assert_eq!(lines[1], "usr/bin/dash lib/n.so");
        let expected = Notice::LeftOut { manifest: digest("m"), files: 1, size: 100, read: 1 };
        assert_eq!(workload.notices(), [expected]);
        let (lines, workload) = order(&wishes(None), &[]);
        assert_eq!((lines[1].as_str(), workload.notices().len()), ("usr/bin/dash m.so lib/n.so", 0));
    }

    #[test]
    fn the_records_of_other_platforms_are_kept_apart_unless_there_is_no_own() {
        let access = |path: &str, manifest: &str| Access {
            path: path.into(),
            manifest_digest: Some(digest(manifest)),
            layer_index: Some(1),
            share: None,
        };
        let record = vec![access("m.so", "m"), access("lib/n.so", "arm")];
        let wishes = Wishes { record, ..Wishes::default() };
        let (lines, workload) = order(&wishes, &["arm"]);
        assert_eq!(lines[1], "m.so");
        assert_eq!(workload.paths(&digest("arm"), 1), ["lib/n.so"]);
        assert!(workload.notices().is_empty());

        let (_, workload) = order(&wishes, &["arm", "riscv"]);
        assert_eq!(workload.paths(&digest("riscv"), 1), ["m.so", "lib/n.so"]);
        assert_eq!(workload.notices().len(), 1);
    }
}
