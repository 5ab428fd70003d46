//! What `docker save` writes, old and new, read where it lies.
//!
//! `manifest.json` lists images by the paths of their configs and layers. Newer archives are OCI layouts, too, in which
//! the image of an entry is found by its config, with its own manifest and digest. In others there is no manifest; one is
//! made of the list, of Docker's media types, and so has a digest of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use restow_content::Blob;
use restow_content::InMemory;
use restow_content::Provider;
use restow_content::file;
use restow_content::file::Section;
use restow_oci::Config;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Digester;
use restow_oci::Limits;
use restow_oci::Manifest;
use restow_oci::MediaType;
use serde::Deserialize;

use super::OciArchive;
use super::scan;
use super::scan::Kind;
use super::spool;
use crate::Error;
use crate::Result;
use crate::Selector;
use crate::access::STANDARD;
use crate::error::unusable;

/// The archive of `docker save`.
#[derive(Debug)]
pub struct DockerArchive {
    path: PathBuf,
    file: Arc<File>,
    images: Vec<Image>,
    /// Where each blob starts, and its size.
    places: BTreeMap<Digest, (u64, u64)>,
    documents: BTreeMap<Digest, Vec<u8>>,
    /// The layout that the archive is besides.
    layout: Option<OciArchive>,
}

#[derive(Debug)]
struct Image {
    names: Vec<String>,
    root: Descriptor,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

impl DockerArchive {
    /// Opens the archive at `path`.
    pub fn open(path: &Path, limits: &Limits) -> Result<DockerArchive> {
        if !path.exists() {
            return Err(Error::NoSuchPath { path: path.to_owned() });
        }
        let (file, size) = file::open(path)?;
        DockerArchive::read(path, file, size, limits)
    }

    /// Reads an archive from a stream, by way of an unnamed file in `scratch`.
    pub fn from_input(input: &mut dyn Read, scratch: &Path, limits: &Limits) -> Result<DockerArchive> {
        let (file, size) = spool(input, scratch)?;
        DockerArchive::read(Path::new(STANDARD), file, size, limits)
    }

    fn read(path: &Path, file: File, size: u64, limits: &Limits) -> Result<DockerArchive> {
        let file = Arc::new(file);
        let tar = Section::new(file.clone(), 0, size);
        let mut contents = Contents::scan(path, &tar, limits)?;
        let layout =
            match contents.files.contains_key("index.json") && contents.files.contains_key("oci-layout") {
                true => Some(OciArchive::scan(path, file.clone(), size, limits)?),
                false => None,
            };
        let entries = contents.list(limits)?;
        let mut archive = DockerArchive {
            path: path.to_owned(),
            file,
            images: Vec::new(),
            places: BTreeMap::new(),
            documents: BTreeMap::new(),
            layout,
        };
        for entry in entries {
            let image = archive.image(&mut contents, entry, limits)?;
            archive.images.push(image);
        }
        Ok(archive)
    }

    /// Returns the names of the images in the archive at `path`, which are not looked at.
    pub(crate) fn names(path: &Path, limits: &Limits) -> Result<Vec<String>> {
        let (file, size) = file::open(path)?;
        let tar = Section::new(Arc::new(file), 0, size);
        let entries = Contents::scan(path, &tar, limits)?.list(limits)?;
        Ok(entries.into_iter().flat_map(|entry| entry.repo_tags.unwrap_or_default()).collect())
    }

