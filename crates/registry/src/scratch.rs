//! Directories for files that nobody needs afterwards.
//!
//! A program that is killed removes nothing, or not all. So each directory is locked as long as it is in use, and whoever
//! makes the next one removes those that nobody holds. The lock also keeps systemd-tmpfiles from taking files away under
//! a program that runs for days.

use std::collections::BTreeSet;
use std::fs::File;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use restow_content::LocalStore;
use tempfile::TempDir;

use crate::Result;

const PREFIX: &str = "restow-";
/// What tells a directory from a user's own that has such a name: it is sticky, though its owner's alone. A file in it
/// would not do: until there is one and after it has gone, nobody could tell.
const STICKY: u32 = 0o1000;
const MODE: u32 = 0o700 | STICKY;

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
        let failed = |source| restow_content::Error::Io {
            action: "create a temporary directory in",
            path: self.parent.clone(),
            source,
        };
        let (directory, lock) = self.directory().map_err(failed)?;
        let owner = lock.metadata().map_err(failed)?.uid();
        // What cannot be removed is in nobody's way.
        let _ = self.sweep(owner);
        let store = LocalStore::open(directory.path())?;
        Ok(ScratchStore { store, directory, made: self.made.clone(), _lock: lock })
    }

    /// Makes a directory and locks it.
    fn directory(&self) -> io::Result<(TempDir, File)> {
        loop {
            let directory = tempfile::Builder::new()
                .prefix(PREFIX)
                .permissions(Permissions::from_mode(MODE))
                .tempdir_in(&self.parent)?;
            self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(directory.path().to_owned());
            if let Some(lock) = lock(directory.path())? {
                return Ok((directory, lock));
            }
            // Another program came in between, and took it for one that nobody holds.
            self.made.lock().unwrap_or_else(PoisonError::into_inner).remove(directory.path());
        }
    }

    /// Removes the directories of `owner` that nobody holds.
    fn sweep(&self, owner: u32) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.parent)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default();
            if name.to_string_lossy().starts_with(PREFIX) {
                let _ = remove_abandoned(&path, owner);
            }
        }
        Ok(())
    }
}

/// Locks a directory that was just made, unless it has gone again.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    file.lock()?;
    Ok(is_at(&file, path)?.then_some(file))
}

/// Returns whether the open directory still is the one at `path`.
fn is_at(directory: &File, path: &Path) -> io::Result<bool> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        found => Ok(found?.ino() == directory.metadata()?.ino()),
    }
}

/// Removes the directory if it is one of `owner` that nobody holds.
fn remove_abandoned(path: &Path, owner: u32) -> io::Result<()> {
    let metadata = path.symlink_metadata()?;
    if !metadata.is_dir() || metadata.uid() != owner || metadata.mode() & STICKY == 0 {
        return Ok(());
    }
    let directory = File::open(path)?;
    // Held until it is gone, so that whoever has just made it waits, and makes another one.
    match directory.try_lock() {
        Ok(()) => std::fs::remove_dir_all(path),
        Err(_) => Ok(()),
    }
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
        assert_eq!(store.path().metadata().unwrap().mode() & 0o1777, MODE);
        drop(store);
        assert!(names(parent.path()).is_empty());
        assert!(scratch.made.lock().unwrap().is_empty());
    }

    #[test]
    fn what_a_killed_program_left_is_removed_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let at = |name: &str| parent.path().join(name);
        let make = |name: &str, mode| {
            std::fs::create_dir(at(name)).unwrap();
            std::fs::set_permissions(at(name), Permissions::from_mode(mode)).unwrap();
        };
        // Of programs that are gone, one with files, others killed when they had all but removed or just made it.
        for name in ["restow-gone", "restow-empty"] {
            make(name, MODE);
        }
        make("restow-inherited", 0o2000 | MODE);
        std::fs::create_dir_all(at("restow-gone/blobs/sha256")).unwrap();
        std::fs::write(at("restow-gone/blobs/sha256/x"), "x").unwrap();
        // Users' own; a file; a link to a user's own.
        make("restow-mine", 0o700);
        std::fs::write(at("restow-mine/letter"), "dear").unwrap();
        make("restow-new", 0o700);
        std::fs::write(at("restow-file"), "").unwrap();
        make("other", MODE);
        std::os::unix::fs::symlink(at("other"), at("restow-link")).unwrap();
        // Of a program that runs: its lock is another open file's, as another process's would be.
        let running = Scratch::new(parent.path()).store().unwrap();
        let expected = ["other", "restow-file", "restow-link", "restow-mine", "restow-new"];
        let without = |one: &ScratchStore| {
            let own = one.path().file_name().unwrap().to_str().unwrap().to_owned();
            names(parent.path()).into_iter().filter(|name| *name != own).collect::<Vec<_>>()
        };
        assert_eq!(without(&running), expected);
        drop(Scratch::new(parent.path()).store().unwrap());
        assert_eq!(without(&running), expected);
        assert!(running.path().exists());
    }

    #[test]
    fn a_directory_that_is_taken_away_before_it_is_locked_is_made_again() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("restow-new");
        assert!(lock(&path).unwrap().is_none());
        std::fs::create_dir(&path).unwrap();
        assert!(lock(&path).unwrap().is_some());
        // Another program removes it after it was opened; and yet another makes one of the same name.
        let opened = File::open(&path).unwrap();
        assert!(is_at(&opened, &path).unwrap());
        std::fs::remove_dir(&path).unwrap();
        assert!(!is_at(&opened, &path).unwrap());
        std::fs::create_dir(&path).unwrap();
        assert!(!is_at(&opened, &path).unwrap());
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
