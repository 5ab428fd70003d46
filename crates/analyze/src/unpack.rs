//! Unpacking what a container sees into a directory, without ever leaving it.
//!
//! Every file is made beside its parent's descriptor, which is opened from the top with no link followed, so that a link
//! in the image cannot lead a later entry elsewhere. Devices and pipes are left out: a sandbox brings its own.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;

use restow_layer::Buffer;
use restow_layer::Header;
use restow_layer::TarReader;
use restow_layer::path::base;
use restow_layer::path::parent;
use restow_oci::Descriptor;
use rustix::fs::AtFlags;
use rustix::fs::Gid;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::fs::Timespec;
use rustix::fs::Timestamps;
use rustix::fs::Uid;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::Entry;
use crate::Error;
use crate::Kind;
use crate::Links;
use crate::Reading;
use crate::Result;
use crate::Tree;
use crate::layer::entry;
use crate::read::BoxError;

impl Reading<'_> {
    /// Writes what a container of these layers sees into the directory, which is there and empty.
    ///
    /// Files keep owners, modes, times and extended attributes as far as this process may set them. Whoever files the result
    /// under the names of its layers in a config has to have compared them, as [`tree_of`](Self::tree_of) does.
    pub fn unpack(&self, layers: &[Descriptor], tree: &Tree, directory: &Path) -> Result<()> {
        let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(directory, open, Mode::empty()).map_err(|error| Error::Read(error.into()))?;
        rustix::fs::chmodat(&root, ".", Mode::from_raw_mode(0o755), AtFlags::empty())
            .map_err(|error| Error::Read(error.into()))?;
        let mut unpacker = Unpacker { root, tree, layer: 0, late: Vec::new() };
        for (position, descriptor) in layers.iter().enumerate() {
            unpacker.layer = position;
            let named = |source| Error::Layer { position, digest: descriptor.digest.clone(), source };
            let Some(mut tar) = self.open(descriptor, None).map_err(named)? else { continue };
            unpacker.unpack(&mut tar).map_err(named)?;
        }
        for path in tree.implied() {
            // As far as there is room for it: its parent may be no directory.
            let _ = unpacker.directory(path);
        }
        // Last, because making a file changes its directory's time.
        for (path, header) in unpacker.late.iter().rev() {
            let _ = unpacker.finish_directory(path, header);
        }
        Ok(())
    }
}

struct Unpacker<'a> {
    root: OwnedFd,
    tree: &'a Tree,
    layer: usize,
    /// Directories, whose modes and times are set at the end.
    late: Vec<(String, Header)>,
}

