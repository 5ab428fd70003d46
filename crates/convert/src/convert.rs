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
use crate::MediaTypes;
use crate::Observer;
use crate::Options;
use crate::Partial;
use crate::Readers;
use crate::Result;
use crate::Selected;
use crate::Selection;
use crate::SourceImage;
use crate::attestation::follow_subjects;
use crate::image;
use crate::image::Image;
use crate::image::forgot_subject;
use crate::index::Fate;
use crate::index::Form;
use crate::index::Forms;
use crate::index::edit;
use crate::index::retarget;
use crate::mentions::Renamed;
use crate::schedule;
use crate::schedule::Done;
use crate::schedule::NewBlob;
use crate::select;

/// What came out of a conversion.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// The root after the conversion; the root before it, if nothing changed.
    pub root: Descriptor,
    /// The images chosen, in order.
    pub images: Vec<ImageReport>,
    /// The images that the root led to and no longer does, since they were not chosen.
    pub left_out: Vec<Selected>,
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
    let selection = select(store, root, &options.platforms, &options.limits)?;
    convert_selection(store, selection, converter, options, observer)
}

/// Does the same for images that were chosen before, and does not heed [`Options::platforms`].
pub fn convert_selection(
    store: &dyn Store,
    selection: Selection,
    converter: &dyn LayerConverter,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Conversion> {
    let Selection { images, others, notice, survey } = selection;
    let root = &survey.root;
    let mut report = Report { observer, layers: Vec::new(), warnings: Vec::new() };
    report.warn(notice);
    let images = images.iter().map(|image| Image::read(store, &image.descriptor, &options.limits));
    let images = images.collect::<Result<Vec<_>>>()?;

    let cancel = options.cancel.child();
    let sources = sources(store, &images, observer, &cancel, &mut report)?;
    let layers: Vec<_> = sources.iter().flat_map(|image| &image.layers).collect();
    let owners: BTreeMap<_, _> = images.iter().map(|image| (&image.descriptor.digest, image)).collect();
    let finished = |place: usize, done: &Done| {
        let Layer { manifest, position, .. } = layers[place];
        observer.layer_finished(&layer_report(owners[manifest], *position, done, options));
    };
    let done = schedule::run(store, &sources, converter, options, &finished)?;
    let places = layers.iter().map(|layer| (layer.manifest.clone(), layer.position));
    let mut done: BTreeMap<_, _> = places.zip(done).collect();

    let unchosen = if options.keep_other_platforms { Fate::Kept } else { Fate::Dropped };
    let mut fates: BTreeMap<_, _> =
        survey.images.iter().map(|image| (image.descriptor.digest.clone(), unchosen.clone())).collect();
    let mut reports = Vec::new();
    for image in images {
        let first = report.layers.len();
        let blobs = place_layers(&image, &mut done, options, &mut report)?;
        let (forms, layers) = rewrite_image(store, &image, &blobs, options, &mut report)?;
        for (layer, descriptor) in report.layers[first..].iter_mut().zip(layers) {
            // Its media type may depend on the other layers.
            layer.destination = descriptor;
        }
        let source = image.descriptor;
        let first = forms.as_ref().and_then(|forms| forms.manifests.first());
        let destination = first.map_or_else(|| source.clone(), |form| form.descriptor.clone());
        fates.insert(source.digest.clone(), forms.map_or(Fate::Kept, Fate::Converted));
        reports.push(ImageReport { source, destination });
    }
    for (artifact, subject) in &survey.referrers {
        if let Some(Fate::Converted(forms)) = fates.get(subject)
            && let Some(new) = forms.successor().filter(|new| new.descriptor.digest != *subject)
        {
            let new = &new.descriptor.digest;
            report.warn(Some(format!("manifest {artifact} is about {subject}, which is now {new}")));
        }
    }
    follow_subjects(store, &survey.indexes, &mut fates, &options.limits)?;
    let mut renamed = renamed(&fates);
    for (descriptor, index) in survey.indexes.clone() {
        let fate = rewrite_index(store, &descriptor, index, &fates, &renamed, options, &mut report)?;
        if let Fate::Edited(new) = &fate {
            renamed.add(&descriptor.digest, &new.digest);
        }
        fates.insert(descriptor.digest, fate);
    }
    let root = match fates.get(&root.digest) {
        None | Some(Fate::Kept | Fate::Dropped) => root.clone(),
        Some(Fate::Edited(new)) => retarget(root, new),
        Some(Fate::Converted(forms)) => match forms.successor() {
            Some(only) if forms.manifests.len() == 1 => retarget(root, &only.descriptor),
            _ => gather(store, root, &fates)?,
        },
    };
    let left_out = if options.keep_other_platforms { Vec::new() } else { others };
    Ok(Conversion { root, images: reports, left_out, layers: report.layers, warnings: report.warnings })
}

/// Returns the manifests that others take the place of.
fn renamed(fates: &BTreeMap<Digest, Fate>) -> Renamed {
    let mut renamed = Renamed::default();
    for (old, fate) in fates {
        match fate {
            Fate::Edited(new) => renamed.add(old, &new.digest),
            Fate::Converted(forms) => {
                forms.successor().into_iter().for_each(|form| renamed.add(old, &form.descriptor.digest));
            }
            Fate::Kept | Fate::Dropped => {}
        }
    }
    renamed
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

/// Lists the images with their layers for the converter. Those of the images that are not in the store are an error, all at once and
/// before any work is done; layers that are not for distribution, or are to be had elsewhere, need not be there.
fn sources<'a>(
    store: &dyn Store,
    images: &'a [Image],
    observer: &'a dyn Observer,
    cancel: &'a Cancel,
    report: &mut Report<'_>,
) -> Result<Vec<SourceImage<'a>>> {
    let (mut sources, mut missing) = (Vec::new(), Vec::new());
    for image in images {
        let mut layers = Vec::new();
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
        sources.push(image.source(layers));
    }
    if missing.is_empty() { Ok(sources) } else { Err(Error::Missing { layers: missing }) }
}

