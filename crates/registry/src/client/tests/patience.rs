use restow_testkit::ImageBuilder;
use restow_testkit::registry::Answer;

use super::*;

#[test]
fn a_document_is_put_again_when_its_parts_are_not_known_yet() {
    let registry = Registry::start();
    let image = ImageBuilder::new().build();
    for (digest, bytes) in &image.blobs[1..] {
        assert_eq!(registry.put_blob("a", bytes), *digest);
    }
    let document = Bytes::from(image.root_bytes().to_vec());
    for (status, code, refusals, puts) in [
        (404, "MANIFEST_BLOB_UNKNOWN", 2, 3),
        (400, "BLOB_UNKNOWN", 1, 2),
        // Not for ever.
        (404, "MANIFEST_BLOB_UNKNOWN", usize::MAX, 5),
        // Of a manifest, its subject may be unknown.
        (404, "MANIFEST_UNKNOWN", 1, 1),
        (400, "MANIFEST_INVALID", 1, 1),
    ] {
        let left = Mutex::new(refusals);
        registry.intercept(move |_| {
            let mut left = left.lock().unwrap();
            let refuses = *left > 0;
            *left = left.saturating_sub(1);
            refuses.then(|| Answer::error(status, code))
        });
        let (client, clock) = client_with(Settings::default());
        let result = client.put_whole(&name(&registry, "a:v1"), &MediaType::OCI_MANIFEST, &document);
        assert_eq!(
            (result.is_ok(), registry.take_lines().len()),
            (puts == refusals.saturating_add(1), puts),
            "{code}"
        );
        assert_eq!(clock.slept().len(), puts - 1, "{code}");
    }
}
