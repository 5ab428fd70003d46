//! What the fuzz targets do with bytes that nobody meant.
//!
//! Each function is a target of its own; one that returns has found nothing.

mod places;
mod predict;
mod registries;
mod sandbox;
mod settings;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use restow_analyze::Launch;
use restow_analyze::list;
use restow_analyze::record as records;
use restow_layer::Buffer;
use restow_layer::Codec;
use restow_layer::EncodeOptions;
use restow_layer::Estargz;
use restow_layer::Hints;
use restow_layer::Reader;
use restow_layer::TarReader;
use restow_layer::VerifyOptions;
use restow_layer::Workers;
use restow_layer::ZstdChunked;
use restow_layer::decompress;
use restow_layer::diff_id;
use restow_layer::encode;
use restow_layer::footer;
use restow_layer::verify;
use restow_oci::Config;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Index;
use restow_oci::Limits;
use restow_oci::Manifest;
use restow_oci::MediaType;
use restow_oci::Platform;
use restow_testkit::TarBuilder;

pub use self::places::places;
pub use self::predict::predict;
pub use self::registries::answers;
pub use self::registries::hosts;
pub use self::registries::logins;
pub use self::registries::references;
pub use self::sandbox::sandbox;
pub use self::settings::filter;
pub use self::settings::jobs;
pub use self::settings::memo;

static WORKERS: LazyLock<Workers> = LazyLock::new(|| Workers::new(1).expect("a thread can be started"));

/// Manifests, indexes, configs, descriptors and the names in them.
pub fn documents(bytes: &[u8]) {
    let limits = Limits::default();
    let _ = Manifest::parse(bytes.to_vec(), &limits);
    let _ = Index::parse(bytes.to_vec(), &limits);
    let _ = Descriptor::parse(bytes.to_vec(), &limits);
    if let Ok(config) = Config::parse(bytes.to_vec(), &limits) {
        Launch::of(&config);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Digest::parse(text);
        let _ = MediaType::parse(text);
        let _ = Platform::parse(text);
    }
}

/// Seekable layers: the footers at the end, the table of contents they lead to, and every chunk it lists.
pub fn layer(blob: &[u8]) {
    let tail = &blob[blob.len().saturating_sub(footer::TAIL)..];
    let _ = footer::parse(tail, blob.len() as u64);
    let blob = blob.to_vec();
    let _ = verify(&blob, &VerifyOptions::default(), &WORKERS);
    let Ok(reader) = Reader::open(blob, &Hints::default(), &Limits::default()) else { return };
    for node in reader.toc().entries() {
        for chunk in node.chunks() {
            let _ = reader.read_chunk(&chunk);
        }
    }
}

/// Annotations of a layer's descriptor, a JSON object of strings, which say where in a sound layer its tables are. The first
/// byte says of which format it is.
pub fn annotations(bytes: &[u8]) {
    let Some((choice, text)) = bytes.split_first() else { return };
    let Ok(annotations) = serde_json::from_slice::<BTreeMap<String, String>>(text) else { return };
    let Ok(hints) = Hints::from_annotations(&annotations) else { return };
    let blob = &LAYERS[usize::from(choice % 2)];
    let _ = verify(blob, &VerifyOptions { hints: hints.clone(), ..VerifyOptions::default() }, &WORKERS);
    let Ok(reader) = Reader::open(blob.clone(), &hints, &Limits::default()) else { return };
    for node in reader.toc().entries() {
        for chunk in node.chunks() {
            let _ = reader.read_chunk(&chunk);
        }
    }
}

/// A layer of each format.
static LAYERS: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    let tar = TarBuilder::new().file("a", "content").file("b", vec![0; 5000]).finish();
    let codecs: [Box<dyn Codec>; 2] = [Box::new(ZstdChunked::new(1)), Box::new(Estargz::new(1))];
    codecs.map(|codec| {
        let mut blob = Vec::new();
        let encoded = encode(&tar[..], &mut blob, &*codec, &EncodeOptions::new(spool()), &WORKERS);
        encoded.expect("a sound tar is encoded");
        blob
    })
});

#[expect(clippy::disallowed_methods, reason = "what is fuzzed has no directory of its own")]
fn spool() -> PathBuf {
    std::env::temp_dir()
}

/// Records of accesses and lists of paths.
pub fn record(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(accesses) = records::parse(text) {
        let again = records::parse(&records::write(&accesses)).expect("what was written can be read");
        assert_eq!(again, accesses);
    }
    let _ = list::parse(text);
}

/// Tars, plain or compressed: read entry by entry, and made into a layer whose tar must be the one that was read.
pub fn tar(bytes: &[u8]) {
    let limits = Limits::default();
    let _ = read_tar(bytes, &limits);
    let options = EncodeOptions::new(spool());
    let mut blob = Vec::new();
    if let Ok(encoded) = encode(bytes, &mut blob, &ZstdChunked::new(1), &options, &WORKERS) {
        let made = diff_id(&blob[..], encoded.diff_id.algorithm(), &limits);
        assert_eq!(made.expect("what was written can be read"), encoded.diff_id);
    }
}

fn read_tar(bytes: &[u8], limits: &Limits) -> restow_layer::Result<()> {
    let mut tar = TarReader::new(decompress(bytes, limits)?, limits);
    let mut raw = Buffer::default();
    while tar.next(&mut raw)?.is_some() {
        raw.truncate(0);
        tar.skip_payload(&mut raw)?;
    }
    tar.finish(&mut raw)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use restow_testkit::Random;

    use super::*;

    type Target = fn(&[u8]);

    const TARGETS: [(&str, Target); 15] = [
        ("annotations", annotations),
        ("answers", answers),
        ("documents", documents),
        ("filter", filter),
        ("hosts", hosts),
        ("jobs", jobs),
        ("layer", layer),
        ("logins", logins),
        ("memo", memo),
        ("places", places),
        ("predict", predict),
        ("record", record),
        ("references", references),
        ("sandbox", sandbox),
        ("tar", tar),
    ];

    #[test]
    fn every_target_takes_its_seeds() {
        for (name, target) in TARGETS {
            let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
            let seeds: Vec<_> = fs::read_dir(&seeds).unwrap().collect();
            assert!(!seeds.is_empty(), "{name}");
            for seed in seeds {
                target(&fs::read(seed.unwrap().path()).unwrap());
            }
        }
    }

    /// No fuzzing, but a look whether each target runs.
    #[test]
    fn every_target_takes_a_few_odd_bytes() {
        for (_, target) in TARGETS {
            for seed in 0..200 {
                let mut random = Random::new(seed);
                let length = random.below(600);
                let mut bytes = random.content(length);
                if let Some(choice) = bytes.first_mut() {
                    *choice = seed as u8;
                }
                target(&bytes);
            }
        }
    }
}
