//! The binary from end to end, on layouts in temporary directories.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use restow_testkit::Image;
use restow_testkit::ImageBuilder;
use restow_testkit::IndexBuilder;
use restow_testkit::Layer;
use restow_testkit::TarBuilder;
use restow_testkit::TarOptions;
use restow_testkit::random_tar;
use rustix::pty::OpenptFlags;
use rustix::pty::grantpt;
use rustix::pty::openpt;
use rustix::pty::ptsname;
use rustix::pty::unlockpt;
use serde_json::Value;

use crate::support::Bench;
use crate::support::finish;

mod support;

/// `restow batch`.
mod batch;
/// `restow convert`, and what `restow optimize` shares with it.
mod convert;

/// `restow ls`, `restow cat`, `restow toc-digest`, and what `inspect` and `verify` make of other tools' layers.
mod files;

/// Manifests for containerd's and for podman's readers.
mod readers;
/// What a hostile image has its users read.
mod terminal;

/// Registries and archives: `restow copy`, `index`, `deploy`, and conversions from and to them.
mod registry;
mod schemas;
/// `restow sync`, `restow tags`, and what is remembered of jobs.
mod sync;
/// Tables of contents that are in another image than the layers they are about.
mod tables;
/// What of an image is not there, or is a manifest of another kind.
mod whole;

fn base() -> Layer {
    let tar = TarBuilder::new()
        .dir("usr/")
        .dir("usr/bin/")
        .symlink("bin", "usr/bin")
        .file("usr/bin/cat", "meow")
        .file("usr/bin/dash", "#!".repeat(3000))
        .symlink("usr/bin/sh", "dash")
        .finish();
    Layer::gzip(tar)
}

/// Two layers, the upper with a file that a list may ask for.
fn image() -> Image {
    let app =
        TarBuilder::new().dir("app/").file("app/data", vec![7; 100_000]).file("app/main", "main").finish();
    ImageBuilder::new().layer(base()).layer(Layer::zstd(app)).build()
}

#[test]
fn the_readme_shows_what_its_first_command_prints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let line = readme.lines().find_map(|line| line.strip_prefix("$ restow ")).unwrap();
    let bench = Bench::new();
    std::os::unix::fs::symlink(root.join("testdata"), bench.path("testdata")).unwrap();
    let run = bench.ok(line);
    let shown = readme.lines().skip_while(|shown| !shown.ends_with(line)).skip(1);
    let shown: Vec<_> = shown.take_while(|shown| *shown != "```").collect();
    assert_eq!(timeless(&format!("{}{}", run.stderr, run.stdout)), timeless(&shown.join("\n")), "{run:?}");
}

/// Returns the lines of a report without its times, and without the order in which layers were done.
fn timeless(text: &str) -> Vec<String> {
    let line = |line: &str| {
        let mut words: Vec<_> = line.split_whitespace().collect();
        for position in 1..words.len() {
            if words[position] == "s" && words[position - 1].parse::<f64>().is_ok() {
                words[position - 1] = "?";
            }
        }
        words.join(" ")
    };
    let mut lines: Vec<_> = text.lines().map(line).collect();
    lines.sort_by_key(|line| {
        if line.starts_with("layer ") && line.contains(" -> ") { line.clone() } else { String::new() }
    });
    lines
}

const OPTIMIZE: &str = "optimize oci:src:v1 oci:out:v1 --zstdchunked --platform linux/amd64";

#[test]
fn an_optimized_image_verifies_and_its_digest_is_all_that_stdout_holds() {
    let bench = Bench::with(&image());
    let run = bench.ok(OPTIMIZE);
    let digest = run.stdout.strip_suffix('\n').unwrap();
    assert_eq!(bench.index("out")["manifests"][0]["digest"], digest);
    assert!(run.stderr.contains("DiffID") && run.stderr.contains("kept"), "{}", run.stderr);
    bench.ok("verify oci:out:v1");
    bench.ok("verify oci:src:v1");
}

#[test]
fn estargz_is_a_format_like_the_other() {
    let bench = Bench::with(&image());
    let optimize = |options: &str| {
        let line = format!("optimize oci:src:v1 oci:out:v1 --estargz --platform linux/amd64 {options}");
        bench.ok(&line).stdout
    };
    let digest = optimize("");
    bench.ok("verify oci:out:v1");
    assert_eq!(optimize("--estargz-parallelism 3 --estargz-chunk-size 0 --jobs 1 --no-cache"), digest);
    for other in
        ["--estargz-compression-level 12", "--estargz-chunk-size 4KiB", "--estargz-min-chunk-size 50000"]
    {
        assert_ne!(optimize(other), digest, "{other}");
        bench.ok("verify oci:out:v1");
    }
    for (options, problem) in [
        ("--estargz --zstdchunked", "cannot be used with"),
        ("--estargz --estargz-compression-level 13", "not in 1..=12"),
        ("--estargz --estargz-min-chunk-size 1GiB", "at most 64MiB"),
    ] {
        let run = bench.run(&format!("optimize oci:src:v1 oci:out:v1 {options}"));
        assert_eq!(run.code, Some(2));
        assert!(run.stderr.contains(problem), "{}", run.stderr);
    }
}

