//! Notes on earlier work, in one file that several processes share: what may be forgotten, and only ever saves work.
//!
//! A note is a few bytes below a subject ("layers", "orders") and a key. The file holds at most so many bytes of keys and
//! values; the notes used longest ago go first. Use is counted, not timed: a clock that jumps evicts nothing.
//!
//! Nothing here is an error for who takes notes: one that cannot be read is not there, one that cannot be written is not
//! kept, and a damaged file is begun anew.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use restow_oci::Digest;
use rusqlite::Connection;
use rusqlite::ErrorCode;
use rusqlite::OptionalExtension as _;
use rusqlite::Transaction;
use rusqlite::TransactionBehavior;
use rusqlite::params;

/// The version of the table, in the file's `user_version`. A file of another version is begun anew.
const VERSION: i64 = 1;

/// How long to wait for another process: its transactions take milliseconds, and a note is not worth more.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many notes may be used before that is written down.
const USES_IN_MEMORY: usize = 256;

/// What a note takes beside its key and value, in bytes: the row, and its place in two indexes.
const ROW: u64 = 100;

const TABLE: &str = "
    CREATE TABLE note (
        subject TEXT NOT NULL,
        key BLOB NOT NULL,
        value BLOB NOT NULL,
        used INTEGER NOT NULL,
        PRIMARY KEY (subject, key)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX note_used ON note (used);
    CREATE TABLE total (bytes INTEGER NOT NULL) STRICT;
    INSERT INTO total VALUES (0);
";

/// Notes on earlier work in a file that several processes share, bounded in bytes; the notes used longest ago go first.
#[derive(Debug)]
pub struct Notes {
    state: Mutex<State>,
    /// Bytes of keys and values, and of the rows around them.
    limit: u64,
}

#[derive(Debug)]
struct State {
    connection: Connection,
    path: PathBuf,
    /// The notes that were used since that was last written down.
    uses: Vec<(String, Vec<u8>)>,
}

impl Notes {
    /// Opens the notes at `path`, which may be new, as may its directory. Returns nothing where they cannot be kept.
    pub fn open(path: &Path, limit: u64) -> Option<Notes> {
        crate::publish::create_directory(path.parent()?).ok()?;
        let connection = match connect(path) {
            Ok(connection) => connection,
            Err(error) if means_nothing(&error) => begin_anew(path)?,
            Err(_) => return None,
        };
        let state = State { connection, path: path.to_owned(), uses: Vec::new() };
        Some(Notes { state: Mutex::new(state), limit })
    }

    /// Returns the note below `subject` with this key.
    pub fn recall(&self, subject: &str, key: &str) -> Option<Vec<u8>> {
        let key = digest(key);
        self.with(|state| {
            let found = state.find(subject, &key)?;
            if found.is_some() {
                state.uses.push((subject.to_owned(), key.clone()));
                if state.uses.len() >= USES_IN_MEMORY {
                    state.change(write_uses)?;
                }
            }
            Ok(found)
        })?
    }

    /// Notes `value` below `subject` under this key, instead of what was noted before. A value over an eighth of what all
    /// notes may take is not kept.
    pub fn remember(&self, subject: &str, key: &str, value: &[u8]) {
        if value.len() as u64 > self.limit / 8 {
            return;
        }
        let key = digest(key);
        self.with(|state| {
            state.change(|transaction, uses| {
                write_uses(transaction, uses)?;
                remove(transaction, subject, &key)?;
                let used = next_use(transaction)?;
                let row = params![subject, key, value, used];
                transaction.prepare("INSERT INTO note VALUES (?1, ?2, ?3, ?4)")?.execute(row)?;
                grow(transaction, weight(value.len()))?;
                evict(transaction, self.limit)
            })
        });
    }

    /// Does something with the file. Where it turns out to be damaged it is begun anew.
    fn with<T>(&self, act: impl FnOnce(&mut State) -> rusqlite::Result<T>) -> Option<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match act(&mut state) {
            Ok(done) => Some(done),
            Err(error) => {
                if means_nothing(&error)
                    && let Some(connection) = begin_anew(&state.path)
                {
                    state.uses.clear();
                    state.connection = connection;
                }
                None
            }
        }
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        self.with(|state| match state.uses.is_empty() {
            true => Ok(()),
            false => state.change(write_uses),
        });
    }
}

