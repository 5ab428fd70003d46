//! A converter outside the project's tree: it leaves a path, and all that is below it, out of every layer.
//!
//! It shows what a converter owes the image. It reads a layer through [`Layer::open`], so that bytes that are not the
//! layer's are noticed; it holds the content to the DiffID of the config; it writes through [`Layer::write`], so that
//! nothing stays behind after an error; and what it does not mean to change it passes on byte by byte.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use restow_content::MemoryStore;
use restow_content::Store;
use restow_convert::BoxError;
use restow_convert::Converted;
use restow_convert::Error;
use restow_convert::Layer;
use restow_convert::LayerConverter;
use restow_convert::LayerWriter;
use restow_convert::Options;
use restow_convert::Silent;
use restow_convert::Statistics;
use restow_convert::convert;
use restow_layer::Buffer;
use restow_layer::Header;
use restow_layer::Kind;
use restow_layer::TarReader;
use restow_layer::decompress;
use restow_layer::path;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Digester;
use restow_oci::Limits;
use restow_oci::MediaType;

/// Leaves a path out of layers.
#[derive(Debug)]
pub struct DropPath {
    path: String,
    limits: Limits,
}

impl DropPath {
    /// Leaves out `path` and all that is below it.
    pub fn new(path: &str) -> Self {
        Self { path: path::clean(path), limits: Limits::default() }
    }
}

impl LayerConverter for DropPath {
    fn convert(&self, store: &dyn Store, layer: &Layer<'_>) -> Result<Converted, BoxError> {
        let written = layer.write(store, |output| self.rewrite(store, layer, output))?;
        let Some((blob, diff_id)) = written else { return Ok(Converted::Unchanged) };
        // A Docker image stays one as long as no layer of it is anything else.
        let docker = layer.descriptor.media_type.is_docker();
        let media_type = if docker { MediaType::DOCKER_LAYER_GZIP } else { MediaType::OCI_LAYER_GZIP };
        let descriptor = Descriptor::new(media_type, blob.digest, blob.size);
        Ok(Converted::Changed {
            descriptor,
            diff_id,
            partial: None,
            toc: None,
            statistics: Statistics::default(),
        })
    }

    fn identity(&self, _layer: &Layer<'_>) -> Option<String> {
        Some(format!("drop-path 1 {}", self.path))
    }
}

impl DropPath {
    /// Writes what is left of the layer and returns its DiffID, or nothing where nothing was dropped.
    fn rewrite(
        &self,
        store: &dyn Store,
        layer: &Layer<'_>,
        output: &mut LayerWriter<'_>,
    ) -> Result<Option<Digest>, BoxError> {
        let mut source = layer.open(store)?;
        let mut tar = TarReader::new(decompress(&mut source, &self.limits)?, &self.limits);
        let mut sieve = Sieve::new(output);
        while let Some(entry) = tar.next(&mut sieve.bytes)? {
            let keep = !self.drops(&entry)?;
            sieve.pass(keep)?;
            while tar.read_payload(&mut sieve.bytes, STEP)? > 0 {
                sieve.pass(keep)?;
            }
            tar.read_padding(&mut sieve.bytes)?;
            sieve.pass(keep)?;
        }
        sieve.pass(true)?;
        while tar.read_trailing(&mut sieve.bytes, STEP)? > 0 {
            sieve.pass(true)?;
        }
        drop(tar);
        source.finish()?;
        let (expected, actual) = (layer.diff_id.clone(), sieve.before.finish());
        if actual != expected {
            return Err(Error::DiffId { expected, actual }.into());
        }
        sieve.gzip.finish()?;
        Ok(Some(sieve.after.finish()).filter(|diff_id| *diff_id != actual))
    }

    fn drops(&self, entry: &Header) -> Result<bool, BoxError> {
        let dropped = self.covers(&entry.name);
        if !dropped && entry.kind == Kind::Hardlink && self.covers(&entry.link_name) {
            return Err(format!("{} is another name of what is to be dropped", entry.display_name()).into());
        }
        if dropped && entry.follows_global {
            return Err(format!("{} comes with a header that is for others too", entry.display_name()).into());
        }
        Ok(dropped)
    }

    fn covers(&self, name: &[u8]) -> bool {
        let name = path::clean(&String::from_utf8_lossy(name));
        name.strip_prefix(&self.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

const STEP: u64 = 1 << 20;

/// Takes the bytes of a tar and lets some of them through.
struct Sieve<W: Write> {
    bytes: Buffer,
    before: Digester,
    after: Digester,
    gzip: GzEncoder<W>,
}

impl<W: Write> Sieve<W> {
    fn new(output: W) -> Self {
        Self {
            bytes: Buffer::default(),
            before: Digester::sha256(),
            after: Digester::sha256(),
            gzip: GzEncoder::new(output, Compression::default()),
        }
    }

    fn pass(&mut self, keep: bool) -> std::io::Result<()> {
        self.before.update(self.bytes.filled());
        if keep {
            self.after.update(self.bytes.filled());
            self.gzip.write_all(self.bytes.filled())?;
        }
        self.bytes.truncate(0);
        Ok(())
    }
}

/// Drops the documentation from a small image in memory.
#[expect(clippy::print_stdout, reason = "it is what the example shows")]
fn main() -> Result<(), BoxError> {
    let tar =
        restow_testkit::TarBuilder::new().file("bin/app", "app").file("usr/share/doc/app", "words").finish();
    let image = restow_testkit::ImageBuilder::new().layer(restow_testkit::Layer::gzip(tar)).build();
    let store = MemoryStore::new();
    for (_, blob) in &image.blobs {
        restow_content::write(&store, image.root.media_type.clone(), blob)?;
    }
    let converter = DropPath::new("usr/share/doc");
    let converted = convert(&store, &image.root, &converter, &Options::default(), &Silent)?;
    println!("{} became {}", image.root.digest, converted.root.digest);
    Ok(())
}
