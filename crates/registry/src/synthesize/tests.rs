use restow_testkit::ImageBuilder;
use restow_testkit::IndexBuilder;
use restow_testkit::Layer;
use restow_testkit::Registry;
use serde_json::json;

use super::*;
use crate::Client;
use crate::Name;
use crate::Remote;
use crate::Settings;
use restow_oci::annotations::DOCKER_REFERENCE_DIGEST;

fn client() -> Client {
    Client::new(Settings::default()).unwrap()
}

fn made(client: &Client, name: &str) -> Result<Option<Value>> {
    let name = Name::parse(name).unwrap();
    let Some(content) = client.manifest(&name)? else { return Ok(None) };
    let provider = Remote::new(client, &name.repository);
    let called = Name { digest: None, ..name }.to_string();
    let subject = Subject { root: &content.descriptor, provider: &provider, name: &called };
    synthesize(&subject, &Architectures::default(), &Limits::default()).map(Some)
}

const ARCH: &str = "com.docker.official-images.bashbrew.arch";

/// The shape of docker:dind in docker-library/meta-scripts #27: an OCI index of images and their attestations,
/// whose entries carry annotations of their own.
#[test]
fn an_index_of_images_and_attestations_is_told_where_each_lies() {
    let registry = Registry::start();
    let image = |platform: &str| {
        let layer = Layer::gzip(platform.as_bytes());
        ImageBuilder::new().platform(platform).layer(layer).build()
    };
    let (amd64, armv6, arm64) = (image("linux/amd64"), image("linux/arm/v6"), image("linux/arm64/v8"));
    let created = "org.opencontainers.image.created";
    let with = |image: &restow_testkit::Image, platform: Value| {
        let mut fields = json!({"platform": platform});
        fields["annotations"] = json!({created: "2024-02-07T02:49:16Z", ARCH: "a lie"});
        fields["x-unknown"] = json!(7);
        (image.clone(), fields)
    };
    let entries = [
        with(&amd64, json!({"architecture": "amd64", "os": "linux"})),
        with(&armv6, json!({"architecture": "arm", "os": "linux", "variant": "v6"})),
        with(&arm64, json!({"architecture": "arm64", "os": "linux"})),
        with(&amd64, json!({"architecture": "amd64", "os": "linux"})),
    ];
    let stranger = image("linux/riscv64");
    let mut builder = IndexBuilder::new();
    for (image, fields) in entries {
        builder = builder.image_with(&image, fields);
    }
    let index = builder.attestation(&amd64).attestation(&arm64).attestation(&stranger).build();
    registry.put("library/docker", "dind", &index);

    let client = client();
    let name = registry.name("library/docker:dind");
    let made = made(&client, &name).unwrap().unwrap();
    // The index says all platforms, so nothing else is asked for.
    assert_eq!(registry.take_lines(), ["GET /v2/library/docker/manifests/dind"]);
    let keys: Vec<_> = made.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["schemaVersion", "mediaType", "manifests", "annotations"]);
    assert_eq!(made["mediaType"], MediaType::OCI_INDEX.as_str());
    assert_eq!(made["annotations"][REF_NAME], format!("{name}@{}", index.root.digest));
    let entries = made["manifests"].as_array().unwrap();
    let words: Vec<_> = entries.iter().map(|entry| entry["annotations"][ARCH].as_str().unwrap()).collect();
    assert_eq!(words, ["amd64", "arm32v6", "arm64v8", "amd64", "arm64v8"]);
    for entry in entries {
        let digest = entry["digest"].as_str().unwrap();
        assert_eq!(entry["annotations"][REF_NAME], format!("{name}@{digest}"));
    }
    assert_eq!(entries[0]["annotations"][created], "2024-02-07T02:49:16Z");
    assert_eq!(entries[0]["x-unknown"], 7);
    assert_eq!(entries[2]["platform"], json!({"architecture": "arm64", "os": "linux", "variant": "v8"}));
    assert_eq!(entries[3]["annotations"][DOCKER_REFERENCE_DIGEST], amd64.root.digest.as_str());
}

