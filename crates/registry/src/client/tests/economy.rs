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
        client.digest_to_write(&name(&registry, "a:v1")).unwrap().unwrap();
    }
    assert!(clock.slept().is_empty());
    client.digest_to_write(&name(&registry, "a:v1")).unwrap().unwrap();
    assert_eq!(clock.slept(), [Duration::from_secs(1)]);
}

#[test]
fn docker_hub_has_a_budget_without_being_told() {
    let registry = Registry::start();
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("docker.io")).unwrap();
    let text = format!("server = \"http://{}\"\n", registry.host());
    std::fs::write(directory.path().join("docker.io/hosts.toml"), text).unwrap();
    let hosts = Hosts::load(&[], &[directory.path().to_owned()]).unwrap();
    let (client, clock) = client_with(Settings { hosts, ..Settings::default() });
    let name = Name::parse("debian:12").unwrap();
    for _ in 0..300 {
        client.digest_to_write(&name).unwrap();
    }
    assert!(clock.slept().is_empty());
    client.digest_to_write(&name).unwrap();
    assert_eq!(clock.slept(), [Duration::from_millis(200)]);
}

#[test]
fn a_look_costs_one_request_for_all_who_read_and_each_for_who_writes() {
    let registry = Registry::start();
    let image = ImageBuilder::new().build();
    registry.put("a", "v1", &image);
    let content = registry.put_blob("a", b"content");
    let client = client();
    let (there, missing) = (name(&registry, "a:v1"), name(&registry, "a:v2"));
    let repository = &there.repository;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                assert_eq!(client.digest(&there).unwrap().as_ref(), Some(&image.root.digest));
                assert_eq!(client.digest(&missing).unwrap(), None);
                assert_eq!(client.blob_size(repository, &content).unwrap(), Some(7));
                assert_eq!(client.blob_size(repository, &Digest::sha256(b"none")).unwrap(), None);
            });
        }
    });
    assert_eq!(registry.take_lines().len(), 4);
    for _ in 0..2 {
        client.digest_to_write(&there).unwrap().unwrap();
        assert!(!client.holds(repository, &Digest::sha256(b"none")).unwrap());
    }
    assert_eq!(registry.take_lines().len(), 4);
    // What was missing and has been put is there.
    let document = Bytes::from(image.root_bytes().to_vec());
    for (digest, bytes) in image.blobs.iter().filter(|(digest, _)| *digest != image.root.digest) {
        assert_eq!(registry.put_blob("a", bytes), *digest);
    }
    client.put_manifest(&missing, &MediaType::OCI_MANIFEST, &document).unwrap();
    assert_eq!(client.digest(&missing).unwrap(), Some(image.root.digest));
    client.push_blob(repository, &layer(b"none"), &blob(b"none"), &[]).unwrap();
    assert_eq!(client.blob_size(repository, &Digest::sha256(b"none")).unwrap(), Some(4));
}

#[test]
fn a_blob_of_four_mebibytes_is_kept_and_a_larger_one_is_not() {
    for (size, requests) in [(4 << 20, 1), ((4 << 20) + 1, 2)] {
        let registry = Registry::start();
        let content = large(size);
        registry.put_blob("a", &content);
        let client = client();
        for _ in 0..2 {
            assert!(read_through(&client, &name(&registry, "a"), &layer(&content)).unwrap() == content);
        }
        assert_eq!(registry.take_lines().len(), requests, "{size}");
        let repository = name(&registry, "a").repository;
        assert_eq!(client.small_blob(&repository, &layer(&content)).is_ok(), size == 4 << 20);
    }
}

#[test]
fn a_blob_is_asked_for_when_it_is_read_and_looked_for_where_nothing_names_it() {
    let registry = Registry::start();
    let image = ImageBuilder::new().layer(restow_testkit::Layer::plain("small")).build();
    registry.put("a", "v1", &image);
    let client = client();
    let repository = name(&registry, "a").repository;
    let remote = Remote::new(&client, &repository);
    let small = layer(b"small");
    let opened = remote.open(&small).unwrap();
    assert_eq!(registry.take_lines(), [format!("HEAD /v2/a/blobs/{}", small.digest)]);
    drop(opened);
    assert!(remote.clone().named_only().open(&small).is_err_and(|error| error.is_not_found()));
    assert!(registry.take_lines().is_empty());
    // The manifest says that it is there.
    restow_content::read(&remote, &image.root, u64::MAX).unwrap();
    registry.take_lines();
    let opened = remote.clone().named_only().open(&small).unwrap();
    assert!(registry.take_lines().is_empty());
    let mut buffer = [0; 5];
    opened.read_at(&mut buffer, 0).unwrap();
    assert_eq!((&buffer, registry.take_lines().len()), (b"small", 1));
    // Where it is not, that turns out.
    registry.remove_blob("a", &small.digest);
    let error =
        restow_content::read(&Remote::new(&super::client(), &repository).expecting(&small.digest), &small, 9);
    let error = Error::from(error.unwrap_err());
    assert!(error.is_not_found(), "{error}");
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
        // One that is removed leaves the list, too.
        client.delete_manifest(&repository.at(&artifact.root.digest)).unwrap();
        let left = client.referrers(&repository, &image.root.digest, None).unwrap();
        let left: Vec<_> = left.iter().map(|left| &left.digest).collect();
        assert_eq!(left, [&index.root.digest], "lists: {lists}");
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
    // A tag goes alone.
    registry.put("a", "v2", &image);
    let tag = name(&registry, "a:v2");
    client.manifest(&tag).unwrap().unwrap();
    client.delete_manifest(&tag).unwrap();
    assert_eq!((client.manifest(&tag).unwrap().is_none(), client.digest(&tag).unwrap()), (true, None));
    assert!(registry.manifest("a", image.root.digest.as_str()).is_some());
    client.delete_blob(&repository, &Digest::sha256(b"blob")).unwrap();
    assert_eq!(client.blob_size(&repository, &Digest::sha256(b"blob")).unwrap(), None);
}

#[test]
fn a_flight_that_is_over_is_forgotten() {
    let cache = Cache::default();
    let one = cache.flight("one".to_owned());
    assert!(Arc::ptr_eq(&one, &cache.flight("one".to_owned())));
    for number in 0..100 {
        drop(cache.flight(number.to_string()));
    }
    assert_eq!(cache.flights(), 2);
}