impl Unpacker<'_> {
    fn unpack<R: std::io::Read>(&mut self, tar: &mut TarReader<R>) -> std::result::Result<(), BoxError> {
        let mut raw = Buffer::default();
        let mut links = self.tree.hidden_targets(self.layer);
        let mut seen: HashMap<String, String> = HashMap::new();
        let mut on_the_way = Links::default();
        while let Some(header) = tar.next(&mut raw)? {
            raw.truncate(0);
            let placed = entry(&header).map(|entry| on_the_way.place(entry));
            // The text of a name that is not UTF-8 is not the name.
            let placed = placed.filter(|_| std::str::from_utf8(&header.name).is_ok());
            if let Some(Entry { path, kind }) = placed.filter(|placed| !placed.path.is_empty()) {
                let path = String::from(path);
                // A file of which nothing but a second name is left is written under that name.
                let place = if self.is_seen(&path) {
                    Some(path.clone())
                } else {
                    links.get(path.as_str()).map(|link| (*link).to_owned())
                };
                if let Some(place) = place {
                    match (header.kind, kind) {
                        (restow_layer::Kind::Regular | restow_layer::Kind::Sparse, _) => {
                            let mut file = self.create(&place)?;
                            let mut content = tar.content(&header)?;
                            loop {
                                match content.piece()? {
                                    [] => break,
                                    piece => file.write_all(piece)?,
                                }
                            }
                            finish(&file, &header);
                            seen.insert(path, place);
                        }
                        (_, Kind::Hardlink(target)) => {
                            let target = String::from(target);
                            // The link is made; a later file of that name is another one.
                            links.remove(target.as_str());
                            let target = seen.get(&target).cloned().unwrap_or(target);
                            if target != place {
                                self.link(&target, &place)?;
                            }
                        }
                        (_, Kind::Symlink(_)) => self.symlink(&place, &header)?,
                        (_, Kind::Directory) => {
                            drop(self.directory(&place)?);
                            self.late.push((place, header.clone()));
                        }
                        _ => {}
                    }
                }
            }
            tar.skip_payload(&mut raw)?;
        }
        tar.finish(&mut raw)?;
        Ok(())
    }

    fn is_seen(&self, path: &str) -> bool {
        self.tree.resolve(path) == Some(self.layer)
    }

    /// Opens the directory at a clean path, making it and those above it.
    fn directory(&self, path: &str) -> std::io::Result<OwnedFd> {
        let open = |directory: &OwnedFd, name: &str| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            rustix::fs::openat2(directory, name, flags, Mode::empty(), within)
        };
        let mut here = open(&self.root, ".")?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            here = match open(&here, name) {
                Err(Errno::NOENT) => {
                    let mode = Mode::from_raw_mode(0o755);
                    rustix::fs::mkdirat(&here, name, mode)?;
                    // Whatever the user's mask is: not all of a container's users are this one.
                    rustix::fs::chmodat(&here, name, mode, AtFlags::empty())?;
                    open(&here, name)?
                }
                opened => opened?,
            };
        }
        Ok(here)
    }

    fn create(&self, path: &str) -> std::io::Result<File> {
        let directory = self.directory(parent(path).unwrap_or_default())?;
        clear(&directory, base(path));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat(&directory, base(path), flags, Mode::from_raw_mode(0o600))?.into())
    }

    fn link(&self, target: &str, path: &str) -> std::io::Result<()> {
        let from = self.directory(parent(target).unwrap_or_default())?;
        let to = self.directory(parent(path).unwrap_or_default())?;
        clear(&to, base(path));
        match rustix::fs::linkat(&from, base(target), &to, base(path), AtFlags::empty()) {
            // The image says so, and no runtime could do better.
            Err(Errno::NOENT) => Ok(()),
            linked => Ok(linked?),
        }
    }

    fn symlink(&self, path: &str, header: &Header) -> std::io::Result<()> {
        let directory = self.directory(parent(path).unwrap_or_default())?;
        clear(&directory, base(path));
        rustix::fs::symlinkat(&*header.link_name, &directory, base(path))?;
        let (user, group) = owner(header);
        let _ = rustix::fs::chownat(&directory, base(path), user, group, AtFlags::SYMLINK_NOFOLLOW);
        Ok(())
    }

    fn finish_directory(&self, path: &str, header: &Header) -> std::io::Result<()> {
        let directory = self.directory(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let opened = rustix::fs::openat(&directory, ".", flags, Mode::empty())?;
        finish(&opened.into(), header);
        Ok(())
    }
}

/// Takes away an earlier entry of the same name, unless it is a directory.
fn clear(directory: &OwnedFd, name: &str) {
    let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
}

/// Sets what a header says of a file; what the file system refuses is left as it is.
fn finish(file: &File, header: &Header) {
    let (user, group) = owner(header);
    let _ = rustix::fs::fchown(file, user, group);
    let _ =
        rustix::fs::fchmod(file, Mode::from_raw_mode(u32::try_from(header.mode & 0o7777).unwrap_or(0o644)));
    for (name, value) in &header.xattrs {
        let _ = rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty());
    }
    let time =
        Timespec { tv_sec: header.modified.seconds, tv_nsec: i64::from(header.modified.nanoseconds) as _ };
    let _ = rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time });
}