/// All of the document that docker:dind comes to there: four platforms, an attestation behind each. Of two entries for one
/// manifest the first stays, whatever the other says.
#[test]
fn what_is_made_of_dockers_own_image_is_known_to_the_letter() {
    let registry = Registry::start();
    let platforms = [
        ("linux/amd64", json!({"architecture": "amd64", "os": "linux"}), "amd64"),
        ("linux/arm/v6", json!({"architecture": "arm", "os": "linux", "variant": "v6"}), "arm32v6"),
        ("linux/arm/v7", json!({"architecture": "arm", "os": "linux", "variant": "v7"}), "arm32v7"),
        ("linux/arm64/v8", json!({"architecture": "arm64", "os": "linux", "variant": "v8"}), "arm64v8"),
    ];
    let image = |platform: &str| {
        ImageBuilder::new().platform(platform).layer(Layer::gzip(platform.as_bytes())).build()
    };
    let revision = "org.opencontainers.image.revision";
    let images = platforms.each_ref().map(|(platform, ..)| image(platform));
    let mut builder = IndexBuilder::new();
    for (image, (_, platform, word)) in images.iter().zip(&platforms) {
        let fields =
            json!({"annotations": {revision: format!("of {word}"), ARCH: "stale"}, "platform": platform});
        builder = builder.image_with(image, fields).attestation(image);
    }
    let second = json!({"annotations": {revision: "of the second"}, "platform": {"architecture": "s390x", "os": "linux"}});
    let index = builder.image_with(&images[0], second).build();
    registry.put("library/docker", "dind", &index);

    let name = registry.name("library/docker:dind");
    let place = |digest: &str| format!("{name}@{digest}");
    let given = index.document();
    let mut expected = Vec::new();
    for (pair, (image, (_, platform, word))) in
        given["manifests"].as_array().unwrap().chunks(2).zip(images.iter().zip(&platforms))
    {
        let [entry, attestation] = pair else { panic!("{pair:?}") };
        let digest = image.root.digest.as_str();
        expected.push(json!({
            "mediaType": MediaType::OCI_MANIFEST.as_str(),
            "digest": digest,
            "size": entry["size"],
            "annotations": {ARCH: word, revision: format!("of {word}"), REF_NAME: place(digest)},
            "platform": platform,
        }));
        let about = attestation["digest"].as_str().unwrap();
        expected.push(json!({
            "mediaType": MediaType::OCI_MANIFEST.as_str(),
            "digest": about,
            "size": attestation["size"],
            "annotations": {
                ARCH: word,
                REF_NAME: place(about),
                "vnd.docker.reference.digest": digest,
                "vnd.docker.reference.type": "attestation-manifest",
            },
            "platform": {"architecture": "unknown", "os": "unknown"},
        }));
    }
    let expected = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_INDEX.as_str(),
        "manifests": expected,
        "annotations": {REF_NAME: place(index.root.digest.as_str())},
    });
    assert_eq!(made(&client(), &name).unwrap().unwrap(), expected);
}

/// The shape of the nanoserver manifest there: Docker's, alone, its platform in its config, a version with it.
#[test]
fn a_manifest_alone_becomes_an_index_of_one() {
    let registry = Registry::start();
    let image = ImageBuilder::new()
        .docker()
        .platform("windows/amd64")
        .config_field("os.version", "10.0.20348.2322".into())
        .layer(Layer::blob("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "base"))
        .build();
    registry.put("windows/nanoserver", "ltsc2022", &image);
    let by_digest = registry.name(&format!("windows/nanoserver@{}", image.root.digest));
    for (name, called) in [
        (registry.name("windows/nanoserver:ltsc2022"), registry.name("windows/nanoserver:ltsc2022")),
        (by_digest, registry.name("windows/nanoserver")),
    ] {
        let place = format!("{called}@{}", image.root.digest);
        let expected = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
            "manifests": [{
                "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                "digest": image.root.digest.as_str(),
                "size": image.root.size,
                "annotations": {ARCH: "windows-amd64", REF_NAME: place},
                "platform": {"architecture": "amd64", "os": "windows", "os.version": "10.0.20348.2322"},
            }],
            "annotations": {REF_NAME: place},
        });
        assert_eq!(made(&client(), &name).unwrap().unwrap(), expected);
    }
}

