//! Blobs taken over from a file on the same file system, without a copy of their bytes where that can be.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use restow_oci::Descriptor;
use restow_oci::Digest;
use rustix::fs::AtFlags;
use rustix::fs::CWD;

use super::LocalIngest;
use super::LocalStore;
use crate::Check;
use crate::Error;
use crate::Expected;
use crate::Ingest as _;
use crate::Result;
use crate::error::failed;
use crate::labels;
use crate::read::check_size;
use crate::read::digester;
use crate::read::settle;

/// How the bytes of a file came to be those of a blob.
enum Taken {
    /// They are the data of the ingest.
    Data,
    /// The file has a second name.
    Link(PathBuf),
}

impl LocalStore {
    /// Adopts as [`Ingester::adopt`](crate::Ingester::adopt) says, in an ingest whose key starts with `prefix`;
    /// `prepare` is called as by [`LocalIngest::commit_with`].
    pub(crate) fn adopt_with<T>(
        &self,
        prefix: &str,
        file: &File,
        descriptor: &Descriptor,
        check: Check,
        prepare: impl FnOnce(&Digest, u64) -> Result<T>,
    ) -> Result<bool> {
        digester(&descriptor.digest)?;
        let source = self.root().to_owned();
        let size = file.metadata().map_err(failed("stat the source of", &source))?.len();
        check_size(descriptor, size)?;
        let key = format!("{prefix}adopt-{}", descriptor.digest);
        let mut ingest = match LocalIngest::begin(self, &key, &Expected::from(descriptor)) {
            // Whoever is at it may never finish.
            Err(Error::Busy { .. }) => return Ok(false),
            ingest => ingest?,
        };
        ingest.restart()?;
        let Some(taken) = ingest.take(file, size, check)? else {
            Box::new(ingest).abort()?;
            return Ok(false);
        };
        match taken {
            Taken::Link(path) => ingest.publish(&descriptor.digest, size, &path, prepare)?,
            Taken::Data if check == Check::Size => {
                ingest.publish(&descriptor.digest, size, &ingest.data_path(), prepare)?;
            }
            Taken::Data => {
                let mut digester = digester(&descriptor.digest)?;
                let view = ingest.view(size)?;
                crate::read::hash(&view, &mut digester)
                    .map_err(|(_, error)| failed("read", &ingest.data_path())(error))?;
                if let Err(error) = settle(Some(descriptor), digester.finish(), &view) {
                    Box::new(ingest).abort()?;
                    return Err(error);
                }
                ingest.publish(&descriptor.digest, size, &ingest.data_path(), prepare)?;
            }
        }
        Ok(true)
    }
}

impl LocalIngest {
    /// Takes the bytes of `file` without reading them; `None` where that cannot be done here. Which error says so
    /// differs from one file system to the next, and whatever fails here is done, and fails, the long way too.
    ///
    /// In this order: a reflink, which shares the bytes and nothing else; a second name, for a file of our own that
    /// nobody else may write to; a copy by the kernel.
    fn take(&self, file: &File, size: u64, check: Check) -> Result<Option<Taken>> {
        if rustix::fs::ioctl_ficlone(self.data(), file).is_ok() {
            return Ok(Some(Taken::Data));
        }
        if check == Check::Digest {
            return Ok(None);
        }
        let link = self.directory().join("link");
        labels::remove(&link)?;
        // An open file has this name, whatever became of the one it was opened by.
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        if self.may_link(file)? && rustix::fs::linkat(CWD, name, CWD, &link, AtFlags::SYMLINK_FOLLOW).is_ok()
        {
            file.sync_all().map_err(failed("sync", &link))?;
            return Ok(Some(Taken::Link(link)));
        }
        Ok(copy_range(file, self.data(), size).then_some(Taken::Data))
    }

    /// Returns whether `file` belongs to whom this store belongs to, and nobody else may write to it: what one writes
    /// to a file, its other name shows too.
    fn may_link(&self, file: &File) -> Result<bool> {
        let stat = |file: &File| file.metadata().map_err(failed("stat a file for", &self.data_path()));
        let found = stat(file)?;
        Ok(found.uid() == stat(self.data())?.uid() && found.mode() & 0o022 == 0)
    }
}