    /// Makes a manifest of an entry of the list.
    fn image(&mut self, contents: &mut Contents<'_>, entry: Entry, limits: &Limits) -> Result<Image> {
        let bytes = contents.document(&entry.config, limits.config_size)?;
        let what = format!("{} of {}", entry.config, self.path.display());
        let config = Config::parse(bytes.clone(), limits).map_err(unusable(what))?;
        let paths = entry.layers.unwrap_or_default();
        let diff_ids = config.diff_ids();
        if paths.len() != diff_ids.len() {
            let problem = format!("{} layers where the config names {}", paths.len(), diff_ids.len());
            return Err(unusable(format!("manifest.json of {}", self.path.display()))(problem));
        }
        let mut layers = Vec::new();
        for (path, diff_id) in paths.iter().zip(diff_ids) {
            let (data, size) = contents.find(path)?;
            let start = scan::bytes(contents.path, contents.tar, data, size.min(4))?;
            let media_type = match start.as_slice() {
                [0x1f, 0x8b, ..] => MediaType::DOCKER_LAYER_GZIP,
                [0x28, 0xb5, 0x2f, 0xfd] => MediaType::DOCKER_LAYER_ZSTD,
                _ => MediaType::DOCKER_LAYER,
            };
            // A plain tar has its DiffID for its digest, which whoever reads it verifies.
            let digest = match media_type == MediaType::DOCKER_LAYER {
                true => diff_id.clone(),
                false => contents.digest(data, size)?,
            };
            self.places.insert(digest.clone(), (data, size));
            layers.push(Descriptor::new(media_type, digest, size));
        }
        let size = bytes.len() as u64;
        let config = Descriptor::new(MediaType::DOCKER_CONFIG, Digest::sha256(&bytes), size);
        let names = entry.repo_tags.unwrap_or_default();
        if let Some(layout) = &self.layout
            && let Some(root) = layout.holder(&config.digest)
        {
            return Ok(Image { names, root });
        }
        self.documents.insert(config.digest.clone(), bytes);
        let mut manifest = Manifest::new(config, layers);
        manifest.set_media_type(&MediaType::DOCKER_MANIFEST);
        let bytes = manifest.into_bytes();
        let digest = Digest::sha256(&bytes);
        let root = Descriptor::new(MediaType::DOCKER_MANIFEST, digest.clone(), bytes.len() as u64);
        self.documents.insert(digest, bytes);
        Ok(Image { names, root })
    }

    /// Returns the image that `selector` means.
    pub fn resolve(&self, selector: &Selector) -> Result<Descriptor> {
        let place = || self.path.clone();
        let names = || -> Vec<String> {
            let named = |image: &Image| match image.names.first() {
                Some(name) => name.clone(),
                None => format!("@{}", image.root.digest),
            };
            self.images.iter().map(named).collect()
        };
        match selector {
            Selector::Only => match self.images.as_slice() {
                [] => Err(Error::Empty { place: place() }),
                [image] => Ok(image.root.clone()),
                _ => Err(Error::Ambiguous { place: place(), tags: names() }),
            },
            Selector::Tag(tag) => {
                // A whole name, one of Docker's short forms, or just the tag.
                let matches: [fn(&str, &str) -> bool; 3] = [
                    |name, tag| name == tag,
                    |name, tag| match (crate::Name::parse(name), crate::Name::parse(tag)) {
                        (Ok(name), Ok(wanted)) => {
                            name.repository == wanted.repository
                                && name.tag_or_latest() == wanted.tag_or_latest()
                        }
                        _ => false,
                    },
                    |name, tag| name.rsplit_once(':').is_some_and(|(_, last)| last == tag),
                ];
                for matches in matches {
                    let mut found =
                        self.images.iter().filter(|image| image.names.iter().any(|name| matches(name, tag)));
                    match (found.next(), found.next()) {
                        (None, _) => {}
                        (Some(image), None) => return Ok(image.root.clone()),
                        (Some(one), Some(other)) => {
                            let digests = vec![one.root.digest.clone(), other.root.digest.clone()];
                            return Err(Error::DuplicateTag { place: place(), tag: tag.clone(), digests });
                        }
                    }
                }
                Err(Error::UnknownTag { place: place(), tag: tag.clone(), tags: names() })
            }
            Selector::Digest(digest) => {
                let found = self.images.iter().find(|image| image.root.digest == *digest);
                let unknown = || Error::UnknownDigest { place: place(), digest: digest.clone() };
                found.map(|image| image.root.clone()).ok_or_else(unknown)
            }
        }
    }
}

impl Provider for DockerArchive {
    fn open(&self, descriptor: &Descriptor) -> restow_content::Result<Box<dyn Blob>> {
        use restow_content::Error;
        let digest = || descriptor.digest.clone();
        let blob: Box<dyn Blob> = if let Some(bytes) = self.documents.get(&descriptor.digest) {
            Box::new(InMemory(bytes.clone()))
        } else if let Some(&(data, size)) = self.places.get(&descriptor.digest) {
            Box::new(Section::new(self.file.clone(), data, size))
        } else {
            let layout = self.layout.as_ref().ok_or_else(|| Error::NotFound { digest: digest() })?;
            return layout.open(descriptor);
        };
        let (expected, actual) = (descriptor.size, blob.size());
        match actual == expected {
            true => Ok(blob),
            false => Err(Error::WrongSize { digest: digest(), expected, actual }),
        }
    }
}

/// The files of the archive by name.
struct Contents<'a> {
    path: &'a Path,
    tar: &'a dyn Blob,
    files: BTreeMap<String, (u64, u64)>,
    links: BTreeMap<String, String>,
}

