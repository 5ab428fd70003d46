//! Opening the database, and making it again from the blobs where it is lost.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Limits;
use restow_oci::MediaType;
use rusqlite::Transaction;

use super::DATABASE;
use super::collect::ROOT;
use super::collect::References;
use super::database;
use super::database::BlobRow;
use super::database::Database;
use super::images;
use super::lock;
use crate::Labels;
use crate::LocalStore;
use crate::Manager;
use crate::Result;
use crate::labels;
use crate::publish;

/// What a database that was made again knows.
#[non_exhaustive]
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rebuilt {
    /// How many blobs.
    pub blobs: usize,
    /// The names given to manifests and indexes that no other one refers to.
    pub images: Vec<String>,
    /// How many other blobs nothing refers to. They have a label that keeps them.
    pub roots: usize,
}

/// Opens the database of the store, or makes it. Damage counts as loss; the damaged file is kept beside it. All of it is
/// looked at for damage only where somebody met some.
pub(super) fn open(
    blobs: &LocalStore,
    namespace: &str,
    limits: &Limits,
) -> Result<(Database, Option<Rebuilt>)> {
    let path = blobs.root().join(DATABASE);
    let suspicion = database::suspicion(&path);
    let suspect = || suspicion.symlink_metadata().is_ok();
    if path.is_file() && !suspect() {
        match attempt(&path) {
            Ok((database, true)) => return Ok((database, None)),
            Ok((_, false)) => {}
            Err(error) if database::is_damage(&error) => {}
            Err(error) => return Err(error),
        }
    }
    // Whoever comes first makes it, the others wait here.
    let _lock = lock::alone(blobs.root())?;
    let checked = attempt(&path).and_then(|(database, ready)| {
        let whole = !suspect() || database.is_whole()?;
        Ok(whole.then_some((database, ready)))
    });
    let database = match checked {
        Ok(Some((database, true))) => {
            labels::remove(&suspicion)?;
            return Ok((database, None));
        }
        Ok(Some((database, false))) => database,
        Err(error) if !database::is_damage(&error) => return Err(error),
        Ok(None) | Err(_) => {
            put_aside(&path)?;
            Database::open(&path)?
        }
    };
    let mut rebuilt = Rebuilt::default();
    database.prepare(|transaction| {
        rebuilt = fill(&database, transaction, blobs, namespace, limits)?;
        Ok(())
    })?;
    labels::remove(&suspicion)?;
    Ok((database, Some(rebuilt).filter(|rebuilt| rebuilt.blobs > 0)))
}

/// Opens the database and says whether its tables are there.
fn attempt(path: &Path) -> Result<(Database, bool)> {
    let database = Database::open(path)?;
    let ready = database.is_ready()?;
    Ok((database, ready))
}

/// Moves a damaged database out of the way, its companions too, which would be taken for those of the new one.
fn put_aside(path: &Path) -> Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let from = path.with_file_name(format!("{DATABASE}{suffix}"));
        let to = path.with_file_name(format!("{DATABASE}.damaged{suffix}"));
        if from.symlink_metadata().is_ok() {
            publish::rename_complete(&from, &to)?;
        }
    }
    Ok(())
}

fn fill(
    database: &Database,
    transaction: &Transaction<'_>,
    blobs: &LocalStore,
    namespace: &str,
    limits: &Limits,
) -> Result<Rebuilt> {
    let insert = database.failed("record a blob");
    let mut rows = BTreeMap::new();
    let mut documents = BTreeMap::new();
    let mut referenced = BTreeSet::new();
    blobs.walk(&mut |info| {
        let (digest, created) = (info.digest.to_string(), info.created);
        let row = BlobRow { digest, labels: info.labels, created, updated: info.updated };
        // What cannot be read is a blob, and names nothing.
        if let Ok(Some((media_type, references))) = document(blobs, &info.digest, limits) {
            referenced.extend(references);
            documents.insert(info.digest.clone(), (media_type, info.size));
        }
        rows.insert(info.digest, row);
        Ok(())
    })?;
    let mut rebuilt = Rebuilt { blobs: rows.len(), ..Rebuilt::default() };
    for (digest, mut row) in rows {
        match documents.remove(&digest) {
            _ if referenced.contains(&digest) => {}
            Some((media_type, size)) => {
                let name = format!("recovered@{digest}");
                let target = Descriptor::new(media_type, digest, size);
                images::set(transaction, namespace, &name, &target, &Labels::new()).map_err(&insert)?;
                rebuilt.images.push(name);
            }
            None => {
                // What kept it may have been lost.
                row.labels.entry(ROOT.to_owned()).or_insert_with(|| "recovered".to_owned());
                rebuilt.roots += 1;
            }
        }
        database::set_blob(transaction, namespace, &row).map_err(&insert)?;
    }
    Ok(rebuilt)
}

/// Reads a blob as a manifest or an index: its media type, and what it refers to.
fn document(
    blobs: &LocalStore,
    digest: &Digest,
    limits: &Limits,
) -> Result<Option<(MediaType, Vec<Digest>)>> {
    let Some(references) = References::read(blobs, digest, limits)? else { return Ok(None) };
    let media_type = match (&references.media_type, references.is_index) {
        (Some(media_type), _) => media_type.clone(),
        (None, true) => MediaType::OCI_INDEX,
        (None, false) => MediaType::OCI_MANIFEST,
    };
    Ok(Some((media_type, references.targets.into_iter().map(|(digest, _)| digest).collect())))
}
