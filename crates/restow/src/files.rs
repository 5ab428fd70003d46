//! The files of an image as a container sees them: layers merged, and what they delete gone.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use restow_analyze::Entry;
use restow_analyze::Links;
use restow_analyze::Tree;
use restow_content::Provider;
use restow_content::VerifiedReader;
use restow_layer::Buffer;
use restow_layer::Header;
use restow_layer::Kind;
use restow_layer::Reader;
use restow_layer::TarReader;
use restow_layer::Timestamp;
use restow_layer::decompress;
use restow_layer::path;
use restow_layer::toc;
use restow_layer::toc::EntryKind;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Limits;

use crate::Error;
use crate::Result;
use crate::Warning;
use crate::WarningKind;
use crate::blob::LayerBlob;
use crate::error::Context as _;
use crate::image::Image;
use crate::parallel;
use crate::toc_image::Tables;

/// As many hard links as one may take to a file, from layer to layer.
const MAX_LINKS: usize = 40;

/// The files of an image.
pub(crate) struct Files<'a> {
    provider: &'a dyn Provider,
    limits: &'a Limits,
    tree: Tree,
    layers: Vec<Layer<'a>>,
    /// What of the image is not looked into.
    pub(crate) warnings: Vec<Warning>,
}

/// A layer whose names are known.
struct Layer<'a> {
    source: Source<'a>,
    names: Names,
}

/// Where the content of a layer's files is read from.
enum Source<'a> {
    /// By a table of contents that the descriptor vouches for.
    Seekable(Box<Reader<LayerBlob>>),
    /// From a tar that was read to its end and verified.
    Tar(&'a Descriptor),
}

/// The names of a layer's files.
#[derive(Default)]
struct Names {
    links: Links,
    /// The last entry of each path.
    by_path: HashMap<Box<str>, Name>,
    /// Files, of which those with several names are here once.
    files: Vec<Inode>,
}

struct Name {
    file: usize,
    /// Of a hard link, the name that it repeats, as the layer spells it.
    repeats: Option<String>,
}

/// A file, or a hard link to one that is not known where the link stands.
struct Inode {
    stat: Stat,
    place: Place,
    /// Of such a link, where its target would be.
    target: Option<Box<str>>,
}

/// Where in its layer the content of a file is.
enum Place {
    /// In the table of contents, under this name.
    Table(String),
    /// In the tar, in the entry that starts at this byte.
    Tar(u64),
}

/// How much may be held of the names of all layers.
struct Room {
    held: AtomicU64,
    limit: u64,
}

/// What a name takes besides its text, in bytes.
const OVERHEAD: usize = 256;

/// What a directory takes that is listed because something lies in it.
const LISTED: usize = 1024;

/// What is known of a file besides its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    pub(crate) mode: i64,
    pub(crate) uid: i64,
    pub(crate) gid: i64,
    pub(crate) modified: Option<Timestamp>,
    /// The target of a symbolic link, or the name that a hard link repeats.
    pub(crate) target: String,
    pub(crate) device: (i64, i64),
}

/// A file and where it comes from.
pub(crate) struct File {
    pub(crate) path: String,
    /// The position of the layer that provides it; nothing for a directory that no layer has an entry for.
    pub(crate) layer: Option<usize>,
    /// What it is; of a hard link, what it leads to.
    pub(crate) stat: Option<Stat>,
    /// The name that a hard link repeats.
    pub(crate) hard_link: Option<String>,
}

impl<'a> Files<'a> {
    /// Learns the names in all layers, several at a time. Warns of those that are no layers to restow.
    pub(crate) fn read(
        provider: &'a dyn Provider,
        image: &'a Image,
        tables: &Tables<'_>,
        limits: &'a Limits,
        threads: NonZeroUsize,
    ) -> Result<Self> {
        let manifest = &image.descriptor.digest;
        let places: Vec<_> = image.manifest.layers().iter().enumerate().collect();
        let room = Room { held: AtomicU64::new(0), limit: limits.image_names };
        let read = parallel::map(&places, threads, |(position, layer)| {
            Layer::read(provider, manifest, layer, tables, limits, &room)
                .with_context(|| format!("layer {position}, {}", layer.digest))
        });
        let read = read.into_iter().collect::<Result<Vec<_>>>()?;
        let mut warnings = Vec::new();
        for (position, layer) in places {
            if !matches!(layer.media_type.kind(), restow_oci::Kind::Layer { .. }) {
                let what = &layer.media_type;
                let text = format!("layer {position} is not looked into: it is of the type {what}");
                warnings.push(Warning::new(WarningKind::Unread, text));
            }
        }
        let (entries, layers): (Vec<_>, Vec<_>) = read.into_iter().unzip();
        Ok(Self { provider, limits, tree: Tree::new(entries), layers, warnings })
    }

