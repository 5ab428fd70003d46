//! What has become of jobs, a line of JSON each, written when a job ends.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use serde_json::Map;
use serde_json::Value;

use crate::Error;
use crate::Result;

/// The most bytes of a line that is read.
const LINE: usize = 16 << 20;

/// A journal that is open. It belongs to this run alone until it is dropped.
///
/// A line is written with one call, so a process that is killed leaves whole lines, and at most one that was cut off; that
/// one goes when the journal is opened next.
#[derive(Debug)]
pub struct Journal {
    file: Mutex<File>,
    path: PathBuf,
}

impl Journal {
    /// Opens a journal, which may be new, and gives `earlier` each line of those that are there, in their order.
    /// Another run that has it open is an error.
    pub fn open(path: &Path, mut earlier: impl FnMut(Map<String, Value>)) -> Result<Journal> {
        let failed = |action| move |source| Error::Journal { action, path: path.to_owned(), source };
        let open = || {
            let options =
                OpenOptions::new().read(true).append(true).create(true).truncate(false).open(path)?;
            options.try_lock().map_err(|error| match error {
                std::fs::TryLockError::WouldBlock => {
                    io::Error::new(io::ErrorKind::ResourceBusy, "another run writes to it")
                }
                std::fs::TryLockError::Error(error) => error,
            })?;
            Ok(options)
        };
        let file = open().map_err(failed("open"))?;
        let mut reader = BufReader::new(&file);
        let mut end = 0;
        let mut bytes = Vec::new();
        for line in 1.. {
            bytes.clear();
            let read = io::Read::take(&mut reader, LINE as u64).read_until(b'\n', &mut bytes);
            read.map_err(failed("read"))?;
            if bytes.last() != Some(&b'\n') {
                break;
            }
            let parsed = serde_json::from_slice(&bytes);
            earlier(parsed.map_err(|_| Error::NotAJournal { path: path.to_owned(), line })?);
            end += bytes.len() as u64;
        }
        if bytes.len() == LINE {
            return Err(Error::NotAJournal { path: path.to_owned(), line: 1 });
        }
        let cut = || (&file).seek(SeekFrom::End(0)).and_then(|_| file.set_len(end));
        cut().map_err(failed("cut"))?;
        Ok(Journal { file: Mutex::new(file), path: path.to_owned() })
    }

    /// Adds a line.
    pub fn add(&self, line: &Map<String, Value>) -> Result<()> {
        let mut text = serde_json::to_string(line).map_err(io::Error::other).map_err(self.failed())?;
        text.push('\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(text.as_bytes()).map_err(self.failed())
    }

    fn failed(&self) -> impl FnOnce(io::Error) -> Error {
        let path = self.path.clone();
        move |source| Error::Journal { action: "write", path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u64) -> Map<String, Value> {
        Map::from_iter([("job".to_owned(), number.into())])
    }

    fn open(path: &Path) -> (Result<Journal>, Vec<Value>) {
        let mut lines = Vec::new();
        let journal = Journal::open(path, |line| lines.push(line["job"].clone()));
        (journal, lines)
    }

    #[test]
    fn a_line_that_was_cut_off_goes_and_the_rest_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let (journal, lines) = open(&path);
        assert!(lines.is_empty());
        journal.unwrap().add(&line(1)).unwrap();
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"job\":2").unwrap();
        let (journal, lines) = open(&path);
        assert_eq!(lines, [1]);
        let journal = journal.unwrap();
        journal.add(&line(3)).unwrap();
        assert!(open(&path).0.unwrap_err().to_string().starts_with("cannot open journal"));
        drop(journal);
        assert_eq!(open(&path).1, [1, 3]);
    }

    #[test]
    fn another_kind_of_file_is_no_journal_and_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        for text in ["{\"job\":1}\nbuild all\n", "[1]\n"] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(open(&path).0, Err(Error::NotAJournal { .. })), "{text}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
