//! Predicting what containers of the images at hand read first, and remembering it.

use std::num::NonZeroUsize;

use restow_analyze as analyze;
use restow_analyze::Access;
use restow_analyze::Launch;
use restow_analyze::Prediction;
use restow_analyze::Reading;
use restow_content::Provider;
use restow_convert::Cancel;
use restow_oci::Config;
use restow_oci::Descriptor;
use restow_oci::Kind;
use restow_oci::Limits;
use restow_oci::Manifest;
use serde::Deserialize;
use serde::Serialize;

use crate::memo::Slots;

/// What predictions are made with.
pub(crate) struct Predictor<'a> {
    pub(crate) provider: &'a dyn Provider,
    pub(crate) limits: &'a Limits,
    pub(crate) jobs: NonZeroUsize,
    pub(crate) cancel: &'a Cancel,
    /// Where earlier predictions are remembered.
    pub(crate) memory: Option<Slots>,
}

/// A prediction as it is remembered: positions and paths.
#[derive(Serialize, Deserialize)]
struct Remembered {
    files: Vec<(usize, String)>,
    notices: Vec<String>,
}

impl Predictor<'_> {
    /// Predicts what is read of the image with this manifest.
    pub(crate) fn predict(&self, manifest: &Descriptor) -> anyhow::Result<Prediction> {
        let bytes = restow_content::read(self.provider, manifest, self.limits.manifest_size)?;
        let manifest = Manifest::parse(bytes, self.limits)?;
        // The config of an artifact says nothing about running it.
        if !matches!(manifest.config().media_type.kind(), Kind::Config) {
            return Ok(Prediction::default());
        }
        let config = restow_content::read(self.provider, manifest.config(), self.limits.config_size)?;
        let launch = Launch::of(&Config::parse(config, self.limits)?);
        if launch.args.is_empty() {
            return Ok(Prediction {
                notices: vec!["the image's config names no command".into()],
                ..Prediction::default()
            });
        }
        let reading = Reading {
            provider: self.provider,
            limits: self.limits,
            threads: self.jobs.get(),
            stop: &|| self.cancel.is_cancelled(),
        };
        Ok(analyze::predict(&reading, manifest.layers(), &launch)?)
    }

    /// Returns the prediction for the manifest as a record of it, and what could not be followed.
    ///
    /// Whatever is wrong with the image is for the conversion to say; here it means that nothing is predicted.
    pub(crate) fn record(&self, manifest: &Descriptor) -> anyhow::Result<(Vec<Access>, Vec<String>)> {
        let key = format!("prediction {} of {}", analyze::predict::VERSION, manifest.digest);
        let remembered = self.memory.as_ref().and_then(|memory| memory.recall::<Remembered>(&key));
        let remembered = match remembered {
            Some(remembered) => remembered,
            None => match self.predict(manifest) {
                Ok(prediction) => {
                    let files = prediction.files.into_iter().map(|file| (file.position, file.path));
                    let made = Remembered { files: files.collect(), notices: prediction.notices };
                    if let Some(memory) = &self.memory {
                        memory.remember(&key, &made);
                    }
                    made
                }
                Err(error) => {
                    self.cancel.check()?;
                    let notices = vec![format!("nothing is predicted: {error:#}")];
                    Remembered { files: Vec::new(), notices }
                }
            },
        };
        let access = |(position, path)| Access {
            path,
            manifest_digest: Some(manifest.digest.clone()),
            layer_index: Some(position),
        };
        Ok((remembered.files.into_iter().map(access).collect(), remembered.notices))
    }
}