    /// Follows a path through symbolic links to what is there. It may be given as it is, or as `ls` spells what is not UTF-8.
    pub(crate) fn find(&self, path: &OsStr) -> Result<File> {
        let spelled = path::text(path.as_encoded_bytes());
        let given = path.to_str().into_iter().chain([&*spelled]);
        for path in given.map(path::clean) {
            match self.tree.follow(&path).and_then(|mut touched| touched.pop()) {
                Some((layer, path)) => return Ok(self.file(Some(layer), path)),
                // A directory may be known by what is in it only; the root needs no entry at all.
                None if self.is_directory(&path) => return Ok(self.file(None, path)),
                None => {}
            }
        }
        Err(Error::NoSuchFile { path: spelled.into_owned() })
    }

    /// Lists what is in a directory, or everything below it, in the order of the names.
    pub(crate) fn list(&self, directory: &str, recursive: bool) -> Result<Vec<File>> {
        let mut found = BTreeMap::new();
        let room = Room { held: AtomicU64::new(0), limit: self.limits.image_names };
        let implied = self.tree.implied().filter(|path| is_below(path, directory)).map(|path| (None, path));
        for (layer, path) in self.below(directory).map(|(layer, path)| (Some(layer), path)).chain(implied) {
            let start = if directory.is_empty() { 0 } else { directory.len() + 1 };
            // From the innermost on, what is known has been followed by all above it.
            for (slash, _) in path[start..].rmatch_indices('/') {
                let above = &path[..start + slash];
                if !recursive && path[start..start + slash].contains('/') {
                    continue;
                }
                if found.contains_key(above) {
                    break;
                }
                room.take(above.len() + LISTED)?;
                found.insert(above, None);
            }
            if recursive || !path[start..].contains('/') {
                found.insert(path, layer);
            }
        }
        Ok(found.into_iter().map(|(path, layer)| self.file(layer, path.to_owned())).collect())
    }

    fn below(&self, directory: &str) -> impl Iterator<Item = (usize, &str)> {
        self.tree.visible(move |path| is_below(path, directory))
    }

    /// Tells whether there is something in the directory, or was in a layer that is below a whiteout in it.
    fn is_directory(&self, path: &str) -> bool {
        let implied = || self.tree.implied().any(|found| found == path || is_below(found, path));
        path.is_empty() || self.below(path).next().is_some() || implied()
    }

    fn file(&self, layer: Option<usize>, path: String) -> File {
        let name = layer.and_then(|layer| self.layers[layer].names.by_path.get(path.as_str()));
        let (Some(layer), Some(name)) = (layer, name) else {
            return File { path, layer, stat: None, hard_link: None };
        };
        let link = &self.layers[layer].names.files[name.file];
        let stat = self.target(layer, name.file).map(|(_, file)| match link.target {
            // What is in another layer is a copy then, to which the link's header is applied.
            Some(_) => file.stat.clone().like(&link.stat),
            None => file.stat.clone(),
        });
        File { path, layer: Some(layer), stat, hard_link: name.repeats.clone() }
    }

    /// Follows hard links whose target their layer did not have yet: it has it now, or another layer has.
    fn target(&self, mut layer: usize, mut file: usize) -> Option<(usize, &Inode)> {
        for _ in 0..MAX_LINKS {
            let found = &self.layers[layer].names.files[file];
            let Some(target) = &found.target else { return Some((layer, found)) };
            if !self.layers[layer].names.by_path.contains_key(target) {
                layer = self.tree.resolve(target)?;
            }
            file = self.layers[layer].names.by_path.get(target)?.file;
        }
        None
    }

