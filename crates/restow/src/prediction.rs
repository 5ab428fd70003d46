//! Predicting what containers of the images at hand read first, and remembering it.

use restow_analyze as analyze;
use restow_analyze::Access;
use restow_analyze::Launch;
use restow_analyze::Prediction;
use restow_analyze::Share;
use restow_oci::Config;
use restow_oci::Kind;
use serde::Deserialize;
use serde::Serialize;

use crate::Result;
use crate::error::describe;
use crate::image::Image;
use crate::memo::Slots;
use crate::trees::Trees;

/// What predictions are made with.
pub struct Predictor<'a> {
    pub trees: Trees<'a>,
    /// Where earlier predictions are remembered.
    pub memory: Option<Slots>,
}

/// A prediction as it is remembered: positions and paths; sizes and bytes read of files that are not read as a whole.
#[derive(Serialize, Deserialize)]
struct Remembered {
    files: Vec<(usize, String, Option<Part>)>,
    notices: Vec<String>,
}

/// Of a file, its size and how many bytes of it are read.
type Part = (u64, u64);

impl Predictor<'_> {
    /// Predicts what is read of the image.
    pub fn predict(&self, image: &Image) -> Result<Prediction> {
        let Trees { provider, limits, .. } = self.trees;
        let config = image.manifest.config();
        // The config of an artifact says nothing about running it.
        if !matches!(config.media_type.kind(), Kind::Config) {
            return Ok(Prediction::default());
        }
        let config = restow_content::read(provider, config, limits.config_size)?;
        let launch = Launch::of(&Config::parse(config, limits)?);
        if launch.args.is_empty() {
            return Ok(Prediction {
                notices: vec!["nothing is predicted: the image's config names no command".into()],
                ..Prediction::default()
            });
        }
        Ok(analyze::predict(&self.trees.for_prediction(image)?, &launch, &limits.prediction))
    }

    /// Returns the prediction for the image as a record of it, and what could not be followed.
    ///
    /// Whatever is wrong with the image is for the conversion to say; here it means that nothing is predicted.
    pub fn record(&self, image: &Image) -> Result<(Vec<Access>, Vec<String>)> {
        let manifest = &image.descriptor;
        let key = format!("prediction {} of {}", analyze::predict::VERSION, manifest.digest);
        let remembered = self.memory.as_ref().and_then(|memory| memory.recall::<Remembered>(&key));
        let remembered = match remembered {
            Some(remembered) => remembered,
            None => match self.predict(image) {
                Ok(prediction) => {
                    let files = prediction.files.into_iter().map(|file| {
                        let share = (file.read < file.size).then_some((file.size, file.read));
                        (file.position, file.path, share)
                    });
                    let made = Remembered { files: files.collect(), notices: prediction.notices };
                    if let Some(memory) = &self.memory {
                        memory.remember(&key, &made);
                    }
                    made
                }
                Err(error) => {
                    self.trees.cancel.check()?;
                    let notices = vec![format!("nothing is predicted: {}", describe(&error))];
                    Remembered { files: Vec::new(), notices }
                }
            },
        };
        let access = |(position, path, share): (_, _, Option<Part>)| Access {
            path,
            manifest_digest: Some(manifest.digest.clone()),
            layer_index: Some(position),
            share: share.map(|(size, read)| Share { size, read, touched: read }),
        };
        Ok((remembered.files.into_iter().map(access).collect(), remembered.notices))
    }
}
