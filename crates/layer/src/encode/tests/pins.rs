//! The bytes that are written, whatever machine writes them.

use super::*;

/// What each codec makes of the lower layer of the busybox image, two of its files in front.
const PINS: [(&str, &str); 7] = [
    ("zstd:chunked 1", "sha256:4e980d825de78dc104427296819bb4db0f653e251589bfff4140130dc61badbc"),
    ("zstd:chunked 3", "sha256:326aeebe0b888c34b6727eb6587bf2917a4bf93dcdb0a22f72d2350f7fcb536f"),
    ("zstd:chunked 9", "sha256:8d8e59f5282d3b14d0ab4578564b7f57aad18944bf9d8fac29b4aa2e661ddd8c"),
    ("zstd:chunked 19", "sha256:80521b068b2fe33508cdac788758712cea0634d700b9079d2d38d81208de8692"),
    ("eStargz 1", "sha256:c3e6f48f46deae645ce03513cc45ba3749c7fa35d90c9f9b2b9df5a7313b4b91"),
    ("eStargz 5", "sha256:ba8f9c5eb034248951793ed480979744e022340192f0fb3269fdb693cec718d2"),
    ("eStargz 12", "sha256:36522903cbd8f050a4e6c970509b2c0757e7d8d9c7fa82f1fec53bfc0e694ee8"),
];

#[test]
fn the_bytes_are_those_of_every_machine_and_of_this_format_version() {
    let layer = "a1d0479fd531269e654e898b12268df55fc3af08abd92d1c56475ab9b023d394";
    let source = restow_testkit::testdata("layouts/busybox/blobs/sha256").join(layer);
    let source = std::fs::read(source).unwrap();
    let found: Vec<_> = PINS
        .iter()
        .map(|(name, _)| {
            let (format, level) = name.split_once(' ').unwrap();
            let level = level.parse().unwrap();
            let codec: Box<dyn Codec> = match format {
                "eStargz" => Box::new(Estargz::new(level)),
                _ => Box::new(ZstdChunked::new(level)),
            };
            let options =
                Options { chunk_size: DEFAULT_CHUNK_SIZE, ..prioritized(&["bin/sh", "etc/passwd"]) };
            let (_, blob) = run_codec(&*codec, &source, &options, 2).unwrap();
            (*name, Digest::sha256(&blob).to_string())
        })
        .collect();
    let table: String = found.iter().map(|(name, digest)| format!("    ({name:?}, {digest:?}),\n")).collect();
    assert!(
        found.iter().map(|(name, digest)| (*name, digest.as_str())).eq(PINS),
        "The bytes have changed, and with them the digests of everybody's images. If that is meant to be, raise \
         FORMAT_VERSION in zstdchunked.rs or estargz.rs, so that nothing made before passes for the same, and pin\n{table}"
    );
}

/// What the default level makes of content of each kind and size that it has settings of its own for.
const TUNED: [(&str, &str); 6] = [
    ("text 50", "sha256:377f8981d04ad3c10450c0671cd5f5a96a5612d1a5812cecd31f72137a526dd3"),
    ("text 200", "sha256:63ca98a702a3e0f3260cc645a2375824eda3dcf3e66380557bc187a6b743d0a3"),
    ("text 2048", "sha256:14093232be5d514de73864162c53d6b6e68146ae5d8d2f165d04419e0e6bb9e0"),
    ("program 50", "sha256:2fb043ebf40cd2f07312d6623aecee95df578994bc78882cd29387b306a6b0db"),
    ("program 200", "sha256:f9004db44fe8fd69d2832e95818511e9041d333c22ff72ef2259b110a468e7b8"),
    ("program 2048", "sha256:f99b0bc57f00cd451441fe28a423c8ce487571413723c28111856e665ef03b23"),
];

#[test]
fn text_and_all_else_have_the_bytes_of_this_format_version() {
    let numbers: String =
        (0..200_000u32).map(|n| format!("{n},{}\n", n.wrapping_mul(7919) % 10_007)).collect();
    // As programs are: small numbers in words, some of which recur.
    let words: Vec<u8> = (0..600_000u32).flat_map(|n| (n.wrapping_mul(n) % 4096).to_le_bytes()).collect();
    let found: Vec<_> = [("text", numbers.as_bytes()), ("program", &words)]
        .into_iter()
        .flat_map(|(kind, content)| [50 << 10, 200 << 10, 2 << 20].map(|size| (kind, size, &content[..size])))
        .map(|(kind, size, content)| {
            let mut frame = Vec::new();
            ZstdChunked::new(3).compress(content, &mut frame).unwrap();
            (format!("{kind} {}", size >> 10), Digest::sha256(&frame).to_string())
        })
        .collect();
    let table: String = found.iter().map(|(name, digest)| format!("    ({name:?}, {digest:?}),\n")).collect();
    assert!(
        found.iter().map(|(name, digest)| (name.as_str(), digest.as_str())).eq(TUNED),
        "The default level writes other bytes; raise FORMAT_VERSION in zstdchunked.rs and pin\n{table}"
    );
}
