//! Names of images.

use std::time::SystemTime;

use restow_oci::Descriptor;
use restow_oci::Limits;
use rusqlite::Connection;
use rusqlite::OptionalExtension as _;
use rusqlite::Row;
use rusqlite::params;

use super::MetadataStore;
use super::database;
use super::database::Failure;
use super::database::nanoseconds;
use crate::Error;
use crate::Filterable;
use crate::Labels;
use crate::Manager;
use crate::Result;
use crate::filter::label;
use crate::labels;
use crate::now;

/// A name, and the manifest or index it stands for.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Image {
    /// The name.
    pub name: String,
    /// The manifest or index.
    pub target: Descriptor,
    /// The labels of the name.
    pub labels: Labels,
    /// When the name was first given.
    pub created: SystemTime,
    /// When it was last given.
    pub updated: SystemTime,
}

impl Filterable for Image {
    fn field(&self, path: &[String]) -> Option<String> {
        match path.split_first()? {
            (first, []) if first == "name" => Some(self.name.clone()),
            (first, [second]) if first == "target" && second == "digest" => {
                Some(self.target.digest.to_string())
            }
            (first, [second]) if first == "target" && second == "mediatype" => {
                Some(self.target.media_type.to_string())
            }
            (first, rest) if first == "labels" => label(&self.labels, rest),
            (first, rest) if first == "annotations" => label(&self.target.annotations, rest),
            _ => None,
        }
    }
}

const COLUMNS: &str = "SELECT name, target, labels, created, updated FROM image WHERE namespace = ?1";

impl MetadataStore {
    /// Returns the image called `name`.
    pub fn image(&self, name: &str) -> Result<Image> {
        let found = self.database.read("look up an image", |connection| {
            connection
                .query_row(&format!("{COLUMNS} AND name = ?2"), params![&*self.namespace, name], |row| {
                    image(row, &self.limits)
                })
                .optional()
        })?;
        found.ok_or_else(|| Error::NoImage { name: name.to_owned() })
    }

    /// Returns all images, in the order of their names.
    pub fn images(&self) -> Result<Vec<Image>> {
        self.database.read("list images", |connection| {
            let mut statement = connection.prepare(&format!("{COLUMNS} ORDER BY name"))?;
            let rows = statement.query_map([&*self.namespace], |row| image(row, &self.limits))?;
            rows.collect()
        })
    }

    /// Lets each of `names` stand for `target` from now on, all at once. The target must be there. A name that is known
    /// keeps its labels and gains `labels`.
    pub fn set_images(&self, names: &[String], target: &Descriptor, labels: &Labels) -> Result<()> {
        let action = "name an image";
        labels::check(labels)?;
        let _lock = self.lock_shared()?;
        self.row(&target.digest)?;
        self.blobs.open_blob(&target.digest)?;
        self.database.change(action, |transaction| {
            for name in names {
                set(transaction, &self.namespace, name, target, labels)
                    .map_err(self.database.failed(action))?;
            }
            Ok(())
        })
    }

    /// Removes a name. The blobs stay until they are collected.
    pub fn remove_image(&self, name: &str) -> Result<()> {
        let action = "remove an image";
        self.database.change(action, |transaction| {
            let statement = "DELETE FROM image WHERE namespace = ?1 AND name = ?2";
            match transaction.execute(statement, params![&*self.namespace, name]) {
                Ok(0) => Err(Error::NoImage { name: name.to_owned() }),
                result => result.map(drop).map_err(self.database.failed(action)),
            }
        })
    }

    /// Returns whether the target of the image is there.
    pub fn resolves(&self, image: &Image) -> Result<bool> {
        match self.info(&image.target.digest) {
            Ok(info) => Ok(info.size == image.target.size),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

pub(super) fn set(
    connection: &Connection,
    namespace: &str,
    name: &str,
    target: &Descriptor,
    labels: &Labels,
) -> Result<(), Failure> {
    let now = nanoseconds(now());
    connection
        .execute(
            "INSERT INTO image VALUES (?1, ?2, ?3, ?4, ?5, ?5) ON CONFLICT DO
             UPDATE SET target = excluded.target, labels = json_patch(labels, excluded.labels),
             updated = excluded.updated",
            params![namespace, name, target.to_bytes(), database::to_json(labels), now],
        )
        .map(drop)
}

pub(super) fn image(row: &Row<'_>, limits: &Limits) -> Result<Image, Failure> {
    let target = Descriptor::parse(row.get(1)?, limits)
        .map_err(|error| Failure::FromSqlConversionFailure(1, rusqlite::types::Type::Blob, error.into()))?;
    Ok(Image {
        name: row.get(0)?,
        target,
        labels: database::labels(row, 2)?,
        created: database::time(row, 3)?,
        updated: database::time(row, 4)?,
    })
}
