//! A store in a directory: containerd's content directory and the blobs of an OCI layout have the same form.
//!
//! | path | what |
//! |---|---|
//! | `blobs/<algorithm>/<encoded>` | a blob, read-only |
//! | `labels/<algorithm>/<encoded>` | the labels of a blob that has any |
//! | `quarantine/<algorithm>/<encoded>` | a blob that has rotted |
//! | `ingest/<sha256 of the key>/ref` | the key; whoever holds the lock on this file owns the directory |
//! | `ingest/<sha256 of the key>/data` | the bytes so far |
//! | `ingest/<sha256 of the key>/total` | the size of the blob in decimal, where its writer knows it |
//!
//! An ingest started when its `ref` was written and was updated when its `data` was.

mod adopt;
mod hash_behind;
mod ingest;
mod write_behind;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::SystemTime;

use restow_oci::Descriptor;
use restow_oci::Digest;

use crate::Blob;
use crate::Check;
use crate::Error;
use crate::Expected;
use crate::Fields;
use crate::Info;
use crate::Ingest;
use crate::IngestStatus;
use crate::Ingester;
use crate::Labels;
use crate::Manager;
use crate::Provider;
use crate::Result;
use crate::error::failed;
use crate::file;
use crate::file::Section;
use crate::labels;
use crate::publish;
use crate::read::check_size;
use crate::read::digester;
use crate::read::hash;

pub(crate) use self::ingest::LocalIngest;
pub(crate) use self::ingest::check_key;

/// A store in a directory of the local file system. Several may work on one directory, in several processes.
#[derive(Clone, Debug)]
pub struct LocalStore {
    root: PathBuf,
    /// The directories of the ingests that are being written, by this store and its clones.
    open: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl LocalStore {
    /// Serves the blobs below `root`. Nothing is created until something is written; a missing directory is
    /// an empty store.
    pub fn open(root: &Path) -> Result<LocalStore> {
        match root.metadata() {
            Ok(metadata) if !metadata.is_dir() => {
                Err(failed("open directory", root)(io::ErrorKind::NotADirectory.into()))
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("open directory", root)(error))
            }
            _ => Ok(LocalStore { root: root.to_owned(), open: Arc::default() }),
        }
    }