#[test]
fn tables_of_contents_have_an_image_of_their_own_if_asked() {
    let bench = Bench::with(&image());
    let optimize = |options: &str| format!("optimize oci:src:v1 --platform linux/amd64 --estargz {options}");
    for options in
        ["--estargz-external-toc", "--estargz-keep-diff-id", "--estargz-keep-diff-id --toc-referrer"]
    {
        let run = bench.json(&optimize(&format!("oci:out:v1 {options} --format json")));
        assert_eq!(run["tocImage"]["tags"][0], "v1-esgztoc");
        assert_eq!(run["layers"][0]["diffIdKept"], options.contains("keep"));
        assert_eq!(bench.tags("out"), ["v1", "v1-esgztoc"]);
        let verified = bench.ok("verify oci:out:v1").stdout;
        assert!(verified.contains("estargz with external TOC") && verified.contains("entries"), "{verified}");
        let toc = bench.json("inspect oci:out:v1 --toc 0");
        assert_eq!(toc["version"], 1);
        bench.ok("verify oci:out:v1-esgztoc");
        assert!(bench.ok("toc-digest oci:out:v1 --layer 1").stdout.starts_with("sha256:"));
        bench.ok("cat oci:out:v1 app/main");
    }
    bench.ok(&optimize("oci:named:v1 --estargz-external-toc --toc-image tables"));
    assert_eq!(bench.tags("named"), ["v1", "tables"]);
    assert!(!bench.ok("verify oci:named:v1").stdout.contains("entries"));
    assert!(bench.ok("verify oci:named:v1 --toc-image oci:named:tables").stdout.contains("entries"));
    // The tables of another image are no tables of this one.
    bench.ok(&optimize("oci:other:v1 --estargz-external-toc --estargz-chunk-size 4KiB"));
    let run = bench.ok("verify oci:named:v1 --toc-image oci:other:v1-esgztoc");
    assert!(!run.stdout.contains("entries"), "{}", run.stdout);

    bench.write("list", "app/main");
    for (options, problem) in [
        ("--estargz-keep-diff-id --prefetch-list list", "no file can move"),
        ("--estargz-keep-diff-id --landmark always", "no landmark be added"),
        ("--toc-image tables", "mean something with --estargz-external-toc only"),
        ("--estargz-external-toc --toc-image v1", "the new image itself is called so"),
    ] {
        let run = bench.run(&optimize(&format!("oci:refused:v1 {options}")));
        assert_eq!(run.code, Some(2), "{run:?}");
        assert!(run.stderr.contains(problem), "{}", run.stderr);
    }
    let run = bench.run(&optimize("oci:refused --estargz-external-toc"));
    assert!(run.code == Some(2) && run.stderr.contains("is named after a tag"), "{run:?}");
    assert!(!bench.path("refused").exists());
}

#[test]
fn the_binary_called_optimize_optimizes() {
    let bench = Bench::with(&image());
    let optimize = bench.path("optimize");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_restow"), &optimize).unwrap();
    let run = finish(bench.command(&optimize).args(OPTIMIZE.split_whitespace().skip(1)));
    assert_eq!((run.code, &*run.stdout), (Some(0), &*bench.ok(OPTIMIZE).stdout), "{}", run.stderr);
}

