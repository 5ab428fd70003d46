use restow_content::MemoryStore;
use restow_convert::Error;
use restow_convert::Options;
use restow_convert::Platforms;
use restow_convert::select;
use restow_oci::Descriptor;
use restow_oci::Limits;
use restow_oci::Platform;
use restow_testkit::Image;
use restow_testkit::ImageBuilder;
use restow_testkit::IndexBuilder;
use restow_testkit::Layer;
use serde_json::Value;
use serde_json::json;

use crate::support::Nothing;
use crate::support::Pad;
use crate::support::convert_all;
use crate::support::convert_with;
use crate::support::document;
use crate::support::follow;
use crate::support::image;
use crate::support::store;
use crate::support::tar;

fn platforms(texts: &[&str]) -> Vec<Platform> {
    texts.iter().map(|text| Platform::parse(text).unwrap()).collect()
}

fn only(texts: &[&str]) -> Options {
    Options { platforms: Platforms::Only(platforms(texts)), ..Options::default() }
}

fn image_for(platform: &str) -> Image {
    image(platform).platform(platform).build()
}

fn index_for(platforms: &[&str]) -> Image {
    let images = platforms.iter().map(|platform| image_for(platform));
    images.fold(IndexBuilder::new(), |index, image| index.image(&image)).build()
}

fn chosen(store: &MemoryStore, root: &Descriptor, platforms: &Platforms) -> Result<Vec<String>, Error> {
    let selection = select(store, root, platforms, &Limits::default())?;
    Ok(selection.images.iter().map(|image| image.platform.as_ref().unwrap().to_string()).collect())
}

fn listed(index: &Value) -> Vec<&str> {
    index["manifests"].as_array().unwrap().iter().map(|entry| entry["digest"].as_str().unwrap()).collect()
}

#[test]
fn platforms_are_chosen_by_what_fits_them() {
    type Case = (&'static [&'static str], Platforms, Result<&'static [&'static str], &'static str>);
    let cases: &[Case] = &[
        (&["linux/amd64", "linux/arm64"], Platforms::All, Ok(&["linux/amd64", "linux/arm64"])),
        (
            &["linux/amd64", "linux/arm64"],
            Platforms::Only(platforms(&["linux/arm64/v8"])),
            Ok(&["linux/arm64"]),
        ),
        (
            &["linux/s390x", "linux/arm64", "linux/amd64"],
            Platforms::Only(platforms(&["linux/amd64", "linux/s390x"])),
            Ok(&["linux/s390x", "linux/amd64"]),
        ),
        (
            &["linux/arm/v6", "linux/arm/v7"],
            Platforms::Only(platforms(&["linux/arm"])),
            Ok(&["linux/arm/v7"]),
        ),
        // What was asked for by name is not replaced by what would run as well, the host's is.
        (
            &["linux/arm/v5", "linux/arm/v6"],
            Platforms::Only(platforms(&["linux/arm/v7"])),
            Err("no image for linux/arm/v7; there is linux/arm/v5, linux/arm/v6"),
        ),
        (
            &["linux/arm/v5", "linux/arm/v6"],
            Platforms::Prefer(Platform::parse("linux/arm/v7").unwrap()),
            Ok(&["linux/arm/v6"]),
        ),
        (
            &["linux/amd64"],
            Platforms::Only(platforms(&["linux/amd64", "linux/arm64", "windows/amd64"])),
            Err("no image for linux/arm64, windows/amd64; there is linux/amd64"),
        ),
        (&["linux/s390x"], Platforms::Prefer(Platform::parse("linux/arm64").unwrap()), Ok(&["linux/s390x"])),
        (
            &["linux/s390x", "linux/ppc64le"],
            Platforms::Prefer(Platform::parse("linux/arm64").unwrap()),
            Err("no image for linux/arm64; there is linux/s390x, linux/ppc64le"),
        ),
        (&[], Platforms::All, Ok(&[])),
        (&[], Platforms::Prefer(Platform::parse("linux/arm64").unwrap()), Ok(&[])),
        (
            &[],
            Platforms::Only(platforms(&["linux/arm64"])),
            Err("no image for linux/arm64; there is none at all"),
        ),
    ];
    for (index, platforms, expected) in cases {
        let image = index_for(index);
        let found = chosen(&store(&image), &image.root, platforms).map_err(|error| error.to_string());
        let expected =
            expected.map(|names| names.iter().map(ToString::to_string).collect()).map_err(String::from);
        assert_eq!(found, expected, "{platforms:?} of {index:?}");
    }
}

