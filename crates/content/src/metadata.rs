//! A store with a database: images, leases, namespaces and labels, and the collection of what nothing refers
//! to.
//!
//! | path | what |
//! |---|---|
//! | `blobs`, `ingest` | the bytes, as [`LocalStore`] keeps them |
//! | `metadata.db` | what is said of them, in SQLite |
//! | `lock` | shared by whoever makes a blob visible, held alone by whoever removes some |
//!
//! The database says which blobs there are; one whose file is missing is not there. It knows of a blob before
//! its file is in place, so that no blob is ever seen without its labels or outside of its lease. A database
//! that is lost is made again from the blobs: all of them then belong to [`DEFAULT_NAMESPACE`], and a manifest or index
//! that no other one refers to becomes an image called `recovered@` and its digest. Labels, names and leases are lost
//! with the database; so another blob that no document refers to gets the label `containerd.io/gc.root`, and is kept
//! until somebody decides. Where a database turns out to be damaged only when it is used, the use fails, and whoever
//! opens the store next makes it again.
//!
//! What containerd wrote is for [`LocalStore`] alone: its database is another one, and is neither read nor written here.
//! A blob that is brought into its directory is unknown to it until somebody registers it, as `ctr content ingest` with
//! its digest does, and is removed by its next collection.
//!
//! SQLite was chosen over a database of Rust alone because several processes may use it at once.

mod collect;
pub(crate) mod database;
mod holder;
mod images;
mod ingest;
mod leases;
mod lock;
mod rebuild;

use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Limits;
use rusqlite::params;

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
use crate::LocalStore;
use crate::Manager;
use crate::Provider;
use crate::Result;
use crate::labels;
use crate::local::LocalIngest;
use crate::now;
use crate::publish;
use crate::read::digester;

pub use self::collect::Collected;
pub use self::collect::Collection;
use self::database::BlobRow;
use self::database::Database;
pub use self::images::Image;
pub use self::leases::Held;
pub use self::leases::Lease;
pub use self::lock::Writer;
pub use self::rebuild::Rebuilt;

/// A namespace's view of a store with a database. Clones share the database.
///
/// Several may be open on one directory, in several processes. Whoever writes several blobs before it names an
/// image [holds](MetadataStore::hold) a lease meanwhile, or a collection may take them.
#[derive(Clone, Debug)]
pub struct MetadataStore {
    blobs: LocalStore,
    database: Arc<Database>,
    namespace: Arc<str>,
    lease: Option<Arc<str>>,
    sharing: Sharing,
    limits: Limits,
}

/// Whether a namespace may have the blobs of another one for knowing their digests.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Sharing {
    /// Yes.
    #[default]
    Shared,
    /// No, except for those of namespaces with the label `containerd.io/namespace.shareable`.
    Isolated,
}

/// The namespace of those who name none.
pub const DEFAULT_NAMESPACE: &str = "default";

const DATABASE: &str = "metadata.db";
const SHAREABLE: &str = "containerd.io/namespace.shareable";

/// The most blobs that are looked up at a time.
const PAGE: usize = 1000;

impl MetadataStore {
    /// Opens the store at `root`, or makes it, in [`DEFAULT_NAMESPACE`]. Says whether the database had to be
    /// made again.
    pub fn create(root: &Path, limits: &Limits) -> Result<(MetadataStore, Option<Rebuilt>)> {
        refuse_others(root)?;
        publish::create_directory(root)?;
        let blobs = LocalStore::open(root)?;
        let (database, rebuilt) = rebuild::open(&blobs, DEFAULT_NAMESPACE, limits)?;
        let store = MetadataStore {
            blobs,
            database: Arc::new(database),
            namespace: DEFAULT_NAMESPACE.into(),
            lease: None,
            sharing: Sharing::default(),
            limits: limits.clone(),
        };
        Ok((store, rebuilt))
    }

    /// Returns whether there is a store at `root`.
    pub fn exists(root: &Path) -> bool {
        root.join(DATABASE).is_file() || root.join("blobs").is_dir()
    }

    /// Returns the same store as another namespace sees it, outside of any lease.
    pub fn namespace(&self, name: &str, sharing: Sharing) -> Result<MetadataStore> {
        check_namespace(name)?;
        Ok(MetadataStore { namespace: name.into(), lease: None, sharing, ..self.clone() })
    }

    /// Returns the directory.
    pub fn root(&self) -> &Path {
        self.blobs.root()
    }

    /// Returns the blobs without what is said of them. What is written there belongs to no namespace.
    pub fn blobs(&self) -> &LocalStore {
        &self.blobs
    }

    /// Puts a blob away that is not what its digest says, as [`LocalStore::quarantine`] does.
    pub fn quarantine(&self, digest: &Digest) -> Result<Option<PathBuf>> {
        let _lock = self.lock_alone()?;
        self.blobs.quarantine(digest)
    }

