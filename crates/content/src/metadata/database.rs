//! The tables, and the transactions on them.
//!
//! | table | row |
//! |---|---|
//! | `blob` | a namespace has a blob, and says this of it |
//! | `image` | a name and the descriptor it stands for |
//! | `lease` | something is kept for a while |
//! | `lease_blob` | a blob that a lease keeps |
//! | `namespace` | what is said of a namespace |
//!
//! Labels are a JSON object of strings; times are nanoseconds since 1970.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::SystemTime;

use rusqlite::Connection;
use rusqlite::ErrorCode;
use rusqlite::OptionalExtension as _;
use rusqlite::Row;
use rusqlite::Transaction;
use rusqlite::TransactionBehavior;
use rusqlite::params;

use crate::Error;
use crate::Labels;
use crate::Result;

/// The version of the tables, in the database's `user_version`.
const VERSION: i64 = 1;

/// How long to wait for the transaction of another process, none of which takes long.
const PATIENCE: Duration = Duration::from_secs(120);

const TABLES: &str = "
    CREATE TABLE namespace (
        name TEXT NOT NULL PRIMARY KEY,
        labels TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE blob (
        namespace TEXT NOT NULL,
        digest TEXT NOT NULL,
        labels TEXT NOT NULL,
        created INTEGER NOT NULL,
        updated INTEGER NOT NULL,
        PRIMARY KEY (namespace, digest)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX blob_digest ON blob (digest);
    CREATE TABLE image (
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        target BLOB NOT NULL,
        labels TEXT NOT NULL,
        created INTEGER NOT NULL,
        updated INTEGER NOT NULL,
        PRIMARY KEY (namespace, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE lease (
        namespace TEXT NOT NULL,
        id TEXT NOT NULL,
        labels TEXT NOT NULL,
        created INTEGER NOT NULL,
        PRIMARY KEY (namespace, id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE lease_blob (
        namespace TEXT NOT NULL,
        lease TEXT NOT NULL,
        digest TEXT NOT NULL,
        PRIMARY KEY (namespace, lease, digest),
        FOREIGN KEY (namespace, lease) REFERENCES lease (namespace, id) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;
";

/// An open database.
#[derive(Debug)]
pub(super) struct Database {
    connection: Mutex<Connection>,
    path: PathBuf,
}

/// What is said of a blob in a namespace.
#[derive(Debug)]
pub(super) struct BlobRow {
    pub(super) digest: String,
    pub(super) labels: Labels,
    pub(super) created: SystemTime,
    pub(super) updated: SystemTime,
}

/// A failure of the database itself.
pub(super) type Failure = rusqlite::Error;

impl Database {
    /// Opens the database at `path`, which may be new.
    pub(super) fn open(path: &Path) -> Result<Database> {
        let open = || {
            let connection = Connection::open(path)?;
            connection.busy_timeout(PATIENCE)?;
            // What a transaction wrote is on the disk when it ends.
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "foreign_keys", true)?;
            Ok(connection)
        };
        let connection = open().map_err(failed("open the database", path))?;
        Ok(Database { connection: Mutex::new(connection), path: path.to_owned() })
    }

    /// Returns whether the tables are there. Those of a later version are an error.
    pub(super) fn is_ready(&self) -> Result<bool> {
        let version: i64 = self.read("read the version", |connection| {
            connection.query_row("PRAGMA user_version", [], |row| row.get(0))
        })?;
        match version {
            0 => Ok(false),
            VERSION => Ok(true),
            _ => Err(Error::Metadata {
                action: "use the tables",
                path: self.path.clone(),
                source: format!("their version is {version}, expected {VERSION}").into(),
            }),
        }
    }

    /// Makes the tables and what `fill` puts into them, or nothing. No other program may prepare the same database
    /// meanwhile.
    pub(super) fn prepare(&self, fill: impl FnOnce(&Transaction<'_>) -> Result<()>) -> Result<()> {
        // With others that open it doing the same at once, SQLite would refuse it to one of them without waiting.
        let ahead = self.connection().pragma_update(None, "journal_mode", "WAL");
        ahead.map_err(self.failed("prepare the database"))?;
        self.change("make the tables", |transaction| {
            transaction.execute_batch(TABLES).map_err(self.failed("make the tables"))?;
            fill(transaction)?;
            let version = transaction.pragma_update(None, "user_version", VERSION);
            version.map_err(self.failed("make the tables"))
        })
    }

    /// Looks something up.
    pub(super) fn read<T>(
        &self,
        action: &'static str,
        read: impl FnOnce(&Connection) -> Result<T, Failure>,
    ) -> Result<T> {
        let result = read(&self.connection()).map_err(self.failed(action));
        result.inspect_err(|error| self.suspect(error))
    }

    /// Changes something, durably or not at all. Other processes wait meanwhile.
    pub(super) fn change<T>(
        &self,
        action: &'static str,
        change: impl FnOnce(&Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut connection = self.connection();
        let attempt = || {
            let transaction = connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(self.failed(action))?;
            let result = change(&transaction)?;
            transaction.commit().map_err(self.failed(action))?;
            Ok(result)
        };
        attempt().inspect_err(|error| self.suspect(error))
    }

    /// Notes damage for whoever opens the database next.
    fn suspect(&self, error: &Error) {
        if is_damage(error) {
            let _ = std::fs::write(suspicion(&self.path), b"");
        }
    }

    /// Returns whether everything in the database can be read, as SQLite tells. All of it is read for that.
    pub(super) fn is_whole(&self) -> Result<bool> {
        let answer: String = self.read("check the database", |connection| {
            connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        })?;
        Ok(answer == "ok")
    }

    pub(super) fn failed(&self, action: &'static str) -> impl Fn(Failure) -> Error {
        failed(action, &self.path)
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A transaction that a panic ended was rolled back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(action: &'static str, path: &Path) -> impl Fn(Failure) -> Error {
    let path = path.to_owned();
    move |error| Error::Metadata { action, path: path.clone(), source: error.into() }
}

/// Returns where it is noted that the database at `path` may be damaged.
pub(super) fn suspicion(path: &Path) -> PathBuf {
    path.with_extension("suspect")
}

/// Returns whether the error says that a file is no database, or not any more.
pub(crate) fn is_damage(error: &Error) -> bool {
    let Error::Metadata { source, .. } = error else { return false };
    matches!(
        source.downcast_ref::<Failure>().and_then(rusqlite::Error::sqlite_error_code),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)
    )
}

/// Returns what a namespace says of a blob.
pub(super) fn blob(
    connection: &Connection,
    namespace: &str,
    digest: &str,
) -> Result<Option<BlobRow>, Failure> {
    connection
        .query_row(
            "SELECT digest, labels, created, updated FROM blob WHERE namespace = ?1 AND digest = ?2",
            params![namespace, digest],
            blob_row,
        )
        .optional()
}

pub(super) fn blob_row(row: &Row<'_>) -> Result<BlobRow, Failure> {
    Ok(BlobRow {
        digest: row.get(0)?,
        labels: labels(row, 1)?,
        created: time(row, 2)?,
        updated: time(row, 3)?,
    })
}

/// Says something of a blob in a namespace.
pub(super) fn set_blob(connection: &Connection, namespace: &str, row: &BlobRow) -> Result<(), Failure> {
    let BlobRow { digest, labels, created, updated } = row;
    connection
        .execute(
            "INSERT OR REPLACE INTO blob VALUES (?1, ?2, ?3, ?4, ?5)",
            params![namespace, digest, to_json(labels), nanoseconds(*created), nanoseconds(*updated)],
        )
        .map(drop)
}

/// Reads labels from column `at`.
pub(super) fn labels(row: &Row<'_>, at: usize) -> Result<Labels, Failure> {
    let text: String = row.get(at)?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::FromSqlConversionFailure(at, rusqlite::types::Type::Text, error.into()))
}

pub(super) fn to_json(labels: &Labels) -> String {
    let map = labels.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
    serde_json::Value::Object(map).to_string()
}

/// Reads a time from column `at`.
pub(super) fn time(row: &Row<'_>, at: usize) -> Result<SystemTime, Failure> {
    let nanoseconds: i64 = row.get(at)?;
    let size = Duration::from_nanos(nanoseconds.unsigned_abs());
    Ok(if nanoseconds < 0 { SystemTime::UNIX_EPOCH - size } else { SystemTime::UNIX_EPOCH + size })
}

pub(super) fn nanoseconds(time: SystemTime) -> i64 {
    let of = |size: Duration| i64::try_from(size.as_nanos()).unwrap_or(i64::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => of(after),
        Err(before) => -of(before.duration()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_opens_a_database_that_is_being_made_is_not_turned_away() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metadata.db");
        let maker = Connection::open(&path).unwrap();
        maker.execute_batch("BEGIN IMMEDIATE; CREATE TABLE blob (digest TEXT)").unwrap();
        assert!(!Database::open(&path).unwrap().is_ready().unwrap());
        maker.execute_batch("ROLLBACK").unwrap();
        let database = Database::open(&path).unwrap();
        database.prepare(|_| Ok(())).unwrap();
        let mode: String = database
            .read("test", |connection| connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)))
            .unwrap();
        assert_eq!(mode, "wal");
        assert!(Database::open(&path).unwrap().is_ready().unwrap());
    }
}