#[test]
fn a_choice_that_was_not_asked_for_is_announced() {
    let image = index_for(&["linux/s390x"]);
    let platforms = Platforms::Prefer(Platform::parse("linux/arm64").unwrap());
    let options = Options { platforms, ..Options::default() };
    let conversion = convert_with(&store(&image), &image.root, &Nothing, options).unwrap();
    assert_eq!(conversion.warnings, ["no image for linux/arm64; taking the only one, for linux/s390x"]);
}

#[test]
fn a_manifest_alone_is_chosen_by_its_config() {
    let image = image_for("linux/arm64");
    let store = store(&image);
    assert_eq!(chosen(&store, &image.root, &only(&["linux/arm64"]).platforms).unwrap(), ["linux/arm64"]);
    let error = chosen(&store, &image.root, &only(&["linux/amd64"]).platforms).unwrap_err();
    assert_eq!(error.to_string(), "no image for linux/amd64; there is linux/arm64");
}

#[test]
fn an_entry_without_a_platform_is_chosen_by_its_config() {
    let (arm, amd) = (image_for("linux/arm64"), image_for("linux/amd64"));
    let index = IndexBuilder::new().image_with(&arm, json!({})).image_with(&amd, json!({})).build();
    let platforms = Platforms::Only(platforms(&["linux/amd64"]));
    assert_eq!(chosen(&store(&index), &index.root, &platforms).unwrap(), ["linux/amd64"]);
}

#[test]
fn unchosen_images_are_dropped_or_kept_as_they_are() {
    let index = index_for(&["linux/amd64", "linux/arm64", "linux/s390x"]);
    let before = index.document();
    for keep_other_platforms in [false, true] {
        // Of the others not even the manifests are there.
        let store = store(&image_for("linux/arm64"));
        crate::support::put(&store, index.root_bytes());
        let options = Options { keep_other_platforms, ..only(&["linux/arm64"]) };
        let conversion = convert_with(&store, &index.root, &Pad::by(1), options).unwrap();
        let after = document(&store, &conversion.root);
        let left_out = conversion.left_out.iter().map(|image| image.platform.as_ref().unwrap().to_string());
        let expected: &[&str] = if keep_other_platforms { &[] } else { &["linux/amd64", "linux/s390x"] };
        assert_eq!(left_out.collect::<Vec<_>>(), expected);
        if keep_other_platforms {
            assert_eq!(after["manifests"][0], before["manifests"][0]);
            assert_ne!(after["manifests"][1], before["manifests"][1]);
            assert_eq!(after["manifests"][2], before["manifests"][2]);
        } else {
            assert_eq!(listed(&after).len(), 1, "an index stays an index");
            assert_eq!(after["manifests"][0]["platform"], before["manifests"][1]["platform"]);
        }
    }
}

#[test]
fn images_that_suit_equally_are_all_chosen() {
    let (one, other) = (image("one").build(), image("other").build());
    let spelled = json!({"platform": {"os": "linux", "architecture": "amd64", "variant": "v1"}});
    let index = IndexBuilder::new().image_with(&one, spelled).image(&other).build();
    let converted = convert_with(&store(&index), &index.root, &Pad::by(1), only(&["linux/amd64"])).unwrap();
    assert_eq!(converted.layers.len(), 2);
}

