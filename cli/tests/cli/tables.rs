//! Tables of contents that are in another image than the layers they are about.

use restow_testkit::Registry;

use super::*;

fn files(name: &str) -> Image {
    let tar = TarBuilder::new()
        .file("first", vec![1; 5000])
        .file("second", name)
        .file("third", vec![3; 5000])
        .finish();
    ImageBuilder::new().platform(&format!("linux/{name}")).layer(Layer::gzip(tar)).build()
}

const EXTERNAL: &str = "--estargz --estargz-external-toc --estargz-chunk-size 4KiB";

/// Spoils a chunk of the first file in every layer that has a table, so that only who knows the table can read the others.
fn spoil(bench: &Bench, layout: &str, reference: &str, flags: &str) {
    let document = bench.json(&format!("inspect {reference} {flags} --format json"));
    for image in document["images"].as_array().unwrap() {
        let platform =
            image["platform"].as_str().map(|name| format!("--platform {name}")).unwrap_or_default();
        let toc = bench.json(&format!("inspect {reference} {flags} {platform} --toc 0"));
        let entries = toc["entries"].as_array().unwrap();
        let chunk = entries.iter().find(|entry| entry["type"] == "chunk").unwrap();
        let offset = usize::try_from(chunk["offset"].as_u64().unwrap()).unwrap();
        let digest = image["layers"][0]["digest"].as_str().unwrap().replace(':', "/");
        let path = bench.path(layout).join("blobs").join(digest);
        let mut blob = fs::read(&path).unwrap();
        blob[offset + 12] ^= 0xff;
        fs::remove_file(&path).unwrap();
        fs::write(&path, blob).unwrap();
    }
}

#[test]
fn a_table_is_found_beside_its_image_or_by_what_refers_to_it() {
    let (amd64, arm64) = (files("amd64"), files("arm64"));
    let index = IndexBuilder::new().image(&amd64).image(&arm64).build();
    for (number, (place, flags)) in [
        ("oci:out:v1", ""),
        ("oci:out:v1", "--toc-image tables --toc-referrer"),
        ("oci:out:v1", "--all-platforms"),
        ("oci:out:v1", "--all-platforms --toc-image tables --toc-referrer"),
        ("oci:out:v1", "--estargz-keep-diff-id --toc-image tables --toc-referrer"),
    ]
    .into_iter()
    .enumerate()
    {
        let bench = Bench::with(&index);
        let platform = if flags.contains("platforms") { "" } else { "--platform linux/amd64" };
        let run = bench.ok(&format!("convert oci:src:v1 {place} {EXTERNAL} {flags} {platform}"));
        let digest = run.stdout.trim_end();
        let verified = bench.ok(&format!("verify {place}")).stdout;
        assert!(verified.contains("entries"), "{number}: {verified}");
        let named = if flags.contains("tables") { "--toc-image oci:out:tables" } else { "" };
        spoil(&bench, "out", place, named);
        let platforms = if platform.is_empty() { &["amd64", "arm64"][..] } else { &["amd64"] };
        for name in platforms {
            let mut ways = vec![format!("{place} --platform linux/{name}")];
            if flags.contains("referrer") {
                ways.push(format!("oci:out@{digest} --platform linux/{name}"));
            }
            for way in ways {
                let (reference, rest) = way.split_once(' ').unwrap();
                assert_eq!(bench.ok(&format!("cat {reference} second {rest}")).stdout, *name, "{number}");
                assert!(bench.ok(&format!("ls {reference} / {rest}")).stdout.contains("third"), "{number}");
                assert!(
                    bench
                        .ok(&format!("toc-digest {reference} --layer 0 {rest}"))
                        .stdout
                        .starts_with("sha256:")
                );
                assert_eq!(bench.json(&format!("inspect {reference} --toc 0 {rest}"))["version"], 1);
                let run = bench.run(&format!("cat {reference} first {rest}"));
                assert_eq!((run.code, run.stdout.len()), (Some(1), 4096), "{number}: {run:?}");
            }
        }
    }
}