    /// Returns the directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns where the blob lies or would lie.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.place("blobs", digest)
    }

    /// Returns what is named like a blob, in the order of the digests.
    pub(crate) fn digests(&self) -> Result<Vec<Digest>> {
        let mut found = Vec::new();
        for algorithm in ["sha256", "sha512"] {
            let names = names(&self.root.join("blobs").join(algorithm))?;
            found.extend(names.iter().filter_map(|name| Digest::parse(&format!("{algorithm}:{name}")).ok()));
        }
        Ok(found)
    }

    fn labels_path(&self, digest: &Digest) -> PathBuf {
        self.place("labels", digest)
    }

    fn place(&self, kind: &str, digest: &Digest) -> PathBuf {
        self.root.join(kind).join(digest.algorithm_name()).join(digest.encoded())
    }

    /// Returns whether the blob is there, in the size that it should have, if that is known.
    pub(crate) fn holds(&self, digest: &Digest, size: Option<u64>) -> Result<bool> {
        match self.open_blob(digest) {
            Ok((_, found)) => Ok(size.is_none_or(|size| size == found)),
            // What is no regular file cannot be this blob and is replaced.
            Err(Error::NotFound { .. } | Error::NotRegular { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns whether the blob is what its digest says. One that cannot be read to its end is not.
    fn is_sound(&self, digest: &Digest) -> Result<bool> {
        let blob = self.section(digest)?;
        let mut digester = digester(digest)?;
        Ok(hash(&blob, &mut digester).is_ok() && digester.finish() == *digest)
    }

    /// Puts a blob away that is not what its digest says, and returns where it lies now: in `quarantine`, where nobody
    /// looks for blobs. One that turns out to be right stays.
    pub fn quarantine(&self, digest: &Digest) -> Result<Option<PathBuf>> {
        if self.is_sound(digest)? {
            return Ok(None);
        }
        let place = self.place("quarantine", digest);
        publish::create_directory(place.parent().unwrap_or(Path::new(".")))?;
        publish::rename_complete(&self.path(digest), &place)?;
        Ok(Some(place))
    }

    /// Adds `labels` to those of a blob whose file comes next, or is there.
    fn announce(&self, digest: &Digest, size: u64, labels: &Labels) -> Result<()> {
        let path = self.labels_path(digest);
        if labels.is_empty() && path.symlink_metadata().is_err() {
            return Ok(());
        }
        labels::change(&path, |present| {
            // What is said of a blob whose file never came is about nothing.
            let mut all = if self.holds(digest, Some(size))? { present } else { Labels::new() };
            all.extend(labels.clone());
            Ok(all)
        })
    }

    /// Removes what writers left that died before they had written their keys, if that was at least `age` ago. Returns
    /// what went wrong with some.
    pub(crate) fn sweep_ingests(&self, now: SystemTime, age: Duration) -> Result<Vec<Error>> {
        let ingests = self.root.join("ingest");
        let mut problems = Vec::new();
        for name in names(&ingests)? {
            let directory = ingests.join(name);
            let found = directory.symlink_metadata();
            let is_old = |time| now.duration_since(time).unwrap_or_default() >= age;
            if !found.is_ok_and(|found| found.is_dir() && found.modified().is_ok_and(is_old)) {
                continue;
            }
            let swept = match ingest::status(&directory, None) {
                Ok(None) => ingest::sweep(&directory),
                status => status.map(drop),
            };
            problems.extend(swept.err());
        }
        Ok(problems)
    }

    /// Returns whether a writer holds the ingest called `key`.
    pub(crate) fn is_held(&self, key: &str) -> bool {
        ingest::is_held(&ingest::directory(&self.root, key))
    }

    /// Removes the ingests that are being written by this store and its clones, under their writers: for the moment before
    /// the program ends without waiting for them.
    pub fn remove_open_ingests(&self) {
        for directory in self.open_ingests().iter() {
            // What cannot be removed is taken up by the next writer of the key.
            let _ = std::fs::remove_dir_all(directory);
        }
        // Others may be at work there.
        let _ = std::fs::remove_dir(self.root.join("ingest"));
    }

    fn open_ingests(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the blob as it is.
    pub(crate) fn section(&self, digest: &Digest) -> Result<Section> {
        let (file, size) = self.open_blob(digest)?;
        Ok(Section::new(Arc::new(file), 0, size))
    }

    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<(std::fs::File, u64)> {
        file::open(&self.path(digest)).map_err(|error| match error {
            Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Error::NotFound { digest: digest.clone() }
            }
            error => error,
        })
    }
}

impl Provider for LocalStore {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Blob>> {
        digester(&descriptor.digest)?;
        let blob = self.section(&descriptor.digest)?;
        check_size(descriptor, blob.size())?;
        Ok(Box::new(blob))
    }
}

impl Ingester for LocalStore {
    fn begin(&self, key: &str, expected: &Expected) -> Result<Box<dyn Ingest>> {
        if let Some(digest) = &expected.digest
            && self.holds(digest, expected.size)?
        {
            return Err(Error::Exists { digest: digest.clone() });
        }
        Ok(Box::new(LocalIngest::begin(self, key, expected)?))
    }

    fn adopt(&self, file: &File, descriptor: &Descriptor, check: Check) -> Result<bool> {
        self.adopt_with("", file, descriptor, check, |_, _| Ok(()))
    }
}

impl Manager for LocalStore {
    fn info(&self, digest: &Digest) -> Result<Info> {
        let (file, size) = self.open_blob(digest)?;
        let modified =
            |metadata: io::Result<std::fs::Metadata>| metadata.and_then(|metadata| metadata.modified());
        let created = modified(file.metadata()).map_err(failed("stat", &self.path(digest)))?;
        let path = self.labels_path(digest);
        let labels = labels::load(&path)?;
        let updated = modified(path.symlink_metadata()).unwrap_or(created).max(created);
        Ok(Info { digest: digest.clone(), size, labels, created, updated })
    }

    fn update_fields(&self, digest: &Digest, labels: Labels, fields: &Fields) -> Result<Info> {
        labels::check(&labels)?;
        let info = self.info(digest)?;
        if fields.apply(info.labels.clone(), labels.clone()) == info.labels {
            return Ok(info);
        }
        labels::change(&self.labels_path(digest), |old| Ok(fields.apply(old, labels)))?;
        self.info(digest)
    }

    fn walk(&self, visit: &mut dyn FnMut(Info) -> Result<()>) -> Result<()> {
        for digest in self.digests()? {
            match self.info(&digest) {
                Ok(info) => visit(info)?,
                // Foreign things, and blobs removed since the directory was read.
                Err(Error::NotRegular { .. } | Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn remove(&self, digest: &Digest) -> Result<()> {
        self.open_blob(digest)?;
        // Labels first: a blob that is written again must not find those of the old one.
        labels::remove(&self.labels_path(digest))?;
        let path = self.path(digest);
        std::fs::remove_file(&path).map_err(failed("remove", &path))
    }

    fn status(&self, key: &str) -> Result<IngestStatus> {
        ingest::status(&ingest::directory(&self.root, key), Some(key))?
            .ok_or_else(|| Error::NoIngest { key: key.to_owned() })
    }

    fn ingests(&self) -> Result<Vec<IngestStatus>> {
        let directory = self.root.join("ingest");
        let mut found = Vec::new();
        for name in names(&directory)? {
            found.extend(ingest::status(&directory.join(name), None)?);
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    fn abort(&self, key: &str) -> Result<()> {
        if ingest::directory(&self.root, key).symlink_metadata().is_err() {
            return Err(Error::NoIngest { key: key.to_owned() });
        }
        Box::new(LocalIngest::hold(self, key)?).abort()
    }
}

/// Returns the names in a directory, sorted; none where there is no such directory.
fn names(directory: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed("read directory", directory))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("read directory", directory))?;
        // A name that is no text names neither a blob nor an ingest.
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests;
