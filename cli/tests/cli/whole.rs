use std::fs;

use restow_oci::Digest;
use restow_testkit::Image;
use restow_testkit::ImageBuilder;
use restow_testkit::IndexBuilder;
use restow_testkit::Layer;
use restow_testkit::TarBuilder;
use serde_json::Value;
use serde_json::json;

use super::image;
use crate::support::Bench;

const ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

fn arm() -> Image {
    let tar = TarBuilder::new().file("arm", "content").finish();
    ImageBuilder::new().platform("linux/arm64").layer(Layer::gzip(tar)).build()
}

fn remove(bench: &Bench, digest: &Digest) {
    fs::remove_file(bench.path("src/blobs/sha256").join(digest.encoded())).unwrap();
}

/// Returns the digest of the attestation in an index, and that of what it states.
fn attestation(index: &Image) -> (Digest, Digest) {
    let document = index.document();
    let entries = document["manifests"].as_array().unwrap().iter();
    let entry = entries.clone().find(|entry| entry["platform"]["os"] == "unknown").unwrap();
    let digest = entry["digest"].as_str().unwrap();
    let manifest: Value = serde_json::from_slice(index.blob(digest).unwrap()).unwrap();
    let statement = manifest["layers"][0]["digest"].as_str().unwrap();
    (Digest::parse(digest).unwrap(), Digest::parse(statement).unwrap())
}

/// As `docker save` leaves it: the host's image alone, of an index of more.
fn saved() -> (Bench, Digest, Digest) {
    let arm = arm();
    let index = IndexBuilder::new().image(&image()).attestation(&image()).image(&arm).build();
    let bench = Bench::with(&index);
    let (attestation, _) = attestation(&index);
    remove(&bench, &arm.root.digest);
    remove(&bench, &attestation);
    (bench, arm.root.digest, attestation)
}

#[test]
fn what_docker_save_leaves_out_is_named_and_the_image_converts() {
    let (bench, arm, attestation) = saved();
    for line in [
        "optimize src out:a --zstdchunked",
        "convert src out:b --zstd",
        "convert src out:c --gzip --keep-other-platforms",
    ] {
        let run = bench.ok(&format!("{line} --platform linux/amd64"));
        for (digest, what) in [(&arm, "linux/arm64"), (&attestation, "an attestation")] {
            let warning =
                format!("warning: oci:src is taken without manifest {digest} ({what}): it is not there");
            assert!(run.stderr.contains(&warning), "{line}: {run:?}");
        }
        bench.ok(&format!("verify {}", line.split_whitespace().nth(2).unwrap()));
    }
    let document = bench.json("convert src out:d --zstd --platform linux/amd64 --format json");
    assert_eq!(document["notices"].as_array().unwrap().len(), 2, "{document}");

    // Nothing is done for what cannot be had, and the source is named.
    for line in [
        "convert src other:a --zstd --all-platforms",
        "convert src other:a --zstd --platform linux/arm64",
        "copy src other:a --all-platforms",
        "copy src other.tar:a --all-platforms",
    ] {
        let run = bench.run(line);
        assert_eq!(run.code, Some(1), "{line}: {run:?}");
        assert!(run.stderr.contains("oci:src: manifest sha256:"), "{line}: {run:?}");
        assert!(run.stderr.contains("it is not there"), "{line}: {run:?}");
        assert!(!bench.path("other").exists() && !bench.path("other.tar").exists());
    }
    bench.ok("copy src other:a --platform linux/amd64");
}

#[test]
fn an_image_saved_for_another_platform_is_the_one_that_is_meant() {
    let (host, other) = match std::env::consts::ARCH {
        "aarch64" => ("linux/arm64", "linux/amd64"),
        _ => ("linux/amd64", "linux/arm64"),
    };
    let build = |platform: &str| ImageBuilder::new().platform(platform).layer(super::base()).build();
    let (here, there) = (build(host), build(other));
    let index = IndexBuilder::new().image(&here).image(&there).build();
    let bench = Bench::with(&index);
    remove(&bench, &here.root.digest);
    let run = bench.ok("convert src out:a --zstd");
    assert!(run.stderr.contains(&format!("taking the only one, for {other}")), "{run:?}");

    // One that is there in part is meant, and damaged.
    let bench = Bench::new();
    let unique = TarBuilder::new().file("host", "content").finish();
    let here = ImageBuilder::new().platform(host).layer(Layer::plain(unique).missing()).build();
    let index = IndexBuilder::new().image(&here).image(&there).build();
    index.write_layout(&bench.path("partial"), "v1").unwrap();
    let run = bench.run("convert partial out:a --zstd");
    assert_eq!((run.code, run.stderr.contains("lacks 1 of its blobs")), (Some(1), true), "{run:?}");
    assert!(!bench.path("out").exists());
}

