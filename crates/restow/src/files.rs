//! The files of an image as a container sees them: layers merged, and what they delete gone.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::io::Write;
use std::num::NonZeroUsize;

use restow_analyze::Entry;
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

/// As many hard links as one may take to a file.
const MAX_LINKS: usize = 40;

/// Content is read in pieces of this size.
const STEP: u64 = 1 << 20;

/// The files of an image.
pub struct Files<'a> {
    provider: &'a dyn Provider,
    limits: &'a Limits,
    tree: Tree,
    layers: Vec<Layer<'a>>,
    /// What of the image is not looked into.
    pub warnings: Vec<Warning>,
}

/// A layer whose names are known.
enum Layer<'a> {
    /// By a table of contents that the descriptor vouches for.
    Seekable(Box<Reader<LayerBlob>>),
    /// By a tar that was read to its end and verified.
    Tar(&'a Descriptor, HashMap<Box<str>, Member>),
}

/// The last entry of a name in a tar.
struct Member {
    stat: Stat,
    /// Where it starts.
    offset: u64,
    /// Of a hard link, what had the name that it repeats at that point of the tar.
    repeats: Option<(Stat, u64)>,
}

/// Where the content of a file is.
struct Place {
    layer: usize,
    path: String,
    stat: Stat,
    /// Where the entry starts, if the layer is a tar.
    offset: Option<u64>,
}

/// What is known of a file besides its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    pub kind: Kind,
    pub size: u64,
    pub mode: i64,
    pub uid: i64,
    pub gid: i64,
    pub modified: Option<Timestamp>,
    /// The target of a symbolic link, or the name that a hard link repeats.
    pub target: String,
    pub device: (i64, i64),
}

/// A file and where it comes from.
pub struct File {
    pub path: String,
    /// The position of the layer that provides it; nothing for a directory that no layer has an entry for.
    pub layer: Option<usize>,
    /// What it is; of a hard link, what it leads to.
    pub stat: Option<Stat>,
    /// The name that a hard link repeats.
    pub hard_link: Option<String>,
}

