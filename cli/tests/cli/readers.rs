use restow_testkit::testdata;
use serde_json::Value;
use serde_json::json;

use crate::image;
use crate::support::Bench;

/// Returns what `verify --readers` says of each image: its platform, and which layers containerd and podman read whole.
fn readers(bench: &Bench, reference: &str) -> Vec<(Value, [usize; 2])> {
    let document = bench.json(&format!("verify {reference} --readers --format json"));
    let images = document["readers"].as_array().unwrap().iter();
    let whole = |layers: &Value| {
        let layers = layers.as_array().unwrap();
        layers.iter().filter(|layer| !layer["problem"].is_null()).count()
    };
    images
        .map(|image| {
            (image["platform"].clone(), ["containerd", "podman"].map(|reader| whole(&image[reader])))
        })
        .collect()
}

#[test]
fn each_reader_can_use_the_images_made_for_it() {
    let bench = Bench::with(&image());
    let layers = bench.json("inspect oci:src:v1 --platform linux/amd64 --format json")["images"][0]["layers"]
        .as_array()
        .unwrap()
        .len();
    let amd64 = json!("linux/amd64");
    let none = Value::Null;
    for (flags, expected) in [
        ("--zstdchunked", vec![(none.clone(), [0, layers])]),
        ("--zstdchunked --zstdchunked-readers podman --strict", vec![(none.clone(), [layers, 0])]),
        (
            "--zstdchunked --zstdchunked-readers both --zstdchunked-chunking content",
            vec![(json!("linux/amd64/v1"), [0, layers]), (amd64.clone(), [layers, 0])],
        ),
        (
            "--zstdchunked --zstdchunked-readers containerd --add-variant",
            vec![(amd64.clone(), [layers, layers]), (amd64.clone(), [0, layers])],
        ),
        // containerd would go on with the source, so what is added is podman's.
        (
            "--zstdchunked --add-variant --strict",
            vec![(amd64.clone(), [layers, layers]), (amd64.clone(), [layers, 0])],
        ),
    ] {
        bench.ok(&format!("optimize oci:src:v1 oci:dst:v1 {flags} --platform linux/amd64"));
        assert_eq!(readers(&bench, "oci:dst:v1"), expected, "{flags}");
        if let Some(platform) = expected[0].0.as_str() {
            let chosen = readers(&bench, &format!("oci:dst:v1 --platform {platform}"));
            assert_eq!(chosen, expected, "{flags}: the forms of an image are verified with it");
            let shown = bench.json(&format!("inspect oci:dst:v1 --platform {platform} --format json"));
            assert_eq!(shown["images"].as_array().unwrap().len(), expected.len(), "{flags}");
        }
    }
    let told = bench.ok("verify oci:dst:v1 --readers").stdout;
    for words in [format!("{layers} of {layers} layers in part"), "it is ordinary gzip".into()] {
        assert!(told.contains(&words), "{told}");
    }
}

#[test]
fn what_keeps_readers_from_the_layers_of_other_tools_is_told() {
    let bench = Bench::new();
    let golden = |name: &str| testdata("golden").join(name).display().to_string();
    let external = "it is ordinary estargz with external TOC";
    let no_tar_split = "it has no tar-split stream that its table of contents vouches for";
    let no_footer = "it does not end with the footer that is looked for";
    let whole_format = "it is in a format that podman fetches as a whole";
    let pipe = "it has a device or pipe outside of /dev, which podman would leave out (run/pipe)";
    let no_directory = "it has no entry for the directory \"data/long\", which podman would let nobody into";
    for (name, containerd, podman) in [
        ("src", Some("it is ordinary gzip"), Some("it is ordinary gzip")),
        ("zstdchunked", None, Some(no_tar_split)),
        ("zstdchunked-prioritized", None, Some(no_tar_split)),
        ("estargz", None, Some(whole_format)),
        ("estargz-prioritized", None, Some(whole_format)),
        ("estargz-minchunk", None, Some(whole_format)),
        ("estargz-externaltoc", Some(external), Some(external)),
        ("estargz-keepdiffid --toc-image estargz-keepdiffid-esgztoc", None, Some(whole_format)),
        ("podman-zstdchunked", Some(no_footer), None),
    ] {
        let words = name.replace("--toc-image ", &format!("--toc-image {}/", golden("")));
        let document = bench.json(&format!("verify {} --readers --format json", golden(&words)));
        for (reader, expected) in [("containerd", containerd), ("podman", podman)] {
            let layers = document["readers"][0][reader].as_array().unwrap();
            assert_eq!(layers.len(), 2, "{name}");
            let found = layers.iter().map(|layer| layer["problem"].as_str());
            match (name, reader) {
                // podman would read it in part, and not well.
                ("podman-zstdchunked", "podman") => {
                    assert!(found.eq([Some(pipe), Some(no_directory)]), "{layers:?}");
                }
                _ => assert!(found.eq([expected; 2]), "{name}: {reader}: {layers:?}"),
            }
        }
    }
}

#[test]
fn flags_about_readers_that_mean_nothing_are_refused() {
    let bench = Bench::with(&image());
    for (flags, expected) in [
        ("--zstdchunked --strict", "--strict is about podman"),
        ("--estargz --zstdchunked-readers both", "--zstdchunked"),
        ("--estargz --add-variant", "--zstdchunked"),
        ("--estargz --zstdchunked-chunking content", "--zstdchunked"),
    ] {
        let run = bench.run(&format!("optimize oci:src:v1 oci:dst:v1 {flags}"));
        assert_eq!(run.code, Some(2), "{flags}: {run:?}");
        assert!(run.stderr.contains(expected), "{flags}: {}", run.stderr);
        assert!(!bench.path("dst").exists(), "{flags}");
    }
}
