use std::sync::Arc;

use restow_content::Manager as _;
use restow_content::MemoryStore;
use restow_content::Provider as _;
use restow_convert::Conversion;
use restow_convert::Options;
use restow_convert::Outcome;
use restow_convert::Platforms;
use restow_convert::RunMemo;
use restow_convert::Seekable;
use restow_convert::read_toc_image;
use restow_convert::write_toc_image;
use restow_layer::EncodeOptions;
use restow_layer::Estargz;
use restow_layer::Hints;
use restow_layer::VerifyOptions;
use restow_layer::Workers;
use restow_layer::verify;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Limits;
use restow_oci::MediaType;
use restow_oci::annotations::STARGZ_LAYER_DIGEST;
use restow_oci::annotations::STARGZ_PREFETCH;
use restow_testkit::ImageBuilder;
use restow_testkit::IndexBuilder;
use restow_testkit::Layer;
use restow_testkit::plain;
use serde_json::Value;
use serde_json::json;

use crate::support::bytes;
use crate::support::chain;
use crate::support::convert_all;
use crate::support::convert_with;
use crate::support::document;
use crate::support::encoding;
use crate::support::follow;
use crate::support::golden;
use crate::support::golden_into;
use crate::support::store;
use crate::support::tar;

fn external(keep_diff_id: bool) -> Seekable {
    let options = EncodeOptions { keep_diff_id, ..encoding() };
    Seekable::new(Box::new(Estargz::new(6).external_toc()), options, Workers::new(2).unwrap())
}

/// Writes the image of the tables, and holds each to its layer.
fn tables(store: &MemoryStore, conversion: &Conversion, referrer: bool) -> Descriptor {
    let limits = Limits::default();
    let root = write_toc_image(store, conversion, referrer, &limits).unwrap().unwrap();
    let tables = read_toc_image(store, &root, &limits).unwrap();
    for layer in &conversion.layers {
        let mut hints = Hints::from_annotations(&layer.destination.annotations).unwrap();
        hints.external_toc = Some(bytes(store, &tables[&layer.destination.digest]));
        let options = VerifyOptions { hints, ..VerifyOptions::default() };
        verify(&bytes(store, &layer.destination), &options, &Workers::new(1).unwrap()).unwrap();
    }
    root
}

#[test]
fn each_image_of_an_index_has_its_tables_under_its_platform() {
    let amd64 = ImageBuilder::new().layer(Layer::gzip(tar("base"))).layer(Layer::gzip(tar("amd64"))).build();
    let arm64 = ImageBuilder::new()
        .platform("linux/arm64/v8")
        .layer(Layer::gzip(tar("base")))
        .layer(Layer::gzip(tar("arm64")))
        .build();
    let index =
        IndexBuilder::new().image(&amd64).attestation(&amd64).image(&arm64).attestation(&arm64).build();
    let store = store(&index);
    for keep_diff_id in [false, true] {
        let conversion = convert_all(&store, &index.root, &external(keep_diff_id)).unwrap();
        let converted = document(&store, &conversion.root);
        for referrer in [false, true] {
            let toc = document(&store, &tables(&store, &conversion, referrer));
            assert_eq!(toc["mediaType"], "application/vnd.oci.image.index.v1+json");
            assert_eq!(toc["manifests"].as_array().unwrap().len(), 2, "attestations have no tables");
            let whole = if referrer { json!(conversion.root.digest.as_str()) } else { Value::Null };
            assert_eq!(toc["subject"]["digest"], whole);
            for (position, place) in [0, 2].into_iter().enumerate() {
                let image = &converted["manifests"][place];
                assert_eq!(toc["manifests"][position]["platform"], image["platform"]);
                let manifest = follow(&store, &toc, &format!("/manifests/{position}"));
                assert_eq!(manifest["config"]["mediaType"], "application/vnd.oci.image.config.v1+json");
                assert_eq!(follow(&store, &manifest, "/config"), json!({}));
                let subject = if referrer { image["digest"].clone() } else { Value::Null };
                assert_eq!(manifest["subject"]["digest"], subject);
                let layers = manifest["layers"].as_array().unwrap();
                let owner = |layer: &Value| layer["annotations"][STARGZ_LAYER_DIGEST].clone();
                let mut owners: Vec<_> = layers.iter().map(|layer| owner(layer).to_string()).collect();
                owners.sort();
                let image = follow(&store, &converted, &format!("/manifests/{place}"));
                let mut expected: Vec<_> = image["layers"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|layer| layer["digest"].to_string())
                    .collect();
                expected.sort();
                assert_eq!(owners, expected);
                let digests: Vec<_> = layers.iter().map(|layer| layer["digest"].to_string()).collect();
                assert!(digests.is_sorted(), "in the order of stargz's tools");
            }
        }
        assert_eq!(conversion.layers.iter().all(|layer| layer.diff_id_kept), keep_diff_id);
    }
}

