//! The conversion of an image from one place to another.

mod options;
mod report;

use std::collections::BTreeMap;
use std::path::Path;

use restow_content::Overlay;
use restow_convert as convert;
use restow_convert::Conversion;
use restow_convert::Keep;
use restow_convert::LayerConverter;
use restow_convert::Ordered;
use restow_convert::Platforms;
use restow_convert::Recompress;
use restow_convert::Seekable;
use restow_convert::Selected;
use restow_convert::Selection;
use restow_convert::write_toc_image;
use restow_layer::Depth;
use restow_layer::EncodeOptions;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Limits;
use restow_registry::Destination as Place;
use restow_registry::Reference;
use restow_registry::Source;
use restow_registry::Writing;

pub use self::options::ConvertOptions;
pub use self::options::Format;
pub use self::options::SeekableLayers;
pub use self::options::Target;
pub use self::options::TocImage;
pub use self::options::Verify;
pub use self::report::ConvertReport;
pub use self::report::ConvertedImage;
pub use self::report::First;
pub use self::report::FirstPath;
pub use self::report::MissingPath;
pub use self::report::TocImageReport;
pub use self::report::WorkloadReport;
use crate::Destination;
use crate::Error;
use crate::Result;
use crate::Session;
use crate::Warning;
use crate::WarningKind;
use crate::error::Context as _;
use crate::error::describe;
use crate::gaps;
use crate::observer::Blobs;
use crate::observer::Layers;
use crate::order::Order;
use crate::order::Plan;
use crate::order::Planner;
use crate::referrers;
use crate::report::LeftOut;
use crate::report::platforms;
use crate::session::give_up;
use crate::toc_image::Tables;
use crate::trees::Trees;

impl Session {
    /// Converts an image: `options` says how, or a converter does with its own layers.
    ///
    /// The destination is replaced in one step once all of it is written and verified; after an error it is as it was.
    pub fn convert<'a, S, D>(
        &self,
        source: S,
        destination: D,
        options: impl Into<ConvertOptions<'a>>,
    ) -> Result<ConvertReport>
    where
        S: TryInto<Reference, Error: Into<Error>>,
        D: TryInto<Destination, Error: Into<Error>>,
    {
        let (started, options) = (self.now(), options.into());
        let destination = destination.try_into().map_err(Into::into)?;
        let destination = destination.in_store(self.settings().store.as_deref());
        options.check(&destination)?;
        let (reference, source) = self.open(source)?;
        // What a table cannot say of them is warned of, or the layer is kept.
        let diverging_links = options.unsupported == convert::Unsupported::Fail;
        let limits = Limits { diverging_links, ..self.limits_with(options.parent_references) };
        let whole = gaps::whole(&source, &limits)?;
        gaps::must_not_be_meant(&source, &whole.gaps, &options.platforms, &limits)?;
        let gaps = gaps::warnings(&source, &whole.gaps);
        gaps.iter().for_each(|gap| self.warn(gap));
        let source = Source { root: source.root.clone(), ..whole.of_source(source) };
        let run = Run {
            root: &whole.root,
            gaps,
            session: self,
            options: &options,
            limits: &limits,
            reference: &reference,
            source: &source,
            destination: &destination,
        };
        let mut done = run.finish()?;
        // Not before: if the image is damaged, that is what there is to say.
        done.notices.iter().for_each(|notice| self.warn(notice));
        done.notices.splice(..0, run.gaps.iter().cloned());
        Ok(done.report(&run, self.now().saturating_sub(started)))
    }
}

/// What has been published.
struct Done {
    images: Vec<Selected>,
    conversion: Conversion,
    /// The image of the tables of contents.
    tables: Option<Descriptor>,
    /// What was copied beside, since it refers to the source.
    referrers: Vec<Descriptor>,
    /// Which files come first.
    plan: Plan,
    /// What there is to say beside the conversion's own warnings.
    notices: Vec<Warning>,
}

/// A conversion under way.
struct Run<'a> {
    session: &'a Session,
    options: &'a ConvertOptions<'a>,
    limits: &'a Limits,
    reference: &'a Reference,
    source: &'a Source,
    /// What is converted: the source's root, or what of it is there.
    root: &'a Descriptor,
    /// What is left out of it.
    gaps: Vec<Warning>,
    destination: &'a Destination,
}

