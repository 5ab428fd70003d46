//! A codec outside the project's tree: zstd:chunked as ctr-remote writes it, for containerd's reader alone.
//!
//! It shows what a [`Codec`] is asked for, and what it costs that restow's layers can be read by podman as well: with files
//! of layers as arguments it encodes each of them both ways, in turn, and prints the medians and what they add up to.
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
use restow_layer::footer;
use restow_layer::footer::Footer;
use restow_layer::toc::Dialect;
use restow_layer::verify;
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
        let (toc_digest, toc_size) = (contents.toc_digest().to_string(), contents.toc_size());
        let (size, checksum, mut toc) = contents.stored_toc()?;
        // Behind the header of a skippable frame, which hides the table from decoders of the tar.
        let offset = position + 8;
        let place = [offset, size, toc_size, 1].map(u64::to_le_bytes).concat();
        let footer = [&skippable(40)[..], &place, b"GnUlInUx"].concat();
        out.write_all(&skippable(size as u32)).map_err(write)?;
        io::copy(&mut toc, &mut *out).map_err(write)?;
        out.write_all(&footer).map_err(write)?;
        let lazy = [
            (annotations::STARGZ_TOC_DIGEST, toc_digest),
            (annotations::STARGZ_ZSTD_MANIFEST_CHECKSUM, checksum.to_string()),
            (annotations::STARGZ_ZSTD_MANIFEST_POSITION, format!("{offset}:{size}:{toc_size}:1")),
        ];
        Ok(Seal {
            size: 8 + size + footer.len() as u64,
            lazy: lazy.map(|(key, value)| (key.to_owned(), value)).into(),
            partial: BTreeMap::new(),
            toc_blob: None,
        })
    }
}

/// Returns how a frame begins that every zstd decoder skips.
fn skippable(length: u32) -> [u8; 8] {
    let [a, b, c, d] = length.to_le_bytes();
    [0x50, 0x2a, 0x4d, 0x18, a, b, c, d]
}

/// What was written, how many bytes of it are a tar-split stream, and how many seconds the encoding took.
struct Timed {
    encoded: Encoded,
    tar_split: u64,
    seconds: f64,
}

/// Encodes a layer and verifies it.
fn timed(layer: &[u8], codec: &dyn Codec, workers: &Workers) -> Result<Timed, Box<dyn Error>> {
    let options = EncodeOptions { check_frames: false, ..EncodeOptions::new(tempfile::env::temp_dir()) };
    let (mut blob, started) = (Vec::with_capacity(layer.len() * 2), Instant::now());
    let encoded = encode(layer, &mut blob, codec, &options, workers)?;
    let seconds = started.elapsed().as_secs_f64();
    let hints = Hints::from_annotations(&encoded.lazy_annotations)?;
    verify(&blob, &VerifyOptions { hints, ..VerifyOptions::default() }, workers)?;
    let tail = &blob[blob.len().saturating_sub(footer::TAIL)..];
    let tar_split = match footer::parse(tail, blob.len() as u64)? {
        Some(Footer::Zstd { tar_split: Some(place), .. }) => place.size,
        _ => 0,
    };
    Ok(Timed { encoded, tar_split, seconds })
}

#[expect(clippy::print_stdout, reason = "it is what the example shows")]
fn main() -> Result<(), Box<dyn Error>> {
    let workers = Workers::new(2)?;
    let (both, alone) = (ZstdChunked::new(3), ContainerdOnly(ZstdChunked::new(3)));

    let tar = TarBuilder::new().dir("etc/").file("etc/motd", "hello").finish();
    let Timed { encoded, .. } = timed(&tar, &alone, &workers)?;
    println!("{} bytes for containerd; podman's part: {:?}", encoded.size, encoded.partial_annotations);

    let (mut sizes, mut seconds, mut tar_splits) = ([0; 2], [0.0; 2], 0);
    for path in env::args().skip(1) {
        let layer = fs::read(&path)?;
        let (mut runs, mut found, mut tar_split) = ([const { Vec::new() }; 2], [0; 2], 0);
        for _ in 0..RUNS {
            for (place, codec) in [&both as &dyn Codec, &alone].into_iter().enumerate() {
                let timed = timed(&layer, codec, &workers)?;
                found[place] = timed.encoded.size;
                tar_split = tar_split.max(timed.tar_split);
                runs[place].push(timed.seconds);
            }
        }
        let medians = runs.map(|mut seconds| {
            seconds.sort_by(f64::total_cmp);
            seconds[RUNS / 2]
        });
        println!("{path}: {}", ratio(found, medians));
        for place in 0..2 {
            sizes[place] += found[place];
            seconds[place] += medians[place];
        }
        tar_splits += tar_split;
    }
    if sizes[0] > 0 {
        println!("all layers: {}; the tar-split streams have {tar_splits} bytes", ratio(sizes, seconds));
    }
    Ok(())
}

/// Says what it takes for both readers, in bytes and seconds, and how much more that is than for containerd's.
fn ratio([size, size_alone]: [u64; 2], [both, alone]: [f64; 2]) -> String {
    format!(
        "for both {both:.2} s, {size} bytes; for containerd alone {alone:.2} s, {size_alone} bytes: {:.3} of the time, \
         {:.4} of the size",
        both / alone,
        size as f64 / size_alone as f64
    )
}