#[test]
fn a_second_run_recalls_its_layers_and_gives_the_same_digest() {
    let bench = Bench::with(&image());
    let outcomes = |document: &Value| -> Vec<String> {
        document["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|layer| layer["outcome"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = bench.json(&format!("{OPTIMIZE} --format json"));
    assert_eq!(outcomes(&first), ["converted", "converted"]);
    let second = bench.json(&format!("{OPTIMIZE} --format json"));
    assert_eq!(outcomes(&second), ["cached", "cached"]);
    let third = bench.json(&format!("{OPTIMIZE} --format json --no-cache --jobs 1"));
    assert_eq!(outcomes(&third), ["converted", "converted"]);
    let again =
        bench.json("optimize oci:out:v1 oci:again --zstdchunked --format json --platform linux/amd64");
    for run in [&second, &third, &again] {
        assert_eq!(run["digest"], first["digest"]);
    }
    // A damaged memory is no memory.
    for file in fs::read_dir(bench.path("cache/restow/layers")).unwrap() {
        fs::write(file.unwrap().path(), "{").unwrap();
    }
    assert_eq!(outcomes(&bench.json(&format!("{OPTIMIZE} --format json"))), ["converted", "converted"]);
}

#[test]
fn listed_files_come_first_through_links_and_misses_are_named() {
    let bench = Bench::with(&image());
    bench.write("list", "\u{feff}# first\nbin/sh\napp/m*\nno/such\n/\n");
    let document = bench.json(&format!("{OPTIMIZE} --prefetch-list list --format json"));
    assert_eq!(document["missing"][0]["path"], "no/such");
    let layers = document["layers"].as_array().unwrap();
    for (layer, moved) in layers
        .iter()
        .zip([&["bin", "usr", "usr/bin", "usr/bin/sh", "usr/bin/dash"][..], &["app", "app/main"]])
    {
        assert_eq!(layer["prioritized"], moved.len(), "{layer}");
        assert_eq!(layer["diffIdKept"], false);
        let toc = bench.json(&format!("inspect oci:out:v1 --toc {}", layer["position"]));
        let names: Vec<_> =
            toc["entries"].as_array().unwrap().iter().filter_map(|entry| entry["name"].as_str()).collect();
        for name in moved {
            let place = names.iter().position(|found| found.trim_end_matches('/') == *name).unwrap();
            let landmark = names.iter().position(|found| *found == ".prefetch.landmark").unwrap();
            assert!(place < landmark, "{name} in {names:?}");
        }
    }
    let run = bench.ok(&format!("{OPTIMIZE} --prefetch-list list"));
    assert!(run.stderr.contains("warning: 1 path to put first not found: no/such\n"), "{}", run.stderr);
    assert!(run.stderr.contains("a line of the list names all of sha256:"), "{}", run.stderr);

    // The source's order is kept whatever else is given, and with it the config.
    let run = bench.ok(&format!("{OPTIMIZE} --prefetch-list list --no-optimize --format json"));
    assert!(
        run.stderr.contains("warning: with --no-optimize, --prefetch-list is not heeded"),
        "{}",
        run.stderr
    );
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    assert!(document["layers"].as_array().unwrap().iter().all(|layer| layer["diffIdKept"] == true));
    let digest = bench.ok(&format!("{OPTIMIZE} --no-optimize")).stdout;
    for line in ["--run --no-optimize", "--run --period 1 --args [] --record-in none --no-optimize"] {
        assert_eq!(bench.ok(&format!("{OPTIMIZE} {line}")).stdout, digest, "{line}");
    }
    let run = bench.run(&format!("{OPTIMIZE} --run --record-out none --no-optimize"));
    assert_eq!(run.code, Some(2), "what is not run cannot be recorded: {run:?}");
}

#[test]
fn what_a_failed_run_has_finished_need_not_be_made_again() {
    let unlistable = TarBuilder::new().hardlink("link", "nothing").finish();
    let bench = Bench::with(&ImageBuilder::new().layer(base()).layer(Layer::gzip(unlistable)).build());
    image().write_layout(&bench.path("out"), "v1").unwrap();
    let before = bench.index("out");
    let line = format!("{OPTIMIZE} --no-optimize --jobs 1");
    assert_eq!(bench.run(&line).code, Some(1));
    assert_eq!(bench.index("out"), before);
    assert!(!bench.path("out/ingest").exists());
    let document = bench.json(&format!("{line} --unsupported keep --format json"));
    assert_eq!(
        (&document["layers"][0]["outcome"], &document["layers"][1]["outcome"]),
        (&"cached".into(), &"kept".into())
    );
}

/// An image whose command can be followed: a script, its interpreter, what it runs.
fn service() -> Image {
    let base = TarBuilder::new()
        .dir("usr/")
        .dir("usr/bin/")
        .symlink("bin", "usr/bin")
        .file("usr/bin/cat", "meow")
        .file("usr/bin/dash", "a shell")
        .symlink("usr/bin/sh", "dash")
        .file("usr/bin/unused", "")
        .finish();
    let app = TarBuilder::new()
        .dir("app/")
        .file("app/data", vec![7; 100_000])
        .file("app/main", "#!/bin/sh\nexec cat\n")
        .finish();
    ImageBuilder::new()
        .layer(Layer::gzip(base))
        .layer(Layer::zstd(app))
        .config_field("config", serde_json::json!({ "Cmd": ["/app/main"], "Env": ["PATH=/usr/bin"] }))
        .build()
}

#[test]
fn what_is_predicted_comes_first_unless_something_else_is_asked_for() {
    let bench = Bench::with(&service());
    let predicted = "/app/main\n/bin\n/usr/bin/sh\n/usr/bin/dash\n/usr/bin/cat\n";
    assert_eq!(bench.ok("predict oci:src:v1").stdout, predicted);
    let explained = bench.ok("predict oci:src:v1 --explain").stdout;
    assert!(explained.contains("app/main names it as its interpreter"), "{explained}");
    // What comes first of each layer, and of all.
    let summary: Vec<_> =
        explained.lines().rev().take(3).map(|line| line.split_whitespace().take(2)).collect();
    let summary: Vec<String> = summary.into_iter().map(|words| words.collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(summary, ["all 5", "1 1", "0 4"], "{explained}");
    let document = bench.json("predict oci:src:v1 --format json");
    assert_eq!(document["images"][0]["files"][0]["path"], "app/main");
    assert_eq!(document["images"][0]["files"][0]["layer"], 1);

    let moved = |line: &str| -> Vec<u64> {
        let document = bench.json(&format!("{OPTIMIZE} --format json {line}"));
        document["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|layer| layer["prioritized"].as_u64().unwrap())
            .collect()
    };
    let (first, digest) = (moved(""), bench.ok(OPTIMIZE).stdout);
    // With the directories above them.
    assert_eq!(first, [6, 2]);
    assert_eq!(moved("--no-optimize"), [0, 0]);
    bench.write("list", "app/data\n");
    assert_eq!(moved("--prefetch-list list"), [0, 2]);
    bench.write("list", "");
    assert_eq!(moved("--prefetch-list list"), [0, 0]);
    // A prediction is remembered; recalled or made again it is the same.
    assert!(fs::read_dir(bench.path("cache/restow/plans")).unwrap().count() > 0);
    for line in ["", "--no-cache", "--no-cache --jobs 1"] {
        assert_eq!(bench.ok(&format!("{OPTIMIZE} {line}")).stdout, digest, "{line}");
    }
    // A list made of the prediction means the same.
    bench.write("list", predicted);
    assert_eq!(bench.ok(&format!("{OPTIMIZE} --prefetch-list list")).stdout, digest);
    // Whatever reads the layers for it.
    bench.ok("convert oci:src:v1 oci:plain:v1 --zstdchunked --no-cache");
    for line in ["--zstdchunked", "--zstdchunked --reuse"] {
        let again = bench.ok(&format!("optimize oci:plain:v1 oci:dst:again {line} --no-cache"));
        assert_eq!(again.stdout, digest, "{line}");
    }
    // Nothing can move in what keeps its DiffIDs.
    bench.ok("optimize oci:src:v1 oci:dst:kept --estargz --estargz-keep-diff-id");
}

#[test]
fn the_result_of_a_prediction_is_what_it_becomes_again() {
    let again = |bench: &Bench, source: &str, format: &str| {
        let run = |line: &str| bench.json(&format!("optimize {line} {format} --no-cache --format json"));
        let (first, second) = (run(&format!("{source} oci:out:1")), run("oci:out:1 oci:out:2"));
        let moved = |run: &Value| -> Vec<Value> {
            run["layers"].as_array().unwrap().iter().map(|layer| layer["prioritized"].clone()).collect()
        };
        assert!(moved(&first).iter().any(|moved| *moved != 0), "{first}");
        assert_eq!(moved(&second), moved(&first));
        assert_eq!(second["digest"], first["digest"], "{source} {format}");
    };
    let bench = Bench::new();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata");
    std::os::unix::fs::symlink(data, bench.path("testdata")).unwrap();
    for format in ["--zstdchunked", "--estargz"] {
        again(&bench, "oci:testdata/layouts/busybox:demo", format);
    }
    for seed in 0..3 {
        let tar = random_tar(seed, &TarOptions { largest_file: 5000, ..TarOptions::default() });
        // Without its end.
        let some = TarBuilder::new().raw(&tar[..tar.len() - 1024]);
        let tar = some.file("shell", "an interpreter").file("program", "#!/shell\n").finish();
        let image = ImageBuilder::new().layer(Layer::gzip(tar)).layer(base());
        let command = serde_json::json!({ "Cmd": ["/program"] });
        let bench = Bench::with(&image.config_field("config", command).build());
        for format in ["--zstdchunked", "--estargz"] {
            again(&bench, "oci:src:v1", format);
        }
    }
}

#[test]
fn an_order_is_made_once() {
    let bench = Bench::with(&image());
    bench.write("list", "app/main\nno/such\n");
    let run = |flags: &str| bench.ok(&format!("{OPTIMIZE} --prefetch-list list --progress plain {flags}"));
    let listing = "listing the files of ";
    let first = run("");
    assert!(first.stderr.contains(listing), "{}", first.stderr);
    let second = run("");
    assert!(!second.stderr.contains(listing), "{}", second.stderr);
    assert!(second.stderr.contains("1 path to put first not found: no/such"), "{}", second.stderr);
    assert_eq!(second.stdout, first.stdout);
    assert!(run("--no-cache").stderr.contains(listing));
    // Another list, and a damaged memory.
    bench.write("list", "app/data\n");
    assert!(run("").stderr.contains(listing));
    for file in fs::read_dir(bench.path("cache/restow/plans")).unwrap() {
        fs::write(file.unwrap().path(), "{").unwrap();
    }
    assert!(run("").stderr.contains(listing));
}

#[test]
fn a_record_of_another_build_is_matched_by_path_with_a_notice() {
    let bench = Bench::with(&image());
    let old = restow_oci::Digest::sha256(b"before");
    bench.write(
        "record",
        &format!("{{\"path\":\"app/main\",\"manifestDigest\":\"{old}\",\"layerIndex\":0}}\n"),
    );
    let document = bench.json(&format!("{OPTIMIZE} --record-in record --format json"));
    assert_eq!(document["layers"][1]["prioritized"], 2);
    let notice = document["notices"][0].as_str().unwrap();
    assert!(notice.ends_with("1 of 1 paths re-matched by path"), "{notice}");
}

#[test]
fn several_tags_are_set_at_once_and_others_stay() {
    let bench = Bench::with(&image());
    bench.ok(OPTIMIZE);
    let before = bench.index("out")["manifests"][0].clone();
    bench.ok("optimize oci:src:v1 oci:out:v2 out:v3 --tag v4 --tag v2 --zstdchunked --landmark always --platform linux/amd64");
    assert_eq!(bench.tags("out"), ["v1", "v2", "v3", "v4"]);
    let after = bench.index("out");
    assert_eq!(after["manifests"][0], before);
    assert_ne!(after["manifests"][1]["digest"], before["digest"]);
    assert_eq!(after["manifests"][3]["digest"], after["manifests"][1]["digest"]);
}

#[test]
fn platforms_are_chosen_kept_or_dropped() {
    let arm = ImageBuilder::new().platform("linux/arm64").layer(base()).build();
    let index = IndexBuilder::new().image(&image()).image(&arm).build();
    let bench = Bench::with(&index);
    let entries = |bench: &Bench, layout: &str| {
        let digest = bench.index(layout)["manifests"][0]["digest"].as_str().unwrap().replace(':', "/");
        let bytes = fs::read(bench.path(layout).join("blobs").join(digest)).unwrap();
        serde_json::from_slice::<Value>(&bytes).unwrap()["manifests"].as_array().unwrap().len()
    };
    for (flags, layout, expected, images) in [
        ("--platform linux/arm64", "one", 1, 1),
        ("--platform linux/arm64 --keep-other-platforms", "kept", 2, 1),
        ("--all-platforms", "all", 2, 2),
        ("--platform linux/arm64 --platform linux/amd64", "both", 2, 2),
    ] {
        let document = bench.json(&format!("optimize src oci:{layout} --zstdchunked --format json {flags}"));
        assert_eq!(entries(&bench, layout), expected, "{flags}");
        assert_eq!(document["images"].as_array().unwrap().len(), images, "{flags}");
        let left_out = document["leftOut"].as_array().unwrap();
        assert_eq!(left_out.len(), 2 - expected, "{flags}");
        assert!(left_out.iter().all(|image| image["platform"] == "linux/amd64"), "{flags}: {left_out:?}");
    }
    let run = bench.run("optimize src oci:none --zstdchunked --platform linux/s390x");
    assert_eq!(run.code, Some(1));
    let expected = "error: oci:src: no image for linux/s390x; there is linux/amd64, linux/arm64\n\
                    hint: name one of these with --platform, or take --all-platforms\n";
    assert_eq!(run.stderr, expected);
    assert!(!bench.path("none").exists());
}

#[test]
fn an_index_loses_images_with_a_warning_and_in_its_own_place_only_when_told_so() {
    let host = restow_oci::Platform::host().to_string();
    let image = |platform: &str| ImageBuilder::new().platform(platform).layer(base()).build();
    let index = IndexBuilder::new().image(&image(&host)).image(&image("linux/s390x")).build();
    let line = |places: &str, flags: &str| format!("optimize {places} --zstdchunked --no-optimize {flags}");
    let bench = Bench::with(&index);
    let told = "the new image leaves out linux/s390x";
    let run = bench.ok(&line("oci:src:v1 oci:out:v1", ""));
    let remedy = ": --all-platforms converts them, too, --keep-other-platforms keeps them as they are\n";
    assert!(run.stderr.contains(&format!("warning: {told}{remedy}")), "{}", run.stderr);
    let run = bench.ok(&line("oci:src:v1 oci:out:v1", &format!("--platform {host}")));
    assert!(run.stderr.contains(&format!("{told}\n")) && !run.stderr.contains("warning: "), "{}", run.stderr);

    let before = bench.index("src");
    for places in ["oci:src:v1 oci:src:v1", "src ./src:v1", "oci:src:v1 oci:src:v2 --tag v1"] {
        let run = bench.run(&line(places, ""));
        assert_eq!(run.code, Some(2), "{places}: {run:?}");
        let expected =
            "would lose the images for other platforms (linux/s390x): --all-platforms converts them";
        assert!(run.stderr.contains(expected), "{places}: {}", run.stderr);
        assert_eq!(bench.index("src"), before, "{places}");
    }
    bench.ok(&line("oci:src:v1 oci:src:other", ""));
    for flags in ["--keep-other-platforms".to_owned(), "--all-platforms".into(), format!("--platform {host}")]
    {
        let bench = Bench::with(&index);
        bench.ok(&line("oci:src:v1 oci:src:v1", &flags));
        bench.ok("verify oci:src:v1");
    }
}

#[test]
fn a_descriptor_and_a_document_that_contradict_each_other_are_told_of_by_every_command() {
    let docker = serde_json::json!({"mediaType": "application/vnd.docker.distribution.manifest.v2+json"});
    let bench = Bench::with(&IndexBuilder::new().image_with(&image(), docker).build());
    let problem = "expected manifest of media type application/vnd.docker.distribution.manifest.v2+json, \
                   found application/vnd.oci.image.manifest.v1+json";
    for line in
        ["inspect src", "ls src", "cat src etc/passwd", "verify src", "predict src", "convert src out --zstd"]
    {
        let run = bench.run(line);
        // What `inspect` cannot use, it lists.
        let expected = if line.starts_with("inspect") { 0 } else { 1 };
        assert_eq!(run.code, Some(expected), "{line}: {run:?}");
        assert!(run.stdout.contains(problem) || run.stderr.contains(problem), "{line}: {run:?}");
    }
}

#[test]
fn what_one_platform_reads_first_says_nothing_about_another() {
    let other = |cmd: Option<&str>| {
        let image = ImageBuilder::new().platform("linux/arm64").layer(base()).layer(base());
        let config = cmd.map(|cmd| serde_json::json!({ "Cmd": [cmd], "Env": ["PATH=/usr/bin"] }));
        image.config_field("config", config.unwrap_or_default()).build()
    };
    for arm in [other(None), other(Some("gone")), other(Some("sh"))] {
        let bench = Bench::with(&IndexBuilder::new().image(&service()).image(&arm).build());
        let run = |flags: &str| {
            bench.json(&format!("optimize src oci:out --zstdchunked --no-cache --format json {flags}"))
        };
        let all = run("--all-platforms");
        for platform in ["linux/amd64", "linux/arm64"] {
            let alone = run(&format!("--platform {platform}"));
            let image = |document: &Value| -> Value {
                let images = document["images"].as_array().unwrap();
                images.iter().find(|image| image["platform"] == platform).unwrap().clone()
            };
            assert_eq!(image(&all), image(&alone), "{platform}");
        }
        let notices = all["notices"].to_string();
        assert!(!notices.contains("another build"), "{notices}");
    }
}

#[test]
fn a_layer_of_several_images_is_read_for_its_order_once() {
    let image = |platform: &str, file: &str| {
        let own = Layer::gzip(TarBuilder::new().file(file, platform).finish());
        ImageBuilder::new().platform(platform).layer(base()).layer(own).build()
    };
    let (amd, arm) = (image("linux/amd64", "a"), image("linux/arm64", "b"));
    let bench = Bench::with(&IndexBuilder::new().image(&amd).image(&arm).build());
    fs::write(bench.path("list"), "a\nb\n").unwrap();
    let run =
        "optimize src dst:v1 --zstdchunked --all-platforms --prefetch-list list --no-cache --progress json";
    let events = bench.ok(run).stderr;
    let started = |event: &Value| event["event"] == "started";
    let events = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).filter(started);
    // Two of their own, and the base.
    assert_eq!(events.count(), 3);
    bench.ok("verify dst:v1");
}

#[test]
fn a_wrong_command_line_exits_with_2_before_anything_is_done() {
    let bench = Bench::with(&image());
    for (line, expected) in [
        ("", "Usage: restow"),
        ("optimize src:v1", "<DST>"),
        ("optimize src:v1 out", "--zstdchunked"),
        ("optimize src:v1 out --zstdchunked --zstdchunked-compression-level 23", "23 is not in 1..=22"),
        ("optimize src:v1 out --zstdchunked --zstdchunked-chunk-size 1", "expected 4KiB to 64MiB"),
        ("optimize src:v1 out --zstdchunked --platform a/b/c/d", "a/b/c/d"),
        ("optimize src:v1 out --zstdchunked --platform linux/amd64 --all-platforms", "cannot be used with"),
        ("optimize src:v1 out --zstdchunked --jobs 0", "from 1 to 1024"),
        ("optimize src:v1 out --zstdchunked --jobs 1025", "from 1 to 1024"),
        ("optimize src:v1 out:a other:b --zstdchunked", "error: other:b is not in oci:out"),
        ("optimize src:v1 docker-archive:out --zstdchunked --copy-referrers", "has no place for what refers"),
        ("optimize docker://X out --zstdchunked", "is not the name of an image"),
        ("optimize docker-daemon:x/y out --zstdchunked", "hint: copy the image into a layout first"),
        ("optimize src:v1 out --zstdchunked --frobnicate", "--frobnicate"),
    ] {
        let run = bench.run(line);
        assert_eq!((run.code, &*run.stdout), (Some(2), ""), "{line}: {run:?}");
        assert!(run.stderr.contains(expected), "{line}: {}", run.stderr);
        assert!(!bench.path("out").exists(), "{line}");
    }
}

#[test]
fn what_cannot_be_read_is_named_and_leaves_nothing() {
    let broken = TarBuilder::new().file("a", vec![1; 5000]).finish();
    let broken = Layer::gzip(&broken).with_blob(&restow_testkit::compress::gzip(&broken)[..40]);
    let bench = Bench::with(&ImageBuilder::new().layer(base()).layer(broken).build());
    bench.write("list", "a\nb\\?[\n");
    IndexBuilder::new().build().write_layout(&bench.path("none"), "v1").unwrap();
    for (line, expected) in [
        ("optimize src:v2 out --zstdchunked", "error: src holds no image \"v2\", only v1\n"),
        ("optimize nowhere out --zstdchunked", "error: nowhere does not exist\n"),
        ("inspect src:v2", "error: src holds no image \"v2\", only v1\n"),
        ("ls none", "error: oci:none is no image and leads to none\n"),
        ("copy none out --platform linux/amd64", "error: "),
        ("verify src:v2", "error: src holds no image \"v2\", only v1\n"),
        (
            "optimize src out --zstdchunked --prefetch-list list",
            "error: list: line 2: the pattern \"b\\\\?[\" is malformed: ",
        ),
        ("optimize src out --zstdchunked --record-in list", "error: list: line 1 is not an access record: "),
        ("optimize src out --zstdchunked --prefetch-list no", "error: no: cannot be read: No such file"),
        ("optimize src out --zstdchunked", "error: oci:src: layer 1 of manifest sha256:"),
    ] {
        let line = format!(
            "{line} {}",
            if line.starts_with("optimize") { "--progress none --platform linux/amd64" } else { "" }
        );
        let run = bench.run(&line);
        assert_eq!((run.code, &*run.stdout), (Some(1), ""), "{line}: {run:?}");
        assert!(run.stderr.starts_with(expected), "{line}: {}", run.stderr);
        assert!(!bench.path("out").exists(), "{line}");
    }
}

#[test]
fn verify_says_what_does_not_hold() {
    let bench = Bench::with(&image());
    let document = bench.json(&format!("{OPTIMIZE} --format json"));
    let digest = document["layers"][1]["destination"]["digest"].as_str().unwrap();
    let blob = bench.path("out/blobs").join(digest.replace(':', "/"));
    let mut bytes = fs::read(&blob).unwrap();
    bytes[20] ^= 1;
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, &bytes).unwrap();
    let run = bench.run("verify oci:out:v1");
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains("layer 1") && run.stdout.contains("FAILED"), "{run:?}");
    let run = bench.run("verify oci:out:v1 --format json");
    assert_eq!(run.code, Some(1));
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["ok"], false);
}