impl State {
    fn find(&self, subject: &str, key: &[u8]) -> rusqlite::Result<Option<Vec<u8>>> {
        let mut statement =
            self.connection.prepare("SELECT value FROM note WHERE subject = ?1 AND key = ?2")?;
        statement.query_row(params![subject, key], |row| row.get(0)).optional()
    }

    /// Changes something, or nothing. Other processes wait meanwhile. `change` is given the uses to write down.
    fn change(
        &mut self,
        change: impl FnOnce(&Transaction<'_>, &[(String, Vec<u8>)]) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<()> {
        let uses = std::mem::take(&mut self.uses);
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        change(&transaction, &uses)?;
        transaction.commit()
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(PATIENCE)?;
    // A crash of the machine may take the last notes, and nothing else.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // Not worth waiting for: whoever comes next may do it.
    let _ = connection.pragma_update(None, "journal_mode", "WAL");
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    match transaction.query_row("PRAGMA user_version", [], |row| row.get(0))? {
        0 => {
            transaction.execute_batch(TABLE)?;
            transaction.pragma_update(None, "user_version", VERSION)?;
        }
        VERSION => {}
        _ => return Err(rusqlite::Error::InvalidQuery),
    }
    transaction.commit()?;
    Ok(connection)
}

/// Returns whether the error says that the file holds no notes, or not any more.
fn means_nothing(error: &rusqlite::Error) -> bool {
    let damage = Some(ErrorCode::NotADatabase) == error.sqlite_error_code()
        || Some(ErrorCode::DatabaseCorrupt) == error.sqlite_error_code();
    damage || matches!(error, rusqlite::Error::InvalidQuery | rusqlite::Error::InvalidColumnType(..))
}

/// Removes the file and what belongs to it, and makes it again.
fn begin_anew(path: &Path) -> Option<Connection> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let _ = std::fs::remove_file(PathBuf::from(name));
    }
    connect(path).ok()
}

/// Keys are kept as their digests: all are of one size then, however long they are.
fn digest(key: &str) -> Vec<u8> {
    Digest::sha256(key.as_bytes()).encoded().as_bytes().to_vec()
}

/// Returns the bytes that a note takes, by those of its value.
fn weight(value: usize) -> u64 {
    (value as u64).saturating_add(ROW)
}

fn next_use(transaction: &Transaction<'_>) -> rusqlite::Result<i64> {
    let mut statement = transaction.prepare("SELECT ifnull(max(used), 0) + 1 FROM note")?;
    statement.query_row([], |row| row.get(0))
}

fn write_uses(transaction: &Transaction<'_>, uses: &[(String, Vec<u8>)]) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare("UPDATE note SET used = ?3 WHERE subject = ?1 AND key = ?2")?;
    for (subject, key) in uses {
        statement.execute(params![subject, key, next_use(transaction)?])?;
    }
    Ok(())
}

fn remove(transaction: &Transaction<'_>, subject: &str, key: &[u8]) -> rusqlite::Result<()> {
    let mut statement =
        transaction.prepare("DELETE FROM note WHERE subject = ?1 AND key = ?2 RETURNING length(value)")?;
    let removed: Option<i64> = statement.query_row(params![subject, key], |row| row.get(0)).optional()?;
    removed.map_or(Ok(()), |length| shrink(transaction, weight(usize::try_from(length).unwrap_or_default())))
}

fn grow(transaction: &Transaction<'_>, bytes: u64) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare("UPDATE total SET bytes = bytes + ?1")?;
    statement.execute([i64::try_from(bytes).unwrap_or(i64::MAX)]).map(drop)
}

fn shrink(transaction: &Transaction<'_>, bytes: u64) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare("UPDATE total SET bytes = max(bytes - ?1, 0)")?;
    statement.execute([i64::try_from(bytes).unwrap_or(i64::MAX)]).map(drop)
}

