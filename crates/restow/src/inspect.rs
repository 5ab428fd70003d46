//! What an image is made of, as far as its documents and the ends of its blobs tell.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::io::Read;

use restow_convert::Platforms;
use restow_layer::Depth;
use restow_layer::VerifyOptions;
use restow_layer::verify;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Kind;
use restow_oci::Limits;
use restow_oci::MediaType;
use restow_oci::Platform;
use restow_registry::Gap;
use restow_registry::Needs;
use restow_registry::Reference;
use restow_registry::Source;
use restow_registry::Whole;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::IgnoredAny;

use crate::Error;
use crate::Result;
use crate::Session;
use crate::blob::LayerBlob;
use crate::error::Context as _;
use crate::error::describe;
use crate::gaps::GapReport;
use crate::image::Image;
use crate::list::ReadOptions;
use crate::toc_image::Tables;

/// The images of a reference.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct InspectReport {
    /// The reference.
    pub reference: String,
    /// Whether it leads to a manifest or an index, and of which kind.
    #[schemars(with = "String")]
    pub media_type: MediaType,
    /// The digest of that document.
    #[schemars(with = "String")]
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The images, each in all its forms.
    pub images: Vec<InspectedImage>,
    /// The entries of indexes of which something is missing or wrong.
    pub gaps: Vec<GapReport>,
}

/// An image.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct InspectedImage {
    /// The digest of its manifest.
    #[schemars(with = "String")]
    pub manifest: Digest,
    /// What it is for, where that is known.
    #[schemars(with = "Option<String>")]
    pub platform: Option<Platform>,
    /// The digest of its config.
    #[schemars(with = "String")]
    pub config: Digest,
    /// Its layers.
    pub layers: Vec<InspectedLayer>,
}

/// A layer.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct InspectedLayer {
    /// Its position in the manifest, from 0.
    pub position: usize,
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
    /// Its DiffID, if the config says it.
    #[schemars(with = "Option<String>")]
    pub diff_id: Option<Digest>,
    /// Its format; `opaque` where it is no layer of files, `?` where that is not known.
    pub format: &'static str,
    /// The readers that find its table of contents.
    pub readers: Option<&'static str>,
    /// The entries of its table of contents, if it has one.
    pub entries: Option<usize>,
    /// Why no more is known of it.
    pub problem: Option<String>,
}

/// The digest of the table of contents of a layer.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct TocDigest {
    /// The layer's position, from 0.
    pub position: usize,
    /// The layer's digest.
    #[schemars(with = "String")]
    pub layer: Digest,
    /// The digest of its table, if it has one.
    #[schemars(with = "Option<String>")]
    pub toc: Option<Digest>,
}

impl Session {
    /// Looks at the images of a reference and their layers, which are not read in full.
    pub fn inspect<S>(&self, source: S, options: &ReadOptions) -> Result<InspectReport>
    where
        S: TryInto<Reference, Error: Into<Error>>,
    {
        let (reference, source) = self.open(source)?;
        let platforms = match options.platforms.as_slice() {
            [] => Platforms::All,
            platforms => Platforms::Only(platforms.to_vec()),
        };
        let (source, images, gaps) = images(source, &platforms, self.limits())?;
        let tables = self.tables(&reference, &source, options.toc_image.as_ref())?;
        let look = Look { session: self, source: &source, tables: &tables };
        let images = images.iter().map(|image| look.image(image)).collect();
        let gaps = gaps.iter().map(GapReport::from).collect();
        let Descriptor { media_type, digest, size, .. } = source.root.clone();
        Ok(InspectReport { reference: source.name.clone(), media_type, digest, size, images, gaps })
    }

    /// Shows `read` the JSON of a layer's table of contents as it stands in the blob. It is sound, and may be larger than
    /// memory.
    pub fn toc<S, T>(
        &self,
        source: S,
        position: usize,
        options: &ReadOptions,
        read: impl FnOnce(&mut dyn Read) -> T,
    ) -> Result<T>
    where
        S: TryInto<Reference, Error: Into<Error>>,
    {
        let (reference, source) = self.open(source)?;
        let tables = self.tables(&reference, &source, options.toc_image.as_ref())?;
        let image = Image::one(&source, &options.platforms, self.limits())?;
        let layer = image.layer(&source, position)?;
        let blob = LayerBlob::open(&*source.provider, layer)
            .and_then(|blob| blob.with_table(&image.descriptor.digest, &layer.digest, &tables));
        let toc = blob.and_then(|blob| {
            let sound = |json: &mut dyn Read| serde_json::from_reader::<_, IgnoredAny>(BufReader::new(json));
            blob.read_toc(self.limits(), sound)?.map_err(Error::TocNotJson)?;
            blob.read_toc(self.limits(), read)
        });
        toc.with_context(|| format!("{}: layer {position}, {}", source.name, layer.digest))
    }