#[test]
fn inspect_tells_formats_apart() {
    let bench = Bench::with(&image());
    bench.ok(OPTIMIZE);
    for (reference, formats) in
        [("oci:src:v1", ["gzip", "zstd"]), ("oci:out:v1", ["zstd:chunked", "zstd:chunked"])]
    {
        let document = bench.json(&format!("inspect {reference} --format json"));
        let layers = document["images"][0]["layers"].as_array().unwrap();
        let found: Vec<_> = layers.iter().map(|layer| layer["format"].as_str().unwrap()).collect();
        assert_eq!(found, formats);
        let table = bench.ok(&format!("inspect {reference}")).stdout;
        assert!(table.contains(formats[0]) && table.contains("linux/amd64"), "{table}");
    }
    let run = bench.run("inspect oci:src:v1 --toc 0");
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("layer 0"), "{}", run.stderr);
    assert_eq!(bench.run("inspect oci:src:v1 --toc 7").code, Some(1));
}

#[test]
fn progress_goes_to_stderr_in_the_form_asked_for() {
    let bench = Bench::with(&image());
    let events = bench.ok(&format!("{OPTIMIZE} --no-cache --progress json")).stderr;
    let names: Vec<_> = events
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names.iter().filter(|name| *name == "started").count(), 2, "{events}");
    assert_eq!(names.iter().filter(|name| *name == "finished").count(), 2, "{events}");

    let plain = bench.ok(&format!("{OPTIMIZE} --no-cache --progress plain")).stderr;
    assert_eq!(
        plain.lines().filter(|line| line.starts_with("layer ") && line.contains(" -> ")).count(),
        2,
        "{plain}"
    );
    let none = bench.ok(&format!("{OPTIMIZE} --no-cache --progress none")).stderr;
    assert!(none.starts_with("image sha256:"), "{none}");
    assert_eq!(bench.ok(&format!("{OPTIMIZE} --no-cache --quiet")).stderr, "");
}

