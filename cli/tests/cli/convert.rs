use std::fs;

use restow_testkit::Image;
use restow_testkit::ImageBuilder;
use restow_testkit::Layer;
use restow_testkit::TarBuilder;
use serde_json::Value;
use serde_json::json;

use crate::image;
use crate::support::Bench;

fn docker() -> Image {
    let tar = TarBuilder::new().dir("app/").file("app/main", "main").finish();
    ImageBuilder::new().docker().layer(Layer::gzip(tar)).build()
}

const CONVERT: &str = "convert --platform linux/amd64 --format json oci:src:v1";

fn media_types(document: &Value) -> Vec<&str> {
    let layers = document["layers"].as_array().unwrap();
    layers.iter().map(|layer| layer["destination"]["mediaType"].as_str().unwrap()).collect()
}

#[test]
fn an_image_goes_from_any_format_to_any_other() {
    let bench = Bench::with(&image());
    let config = |layout: &str| {
        bench.json(&format!("inspect oci:{layout} --format json"))["images"][0]["config"].clone()
    };
    let formats = [
        ("--zstdchunked", "tar+zstd"),
        ("--estargz", "tar+gzip"),
        ("--zstd --zstd-compression-level 19", "tar+zstd"),
        ("--gzip --gzip-compression-level 1", "tar+gzip"),
        ("--uncompress", "tar"),
    ];
    let mut digests = Vec::new();
    for (number, (flags, suffix)) in formats.iter().enumerate() {
        let run = bench.json(&format!("{CONVERT} oci:direct{number}:v1 {flags}"));
        let expected = format!("application/vnd.oci.image.layer.v1.{suffix}");
        assert!(media_types(&run).iter().all(|found| *found == expected), "{run}");
        bench.ok(&format!("verify oci:direct{number}:v1"));
        // The table of contents of eStargz is part of the tar.
        assert_eq!(config(&format!("direct{number}:v1")) == config("src:v1"), !flags.contains("estargz"));
        digests.push(run["digest"].clone());
    }
    for from in 0..formats.len() {
        for (to, (flags, _)) in formats.iter().enumerate() {
            let line = format!("convert oci:direct{from}:v1 oci:again:v1 --platform linux/amd64 {flags}");
            let run = bench.ok(&line);
            assert_eq!(run.stdout.trim_end(), digests[to], "{line}");
        }
    }
}

#[test]
fn a_record_orders_the_layers_of_a_conversion() {
    let bench = Bench::with(&image());
    bench.write("record", "{\"path\":\"app/main\"}\n");
    for format in ["estargz", "zstdchunked"] {
        let run = bench.json(&format!("{CONVERT} oci:out:v1 --{format} --{format}-record-in record"));
        assert_eq!(run["layers"][1]["prioritized"], 2);
    }
    // What was moved stays moved, and only the mark of it goes.
    let plain = bench.json("convert oci:out:v1 oci:plain --platform linux/amd64 --uncompress --format json");
    assert_eq!(plain["layers"][0]["diffIdKept"], true);
    assert_eq!(plain["layers"][1]["diffIdKept"], false);
    let digest = plain["layers"][1]["destination"]["digest"].as_str().unwrap().replace(':', "/");
    let tar = fs::read(bench.path("plain/blobs").join(digest)).unwrap();
    assert_eq!(restow_testkit::plain::names(&tar), ["app/", "app/main", "app/data"]);
}

#[test]
fn media_types_follow_the_layers_or_are_asked_for() {
    let bench = Bench::with(&docker());
    for (flags, layer, oci) in [
        ("--gzip", "docker.image.rootfs.diff.tar.gzip", false),
        ("--uncompress", "docker.image.rootfs.diff.tar", false),
        ("--uncompress --docker", "docker.image.rootfs.diff.tar", false),
        ("--uncompress --oci", "oci.image.layer.v1.tar", true),
        ("--zstd", "oci.image.layer.v1.tar+zstd", true),
        ("--zstdchunked", "oci.image.layer.v1.tar+zstd", true),
        ("--oci", "oci.image.layer.v1.tar+gzip", true),
        ("--docker", "docker.image.rootfs.diff.tar.gzip", false),
    ] {
        let run = bench.json(&format!("{CONVERT} oci:out:v1 {flags}"));
        assert_eq!(media_types(&run), [format!("application/vnd.{layer}")], "{flags}");
        assert_eq!(run["images"][0]["becameOci"], oci, "{flags}");
        bench.ok("verify oci:out:v1");
    }
    let words = bench.ok("convert oci:src:v1 oci:out:v1 --platform linux/amd64 --zstdchunked").stderr;
    assert!(words.contains(" for linux/amd64, Docker's before and OCI's now\n"), "{words}");
    let run = bench.run("convert src out2 --platform linux/amd64 --docker");
    assert_eq!(run.stdout.trim_end(), bench.index("src")["manifests"][0]["digest"]);

    let bench = Bench::with(&image());
    let run = bench.run("convert src out --platform linux/amd64 --docker");
    assert_eq!(run.code, Some(1));
    let hint = "\nhint: with --gzip or --uncompress, layers get a form that Docker's images have\n";
    assert!(run.stderr.contains("cannot become Docker's") && run.stderr.ends_with(hint), "{}", run.stderr);
    assert!(!bench.path("out").exists());
}

