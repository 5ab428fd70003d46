//! The conversion of everything under a root.

use std::collections::BTreeMap;

use restow_content::Store;
use restow_oci::Compression;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Index;
use restow_oci::Kind;

use crate::Cancel;
use crate::Error;
use crate::ImageReport;
use crate::Layer;
use crate::LayerConverter;
use crate::LayerReport;
use crate::Observer;
use crate::Options;
use crate::Result;
use crate::image;
use crate::image::Image;
use crate::index::Fate;
use crate::index::edit;
use crate::index::retarget;
use crate::schedule;
use crate::schedule::Done;
use crate::select::choose;
use crate::survey::Survey;

/// What came out of a conversion.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// The root after the conversion; the root before it, if nothing changed.
    pub root: Descriptor,
    /// The images chosen, in order.
    pub images: Vec<ImageReport>,
    /// All layers of the images chosen, in order.
    pub layers: Vec<LayerReport>,
    /// What the observer was warned about, in order.
    pub warnings: Vec<String>,
}

/// Converts the layers of the images chosen under a root, and rewrites all documents on the way to them.
///
/// Everything is read from the store and written to it; nothing is removed. Blobs that did not change are not touched,
/// so whoever moves the result elsewhere copies them. A root that is an index stays one, even if one image is left.
/// After an error nothing refers to what was written.
pub fn convert(
    store: &dyn Store,
    root: &Descriptor,
    converter: &dyn LayerConverter,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Conversion> {
    let survey = Survey::new(store, root, &options.limits)?;
    let selection = choose(&survey.images, &options.platforms)?;
    let mut report = Report { observer, layers: Vec::new(), warnings: Vec::new() };
    report.warn(selection.notice);
    let images = selection.images.iter().map(|image| Image::read(store, &image.descriptor, &options.limits));
    let images = images.collect::<Result<Vec<_>>>()?;

    let cancel = options.cancel.child();
    let layers = layers(store, &images, observer, &cancel, &mut report)?;
    let owners: BTreeMap<_, _> = images.iter().map(|image| (&image.descriptor.digest, image)).collect();
    let finished = |place: usize, done: &Done| {
        let Layer { manifest, position, .. } = layers[place];
        observer.layer_finished(&layer_report(owners[manifest], position, done));
    };
    let done = schedule::run(store, &layers, converter, options, &finished)?;
    let places = layers.iter().map(|layer| (layer.manifest.clone(), layer.position));
    let mut done: BTreeMap<_, _> = places.zip(done).collect();

    let unchosen = if options.keep_other_platforms { Fate::Kept } else { Fate::Dropped };
    let mut fates: BTreeMap<_, _> =
        survey.images.iter().map(|image| (image.descriptor.digest.clone(), unchosen.clone())).collect();
    let mut reports = Vec::new();
    for mut image in images {
        let (source, digest) = (image.descriptor.clone(), image.descriptor.digest.clone());
        let first = report.layers.len();
        let replacements = place_layers(&image, &mut done, &mut report);
        let (new, subject) = image.rewrite(store, &replacements, options)?;
        for (layer, descriptor) in report.layers[first..].iter_mut().zip(image.layers()) {
            // Its media type may depend on the other layers.
            layer.destination = descriptor.clone();
        }
        report.warn(subject.map(|subject| forgot_subject(&digest, &subject)));
        let destination = new.clone().unwrap_or_else(|| source.clone());
        reports.push(ImageReport { source, destination });
        fates.insert(digest, new.map_or(Fate::Kept, |new| Fate::Replaced(Box::new(new))));
    }
    for (artifact, subject) in &survey.referrers {
        if let Some(Fate::Replaced(new)) = fates.get(subject) {
            report.warn(Some(format!("manifest {artifact} is about {subject}, which is now {}", new.digest)));
        }
    }
    for (descriptor, index) in survey.indexes {
        let fate = rewrite_index(store, &descriptor, index, &fates, options, &mut report)?;
        fates.insert(descriptor.digest, fate);
    }
    let root = match fates.get(&root.digest) {
        Some(Fate::Replaced(new)) => retarget(root, new),
        _ => root.clone(),
    };
    Ok(Conversion { root, images: reports, layers: report.layers, warnings: report.warnings })
}

/// What there is to tell in the end, told as it comes.
struct Report<'a> {
    observer: &'a dyn Observer,
    layers: Vec<LayerReport>,
    warnings: Vec<String>,
}

impl Report<'_> {
    fn warn(&mut self, warning: Option<String>) {
        warning.iter().for_each(|text| self.observer.warning(text));
        self.warnings.extend(warning);
    }
}