#[test]
fn the_rest_of_the_commands_print_what_they_promise() {
    let bench = Bench::new();
    assert!(bench.ok("version").stdout.contains("zstd:chunked format="));
    assert!(bench.json("version --format json")["formats"][0].is_string());
    assert!(bench.ok("completions bash").stdout.contains("_restow"));
    let page = bench.ok("man").stdout;
    assert!(page.contains(".TH restow 1") && page.contains("prefetch"), "{page}");
    assert!(bench.ok("optimize --help").stdout.contains("4MiB"));
}

#[test]
fn an_interrupted_run_ends_within_a_second_and_leaves_the_destination() {
    // Many megabytes that do not compress: enough work to be interrupted in.
    let mut noise = 1_u64;
    let bytes: Vec<u8> = (0..6_000_000)
        .flat_map(|_| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            noise.to_le_bytes()
        })
        .collect();
    let bench = Bench::with(
        &ImageBuilder::new().layer(Layer::plain(TarBuilder::new().file("big", bytes).finish())).build(),
    );
    image().write_layout(&bench.path("out"), "v1").unwrap();
    let before = (bench.index("out"), files_below(&bench.path("out")));
    // A chunk takes longer than there is time to stop in good order.
    let slow = format!("{OPTIMIZE} --no-optimize --zstdchunked-compression-level 22 --jobs 1");
    for (line, ingest) in [(slow.clone(), "out/ingest"), (slow.replace("oci:out", "oci:new"), "new/ingest")] {
        let mut command = bench.command(Path::new(env!("CARGO_BIN_EXE_restow")));
        let mut child = command
            .args(line.split_whitespace())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Once it has begun with the layer.
        while !bench.path(ingest).exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let started = std::time::Instant::now();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        // A second, and some for a busy machine; the work would take a minute.
        assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
        assert_eq!((bench.index("out"), files_below(&bench.path("out"))), before);
        assert!(!bench.path("out/ingest").exists() && !bench.path("new").exists());
    }
}