#[test]
fn flags_that_contradict_each_other_are_told_so_in_a_sentence() {
    let bench = Bench::with(&image());
    for (flags, expected) in [
        ("", "error: what is the image to become? --zstdchunked, --estargz, --zstd,"),
        ("--zstd --zstdchunked", "the argument '--zstd' cannot be used with '--zstdchunked'"),
        ("--gzip --zstd", "the argument '--gzip' cannot be used with '--zstd'"),
        ("--uncompress --zstdchunked", "the argument '--uncompress' cannot be used with '--zstdchunked'"),
        ("--docker --zstd", "the argument '--docker' cannot be used with '--zstd'"),
        ("--docker --oci", "the argument '--docker' cannot be used with '--oci'"),
        ("--docker --zstdchunked", "the argument '--docker' cannot be used with '--zstdchunked'"),
        (
            "--zstd-compression-level 3 --gzip",
            "error: --zstd-compression-level means something with --zstd only\n",
        ),
        (
            "--zstdchunked-record-in x --zstd",
            "error: --zstdchunked-record-in means something with --zstdchunked only",
        ),
        (
            "--gzip --zstdchunked-readers both",
            "error: --zstdchunked-readers means something with --zstdchunked only\n",
        ),
        (
            "--zstdchunked --estargz-chunk-size 1MiB",
            "error: --estargz-chunk-size means something with --estargz only\n",
        ),
        ("--oci --estargz-record-in x", "error: --estargz-record-in means something with --estargz only\n"),
        ("--gzip --landmark never", "the argument '--gzip' cannot be used with '--landmark <WHEN>'"),
        ("--gzip --gzip-compression-level 13", "13 is not in 1..=12"),
        ("--zstd --zstd-compression-level 0", "0 is not in 1..=22"),
    ] {
        let run = bench.run(&format!("convert src out {flags}"));
        assert_eq!((run.code, &*run.stdout), (Some(2), ""), "{flags}: {run:?}");
        assert!(run.stderr.contains(expected), "{flags}: {}", run.stderr);
        assert!(!bench.path("out").exists(), "{flags}");
    }
}

#[test]
fn names_through_a_parent_directory_are_accepted_if_that_is_asked_for() {
    let tar = TarBuilder::new().file("../up", "climbed").finish();
    let bench = Bench::with(&ImageBuilder::new().layer(Layer::gzip(tar)).build());
    for format in ["--zstdchunked", "--estargz"] {
        let line = format!("convert oci:src:v1 oci:out:v1 {format} --platform linux/amd64");
        let run = bench.run(&line);
        assert!(run.code == Some(1) && run.stderr.contains("goes through a parent directory"), "{run:?}");
        bench.ok(&format!("{line} --allow-parent-refs --verify full"));
        assert_eq!(bench.run("verify oci:out:v1").code, Some(1));
        bench.ok("verify oci:out:v1 --allow-parent-refs");
        assert_eq!(bench.ok("cat oci:out:v1 up").stdout, "climbed");
    }
}

#[test]
fn layers_that_will_do_are_reused() {
    let bench = Bench::with(&image());
    let outcomes = |run: &Value| -> Vec<Value> {
        run["layers"].as_array().unwrap().iter().map(|layer| layer["outcome"].clone()).collect()
    };
    for (format, other) in [("zstdchunked", "estargz"), ("estargz", "zstdchunked")] {
        bench.ok(&format!("{CONVERT} oci:first:v1 --{format} --{format}-compression-level 9"));
        let again = |format: &str, flags: &str| {
            let line = "convert oci:first:v1 oci:second:v1 --platform linux/amd64 --format json --no-cache";
            let run = bench.json(&format!("{line} --{format} {flags}"));
            (run["changed"].clone(), outcomes(&run))
        };
        assert_eq!(again(format, "--reuse"), (json!(false), vec![json!("kept"); 2]));
        for run in [again(format, ""), again(other, "--reuse")] {
            assert_eq!(run, (json!(true), vec![json!("converted"); 2]), "{format}");
        }
    }
}

#[test]
fn a_media_type_that_lies_is_warned_of() {
    let tar = TarBuilder::new().file("a", "b").finish();
    let lying = Layer::zstd(tar).media_type("application/vnd.oci.image.layer.v1.tar");
    let bench = Bench::with(&ImageBuilder::new().layer(lying).build());
    for flags in ["--zstdchunked", "--gzip"] {
        // The second time from memory.
        for _ in 0..2 {
            let run = bench.ok(&format!("convert src out --platform linux/amd64 {flags}"));
            assert!(run.stderr.contains("warning: layer 0 of manifest sha256:"), "{}", run.stderr);
            assert!(
                run.stderr.contains(" is zstd, though it is called application/vnd.oci"),
                "{}",
                run.stderr
            );
        }
    }
}