fn owner(header: &Header) -> (Option<Uid>, Option<Gid>) {
    let id = |number: i64| u32::try_from(number).ok().filter(|id| *id != u32::MAX);
    (id(header.uid).map(Uid::from_raw), id(header.gid).map(Gid::from_raw))
}

impl Tree {
    /// Returns the files of a layer that are hidden, or replaced, but have a second name that is not.
    fn hidden_targets(&self, position: usize) -> HashMap<&str, &str> {
        let mut targets = HashMap::new();
        for (layer, path) in self.visible(|_| true) {
            if layer == position
                && let Some(Kind::Hardlink(target)) = self.kind(path)
                && self.resolve(target) != Some(position)
            {
                targets.entry(&**target).or_insert(path);
            }
        }
        targets
    }
}

#[cfg(test)]
mod tests {
    use restow_content::MemoryStore;
    use restow_content::write;
    use restow_oci::Limits;
    use restow_oci::MediaType;
    use restow_testkit::TarBuilder;

    use super::*;

    #[test]
    fn what_a_container_sees_is_unpacked_and_nothing_leaves_the_directory() {
        let outside = tempfile::tempdir().unwrap();
        let store = MemoryStore::new();
        let host = outside.path().join("host");
        std::fs::create_dir(&host).unwrap();
        let base = TarBuilder::new()
            .file("a", "old")
            .file("gone", "")
            .file("replaced", "the content")
            .hardlink("kept", "replaced")
            .symlink("escape", host.to_str().unwrap())
            .symlink("up", "../host")
            .file("deep/er/file", "x")
            .file("again", "first")
            .hardlink("first", "again")
            .file("again", "second")
            .file("emptied/file", "")
            .symlink("lib", "deep")
            .finish();
        let top = TarBuilder::new()
            .file(".wh.gone", "")
            .file("a", "new")
            .file("replaced", "other")
            .file("../../etc/inside", "cleaned")
            .file("again", "third")
            .file("emptied/.wh.file", "")
            .file("lib/own", "implied")
            .finish();
        let hostile =
            TarBuilder::new().symlink("evil", host.to_str().unwrap()).file("evil/file", "out").finish();
        let layers = [base, top].map(|tar| write(&store, MediaType::OCI_LAYER, &tar).unwrap());
        let reading = Reading { provider: &store, limits: &Limits::default(), threads: 1, stop: &|| false };
        let root = outside.path().join("root");
        std::fs::create_dir(&root).unwrap();
        reading.unpack(&layers, &reading.tree(&layers).unwrap(), &root).unwrap();
        let read = |name: &str| std::fs::read_to_string(root.join(name)).ok();
        assert_eq!(read("a").as_deref(), Some("new"));
        assert_eq!(read("gone"), None);
        assert_eq!(
            (read("replaced").as_deref(), read("kept").as_deref()),
            (Some("other"), Some("the content"))
        );
        assert_eq!(read("deep/er/file").as_deref(), Some("x"));
        assert_eq!((read("again").as_deref(), read("first").as_deref()), (Some("third"), Some("first")));
        assert!(root.join("emptied").is_dir());
        assert_eq!((read("lib/own").as_deref(), read("deep/own")), (Some("implied"), None));
        assert_eq!(read("etc/inside").as_deref(), Some("cleaned"));
        assert_eq!(std::fs::read_link(root.join("up")).unwrap(), Path::new("../host"));

        let layers = [write(&store, MediaType::OCI_LAYER, &hostile).unwrap()];
        let second = outside.path().join("second");
        std::fs::create_dir(&second).unwrap();
        // The link leads where it says, in the directory.
        reading.unpack(&layers, &reading.tree(&layers).unwrap(), &second).unwrap();
        let inside = second.join(host.strip_prefix("/").unwrap()).join("file");
        assert_eq!(std::fs::read_to_string(inside).unwrap(), "out");
        assert_eq!(std::fs::read_dir(&host).unwrap().count(), 0);
    }
}