#[test]
fn a_terminal_shows_a_bar_for_each_layer() {
    let bench = Bench::with(&image());
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let mut command = bench.command(Path::new(env!("CARGO_BIN_EXE_restow")));
    command.args(OPTIMIZE.split_whitespace()).env("TERM", "xterm").stdout(std::process::Stdio::null());
    let mut child =
        command.stderr(fs::OpenOptions::new().read(true).write(true).open(name).unwrap()).spawn().unwrap();
    // Only the child has the other end now, and reading ends with it.
    drop(command);
    let mut shown = Vec::new();
    let _ = fs::File::from(terminal).read_to_end(&mut shown);
    assert!(child.wait().unwrap().success());
    let shown = String::from_utf8(shown).unwrap();
    for (position, layer) in image().document()["layers"].as_array().unwrap().iter().enumerate() {
        let name = &layer["digest"].as_str().unwrap()[..19];
        let bar = shown.split(['\r', '\n']).find(|line| line.contains(&format!("layer {position} {name} [")));
        let bar = bar.unwrap_or_else(|| panic!("no bar for layer {position}: {shown:?}"));
        assert!(bar.contains(" of ") && bar.contains("/s") && bar.contains("left"), "{bar:?}");
    }
    assert!(shown.contains("DiffID"), "{shown:?}");
}

#[test]
fn damaged_layouts_end_in_an_error_or_a_sound_image_and_never_in_a_panic() {
    let layout = restow_testkit::testdata("layouts/busybox");
    let files: Vec<PathBuf> = files_below(&layout);
    for seed in 0..60u64 {
        let bench = Bench::new();
        for file in &files {
            let copy = bench.path("src").join(file.strip_prefix(&layout).unwrap());
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(file, copy).unwrap();
        }
        let victim = files[seed as usize % files.len()].strip_prefix(&layout).unwrap();
        let path = bench.path("src").join(victim);
        let damaged = restow_testkit::mutate(&fs::read(&path).unwrap(), seed);
        fs::remove_file(&path).unwrap();
        fs::write(&path, damaged).unwrap();
        bench.is_sound(&format!("seed {seed}, {}", victim.display()));
    }
}

#[test]
fn damaged_documents_under_the_right_digest_never_end_in_a_panic() {
    for seed in 0..60 {
        let image = restow_testkit::random_image(seed);
        let bytes = restow_testkit::mutate(image.root_bytes(), seed);
        let damaged = image.with_root_bytes(bytes);
        let bench = Bench::with(&damaged);
        bench.is_sound(&format!("seed {seed}"));
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}