    /// Writes the content of a regular file. Every byte has been verified before it is written.
    pub(crate) fn copy(&self, file: &File, output: &mut dyn Write) -> Result<()> {
        let refused = |problem: &str| Error::not_a_file(&file.path, problem);
        let layer = file.layer.ok_or_else(|| refused("is a directory"))?;
        let place = self.layers[layer].names.by_path.get(file.path.as_str());
        let place = place.and_then(|place| self.target(layer, place.file));
        let (layer, Inode { stat, place, .. }) =
            place.ok_or_else(|| refused("is a hard link that leads nowhere"))?;
        match stat.kind {
            Kind::Regular => {}
            Kind::Directory => return Err(refused("is a directory")),
            Kind::Symlink => {
                let problem = format!("is a link to {}, which is not there", stat.target.escape_debug());
                return Err(refused(&problem));
            }
            Kind::Sparse => return Err(refused("is a sparse file of a form that is not known")),
            _ => return Err(refused("is not a regular file")),
        }
        match (&self.layers[layer].source, place) {
            (Source::Seekable(reader), Place::Table(name)) => {
                let node = reader.lookup(name).ok_or(Error::Changed)?;
                for chunk in node.chunks() {
                    output.write_all(&reader.read_chunk(&chunk)?)?;
                }
                Ok(())
            }
            (Source::Tar(descriptor), Place::Tar(offset)) => self.copy_from_tar(descriptor, *offset, output),
            _ => Err(Error::Changed),
        }
    }

    fn copy_from_tar(&self, layer: &Descriptor, offset: u64, output: &mut dyn Write) -> Result<()> {
        let blob = VerifiedReader::new(self.provider.open(layer)?, layer)?;
        let mut tar = TarReader::new(decompress(blob, self.limits)?, self.limits);
        let mut raw = Buffer::default();
        while let Some(header) = tar.next(&mut raw)? {
            if header.offset != offset {
                tar.skip_payload(&mut raw)?;
                continue;
            }
            let mut content = tar.content(&header)?;
            loop {
                match content.piece()? {
                    [] => return Ok(()),
                    piece => output.write_all(piece)?,
                }
            }
        }
        Err(Error::Changed)
    }
}

impl<'a> Layer<'a> {
    fn read(
        provider: &dyn Provider,
        manifest: &Digest,
        descriptor: &'a Descriptor,
        tables: &Tables<'_>,
        limits: &Limits,
        room: &Room,
    ) -> Result<(Vec<Entry>, Self)> {
        let nothing = || (Vec::new(), Self { source: Source::Tar(descriptor), names: Names::default() });
        let restow_oci::Kind::Layer { distributable, .. } = descriptor.media_type.kind() else {
            return Ok(nothing());
        };
        let blob = match LayerBlob::open(provider, descriptor) {
            Err(error) if !distributable && error.is_not_found() => return Ok(nothing()),
            blob => blob,
        };
        let (mut names, mut entries) = (Names::default(), Vec::new());
        // Whatever is wrong with a table, the tar says what is there.
        let blob = blob.and_then(|blob| blob.with_table(manifest, &descriptor.digest, tables));
        let hints = blob.as_ref().ok().map(|blob| blob.hints().clone());
        let vouched = hints.filter(|hints| hints.toc_digest.is_some() || hints.stored_toc_digest.is_some());
        if let (Ok(blob), Some(hints)) = (blob, vouched)
            && let Ok(reader) = Reader::open(blob, &hints, limits)
        {
            for node in reader.toc().entries() {
                let place = Place::Table(node.path());
                let name = path::text(node.name.as_bytes());
                entries.push(names.add(&name, Stat::of_entry(&node), place, room)?);
            }
            return Ok((entries, Self { source: Source::Seekable(Box::new(reader)), names }));
        }
        let blob = VerifiedReader::new(provider.open(descriptor)?, descriptor)?;
        let mut tar = TarReader::new(decompress(blob, limits)?, limits);
        let mut raw = Buffer::default();
        while let Some(header) = tar.next(&mut raw)? {
            check_path(&header, limits)?;
            let (name, place) = (header.display_name(), Place::Tar(header.offset));
            entries.push(names.add(&name, Stat::of_header(&header), place, room)?);
            tar.skip_payload(&mut raw)?;
        }
        tar.finish(&mut raw)?;
        Ok((entries, Self { source: Source::Tar(descriptor), names }))
    }
}

/// Refuses paths that nobody could unpack, and that take long to look at.
fn check_path(header: &Header, limits: &Limits) -> restow_layer::Result<()> {
    let components = header.name.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).count();
    for (what, found, limit) in [
        ("the length in bytes of a path", header.name.len().max(header.link_name.len()), limits.path_length),
        ("the number of components of a path", components, limits.path_components),
    ] {
        if found > limit {
            return Err(restow_layer::Error::TarLimit {
                offset: header.offset,
                entry: None,
                what,
                found: found as u64,
                limit: limit as u64,
            });
        }
    }
    Ok(())
}

