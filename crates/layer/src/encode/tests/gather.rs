//! A layer whose order is settled after its files were looked into.

use std::sync::Arc;

use super::*;
use crate::{Buffer, Estargz};

fn content(files: &GatheredFiles, entry: usize, most: u64) -> Vec<u8> {
    let (mut file, mut bytes) = (files.open(entry), Buffer::default());
    while file.read(&mut bytes, most).unwrap() > 0 {}
    bytes.filled().to_vec()
}

#[test]
fn gathering_and_then_encoding_is_encoding() {
    let codecs: [Arc<dyn Codec>; 3] =
        [Arc::new(ZstdChunked::new(3)), Arc::new(Estargz::new(5)), Arc::new(Estargz::new(5).external_toc())];
    let estargz = |options: &EncodeOptions| run_codec(&*codecs[1], &sample().finish(), options, 1).unwrap().1;
    let sources = [gzip(sample().finish()), estargz(&options()), estargz(&prioritized(&["exact"]))];
    for (source, codec) in sources.iter().flat_map(|source| codecs.iter().map(move |codec| (source, codec))) {
        for landmark in [Landmark::Auto, Landmark::Always, Landmark::Never] {
            for paths in [&[][..], &["gone"], &["usr/bin/alias", "gone"]] {
                let options = EncodeOptions { landmark, ..prioritized(paths) };
                let expected = run_codec(&**codec, source, &options, 2).unwrap();
                let gathered = gather(&**source, codec, &options, &TWO_WORKERS, &mut |_| ()).unwrap();
                assert_eq!(*gathered.source_diff_id(), expected.0.source_diff_id);
                let mut blob = Vec::new();
                let encoded = gathered.encode(&mut blob, &options.prioritized, &TWO_WORKERS).unwrap();
                let case = format!("{codec:?} {landmark:?} {paths:?}");
                let mut tar = Vec::new();
                decompress(&*blob, &Limits::default()).unwrap().read_to_end(&mut tar).unwrap();
                assert_eq!(Digest::sha256(&tar), encoded.diff_id, "{case}");
                assert_eq!((encoded, blob), expected, "{case}");
            }
        }
    }
}

#[test]
fn what_is_gathered_can_be_looked_into_by_the_order_of_the_headers() {
    let tar = sample().finish();
    let codecs: [Arc<dyn Codec>; 2] = [Arc::new(ZstdChunked::new(3)), Arc::new(Estargz::new(5))];
    for codec in codecs {
        let mut names = Vec::new();
        let mut add = |header: &Header| names.push(header.display_name());
        let files = gather_files(&*tar, &codec, &options(), &TWO_WORKERS, &mut add).unwrap().1;
        let entry = |name: &str| names.iter().position(|known| known == name).unwrap();
        for (name, expected) in [
            ("etc/passwd", b"root".to_vec()),
            ("etc/empty", Vec::new()),
            ("usr/bin/", Vec::new()),
            ("usr/bin/tool", pattern(2500)),
            ("usr/bin/alias", Vec::new()),
            ("zeros", vec![0; 3000]),
            ("null", Vec::new()),
        ] {
            for most in [1, 700, u64::MAX] {
                assert_eq!(content(&files, entry(name), most), expected, "{name}");
            }
        }
        assert_eq!(names.len(), 11);
        assert_eq!(content(&files, names.len(), 1), b"");
        assert_eq!(content(&files, usize::MAX, 1), b"");
    }
}

#[test]
fn an_earlier_table_of_contents_counts_neither_as_header_nor_as_file() {
    let codec: Arc<dyn Codec> = Arc::new(Estargz::new(5));
    let (_, blob) = run_codec(&*codec, &sample().finish(), &options(), 1).unwrap();
    let mut names = Vec::new();
    let mut add = |header: &Header| names.push(header.display_name());
    let files = gather_files(&*blob, &codec, &options(), &TWO_WORKERS, &mut add).unwrap().1;
    assert!(!names.iter().any(|name| name.contains("stargz.index.json")), "{names:?}");
    let place = names.iter().position(|name| name == "exact").unwrap();
    assert_eq!(content(&files, place, 64), pattern(2000));
}

#[test]
fn what_cannot_be_encoded_cannot_be_gathered() {
    let codec: Arc<dyn Codec> = Arc::new(ZstdChunked::new(3));
    let tar = TarBuilder::new().hardlink("alias", "gone").finish();
    assert!(gather(&*tar, &codec, &options(), &TWO_WORKERS, &mut |_| ()).unwrap_err().is_unlistable());
    let cut = &sample().finish()[..3000];
    gather(cut, &codec, &options(), &TWO_WORKERS, &mut |_| ()).unwrap_err();
    let keep = EncodeOptions { keep_diff_id: true, ..options() };
    let gathered = gather(&*sample().finish(), &codec, &keep, &TWO_WORKERS, &mut |_| ()).unwrap();
    let moved = gathered.encode(&mut Vec::new(), &["zeros".to_string()], &TWO_WORKERS);
    assert!(matches!(moved, Err(Error::NewDiffId { .. })));
}