    /// Returns the digests of the tables of contents of an image's layers, or of the layer at one position. Each table is
    /// read, checked, and held to what the manifest says of it.
    pub fn toc_digests<S>(
        &self,
        source: S,
        position: Option<usize>,
        options: &ReadOptions,
    ) -> Result<Vec<TocDigest>>
    where
        S: TryInto<Reference, Error: Into<Error>>,
    {
        let (reference, source) = self.open(source)?;
        let tables = self.tables(&reference, &source, options.toc_image.as_ref())?;
        let image = Image::one(&source, &options.platforms, self.limits())?;
        let look = Look { session: self, source: &source, tables: &tables };
        let digest = |position: usize, layer: &Descriptor| {
            let toc = look.toc_digest(&image.descriptor.digest, layer);
            let toc = toc.with_context(|| format!("{}: layer {position}, {}", source.name, layer.digest))?;
            Ok(TocDigest { position, layer: layer.digest.clone(), toc })
        };
        let Some(position) = position else {
            return image.manifest.layers().iter().enumerate().map(|(at, layer)| digest(at, layer)).collect();
        };
        let found = digest(position, image.layer(&source, position)?)?;
        match found.toc {
            Some(_) => Ok(vec![found]),
            None => Err(Error::NoToc { name: source.name.clone(), position }),
        }
    }
}

/// Reads the documents of the images that have some.
fn images(source: Source, platforms: &Platforms, limits: &Limits) -> Result<(Source, Vec<Image>, Vec<Gap>)> {
    let whole = |source: &Source, needs| Whole::of(&*source.provider, &source.root, needs, limits);
    // A registry would be sent a request for each blob.
    let mut gaps = match source.repository {
        None => whole(&source, Needs::Everything)?.gaps,
        Some(_) => Vec::new(),
    };
    let error = match Image::all(&source, platforms, limits) {
        Ok(images) => return Ok((source, images, gaps)),
        Err(error) => error,
    };
    let documents = whole(&source, Needs::Documents)?;
    if documents.gaps.is_empty() {
        return Err(error);
    }
    if gaps.is_empty() {
        gaps.clone_from(&documents.gaps);
    }
    let root = source.root.clone();
    let source = documents.of_source(source);
    let images = Image::all(&source, platforms, limits)?;
    Ok((Source { root, ..source }, images, gaps))
}

/// Looks into the layers of an image.
struct Look<'a> {
    session: &'a Session,
    source: &'a Source,
    tables: &'a Tables<'a>,
}

impl Look<'_> {
    fn image(&self, image: &Image) -> InspectedImage {
        let layers = image.manifest.layers().iter().enumerate();
        InspectedImage {
            manifest: image.descriptor.digest.clone(),
            platform: image.platform.clone(),
            config: image.manifest.config().digest.clone(),
            layers: layers.map(|(position, layer)| self.layer(image, position, layer)).collect(),
        }
    }

    fn layer(&self, image: &Image, position: usize, layer: &Descriptor) -> InspectedLayer {
        let mut found = InspectedLayer {
            position,
            media_type: layer.media_type.clone(),
            digest: layer.digest.clone(),
            size: layer.size,
            annotations: layer.annotations.clone(),
            diff_id: image.diff_ids.get(position).cloned(),
            format: "?",
            readers: None,
            entries: None,
            problem: None,
        };
        let looked = self.look(&image.descriptor.digest, layer, &mut found);
        found.problem = looked.err().map(|error| describe(&error));
        found
    }

    fn look(&self, manifest: &Digest, layer: &Descriptor, found: &mut InspectedLayer) -> Result<()> {
        let Some(blob) = self.open(manifest, layer)? else {
            found.format = "opaque";
            return Ok(());
        };
        (found.format, found.readers) = blob.format()?;
        if blob.is_seekable() {
            found.entries = Some(blob.entries(self.session.limits())?);
        }
        Ok(())
    }

    /// Returns the digest of a layer's table, or nothing if it has none of its own.
    fn toc_digest(&self, manifest: &Digest, layer: &Descriptor) -> Result<Option<Digest>> {
        let Some(blob) = self.open(manifest, layer)?.filter(LayerBlob::is_seekable) else {
            return Ok(None);
        };
        let options = VerifyOptions {
            hints: blob.hints().clone(),
            depth: Depth::Toc,
            limits: self.session.limits().clone(),
            ..VerifyOptions::default()
        };
        Ok(Some(verify(&blob, &options, self.session.workers()?)?.toc_digest))
    }

    /// Opens a layer, unless it is none of files.
    fn open(&self, manifest: &Digest, layer: &Descriptor) -> Result<Option<LayerBlob>> {
        if !matches!(layer.media_type.kind(), Kind::Layer { .. }) {
            return Ok(None);
        }
        let blob = LayerBlob::open(&*self.source.provider, layer)?;
        blob.with_table(manifest, &layer.digest, self.tables).map(Some)
    }
}
