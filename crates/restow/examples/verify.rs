//! Reads an image back in full and prints what of it holds; fails if something does not.

use std::error::Error;

use restow::Session;
use restow::Settings;
use restow::VerifyOptions;

#[expect(clippy::print_stdout, reason = "it is what the example shows")]
fn main() -> Result<(), Box<dyn Error>> {
    let image = format!("{}:demo", restow_testkit::testdata("layouts/busybox").display());
    let report = Session::new(Settings::default())?.verify(image.as_str(), &VerifyOptions::default())?;
    for blob in &report.blobs {
        let found = blob.problem.clone().unwrap_or_else(|| blob.holds.clone().unwrap_or_default().join(", "));
        println!("{} {}: {found}", blob.blob, blob.digest);
    }
    if report.ok { Ok(()) } else { Err("the image is damaged".into()) }
}