#[test]
fn what_nobody_finds_is_named_or_the_tar_is_read() {
    let bench = Bench::with(&files("amd64"));
    let convert = |place: &str, flags: &str| {
        bench.ok(&format!("convert oci:src:v1 {place} {EXTERNAL} {flags} --platform linux/amd64")).stdout
    };
    convert("oci:out:v1", "--toc-image tables");
    assert_eq!(bench.ok("cat oci:out:v1 second").stdout, "amd64");
    assert!(!bench.ok("verify oci:out:v1").stdout.contains("entries"));
    assert!(bench.run("inspect oci:out:v1 --toc 0").stderr.contains("--toc-image says in which"));
    spoil(&bench, "out", "oci:out:v1", "--toc-image oci:out:tables");
    assert_eq!(bench.run("cat oci:out:v1 second").code, Some(1));
    assert_eq!(bench.ok("cat oci:out:v1 second --toc-image oci:out:tables").stdout, "amd64");
    assert!(bench.ok("ls oci:out:v1 --toc-image oci:out:tables").stdout.contains("third"));
    for command in [
        "ls oci:out:v1",
        "cat oci:out:v1 second",
        "verify oci:out:v1",
        "inspect oci:out:v1",
        "toc-digest oci:out:v1",
    ] {
        let run = bench.run(&format!("{command} --toc-image oci:out:gone"));
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(run.stderr.contains("holds no image \"gone\""), "{}", run.stderr);
    }
    // What is called so is no image of tables: the tar says what is there, and who asks for tables is told.
    convert("oci:other:v1", "--toc-image tables");
    bench.ok("copy oci:src:v1 oci:other:v1-esgztoc");
    assert_eq!(bench.ok("cat oci:other:v1 second").stdout, "amd64");
    let run = bench.run("toc-digest oci:other:v1 --layer 0");
    assert!(run.code == Some(1) && run.stderr.contains("does not say of which layer"), "{run:?}");
}

#[test]
fn tables_are_found_in_stores_archives_and_registries() {
    let registry = Registry::start();
    registry.list_referrers();
    let host = registry.host();
    let bench = Bench::with(&files("amd64"));
    for (place, flags) in [
        ("store:app".to_owned(), "--root store"),
        ("out.tar:v1".to_owned(), ""),
        (format!("docker://{host}/beside:v1"), ""),
        (format!("docker://{host}/latest"), ""),
        (format!("docker://{host}/referring:v1"), "--toc-image tables --toc-referrer"),
    ] {
        let root = flags.strip_prefix("--root").map(|root| format!("--root{root}")).unwrap_or_default();
        bench.ok(&format!("convert oci:src:v1 {place} {EXTERNAL} {flags} --platform linux/amd64"));
        let verified = bench.ok(&format!("verify {place} {root}")).stdout;
        assert!(verified.contains("entries"), "{place}: {verified}");
        assert_eq!(bench.ok(&format!("cat {place} second {root}")).stdout, "amd64");
        assert_eq!(bench.json(&format!("inspect {place} --toc 0 {root}"))["version"], 1);
    }
    let mut piped = bench.command(Path::new(env!("CARGO_BIN_EXE_restow")));
    let archive = fs::File::open(bench.path("out.tar")).unwrap();
    let run = finish(piped.args(["verify", "oci-archive:-:v1"]).stdin(archive));
    assert!(run.code == Some(0) && run.stdout.contains("entries"), "{run:?}");
}

#[test]
fn nobody_asks_for_tables_that_no_layer_needs() {
    let registry = Registry::start();
    let bench = Bench::with(&files("amd64"));
    let place = format!("docker://{}/app:v1", registry.host());
    bench.ok(&format!("convert oci:src:v1 {place} --estargz --platform linux/amd64"));
    registry.take_lines();
    for command in ["verify", "inspect", "toc-digest", "ls"] {
        bench.ok(&format!("{command} {place}"));
    }
    let lines = registry.take_lines();
    assert!(lines.iter().all(|line| !line.contains("esgztoc") && !line.contains("referrers")), "{lines:#?}");
}

#[test]
fn layers_are_reused_with_their_tables() {
    let bench = Bench::with(&files("amd64"));
    let convert =
        |flags: &str| bench.json(&format!("convert {flags} --platform linux/amd64 --format json --no-cache"));
    for made in [
        "--estargz-external-toc",
        "--estargz-keep-diff-id",
        "--estargz-external-toc --toc-image tables --toc-referrer",
    ] {
        let first =
            convert(&format!("oci:src:v1 oci:first:v1 --estargz --estargz-compression-level 9 {made}"));
        let second = convert("oci:first:v1 oci:second:v1 --estargz --estargz-external-toc --reuse");
        assert_eq!(
            (&second["changed"], &second["layers"][0]["outcome"]),
            (&false.into(), &"kept".into()),
            "{made}"
        );
        assert_eq!(second["digest"], first["digest"]);
        let verified = bench.ok("verify oci:second:v1").stdout;
        assert!(verified.contains("entries"), "the table came along: {verified}");
        for flags in ["--estargz --estargz-external-toc", "--estargz --reuse", "--zstdchunked --reuse"] {
            let again = convert(&format!("oci:first:v1 oci:third:v1 {flags}"));
            assert_eq!(again["layers"][0]["outcome"], "converted", "{made} {flags}");
        }
        fs::remove_dir_all(bench.path("first")).unwrap();
        fs::remove_dir_all(bench.path("second")).unwrap();
    }
    // Where no table is to be found there is nothing to keep.
    convert(
        "oci:src:v1 oci:first:v1 --estargz --estargz-compression-level 9 --estargz-external-toc --toc-image tables",
    );
    let second = convert("oci:first:v1 oci:second:v1 --estargz --estargz-external-toc --reuse");
    assert_eq!(second["layers"][0]["outcome"], "converted");
}