/// Removes the notes used longest ago until the rest is within the limit.
fn evict(transaction: &Transaction<'_>, limit: u64) -> rusqlite::Result<()> {
    let total = |transaction: &Transaction<'_>| {
        let mut statement = transaction.prepare("SELECT bytes FROM total")?;
        statement.query_row([], |row| row.get::<_, i64>(0))
    };
    while u64::try_from(total(transaction)?).unwrap_or_default() > limit {
        let mut statement = transaction.prepare("SELECT subject, key FROM note ORDER BY used LIMIT 1")?;
        let oldest: Option<(String, Vec<u8>)> =
            statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let Some((subject, key)) = oldest else { return Ok(()) };
        remove(transaction, &subject, &key)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &tempfile::TempDir, limit: u64) -> Notes {
        Notes::open(&directory.path().join("new/notes.db"), limit).unwrap()
    }

    #[test]
    fn a_note_is_found_below_its_subject_by_whoever_opens_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (open(&directory, 1 << 20), open(&directory, 1 << 20));
        assert_eq!(first.recall("layers", "a"), None);
        first.remember("layers", "a", b"1");
        first.remember("layers", "b", b"2");
        second.remember("layers", "a", b"3");
        assert_eq!(second.recall("layers", "b"), Some(b"2".to_vec()));
        assert_eq!(first.recall("layers", "a"), Some(b"3".to_vec()));
        assert_eq!(first.recall("orders", "a"), None);
    }

    #[test]
    fn the_notes_used_longest_ago_go() {
        let directory = tempfile::tempdir().unwrap();
        // Room for ten.
        let value = [7; 100];
        let notes = open(&directory, 10 * weight(value.len()));
        let key = |number: usize| format!("key {number}");
        (0..10).for_each(|number| notes.remember("s", &key(number), &value));
        assert!(notes.recall("s", &key(0)).is_some());
        notes.remember("s", &key(10), &value);
        // What is noted anew takes the place of what was there.
        (0..20).for_each(|_| notes.remember("s", &key(10), &value));
        drop(notes);
        let notes = open(&directory, 10 * weight(value.len()));
        let there: Vec<_> = (0..11).filter(|number| notes.recall("s", &key(*number)).is_some()).collect();
        assert_eq!(there, [0, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        notes.remember("s", "large", &[7; 300]);
        assert_eq!(notes.recall("s", "large"), None);
    }

    #[test]
    fn uses_count_though_nothing_else_is_noted() {
        let directory = tempfile::tempdir().unwrap();
        let limit = 2 * weight(1);
        // The largest value is an eighth of the limit, so these are small.
        let notes = open(&directory, limit);
        notes.remember("s", "a", b"1");
        notes.remember("s", "b", b"2");
        drop(notes);
        let notes = open(&directory, limit);
        assert!(notes.recall("s", "a").is_some());
        drop(notes);
        let notes = open(&directory, limit);
        notes.remember("s", "c", b"3");
        assert!(notes.recall("s", "a").is_some());
        assert!(notes.recall("s", "b").is_none());
    }

    #[test]
    fn damage_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/notes.db");
        for damage in [
            &b"not a database, but as long as one's header is, or even somewhat longer than that......"[..],
            b"",
        ] {
            open(&directory, 1 << 20).remember("s", "a", b"1");
            std::fs::write(&path, damage).unwrap();
            let notes = open(&directory, 1 << 20);
            assert_eq!(notes.recall("s", "a"), None);
            notes.remember("s", "a", b"2");
            assert_eq!(notes.recall("s", "a"), Some(b"2".to_vec()));
        }
        let later = Connection::open(&path).unwrap();
        later.pragma_update(None, "user_version", 77).unwrap();
        drop(later);
        assert_eq!(open(&directory, 1 << 20).recall("s", "a"), None);
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Notes::open(&file.path().join("notes.db"), 1).is_none());
    }

    #[test]
    fn many_take_notes_at_once() {
        let directory = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let directory = &directory;
                scope.spawn(move || {
                    let notes = open(directory, 1 << 20);
                    for number in 0..25 {
                        notes.remember("s", &format!("{thread} {number}"), b"x");
                    }
                });
            }
        });
        let notes = open(&directory, 1 << 20);
        let keys = (0..8).flat_map(|thread| (0..25).map(move |number| format!("{thread} {number}")));
        assert_eq!(keys.filter(|key| notes.recall("s", key).is_some()).count(), 200);
    }
}