#[test]
fn what_an_index_leaves_out_is_filled_in() {
    let registry = Registry::start();
    let bare = ImageBuilder::new().platform("linux/arm64/v8").build();
    let docker = ImageBuilder::new().docker().platform("linux/arm").build();
    let artifact = ImageBuilder::new().config_bytes("{}").build().edit(|document| {
        document["config"]["mediaType"] = "application/x".into();
    });
    for (first, media_type) in [(&bare, MediaType::OCI_INDEX), (&docker, MediaType::DOCKER_MANIFEST_LIST)] {
        let index = IndexBuilder::new()
            .image_with(first, json!({"data": base64(first.root_bytes())}))
            .image_with(&artifact, json!({"platform": {"os": "", "architecture": "amd64"}}))
            .build()
            .edit(|document| {
                let map = document.as_object_mut().unwrap();
                map.remove("schemaVersion");
                map.remove("mediaType");
            });
        registry.put("a", "v1", &index);
        let made = made(&client(), &registry.name("a:v1")).unwrap().unwrap();
        assert_eq!(
            (&made["schemaVersion"], made["mediaType"].as_str()),
            (&json!(2), Some(media_type.as_str()))
        );
        let entry = &made["manifests"][0];
        assert!(entry.get("data").is_none());
        let variant = if media_type.is_docker() { "v7" } else { "v8" };
        assert_eq!(entry["platform"]["variant"], variant);
        // An artifact has no platform, and no architecture either.
        assert!(made["manifests"][1].get("platform").is_none());
        assert!(made["manifests"][1]["annotations"].get(ARCH).is_none());
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[test]
fn nothing_is_null_and_the_unknown_an_error() {
    let registry = Registry::start();
    registry.put_manifest("a", Some("v1"), "application/x", b"{\"mediaType\":\"application/x\"}");
    let client = client();
    assert_eq!(made(&client, &registry.name("none:v1")).unwrap(), None);
    assert_eq!(made(&client, &registry.name("a:v2")).unwrap(), None);
    let error = made(&client, &registry.name("a:v1")).unwrap_err();
    assert!(
        matches!(&error, Error::Synthesis { .. }) && error.to_string().contains("application/x"),
        "{error}"
    );
    let of_old = IndexBuilder::new().build().edit(|document| document["schemaVersion"] = 1.into());
    registry.put("a", "old", &of_old);
    let error = made(&client, &registry.name("a:old")).unwrap_err();
    assert!(matches!(&error, Error::Document { .. }), "{error}");
}

/// The broken index that docker-library/meta-scripts looks up in its tests: no entry says what it runs on, and each is
/// asked; an entry that carries its manifest is not fetched for that.
#[test]
fn an_index_without_platforms_is_looked_into() {
    let registry = Registry::start();
    let image = |platform: &str| ImageBuilder::new().docker().platform(platform).build();
    let (linux, windows) = (image("linux/arm/v5"), image("windows/amd64"));
    let index = IndexBuilder::new()
        .image_with(&linux, json!({"platform": null}))
        .image_with(&windows, json!({"platform": null, "data": base64(windows.root_bytes())}))
        .build();
    registry.put("a", "v1", &index);
    let client = client();
    let index = made(&client, &registry.name("a:v1")).unwrap().unwrap();
    let words: Vec<_> =
        index["manifests"].as_array().unwrap().iter().map(|entry| &entry["annotations"][ARCH]).collect();
    assert_eq!(words, ["arm32v5", "windows-amd64"]);
    let lines = registry.take_lines();
    assert_eq!(lines.iter().filter(|line| line.contains("/manifests/")).count(), 2, "{lines:#?}");
    assert_eq!(lines.len(), 4, "{lines:#?}");
    // A manifest that an index has led to is known when it is asked for itself.
    let alone = registry.name(&format!("a@{}", linux.root.digest));
    made(&client, &alone).unwrap().unwrap();
    assert!(registry.take_lines().is_empty());
}

#[test]
fn fifty_references_of_which_forty_are_warm_cost_ten_requests() {
    let registry = Registry::start();
    for number in 0..10 {
        let image = ImageBuilder::new().annotation("number", &number.to_string()).build();
        let index = IndexBuilder::new().image(&image).build();
        registry.put("a", &format!("v{number}"), &index);
    }
    let client = client();
    std::thread::scope(|scope| {
        for worker in 0..5 {
            let (client, registry) = (&client, &registry);
            scope.spawn(move || {
                for number in 0..10 {
                    let name = registry.name(&format!("a:v{}", (number + worker) % 10));
                    made(client, &name).unwrap().unwrap();
                }
            });
        }
    });
    assert_eq!(registry.requests().len(), 10);
}

#[test]
fn words_for_architectures_can_be_chosen() {
    let architectures = Architectures {
        key: "arch".to_owned(),
        words: [("x".to_owned(), Platform::parse("linux/arm64").unwrap())].into(),
    };
    for (platform, word) in
        [("linux/arm64/v8", Some("x")), ("linux/arm64", Some("x")), ("linux/arm64/v9", None)]
    {
        assert_eq!(architectures.word(&Platform::parse(platform).unwrap()), word, "{platform}");
    }
}