impl Names {
    /// Adds the entry that comes next in the layer, and returns it with its place.
    fn add(&mut self, name: &str, stat: Stat, place: Place, room: &Room) -> Result<Entry> {
        let entry = self.links.place(stat.entry(name));
        let directories = entry.path.matches('/').count() / 4;
        room.take(name.len() + entry.path.len() + stat.target.len() + OVERHEAD * (1 + directories))?;
        let repeats = (stat.kind == Kind::Hardlink).then(|| stat.target.clone());
        let target = match &entry.kind {
            restow_analyze::Kind::Hardlink(target) => Some(target.clone()),
            _ => None,
        };
        // What has the name now: a later entry of that name will be another file.
        let known = target.as_ref().and_then(|target| self.by_path.get(target)).map(|known| known.file);
        let file = match known {
            Some(file) => {
                // What a link's header says is applied to the file.
                let known = &mut self.files[file].stat;
                *known = known.clone().like(&stat);
                file
            }
            None => {
                self.files.push(Inode { stat, place, target });
                self.files.len() - 1
            }
        };
        self.by_path.insert(entry.path.clone(), Name { file, repeats });
        Ok(entry)
    }
}

impl Room {
    fn take(&self, bytes: usize) -> restow_layer::Result<()> {
        let found = self.held.fetch_add(bytes as u64, Ordering::Relaxed).saturating_add(bytes as u64);
        let what = "the size in bytes of the names of all files";
        if found > self.limit {
            return Err(restow_layer::Error::Limit { what, found, limit: self.limit });
        }
        Ok(())
    }
}

/// Tells whether the path is one below the directory.
fn is_below(path: &str, directory: &str) -> bool {
    match directory {
        "" => !path.is_empty(),
        _ => path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/')),
    }
}

impl Stat {
    /// Takes what a hard link's header changes of a file.
    fn like(self, link: &Self) -> Self {
        Self { mode: link.mode, uid: link.uid, gid: link.gid, modified: link.modified, ..self }
    }

    fn of_entry(entry: &toc::Entry) -> Self {
        Self {
            kind: match entry.kind {
                EntryKind::Dir => Kind::Directory,
                EntryKind::Regular | EntryKind::Chunk => Kind::Regular,
                EntryKind::Symlink => Kind::Symlink,
                EntryKind::Hardlink => Kind::Hardlink,
                EntryKind::Char => Kind::Character,
                EntryKind::Block => Kind::Block,
                EntryKind::Fifo => Kind::Fifo,
            },
            size: entry.size,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            modified: entry.modified,
            target: path::text(entry.link_name.as_bytes()).into_owned(),
            device: (entry.device_major, entry.device_minor),
        }
    }

    fn of_header(header: &Header) -> Self {
        Self {
            kind: if header.sparse.is_some() { Kind::Regular } else { header.kind },
            size: header.content_size(),
            mode: header.mode,
            uid: header.uid,
            gid: header.gid,
            modified: Timestamp::new(header.modified.seconds, header.modified.nanoseconds),
            target: path::text(&header.link_name).into_owned(),
            device: (header.device_major, header.device_minor),
        }
    }

    fn entry(&self, name: &str) -> Entry {
        let kind = match self.kind {
            Kind::Directory => restow_analyze::Kind::Directory,
            Kind::Symlink => restow_analyze::Kind::Symlink(self.target.as_str().into()),
            Kind::Hardlink => restow_analyze::Kind::Hardlink(path::clean(&self.target).into()),
            _ => restow_analyze::Kind::Other,
        };
        Entry::new(name, kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_of_the_names_of_an_image_is_bounded() {
        let stat = Stat {
            kind: Kind::Regular,
            size: 0,
            mode: 0,
            uid: 0,
            gid: 0,
            modified: None,
            target: String::new(),
            device: (0, 0),
        };
        let add = |limit| {
            let room = Room { held: AtomicU64::new(0), limit };
            // Two layers share the room.
            for name in ["d/one", "d/two"] {
                Names::default().add(name, stat.clone(), Place::Tar(0), &room)?;
            }
            Ok::<_, Error>(())
        };
        let exact = 2 * (OVERHEAD + 2 * "d/one".len()) as u64;
        add(exact).unwrap();
        let error = add(exact - 1).unwrap_err();
        assert!(matches!(&error, Error::Layer(restow_layer::Error::Limit { found, .. }) if *found == exact));
    }
}
