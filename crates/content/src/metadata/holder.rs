//! Whose lease it is: a locked file for each lease that a program [holds](super::MetadataStore::hold).
//!
//! A lease ends at a time, and clocks jump. The lock of its file ends with its program, whatever the clock says.

use std::collections::HashSet;
use std::fs::File;
use std::fs::OpenOptions;
use std::fs::TryLockError;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use crate::Result;
use crate::error::failed;
use crate::file;
use crate::labels;
use crate::publish;

const DIRECTORY: &str = "leases";

/// The file of a lease, locked until this is dropped or the program ends.
#[derive(Debug)]
pub(super) struct Holder {
    path: PathBuf,
    _locked: File,
}

impl Holder {
    /// Holds the lease `id` of the store at `root`. The id is a file name, and nobody else's.
    pub(super) fn new(root: &Path, id: &str) -> Result<Holder> {
        let directory = root.join(DIRECTORY);
        publish::create_directory(&directory)?;
        let path = directory.join(id);
        loop {
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(false).mode(0o644);
            let file = file::open_with(options, &path)?;
            file.lock().map_err(failed("lock", &path))?;
            // A collection may have come in between, and have taken it for one that nobody holds.
            if file.metadata().map_err(failed("stat", &path))?.nlink() > 0 {
                return Ok(Holder { path, _locked: file });
            }
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // One that stays is nobody's, and goes with the next collection.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Returns the ids of the leases of the store at `root` that are held. The files of others are removed if they are to be
/// `swept`.
pub(super) fn held(root: &Path, swept: bool) -> Result<HashSet<String>> {
    let directory = root.join(DIRECTORY);
    let mut held = HashSet::new();
    let entries = match std::fs::read_dir(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(held),
        entries => entries.map_err(failed("list", &directory))?,
    };
    for entry in entries {
        let entry = entry.map_err(failed("list", &directory))?;
        // Another kind of file is not ours; one that has just gone is nobody's.
        let Ok((file, _)) = file::open(&entry.path()) else { continue };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => drop(held.insert(entry.file_name().to_string_lossy().into())),
            Err(TryLockError::Error(error)) => return Err(failed("lock", &entry.path())(error)),
            Ok(()) if swept => labels::remove(&entry.path())?,
            Ok(()) => {}
        }
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_held_until_its_program_ends() {
        let root = tempfile::tempdir().unwrap();
        assert!(held(root.path(), true).unwrap().is_empty());
        let holder = Holder::new(root.path(), "ours").unwrap();
        let killed = root.path().join(DIRECTORY).join("killed");
        std::fs::write(&killed, "").unwrap();
        for (swept, left) in [(false, true), (true, false)] {
            assert_eq!(held(root.path(), swept).unwrap(), HashSet::from(["ours".to_owned()]));
            assert_eq!(killed.exists(), left);
        }
        drop(holder);
        assert!(held(root.path(), false).unwrap().is_empty());
        assert_eq!(std::fs::read_dir(root.path().join(DIRECTORY)).unwrap().count(), 0);
    }
}
