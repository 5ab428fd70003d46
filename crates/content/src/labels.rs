//! Labels of blobs, and the files they are kept in: `labels/<algorithm>/<encoded>`, a JSON object of strings.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use restow_oci::Limits;

use crate::Error;
use crate::Result;
use crate::error::failed;
use crate::file;
use crate::publish;
use crate::publish::Draft;

/// What users and tools note about a blob.
pub type Labels = BTreeMap<String, String>;

/// The most bytes of labels that are read for one blob.
const MAX_FILE_SIZE: u64 = 16 << 20;

/// Refuses labels that are too long.
pub(crate) fn check(labels: &Labels) -> Result<()> {
    // What containerd accepts, so there is nothing to choose.
    let limit = Limits::default().label_size;
    match labels.iter().find(|(key, value)| key.len() + value.len() > limit) {
        Some((key, value)) => {
            Err(Error::LabelTooLarge { key: key.clone(), size: key.len() + value.len(), limit })
        }
        None => Ok(()),
    }
}

/// Reads the labels in the file at `path`; none where there is no file.
pub(crate) fn load(path: &Path) -> Result<Labels> {
    match file::read(path, MAX_FILE_SIZE) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| Error::DamagedLabels { path: path.to_owned(), source: error.into() }),
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(Labels::new()),
        Err(error) => Err(error),
    }
}

/// Changes the labels in the file at `path`, durably; other writers wait. A blob without labels has no file.
pub(crate) fn change(path: &Path, change: impl FnOnce(Labels) -> Result<Labels>) -> Result<()> {
    publish::create_directory(path.parent().unwrap_or(Path::new(".")))?;
    let draft = Draft::lock(path)?;
    let old = load(path)?;
    let new = change(old.clone())?;
    if new == old {
        return Ok(());
    }
    if new.is_empty() {
        return remove(path);
    }
    let bytes = serde_json::to_vec(&new)
        .map_err(|error| Error::DamagedLabels { path: path.to_owned(), source: error.into() })?;
    draft.publish(&bytes)
}

/// Removes the file at `path`, if there is one.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}
