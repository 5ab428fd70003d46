//! Copies an image into a store with a database, and out of it again by its name there.

use std::error::Error;

use restow::CopyOptions;
use restow::Session;
use restow::Settings;

#[expect(clippy::print_stdout, reason = "it is what the example shows")]
fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let mut settings = Settings::default();
    settings.store = Some(directory.path().join("store"));
    let session = Session::new(settings)?;

    let source = format!("{}:demo", restow_testkit::testdata("layouts/busybox").display());
    let options = CopyOptions::default();
    let there = session.copy(source.as_str(), "store:busybox:demo", &options)?;
    let back = format!("{}:demo", directory.path().join("out").display());
    let back = session.copy("store:busybox:demo", back.as_str(), &options)?;
    assert_eq!(there.digest, back.digest, "a copy is the image, byte for byte");
    println!("{} is in the store and in {}", there.digest, back.destination.join(", "));
    Ok(())
}
