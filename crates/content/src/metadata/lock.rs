//! The lock of a store: shared by those who make blobs visible, held alone by who removes some.

use std::fs::File;
use std::fs::OpenOptions;
use std::fs::TryLockError;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::Result;
use crate::error::failed;
use crate::file;

const NAME: &str = "lock";

/// A program that has the lock of a store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Writer {
    /// The number of its process.
    pub process: u32,
    /// The name that the kernel has for it, of at most 15 bytes; empty if it is gone already.
    pub program: String,
}

/// Waits until nobody has the lock of the store at `root`, and takes it.
pub(super) fn alone(root: &Path) -> Result<File> {
    alone_telling(root, &mut |_| {})
}

/// Takes the lock alone. If others have it, `tell` hears first who does, as far as the kernel says: whose process is in
/// another container is not known.
pub(super) fn alone_telling(root: &Path, tell: &mut dyn FnMut(&[Writer])) -> Result<File> {
    let (file, path) = open(root)?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => tell(&writers(&file)),
        // It is met again below.
        Err(TryLockError::Error(_)) => {}
    }
    uninterrupted(|| file.lock()).map_err(failed("lock", &path))?;
    Ok(file)
}

/// Waits until nobody has the lock alone, and lets nobody take it so.
pub(super) fn shared(root: &Path) -> Result<File> {
    let (file, path) = open(root)?;
    uninterrupted(|| file.lock_shared()).map_err(failed("lock", &path))?;
    Ok(file)
}

fn open(root: &Path) -> Result<(File, std::path::PathBuf)> {
    let path = root.join(NAME);
    let mut options = OpenOptions::new();
    let file =
        file::open_with(options.read(true).write(true).create(true).truncate(false).mode(0o644), &path)?;
    Ok((file, path))
}

fn uninterrupted(lock: impl Fn() -> io::Result<()>) -> io::Result<()> {
    loop {
        match lock() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Returns who has locked the file.
///
/// <https://man7.org/linux/man-pages/man5/proc_locks.5.html>
fn writers(lock: &File) -> Vec<Writer> {
    let (Ok(found), Ok(locks)) = (lock.metadata(), std::fs::read_to_string("/proc/locks")) else {
        return Vec::new();
    };
    let mut processes: Vec<u32> = locks
        .lines()
        .filter_map(|line| holder(line, found.ino()))
        .filter(|process| has_open(*process, &found))
        .collect();
    processes.sort_unstable();
    processes.dedup();
    let name = |process| std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    let writer = |process| Writer { process, program: name(process).trim_end().to_owned() };
    processes.into_iter().map(writer).collect()
}

/// Returns the process that holds the lock which a line of `/proc/locks` is about, if it is one of inode `inode`. Those
/// that wait for a lock have an arrow in front.
fn holder(line: &str, inode: u64) -> Option<u32> {
    let mut fields = line.split_whitespace().skip(1);
    let kind = fields.next()?;
    let process = fields.nth(2)?;
    let locked = fields.next()?.rsplit(':').next()?;
    (kind == "FLOCK" && locked.parse() == Ok(inode)).then(|| process.parse().ok())?
}

/// Returns whether the process has the file open, or does not let anyone know: other file systems have the same inodes.
fn has_open(process: u32, file: &std::fs::Metadata) -> bool {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return true };
    descriptors.flatten().any(|descriptor| {
        std::fs::metadata(descriptor.path())
            .is_ok_and(|open| (open.dev(), open.ino()) == (file.dev(), file.ino()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_the_lock_is_told_before_it_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let tell = &mut |_: &[Writer]| panic!("nobody has it");
        drop(alone_telling(root.path(), tell).unwrap());
        let mut others = Some([shared(root.path()).unwrap(), shared(root.path()).unwrap()]);
        let mut told = Vec::new();
        let lock = alone_telling(root.path(), &mut |writers| {
            told.extend_from_slice(writers);
            others = None;
        });
        lock.unwrap();
        let processes: Vec<_> = told.iter().map(|writer| writer.process).collect();
        assert_eq!(processes, [std::process::id()]);
        assert!(!told[0].program.is_empty());
    }

    #[test]
    fn lines_about_other_locks_name_nobody() {
        for (line, expected) in [
            ("7: FLOCK  ADVISORY  READ 4242 fe:00:1234 0 EOF", Some(4242)),
            ("7: FLOCK  ADVISORY  WRITE 4242 00:2f:1234 0 EOF", Some(4242)),
            ("7: -> FLOCK  ADVISORY  WRITE 4242 fe:00:1234 0 EOF", None),
            ("7: POSIX  ADVISORY  WRITE 4242 fe:00:1234 0 EOF", None),
            ("7: FLOCK  ADVISORY  READ 4242 fe:00:12345 0 EOF", None),
            ("7: FLOCK  ADVISORY  READ -1 fe:00:1234 0 EOF", None),
            ("7: FLOCK", None),
            ("", None),
        ] {
            assert_eq!(holder(line, 1234), expected, "{line}");
        }
    }
}
