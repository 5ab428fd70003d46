//! Predicts which files a container of an image reads first, and prints them with the reason for each.

use std::error::Error;

use restow::PredictOptions;
use restow::Session;
use restow::Settings;

#[expect(clippy::print_stdout, reason = "it is what the example shows")]
fn main() -> Result<(), Box<dyn Error>> {
    let image = format!("{}:demo", restow_testkit::testdata("layouts/busybox").display());
    let report = Session::new(Settings::default())?.predict(image.as_str(), &PredictOptions::default())?;
    for image in &report.images {
        for file in image.files.iter().filter(|file| file.first) {
            println!("{} in layer {}: {}", file.path, file.layer, file.reason);
        }
    }
    Ok(())
}
