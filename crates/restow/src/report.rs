//! What work tells when it is done. Each report is, as JSON, the document that the `restow` command prints.

use std::collections::BTreeMap;

use restow_convert as convert;
use restow_convert::Outcome;
use restow_convert::Selected;
use restow_layer::Codec as _;
use restow_layer::ESTARGZ_DEFAULT_LEVEL;
use restow_layer::Estargz;
use restow_layer::Recompression;
use restow_layer::ZSTD_CHUNKED_DEFAULT_LEVEL;
use restow_layer::ZstdChunked;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::MediaType;
use restow_oci::Platform;
use schemars::JsonSchema;
use schemars::Schema;
use schemars::schema_for;
use serde::Serialize;

pub use crate::conversion::ConvertReport;
pub use crate::conversion::ConvertedImage;
pub use crate::conversion::First;
pub use crate::conversion::FirstPath;
pub use crate::conversion::MissingPath;
pub use crate::conversion::TocImageReport;
pub use crate::conversion::WorkloadReport;
pub use crate::copy::CopyReport;
pub use crate::gaps::GapReport;
pub use crate::inspect::InspectReport;
pub use crate::inspect::InspectedImage;
pub use crate::inspect::InspectedLayer;
pub use crate::inspect::TocDigest;
pub use crate::list::FileKind;
pub use crate::list::FileReport;
pub use crate::list::ListReport;
pub use crate::predict::PredictReport;
pub use crate::predict::PredictedFile;
pub use crate::predict::PredictedImage;
pub use crate::predict::PredictedLayer;
pub use crate::readership::ImageReaders;
pub use crate::readership::LayerUse;
pub use crate::record::RecordReport;
pub use crate::record::RecordedFile;
pub use crate::record::RecordedLayer;
pub use crate::record::WorkloadExit;
pub use crate::verify::VerifiedBlob;
pub use crate::verify::VerifyReport;

/// A document's name, the version of its shape, and the function that makes its schema.
type Document = (&'static str, u32, fn() -> Schema);

/// The documents that the `restow` command prints. A version is raised when a field goes or changes its meaning.
const DOCUMENTS: [Document; 8] = [
    ("convert", 1, || schema_for!(ConvertReport)),
    ("copy", 1, || schema_for!(CopyReport)),
    ("inspect", 1, || schema_for!(InspectReport)),
    ("ls", 1, || schema_for!(ListReport)),
    ("predict", 1, || schema_for!(PredictReport)),
    ("record", 1, || schema_for!(RecordReport)),
    ("verify", 1, || schema_for!(VerifyReport)),
    ("version", 1, || schema_for!(VersionReport)),
];

/// Returns the names of the documents that have a schema.
pub fn names() -> impl Iterator<Item = &'static str> {
    DOCUMENTS.iter().map(|(name, ..)| *name)
}

/// Returns the JSON Schema of a document, which says its version, too.
pub fn schema(name: &str) -> Option<Schema> {
    let (name, version, make) = DOCUMENTS.iter().find(|(known, ..)| *known == name)?;
    let mut schema = make();
    schema.insert("$id".into(), format!("restow/{name}/{version}").into());
    Some(schema)
}

/// The program's version, and those of the formats it writes.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct VersionReport {
    /// The program's version.
    pub version: &'static str,
    /// Each format with all that decides its bytes. Where the line is the same, so are the bytes.
    pub formats: Vec<String>,
}

impl VersionReport {
    /// Returns that of this engine.
    pub fn new() -> Self {
        let formats = [
            ZstdChunked::new(ZSTD_CHUNKED_DEFAULT_LEVEL).identity(),
            Estargz::new(ESTARGZ_DEFAULT_LEVEL).identity(),
            Recompression::Zstd { level: 3 }.identity(),
            Recompression::Gzip { level: 6 }.identity(),
        ];
        Self { version: env!("CARGO_PKG_VERSION"), formats: formats.to_vec() }
    }
}

impl Default for VersionReport {
    fn default() -> Self {
        Self::new()
    }
}

/// An image and where it was read.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Origin {
    /// The reference by which it was found.
    pub reference: String,
    /// Its manifest or index.
    pub root: Root,
}

/// An image and where it was published.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Published {
    /// The references by which it is found.
    pub references: Vec<String>,
    /// Its manifest or index.
    pub root: Root,
}

