//! An OCI layout in a directory.
//!
//! <https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md>

use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use restow_content::LocalStore;
use restow_content::file;
use restow_content::publish;
use restow_content::publish::Draft;
use restow_oci::Descriptor;
use restow_oci::Index;
use restow_oci::Limits;

use crate::Error;
use crate::Result;
use crate::Selector;
use crate::catalogue::Catalogue;
use crate::error::not_a_layout;
use crate::error::unusable;

/// An OCI layout in a directory. Several programs may publish to it at a time.
#[derive(Clone, Debug)]
pub struct Layout {
    pub(crate) path: PathBuf,
    pub(crate) store: LocalStore,
    pub(crate) limits: Limits,
    created: bool,
    /// The marker, with a lock on it that all who write here share: while it is held by others nobody takes the layout away.
    writing: Option<Arc<File>>,
}

const MARKER: &str = "oci-layout";
const INDEX: &str = "index.json";
const VERSION: &str = "1.0.0";

impl Layout {
    /// Opens the layout at `path`. Nothing is written.
    pub fn open(path: &Path, limits: &Limits) -> Result<Layout> {
        if !is_directory(path)? {
            return Err(Error::NoSuchPath { path: path.to_owned() });
        }
        let marker =
            read(path, MARKER, limits)?.ok_or_else(|| not_a_layout(path, format!("it has no {MARKER}")))?;
        check_marker(path, &marker)?;
        let store = LocalStore::open(path)?;
        let layout =
            Layout { path: path.to_owned(), store, limits: limits.clone(), created: false, writing: None };
        layout.catalogue()?;
        Ok(layout)
    }

    /// Opens the layout at `path`, and makes an empty one where there is nothing or an empty directory.
    pub fn create(path: &Path, limits: &Limits) -> Result<Layout> {
        let created = !is_directory(path)?;
        let mut writing = None;
        while writing.is_none() {
            // What cannot be made at all is an error here; what another program takes away is made anew.
            publish::create_directory(path)?;
            writing = share_marker(path, limits)?.map(Arc::new);
        }
        let index = path.join(INDEX);
        if read(path, INDEX, limits)?.is_none() {
            let draft = Draft::lock(&index)?;
            // Another program may just have published an image.
            if read(path, INDEX, limits)?.is_none() {
                draft.publish(&Index::new(Vec::new()).into_bytes())?;
            }
        }
        Ok(Layout { created, writing, ..Layout::open(path, limits)? })
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the blobs of the layout. What is written there belongs to no image until one is published.
    pub fn store(&self) -> &LocalStore {
        &self.store
    }

    /// Returns the names of the images, in the order of the index.
    pub fn tags(&self) -> Result<Vec<String>> {
        Ok(self.catalogue()?.tags())
    }

    /// Returns the image that `selector` means: its manifest or index.
    pub fn resolve(&self, selector: &Selector) -> Result<Descriptor> {
        self.catalogue()?.resolve(selector, &self.store, &self.limits)
    }

    /// Removes the layout, if [`create`](Layout::create) made it together with its directory, nothing has been
    /// published since and nobody else writes to it: the end of a run that failed. Otherwise everything stays.
    pub fn discard(self) -> Result<()> {
        // The lock that was shared is now to be had alone. Others who want it wait, and then find that the marker is gone.
        let alone = self.writing.as_ref().is_some_and(|marker| marker.try_lock().is_ok());
        if !self.created || !alone {
            return Ok(());
        }
        let draft = Draft::lock(&self.path.join(INDEX))?;
        if !self.catalogue()?.is_empty() {
            return Ok(());
        }
        let remove = |name: &str| {
            let path = self.path.join(name);
            let result =
                if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            match result {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(Error::from(restow_content::Error::Io { action: "remove", path, source: error }))
                }
                _ => Ok(()),
            }
        };
        ["blobs", "ingest", "labels", INDEX].into_iter().try_for_each(remove)?;
        drop(draft);
        // Last: whoever finds no marker must find nothing else either.
        remove(MARKER)?;
        // Others may have put something there.
        let _ = std::fs::remove_dir(&self.path);
        Ok(())
    }

    /// Changes the index: reads it, applies `change` and replaces it at once. Other programs wait meanwhile.
    pub(crate) fn edit(&self, change: impl FnOnce(&mut Catalogue) -> Result<()>) -> Result<()> {
        let path = self.path.join(INDEX);
        let draft = Draft::lock(&path)?;
        let mut catalogue = self.catalogue()?;
        change(&mut catalogue)?;
        let Some(bytes) = catalogue.changed() else { return Ok(()) };
        // What could not be read again is not written.
        Catalogue::parse(&self.path, bytes.clone(), &self.limits)?;
        Ok(draft.publish(&bytes)?)
    }

    pub(crate) fn catalogue(&self) -> Result<Catalogue> {
        let bytes = read(&self.path, INDEX, &self.limits)?;
        let bytes = bytes.ok_or_else(|| not_a_layout(&self.path, format!("it has no {INDEX}")))?;
        Catalogue::parse(&self.path, bytes, &self.limits)
    }
}

/// Makes the marker where there is none, and shares the lock on it. `None` where another program has taken the layout away
/// meanwhile.
fn share_marker(path: &Path, limits: &Limits) -> Result<Option<File>> {
    let share = || -> Result<Option<File>> {
        if read(path, MARKER, limits)?.is_none() {
            refuse_other_files(path)?;
            let marker = serde_json::json!({ "imageLayoutVersion": VERSION });
            publish::write(&path.join(MARKER), marker.to_string().as_bytes())?;
        }
        Ok(publish::share(&path.join(MARKER))?)
    };
    match share() {
        Err(Error::Content(restow_content::Error::Io { source, .. }))
            if source.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        shared => shared,
    }
}

/// Returns whether there is a directory at `path`; anything else there is an error.
fn is_directory(path: &Path) -> Result<bool> {
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => Ok(true),
        Ok(_) => Err(not_a_layout(path, "it is no directory")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(not_a_layout(path, error.to_string())),
    }
}

/// Refuses an `oci-layout` file of another version than the only one there is.
pub(crate) fn check_marker(place: &Path, bytes: &[u8]) -> Result<()> {
    let marker: serde_json::Value =
        serde_json::from_slice(bytes).map_err(unusable(format!("{MARKER} of {}", place.display())))?;
    match marker.get("imageLayoutVersion") {
        Some(version) if version == VERSION => Ok(()),
        Some(version) => Err(not_a_layout(place, format!("its version is {version}, expected {VERSION:?}"))),
        None => Err(not_a_layout(place, format!("its {MARKER} names no version"))),
    }
}

/// Reads a document of the layout at `path`, if it is there.
fn read(path: &Path, name: &str, limits: &Limits) -> Result<Option<Vec<u8>>> {
    match file::read(&path.join(name), limits.manifest_size) {
        Err(restow_content::Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        result => Ok(result.map(Some)?),
    }
}

/// Refuses a directory in which a new layout would mix with something else.
fn refuse_other_files(path: &Path) -> Result<()> {
    let failed =
        |source| restow_content::Error::Io { action: "read directory", path: path.to_owned(), source };
    let ours = publish::draft_path(&path.join(MARKER));
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // Another program that makes this very layout is as good as this one.
        if entry.path() != ours && !path.join(MARKER).exists() {
            let found = entry.file_name().to_string_lossy().into_owned();
            return Err(Error::NotEmpty { path: path.to_owned(), found });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
