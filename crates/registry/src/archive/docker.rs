//! What `docker save` writes, old and new, read where it lies.
//!
//! `manifest.json` lists images by the paths of their configs and layers. Newer archives are OCI layouts, too, in which
//! the image of an entry is found by its config, with its own manifest and digest. In others there is no manifest; an OCI
//! one is made of the list, and so has a digest of its own.

mod contents;
mod found;

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
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Limits;

use self::contents::Contents;
use self::contents::Place;
use self::found::Found;
use super::OciArchive;
use super::spool;
use crate::Error;
use crate::Result;
use crate::Selector;
use crate::access::STANDARD;

/// The archive of `docker save`.
#[derive(Debug)]
pub struct DockerArchive {
    path: PathBuf,
    file: Arc<File>,
    images: Vec<Image>,
    places: BTreeMap<Digest, Place>,
    documents: BTreeMap<Digest, Vec<u8>>,
    /// The layout that the archive is besides.
    layout: Option<OciArchive>,
}

#[derive(Debug)]
struct Image {
    names: Vec<String>,
    root: Descriptor,
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
        let contents = Contents::scan(path, &tar, limits)?;
        let is_layout = ["index.json", "oci-layout"].iter().all(|name| contents.holds(name));
        let layout = match is_layout.then(|| OciArchive::scan(path, file.clone(), size, limits)) {
            // Its index names no image.
            None | Some(Err(Error::DockerArchive { .. })) => None,
            Some(layout) => Some(layout?),
        };
        let entries = contents.list(limits)?;
        let held = layout.as_ref().map(OciArchive::holders).unwrap_or_default();
        let mut found = Found::new(&contents, held, limits);
        let images = entries.into_iter().map(|entry| found.image(entry)).collect::<Result<_>>()?;
        let Found { places, documents, .. } = found;
        Ok(DockerArchive { path: path.to_owned(), file, images, places, documents, layout })
    }

    /// Returns the names of the images in the archive at `path`, which are not looked at.
    pub(crate) fn names(path: &Path, limits: &Limits) -> Result<Vec<String>> {
        let (file, size) = file::open(path)?;
        let tar = Section::new(Arc::new(file), 0, size);
        let entries = Contents::scan(path, &tar, limits)?.list(limits)?;
        Ok(entries.into_iter().flat_map(|entry| entry.repo_tags.unwrap_or_default()).collect())
    }

    /// Returns the image that `selector` means.
    pub fn resolve(&self, selector: &Selector) -> Result<Descriptor> {
        Ok(self.find(selector)?.0.root.clone())
    }

    /// Returns the images that `selector` means, all of them if it means none in particular, and the names that they have
    /// by it.
    pub(crate) fn named(&self, selector: &Selector) -> Result<Vec<(Descriptor, Vec<String>)>> {
        let all = |image: &Image| (image.root.clone(), image.names.clone());
        if *selector == Selector::Only && !self.images.is_empty() {
            return Ok(self.images.iter().map(all).collect());
        }
        let (image, name) = self.find(selector)?;
        let names = name.map_or_else(|| image.names.clone(), |name| vec![name.to_owned()]);
        Ok(vec![(image.root.clone(), names)])
    }

    /// Finds an image, and which of its names it was found by.
    fn find(&self, selector: &Selector) -> Result<(&Image, Option<&str>)> {
        let place = || self.path.clone();
        match selector {
            Selector::Only => match self.images.as_slice() {
                [] => Err(Error::Empty { place: place() }),
                [image] => Ok((image, None)),
                _ => Err(Error::Ambiguous { place: place(), tags: self.tags() }),
            },
            Selector::Tag(tag) => self.tagged(tag),
            Selector::Digest(digest) => {
                let found = self.images.iter().find(|image| image.root.digest == *digest);
                let unknown = || Error::UnknownDigest { place: place(), digest: digest.clone() };
                found.map(|image| (image, None)).ok_or_else(unknown)
            }
        }
    }

    fn tagged(&self, tag: &str) -> Result<(&Image, Option<&str>)> {
        // A whole name, one of Docker's short forms, or just the tag.
        let matches: [fn(&str, &str) -> bool; 3] = [
            |name, tag| name == tag,
            |name, tag| match (crate::Name::parse(name), crate::Name::parse(tag)) {
                (Ok(name), Ok(wanted)) => {
                    name.repository == wanted.repository && name.tag_or_latest() == wanted.tag_or_latest()
                }
                _ => false,
            },
            |name, tag| name.rsplit_once(':').is_some_and(|(_, last)| last == tag),
        ];
        for matches in matches {
            let mut found = self.images.iter().filter_map(|image| {
                let name = image.names.iter().find(|name| matches(name, tag))?;
                Some((image, Some(name.as_str())))
            });
            match (found.next(), found.next()) {
                (None, _) => {}
                (Some(found), None) => return Ok(found),
                (Some((one, _)), Some((other, _))) => {
                    let digests = vec![one.root.digest.clone(), other.root.digest.clone()];
                    return Err(Error::DuplicateTag {
                        place: self.path.clone(),
                        tag: tag.to_owned(),
                        digests,
                    });
                }
            }
        }
        Err(Error::UnknownTag { place: self.path.clone(), tag: tag.to_owned(), tags: self.tags() })
    }

    /// Returns a name of each image, or its digest where it has none.
    fn tags(&self) -> Vec<String> {
        let named = |image: &Image| match image.names.first() {
            Some(name) => name.clone(),
            None => format!("@{}", image.root.digest),
        };
        self.images.iter().map(named).collect()
    }
}

impl Provider for DockerArchive {
    fn open(&self, descriptor: &Descriptor) -> restow_content::Result<Box<dyn Blob>> {
        use restow_content::Error;
        let digest = || descriptor.digest.clone();
        let blob: Box<dyn Blob> = if let Some(bytes) = self.documents.get(&descriptor.digest) {
            Box::new(InMemory(bytes.clone()))
        } else if let Some(&Place { start, size }) = self.places.get(&descriptor.digest) {
            Box::new(Section::new(self.file.clone(), start, size))
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

#[cfg(test)]
mod tests;