fn lives_elsewhere(layer: &Descriptor) -> bool {
    !layer.urls.is_empty() || matches!(layer.media_type.kind(), Kind::Layer { distributable: false, .. })
}

/// Reports on the layers of an image, and returns the new blobs with their positions.
fn place_layers(
    image: &Image,
    done: &mut BTreeMap<(Digest, usize), Done>,
    options: &Options,
    report: &mut Report<'_>,
) -> Result<Vec<(usize, NewBlob)>> {
    let manifest = &image.descriptor.digest;
    let mut changed = Vec::new();
    for position in 0..image.layers().len() {
        let converted = done.remove(&(manifest.clone(), position));
        let passed_over = converted.is_none();
        let done =
            converted.unwrap_or_else(|| Done { reason: image.passed_over(position), ..Done::default() });
        let layer = layer_report(image, position, &done, options);
        if passed_over {
            report.observer.layer_finished(&layer);
        }
        let warn = |what: &str| format!("layer {position} of manifest {manifest} {what}");
        if options.readers == Readers::Containerd {
            report.warn(too_large_a_table(&layer, options).map(|problem| warn(&problem)));
        } else if let Some(reason) = done.changed.as_ref().and_then(refusal) {
            strict(&layer, reason, options)?;
            report.warn(Some(warn(&format!("is an ordinary zstd layer to podman: {reason}"))));
        } else if let Some(reason) = &done.reason {
            strict(&layer, reason, options)?;
        }
        report.warn(done.reason.map(|reason| warn(&format!("stays as it is: {reason}"))));
        report.warn(mislabelled(&layer));
        report.warn(layer.statistics.order_refused.then(|| {
            warn("keeps its order: what its global extended header says holds for the files after it")
        }));
        report.warn(layer.statistics.diverging_link.as_ref().map(|link| {
            let problem = "says another mode, owner, time or attributes than its file";
            let effect = "lazy readers go by the file, those that unpack the layer by the link";
            warn(&format!("has a hard link, {link:?}, that {problem}: {effect}"))
        }));
        changed.extend(done.changed.map(|blob| (position, blob)));
        report.layers.push(layer);
    }
    Ok(changed)
}

/// Returns why podman would refuse to read a layer in part.
fn refusal(blob: &NewBlob) -> Option<&str> {
    match &blob.partial {
        Some(Partial::Refused(reason)) => Some(reason),
        Some(Partial::Annotations(_)) | None => None,
    }
}

/// Fails, if the options are strict, for a layer that podman does not read in part.
fn strict(layer: &LayerReport, reason: &str, options: &Options) -> Result<()> {
    if !options.strict {
        return Ok(());
    }
    Err(Error::Layer {
        manifest: layer.manifest.clone(),
        position: layer.position,
        media_type: layer.source.media_type.clone(),
        digest: layer.source.digest.clone(),
        source: Error::Refused { reason: reason.to_owned() }.into(),
    })
}

