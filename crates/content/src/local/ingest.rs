//! A blob on its way into a directory.

use std::fs::DirBuilder;
use std::fs::File;
use std::fs::OpenOptions;
use std::fs::Permissions;
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

/// The longest key that is read back.
const MAX_KEY_SIZE: u64 = 4096;

/// Returns where the ingest called `key` lies.
pub(super) fn directory(root: &Path, key: &str) -> PathBuf {
    root.join("ingest").join(Digest::sha256(key.as_bytes()).encoded())
}

/// Returns how far the ingest in `directory` has come. `None` where there is none, or where what lies there
/// is not the work of a writer called `key`.
pub(super) fn status(directory: &Path, key: Option<&str>) -> Result<Option<IngestStatus>> {
    let found = || -> Result<Option<IngestStatus>> {
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
    digester: Digester,
    write_behind: WriteBehind,
    // Locked as long as it is open. Fields drop in their order, so this one is the last to go.
    held: File,
}

impl LocalIngest {
    /// Holds the ingest called `key` and takes up what an earlier writer left.
    pub(crate) fn begin(store: &LocalStore, key: &str, expected: &Expected) -> Result<LocalIngest> {
        let digester = digester_for(expected)?;
        let mut ingest = LocalIngest::hold(store, key)?;
        ingest.digester = digester;
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
        hash(&written, &mut ingest.digester)
            .map_err(|(_, error)| failed("read", &ingest.data_path())(error))?;
        ingest.offset = written.size();
        Ok(ingest)
    }

    /// Holds the ingest called `key`, whatever it consists of.
    pub(crate) fn hold(store: &LocalStore, key: &str) -> Result<LocalIngest> {
        if key.is_empty() {
            return Err(Error::EmptyKey);
        }
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
        let (store, key, digester) = (store.clone(), key.to_owned(), Digester::sha256());
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
    fn view(&self, size: u64) -> Result<Section> {
        let (file, _) = file::open(&self.data_path())?;
        Ok(Section::new(Arc::new(file), 0, size))
    }

    /// Removes what is left of the ingest; its `ref` last, since another writer may step in after that.
    fn clear(&self) -> Result<()> {
        for name in super::names(&self.directory)? {
            if name != "ref" {
                labels::remove(&self.directory.join(name))?;
            }
        }
        labels::remove(&self.directory.join("ref"))?;
        // Either may be in use again.
        let _ = std::fs::remove_dir(&self.directory);
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
        if !self.store.holds(digest, Some(size))? {
            if !complete {
                self.complete()?;
                complete = true;
            }
            publish::create_directory(path.parent().unwrap_or(Path::new(".")))?;
        }
        let prepared = prepare(digest, size)?;
        // Again: another writer may have put it there, or a collector may have taken it.
        if !self.store.holds(digest, Some(size))? {
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

/// Removes a directory that no writer can take up, unless one holds it.
pub(super) fn sweep(directory: &Path) -> Result<()> {
    let try_lock = |file: &File| file.try_lock().map_err(io::Error::from);
    // What is in the way of the lock, is none of our files.
    let Ok(Some(_held)) = try_hold(&directory.join("ref"), try_lock) else { return Ok(()) };
    for name in ["data", "total", "link", "ref"] {
        labels::remove(&directory.join(name))?;
    }
    let _ = std::fs::remove_dir(directory);
    Ok(())
}

/// Opens the lock and the data below `directory`; `None` where another writer just ended.
fn try_open(directory: &Path) -> Result<Option<(File, File)>> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .map_err(failed("create directory", directory))?;
    let try_lock = |file: &File| file.try_lock().map_err(io::Error::from);
    let Some(held) = try_hold(&directory.join("ref"), try_lock)? else { return Ok(None) };
    Ok(Some((held, open_data(&directory.join("data"))?)))
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
        let digest = self.commit_with(expected, |digest, _| {
            let merge = |mut present: Labels| {
                present.extend(labels.clone());
                present
            };
            // Before the blob: nobody sees it without its labels.
            if labels.is_empty() { Ok(()) } else { labels::change(&store.labels_path(digest), merge) }
        })?;
        store.info(&digest)
    }

    fn abort(self: Box<Self>) -> Result<()> {
        self.clear()
    }
}