/// Lists the layers for the converter. Those of the images that are not in the store are an error, all at once and
/// before any work is done; layers that are not for distribution, or are to be had elsewhere, need not be there.
fn layers<'a>(
    store: &dyn Store,
    images: &'a [Image],
    observer: &'a dyn Observer,
    cancel: &'a Cancel,
    report: &mut Report<'_>,
) -> Result<Vec<Layer<'a>>> {
    let (mut layers, mut missing) = (Vec::new(), Vec::new());
    for image in images {
        for (position, descriptor, diff_id) in image.convertible() {
            let layer =
                Layer { manifest: &image.descriptor.digest, position, descriptor, diff_id, observer, cancel };
            let place = || format!("layer {position} of manifest {} ({})", layer.manifest, descriptor.digest);
            match store.open(descriptor) {
                Ok(_) => layers.push(layer),
                Err(error) if !error.is_not_found() => return Err(Error::layer(&layer, error)),
                Err(_) if lives_elsewhere(descriptor) => {
                    report.warn(Some(format!("{} stays as it is: it is not in the store", place())));
                }
                Err(_) => missing.push(place()),
            }
        }
    }
    if missing.is_empty() { Ok(layers) } else { Err(Error::Missing { layers: missing }) }
}

fn lives_elsewhere(layer: &Descriptor) -> bool {
    !layer.urls.is_empty() || matches!(layer.media_type.kind(), Kind::Layer { distributable: false, .. })
}

/// Reports on the layers of an image, and returns those that changed with their positions and DiffIDs.
fn place_layers(
    image: &Image,
    done: &mut BTreeMap<(Digest, usize), Done>,
    report: &mut Report<'_>,
) -> Vec<(usize, Descriptor, Digest)> {
    let manifest = &image.descriptor.digest;
    let mut changed = Vec::new();
    for position in 0..image.layers().len() {
        let done = done.remove(&(manifest.clone(), position));
        let layer = layer_report(image, position, done.as_ref().unwrap_or(&Done::default()));
        match done {
            None => report.observer.layer_finished(&layer),
            Some(done) => {
                let why =
                    |reason| format!("layer {position} of manifest {manifest} stays as it is: {reason}");
                report.warn(done.reason.map(why));
                report.warn(mislabelled(&layer));
                changed
                    .extend(done.changed.map(|(_, diff_id)| (position, layer.destination.clone(), diff_id)));
            }
        }
        report.layers.push(layer);
    }
    changed
}

/// Says so where a layer is not compressed as its media type has it. Docker's plain type says nothing.
fn mislabelled(layer: &LayerReport) -> Option<String> {
    let LayerReport { manifest, position, source, statistics, .. } = layer;
    let found = &statistics.source_compression;
    let claimed = match source.media_type.kind() {
        Kind::Layer { compression: Compression::None, .. } => "plain",
        Kind::Layer { compression: Compression::Gzip, .. } => "gzip",
        Kind::Layer { compression: Compression::Zstd, .. } => "zstd",
        _ => return None,
    };
    let lies = !found.is_empty() && found != claimed;
    lies.then(|| {
        format!(
            "layer {position} of manifest {manifest} is {found}, though it is called {}",
            source.media_type
        )
    })
}

fn layer_report(image: &Image, position: usize, done: &Done) -> LayerReport {
    let source = image.layers()[position].clone();
    let changed = done.changed.as_ref();
    LayerReport {
        manifest: image.descriptor.digest.clone(),
        position,
        outcome: done.outcome,
        destination: changed.map_or_else(|| source.clone(), |(blob, _)| image.replaced(position, blob)),
        source,
        diff_id_kept: changed.is_none_or(|(_, new)| image.diff_id(position) == Some(new)),
        statistics: done.statistics.clone(),
        elapsed: done.elapsed,
    }
}

fn rewrite_index(
    store: &dyn Store,
    descriptor: &Descriptor,
    mut index: Index,
    fates: &BTreeMap<Digest, Fate>,
    options: &Options,
    report: &mut Report<'_>,
) -> Result<Fate> {
    edit(&mut index, fates, options.media_types).map_err(|source| Error::malformed(descriptor, source))?;
    if !index.is_changed() {
        return Ok(Fate::Kept);
    }
    if index.manifests().is_empty() {
        return Ok(Fate::Dropped);
    }
    let subject = index.subject().map(|subject| subject.digest.clone()).filter(|_| !options.keep_subject);
    if let Some(subject) = subject {
        index.remove_subject();
        report.warn(Some(forgot_subject(&descriptor.digest, &subject)));
    }
    let old = Descriptor { media_type: index.media_type().clone(), ..descriptor.clone() };
    Ok(Fate::Replaced(Box::new(image::write(store, &old, index.to_bytes())?)))
}

fn forgot_subject(document: &Digest, subject: &Digest) -> String {
    format!("{document} is about {subject}, which its converted form no longer says")
}
