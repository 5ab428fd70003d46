//! Opening files that others wrote: regular files only, and never more bytes than allowed.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;

use crate::Blob;
use crate::Error;
use crate::Result;
use crate::error::failed;

/// Opens a regular file for reading and returns it with its size. A symlink is not followed, and a FIFO or a
/// device neither blocks nor acts: all of them are [`Error::NotRegular`].
pub fn open(path: &Path) -> Result<(File, u64)> {
    let file = open_with(OpenOptions::new().read(true), path)?;
    let size = file.metadata().map_err(failed("stat", path))?.len();
    Ok((file, size))
}

/// Reads a regular file of at most `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (file, size) = open(path)?;
    let mut bytes = Vec::new();
    if size <= limit {
        // The file may grow while it is read.
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed("read", path))?;
    }
    let size = size.max(bytes.len() as u64);
    match size <= limit {
        true => Ok(bytes),
        false => Err(Error::TooLarge { what: path.display().to_string(), size, limit }),
    }
}

/// Opens a regular file as `options` say.
pub(crate) fn open_with(options: &mut OpenOptions, path: &Path) -> Result<File> {
    let not_regular = |kind| Error::NotRegular { path: path.to_owned(), found: describe(kind) };
    // Neither follow a symlink nor wait for the other end of a FIFO.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options.custom_flags(flags.bits().cast_signed()).open(path).map_err(|error| {
        match path.symlink_metadata() {
            Ok(found) if !found.is_file() => not_regular(found.file_type()),
            _ => failed("open", path)(error),
        }
    })?;
    let kind = file.metadata().map_err(failed("stat", path))?.file_type();
    if kind.is_file() { Ok(file) } else { Err(not_regular(kind)) }
}

fn describe(kind: std::fs::FileType) -> &'static str {
    match kind {
        kind if kind.is_symlink() => "symbolic link",
        kind if kind.is_dir() => "directory",
        kind if kind.is_fifo() => "FIFO",
        kind if kind.is_socket() => "socket",
        _ => "device",
    }
}

/// A part of a file as a blob; with offset 0 and the size of the file, all of it.
#[derive(Debug)]
pub struct Section {
    file: Arc<File>,
    start: u64,
    size: u64,
}

impl Section {
    /// Serves `size` bytes of `file` from `start` on.
    pub fn new(file: Arc<File>, start: u64, size: u64) -> Self {
        Section { file, start, size }
    }
}

impl Blob for Section {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = self.size.saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        if length == 0 {
            // An offset far beyond the end is not one that the system accepts.
            return Ok(0);
        }
        self.file.read_at(&mut buffer[..length], self.start.saturating_add(offset))
    }

    fn file(&self) -> Option<&File> {
        let whole = self.start == 0 && self.file.metadata().is_ok_and(|found| found.len() == self.size);
        whole.then_some(&self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_regular_files_are_opened() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("file"), b"content").unwrap();
        symlink(at("file"), at("link")).unwrap();
        std::fs::create_dir(at("directory")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), rustix::fs::Mode::RWXU).unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        symlink("/dev/zero", at("hidden device")).unwrap();

        for (path, found) in [
            (at("link"), "symbolic link"),
            (at("directory"), "directory"),
            (at("fifo"), "FIFO"),
            (at("socket"), "socket"),
            (at("hidden device"), "symbolic link"),
            ("/dev/zero".into(), "device"),
        ] {
            let error = open(&path).unwrap_err();
            assert!(matches!(&error, Error::NotRegular { found: kind, .. } if *kind == found), "{error}");
        }
        assert_eq!(open(&at("file")).unwrap().1, 7);
    }

    #[test]
    fn reading_stops_at_the_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, b"content").unwrap();
        assert_eq!(read(&path, 7).unwrap(), b"content");
        assert!(matches!(read(&path, 6), Err(Error::TooLarge { size: 7, limit: 6, .. })));
    }

    #[test]
    fn a_section_ends_where_it_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, b"0123456789").unwrap();
        let section = Section::new(Arc::new(open(&path).unwrap().0), 2, 5);
        let mut buffer = [0; 10];
        assert_eq!(section.read_at(&mut buffer, 0).unwrap(), 5);
        assert_eq!(&buffer[..5], b"23456");
        assert_eq!(section.read_at(&mut buffer, 4).unwrap(), 1);
        assert_eq!(section.read_at(&mut buffer, 5).unwrap(), 0);
        assert_eq!(section.read_at(&mut buffer, u64::MAX).unwrap(), 0);
    }
}