    /// Replaces the labels of this namespace.
    pub fn label_namespace(&self, labels: &Labels) -> Result<()> {
        labels::check(labels)?;
        self.database.change("label a namespace", |transaction| {
            let statement = "INSERT OR REPLACE INTO namespace VALUES (?1, ?2)";
            let result = transaction.execute(statement, params![&*self.namespace, database::to_json(labels)]);
            result.map(drop).map_err(self.database.failed("label a namespace"))
        })
    }

    /// Waits until nobody removes blobs, and lets nobody start to while the result lives.
    fn lock_shared(&self) -> Result<File> {
        lock::shared(self.root())
    }

    /// Waits until nobody removes blobs or makes some visible, and lets nobody start to while the result lives.
    fn lock_alone(&self) -> Result<File> {
        lock::alone(self.root())
    }

    fn row(&self, digest: &Digest) -> Result<BlobRow> {
        self.database
            .read("look up a blob", |connection| {
                database::blob(connection, &self.namespace, digest.as_str())
            })?
            .ok_or_else(|| Error::NotFound { digest: digest.clone() })
    }

    /// Adds the blob to the lease, if there is one. The caller holds the lock, so that it stays.
    fn attach(&self, digest: &Digest) -> Result<()> {
        let Some(lease) = &self.lease else { return Ok(()) };
        let known: bool = self.database.read("look up a lease", |connection| {
            connection.query_row(
                "SELECT EXISTS (SELECT 1 FROM lease_blob WHERE namespace = ?1 AND lease = ?2 AND digest = ?3)",
                params![&*self.namespace, &**lease, digest.as_str()],
                |row| row.get(0),
            )
        })?;
        if known {
            return Ok(());
        }
        self.database.change("add a blob to a lease", |transaction| {
            leases::attach(transaction, &self.namespace, lease, digest)
                .map_err(self.database.failed("add a blob to a lease"))?
                .then_some(())
                .ok_or_else(|| Error::NoLease { id: lease.to_string() })
        })
    }

    /// Makes sure that the blob stays as long as the lease, if there is one.
    fn keep(&self, digest: &Digest) -> Result<()> {
        if self.lease.is_none() {
            return Ok(());
        }
        let _lock = self.lock_shared()?;
        self.blobs.open_blob(digest)?;
        self.attach(digest)
    }

    fn inform(&self, row: BlobRow) -> Result<Info> {
        let digest = Digest::parse(&row.digest).map_err(|error| Error::Metadata {
            action: "read a digest",
            path: self.root().join(DATABASE),
            source: error.into(),
        })?;
        let (_, size) = self.blobs.open_blob(&digest)?;
        Ok(Info { digest, size, labels: row.labels, created: row.created, updated: row.updated })
    }

    /// Returns the key of an ingest as the blobs have it. No two namespaces have the same: there is no slash in a name.
    fn inner_key(&self, key: &str) -> Result<String> {
        if key.is_empty() { Err(Error::EmptyKey) } else { Ok(format!("{}/{key}", self.namespace)) }
    }

    fn outer_status(&self, status: IngestStatus) -> Option<IngestStatus> {
        let key = status.key.strip_prefix(&*self.namespace)?.strip_prefix('/')?.to_owned();
        Some(IngestStatus { key, ..status })
    }

    /// Returns whether the bytes may be taken from another namespace.
    fn may_share(&self, digest: &Digest) -> Result<bool> {
        let owners: Vec<Labels> = self.database.read("look up the owners of a blob", |connection| {
            let mut statement = connection.prepare(
                "SELECT coalesce(labels, '{}') FROM (SELECT namespace AS name FROM blob WHERE digest = ?1)
                 LEFT JOIN namespace USING (name)",
            )?;
            let rows = statement.query_map([digest.as_str()], |row| database::labels(row, 0))?;
            rows.collect()
        })?;
        let shareable =
            |labels: &Labels| labels.get(SHAREABLE).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        Ok(match self.sharing {
            Sharing::Shared => !owners.is_empty(),
            Sharing::Isolated => owners.iter().any(shareable),
        })
    }
}

/// Refuses a name that containerd would refuse for a namespace.
///
/// <https://github.com/containerd/containerd/blob/v2.1.0/pkg/identifiers/validate.go>
pub fn check_namespace(name: &str) -> Result<()> {
    let is_word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match name.len() <= 76 && name.split(['.', '_', '-']).all(is_word) {
        true => Ok(()),
        false => Err(Error::InvalidNamespace { name: name.to_owned() }),
    }
}

/// Refuses directories of blobs that belong to another program: a database there would know nothing of its images, and
/// collect them.
fn refuse_others(root: &Path) -> Result<()> {
    let real = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let refuse = |found| Err(Error::Foreign { path: root.to_owned(), found });
    if real.ends_with("io.containerd.content.v1.content")
        || real.with_file_name("io.containerd.metadata.v1.bolt").exists()
    {
        return refuse("containerd's content directory");
    }
    if real.join("oci-layout").exists() {
        return refuse("an OCI layout");
    }
    Ok(())
}