impl Run<'_> {
    fn finish(&self) -> Result<Done> {
        let Source { provider, root, name, .. } = self.source;
        let selection = convert::select(&**provider, self.root, &self.options.platforms, self.limits);
        let selection = selection.with_context(|| name.clone())?;
        let images = selection.images.clone();
        if images.is_empty() && !self.gaps.is_empty() {
            return Err(Error::NoneWhole { name: name.clone() });
        }
        self.check_place(&selection.others)?;
        let subjects = || std::iter::once(root).chain(images.iter().map(|image| &image.descriptor));
        let access = self.session.access();
        let referrers = match self.options.copy_referrers {
            true => referrers::find(access, self.reference, subjects())?,
            false => Vec::new(),
        };
        let place = self.session.open_place(
            &self.destination.place,
            Writing {
                source: Some(self.source),
                observer: Some(Blobs::uploads(self.session.observer().clone())),
                existing: self.options.existing,
            },
        )?;
        let (conversion, tables, plan, mut notices) = match self.convert_into(&**place, selection, &referrers)
        {
            Ok(done) => done,
            Err(error) => {
                give_up(place);
                return Err(error);
            }
        };
        if !self.options.copy_referrers && conversion.root.digest != root.digest {
            notices.extend(referrers::warnings(access, self.reference, subjects()));
        }
        notices.extend(self.left_out(&conversion));
        Ok(Done { images, conversion, tables, referrers, plan, notices })
    }

    /// Tells whether nobody said which images of an index are meant, so that nobody may expect that others are left out.
    fn unasked(&self) -> bool {
        matches!(self.options.platforms, Platforms::Prefer(_)) && !self.options.keep_other_platforms
    }

    /// Refuses to put what is left of an index in its own place, unless that was asked for.
    fn check_place(&self, others: &[Selected]) -> Result<()> {
        let replaces = || self.destination.replaces(self.reference, &self.source.root);
        if !self.unasked() || others.is_empty() || !replaces() {
            return Ok(());
        }
        let left_out: Vec<_> = others.iter().map(LeftOut::from).collect();
        Err(Error::Options(format!(
            "{} would lose the images for other platforms ({}): --all-platforms converts them, too, \
             --keep-other-platforms keeps them, --platform says that they may go",
            self.source.name,
            platforms(&left_out),
        )))
    }

    fn left_out(&self, conversion: &Conversion) -> Option<Warning> {
        if !self.unasked() || conversion.left_out.is_empty() {
            return None;
        }
        let left_out: Vec<_> = conversion.left_out.iter().map(LeftOut::from).collect();
        let remedy = "--all-platforms converts them, too, --keep-other-platforms keeps them as they are";
        let text = format!("the new image leaves out {}: {remedy}", platforms(&left_out));
        Some(Warning::new(WarningKind::LeftOut, text))
    }

    /// Converts the source and publishes the result.
    fn convert_into(
        &self,
        place: &dyn Place,
        selection: Selection,
        referrers: &[Descriptor],
    ) -> Result<(Conversion, Option<Descriptor>, Plan, Vec<Warning>)> {
        let Source { provider, root, .. } = self.source;
        let lower = [&**provider].into_iter().chain(place.held()).chain(self.session.others());
        let store = Overlay::new(place.store(), lower);
        let (conversion, mut plan) = self.convert(&store, place.scratch(), selection)?;
        let toc_image = self.toc_image();
        let tables = match toc_image {
            Some(wanted) => write_toc_image(&store, &conversion, wanted.referrer, self.limits)?,
            None => None,
        };
        let provenance = match self.options.attach_provenance {
            true => Some(referrers::write_provenance(root, &conversion, place.store())?),
            false => None,
        };
        // From here on it is quick, and all or nothing.
        self.session.stop().check()?;
        let mut roots = vec![(&conversion.root, &*self.destination.tags)];
        roots.extend(tables.as_ref().zip(toc_image.map(|wanted| &*wanted.tags)));
        let unnamed: &[String] = &[];
        roots.extend(referrers.iter().chain(&provenance).map(|referrer| (referrer, unnamed)));
        let mut notices = std::mem::take(&mut plan.warnings);
        notices.extend(place.publish_all(&store, &roots)?.into_iter().map(Warning::from));
        Ok((conversion, tables, plan, notices))
    }

    /// Returns the image that the tables of contents go to, if there is to be one.
    fn toc_image(&self) -> Option<&TocImage> {
        match &self.options.target {
            Target::Seekable(layers) => layers.toc_image.as_ref(),
            Target::Ordinary(_) | Target::Same | Target::By(_) => None,
        }
    }

    /// Converts the layers of the images, and returns what there is to say of their order, too.
    fn convert(
        &self,
        store: &Overlay<'_>,
        scratch: &Path,
        selection: Selection,
    ) -> Result<(Conversion, Plan)> {
        let ConvertOptions { verify, reuse, .. } = self.options;
        let unordered = |conversion| (conversion, Plan::default());
        match &self.options.target {
            Target::By(converter) => self.convert_by(store, selection, *converter).map(unordered),
            Target::Same => self.convert_by(store, selection, &Keep).map(unordered),
            Target::Ordinary(recompression) => {
                let workers = self.session.workers()?.clone();
                let converter = Recompress::new(*recompression, self.limits.clone(), workers);
                let converter = converter.check(matches!(verify, Verify::Frames | Verify::Toc));
                let converter = converter.read_back(*verify == Verify::Full).reuse(*reuse);
                self.convert_by(store, selection, &converter).map(unordered)
            }
            Target::Seekable(layers) => self.convert_in_order(store, scratch, selection, layers),
        }
    }

    fn convert_in_order(
        &self,
        store: &Overlay<'_>,
        scratch: &Path,
        selection: Selection,
        layers: &SeekableLayers,
    ) -> Result<(Conversion, Plan)> {
        let mut warnings = Vec::new();
        let tables = self.tables(layers, &selection.images, &mut warnings);
        let seekable = self.seekable(layers, scratch)?.tables(tables);
        let (conversion, mut plan) = match layers.order.moves() {
            false => (self.convert_by(store, selection, &seekable)?, Plan::default()),
            true => {
                let images = selection.images.clone();
                let planner = self.planner(&images, &layers.order)?;
                let conversion = self.convert_by(store, selection, &Ordered::new(seekable, &planner))?;
                (conversion, planner.into_plan())
            }
        };
        plan.warnings.extend(warnings);
        Ok((conversion, plan))
    }

    fn convert_by(
        &self,
        store: &Overlay<'_>,
        selection: Selection,
        converter: &dyn LayerConverter,
    ) -> Result<Conversion> {
        let observer = Layers(&**self.session.observer());
        convert::convert_selection(store, selection, converter, &self.convert_options(), &observer)
            .with_context(|| self.source.name.clone())
    }

    fn seekable(&self, layers: &SeekableLayers, scratch: &Path) -> Result<Seekable> {
        let ConvertOptions { verify, reuse, .. } = self.options;
        let spool = self.session.settings().temporary.clone().unwrap_or_else(|| scratch.to_owned());
        let options = EncodeOptions {
            chunk_size: layers.chunk_size,
            chunking: layers.chunking,
            landmark: layers.landmark,
            keep_diff_id: layers.keep_diff_id,
            check_frames: *verify == Verify::Frames,
            limits: self.limits.clone(),
            ..EncodeOptions::new(spool)
        };
        let depth = match verify {
            Verify::Full => Some(Depth::Full),
            Verify::Frames | Verify::Toc => Some(Depth::Toc),
            Verify::None => None,
        };
        let converter = Seekable::new(layers.format.codec(), options, self.session.workers()?.clone());
        Ok(converter.verify(depth).reuse(*reuse))
    }

    /// Finds the tables of contents of layers that might be kept without one of their own. What is wrong with them only
    /// means that such layers are converted.
    fn tables(
        &self,
        layers: &SeekableLayers,
        images: &[Selected],
        warnings: &mut Vec<Warning>,
    ) -> BTreeMap<Digest, Descriptor> {
        let mut found = BTreeMap::new();
        if !self.options.reuse || layers.toc_image.is_none() {
            return found;
        }
        let tables = Tables::beside(self.session.access(), self.reference, self.source, self.limits);
        for image in images {
            match tables.all(&image.descriptor.digest) {
                Ok(tables) => found.extend(tables),
                Err(error) => {
                    let text = format!("no layer is kept for its table of contents: {}", describe(&error));
                    warnings.push(Warning::new(WarningKind::TocImage, text));
                }
            }
        }
        found
    }

    fn planner<'p>(&'p self, images: &'p [Selected], order: &Order) -> Result<Planner<'p>> {
        let trees = Trees {
            provider: &*self.source.provider,
            limits: self.limits,
            threads: self.session.layers(),
            cancel: self.session.stop(),
            conversion: None,
        };
        // What may stay as it is need not be compressed.
        let gather = !self.options.reuse;
        Planner::new(self.session, trees, gather, images, order).with_context(|| self.source.name.clone())
    }

    fn convert_options(&self) -> convert::Options {
        let options = self.options;
        convert::Options {
            platforms: options.platforms.clone(),
            keep_other_platforms: options.keep_other_platforms,
            keep_subject: options.keep_subject,
            readers: options.readers,
            add_variants: options.add_variants,
            strict: options.strict,
            media_types: options.media_types,
            unsupported: options.unsupported,
            jobs: self.session.layers(),
            limits: self.limits.clone(),
            cancel: self.session.stop().clone(),
            memo: self.session.memo(&self.destination.place),
        }
    }
}
