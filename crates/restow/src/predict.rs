//! Predicting which files a container reads first, without running it.

use restow_analyze::Prediction;
use restow_convert as convert;
use restow_convert::Platforms;
use restow_oci::Digest;
use restow_oci::Platform;
use restow_registry::Reference;
use restow_registry::Source;
use schemars::JsonSchema;
use serde::Serialize;

use crate::Error;
use crate::Result;
use crate::Session;
use crate::Warning;
use crate::WarningKind;
use crate::image::Image;
use crate::observer::Step;
use crate::order::DEFAULT_MOST_UNREAD;
use crate::prediction::Predictor;
use crate::trees::Trees;

/// What is predicted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PredictOptions {
    /// The images of an index; that for this machine's platform, unless told otherwise.
    pub platforms: Platforms,
    /// The most bytes of a file that may not be read; one with more does not come first.
    pub most_unread: u64,
}

impl Default for PredictOptions {
    fn default() -> Self {
        Self { platforms: Platforms::Prefer(Platform::host()), most_unread: DEFAULT_MOST_UNREAD }
    }
}

/// The predictions for the images of a reference.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PredictReport {
    /// One for each image.
    pub images: Vec<PredictedImage>,
}

/// The prediction for an image.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PredictedImage {
    /// The digest of its manifest.
    #[schemars(with = "String")]
    pub manifest: Digest,
    /// What it is for, where that is known.
    #[schemars(with = "Option<String>")]
    pub platform: Option<Platform>,
    /// The files that are read, in the order of their first reading.
    pub files: Vec<PredictedFile>,
    /// Their bytes.
    pub size: u64,
    /// What comes first of each layer.
    pub layers: Vec<PredictedLayer>,
    /// The texts of the warnings.
    pub notices: Vec<String>,
    /// What could not be followed.
    pub warnings: Vec<Warning>,
}

/// A file that is read.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PredictedFile {
    /// Its path.
    pub path: String,
    /// The position of its layer.
    pub layer: usize,
    /// Its size in bytes.
    pub size: u64,
    /// How many of them are read.
    pub read: u64,
    /// Whether it comes first, since little of it is not read.
    pub first: bool,
    /// Why it is read.
    pub reason: String,
}

/// What comes first of a layer.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PredictedLayer {
    /// Its position.
    pub position: usize,
    /// How many files come first.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The bytes of all its files.
    pub size: u64,
}

impl Session {
    /// Predicts which files containers of the images read first.
    pub fn predict<S>(&self, source: S, options: &PredictOptions) -> Result<PredictReport>
    where
        S: TryInto<Reference, Error: Into<Error>>,
    {
        let (_, source) = self.open(source)?;
        let Source { provider, root, .. } = &source;
        let limits = self.limits();
        let images = convert::select(&**provider, root, &options.platforms, limits)?.images;
        let (threads, cancel) = (self.settings().threads, self.stop());
        let trees = Trees { provider: &**provider, limits, threads, cancel, conversion: None };
        let predictor = Predictor { trees, memory: None };
        let predict = |image: Image| {
            self.observer().step(&Step::Predicting(&image.descriptor.digest));
            let prediction = predictor.predict(&image)?;
            let predicted = PredictedImage::new(image, prediction, options.most_unread);
            predicted.warnings.iter().for_each(|warning| self.warn(warning));
            Ok(predicted)
        };
        let images = Image::of(&source, &images, limits)?.into_iter().map(predict);
        Ok(PredictReport { images: images.collect::<Result<_>>()? })
    }
}

impl PredictedImage {
    fn new(image: Image, prediction: Prediction, most_unread: u64) -> Self {
        let files = prediction.files.into_iter().map(|file| PredictedFile {
            path: file.path,
            layer: file.position,
            size: file.size,
            read: file.read,
            first: file.size.saturating_sub(file.read) <= most_unread,
            reason: file.reason,
        });
        let files: Vec<_> = files.collect();
        let layer = |(position, size)| {
            let first = files.iter().filter(|file| file.first && file.layer == position);
            let bytes = first.clone().map(|file| file.size).sum();
            PredictedLayer { position, files: first.count(), bytes, size }
        };
        let warning = |text: &String| Warning::new(WarningKind::Prediction, text);
        Self {
            manifest: image.descriptor.digest,
            platform: image.platform,
            size: files.iter().map(|file| file.size).sum(),
            layers: prediction.layer_sizes.into_iter().enumerate().map(layer).collect(),
            warnings: prediction.notices.iter().map(warning).collect(),
            notices: prediction.notices,
            files,
        }
    }
}
