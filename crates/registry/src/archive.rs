//! Archives, read where they lie: an OCI layout in an uncompressed tar, and what Docker saves.

mod docker;
mod scan;
mod write;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use restow_content::Blob;
use restow_content::Provider;
use restow_content::file;
use restow_content::file::Section;
use restow_content::read;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Index;
use restow_oci::Limits;
use restow_oci::Manifest;

pub use self::docker::DockerArchive;
use self::scan::Kind;
pub use self::write::ArchiveDestination;
pub use self::write::ArchiveForm;
use crate::Error;
use crate::Result;
use crate::Selector;
use crate::access::STANDARD;
use crate::catalogue::Catalogue;
use crate::error::not_a_layout;
use crate::layout::check_marker;

/// The image of an index that leads to a manifest, by the config of that and the number of its layers.
type Held = BTreeMap<(Digest, usize), Descriptor>;

/// An OCI layout in an uncompressed tar. Nothing is unpacked: blobs are read at their place in the file.
#[derive(Clone, Debug)]
pub struct OciArchive {
    file: Arc<File>,
    /// Where each blob starts, and its size.
    places: BTreeMap<Digest, (u64, u64)>,
    catalogue: Catalogue,
    limits: Limits,
}

impl OciArchive {
    /// Opens the archive at `path` and looks at the header of each of its entries.
    pub fn open(path: &Path, limits: &Limits) -> Result<OciArchive> {
        if !path.exists() {
            return Err(Error::NoSuchPath { path: path.to_owned() });
        }
        let (file, size) = file::open(path)?;
        OciArchive::read(path, file, size, limits)
    }

    /// Reads an archive from a stream, by way of an unnamed file in `scratch`.
    pub fn from_input(input: &mut dyn Read, scratch: &Path, limits: &Limits) -> Result<OciArchive> {
        let (file, size) = spool(input, scratch)?;
        OciArchive::read(Path::new(STANDARD), file, size, limits)
    }

    fn read(path: &Path, file: File, size: u64, limits: &Limits) -> Result<OciArchive> {
        OciArchive::scan(path, Arc::new(file), size, limits)
    }

    fn scan(path: &Path, file: Arc<File>, size: u64, limits: &Limits) -> Result<OciArchive> {
        let tar = Section::new(file.clone(), 0, size);
        let mut places = BTreeMap::new();
        let mut documents = BTreeMap::new();
        let mut of_docker = false;
        scan::entries(path, &tar, limits, &mut |entry| {
            of_docker |= entry.name == "manifest.json";
            let first = match Content::of(&entry.name) {
                None => return Ok(()),
                _ if entry.kind != Kind::File => {
                    let problem = format!("{} is a {}, not a regular file", entry.name, entry.kind);
                    return Err(entry.error(path, problem));
                }
                Some(Content::Document) => {
                    documents.insert(entry.name.clone(), (entry.data, entry.size)).is_none()
                }
                Some(Content::Blob(digest)) => places.insert(digest, (entry.data, entry.size)).is_none(),
            };
            // Readers disagree on which of the two counts.
            if first { Ok(()) } else { Err(entry.error(path, format!("a second {}", entry.name))) }
        })?;
        let document = |name: &str| -> Result<Vec<u8>> {
            let Some(&(data, size)) = documents.get(name) else {
                return Err(match of_docker {
                    true => Error::DockerArchive { path: path.to_owned() },
                    false => not_a_layout(path, format!("it has no {name}")),
                });
            };
            let limit = limits.manifest_size;
            if size > limit {
                let what = format!("{name} of {}", path.display());
                return Err(restow_content::Error::TooLarge { what, size, limit }.into());
            }
            scan::bytes(path, &tar, data, size)
        };
        check_marker(path, &document("oci-layout")?)?;
        let catalogue = Catalogue::parse(path, document("index.json")?, limits)?;
        if catalogue.is_empty() && of_docker {
            // What it holds, Docker's list says alone.
            return Err(Error::DockerArchive { path: path.to_owned() });
        }
        Ok(OciArchive { file, places, catalogue, limits: limits.clone() })
    }

    /// Returns the names of the images, in the order of the index.
    pub fn tags(&self) -> Vec<String> {
        self.catalogue.tags()
    }

    /// Returns the images of the index by the configs of the manifests that they are or lead to, the first where there
    /// are several. What cannot be read leads nowhere.
    fn holders(&self) -> Held {
        let (mut held, mut seen) = (Held::new(), BTreeSet::new());
        for root in self.catalogue.entries() {
            let mut level = vec![root.clone()];
            for _ in 0..=self.limits.index_depth {
                level.retain(|document| {
                    seen.len() < self.limits.nodes && seen.insert(document.digest.clone())
                });
                let mut next = Vec::new();
                for document in &level {
                    if let Some(manifest) = self.manifest(document) {
                        let key = (manifest.config().digest.clone(), manifest.layers().len());
                        held.entry(key).or_insert_with(|| root.clone());
                    }
                    next.extend(self.index(document).iter().flat_map(Index::manifests).cloned());
                }
                level = next;
            }
        }
        held
    }

    fn manifest(&self, document: &Descriptor) -> Option<Manifest> {
        let of_kind = document.media_type.kind() == restow_oci::Kind::Manifest;
        let bytes = of_kind.then(|| read(self, document, self.limits.manifest_size))?.ok()?;
        Manifest::parse_as(bytes, &document.media_type, &self.limits).ok()
    }

    fn index(&self, document: &Descriptor) -> Option<Index> {
        let of_kind = document.media_type.kind() == restow_oci::Kind::Index;
        let bytes = of_kind.then(|| read(self, document, self.limits.manifest_size))?.ok()?;
        Index::parse_as(bytes, &document.media_type, &self.limits).ok()
    }

    pub(crate) fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Returns the image that `selector` means: its manifest or index.
    pub fn resolve(&self, selector: &Selector) -> Result<Descriptor> {
        self.catalogue.resolve(selector, self, &self.limits)
    }
}

impl Provider for OciArchive {
    fn open(&self, descriptor: &Descriptor) -> restow_content::Result<Box<dyn Blob>> {
        use restow_content::Error;
        let digest = || descriptor.digest.clone();
        let Some(&(data, size)) = self.places.get(&descriptor.digest) else {
            return Err(Error::NotFound { digest: digest() });
        };
        if size != descriptor.size {
            return Err(Error::WrongSize { digest: digest(), expected: descriptor.size, actual: size });
        }
        Ok(Box::new(Section::new(self.file.clone(), data, size)))
    }
}

/// Copies a stream into an unnamed file, since an archive is read out of order.
fn spool(input: &mut dyn Read, scratch: &Path) -> Result<(File, u64)> {
    let failed = |source| restow_content::Error::Io {
        action: "copy the archive to a temporary file in",
        path: scratch.to_owned(),
        source,
    };
    let mut file = tempfile::tempfile_in(scratch).map_err(failed)?;
    let size = io::copy(input, &mut file).map_err(failed)?;
    Ok((file, size))
}

/// What an entry of that name holds.
enum Content {
    Document,
    Blob(Digest),
}

impl Content {
    fn of(name: &str) -> Option<Content> {
        match name {
            "oci-layout" | "index.json" => Some(Content::Document),
            name => {
                let (algorithm, encoded) = name.strip_prefix("blobs/")?.split_once('/')?;
                Digest::parse(&format!("{algorithm}:{encoded}")).ok().map(Content::Blob)
            }
        }
    }
}

#[cfg(test)]
mod tests;
