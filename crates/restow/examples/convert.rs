//! Embeds a conversion: the layers of an image become zstd:chunked, with the files that its command reads first at the
//! front, and the report is printed as the `restow` command would print it.

use std::error::Error;
use std::sync::Arc;

use restow::Observer;
use restow::SeekableLayers;
use restow::Session;
use restow::Settings;
use restow::Step;
use restow::Warning;
use restow_layer::ZstdChunked;

/// Tells on stderr how the work goes on.
struct Words;

#[expect(clippy::print_stderr, reason = "it is what the example shows")]
impl Observer for Words {
    fn step(&self, step: &Step<'_>) {
        eprintln!("{step:?}");
    }

    fn warning(&self, warning: &Warning) {
        eprintln!("warning: {warning}");
    }
}

#[expect(clippy::print_stdout, reason = "it is what the example shows")]
fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let (source, destination) = (
        format!("{}:demo", restow_testkit::testdata("layouts/busybox").display()),
        format!("{}:lazy", directory.path().join("out").display()),
    );
    let session = Session::new(Settings::default())?.job(Arc::new(Words));
    let layers = SeekableLayers::new(ZstdChunked::new(3));
    let report = session.convert(source.as_str(), destination.as_str(), layers)?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