#[test]
fn the_tables_of_one_image_are_one_manifest() {
    let image = ImageBuilder::new().layer(Layer::gzip(tar("a"))).layer(Layer::gzip(tar("a"))).build();
    let store = store(&image);
    let conversion = convert_all(&store, &image.root, &external(false)).unwrap();
    let toc = document(&store, &tables(&store, &conversion, false));
    assert_eq!(toc["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(toc["layers"].as_array().unwrap().len(), 1, "equal layers have one table");
    let inside = Seekable::new(Box::new(Estargz::new(6)), encoding(), Workers::new(1).unwrap());
    let conversion = convert_all(&store, &image.root, &inside).unwrap();
    assert_eq!(write_toc_image(&store, &conversion, false, &Limits::default()).unwrap(), None);
}

#[test]
fn a_layer_is_recalled_only_with_its_table() {
    let image = ImageBuilder::new().layer(Layer::gzip(tar("a"))).build();
    let store = store(&image);
    let options =
        Options { platforms: Platforms::All, memo: Arc::new(RunMemo::default()), ..Options::default() };
    let run = || convert_with(&store, &image.root, &external(false), options.clone()).unwrap();
    let first = run();
    let second = run();
    assert_eq!(second.layers[0].outcome, Outcome::Recalled);
    assert_eq!(tables(&store, &first, false), tables(&store, &second, false));
    store.remove(&first.layers[0].toc.as_ref().unwrap().digest).unwrap();
    let third = run();
    assert_eq!(third.layers[0].outcome, Outcome::Converted);
    assert!(store.open(third.layers[0].toc.as_ref().unwrap()).is_ok());
}

#[test]
fn a_layer_is_kept_with_its_table_whoever_made_them() {
    for name in ["estargz-externaltoc", "estargz-keepdiffid"] {
        let (store, root) = golden(name);
        let tables = golden_into(&store, &format!("{name}-esgztoc"));
        let tables = read_toc_image(&store, &tables, &Limits::default()).unwrap();
        let convert = |converter: Seekable| convert_all(&store, &root, &converter.reuse(true)).unwrap();
        let kept = convert(external(false).tables(tables.clone()));
        for layer in &kept.layers {
            assert_eq!((layer.outcome, &layer.destination.digest), (Outcome::Kept, &layer.source.digest));
            assert_eq!(layer.toc.as_ref().unwrap().digest, tables[&layer.source.digest].digest);
            assert_eq!(layer.destination.annotations[STARGZ_PREFETCH], "0", "it had none");
        }
        self::tables(&store, &kept, true);

        // Not without a table, nor with one of something else, nor where it is to go into the layer.
        let crossed = tables.keys().cloned().zip(tables.values().rev().cloned()).collect();
        let lost = Descriptor::new(MediaType::OCI_LAYER_GZIP, Digest::sha256(b"lost"), 1);
        let lost = tables.keys().map(|layer| (layer.clone(), lost.clone())).collect();
        let inside = Seekable::new(Box::new(Estargz::new(6)), encoding(), Workers::new(1).unwrap());
        for converter in [
            external(false),
            external(false).tables(crossed),
            external(false).tables(lost),
            inside.tables(tables.clone()),
        ] {
            let outcomes = convert(converter).layers.into_iter().map(|layer| layer.outcome);
            assert_eq!(outcomes.collect::<Vec<_>>(), [Outcome::Converted; 2], "{name}");
        }
        let first = [((root.digest.clone(), 0), vec!["app/main".to_owned(), "data/one".to_owned()])];
        let moving = external(false).tables(tables.clone()).prioritize(first.into());
        assert_eq!(convert(moving).layers[0].outcome, Outcome::Converted, "{name}");
    }
}

#[test]
fn a_layer_whose_tar_would_change_is_told_so() {
    let image = ImageBuilder::new().layer(Layer::gzip(tar("a"))).build();
    let store = store(&image);
    let inside = encoding();
    let inside = Seekable::new(Box::new(Estargz::new(6)), inside, Workers::new(1).unwrap());
    let estargz = convert_all(&store, &image.root, &inside).unwrap().root;
    let error = convert_all(&store, &estargz, &external(true)).unwrap_err();
    assert!(chain(&error).contains("its tar would change"), "{}", chain(&error));
}

#[test]
fn an_image_of_tables_says_whose_they_are_once() {
    let table = |owner: &str, content: &str| Layer::gzip(tar(content)).annotation(STARGZ_LAYER_DIGEST, owner);
    let [one, other] = ["1", "2"].map(|digit| format!("sha256:{}", digit.repeat(64)));
    for (layers, problem) in [
        (vec![Layer::gzip(tar("a"))], "does not say of which layer"),
        (vec![table("latest", "a")], "does not say of which layer"),
        (
            vec![table(&one, "a"), table(&other, "b"), table(&one, "c")],
            "there are two tables of contents of layer",
        ),
    ] {
        let image = layers.into_iter().fold(ImageBuilder::new(), ImageBuilder::layer).build();
        let error = read_toc_image(&store(&image), &image.root, &Limits::default()).unwrap_err();
        assert!(chain(&error).contains(problem), "{}", chain(&error));
    }
}

#[test]
fn the_tables_of_other_tools_are_read() {
    for name in ["estargz-externaltoc-esgztoc", "estargz-keepdiffid-esgztoc"] {
        let (store, root) = golden(name);
        let tables = read_toc_image(&store, &root, &Limits::default()).unwrap();
        assert_eq!(tables.len(), 2);
        for table in tables.values() {
            assert_eq!(plain::names(&plain::gunzip(bytes(&store, table)).unwrap()), ["stargz.index.json"]);
        }
    }
}
