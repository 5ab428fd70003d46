//! How many requests things cost.

use restow_testkit::ImageBuilder;
use restow_testkit::IndexBuilder;

use super::*;

#[test]
fn a_manifest_costs_one_request_however_often_and_by_how_many_it_is_asked_for() {
    let registry = Registry::start();
    let image = ImageBuilder::new().build();
    registry.put("a", "v1", &image);
    let client = client();
    let tag = name(&registry, "a:v1");
    let digest = name(&registry, &format!("a@{}", image.root.digest));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| client.manifest(&tag).unwrap().unwrap());
        }
    });
    client.manifest(&digest).unwrap().unwrap();
    assert_eq!(registry.take_lines(), ["GET /v2/a/manifests/v1"]);
    // Another repository of the registry may not be ours to read.
    assert!(client.manifest(&name(&registry, &format!("b@{}", image.root.digest))).unwrap().is_none());
    assert_eq!(
        client.requests(),
        [(registry.host(), RequestKind::ManifestGet, 2)],
        "each request is counted by its kind"
    );
}

#[test]
fn a_small_blob_costs_one_request() {
    let registry = Registry::start();
    registry.put_blob("a", b"config");
    let client = client();
    let repository = name(&registry, "a").repository;
    for _ in 0..3 {
        assert_eq!(client.small_blob(&repository, &layer(b"config")).unwrap().unwrap(), "config");
    }
    assert_eq!(registry.requests().len(), 1);
    assert!(client.small_blob(&repository, &layer(b"missing")).unwrap().is_none());
}

#[test]
fn a_budget_is_shared_and_its_burst_is_free() {
    let registry = Registry::start();
    registry.put("a", "v1", &ImageBuilder::new().build());
    let settings = Settings { requests_per_minute: Some(60), ..Settings::default() };
    let (client, clock) = client_with(settings);
    for _ in 0..60 {
        client.digest(&name(&registry, "a:v1")).unwrap().unwrap();
    }
    assert!(clock.slept().is_empty());
    client.digest(&name(&registry, "a:v1")).unwrap().unwrap();
    assert_eq!(clock.slept(), [Duration::from_secs(1)]);
}

#[test]
fn lists_go_on_from_page_to_page() {
    let registry = Registry::start();
    let image = ImageBuilder::new().build();
    for tag in 0..1500 {
        registry.put("a", &format!("v{tag:04}"), &image);
    }
    registry.put("b/c", "v1", &image);
    let client = client();
    let tags = client.tags(&name(&registry, "a").repository).unwrap();
    assert_eq!((tags.len(), tags[1499].as_str()), (1500, "v1499"));
    assert_eq!(client.repositories(&registry.host()).unwrap(), ["a", "b/c"]);
    assert_eq!(registry.requests().len(), 3);
    let missing = client.tags(&name(&registry, "none").repository).unwrap_err();
    assert!(matches!(missing, Error::NotInRegistry { .. }), "{missing}");
}

#[test]
fn a_list_that_leads_elsewhere_or_nowhere_ends() {
    use restow_testkit::registry::Answer;
    let registry = Registry::start();
    registry.intercept(|_| {
        let next = "<http://example.org/v2/a/tags/list>; rel=\"next\"";
        Some(Answer::new(200).header("Link", next).body(r#"{"tags":["a"]}"#))
    });
    let error = client().tags(&name(&registry, "a").repository).unwrap_err();
    assert!(error.to_string().contains("on another host"), "{error}");
    registry.intercept(|_| {
        let next = "</v2/a/tags/list>; rel=\"next\"";
        Some(Answer::new(200).header("Link", next).body(r#"{"tags":[]}"#))
    });
    assert!(client().tags(&name(&registry, "a").repository).unwrap().is_empty());
}

#[test]
fn referrers_are_found_by_list_and_by_tag() {
    let image = ImageBuilder::new().build();
    let subject = serde_json::json!({
        "mediaType": image.root.media_type.as_str(),
        "digest": image.root.digest.as_str(),
        "size": image.root.size,
    });
    let artifact = ImageBuilder::new()
        .manifest_field("subject", subject.clone())
        .manifest_field("artifactType", "application/x.signature".into())
        .build();
    let index = IndexBuilder::new().field("subject", subject).build();
    for lists in [true, false] {
        let registry = Registry::start();
        if lists {
            registry.list_referrers();
        }
        registry.put("a", "v1", &image);
        for (digest, bytes) in artifact.blobs.iter().chain(&index.blobs) {
            if *digest != artifact.root.digest && *digest != index.root.digest {
                registry.put_blob("a", bytes);
            }
        }
        let client = client();
        let repository = name(&registry, "a").repository;
        for (document, media_type) in [
            (&artifact, MediaType::OCI_MANIFEST),
            (&index, MediaType::OCI_INDEX),
            (&index, MediaType::OCI_INDEX),
        ] {
            let name = repository.at(&document.root.digest);
            client.put_manifest(&name, &media_type, &Bytes::from(document.root_bytes().to_vec())).unwrap();
        }
        let mut found = client.referrers(&repository, &image.root.digest, None).unwrap();
        found.sort_by_key(|found| found.media_type.clone());
        let digests: Vec<_> = found.iter().map(|found| &found.digest).collect();
        assert_eq!(digests, [&index.root.digest, &artifact.root.digest], "lists: {lists}");
        let wanted = MediaType::parse("application/x.signature").unwrap();
        let found = client.referrers(&repository, &image.root.digest, Some(&wanted)).unwrap();
        assert_eq!(found.len(), 1);
        assert!(client.referrers(&repository, &artifact.root.digest, None).unwrap().is_empty());
    }
}

#[test]
fn what_is_removed_is_gone() {
    let registry = Registry::start();
    let image = ImageBuilder::new().build();
    registry.put("a", "v1", &image);
    registry.put_blob("a", b"blob");
    let client = client();
    let by_digest = name(&registry, &format!("a@{}", image.root.digest));
    client.manifest(&name(&registry, "a:v1")).unwrap().unwrap();
    client.delete_manifest(&by_digest).unwrap();
    assert!(client.manifest(&by_digest).unwrap().is_none());
    assert!(client.manifest(&name(&registry, "a:v1")).unwrap().is_none());
    assert!(matches!(client.delete_manifest(&by_digest), Err(Error::NotInRegistry { .. })));
    let repository = by_digest.repository;
    client.delete_blob(&repository, &Digest::sha256(b"blob")).unwrap();
    assert_eq!(client.blob_size(&repository, &Digest::sha256(b"blob")).unwrap(), None);
}
