use std::io;
use std::num::NonZero;

use restow_content::Manager as _;
use restow_content::MemoryStore;
use restow_content::Provider as _;
use restow_content::VerifiedReader;
use restow_convert::Options;
use restow_convert::Silent;
use restow_convert::convert;
use restow_oci::Descriptor;
use restow_oci::MediaType;
use restow_testkit::Fault;
use restow_testkit::Faulty;
use restow_testkit::ImageBuilder;
use restow_testkit::Layer;

use crate::seekable::seekable;
use crate::support::store;
use crate::support::tar;

/// Every operation of the store fails once, those that read the source too.
#[test]
#[expect(clippy::print_stderr, reason = "how many points were tried is what this is about")]
fn a_conversion_fails_at_every_step_and_is_completed_by_the_next_one() {
    let image = ImageBuilder::new().layer(Layer::gzip(tar("one"))).layer(Layer::zstd(tar("two"))).build();
    let options = Options { jobs: NonZero::new(1).unwrap(), ..Options::default() };
    let expected = convert(&store(&image), &image.root, &seekable(1), &options, &Silent).unwrap().root;
    let mut points = 0;
    for fault in [
        Fault::Error(io::ErrorKind::StorageFull),
        Fault::Error(io::ErrorKind::Interrupted),
        Fault::Short,
        Fault::Death,
    ] {
        for at in 1.. {
            let faulty = Faulty::new(store(&image), at, fault);
            let result = convert(&faulty, &image.root, &seekable(1), &options, &Silent);
            let store = faulty.inner();
            verify(store);
            if let Ok(conversion) = &result {
                assert_eq!(conversion.root, expected, "{fault:?} {at}");
            }
            if !faulty.has_failed() {
                result.unwrap();
                break;
            }
            let again = convert(store, &image.root, &seekable(1), &options, &Silent);
            assert_eq!(again.unwrap().root, expected, "{fault:?} {at}");
            verify(store);
            points += 1;
        }
    }
    assert!(points > 40, "{points}");
    eprintln!("{points} points of a conversion tried");
}

/// Reads everything visible.
fn verify(store: &MemoryStore) {
    store
        .walk(&mut |info| {
            let descriptor = Descriptor::new(MediaType::OCI_LAYER, info.digest, info.size);
            VerifiedReader::new(store.open(&descriptor)?, &descriptor)?.finish()
        })
        .unwrap();
}