#[test]
fn attestations_follow_the_image_they_are_about() {
    let (amd, arm) = (image_for("linux/amd64"), image_for("linux/arm64"));
    let index = IndexBuilder::new().image(&amd).image(&arm).attestation(&amd).attestation(&arm).build();
    let before = index.document();
    let store = store(&index);
    let root = convert_with(&store, &index.root, &Pad::by(1), only(&["linux/arm64"])).unwrap().root;
    let after = document(&store, &root);
    assert_eq!(listed(&after).len(), 2);
    let (image, attestation) = (&after["manifests"][0], &after["manifests"][1]);
    assert_ne!(image["digest"], arm.root.digest.as_str());
    assert_eq!(attestation["annotations"]["vnd.docker.reference.digest"], image["digest"]);
    assert_eq!(attestation["digest"], before["manifests"][3]["digest"], "the statement itself is untouched");
    assert_eq!(attestation["platform"], before["manifests"][3]["platform"]);

    let root = convert_all(&store, &index.root, &Nothing).unwrap().root;
    assert_eq!(root, index.root);
}

/// Returns BuildKit's newer attestation manifest, which has no config of an image and a subject.
fn attestation(about: &Image) -> Image {
    ImageBuilder::new()
        .layer(Layer::blob("application/vnd.in-toto+json", "{}"))
        .config_bytes("{}")
        .manifest_field("artifactType", json!("application/vnd.docker.attestation.manifest.v1+json"))
        .manifest_field("subject", subject(about))
        .build()
}

fn subject(image: &Image) -> Value {
    let root = &image.root;
    json!({"mediaType": root.media_type.as_str(), "digest": root.digest.as_str(), "size": root.size})
}

#[test]
fn the_subject_of_an_attestation_follows_the_image_it_is_about() {
    let (amd, arm) = (image_for("linux/amd64"), image_for("linux/arm64"));
    let statements = [attestation(&amd), attestation(&arm)];
    let fields = |about: &Image| {
        json!({
            "platform": {"os": "unknown", "architecture": "unknown"},
            "annotations": {
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": about.root.digest.as_str(),
            },
        })
    };
    let index = IndexBuilder::new().image(&amd).image(&arm);
    let index =
        index.image_with(&statements[0], fields(&amd)).image_with(&statements[1], fields(&arm)).build();
    let options = |keep_other_platforms| Options { keep_other_platforms, ..only(&["linux/arm64"]) };
    let store = store(&index);
    let root = convert_with(&store, &index.root, &Pad::by(1), options(true)).unwrap().root;
    let after = document(&store, &root);
    assert_eq!(
        after["manifests"][2],
        index.document()["manifests"][2],
        "nothing is said of an image that stays"
    );
    let (image, entry) = (&after["manifests"][1], &after["manifests"][3]);
    assert_eq!(entry["annotations"]["vnd.docker.reference.digest"], image["digest"]);
    let (before, statement) = (statements[1].document(), follow(&store, &after, "/manifests/3"));
    for key in ["mediaType", "digest", "size"] {
        assert_eq!(statement["subject"][key], image[key], "{key}");
    }
    for key in ["artifactType", "config", "layers"] {
        assert_eq!(statement[key], before[key], "{key}");
    }

    // One that is not there cannot follow, and what is said of it in the index still does.
    let store = crate::support::store(&arm);
    crate::support::put(&store, index.root_bytes());
    let root = convert_with(&store, &index.root, &Pad::by(1), options(false)).unwrap().root;
    let after = document(&store, &root);
    assert_eq!(after["manifests"][1]["digest"], statements[1].root.digest.as_str());
    assert_eq!(
        after["manifests"][1]["annotations"]["vnd.docker.reference.digest"],
        after["manifests"][0]["digest"]
    );
}

#[test]
fn an_attestation_about_nothing_here_stays() {
    let (here, elsewhere) = (image("here").build(), image("elsewhere").build());
    let index = IndexBuilder::new().image(&here).attestation(&elsewhere).build();
    let store = store(&index);
    let root = convert_all(&store, &index.root, &Pad::by(1)).unwrap().root;
    assert_eq!(document(&store, &root)["manifests"][1], index.document()["manifests"][1]);
}

fn artifact(subject: &Image) -> Image {
    ImageBuilder::new()
        .layer(Layer::gzip(tar("chart")))
        .manifest_field(
            "config",
            json!({
                "mediaType": "application/vnd.cncf.helm.config.v1+json",
                "digest": restow_oci::Digest::sha256(b"not JSON").as_str(),
                "size": 8,
            }),
        )
        .manifest_field("subject", self::subject(subject))
        .build()
}

