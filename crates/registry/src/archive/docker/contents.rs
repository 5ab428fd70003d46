//! The files of an archive of Docker, and the list that says which of them make up which image.

use std::collections::BTreeMap;
use std::path::Path;

use restow_content::Blob;
use restow_oci::Digest;
use restow_oci::Digester;
use restow_oci::Limits;
use serde::Deserialize;

use crate::Error;
use crate::Result;
use crate::archive::scan;
use crate::archive::scan::Kind;
use crate::error::unusable;

/// The list of images.
const LIST: &str = "manifest.json";

/// An image of the list. Old versions of Jib begin the keys with small letters, which Go's readers take as well.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Entry {
    #[serde(alias = "config")]
    pub(super) config: String,
    #[serde(alias = "repoTags")]
    pub(super) repo_tags: Option<Vec<String>>,
    #[serde(alias = "layers")]
    layers: Option<Vec<String>>,
}

impl Entry {
    pub(super) fn layers(&self) -> &[String] {
        self.layers.as_deref().unwrap_or_default()
    }
}

/// Where the content of a file lies in the archive.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Place {
    pub(super) start: u64,
    pub(super) size: u64,
}

/// The files of the archive by name.
pub(super) struct Contents<'a> {
    pub(super) path: &'a Path,
    tar: &'a dyn Blob,
    files: BTreeMap<String, Place>,
    links: BTreeMap<String, String>,
}

impl<'a> Contents<'a> {
    /// Looks at the header of each entry.
    pub(super) fn scan(path: &'a Path, tar: &'a dyn Blob, limits: &Limits) -> Result<Self> {
        let mut contents = Contents { path, tar, files: BTreeMap::new(), links: BTreeMap::new() };
        scan::entries(path, tar, limits, &mut |entry| {
            match entry.kind {
                Kind::File => {
                    contents.files.insert(entry.name, Place { start: entry.data, size: entry.size });
                }
                // Old versions keep a layer once and link to it.
                Kind::Link => drop(contents.links.insert(entry.name, entry.link)),
                Kind::Directory | Kind::Special => {}
            }
            Ok(())
        })?;
        Ok(contents)
    }

    /// Reads the list of images.
    pub(super) fn list(&self, limits: &Limits) -> Result<Vec<Entry>> {
        let list = self.document(LIST, limits.manifest_size)?;
        let what = format!("manifest.json of {}", self.path.display());
        let entries: Vec<Entry> = serde_json::from_slice(&list).map_err(unusable(&what))?;
        // Each mention costs memory, however few files there are.
        let parts = entries.iter().map(|entry| 1 + entry.layers().len()).sum::<usize>();
        if parts > limits.nodes {
            return Err(Error::TooMany { what, limit: limits.nodes });
        }
        Ok(entries)
    }

    /// Returns whether there is a file of that name, which is no link.
    pub(super) fn holds(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// Returns where a file's content lies, behind links within the archive.
    pub(super) fn find(&self, name: &str) -> Result<Place> {
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

    /// Reads a file.
    pub(super) fn document(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let place = self.find(name).map_err(|error| match name {
            LIST => unusable(self.path.display().to_string())("it has no manifest.json"),
            _ => error,
        })?;
        if place.size > limit {
            let what = format!("{name} of {}", self.path.display());
            return Err(restow_content::Error::TooLarge { what, size: place.size, limit }.into());
        }
        scan::bytes(self.path, self.tar, place.start, place.size)
    }

    /// Reads the first bytes of a file, up to `count`.
    pub(super) fn start(&self, place: Place, count: u64) -> Result<Vec<u8>> {
        scan::bytes(self.path, self.tar, place.start, place.size.min(count))
    }

    /// Reads a file for its digest.
    pub(super) fn digest(&self, place: Place) -> Result<Digest> {
        let mut digester = Digester::sha256();
        let mut offset = 0;
        while offset < place.size {
            let count = (place.size - offset).min(1 << 20);
            digester.update(&scan::bytes(self.path, self.tar, place.start + offset, count)?);
            offset += count;
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