impl<'a> Files<'a> {
    /// Learns the names in all layers, several at a time. Warns of those that are no layers to restow.
    pub fn read(
        provider: &'a dyn Provider,
        image: &'a Image,
        tables: &Tables<'_>,
        limits: &'a Limits,
        threads: NonZeroUsize,
    ) -> Result<Self> {
        let manifest = &image.descriptor.digest;
        let places: Vec<_> = image.manifest.layers().iter().enumerate().collect();
        let read = parallel::map(&places, threads, |(position, layer)| {
            Layer::read(provider, manifest, layer, tables, limits)
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

    /// Follows a path through symbolic links to what is there.
    pub fn find(&self, path: &str) -> Result<File> {
        let cleaned = path::clean(path);
        match self.tree.follow(&cleaned).and_then(|mut touched| touched.pop()) {
            Some((layer, path)) => self.file(Some(layer), path),
            // A directory may be known by what is in it only; the root needs no entry at all.
            None if self.is_directory(&cleaned) => self.file(None, cleaned),
            None => Err(Error::NoSuchFile { path: path.to_owned() }),
        }
    }

    /// Lists what is in a directory, or everything below it, in the order of the names.
    pub fn list(&self, directory: &str, recursive: bool) -> Result<Vec<File>> {
        let mut found = BTreeMap::new();
        let implied = self.tree.implied();
        let implied = implied.into_iter().filter(|path| is_below(path, directory)).map(|path| (None, path));
        for (layer, path) in self.below(directory).map(|(layer, path)| (Some(layer), path)).chain(implied) {
            let start = if directory.is_empty() { 0 } else { directory.len() + 1 };
            for (slash, _) in path[start..].match_indices('/') {
                found.entry(&path[..start + slash]).or_insert(None);
                if !recursive {
                    break;
                }
            }
            if recursive || !path[start..].contains('/') {
                found.insert(path, layer);
            }
        }
        found.into_iter().map(|(path, layer)| self.file(layer, path.to_owned())).collect()
    }

    fn below(&self, directory: &str) -> impl Iterator<Item = (usize, &str)> {
        self.tree.visible(move |path| is_below(path, directory))
    }

    /// Tells whether there is something in the directory, or was in a layer that is below a whiteout in it.
    fn is_directory(&self, path: &str) -> bool {
        let implied = || self.tree.implied().into_iter().any(|found| found == path || is_below(found, path));
        path.is_empty() || self.below(path).next().is_some() || implied()
    }

    fn file(&self, layer: Option<usize>, path: String) -> Result<File> {
        let Some(place) = layer else { return Ok(File { path, layer, stat: None, hard_link: None }) };
        let stat = self.layers[place].stat(&path);
        let hard_link =
            stat.as_ref().filter(|stat| stat.kind == Kind::Hardlink).map(|stat| stat.target.clone());
        let stat = match &hard_link {
            Some(_) => self.target(place, &path).map(|place| place.stat),
            None => stat,
        };
        Ok(File { path, layer, stat, hard_link })
    }

    /// Follows hard links to what they repeat, in the same layer if it is there.
    fn target(&self, mut layer: usize, path: &str) -> Option<Place> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            let (stat, offset) = self.layers[layer].content(&path)?;
            if stat.kind != Kind::Hardlink {
                return Some(Place { layer, path, stat, offset });
            }
            path = path::clean(&stat.target);
            if self.layers[layer].stat(&path).is_none() {
                layer = self.tree.resolve(&path)?;
            }
        }
        None
    }

    /// Writes the content of a regular file. Every byte has been verified before it is written.
    pub fn copy(&self, file: &File, output: &mut dyn Write) -> Result<()> {
        let place = file.layer.ok_or_else(|| Error::not_a_file(&file.path, "is a directory"))?;
        let place = self.target(place, &file.path);
        let place =
            place.ok_or_else(|| Error::not_a_file(&file.path, "is a hard link that leads nowhere"))?;
        let Place { layer, path, stat, offset } = place;
        match stat {
            Stat { kind: Kind::Regular, .. } => {}
            Stat { kind: Kind::Directory, .. } => return Err(Error::not_a_file(&path, "is a directory")),
            Stat { kind: Kind::Symlink, target, .. } => {
                let problem = format!("is a link to {}, which is not there", target.escape_debug());
                return Err(Error::not_a_file(&path, problem));
            }
            Stat { kind: Kind::Sparse, .. } => {
                return Err(Error::not_a_file(&path, "is a sparse file, whose map is not read"));
            }
            _ => return Err(Error::not_a_file(&path, "is not a regular file")),
        }
        match &self.layers[layer] {
            Layer::Seekable(reader) => {
                let node = reader.lookup(&path).ok_or(Error::Changed)?;
                for chunk in node.chunks() {
                    output.write_all(&reader.read_chunk(&chunk)?)?;
                }
                Ok(())
            }
            Layer::Tar(descriptor, _) => {
                self.copy_from_tar(descriptor, offset.ok_or(Error::Changed)?, output)
            }
        }
    }

    fn copy_from_tar(&self, layer: &Descriptor, offset: u64, output: &mut dyn Write) -> Result<()> {
        let blob = VerifiedReader::new(self.provider.open(layer)?, layer)?;
        let mut tar = TarReader::new(decompress(blob, self.limits)?, self.limits);
        let mut raw = Buffer::default();
        while let Some(header) = tar.next(&mut raw)? {
            raw.truncate(0);
            while tar.read_payload(&mut raw, STEP)? > 0 {
                if header.offset == offset {
                    output.write_all(raw.filled())?;
                }
                raw.truncate(0);
            }
            if header.offset == offset {
                return Ok(());
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
    ) -> Result<(Vec<Entry>, Self)> {
        let restow_oci::Kind::Layer { distributable, .. } = descriptor.media_type.kind() else {
            return Ok((Vec::new(), Layer::Tar(descriptor, HashMap::new())));
        };
        let blob = match LayerBlob::open(provider, descriptor) {
            Err(error) if !distributable && error.is_not_found() => {
                return Ok((Vec::new(), Layer::Tar(descriptor, HashMap::new())));
            }
            blob => blob,
        };
        // Whatever is wrong with a table, the tar says what is there.
        let blob = blob.and_then(|blob| blob.with_table(manifest, &descriptor.digest, tables));
        let hints = blob.as_ref().ok().map(|blob| blob.hints().clone());
        let vouched = hints.filter(|hints| hints.toc_digest.is_some() || hints.stored_toc_digest.is_some());
        if let (Ok(blob), Some(hints)) = (blob, vouched)
            && let Ok(reader) = Reader::open(blob, &hints, limits)
        {
            let entries = reader.toc().entries().map(|node| Stat::of_entry(&node).entry(&node.name));
            return Ok((entries.collect(), Layer::Seekable(Box::new(reader))));
        }
        let blob = VerifiedReader::new(provider.open(descriptor)?, descriptor)?;
        let mut tar = TarReader::new(decompress(blob, limits)?, limits);
        let mut raw = Buffer::default();
        let (mut entries, mut stats) = (Vec::new(), HashMap::new());
        while let Some(header) = tar.next(&mut raw)? {
            let (name, stat) = (header.display_name(), Stat::of_header(&header));
            entries.push(stat.entry(&name));
            let member = Member::new(stat, header.offset, &stats);
            stats.insert(path::clean(&name).into_boxed_str(), member);
            tar.skip_payload(&mut raw)?;
        }
        tar.finish(&mut raw)?;
        Ok((entries, Layer::Tar(descriptor, stats)))
    }

    fn stat(&self, path: &str) -> Option<Stat> {
        match self {
            Layer::Seekable(reader) => reader.lookup(path).map(|node| Stat::of_entry(&node)),
            Layer::Tar(_, members) => members.get(path).map(|member| member.stat.clone()),
        }
    }

    /// Returns what is read at the path, of a hard link in a tar what it repeats, and where in the tar it starts.
    fn content(&self, path: &str) -> Option<(Stat, Option<u64>)> {
        match self {
            Layer::Seekable(_) => self.stat(path).map(|stat| (stat, None)),
            Layer::Tar(_, members) => {
                let (stat, offset) = members.get(path)?.content();
                Some((stat, Some(offset)))
            }
        }
    }
}

impl Member {
    /// Makes one of the entry that stands behind those that are known.
    fn new(stat: Stat, offset: u64, known: &HashMap<Box<str>, Member>) -> Self {
        // A later entry of that name will be another file.
        let repeated = (stat.kind == Kind::Hardlink).then(|| known.get(path::clean(&stat.target).as_str()));
        let repeats = repeated.flatten().map(Member::content);
        Self { stat, offset, repeats }
    }

    fn content(&self) -> (Stat, u64) {
        self.repeats.clone().unwrap_or_else(|| (self.stat.clone(), self.offset))
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
            target: entry.link_name.clone(),
            device: (entry.device_major, entry.device_minor),
        }
    }

    fn of_header(header: &Header) -> Self {
        Self {
            kind: header.kind,
            size: header.size,
            mode: header.mode,
            uid: header.uid,
            gid: header.gid,
            modified: Timestamp::new(header.modified.seconds, header.modified.nanoseconds),
            target: String::from_utf8_lossy(&header.link_name).into_owned(),
            device: (header.device_major, header.device_minor),
        }
    }

    fn entry(&self, name: &str) -> Entry {
        let kind = match self.kind {
            Kind::Directory => restow_analyze::Kind::Directory,
            Kind::Symlink => restow_analyze::Kind::Symlink(self.target.as_str().into()),
            _ => restow_analyze::Kind::Other,
        };
        Entry::new(name, kind)
    }
}