#[test]
fn artifacts_pass_whatever_they_hold() {
    let subject = image("subject").build();
    let artifact = artifact(&subject);
    let index = IndexBuilder::new().image(&subject).image_with(&artifact, json!({})).build();
    let store = store(&index);
    let conversion = convert_with(&store, &index.root, &Pad::by(1), only(&["linux/amd64"])).unwrap();
    let after = document(&store, &conversion.root);
    assert_eq!(after["manifests"][1], index.document()["manifests"][1]);
    let new = after["manifests"][0]["digest"].as_str().unwrap();
    let (artifact, subject) = (&artifact.root.digest, &subject.root.digest);
    assert_eq!(conversion.warnings, [format!("manifest {artifact} is about {subject}, which is now {new}")]);
}

#[test]
fn an_artifact_alone_passes_unless_a_platform_is_asked_for() {
    let artifact = artifact(&image("subject").build());
    let store = store(&artifact);
    let conversion = convert_with(&store, &artifact.root, &Pad::by(1), Options::default()).unwrap();
    assert_eq!(conversion.root, artifact.root);
    assert_eq!(conversion.warnings, ["there is no image to convert"]);
    assert!(convert_with(&store, &artifact.root, &Pad::by(1), only(&["linux/amd64"])).is_err());
}

#[test]
fn nested_indexes_are_rewritten_from_within() {
    let (amd, arm) = (image_for("linux/amd64"), image_for("linux/arm64"));
    let inner = IndexBuilder::new().image(&amd).build();
    let other = IndexBuilder::new().image(&arm).build();
    let outer = IndexBuilder::new().image(&inner).image(&other).image(&inner).annotation("a", "b").build();
    let store = store(&outer);
    let converter = Pad::by(1);
    let root = convert_with(&store, &outer.root, &converter, only(&["linux/amd64"])).unwrap().root;
    let after = document(&store, &root);
    assert_eq!(listed(&after).len(), 2, "an index in which nothing is left goes");
    assert_eq!(after["manifests"][0], after["manifests"][1]);
    assert_eq!(after["annotations"]["a"], "b");
    let inner = follow(&store, &after, "/manifests/0");
    let image = follow(&store, &inner, "/manifests/0");
    assert_ne!(image, amd.document());
    assert_eq!(converter.calls.lock().unwrap().len(), 1, "what is reached twice is converted once");
}

#[test]
fn indexes_nest_only_so_deep() {
    let nest = |levels| {
        (0..levels).fold(image("deep").build(), |inner, level: usize| {
            IndexBuilder::new().image(&inner).annotation("level", &level.to_string()).build()
        })
    };
    let depth = Limits::default().index_depth;
    let allowed = nest(depth + 1);
    assert!(convert_all(&store(&allowed), &allowed.root, &Nothing).is_ok());
    let beyond = nest(depth + 2);
    let error = convert_all(&store(&beyond), &beyond.root, &Nothing).unwrap_err();
    assert!(matches!(error, Error::TooDeep { limit, .. } if limit == depth), "{error}");
}

#[test]
fn a_graph_with_many_paths_has_few_nodes() {
    // Two ways from each index to the next make 2^16 paths.
    let graph = (0..16).fold(image("end").build(), |inner, _| {
        let mut bare = inner.clone();
        bare.blobs.clear();
        IndexBuilder::new().image(&inner).image(&bare).build()
    });
    let store = store(&graph);
    let converter = Pad::by(1);
    assert_ne!(convert_all(&store, &graph.root, &converter).unwrap().root, graph.root);
    assert_eq!(converter.calls.lock().unwrap().len(), 1);

    let limits = Limits { nodes: 31, ..Limits::default() };
    let options = Options { limits, platforms: Platforms::All, ..Options::default() };
    let error = convert_with(&store, &graph.root, &Nothing, options).unwrap_err();
    assert!(matches!(error, Error::TooMany { limit: 31, .. }), "{error}");
}