#[test]
fn an_attestation_without_its_statement_is_left_out() {
    let index = IndexBuilder::new().image(&image()).attestation(&image()).build();
    let (attestation, statement) = attestation(&index);
    let bench = Bench::with(&index);
    remove(&bench, &statement);
    let run = bench.ok("convert src out:a --zstd --all-platforms");
    let expected = format!("without manifest {attestation} (an attestation): image {attestation} lacks 1");
    assert!(run.stderr.contains(&expected), "{run:?}");
    bench.ok("verify out:a");
    let run = bench.run("copy src other:a --all-platforms");
    assert_eq!((run.code, run.stderr.contains("(an attestation)")), (Some(1), true), "{run:?}");
    let inspected = bench.json("inspect src --format json");
    assert_eq!(inspected["images"].as_array().unwrap().len(), 1);
    let gap = &inspected["gaps"][0];
    assert_eq!((&gap["digest"], &gap["attestation"]), (&json!(attestation.as_str()), &json!(true)));
}

#[test]
fn what_is_missing_is_listed() {
    let (bench, arm, _) = saved();
    let text = bench.ok("inspect src").stdout;
    assert!(text.contains("linux/amd64") && text.contains(&format!("not whole: manifest {arm}")), "{text}");
    assert_eq!(bench.json("inspect src --format json")["gaps"].as_array().unwrap().len(), 2);

    let run = bench.run("verify src");
    assert_eq!((run.code, run.stdout.matches("missing").count()), (Some(1), 2), "{run:?}");
    assert!(run.stderr.contains("2 of 7 blobs are missing"), "{run:?}");
    let run = bench.ok("verify src --allow-missing");
    assert!(run.stderr.contains("warning: oci:src: 2 of 7"), "{run:?}");
    bench.ok("verify src --platform linux/amd64");

    // What is wrong is no less wrong for what is missing.
    let path = bench.path("src/blobs/sha256");
    let config = image().document()["config"]["digest"].as_str().unwrap().to_owned();
    fs::write(path.join(config.strip_prefix("sha256:").unwrap()), "{}").unwrap();
    assert_eq!(bench.run("verify src --allow-missing").code, Some(1));
}

#[test]
fn a_malformed_member_of_an_index_hides_no_other() {
    let malformed = arm().with_root_bytes(b"{}");
    // Without its platform in the index, each manifest has to be read.
    let index = IndexBuilder::new().image_with(&malformed, json!({})).image_with(&image(), json!({})).build();
    let bench = Bench::with(&index);
    let inspected = bench.json("inspect src --format json");
    assert_eq!(inspected["images"][0]["manifest"], image().root.digest.as_str());
    assert_eq!(inspected["gaps"][0]["digest"], malformed.root.digest.as_str());
    let run = bench.run("verify src");
    assert_eq!((run.code, run.stdout.matches("FAILED").count()), (Some(1), 1), "{run:?}");
    bench.ok("verify src --platform linux/amd64");
    let run = bench.ok("convert src out:a --zstd --platform linux/amd64");
    assert!(run.stderr.contains(malformed.root.digest.as_str()), "{run:?}");
    bench.ok("verify out:a");
}

/// A layout of two images under the names `image` and `other`, the second of a media type and bytes of its own.
fn beside(media_type: &str, document: impl Fn(&Value) -> Value) -> Bench {
    let bench = Bench::with(&image());
    let sbom = b"{\"sbom\":1}";
    let put = |bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        fs::write(bench.path("src/blobs/sha256").join(digest.encoded()), bytes).unwrap();
        json!({"digest": digest.as_str(), "size": bytes.len()})
    };
    let mut part = put(sbom);
    part["mediaType"] = "application/spdx+json".into();
    let mut entry = put(document(&part).to_string().as_bytes());
    entry["mediaType"] = media_type.into();
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "other"});
    let mut index = bench.index("src");
    index["manifests"].as_array_mut().unwrap().push(entry);
    bench.write("src/index.json", &index.to_string());
    bench
}