/// Says what there is against a table of contents that readers hold in memory. podman's have a limit of their own.
fn too_large_a_table(layer: &LayerReport, options: &Options) -> Option<String> {
    let (size, limit) = (layer.statistics.toc_size, options.limits.toc_size);
    let problem =
        || format!("has a table of contents of {size} bytes; restow itself opens none of more than {limit}");
    (size > limit).then(problem)
}

/// Writes the manifests of an image, one for each kind of reader, with the new blobs of its layers. Returns them, or
/// nothing where the image stays as it is, and the layers of the first.
fn rewrite_image(
    store: &dyn Store,
    image: &Image,
    blobs: &[(usize, NewBlob)],
    options: &Options,
    report: &mut Report<'_>,
) -> Result<(Option<Forms>, Vec<Descriptor>)> {
    let source = &image.descriptor.digest;
    let (mut manifests, mut layers): (Vec<Form>, _) = (Vec::new(), None);
    let mut changed = !blobs.is_empty();
    for &reader in options.readers.kinds(options.add_variants) {
        let mut image = image.clone();
        let new = image.rewrite(store, blobs, reader, options)?;
        changed |= new.changed;
        if layers.is_none() {
            new.warnings.into_iter().for_each(|warning| report.warn(Some(warning)));
            layers = Some(image.layers().to_vec());
        }
        // Where no layer speaks to its readers, the forms are one; and the source may be the form that is asked for.
        let is_there = |digest: &Digest| new.descriptor.digest == *digest;
        let stays = Some(source).filter(|_| options.add_variants);
        if !manifests.iter().map(|form| &form.descriptor.digest).chain(stays).any(is_there) {
            manifests.push(Form { descriptor: new.descriptor, reader: new.zstd.then_some(reader) });
        }
    }
    changed &= !manifests.is_empty();
    let forms = changed.then(|| Forms {
        readers: options.readers,
        source_stays: options.add_variants,
        platform: image.platform().cloned(),
        manifests,
    });
    Ok((forms, layers.unwrap_or_default()))
}

/// Makes an index of the manifests of the one image there is, in the place of its manifest.
fn gather(store: &dyn Store, root: &Descriptor, fates: &BTreeMap<Digest, Fate>) -> Result<Descriptor> {
    let mut entry = Descriptor::new(root.media_type.clone(), root.digest.clone(), root.size);
    entry.platform = root.platform.clone();
    if let (None, Some(Fate::Converted(forms))) = (&entry.platform, fates.get(&root.digest)) {
        entry.platform = forms.platform.clone();
    }
    let mut index = Index::new(vec![entry]);
    edit(&mut index, fates, &Renamed::default(), MediaTypes::Keep)
        .map_err(|source| Error::malformed(root, source))?;
    let old = Descriptor { media_type: index.media_type().clone(), platform: None, ..root.clone() };
    image::write(store, &old, index.to_bytes())
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

fn layer_report(image: &Image, position: usize, done: &Done, options: &Options) -> LayerReport {
    let source = image.layers()[position].clone();
    let changed = done.changed.as_ref();
    let reader = options.readers.kinds(options.add_variants)[0];
    LayerReport {
        manifest: image.descriptor.digest.clone(),
        position,
        outcome: done.outcome,
        destination: changed.map_or_else(|| source.clone(), |blob| image.replaced(position, blob, reader)),
        source,
        toc: changed.and_then(|blob| blob.toc.clone()),
        diff_id_kept: changed.is_none_or(|blob| image.diff_id(position) == Some(&blob.diff_id)),
        statistics: done.statistics.clone(),
        elapsed: done.elapsed,
    }
}

fn rewrite_index(
    store: &dyn Store,
    descriptor: &Descriptor,
    mut index: Index,
    fates: &BTreeMap<Digest, Fate>,
    renamed: &Renamed,
    options: &Options,
    report: &mut Report<'_>,
) -> Result<Fate> {
    let warnings = edit(&mut index, fates, renamed, options.media_types);
    for warning in warnings.map_err(|source| Error::malformed(descriptor, source))? {
        report.warn(Some(warning));
    }
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
    Ok(Fate::Edited(Box::new(image::write(store, &old, index.to_bytes())?)))
}
