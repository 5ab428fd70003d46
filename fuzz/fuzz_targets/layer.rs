//! Seekable layers: the footers at the end, the table of contents they lead to, and every chunk it lists.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use restow_layer::Hints;
use restow_layer::Reader;
use restow_layer::VerifyOptions;
use restow_layer::Workers;
use restow_layer::footer;
use restow_layer::verify;
use restow_oci::Limits;

static WORKERS: LazyLock<Workers> = LazyLock::new(|| Workers::new(1).expect("a thread can be started"));

fuzz_target!(|blob: &[u8]| {
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
});
