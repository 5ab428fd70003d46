//! Directories for files that nobody needs afterwards.
//!
//! A program that is killed removes nothing. So each directory is locked as long as it is in use, and whoever makes
//! the next one removes those that nobody holds. The lock also keeps systemd-tmpfiles from taking files away under a
//! program that runs for days.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use restow_content::LocalStore;
use tempfile::TempDir;

use crate::Result;

const PREFIX: &str = "restow-";
/// What lies in each directory from the moment it is locked: without it, one may be a user's own that has such a
/// name, or one that is not locked yet.
const MARKER: &str = ".restow-scratch";

/// Where such directories are made. Clones share what they made.
#[derive(Clone, Debug)]
pub struct Scratch {
    parent: PathBuf,
    made: Arc<Mutex<BTreeSet<PathBuf>>>,
}

/// A directory with a store in it, which goes when this is dropped.
#[derive(Debug)]
pub(crate) struct ScratchStore {
    pub(crate) store: LocalStore,
    directory: TempDir,
    made: Arc<Mutex<BTreeSet<PathBuf>>>,
    /// Dropped after the directory is gone.
    _lock: File,
}

impl Scratch {
    /// Makes directories in `parent`.
    pub fn new(parent: &Path) -> Scratch {
        Scratch { parent: parent.to_owned(), made: Arc::default() }
    }

    /// Returns where directories are made, and files without a name.
    pub(crate) fn path(&self) -> &Path {
        &self.parent
    }

    /// Removes the directories of this program that are still there, in use or not: for the moment before it ends
    /// without cleaning up.
    pub(crate) fn remove_all(&self) {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for path in made {
            // Others may be writing there; what they add meanwhile falls to the second try, or to the next program.
            let _ = std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_dir_all(&path));
        }
    }

    /// Makes a store in a directory of its own, after those of programs that were killed have been removed.
    pub(crate) fn store(&self) -> Result<ScratchStore> {
        let failed = |action: &'static str| {
            move |source| restow_content::Error::Io { action, path: self.parent.clone(), source }
        };
        let make = "create a temporary directory in";
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&self.parent);
        let directory = directory.map_err(failed(make))?;
        let made = self.made.clone();
        made.lock().unwrap_or_else(PoisonError::into_inner).insert(directory.path().to_owned());
        let lock = File::open(directory.path()).and_then(|file| file.lock().map(|()| file));
        let lock = lock.map_err(failed("lock a temporary directory in"))?;
        File::create(directory.path().join(MARKER)).map_err(failed(make))?;
        let owner = lock.metadata().map_err(failed(make))?.uid();
        // What cannot be removed is in nobody's way.
        let _ = self.sweep(owner);
        let store = LocalStore::open(directory.path())?;
        Ok(ScratchStore { store, directory, made, _lock: lock })
    }

    /// Removes the directories of `owner` that nobody holds.
    fn sweep(&self, owner: u32) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.parent)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default();
            if name.to_string_lossy().starts_with(PREFIX) && is_abandoned(&path, owner).unwrap_or(false) {
                let _ = std::fs::remove_dir_all(&path);
            }
        }
        Ok(())
    }
}

fn is_abandoned(path: &Path, owner: u32) -> io::Result<bool> {
    let metadata = path.symlink_metadata()?;
    if !metadata.is_dir() || metadata.uid() != owner || !path.join(MARKER).symlink_metadata()?.is_file() {
        return Ok(false);
    }
    Ok(File::open(path)?.try_lock().is_ok())
}

impl ScratchStore {
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for ScratchStore {
    fn drop(&mut self) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).remove(self.directory.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_directory_goes_with_its_store() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(parent.path());
        let store = scratch.store().unwrap();
        assert_eq!(names(parent.path()), [store.path().file_name().unwrap().to_str().unwrap()]);
        drop(store);
        assert!(names(parent.path()).is_empty());
        assert!(scratch.made.lock().unwrap().is_empty());
    }

    #[test]
    fn what_a_killed_program_left_is_removed_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let at = |name: &str| parent.path().join(name);
        // Two of programs that are gone, one of them with files; a user's own; a file; a link to a user's own.
        for name in ["restow-gone", "restow-empty"] {
            std::fs::create_dir_all(at(name).join("blobs/sha256")).unwrap();
            File::create(at(name).join(MARKER)).unwrap();
        }
        std::fs::write(at("restow-gone/blobs/sha256/x"), "x").unwrap();
        std::fs::create_dir(at("restow-mine")).unwrap();
        std::fs::write(at("restow-mine/letter"), "dear").unwrap();
        std::fs::write(at("restow-file"), "").unwrap();
        std::fs::create_dir(at("other")).unwrap();
        File::create(at("other").join(MARKER)).unwrap();
        std::os::unix::fs::symlink(at("other"), at("restow-link")).unwrap();
        // Of a program that runs: its lock is another open file's, as another process's would be.
        let running = Scratch::new(parent.path()).store().unwrap();
        let expected = ["other", "restow-file", "restow-link", "restow-mine"];
        let without = |one: &ScratchStore| {
            let own = one.path().file_name().unwrap().to_str().unwrap().to_owned();
            names(parent.path()).into_iter().filter(|name| *name != own).collect::<Vec<_>>()
        };
        assert_eq!(without(&running), expected);
        drop(Scratch::new(parent.path()).store().unwrap());
        assert_eq!(without(&running), expected);
        assert!(running.path().join(MARKER).exists() && at("other").join(MARKER).exists());
    }

    #[test]
    fn directories_in_use_go_too_when_the_program_ends() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(parent.path());
        let stores = [scratch.store().unwrap(), scratch.clone().store().unwrap()];
        restow_content::write(&stores[0].store, restow_oci::MediaType::OCI_LAYER, b"bytes").unwrap();
        assert_eq!(names(parent.path()).len(), 2);
        scratch.remove_all();
        assert!(names(parent.path()).is_empty());
    }
}
