//! The one place where files become visible: written beside their target, synced, renamed, the directory
//! synced.
//!
//! A reader sees the old file or the new one, whole, whenever the machine stops.

use std::fs::DirBuilder;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use crate::Error;
use crate::Result;
use crate::error::failed;
use crate::file;

/// The next version of a file, not visible yet, and the lock on that file at the same time.
///
/// Whoever holds the draft of a file may read the file, decide and publish the next version: others wait in
/// [`Draft::lock`], in this process or another one. The kernel lets go of a draft when its holder dies; what
/// the holder left behind is taken over by the next one. Dropping a draft leaves the file as it was, and
/// nothing beside it.
#[derive(Debug)]
pub struct Draft {
    file: File,
    path: PathBuf,
    target: PathBuf,
}

impl Draft {
    /// Locks `target`, waiting for its present holder, who must not be this thread itself.
    pub fn lock(target: &Path) -> Result<Draft> {
        let path = draft_path(target);
        let file = loop {
            if let Some(file) = try_hold(&path, File::lock)? {
                break file;
            }
        };
        Ok(Draft { file, path, target: target.to_owned() })
    }

    /// Replaces the file by `bytes`, or creates it.
    pub fn publish(self, bytes: &[u8]) -> Result<()> {
        let path = self.path.clone();
        self.publish_with(|file| file.write_all(bytes).map_err(failed("write", &path)))
    }

    /// Replaces the file by what `write` writes, or creates it; after an error the old file stays.
    pub fn publish_with<E: From<Error>>(
        mut self,
        write: impl FnOnce(&mut File) -> Result<(), E>,
    ) -> Result<(), E> {
        // A holder that died may have left bytes.
        self.file.set_len(0).map_err(failed("truncate", &self.path))?;
        write(&mut self.file)?;
        Ok(rename(&self.file, &self.path, &self.target)?)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Once published, it may be another one that lies there.
        if let Ok(true) = lies_at(&self.file, &self.path) {
            // Nothing depends on it: the next holder copes with a draft that stayed.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Returns where the draft of `target` lies while somebody holds it.
pub fn draft_path(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.draft"))
}

/// Replaces the file at `target` by `bytes`, or creates it.
pub fn write(target: &Path, bytes: &[u8]) -> Result<()> {
    Draft::lock(target)?.publish(bytes)
}

/// Creates `directory` and those above it where they are missing, durably.
pub fn create_directory(directory: &Path) -> Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = match directory.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    create_directory(parent)?;
    match DirBuilder::new().mode(0o755).create(directory) {
        Err(error) if !directory.is_dir() => Err(failed("create directory", directory)(error)),
        // Where another writer created it an instant ago, it may not have synced it yet.
        _ => sync_directory(parent),
    }
}

/// Moves a file that is complete to where it is looked for, durably.
fn rename(file: &File, from: &Path, to: &Path) -> Result<()> {
    file.sync_all().map_err(failed("sync", from))?;
    rename_complete(from, to)
}

/// Moves a file that is complete and on the disk to where it is looked for, durably.
#[expect(clippy::disallowed_methods, reason = "the one place that renames, and syncs what a rename needs")]
pub(crate) fn rename_complete(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(failed("rename to", to))?;
    sync_directory(to.parent().unwrap_or(Path::new("")))
}

fn sync_directory(directory: &Path) -> Result<()> {
    let directory = if directory == Path::new("") { Path::new(".") } else { directory };
    let result = File::open(directory).and_then(|file| file.sync_all());
    match result {
        // Some file systems have no such operation; then nothing more can be done.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result.map_err(failed("sync directory", directory)),
    }
}

/// Opens the file at `path` and locks it together with others, as long as it is open; whoever has it alone is waited for.
/// `None` where it was renamed or removed between the two steps: then the caller may try again.
pub fn share(path: &Path) -> Result<Option<File>> {
    let (file, _) = file::open(path)?;
    locked(file, path, File::lock_shared)
}

/// Opens or creates the file at `path` and locks it. `None` where another holder renamed or removed the file
/// between the two steps: then what was locked is not what lies at `path` now, and the caller may try again.
pub(crate) fn try_hold(path: &Path, lock: impl Fn(&File) -> io::Result<()>) -> Result<Option<File>> {
    let mut options = OpenOptions::new();
    // Never truncate here: the file may just have become a published one.
    options.read(true).write(true).create(true).truncate(false).mode(0o644);
    locked(file::open_with(&mut options, path)?, path, lock)
}

fn locked(file: File, path: &Path, lock: impl Fn(&File) -> io::Result<()>) -> Result<Option<File>> {
    while let Err(error) = lock(&file) {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(failed("lock", path)(error));
        }
    }
    Ok(lies_at(&file, path)?.then_some(file))
}

/// Returns whether `file` is what lies at `path`. While a holder has it locked, the answer stays yes until he
/// changes it.
fn lies_at(file: &File, path: &Path) -> Result<bool> {
    let held = file.metadata().map_err(failed("stat", path))?;
    match path.symlink_metadata() {
        Ok(found) => Ok((found.dev(), found.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("stat", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_and_nothing_stays_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("file");
        write(&target, b"a long first version").unwrap();
        write(&target, b"second").unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"second");
        assert_eq!(names(directory.path()), ["file"]);
    }

    #[test]
    fn a_dropped_draft_leaves_no_trace() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("file");
        write(&target, b"first").unwrap();
        drop(Draft::lock(&target).unwrap());
        assert_eq!(std::fs::read(&target).unwrap(), b"first");
        assert_eq!(names(directory.path()), ["file"]);
    }

    #[test]
    fn the_draft_of_a_killed_holder_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("file");
        std::fs::write(directory.path().join(".file.draft"), b"half of a much longer ver").unwrap();
        write(&target, b"whole").unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"whole");
        assert_eq!(names(directory.path()), ["file"]);
    }

    #[test]
    fn holders_of_a_draft_take_turns() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("count");
        write(&target, b"0").unwrap();
        thread::scope(|scope| {
            for thread in 0..8 {
                let target = &target;
                scope.spawn(move || {
                    for turn in 0..20 {
                        let draft = Draft::lock(target).unwrap();
                        let count: u32 = std::fs::read_to_string(target).unwrap().parse().unwrap();
                        // Some holders change their mind.
                        if (thread + turn) % 4 != 0 {
                            draft.publish((count + 1).to_string().as_bytes()).unwrap();
                        }
                    }
                });
            }
        });
        assert_eq!(std::fs::read(&target).unwrap(), b"120");
        assert_eq!(names(directory.path()), ["count"]);
    }

    #[test]
    fn a_symbolic_link_in_place_of_the_draft_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        std::fs::write(&victim, b"precious").unwrap();
        std::os::unix::fs::symlink(&victim, directory.path().join(".file.draft")).unwrap();
        write(&directory.path().join("file"), b"new").unwrap_err();
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    }
}
