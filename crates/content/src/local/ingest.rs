//! A blob on its way into a directory.

use std::fs::DirBuilder;
use std::fs::File;
use std::fs::OpenOptions;
use std::fs::Permissions;
use std::fs::TryLockError;
use std::io;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Digester;

use super::hash_behind::HashBehind;
use super::write_behind::WriteBehind;
use crate::Blob;
use crate::Error;
use crate::Expected;
use crate::Info;
use crate::Ingest;
use crate::IngestStatus;
use crate::Labels;
use crate::LocalStore;
use crate::Manager;
use crate::Result;
use crate::error::failed;
use crate::file;
use crate::file::Section;
use crate::labels;
use crate::now;
use crate::publish;
use crate::publish::try_hold;
use crate::read::differs;
use crate::read::digester_for;
use crate::read::hash;
use crate::read::settle;

/// The longest key that there is, in bytes.
const MAX_KEY_SIZE: u64 = 4096;

/// The files of an ingest, those that containerd alone writes included; what else lies beside them is none of ours. In
/// the order in which they go: whoever finds no `ref` may step in.
const FILES: [&str; 8] =
    ["data", "total", "link", "startedat", "startedat.tmp", "updatedat", "updatedat.tmp", "ref"];

/// Returns where the ingest called `key` lies.
pub(super) fn directory(root: &Path, key: &str) -> PathBuf {
    root.join("ingest").join(Digest::sha256(key.as_bytes()).encoded())
}

/// Returns how far the ingest in `directory` has come. `None` where there is none, or where what lies there
/// is not the work of a writer called `key`.
pub(super) fn status(directory: &Path, key: Option<&str>) -> Result<Option<IngestStatus>> {
    let found = || -> Result<Option<IngestStatus>> {
        check_directories(directory)?;
        let path = directory.join("ref");
        let Ok(found) = String::from_utf8(file::read(&path, MAX_KEY_SIZE)?) else { return Ok(None) };
        let name = Digest::sha256(found.as_bytes());
        if key.is_some_and(|key| key != found) || !directory.ends_with(name.encoded()) {
            return Ok(None);
        }
        let time = |path: &Path| -> Result<(u64, SystemTime)> {
            let (file, size) = file::open(path)?;
            let modified = file.metadata().and_then(|metadata| metadata.modified());
            Ok((size, modified.map_err(failed("stat", path))?))
        };
        let (_, started) = time(&path)?;
        let (offset, updated) = time(&directory.join("data"))?;
        let total = total(&directory.join("total"));
        Ok(Some(IngestStatus { key: found, offset, total, started, updated: updated.max(started) }))
    };
    match found() {
        Err(Error::Io { source, .. })
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(Error::NotRegular { .. } | Error::TooLarge { .. }) => Ok(None),
        result => result,
    }
}

/// Reads the size that the writer expects. It only saves work, so that what is damaged is not there.
fn total(path: &Path) -> Option<u64> {
    String::from_utf8(file::read(path, 20).ok()?).ok()?.parse().ok().filter(|total| *total > 0)
}

/// An ingest that this writer holds.
#[derive(Debug)]
pub(crate) struct LocalIngest {
    store: LocalStore,
    key: String,
    directory: PathBuf,
    data: File,
    offset: u64,
    digester: HashBehind,
    write_behind: WriteBehind,
    // Locked as long as it is open. Fields drop in their order, so this one is the last to go.
    held: File,
}

impl LocalIngest {
    /// Holds the ingest called `key` and takes up what an earlier writer left.
    pub(crate) fn begin(store: &LocalStore, key: &str, expected: &Expected) -> Result<LocalIngest> {
        let mut digester = digester_for(expected)?;
        let mut ingest = LocalIngest::hold(store, key)?;
        let earlier =
            status(&ingest.directory, Some(key))?.filter(|earlier| !differs(earlier.total, expected.size));
        if earlier.is_none() {
            // New, or of another blob, or left by a writer that died before it had written its key: nothing
            // vouches for the data.
            ingest.restart()?;
            labels::remove(&ingest.directory.join("total"))?;
            let written = ingest.held.set_len(0).and_then(|()| ingest.held.write_all_at(key.as_bytes(), 0));
            written.map_err(failed("write", &ingest.directory.join("ref")))?;
        }
        if let Some(size) = expected.size.filter(|_| earlier.is_none_or(|earlier| earlier.total.is_none())) {
            ingest.write_total(size)?;
        }
        let written = ingest.view(ingest.length()?)?;
        hash(&written, &mut digester).map_err(|(_, error)| failed("read", &ingest.data_path())(error))?;
        ingest.digester = HashBehind::new(digester, expected.size);
        ingest.offset = written.size();
        Ok(ingest)
    }