impl Provider for MetadataStore {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Blob>> {
        digester(&descriptor.digest)?;
        self.keep(&descriptor.digest)?;
        self.row(&descriptor.digest)?;
        self.blobs.open(descriptor)
    }
}

impl Ingester for MetadataStore {
    fn begin(&self, key: &str, expected: &Expected) -> Result<Box<dyn Ingest>> {
        let inner_key = self.inner_key(key)?;
        let mut taken = None;
        if let Some(digest) = &expected.digest
            && self.blobs.holds(digest, expected.size)?
        {
            match self.info(digest) {
                Ok(_) => return Err(Error::Exists { digest: digest.clone() }),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
            taken = self.may_share(digest)?.then_some(digest);
        }
        let inner = LocalIngest::begin(&self.blobs, &inner_key, expected)?;
        ingest::wrap(self, inner, taken)
    }

    fn adopt(&self, file: &File, descriptor: &Descriptor, check: Check) -> Result<bool> {
        let prefix = format!("{}/", self.namespace);
        self.blobs.adopt_with(&prefix, file, descriptor, check, |digest, size| {
            let lock = self.lock_shared()?;
            self.record(digest, size, &Labels::new())?;
            Ok(lock)
        })
    }
}

impl Manager for MetadataStore {
    fn info(&self, digest: &Digest) -> Result<Info> {
        self.keep(digest)?;
        self.inform(self.row(digest)?)
    }

    fn update_fields(&self, digest: &Digest, labels: Labels, fields: &Fields) -> Result<Info> {
        labels::check(&labels)?;
        self.blobs.open_blob(digest)?;
        let action = "update a blob";
        let row = self.database.change(action, |transaction| {
            let failed = self.database.failed(action);
            let mut row = database::blob(transaction, &self.namespace, digest.as_str())
                .map_err(&failed)?
                .ok_or_else(|| Error::NotFound { digest: digest.clone() })?;
            let changed = fields.apply(row.labels.clone(), labels);
            if changed != row.labels {
                (row.labels, row.updated) = (changed, now());
                database::set_blob(transaction, &self.namespace, &row).map_err(&failed)?;
            }
            Ok(row)
        })?;
        self.inform(row)
    }

    fn walk(&self, visit: &mut dyn FnMut(Info) -> Result<()>) -> Result<()> {
        let mut after = String::new();
        loop {
            // Nothing is locked while a visitor works.
            let page: Vec<BlobRow> = self.database.read("list blobs", |connection| {
                let mut statement = connection.prepare(
                    "SELECT digest, labels, created, updated FROM blob WHERE namespace = ?1 AND digest > ?2
                     ORDER BY digest LIMIT ?3",
                )?;
                let rows =
                    statement.query_map(params![&*self.namespace, after, PAGE as i64], database::blob_row)?;
                rows.collect()
            })?;
            let Some(last) = page.last() else { return Ok(()) };
            after.clone_from(&last.digest);
            for row in page {
                match self.inform(row) {
                    Ok(info) => visit(info)?,
                    Err(Error::NotRegular { .. } | Error::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    fn remove(&self, digest: &Digest) -> Result<()> {
        let action = "remove a blob";
        let _lock = self.lock_alone()?;
        self.row(digest)?;
        self.blobs.open_blob(digest)?;
        let orphaned = self.database.change(action, |transaction| {
            let failed = self.database.failed(action);
            let statement = "DELETE FROM blob WHERE namespace = ?1 AND digest = ?2";
            transaction.execute(statement, params![&*self.namespace, digest.as_str()]).map_err(&failed)?;
            let statement = "SELECT NOT EXISTS (SELECT 1 FROM blob WHERE digest = ?1)";
            transaction.query_row(statement, [digest.as_str()], |row| row.get(0)).map_err(&failed)
        })?;
        if orphaned { self.blobs.remove(digest) } else { Ok(()) }
    }

    fn status(&self, key: &str) -> Result<IngestStatus> {
        let missing = || Error::NoIngest { key: key.to_owned() };
        let status = self.blobs.status(&self.inner_key(key)?).map_err(|error| match error {
            Error::NoIngest { .. } => missing(),
            error => error,
        })?;
        self.outer_status(status).ok_or_else(missing)
    }

    fn ingests(&self) -> Result<Vec<IngestStatus>> {
        Ok(self.blobs.ingests()?.into_iter().filter_map(|status| self.outer_status(status)).collect())
    }

    fn abort(&self, key: &str) -> Result<()> {
        self.blobs.abort(&self.inner_key(key)?)
    }
}

#[cfg(test)]
mod tests;