#[test]
fn manifests_of_other_kinds_go_with_their_parts_or_not_at_all() {
    let bench = beside(ARTIFACT, |part| json!({"mediaType": ARTIFACT, "blobs": [part]}));
    bench.ok("copy src:other oci:out:v1");
    let run = bench.ok("verify out:v1");
    assert_eq!(run.stdout.matches("  blob").count(), 1, "{run:?}");
    assert_eq!(fs::read_dir(bench.path("out/blobs/sha256")).unwrap().count(), 2);
    bench.ok("--root store store import src:other artifact");
    bench.ok("--root store verify store:artifact");
    let registry = restow_testkit::Registry::start();
    let index: Value = bench.index("src");
    let entries = json!({"schemaVersion": 2, "manifests": [index["manifests"][1]]}).to_string();
    let digest = Digest::sha256(entries.as_bytes());
    fs::write(bench.path("src/blobs/sha256").join(digest.encoded()), &entries).unwrap();
    let mut index = index;
    let entry = json!({
        "mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest.as_str(), "size": entries.len(),
        "annotations": {"org.opencontainers.image.ref.name": "index"},
    });
    index["manifests"].as_array_mut().unwrap().push(entry);
    bench.write("src/index.json", &index.to_string());
    for name in ["other", "index"] {
        let run = bench.run(&format!("copy src:{name} docker://{}/a:v1 --all-platforms", registry.host()));
        assert_eq!((run.code, run.stderr.contains("not sent to a registry")), (Some(1), true), "{run:?}");
        assert_eq!(registry.manifest("a", "v1"), None);
    }
    assert_eq!(bench.run("copy src:other docker-archive:a.tar:v1").code, Some(1));

    let digest = Digest::sha256(b"{\"sbom\":1}");
    remove(&bench, &digest);
    for line in ["copy src:other oci:again:v1", "--root store2 store import src:other artifact"] {
        let run = bench.run(line);
        assert_eq!((run.code, run.stderr.contains(digest.as_str())), (Some(1), true), "{line}: {run:?}");
    }

    let bench = beside(SCHEMA1, |_| json!({"schemaVersion": 1, "fsLayers": []}));
    for line in [
        "copy src:other oci:out:v1",
        "copy src:other out.tar:v1",
        "--root store store import src:other v1",
        "verify src:other",
    ] {
        let run = bench.run(line);
        let told = run.stderr.contains("schema 1") || run.stdout.contains("schema 1");
        assert_eq!((run.code, told), (Some(1), true), "{line}: {run:?}");
    }
    assert!(!bench.path("out").exists() && !bench.path("out.tar").exists());
}

#[test]
fn a_flat_layout_is_an_image_of_several_platforms() {
    for name in [None, Some("v1")] {
        let bench = Bench::with(&image());
        let other = arm();
        for (digest, bytes) in &other.blobs {
            fs::write(bench.path("src/blobs/sha256").join(digest.encoded()), bytes).unwrap();
        }
        let entry = |image: &Image, architecture: &str| {
            let root = &image.root;
            let mut entry = json!({
                "mediaType": root.media_type.as_str(), "digest": root.digest.as_str(), "size": root.size,
                "platform": {"os": "linux", "architecture": architecture},
            });
            if let Some(name) = name {
                entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
            }
            entry
        };
        let entries = [entry(&other, "arm64"), entry(&image(), "amd64")];
        bench.write("src/index.json", &json!({"schemaVersion": 2, "manifests": entries}).to_string());
        let digest = Digest::sha256(&fs::read(bench.path("src/index.json")).unwrap());

        let run = bench.ok("copy src oci:out:all --all-platforms");
        assert_eq!(run.stdout.trim(), digest.as_str());
        bench.ok("verify out:all");
        bench.ok(&format!("verify src@{digest}"));
        assert_eq!(bench.json("inspect src --format json")["images"].as_array().unwrap().len(), 2);
        bench.ok("optimize src out:seekable --zstdchunked --all-platforms");
        assert_eq!(bench.json("inspect out:seekable --format json")["images"].as_array().unwrap().len(), 2);
        let run = bench.ok("copy src oci:out:one --platform linux/amd64");
        assert_eq!(run.stdout.trim(), image().root.digest.as_str());
        let stored = bench.ok("--root store store import src");
        let expected = name.map_or("src".to_owned(), |name| format!("src:{name}"));
        assert_eq!(stored.stdout.trim(), format!("{digest}  {expected}"));
        bench.ok(&format!("--root store verify store:{expected}"));
        let registry = restow_testkit::Registry::start();
        bench.ok(&format!("copy src docker://{}/a:v1 --all-platforms", registry.host()));
        bench.ok(&format!("verify docker://{}/a:v1", registry.host()));
    }
}
