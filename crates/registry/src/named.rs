//! The names that images bring along to a place that holds images of everybody, such as a store.

use std::path::Path;

use restow_oci::Descriptor;
use restow_oci::annotations::REF_NAME;

use crate::Access;
use crate::ArchiveForm;
use crate::Layout;
use crate::Name;
use crate::Place;
use crate::Reading;
use crate::Reference;
use crate::Result;
use crate::Selector;
use crate::Source;
use crate::access::Archive;
use crate::access::STANDARD;
use crate::catalogue::Catalogue;
use crate::catalogue::full_name;
use crate::reference::is_tag as is_name;

/// An image and the names that it brings along.
#[expect(missing_debug_implementations, reason = "a provider has none")]
pub struct Named {
    /// The image.
    pub source: Source,
    /// Its names, in full; none if it has none that a store could use.
    pub names: Vec<String>,
}

impl Access {
    /// Opens the image that `reference` means, or all images of a place on disk if it means none of them in particular,
    /// to be read once.
    ///
    /// A name that says no more than a tag, which an image elsewhere may have as well, follows the name of the directory
    /// or the archive: `debian:12`. An only image without a name has that of the place. Docker's short names are written out.
    pub fn open_named(&self, reference: &Reference) -> Result<Vec<Named>> {
        let of_all = reference.selector == Selector::Only;
        match &reference.place {
            Place::Registry(repository) => {
                let name = match &reference.selector {
                    Selector::Only => Some(format!("{repository}:latest")),
                    Selector::Tag(tag) => Some(format!("{repository}:{tag}")),
                    Selector::Digest(_) => None,
                };
                Ok(vec![Named { names: name.into_iter().collect(), ..self.alone(reference)? }])
            }
            Place::Store(_) => Ok(vec![self.alone(reference)?]),
            Place::Layout(path) if of_all => {
                self.of_catalogue(reference, path, &Layout::open(path, self.limits())?.catalogue()?)
            }
            Place::Layout(path) => Ok(vec![self.one(reference, path)?]),
            Place::Archive(path) => self.of_archive(reference, path, ArchiveForm::Oci),
            Place::DockerArchive(path) => self.of_archive(reference, path, ArchiveForm::Docker),
        }
    }

    fn of_archive(&self, reference: &Reference, path: &Path, form: ArchiveForm) -> Result<Vec<Named>> {
        let archive = match self.open_archive(path, form)? {
            Archive::Oci(archive) if reference.selector == Selector::Only => {
                return self.of_catalogue(reference, path, archive.catalogue());
            }
            Archive::Oci(_) => return Ok(vec![self.one(reference, path)?]),
            Archive::Docker(archive) => archive,
        };
        let images = archive.named(&reference.selector)?;
        let alone = images.len() == 1;
        let named = images.into_iter().map(|(root, names)| Named {
            names: named_by_docker(&names, alone, path),
            source: Archive::Docker(archive.clone()).source(root, reference),
        });
        Ok(named.collect())
    }

    fn alone(&self, reference: &Reference) -> Result<Named> {
        Ok(Named { source: self.open_source(reference, Reading::Once)?, names: Vec::new() })
    }

    /// Opens one image of a layout.
    fn one(&self, reference: &Reference, path: &Path) -> Result<Named> {
        let Named { source, .. } = self.alone(reference)?;
        let names = name_of(&source.root, path).into_iter().collect();
        Ok(Named { source, names })
    }

    /// Opens all images of a layout.
    fn of_catalogue(&self, reference: &Reference, path: &Path, catalogue: &Catalogue) -> Result<Vec<Named>> {
        let names = catalogue.full_names();
        let selected = |selector| Reference { place: reference.place.clone(), selector };
        if names.is_empty() {
            let Named { source, .. } = self.alone(reference)?;
            let names = called(path).into_iter().collect();
            return Ok(vec![Named { source, names }]);
        }
        let named = names.into_iter().map(|name| self.one(&selected(Selector::Tag(name)), path));
        let unnamed = catalogue.unnamed().into_iter();
        let unnamed = unnamed.map(|entry| self.alone(&selected(Selector::Digest(entry.digest))));
        named.chain(unnamed).collect()
    }
}

/// Returns the name of an entry of a layout at `path`, in full.
fn name_of(entry: &Descriptor, path: &Path) -> Option<String> {
    let name = full_name(entry)?;
    let is_tag = entry.annotations.get(REF_NAME).is_some_and(|tag| tag == name) && !name.contains(['/', ':']);
    let full = if is_tag { format!("{}:{name}", called(path)?) } else { name.to_owned() };
    Some(full).filter(|name| is_name(name))
}

/// Returns the names of an image in Docker's list, in full.
fn named_by_docker(names: &[String], alone: bool, path: &Path) -> Vec<String> {
    let full = |name: &String| Name::parse(name).map_or_else(|_| name.clone(), |full| full.to_string());
    match names {
        [] if alone => called(path).into_iter().collect(),
        names => names.iter().map(full).filter(|name| is_name(name)).collect(),
    }
}

/// Returns what a directory or an archive is called, without the ending.
fn called(path: &Path) -> Option<String> {
    if path == Path::new(STANDARD) {
        return None;
    }
    // Of `.` and the like, the path does not say it.
    let path = path.canonicalize().ok()?;
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(".tar").filter(|_| !path.is_dir()).unwrap_or(name);
    Some(stem.to_owned()).filter(|name| is_name(name))
}

#[cfg(test)]
mod tests;