impl<'a> Contents<'a> {
    /// Looks at the header of each entry.
    fn scan(path: &'a Path, tar: &'a dyn Blob, limits: &Limits) -> Result<Self> {
        let mut contents = Contents { path, tar, files: BTreeMap::new(), links: BTreeMap::new() };
        scan::entries(path, tar, limits, &mut |entry| {
            match entry.kind {
                Kind::File => drop(contents.files.insert(entry.name, (entry.data, entry.size))),
                // Old versions keep a layer once and link to it.
                Kind::Link => drop(contents.links.insert(entry.name, entry.link)),
                Kind::Directory | Kind::Special => {}
            }
            Ok(())
        })?;
        Ok(contents)
    }

    /// Reads the list of images.
    fn list(&mut self, limits: &Limits) -> Result<Vec<Entry>> {
        let list = self.document("manifest.json", limits.manifest_size)?;
        serde_json::from_slice(&list).map_err(unusable(format!("manifest.json of {}", self.path.display())))
    }

    /// Returns where a file's content lies, behind links within the archive.
    fn find(&self, name: &str) -> Result<(u64, u64)> {
        const LINKS: usize = 8;
        let mut at = name.trim_start_matches("./").to_owned();
        for _ in 0..LINKS {
            if let Some(&place) = self.files.get(&at) {
                return Ok(place);
            }
            let Some(target) = self.links.get(&at) else { break };
            let directory = at.rsplit_once('/').map_or("", |(directory, _)| directory);
            at = joined(directory, target);
        }
        let problem = format!("{name} is not there");
        Err(unusable(format!("manifest.json of {}", self.path.display()))(problem))
    }

    fn document(&mut self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let (data, size) = self.find(name).map_err(|error| match name {
            "manifest.json" => unusable(self.path.display().to_string())("it has no manifest.json"),
            _ => error,
        })?;
        if size > limit {
            let what = format!("{name} of {}", self.path.display());
            return Err(restow_content::Error::TooLarge { what, size, limit }.into());
        }
        scan::bytes(self.path, self.tar, data, size)
    }

    fn digest(&self, data: u64, size: u64) -> Result<Digest> {
        let mut digester = Digester::sha256();
        let mut offset = 0;
        while offset < size {
            let piece = scan::bytes(self.path, self.tar, data + offset, (size - offset).min(1 << 20))?;
            digester.update(&piece);
            offset += piece.len() as u64;
        }
        Ok(digester.finish())
    }
}

/// Joins a link's target to the directory of the link.
fn joined(directory: &str, target: &str) -> String {
    let mut parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests;
