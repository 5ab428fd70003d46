//! What is kept for a while though nothing refers to it.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

use restow_oci::Digest;
use restow_oci::Timestamp;
use rusqlite::Connection;
use rusqlite::Row;
use rusqlite::params;

use super::MetadataStore;
use super::database;
use super::database::Failure;
use super::database::nanoseconds;
use super::holder::Holder;
use crate::Error;
use crate::Filterable;
use crate::Labels;
use crate::Result;
use crate::filter::label;
use crate::labels;
use crate::now;

/// When a lease or an image ends.
pub(super) const EXPIRE: &str = "containerd.io/gc.expire";

/// Returns when what has these labels ends by itself.
pub(super) fn expires(labels: &Labels) -> Option<SystemTime> {
    labels.get(EXPIRE)?.parse::<Timestamp>().ok().map(SystemTime::from)
}

/// Keeps blobs until it is deleted or expires, which its label `containerd.io/gc.expire` says in RFC 3339. With the
/// label `containerd.io/gc.flat` it keeps them alone, and not what they refer to.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lease {
    /// Its name.
    pub id: String,
    /// Its labels.
    pub labels: Labels,
    /// When it was made.
    pub created: SystemTime,
}

impl Lease {
    /// Returns when the lease ends by itself. A label that is no time says nothing, as in containerd.
    pub fn expires(&self) -> Option<SystemTime> {
        expires(&self.labels)
    }
}

impl Filterable for Lease {
    fn field(&self, path: &[String]) -> Option<String> {
        match path.split_first()? {
            (first, []) if first == "id" => Some(self.id.clone()),
            (first, rest) if first == "labels" => label(&self.labels, rest),
            _ => None,
        }
    }
}

impl MetadataStore {
    /// Makes a lease.
    pub fn create_lease(&self, id: &str, expires: Option<SystemTime>, mut labels: Labels) -> Result<Lease> {
        let action = "create a lease";
        if let Some(expires) = expires {
            labels.insert(EXPIRE.to_owned(), Timestamp::from(expires).floor().to_string());
        }
        labels::check(&labels)?;
        let created = now();
        self.database.change(action, |transaction| {
            let values = params![&*self.namespace, id, database::to_json(&labels), nanoseconds(created)];
            match transaction.execute("INSERT OR IGNORE INTO lease VALUES (?1, ?2, ?3, ?4)", values) {
                Ok(0) => Err(Error::LeaseExists { id: id.to_owned() }),
                result => result.map(drop).map_err(self.database.failed(action)),
            }
        })?;
        Ok(Lease { id: id.to_owned(), labels, created })
    }

    /// Returns all leases, in the order of their names, those that have expired included.
    pub fn leases(&self) -> Result<Vec<Lease>> {
        self.database.read("list leases", |connection| {
            let mut statement = connection
                .prepare("SELECT id, labels, created FROM lease WHERE namespace = ?1 ORDER BY id")?;
            let rows = statement.query_map([&*self.namespace], lease)?;
            rows.collect()
        })
    }

    /// Returns the blobs that a lease keeps, in their order.
    pub fn leased(&self, id: &str) -> Result<Vec<Digest>> {
        let digests: Vec<String> = self.database.read("list the blobs of a lease", |connection| {
            let mut statement = connection.prepare(
                "SELECT digest FROM lease_blob WHERE namespace = ?1 AND lease = ?2 ORDER BY digest",
            )?;
            let rows = statement.query_map(params![&*self.namespace, id], |row| row.get(0))?;
            rows.collect()
        })?;
        Ok(digests.iter().filter_map(|digest| Digest::parse(digest).ok()).collect())
    }

    /// Deletes a lease. What it alone kept stays until it is collected.
    pub fn delete_lease(&self, id: &str) -> Result<()> {
        let action = "delete a lease";
        self.database.change(action, |transaction| {
            let statement = "DELETE FROM lease WHERE namespace = ?1 AND id = ?2";
            match transaction.execute(statement, params![&*self.namespace, id]) {
                Ok(0) => Err(Error::NoLease { id: id.to_owned() }),
                result => result.map(drop).map_err(self.database.failed(action)),
            }
        })
    }

    /// Returns the same store under a lease: whatever is committed or found through it is kept.
    pub fn under_lease(&self, id: &str) -> MetadataStore {
        MetadataStore { lease: Some(id.into()), ..self.clone() }
    }

    /// Returns the same store under a lease of its own, which ends with the result, whatever the clock says meanwhile;
    /// after a crash, once `lifetime` has passed.
    pub fn hold(&self, lifetime: Duration) -> Result<Held> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let now = now();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("restow-{}-{}-{count}", std::process::id(), nanoseconds(now));
        let holder = Holder::new(self.root(), &id)?;
        self.create_lease(&id, now.checked_add(lifetime), Labels::new())?;
        Ok(Held { store: self.under_lease(&id), id, _holder: holder })
    }
}

/// A store under a lease that ends when this is dropped.
#[derive(Debug)]
pub struct Held {
    store: MetadataStore,
    id: String,
    /// Dropped after the lease is deleted.
    _holder: Holder,
}

impl std::ops::Deref for Held {
    type Target = MetadataStore;

    fn deref(&self) -> &MetadataStore {
        &self.store
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // One that stays expires.
        let _ = self.store.delete_lease(&self.id);
    }
}

pub(super) fn lease(row: &Row<'_>) -> Result<Lease, Failure> {
    Ok(Lease { id: row.get(0)?, labels: database::labels(row, 1)?, created: database::time(row, 2)? })
}

/// Lets a lease last from `now` as long as it was to last when it was made.
pub(super) fn renew(lease: &mut Lease, now: SystemTime) {
    let lifetime = lease.expires().and_then(|end| end.duration_since(lease.created).ok());
    let end = now + lifetime.unwrap_or_default();
    lease.labels.insert(EXPIRE.to_owned(), Timestamp::from(end).floor().to_string());
}

/// Adds a blob to a lease; false if there is no such lease.
pub(super) fn attach(
    connection: &Connection,
    namespace: &str,
    lease: &str,
    digest: &Digest,
) -> Result<bool, Failure> {
    let exists = connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM lease WHERE namespace = ?1 AND id = ?2)",
        params![namespace, lease],
        |row| row.get(0),
    )?;
    if exists {
        connection.execute(
            "INSERT OR IGNORE INTO lease_blob VALUES (?1, ?2, ?3)",
            params![namespace, lease, digest.as_str()],
        )?;
    }
    Ok(exists)
}
