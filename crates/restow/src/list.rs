//! The files of an image: their names, and what is in one of them.

use std::ffi::OsStr;
use std::io::Write;

use restow_layer::Kind;
use restow_layer::Timestamp;
use restow_oci::Platform;
use restow_registry::Reference;
use restow_registry::Source;
use schemars::JsonSchema;
use serde::Serialize;
use serde::Serializer;

use crate::Error;
use crate::Result;
use crate::Session;
use crate::error::Context as _;
use crate::files::File;
use crate::files::Files;
use crate::image::Image;
use crate::toc_image::Tables;

/// Which image is read, and where its tables of contents are.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ReadOptions {
    /// The platforms whose images are meant; this machine's, or all, where there is none.
    pub platforms: Vec<Platform>,
    /// The image that holds the tables of contents of the eStargz layers without one; without it, the one that is named
    /// after the image, or what refers to it.
    pub toc_image: Option<Reference>,
}

/// The files in a directory of an image, or a single file.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(transparent)]
#[non_exhaustive]
pub struct ListReport {
    /// The files, by their names.
    pub files: Vec<FileReport>,
}

/// A file of an image.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct FileReport {
    /// Its path.
    pub path: String,
    /// The position of its layer; nothing for a directory that no layer has an entry for.
    pub layer: Option<usize>,
    /// What it is; of a hard link, what it leads to.
    #[serde(rename = "type")]
    pub kind: FileKind,
    /// Its permissions, in octal digits.
    #[serde(serialize_with = "octal")]
    #[schemars(with = "Option<String>")]
    pub mode: Option<i64>,
    /// Its owner.
    pub uid: Option<i64>,
    /// Its group.
    pub gid: Option<i64>,
    /// Its size in bytes.
    pub size: Option<u64>,
    /// When it was modified.
    #[serde(serialize_with = "text")]
    #[schemars(with = "Option<String>")]
    pub modified: Option<Timestamp>,
    /// The numbers of a device.
    pub device: Option<(i64, i64)>,
    /// The target of a symbolic link.
    pub target: Option<String>,
    /// The name that a hard link repeats.
    pub link_to: Option<String>,
}

/// What a file is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, JsonSchema, Serialize)]
#[non_exhaustive]
pub enum FileKind {
    /// A regular file.
    #[serde(rename = "file")]
    File,
    /// A hard link that leads nowhere.
    #[serde(rename = "hard link")]
    HardLink,
    /// A symbolic link.
    #[serde(rename = "symlink")]
    Symlink,
    /// A character device.
    #[serde(rename = "character device")]
    CharacterDevice,
    /// A block device.
    #[serde(rename = "block device")]
    BlockDevice,
    /// A directory.
    #[serde(rename = "directory")]
    Directory,
    /// A named pipe.
    #[serde(rename = "fifo")]
    Fifo,
    /// Something else.
    #[serde(rename = "other")]
    Other,
}

#[expect(clippy::ref_option, reason = "serde passes the field so")]
fn octal<S: Serializer>(mode: &Option<i64>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    mode.map(|mode| format!("{:04o}", mode & 0o7777)).serialize(serializer)
}

#[expect(clippy::ref_option, reason = "serde passes the field so")]
fn text<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    time.map(|time| time.to_string()).serialize(serializer)
}

impl Session {
    /// Lists what is in a directory of an image as a container sees it, or all below it; of anything else, that alone.
    pub fn list<S>(
        &self,
        source: S,
        path: impl AsRef<OsStr>,
        recursive: bool,
        options: &ReadOptions,
    ) -> Result<ListReport>
    where
        S: TryInto<Reference, Error: Into<Error>>,
    {
        self.with_files(source, options, |files| {
            let found = files.find(path.as_ref())?;
            let listed = match found.stat.as_ref().is_none_or(|stat| stat.kind == Kind::Directory) {
                true => files.list(&found.path, recursive)?,
                false => vec![found],
            };
            Ok(ListReport { files: listed.into_iter().map(FileReport::from).collect() })
        })
    }

    /// Writes the content of a regular file of an image to `output`. Every byte has been verified before.
    pub fn cat<S>(
        &self,
        source: S,
        path: impl AsRef<OsStr>,
        options: &ReadOptions,
        output: &mut dyn Write,
    ) -> Result<()>
    where
        S: TryInto<Reference, Error: Into<Error>>,
    {
        self.with_files(source, options, |files| files.copy(&files.find(path.as_ref())?, output))
    }

    fn with_files<S, T>(
        &self,
        source: S,
        options: &ReadOptions,
        work: impl FnOnce(&Files<'_>) -> Result<T>,
    ) -> Result<T>
    where
        S: TryInto<Reference, Error: Into<Error>>,
    {
        let (reference, source) = self.open(source)?;
        let tables = self.tables(&reference, &source, options.toc_image.as_ref())?;
        let image = Image::one(&source, &options.platforms, self.limits())?;
        let threads = self.settings().threads;
        let read = Files::read(&*source.provider, &image, &tables, self.limits(), threads);
        let done = read.and_then(|files| {
            files.warnings.iter().for_each(|warning| self.warn(warning));
            work(&files)
        });
        done.with_context(|| source.name.clone())
    }

    /// Gets ready to look for the tables of an image. The image of tables that is named must be there.
    pub(crate) fn tables<'a>(
        &'a self,
        reference: &'a Reference,
        source: &'a Source,
        named: Option<&Reference>,
    ) -> Result<Tables<'a>> {
        let beside = Tables::beside(self.access(), reference, source, self.limits());
        match named {
            Some(named) => beside.named(&named.clone().in_store(self.settings().store.as_deref())),
            None => Ok(beside),
        }
    }
}

impl From<File> for FileReport {
    fn from(file: File) -> Self {
        let stat = file.stat.as_ref();
        let is = |kinds: &[Kind]| stat.filter(|stat| kinds.contains(&stat.kind));
        Self {
            kind: stat.map_or(FileKind::Directory, |stat| stat.kind.into()),
            mode: stat.map(|stat| stat.mode),
            uid: stat.map(|stat| stat.uid),
            gid: stat.map(|stat| stat.gid),
            size: stat.map(|stat| stat.size),
            modified: stat.and_then(|stat| stat.modified),
            device: is(&[Kind::Character, Kind::Block]).map(|stat| stat.device),
            target: is(&[Kind::Symlink]).map(|stat| stat.target.clone()),
            path: file.path,
            layer: file.layer,
            link_to: file.hard_link,
        }
    }
}

impl From<Kind> for FileKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Regular | Kind::Sparse => FileKind::File,
            Kind::Hardlink => FileKind::HardLink,
            Kind::Symlink => FileKind::Symlink,
            Kind::Character => FileKind::CharacterDevice,
            Kind::Block => FileKind::BlockDevice,
            Kind::Directory => FileKind::Directory,
            Kind::Fifo => FileKind::Fifo,
            Kind::Other(_) => FileKind::Other,
        }
    }
}