/// The manifest or the index of an image, without the annotations by which an index names it.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Root {
    /// Which of the two it is.
    #[schemars(with = "String")]
    pub media_type: MediaType,
    /// Its digest.
    #[schemars(with = "String")]
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

impl From<&Descriptor> for Root {
    fn from(root: &Descriptor) -> Self {
        Self { media_type: root.media_type.clone(), digest: root.digest.clone(), size: root.size }
    }
}

/// An image of the source's index that the result has not.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LeftOut {
    /// The digest of its manifest.
    #[schemars(with = "String")]
    pub manifest: Digest,
    /// What it is for, where that is known.
    #[schemars(with = "Option<String>")]
    pub platform: Option<Platform>,
}

impl From<&Selected> for LeftOut {
    fn from(image: &Selected) -> Self {
        Self { manifest: image.descriptor.digest.clone(), platform: image.platform.clone() }
    }
}

/// How many platforms that are left out are named.
const NAMED_PLATFORMS: usize = 12;

/// Names the platforms of images that are left out, the first few of many.
pub fn platforms(images: &[LeftOut]) -> String {
    let unknown = || "an unknown platform".to_owned();
    let name = |image: &LeftOut| image.platform.as_ref().map_or_else(unknown, ToString::to_string);
    let mut named: Vec<_> = images.iter().take(NAMED_PLATFORMS).map(name).collect();
    if images.len() > NAMED_PLATFORMS {
        named.push(format!("{} more", images.len() - NAMED_PLATFORMS));
    }
    named.join(", ")
}

/// A blob as a document describes it.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct BlobReport {
    /// Its media type.
    #[schemars(with = "String")]
    pub media_type: MediaType,
    /// Its digest.
    #[schemars(with = "String")]
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

impl From<&Descriptor> for BlobReport {
    fn from(blob: &Descriptor) -> Self {
        Self {
            media_type: blob.media_type.clone(),
            digest: blob.digest.clone(),
            size: blob.size,
            annotations: blob.annotations.clone(),
        }
    }
}

/// What became of a layer.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LayerReport {
    /// The manifest that it was found in.
    #[schemars(with = "String")]
    pub manifest: Digest,
    /// Its position there, from 0.
    pub position: usize,
    /// How the result was come by.
    pub outcome: LayerOutcome,
    /// The layer before.
    pub source: BlobReport,
    /// The layer after.
    pub destination: BlobReport,
    /// Whether the uncompressed bytes are the same as before.
    pub diff_id_kept: bool,
    /// Bytes of the tar; 0, as the following counts, for a layer that was kept.
    pub uncompressed_size: u64,
    /// Entries of the tar.
    pub entries: u64,
    /// Chunks of files that can be fetched alone.
    pub chunks: u64,
    /// Entries that were moved to the front.
    pub prioritized: u64,
    /// Bytes from the front that hold them.
    pub prefetch_size: u64,
    /// Paths that were to be moved to the front and are not there.
    pub missing: Vec<String>,
    /// How long the conversion worked on it; 0 where it did not.
    pub seconds: f64,
}

/// How the result for a layer was come by.
#[derive(Clone, Copy, Debug, Eq, PartialEq, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LayerOutcome {
    /// The blob stays as it was.
    Kept,
    /// The layer was converted.
    Converted,
    /// An equal layer was converted in the same run.
    Shared,
    /// The result is known from an earlier conversion.
    Cached,
}

impl LayerReport {
    pub(crate) fn of(report: &convert::LayerReport) -> Self {
        let statistics = &report.statistics;
        Self {
            manifest: report.manifest.clone(),
            position: report.position,
            outcome: match report.outcome {
                Outcome::Kept => LayerOutcome::Kept,
                Outcome::Converted => LayerOutcome::Converted,
                Outcome::Shared => LayerOutcome::Shared,
                Outcome::Recalled => LayerOutcome::Cached,
            },
            source: (&report.source).into(),
            destination: (&report.destination).into(),
            diff_id_kept: report.diff_id_kept,
            uncompressed_size: statistics.uncompressed_size,
            entries: statistics.entries,
            chunks: statistics.chunks,
            prioritized: statistics.prioritized,
            prefetch_size: statistics.prefetch_size,
            missing: statistics.missing.clone(),
            seconds: report.elapsed.as_secs_f64(),
        }
    }
}