    /// Holds the ingest called `key`, whatever it consists of.
    pub(crate) fn hold(store: &LocalStore, key: &str) -> Result<LocalIngest> {
        check_key(key)?;
        let directory = directory(store.root(), key);
        publish::create_directory(store.root())?;
        // A writer that ends removes the directories that it leaves empty, perhaps between two of these
        // steps.
        let mut attempts = 0;
        let (held, data) = loop {
            match try_open(&directory) {
                Ok(Some(files)) => break files,
                Ok(None) => {}
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Error::Busy { key: key.to_owned() });
                }
                Err(Error::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && attempts < 1000 => {}
                Err(error) => return Err(error),
            }
            attempts += 1;
        };
        store.open_ingests().insert(directory.clone());
        let (store, key, digester) =
            (store.clone(), key.to_owned(), HashBehind::new(Digester::sha256(), None));
        let write_behind = WriteBehind::default();
        Ok(LocalIngest { store, key, directory, data, offset: 0, digester, write_behind, held })
    }

    fn write_total(&self, size: u64) -> Result<()> {
        let path = self.directory.join("total");
        let mut options = OpenOptions::new();
        let mut file = file::open_with(options.write(true).create(true).truncate(true).mode(0o644), &path)?;
        file.write_all(size.to_string().as_bytes()).map_err(failed("write", &path))
    }

    pub(super) fn data_path(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn data(&self) -> &File {
        &self.data
    }

    fn length(&self) -> Result<u64> {
        Ok(self.data.metadata().map_err(failed("stat", &self.data_path()))?.len())
    }

    /// Opens the data a second time: a view must not keep the descriptor of a writer alive.
    pub(super) fn view(&self, size: u64) -> Result<Section> {
        let (file, _) = file::open(&self.data_path())?;
        Ok(Section::new(Arc::new(file), 0, size))
    }

    /// Removes what is left of the ingest.
    fn clear(&self) -> Result<()> {
        remove_files(&self.directory)?;
        // It may be in use again.
        let _ = std::fs::remove_dir(self.store.root().join("ingest"));
        Ok(())
    }

    /// Commits as [`Ingest::commit`] does, except for labels: `prepare` is called with digest and size when
    /// nothing but the step that makes the blob visible is left to do, and what it returns lives until that
    /// is done.
    pub(crate) fn commit_with<T>(
        mut self: Box<Self>,
        expected: Option<&Descriptor>,
        prepare: impl FnOnce(&Digest, u64) -> Result<T>,
    ) -> Result<Digest> {
        let actual = self.length()?;
        if actual != self.offset {
            return Err(Error::Disturbed { key: self.key.clone(), expected: self.offset, actual });
        }
        let digest = settle(expected, self.digester.current(), &self.view(self.offset)?)?;
        let (size, data) = (self.offset, self.data_path());
        self.publish(&digest, size, &data, prepare)?;
        Ok(digest)
    }

    /// Makes the file at `from` visible as the blob `digest`, which it is. If it is the data, it is completed first.
    pub(super) fn publish<T>(
        &mut self,
        digest: &Digest,
        size: u64,
        from: &Path,
        prepare: impl FnOnce(&Digest, u64) -> Result<T>,
    ) -> Result<()> {
        let path = self.store.path(digest);
        let mut complete = from != self.data_path();
        // What is at hand is known to be right, what lies there may have rotted.
        let sound = self.store.holds(digest, Some(size))? && self.store.is_sound(digest).unwrap_or(false);
        if !sound {
            if !complete {
                self.complete()?;
                complete = true;
            }
            publish::create_directory(path.parent().unwrap_or(Path::new(".")))?;
        }
        let prepared = prepare(digest, size)?;
        // Again: another writer may have put it there, or a collector may have taken it.
        if !sound || !self.store.holds(digest, Some(size))? {
            if !complete {
                self.complete()?;
            }
            publish::rename_complete(from, &path)?;
        }
        drop(prepared);
        // The blob is there. What cannot be removed now is taken up and removed by the next writer of the
        // key.
        let _ = self.clear();
        Ok(())
    }

    /// Makes the data what the blob will be, on the disk.
    fn complete(&mut self) -> Result<()> {
        let data = self.data_path();
        // Whatever the umask: anyone may read a blob and nobody change it. And it is as old as its commit.
        self.data
            .set_permissions(Permissions::from_mode(0o444))
            .map_err(failed("change the mode of", &data))?;
        self.data.set_modified(now()).map_err(failed("change the time of", &data))?;
        let synced = self.write_behind.finish().and_then(|()| self.data.sync_all());
        synced.inspect_err(|_| self.forget()).map_err(failed("sync", &data))
    }

    /// Empties the data after a sync that failed. They can still be read, and the next sync may find nothing to do,
    /// but they are not on the disk: whoever comes next must write them again.
    fn forget(&self) {
        let _ = self.data.set_len(0);
    }
}

