//! A codec outside the project's tree: zstd:chunked as ctr-remote writes it, for containerd's reader alone.
//!
//! It shows what a [`Codec`] is asked for, and what it costs that restow's layers can be read by podman as well: with files
//! of layers as arguments it encodes each of them both ways, in turn, and prints the medians.
//!
//! ```sh
//! cargo run --release --package restow-layer --example containerd_only -- LAYER…
//! ```

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs;
use std::io;
use std::io::Write;
use std::time::Instant;

use restow_layer::Codec;
use restow_layer::Contents;
use restow_layer::EncodeOptions;
use restow_layer::Encoded;
use restow_layer::Hints;
use restow_layer::Layout;
use restow_layer::Seal;
use restow_layer::VerifyOptions;
use restow_layer::Workers;
use restow_layer::ZstdChunked;
use restow_layer::encode;
use restow_layer::toc::Dialect;
use restow_layer::verify;
use restow_oci::Digest;
use restow_oci::MediaType;
use restow_oci::annotations;
use restow_testkit::TarBuilder;

/// How often each layer is encoded each way.
const RUNS: usize = 7;

/// Writes layers for containerd's reader alone.
#[derive(Debug)]
struct ContainerdOnly(ZstdChunked);

impl Codec for ContainerdOnly {
    fn media_type(&self) -> MediaType {
        self.0.media_type()
    }

    fn identity(&self) -> String {
        format!("containerd only, {}", self.0.identity())
    }

    fn layout(&self) -> Layout {
        Layout { dialect: Dialect::Stargz, ..self.0.layout() }
    }

    fn compress(&self, bytes: &[u8], out: &mut Vec<u8>) -> restow_layer::Result<()> {
        self.0.compress(bytes, out)
    }

    fn decompress(&self, frame: &[u8], out: &mut [u8]) -> restow_layer::Result<()> {
        self.0.decompress(frame, out)
    }

    fn seal(
        &self,
        contents: &mut Contents,
        position: u64,
        out: &mut dyn Write,
    ) -> restow_layer::Result<Seal> {
        let write = |source| restow_layer::Error::Write { offset: position, source };
        let mut toc = Vec::new();
        io::copy(&mut contents.toc()?, &mut toc).map_err(write)?;
        let mut compressed = Vec::new();
        self.compress(&toc, &mut compressed)?;
        // Behind the header of a skippable frame, which hides the table from decoders of the tar.
        let (offset, size, uncompressed) = (position + 8, compressed.len() as u64, toc.len() as u64);
        let place = [offset, size, uncompressed, 1].map(u64::to_le_bytes).concat();
        let end = [skippable(&compressed), skippable(&[&place[..], b"GnUlInUx"].concat())].concat();
        out.write_all(&end).map_err(write)?;
        let lazy = [
            (annotations::STARGZ_TOC_DIGEST, contents.toc_digest().to_string()),
            (annotations::STARGZ_ZSTD_MANIFEST_CHECKSUM, Digest::sha256(&compressed).to_string()),
            (annotations::STARGZ_ZSTD_MANIFEST_POSITION, format!("{offset}:{size}:{uncompressed}:1")),
        ];
        Ok(Seal {
            size: end.len() as u64,
            lazy: lazy.map(|(key, value)| (key.to_owned(), value)).into(),
            partial: BTreeMap::new(),
            toc_blob: None,
        })
    }
}

/// Returns a frame that every zstd decoder skips.
fn skippable(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u32).to_le_bytes();
    [&[0x50, 0x2a, 0x4d, 0x18], &length[..], content].concat()
}

/// Encodes a layer and verifies it; returns what was written and how many seconds the encoding took.
fn timed(layer: &[u8], codec: &dyn Codec, workers: &Workers) -> Result<(Encoded, f64), Box<dyn Error>> {
    let options = EncodeOptions { check_frames: false, ..EncodeOptions::new(tempfile::env::temp_dir()) };
    let (mut blob, started) = (Vec::with_capacity(layer.len() * 2), Instant::now());
    let encoded = encode(layer, &mut blob, codec, &options, workers)?;
    let elapsed = started.elapsed().as_secs_f64();
    let hints = Hints::from_annotations(&encoded.lazy_annotations)?;
    verify(&blob, &VerifyOptions { hints, ..VerifyOptions::default() }, workers)?;
    Ok((encoded, elapsed))
}

#[expect(clippy::print_stdout, reason = "it is what the example shows")]
fn main() -> Result<(), Box<dyn Error>> {
    let workers = Workers::new(2)?;
    let (both, alone) = (ZstdChunked::new(3), ContainerdOnly(ZstdChunked::new(3)));

    let tar = TarBuilder::new().dir("etc/").file("etc/motd", "hello").finish();
    let (encoded, _) = timed(&tar, &alone, &workers)?;
    println!("{} bytes for containerd; podman's part: {:?}", encoded.size, encoded.partial_annotations);

    for path in env::args().skip(1) {
        let layer = fs::read(&path)?;
        let (mut sizes, mut times) = ([0; 2], [const { Vec::new() }; 2]);
        for _ in 0..RUNS {
            for (place, codec) in [&both as &dyn Codec, &alone].into_iter().enumerate() {
                let (encoded, seconds) = timed(&layer, codec, &workers)?;
                sizes[place] = encoded.size;
                times[place].push(seconds);
            }
        }
        let [both, alone] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[RUNS / 2]
        });
        let [size, size_alone] = sizes;
        println!(
            "{path}: for both {both:.2} s, {size} bytes; for containerd alone {alone:.2} s, {size_alone} bytes"
        );
        println!("    {:.3} of the time, {:.4} of the size", both / alone, size as f64 / size_alone as f64);
    }
    Ok(())
}
