//! Properties of edits and of refusals, over documents as they occur.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use proptest::prelude::*;
use restow_oci::Config;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Index;
use restow_oci::Kind;
use restow_oci::Limits;
use restow_oci::Manifest;
use restow_oci::MediaType;
use restow_oci::Platform;
use restow_oci::PlatformMatcher;
use serde_json::Value;

const OCI_MANIFEST: &[u8] = include_bytes!("documents/oci-manifest.json");
const DOCKER_MANIFEST: &[u8] = include_bytes!("documents/docker-manifest.json");
const OCI_INDEX: &[u8] = include_bytes!("documents/oci-index.json");
const DOCKER_CONFIG: &[u8] = include_bytes!("documents/docker-config.json");

fn manifest(bytes: &[u8]) -> Manifest {
    Manifest::parse(bytes.to_vec(), &Limits::default()).unwrap()
}

fn index(bytes: &[u8]) -> Index {
    Index::parse(bytes.to_vec(), &Limits::default()).unwrap()
}

fn config(bytes: &[u8]) -> Config {
    Config::parse(bytes.to_vec(), &Limits::default()).unwrap()
}

/// Takes `keys` off the object at `pointer`, and returns what is left of the document.
fn without(bytes: &[u8], pointer: &str, keys: &[&str]) -> Value {
    let mut value: Value = serde_json::from_slice(bytes).unwrap();
    let object = value.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
    keys.iter().for_each(|key| drop(object.shift_remove(*key)));
    value
}

/// Returns every key of a document in its order, since equality of objects does not look at it.
fn keys(value: &Value) -> Vec<&str> {
    match value {
        Value::Object(map) => {
            map.iter().flat_map(|(key, value)| [vec![key.as_str()], keys(value)].concat()).collect()
        }
        Value::Array(values) => values.iter().flat_map(keys).collect(),
        _ => Vec::new(),
    }
}

/// Compares two documents but for `touched` keys of the object at `pointer`, in content and in order.
fn assert_same_but(before: &[u8], after: &[u8], pointer: &str, touched: &[&str]) {
    let (before, after) = (without(before, pointer, touched), without(after, pointer, touched));
    assert_eq!(after, before);
    assert_eq!(keys(&after), keys(&before));
}

fn any_layer() -> impl Strategy<Value = Descriptor> {
    let media_type = prop_oneof![
        Just(MediaType::OCI_LAYER_ZSTD),
        Just(MediaType::OCI_LAYER_GZIP),
        "[a-z]{1,5}/[a-z+.]{1,9}".prop_map(|text| MediaType::parse(&text).unwrap()),
    ];
    // A handful of contents, so that the digest that was there comes up as well.
    let digest =
        prop_oneof![Just(Digest::sha256(b"hello")), any::<u8>().prop_map(|byte| Digest::sha256(&[byte])),];
    let annotations = prop::collection::btree_map(
        prop_oneof![Just("org.example.a".to_owned()), "\\PC{0,9}"],
        "\\PC{0,9}",
        0..4,
    );
    (media_type, digest, 0..=i64::MAX.unsigned_abs(), annotations).prop_map(
        |(media_type, digest, size, annotations)| Descriptor {
            annotations,
            ..Descriptor::new(media_type, digest, size)
        },
    )
}

/// Strikes bytes out of, puts bytes into and overwrites bytes of a document.
fn any_damage() -> impl Strategy<Value = Vec<(prop::sample::Index, u8, u8)>> {
    let interesting = prop::sample::select(br#"{}[]",:\\0123456789-.eEntf u"#.to_vec());
    prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![interesting, any::<u8>()], 0..3u8), 1..6)
}