impl Drop for LocalIngest {
    fn drop(&mut self) {
        if self.write_behind.finish().is_err() {
            self.forget();
        }
        self.store.open_ingests().remove(&self.directory);
    }
}

/// Refuses a key that is not to be had.
pub(crate) fn check_key(key: &str) -> Result<()> {
    match key.len() as u64 {
        0 => Err(Error::EmptyKey),
        size if size > MAX_KEY_SIZE => {
            Err(Error::TooLarge { what: "the key of an ingest".into(), size, limit: MAX_KEY_SIZE })
        }
        _ => Ok(()),
    }
}

/// Removes a directory that no writer can take up, unless one holds it.
pub(super) fn sweep(directory: &Path) -> Result<()> {
    // What is in the way of the lock is none of our files.
    let Ok(Some(_held)) = hold_directory(directory) else { return Ok(()) };
    remove_files(directory)
}

/// Returns whether a writer holds the ingest in `directory`. Nothing is made there.
pub(super) fn is_held(directory: &Path) -> bool {
    let held = |(file, _): (File, u64)| matches!(file.try_lock(), Err(TryLockError::WouldBlock));
    file::open(&directory.join("ref")).is_ok_and(held)
}

/// Removes the files of an ingest, and the directory if nothing else is in it. The caller holds it.
fn remove_files(directory: &Path) -> Result<()> {
    for name in FILES {
        labels::remove(&directory.join(name))?;
    }
    // It may be in use again.
    let _ = std::fs::remove_dir(directory);
    Ok(())
}

/// Opens the lock and the data below `directory`; `None` where another writer just ended.
fn try_open(directory: &Path) -> Result<Option<(File, File)>> {
    for directory in [directory.parent().unwrap_or(directory), directory] {
        match DirBuilder::new().mode(0o755).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("create directory", directory)(error));
            }
            _ => check_directory(directory)?,
        }
    }
    let Some(held) = hold_directory(directory)? else { return Ok(None) };
    Ok(Some((held, open_data(&directory.join("data"))?)))
}

/// Takes the lock below `directory`; `None` where another writer just ended.
fn hold_directory(directory: &Path) -> Result<Option<File>> {
    check_directories(directory)?;
    let try_lock = |file: &File| file.try_lock().map_err(io::Error::from);
    try_hold(&directory.join("ref"), try_lock)
}

/// Refuses the directory of an ingest, or the one that it lies in, behind a symbolic link: the files there are others'.
fn check_directories(directory: &Path) -> Result<()> {
    check_directory(directory.parent().unwrap_or(directory))?;
    check_directory(directory)
}

fn check_directory(directory: &Path) -> Result<()> {
    let found = directory.symlink_metadata().map_err(failed("open directory", directory))?;
    match found.is_dir() {
        true => Ok(()),
        false => Err(failed("open directory", directory)(io::ErrorKind::NotADirectory.into())),
    }
}

fn open_data(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o644);
    match file::open_with(&mut options, path) {
        // Its writer died in a commit, after the change of the mode and before the rename.
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            let (file, _) = file::open(path)?;
            file.set_permissions(Permissions::from_mode(0o644))
                .map_err(failed("change the mode of", path))?;
            file::open_with(&mut options, path)
        }
        result => result,
    }
}

impl Write for LocalIngest {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.data.write_at(buffer, self.offset)?;
        // Only what the file took: after a short write the digest must still be that of the file.
        self.digester.update(&buffer[..count]);
        self.offset += count as u64;
        self.write_behind.wrote(&self.data, count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Ingest for LocalIngest {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn digest(&self) -> Digest {
        self.digester.current()
    }

    fn restart(&mut self) -> Result<()> {
        // What was not brought to the disk is not wanted any more.
        let _ = self.write_behind.finish();
        self.data.set_len(0).map_err(failed("truncate", &self.data_path()))?;
        self.offset = 0;
        self.digester.reset();
        Ok(())
    }

    fn written(&self) -> Result<Box<dyn Blob>> {
        Ok(Box::new(self.view(self.offset)?))
    }

    fn commit(self: Box<Self>, expected: Option<&Descriptor>, labels: Labels) -> Result<Info> {
        labels::check(&labels)?;
        let store = self.store.clone();
        // Before the blob: nobody sees it without its labels.
        let digest = self.commit_with(expected, |digest, size| store.announce(digest, size, &labels))?;
        if !labels.is_empty() {
            // Another writer of the same blob, for whom it was not there yet, may have put his in their place.
            store.announce(&digest, store.open_blob(&digest)?.1, &labels)?;
        }
        store.info(&digest)
    }

    fn abort(self: Box<Self>) -> Result<()> {
        self.clear()
    }
}