/// Lets the kernel copy; false unless all of it was.
fn copy_range(from: &File, to: &File, size: u64) -> bool {
    let (mut read, mut written) = (0, 0);
    while written < size {
        let left = usize::try_from(size - written).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), left) {
            Ok(count) if count > 0 => {}
            Err(rustix::io::Errno::INTR) => {}
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Blob;
    use crate::Ingester as _;
    use crate::Manager as _;
    use crate::Provider as _;
    use crate::link;
    use crate::read;
    use crate::write;
    use restow_oci::MediaType;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    fn stores(directory: &Path) -> (LocalStore, LocalStore) {
        let open = |name: &str| LocalStore::open(&directory.join(name)).unwrap();
        (open("from"), open("to"))
    }

    #[test]
    fn a_linked_blob_takes_no_room_and_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = stores(directory.path());
        let bytes = vec![7; 3 << 20];
        let descriptor = write(&from, MediaType::OCI_LAYER, &bytes).unwrap();
        let before = fs::metadata(from.path(&descriptor.digest)).unwrap();
        for _ in 0..2 {
            link(&from, &to, &descriptor).unwrap();
        }
        assert_eq!(read(&to, &descriptor, 3 << 20).unwrap(), bytes);
        let (source, target) =
            [&from, &to].map(|store| fs::metadata(store.path(&descriptor.digest)).unwrap()).into();
        assert_eq!((source.mode(), source.mtime_nsec()), (before.mode(), before.mtime_nsec()));
        // The very file, unless the file system can share the bytes of two.
        assert!(source.ino() == target.ino() || target.nlink() == 1);
        assert!(to.ingests().unwrap().is_empty() && !to.root().join("ingest").exists());
        from.remove(&descriptor.digest).unwrap();
        assert_eq!(read(&to, &descriptor, 3 << 20).unwrap(), bytes);
    }

    #[test]
    fn a_file_that_others_may_write_to_gets_no_second_name() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = stores(directory.path());
        let descriptor = write(&from, MediaType::OCI_LAYER, b"content").unwrap();
        let path = from.path(&descriptor.digest);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        link(&from, &to, &descriptor).unwrap();
        fs::write(&path, b"CONTENT").unwrap();
        assert_eq!(read(&to, &descriptor, 7).unwrap(), b"content");
        assert_eq!(fs::metadata(to.path(&descriptor.digest)).unwrap().mode() & 0o777, 0o444);
    }

    #[test]
    fn a_link_compares_sizes_and_leaves_nothing_where_they_differ() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = stores(directory.path());
        let descriptor = write(&from, MediaType::OCI_LAYER, b"content").unwrap();
        let longer = Descriptor { size: 8, ..descriptor.clone() };
        assert!(matches!(link(&from, &to, &longer), Err(Error::WrongSize { .. })));
        let file = File::open(from.path(&descriptor.digest)).unwrap();
        assert!(matches!(to.adopt(&file, &longer, Check::Size), Err(Error::WrongSize { .. })));
        assert!(!to.root().join("ingest").exists());
    }

    #[test]
    fn a_blob_without_a_file_is_copied() {
        let directory = tempfile::tempdir().unwrap();
        let (_, to) = stores(directory.path());
        let memory = crate::MemoryStore::new();
        let descriptor = write(&memory, MediaType::OCI_LAYER, b"content").unwrap();
        assert!(memory.open(&descriptor).unwrap().file().is_none());
        link(&memory, &to, &descriptor).unwrap();
        assert_eq!(read(&to, &descriptor, 7).unwrap(), b"content");
    }

    #[test]
    fn the_kernel_copies_all_or_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("from"), vec![9; 100_000]).unwrap();
        let (from, to) = (File::open(path("from")).unwrap(), File::create(path("to")).unwrap());
        assert!(copy_range(&from, &to, 100_000));
        assert_eq!(fs::read(path("to")).unwrap(), vec![9; 100_000]);
        // A source that has become shorter.
        assert!(!copy_range(&from, &to, 100_001));
    }

    #[test]
    fn only_a_whole_file_is_taken_for_a_blob() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, b"0123456789").unwrap();
        let section = |start, size| crate::file::Section::new(File::open(&path).unwrap().into(), start, size);
        assert!(section(0, 10).file().is_some());
        assert!(section(0, 9).file().is_none() && section(1, 9).file().is_none());
        let boxed: Box<dyn Blob> = Box::new(section(0, 10));
        assert!(boxed.file().is_some());
    }
}
