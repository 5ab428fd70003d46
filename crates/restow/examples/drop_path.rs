//! A converter of one's own: it leaves a path, and all that is below it, out of every layer.
//!
//! It shows what a converter owes the image. It reads a layer through [`Layer::open`], so that bytes that are not the
//! layer's are noticed; it holds the content to the DiffID of the config; and it writes through [`Layer::write`], so that
//! nothing stays behind after an error.

use flate2::Compression;
use flate2::write::GzEncoder;
use restow::Session;
use restow::Settings;
use restow_content::Store;
use restow_convert::BoxError;
use restow_convert::Converted;
use restow_convert::Error;
use restow_convert::Layer;
use restow_convert::LayerConverter;
use restow_convert::Statistics;
use restow_layer::Header;
use restow_layer::filter_tar;
use restow_layer::path;
use restow_oci::Descriptor;
use restow_oci::Limits;
use restow_oci::MediaType;

/// Leaves this path out of layers.
struct DropPath(&'static str);

impl LayerConverter for DropPath {
    fn convert(&self, store: &dyn Store, layer: &Layer<'_>) -> Result<Converted, BoxError> {
        let written = layer.write(store, |output| {
            let (mut source, mut gzip) = (layer.open(store)?, GzEncoder::new(output, Compression::default()));
            let done = filter_tar(&mut source, &mut gzip, &Limits::default(), |entry| !self.covers(entry))?;
            source.finish()?;
            gzip.finish()?;
            if done.source != *layer.diff_id {
                let (expected, actual) = (layer.diff_id.clone(), done.source);
                return Err(Error::DiffId { expected, actual }.into());
            }
            Ok((done.dropped > 0).then_some(done.result))
        })?;
        let Some((blob, diff_id)) = written else { return Ok(Converted::Unchanged) };
        let descriptor = Descriptor::new(MediaType::OCI_LAYER_GZIP, blob.digest, blob.size);
        let statistics = Statistics::default();
        Ok(Converted::Changed { descriptor, diff_id, partial: None, toc: None, statistics })
    }

    fn identity(&self, _layer: &Layer<'_>) -> Option<String> {
        Some(format!("drop-path 1 {}", self.0))
    }
}

impl DropPath {
    fn covers(&self, entry: &Header) -> bool {
        let name = path::clean(&entry.display_name());
        name.strip_prefix(self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Drops the documentation from a small image in a layout.
#[expect(clippy::print_stdout, reason = "it is what the example shows")]
fn main() -> Result<(), BoxError> {
    let directory = tempfile::tempdir()?;
    let tar = restow_testkit::TarBuilder::new().file("app", "app").file("doc/app", "words").finish();
    let image = restow_testkit::ImageBuilder::new().layer(restow_testkit::Layer::gzip(tar)).build();
    image.write_layout(&directory.path().join("app"), "v1")?;
    let name = |name: &str| format!("oci:{}:v1", directory.path().join(name).display());

    let session = Session::new(Settings::default())?;
    let report = session.convert(name("app").as_str(), name("out").as_str(), &DropPath("doc"))?;
    println!("{} became {}", report.source.root.digest, report.digest);
    for file in session.list(name("out").as_str(), "/", true, &restow::ReadOptions::default())?.files {
        println!("{}", file.path);
    }
    Ok(())
}
