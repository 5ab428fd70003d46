//! Tars, plain or compressed: read entry by entry, and made into a layer whose tar must be the one that was read.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use restow_layer::Buffer;
use restow_layer::EncodeOptions;
use restow_layer::TarReader;
use restow_layer::Workers;
use restow_layer::ZstdChunked;
use restow_layer::decompress;
use restow_layer::encode;
use restow_oci::Limits;

static WORKERS: LazyLock<Workers> = LazyLock::new(|| Workers::new(1).expect("a thread can be started"));

fn read(bytes: &[u8], limits: &Limits) -> restow_layer::Result<()> {
    let mut tar = TarReader::new(decompress(bytes, limits)?, limits);
    let mut raw = Buffer::default();
    while tar.next(&mut raw)?.is_some() {
        raw.truncate(0);
        tar.skip_payload(&mut raw)?;
    }
    tar.finish(&mut raw)
}

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits::default();
    let _ = read(bytes, &limits);
    let options = EncodeOptions::new(std::env::temp_dir());
    let mut blob = Vec::new();
    if let Ok(encoded) = encode(bytes, &mut blob, &ZstdChunked::new(1), &options, &WORKERS) {
        let made = restow_layer::diff_id(&blob[..], &limits).expect("what was written can be read");
        assert_eq!(made, encoded.diff_id);
    }
});