fn damaged(bytes: &[u8], damage: &[(prop::sample::Index, u8, u8)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (position, byte, how) in damage {
        let position = position.index(bytes.len());
        match how {
            0 => bytes[position] = *byte,
            1 => bytes.insert(position, *byte),
            _ => drop(bytes.remove(position)),
        }
    }
    bytes
}

#[test]
fn an_unchanged_document_keeps_its_bytes() {
    for bytes in [OCI_MANIFEST, DOCKER_MANIFEST] {
        let mut manifest = manifest(bytes);
        for (position, layer) in manifest.layers().to_vec().iter().enumerate() {
            manifest.set_layer(position, layer).unwrap();
        }
        manifest.set_config(&manifest.config().clone());
        manifest.set_media_type(&manifest.media_type().clone());
        for (key, value) in manifest.annotations().clone() {
            manifest.set_annotation(&key, &value);
        }
        assert!(!manifest.is_changed());
        assert_eq!(manifest.into_bytes(), bytes);
    }
    let mut index = index(OCI_INDEX);
    for (position, manifest) in index.manifests().to_vec().iter().enumerate() {
        index.set_manifest(position, manifest).unwrap();
    }
    index.retain(|_, _| true);
    assert_eq!(index.into_bytes(), OCI_INDEX);
    let mut config = config(DOCKER_CONFIG);
    for (position, diff_id) in config.diff_ids().to_vec().iter().enumerate() {
        config.set_diff_id(position, diff_id).unwrap();
    }
    assert_eq!(config.into_bytes(), DOCKER_CONFIG);
}

#[test]
fn fields_that_only_docker_knows_survive_an_edit() {
    let mut config = config(DOCKER_CONFIG);
    config.set_diff_id(1, &Digest::sha256(b"new")).unwrap();
    let text = String::from_utf8(config.into_bytes()).unwrap();
    let old = "sha256:bf2a16f1ed31e412c44552f7ff1546b22efe609bfd47c1b19e4d8b9d4e09cc2e";
    let before = std::str::from_utf8(DOCKER_CONFIG).unwrap().trim_end();
    assert_eq!(text, before.replace(old, Digest::sha256(b"new").as_str()));
}

/// How numbers and strings may be spelled; parsed and written, none of them stays what it is.
const SPELLINGS: &str = r#"{"a":123456789012345678901234567890,"b":[1.50,{"c":1e2}],"d":-0,"e":1E+30,"f":"\u0026\/\u00e9","g":0.1000}"#;

#[test]
fn an_edit_spells_nothing_anew_but_what_it_changes() {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let new = Digest::sha256(b"new");
    let entry = |digest: &str| {
        format!(
            r#"{{"mediaType":"a/b","x":{SPELLINGS},"digest":"{digest}","size":1,"annotations":{{"y":"\u003c"}}}}"#
        )
    };
    let list = |digests: &[&str]| digests.iter().map(|digest| entry(digest)).collect::<Vec<_>>().join(",");

    let document =
        |layers: &str| format!(r#"{{"x":{SPELLINGS},"config":{},"layers":[{layers}]}}"#, entry("foo:c"));
    let mut edited = manifest(document(&list(&["foo:a", "foo:b"])).as_bytes());
    let changed = Descriptor { digest: new.clone(), ..edited.layers()[1].clone() };
    edited.set_layer(1, &changed).unwrap();
    assert_eq!(text(edited.into_bytes()), document(&list(&["foo:a", new.as_str()])));

    let document = |manifests: &str| format!(r#"{{"manifests":[{manifests}],"x":{SPELLINGS}}}"#);
    let mut edited = index(document(&list(&["foo:a", "foo:b", "foo:c", "foo:d"])).as_bytes());
    // What stays is found again, whatever has gone before it, and has been changed or added before that.
    edited.set_manifest(2, &changed).unwrap();
    edited.push(&Descriptor { annotations: Default::default(), ..changed.clone() });
    edited.remove(0).unwrap();
    edited.retain(|position, _| position != 0);
    let added = format!(r#"{{"mediaType":"a/b","digest":"{new}","size":1}}"#);
    assert_eq!(text(edited.into_bytes()), document(&format!("{},{added}", list(&[new.as_str(), "foo:d"]))));

    let document = |id: &str| {
        format!(
            r#"{{"rootfs":{{"type":"layers","x":{SPELLINGS},"diff_ids":["foo:a","{id}"]}},"y":{SPELLINGS}}}"#
        )
    };
    let mut edited = config(document("foo:b").as_bytes());
    edited.set_diff_id(1, &new).unwrap();
    assert_eq!(text(edited.into_bytes()), document(new.as_str()));
}

#[test]
fn an_index_takes_out_attestations_and_puts_right_what_they_refer_to() {
    let mut index = index(OCI_INDEX);
    let matcher = PlatformMatcher::strict(&[Platform::parse("linux/amd64").unwrap()]);
    let wanted =
        |manifest: &Descriptor| manifest.platform.as_ref().is_some_and(|platform| matcher.matches(platform));
    let selected: Vec<bool> = index.manifests().iter().map(wanted).collect();
    assert_eq!(selected, [true, false, false, false]);
    let mut attestation = index.manifests()[3].clone();
    let key = restow_oci::annotations::DOCKER_REFERENCE_DIGEST;
    attestation.annotations.insert(key.to_owned(), Digest::sha256(b"new").to_string());
    index.set_manifest(3, &attestation).unwrap();
    let bytes = index.into_bytes();
    assert_same_but(OCI_INDEX, &bytes, "/manifests/3/annotations", &[key]);
    assert!(String::from_utf8(bytes).unwrap().contains(Digest::sha256(b"new").as_str()));
}

#[test]
fn a_document_is_what_its_media_type_says() {
    for (bytes, kind) in
        [(OCI_MANIFEST, Kind::Manifest), (DOCKER_MANIFEST, Kind::Manifest), (OCI_INDEX, Kind::Index)]
    {
        let limits = Limits::default();
        let manifest = Manifest::parse(bytes.to_vec(), &limits);
        let index = Index::parse(bytes.to_vec(), &limits);
        assert_eq!((manifest.is_ok(), index.is_ok()), (kind == Kind::Manifest, kind == Kind::Index));
    }
}

proptest! {
    #[test]
    fn an_edit_of_a_layer_changes_that_layer_alone(docker: bool, position in 0..3usize, layer in any_layer()) {
        let before = if docker { DOCKER_MANIFEST } else { OCI_MANIFEST };
        let mut manifest = manifest(before);
        manifest.set_layer(position, &layer).unwrap();
        let layers = manifest.layers().to_vec();
        let after = manifest.into_bytes();

        let touched = ["mediaType", "digest", "size", "annotations", "urls", "data"];
        assert_same_but(before, &after, &format!("/layers/{position}"), &touched);
        let written = Manifest::parse(after, &Limits::default()).unwrap();
        prop_assert_eq!(written.layers(), layers);
        // Neither sample says anything else of its layers, and inline content went with its digest.
        prop_assert_eq!(&written.layers()[position].annotations, &layer.annotations);
        prop_assert_eq!(&written.layers()[position].digest, &layer.digest);
    }

    #[test]
    fn an_edited_document_is_one_for_other_readers_too(position in 0..3usize, layer in any_layer()) {
        let mut manifest = manifest(OCI_MANIFEST);
        manifest.set_layer(position, &layer).unwrap();
        let read = oci_spec::image::ImageManifest::from_reader(manifest.to_bytes().as_slice()).unwrap();
        let other = &read.layers()[position];
        prop_assert_eq!(other.digest().to_string(), layer.digest.to_string());
        prop_assert_eq!(other.size(), layer.size);
        prop_assert_eq!(other.media_type().to_string(), layer.media_type.to_string());

        let mut index = index(OCI_INDEX);
        index.set_manifest(position, &layer).unwrap();
        index.push(&layer);
        let read = oci_spec::image::ImageIndex::from_reader(index.to_bytes().as_slice()).unwrap();
        prop_assert_eq!(read.manifests().len(), 5);
        prop_assert_eq!(read.manifests()[position].digest().to_string(), layer.digest.to_string());
    }

    #[test]
    fn new_documents_are_read_back_as_they_were_made(config in any_layer(), layers in prop::collection::vec(any_layer(), 0..4)) {
        let manifest = Manifest::new(config.clone(), layers.clone());
        let read = Manifest::parse_as(manifest.into_bytes(), &MediaType::OCI_MANIFEST, &Limits::default()).unwrap();
        prop_assert_eq!((read.config(), read.layers()), (&config, layers.as_slice()));
        let index = Index::new(layers.clone());
        let read = Index::parse_as(index.into_bytes(), &MediaType::OCI_INDEX, &Limits::default()).unwrap();
        prop_assert_eq!(read.manifests(), layers.as_slice());
    }

    #[test]
    fn a_damaged_document_is_refused_or_read_but_never_fatal(damage in any_damage()) {
        let limits = Limits::default();
        let layer = Descriptor::new(MediaType::OCI_LAYER, Digest::sha256(b""), 0);
        for bytes in [OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_CONFIG] {
            let bytes = damaged(bytes, &damage);
            if let Ok(mut manifest) = Manifest::parse(bytes.clone(), &limits) {
                prop_assert_eq!(&manifest.to_bytes(), &bytes);
                let edited = manifest.set_layer(0, &layer).is_ok();
                manifest.remove_subject();
                manifest.set_config(&layer);
                let read = Manifest::parse(manifest.into_bytes(), &limits).unwrap();
                prop_assert!(!edited || read.layers()[0].digest == layer.digest);
            }
            if let Ok(mut index) = Index::parse(bytes.clone(), &limits) {
                prop_assert_eq!(&index.to_bytes(), &bytes);
                index.push(&layer);
                index.remove(0).unwrap();
                Index::parse(index.into_bytes(), &limits).unwrap();
            }
            if let Ok(mut config) = Config::parse(bytes.clone(), &limits) {
                prop_assert_eq!(&config.to_bytes(), &bytes);
                let _ = config.typed();
                config.forget_docker_image();
                if !config.diff_ids().is_empty() {
                    config.set_diff_id(0, &layer.digest).unwrap();
                }
                Config::parse(config.into_bytes(), &limits).unwrap();
            }
        }
    }

    #[test]
    fn no_text_is_fatal(text in "\\PC{0,40}") {
        if let Ok(digest) = Digest::parse(&text) {
            prop_assert_eq!(digest.as_str(), text.as_str());
        }
        let _ = MediaType::parse(&text);
        if let Ok(platform) = Platform::parse(&text) {
            prop_assert_eq!(Platform::parse(&platform.to_string()).unwrap(), platform);
        }
    }

    #[test]
    fn a_specifier_survives_being_written(text in "[a-z]{1,7}(\\([0-9.]{0,5}(\\+[a-z]{1,3}){0,2}\\))?/[a-z0-9_]{1,7}(/v?[0-9]{1,2})?") {
        let platform = Platform::parse(&text).unwrap();
        prop_assert_eq!(Platform::parse(&platform.to_string()).unwrap(), platform.clone());
        // Whatever it is, it does for itself, whether or not anything else does.
        let unknown = platform.is_unknown();
        for matcher in [PlatformMatcher::strict([&platform]), PlatformMatcher::only([&platform])] {
            prop_assert_eq!(matcher.rank(&platform), (!unknown).then_some(0));
        }
    }

    #[test]
    fn only_digests_of_the_grammar_are_well_formed(text in "[a-zA-Z0-9+._:/=-]{0,12}") {
        let grammar = |text: &str| {
            let (name, encoded) = text.split_once(':')?;
            let mut joined = true;
            for letter in name.chars() {
                match letter {
                    'a'..='z' | '0'..='9' => joined = false,
                    '+' | '.' | '_' | '-' if !joined => joined = true,
                    _ => return None,
                }
            }
            let spelled = !encoded.is_empty() && !encoded.contains([':', '/', '+', '.']);
            (!joined && spelled && name != "sha256" && name != "sha512").then_some(())
        };
        prop_assert_eq!(Digest::parse(&text).is_ok(), grammar(&text).is_some());
    }
}
