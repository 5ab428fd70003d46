//! Blobs that are read at any place.

use restow_content::read;

use super::*;

fn check(remote: Remote, content: &[u8]) {
    let descriptor = layer(content);
    let remote = &remote.expecting(&descriptor.digest);
    let opened = remote.open(&descriptor).unwrap();
    assert_eq!(opened.size(), content.len() as u64);
    let at = |offset: usize, length: usize| {
        let mut buffer = vec![0; length];
        let count = opened.read_at(&mut buffer, offset as u64).unwrap();
        buffer.truncate(count);
        buffer
    };
    let end = content.len();
    // The end first, as readers of footers do; then the middle, the start, and on from there.
    assert!(at(end - 100, 200) == content[end - 100..]);
    assert_eq!(at(end, 10), b"");
    assert_eq!(at(end + 10, 10), b"");
    assert!(content[end / 2..].starts_with(&at(end / 2, 1000)));
    assert!(content.starts_with(&at(0, 1000)));
    drop(opened);
    assert!(read(remote, &descriptor, u64::MAX).unwrap() == content);
    assert!(read(remote, &descriptor, u64::MAX).unwrap() == content);
}

#[test]
fn a_blob_is_read_in_order_or_out_of_it() {
    let content = large(10 << 20);
    let registry = Registry::start();
    registry.put_blob("a", &content);
    let repository = name(&registry, "a").repository;
    let one = client();
    check(Remote::new(&one, &repository), &content);

    registry.take_lines();
    let directory = tempfile::tempdir().unwrap();
    let client = client();
    let spooled = Remote::new(&client, &repository).spooling(directory.path());
    check(spooled, &content);
    // A look at the end, one download for all the rest, and one for what was far ahead of it.
    assert!(registry.requests().len() <= 3, "{:?}", registry.take_lines());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_spooled_blob_has_readers_side_by_side() {
    let content = large(9 << 20);
    let registry = Registry::start();
    registry.put_blob("a", &content);
    let directory = tempfile::tempdir().unwrap();
    let client = client();
    let remote = Remote::new(&client, &name(&registry, "a").repository).spooling(directory.path());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(read(&remote, &layer(&content), u64::MAX).unwrap() == content));
        }
    });
    assert_eq!(registry.take_lines().iter().filter(|line| line.starts_with("GET")).count(), 1);
}

#[test]
fn what_is_missing_is_missing_and_what_cannot_be_verified_is_refused() {
    let registry = Registry::start();
    let client = client();
    let remote = Remote::new(&client, &name(&registry, "a").repository);
    assert!(remote.open(&layer(b"small")).map(drop).unwrap_err().is_not_found());
    let manifest = Descriptor { media_type: MediaType::OCI_MANIFEST, ..layer(b"{}") };
    assert!(remote.open(&manifest).map(drop).unwrap_err().is_not_found());
    // A large layer that registries need not have is looked for at once.
    let foreign = MediaType::OCI_NONDISTRIBUTABLE_LAYER_GZIP;
    let foreign = Descriptor { media_type: foreign, size: 5 << 20, ..layer(b"x") };
    assert!(remote.open(&foreign).map(drop).unwrap_err().is_not_found());
    let unknown = Descriptor { digest: Digest::parse("md5:00").unwrap(), ..layer(b"x") };
    let error = remote.open(&unknown).map(drop).unwrap_err();
    assert!(matches!(error, restow_content::Error::UnsupportedAlgorithm { .. }), "{error}");
    // Others too, unless a manifest of the repository names them.
    let large = Descriptor { size: 5 << 20, ..layer(b"x") };
    assert!(remote.open(&large).map(drop).unwrap_err().is_not_found());
    assert!(registry.take_lines().last().unwrap().starts_with("HEAD "));
    let image = restow_testkit::ImageBuilder::new()
        .layer(restow_testkit::Layer::plain(b"x").size(5 << 20).missing())
        .build();
    registry.put("a", "v1", &image);
    remote.open(&image.root).unwrap();
    registry.take_lines();
    let opened = remote.open(&large).unwrap();
    assert!(registry.take_lines().is_empty());
    let error = opened.read_at(&mut [0], 0).unwrap_err();
    assert!(error.to_string().contains("not found"), "{error}");
}
