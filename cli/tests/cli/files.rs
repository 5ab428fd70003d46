use std::fs;
use std::path::Path;

use restow_layer::footer;
use restow_oci::Digest;
use restow_testkit::Entry;
use restow_testkit::Image;
use restow_testkit::ImageBuilder;
use restow_testkit::IndexBuilder;
use restow_testkit::Layer;
use restow_testkit::Sparse;
use restow_testkit::TarBuilder;
use restow_testkit::compress::RawFrame;
use restow_testkit::testdata;
use serde_json::Value;

use crate::support::Bench;

/// Three layers, of which the upper ones delete, replace and hide.
fn layered() -> Image {
    let base = TarBuilder::new()
        .entry(Entry::dir("./"))
        .dir("usr/")
        .dir("usr/bin/")
        .symlink("bin", "usr/bin")
        .entry(Entry::file("usr/bin/tool", "#!tool").mode(0o4755).owner(7, 8))
        .entry(Entry::hardlink("usr/bin/alias", "usr/bin/tool").mode(0o4755).owner(7, 8))
        .symlink("usr/bin/absolute", "/usr/bin/tool")
        .symlink("dangling", "nowhere")
        .file("gone", "deleted above")
        .file("implied/only/by/file", "deep")
        .dir("opaque/")
        .file("opaque/old", "hidden above")
        .character("null", 1, 3)
        .file("replaced", "old")
        .file("name\nwith a line break", "odd")
        .finish();
    let middle = TarBuilder::new()
        .file(".wh.gone", "")
        .dir("opaque/")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "seen")
        .file("replaced", "new")
        .finish();
    let top = TarBuilder::new().dir("app/").file("app/data", vec![9; 100_000]).finish();
    ImageBuilder::new().layer(Layer::gzip(base)).layer(Layer::zstd(middle)).layer(Layer::plain(top)).build()
}

/// The image as it is, and with layers that have a table of contents.
fn bench() -> Bench {
    let bench = Bench::with(&layered());
    bench.ok(
        "optimize oci:src:v1 oci:lazy:v1 --zstdchunked --zstdchunked-chunk-size 4KiB --platform linux/amd64",
    );
    bench
}

#[test]
fn files_are_listed_as_a_container_sees_them() {
    let bench = bench();
    let all = bench.json("ls oci:src:v1 / -r --format json");
    let paths: Vec<_> = all.as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(
        paths,
        [
            "app",
            "app/data",
            "bin",
            "dangling",
            "implied",
            "implied/only",
            "implied/only/by",
            "implied/only/by/file",
            "name\nwith a line break",
            "null",
            "opaque",
            "opaque/new",
            "replaced",
            "usr",
            "usr/bin",
            "usr/bin/absolute",
            "usr/bin/alias",
            "usr/bin/tool"
        ]
    );
    let find = |path: &str| all.as_array().unwrap().iter().find(|file| file["path"] == path).unwrap();
    for (path, layer, kind) in [
        ("app/data", 2, "file"),
        ("bin", 0, "symlink"),
        ("replaced", 1, "file"),
        ("null", 0, "character device"),
        ("opaque", 1, "directory"),
    ] {
        assert_eq!(
            (find(path)["layer"].as_u64(), find(path)["type"].as_str()),
            (Some(layer), Some(kind)),
            "{path}"
        );
    }
    assert_eq!(find("usr/bin/alias")["linkTo"], "usr/bin/tool");
    assert_eq!(find("usr/bin/alias")["size"], 6);
    assert_eq!(find("bin")["target"], "usr/bin");
    assert_eq!(find("implied/only")["layer"], Value::Null);
    assert_eq!(find("null")["device"], serde_json::json!([1, 3]));

    for line in ["ls oci:REF / -r", "ls oci:REF", "ls oci:REF usr/bin", "ls oci:REF /bin", "ls oci:REF null"]
    {
        let of = |layout: &str| bench.ok(&line.replace("REF", layout)).stdout;
        assert_eq!(of("src:v1"), of("lazy:v1"), "{line}");
    }
    let table = bench.ok("ls oci:lazy:v1 /bin").stdout;
    let lines: Vec<_> =
        table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines.len(), 4);
    assert!(
        lines[1].starts_with("lrw") && lines[1].ends_with("usr/bin/absolute -> /usr/bin/tool"),
        "{table}"
    );
    assert!(lines[2].ends_with("usr/bin/alias link to usr/bin/tool"), "{table}");
    assert!(lines[3].starts_with("-rwsr-xr-x 7:8 6 "), "{table}");
    assert!(bench.ok("ls oci:src:v1").stdout.contains("name\\nwith a line break"));
    for path in ["gone", "opaque/old", "no/such", "usr/bin/tool/x"] {
        let run = bench.run(&format!("ls oci:lazy:v1 {path}"));
        assert_eq!(run.code, Some(1), "{run:?}");
        assert_eq!(run.stderr, format!("error: oci:lazy:v1: there is no {path}\n"));
    }
}

#[test]
fn a_file_is_printed_through_links_from_any_layer() {
    let bench = bench();
    for (path, expected) in [
        ("usr/bin/tool", Ok("#!tool")),
        ("/bin/tool", Ok("#!tool")),
        ("bin/alias", Ok("#!tool")),
        ("./bin/../bin/absolute", Ok("#!tool")),
        ("replaced", Ok("new")),
        ("opaque/new", Ok("seen")),
        ("implied/only/by/file", Ok("deep")),
        ("gone", Err("there is no gone")),
        ("dangling", Err("dangling is a link to nowhere, which is not there")),
        ("implied/only", Err("implied/only is a directory")),
        ("bin", Err("usr/bin is a directory")),
        ("null", Err("null is not a regular file")),
    ] {
        for reference in ["oci:src:v1", "oci:lazy:v1"] {
            let run = bench.run(&format!("cat {reference} {path}"));
            let found = match run.code {
                Some(0) => Ok(run.stdout.as_str()),
                _ => Err(run.stderr.trim_end()),
            };
            let expected = expected.map_err(|problem| format!("error: {reference}: {problem}"));
            assert_eq!(found, expected.as_deref().map_err(String::as_str), "{reference} {path}");
        }
    }
    assert_eq!(bench.ok("cat lazy app/data").stdout.len(), 100_000);
}

#[test]
fn only_the_chunks_of_the_file_are_read_and_none_is_printed_unverified() {
    let files =
        TarBuilder::new().file("first", vec![1; 5000]).file("second", "whole").file("third", vec![3; 5000]);
    let bench = Bench::with(&ImageBuilder::new().layer(Layer::gzip(files.finish())).build());
    let run = bench.json(
        "optimize src lazy --zstdchunked --zstdchunked-chunk-size 4KiB --platform linux/amd64 --format json",
    );
    let digest = run["layers"][0]["destination"]["digest"].as_str().unwrap();
    let toc = bench.json("inspect lazy --toc 0");
    let entries = toc["entries"].as_array().unwrap();
    // The second chunk of the first file.
    let offset = entries[1]["offset"].as_u64().unwrap() as usize;
    let path = bench.path("lazy/blobs").join(digest.replace(':', "/"));
    let mut blob = fs::read(&path).unwrap();
    blob[offset + 8] ^= 0xff;
    fs::remove_file(&path).unwrap();
    fs::write(&path, blob).unwrap();

    assert_eq!(bench.ok("cat lazy second").stdout, "whole");
    assert_eq!(bench.ok("cat lazy third").stdout.len(), 5000);
    let run = bench.run("cat lazy first");
    assert_eq!((run.code, run.stdout.len()), (Some(1), 4096), "{run:?}");
}

#[test]
fn layers_of_other_tools_are_read_alike() {
    let bench = Bench::new();
    let golden = |name: &str| testdata("golden").join(name).display().to_string();
    let listing = |name: &str| {
        let mut files = bench.json(&format!("ls {} -r --format json", golden(name)));
        for file in files.as_array_mut().unwrap() {
            // eStargz knows no fractions of a second.
            let time =
                file["modified"].as_str().map(|time| time.split(['.', 'Z']).next().unwrap().to_owned());
            file["modified"] = time.into();
        }
        files
    };
    let source = listing("src");
    for name in [
        "podman-zstdchunked",
        "zstdchunked",
        "zstdchunked-prioritized",
        "estargz",
        "estargz-minchunk",
        "estargz-prioritized",
        "estargz-externaltoc",
        "estargz-keepdiffid",
    ] {
        let found = listing(name);
        let names = |files: &Value| -> Vec<String> {
            files.as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(&found), names(&source), "{name}");
        for (found, file) in found.as_array().unwrap().iter().zip(source.as_array().unwrap()) {
            for key in ["type", "layer", "mode", "uid", "gid", "size", "target"] {
                assert_eq!(found[key], file[key], "{name}: {key} of {file}");
            }
            if file["type"] == "file" && !file["path"].as_str().unwrap().contains(char::is_whitespace) {
                let cat = |image: &str| {
                    bench.run(&format!("cat {} {}", golden(image), file["path"].as_str().unwrap()))
                };
                assert_eq!(cat(name).stdout, cat("src").stdout, "{name}: {file}");
            }
        }
        bench.ok(&format!("verify {}", golden(name)));
    }
}

/// Returns the footer as it was before it had a subfield: an empty gzip member with the offset in its extra field.
fn legacy_footer(toc_offset: u64) -> Vec<u8> {
    let header = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 22, 0];
    let empty = [1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
    [&header, format!("{toc_offset:016x}STARGZ").as_bytes(), &empty].concat()
}

#[test]
fn tables_of_contents_are_found_by_any_footer() {
    let bench = Bench::new();
    let golden = |name: &str| testdata("golden").join(name).display().to_string();
    let document = bench.json(&format!("inspect {} --format json", golden("estargz")));
    let layer = &document["images"][0]["layers"][0];
    let digest = layer["annotations"]["containerd.io/snapshot/stargz/toc.digest"].as_str().unwrap();
    assert_eq!(bench.ok(&format!("toc-digest {} --layer 0", golden("estargz"))).stdout.trim_end(), digest);

    // The same layer with the footer of old, and no annotation.
    let path =
        Path::new(&golden("estargz")).join("blobs").join(layer["digest"].as_str().unwrap().replace(':', "/"));
    let blob = fs::read(path).unwrap();
    let Some(footer::Footer::Gzip { toc_offset, start }) =
        footer::parse(&blob[blob.len() - footer::TAIL..], blob.len() as u64).unwrap()
    else {
        panic!("no footer");
    };
    let legacy = [&blob[..start as usize], &legacy_footer(toc_offset)].concat();
    let diff_id = layer["diffId"].as_str().unwrap();
    let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
    let old = ImageBuilder::new()
        .layer(Layer::blob(gzip, &legacy).diff_id(diff_id))
        .layer(Layer::gzip(TarBuilder::new().file("a", "b").finish()))
        .build();
    old.write_layout(&bench.path("old"), "v1").unwrap();
    assert_eq!(
        bench.ok("toc-digest old").stdout,
        format!(
            "0 {} {digest}\n1 {} -\n",
            Digest::sha256(&legacy),
            old.document()["layers"][1]["digest"].as_str().unwrap()
        )
    );
    assert_eq!(
        bench.json("inspect old --toc 0"),
        bench.json(&format!("inspect {} --toc 0", golden("estargz")))
    );
    let verified = bench.ok("verify old").stdout;
    assert!(verified.contains("estargz") && verified.contains("TOC"), "{verified}");

    let run = bench.run("toc-digest old --layer 1");
    assert_eq!((run.code, &*run.stderr), (Some(1), "error: oci:old: layer 1 has no table of contents\n"));
    let run = bench.run("toc-digest old --layer 2");
    assert_eq!(run.stderr, "error: oci:old: there is no layer 2, only 2 layers\n");
    let run = bench.run(&format!("inspect {} --toc 0", golden("estargz-externaltoc")));
    assert!(run.stderr.contains("the table of contents is in another image"), "{}", run.stderr);
    // A table that is not the one that the manifest vouches for.
    let wrong = Digest::sha256(b"another");
    let lying = Layer::blob(gzip, &blob)
        .diff_id(diff_id)
        .annotation("containerd.io/snapshot/stargz/toc.digest", wrong.as_str());
    ImageBuilder::new().layer(lying).build().write_layout(&bench.path("lying"), "v1").unwrap();
    let run = bench.run("toc-digest lying --layer 0");
    assert!(run.stderr.contains(wrong.as_str()) && run.code == Some(1), "{run:?}");
}

#[test]
fn one_image_of_an_index_is_looked_into() {
    let arm = ImageBuilder::new()
        .platform("linux/arm64")
        .layer(Layer::gzip(TarBuilder::new().file("who", "arm").finish()))
        .build();
    let amd = ImageBuilder::new().layer(Layer::gzip(TarBuilder::new().file("who", "amd").finish())).build();
    let bench = Bench::with(&IndexBuilder::new().image(&amd).image(&arm).build());
    assert_eq!(bench.ok("cat src who --platform linux/arm64").stdout, "arm");
    assert_eq!(bench.ok("cat src who --platform linux/amd64").stdout, "amd");
    assert_eq!(bench.run("ls src --platform linux/s390x").code, Some(1));
}

#[test]
fn layers_of_types_that_are_not_read_are_warned_of() {
    let hidden = Layer::blob("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "secret");
    let seen = Layer::plain(TarBuilder::new().file("seen", "content").finish());
    let bench = Bench::with(&ImageBuilder::new().layer(hidden).layer(seen).build());
    for command in ["ls oci:src:v1", "cat oci:src:v1 seen"] {
        let output = bench.ok(command);
        assert!(
            output.stderr.starts_with("warning: layer 0 is not looked into: it is of the type application/"),
            "{}",
            output.stderr
        );
    }
}

#[test]
fn a_directory_that_a_layer_only_implies_is_not_the_link_below_it() {
    let base =
        TarBuilder::new().symlink("lib", "usr/lib").file("usr/lib/below", "below").dir("kept/").finish();
    let top = TarBuilder::new().file("lib/own", "own").file("kept/own", "").finish();
    let bench = Bench::with(&ImageBuilder::new().layer(Layer::gzip(base)).layer(Layer::gzip(top)).build());
    let paths = |line: &str| -> Vec<String> {
        let files = bench.json(&format!("{line} --format json"));
        files.as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(paths("ls src"), ["kept", "lib", "usr"]);
    assert_eq!(paths("ls src lib"), ["lib/own"]);
    assert_eq!(paths("ls src kept"), ["kept/own"]);
    assert_eq!(bench.ok("cat src lib/own").stdout, "own");
    assert_eq!(bench.run("cat src lib/below").stderr, "error: oci:src: there is no lib/below\n");
}

#[test]
fn a_hard_link_prints_what_had_the_name_when_it_was_made() {
    let tar = TarBuilder::new()
        .file("h/a", "first")
        .hardlink("h/b", "h/a")
        .hardlink("h/chained", "h/b")
        .file("h/a", "second, and longer")
        .hardlink("h/c", "h/a")
        .hardlink("h/early", "h/late")
        .file("h/late", "late")
        .finish();
    let bench = Bench::with(&ImageBuilder::new().layer(Layer::gzip(tar)).build());
    let files = bench.json("ls src h --format json");
    for (path, expected) in [
        ("h/a", "second, and longer"),
        ("h/b", "first"),
        ("h/chained", "first"),
        ("h/c", "second, and longer"),
        ("h/early", "late"),
    ] {
        assert_eq!(bench.ok(&format!("cat src {path}")).stdout, expected, "{path}");
        let file = files.as_array().unwrap().iter().find(|file| file["path"] == path).unwrap();
        assert_eq!(file["size"], expected.len(), "{path}");
    }
}

#[test]
fn a_directory_of_which_a_whiteout_is_left_is_empty() {
    let base = TarBuilder::new().file("b/old", "").file("c/d/e", "").file("kept/old", "").finish();
    let top = TarBuilder::new()
        .file("b/.wh..wh..opq", "")
        .file("c/d/.wh.e", "")
        .file("n/.wh..wh..opq", "")
        .file(".wh.kept", "")
        .finish();
    let bench = Bench::with(&ImageBuilder::new().layer(Layer::gzip(base)).layer(Layer::gzip(top)).build());
    let paths = |line: &str| -> Vec<String> {
        let files = bench.json(&format!("{line} --format json"));
        files.as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(paths("ls src"), ["b", "c", "n"]);
    assert_eq!(paths("ls src / -r"), ["b", "c", "c/d", "n"]);
    assert_eq!((paths("ls src b"), paths("ls src c")), (vec![], vec!["c/d".to_owned()]));
    assert_eq!(bench.run("ls src kept").code, Some(1));
}

/// Returns what `ls -r` lists, as `path type size mode layer`.
fn listed(bench: &Bench, image: &str) -> Vec<String> {
    let files = bench.json(&format!("ls {image} / -r --format json"));
    let text = |file: &Value, key: &str| file[key].to_string().trim_matches('"').to_owned();
    let line = |file: &Value| ["path", "type", "size", "mode", "layer"].map(|key| text(file, key)).join(" ");
    files.as_array().unwrap().iter().map(line).collect()
}

#[test]
fn sparse_files_are_listed_and_printed_with_their_holes() {
    let mut expected = vec![0; 8192];
    expected[4096..4608].fill(b'D');
    for form in [Sparse::Gnu, Sparse::Pax00, Sparse::Pax01, Sparse::Pax10] {
        let sparse = Entry::sparse(form, "var/sparse", 8192, &[(4096, &[b'D'; 512])]);
        let tar = TarBuilder::new().dir("var/").entry(sparse).file("var/next", "n").finish();
        let bench = Bench::with(&ImageBuilder::new().layer(Layer::gzip(tar)).build());
        assert_eq!(listed(&bench, "src")[2], "var/sparse file 8192 0644 0", "{form:?}");
        assert_eq!(bench.ok("cat src var/sparse").stdout.as_bytes(), expected, "{form:?}");
        assert_eq!(bench.ok("cat src var/next").stdout, "n");
    }
}

#[test]
fn entries_below_a_link_of_their_layer_are_where_the_link_leads() {
    let tar = TarBuilder::new()
        .dir("usr/lib/")
        .symlink("lib", "usr/lib")
        .file("lib/x", "found")
        .hardlink("lib/y", "lib/x")
        .finish();
    let bench = Bench::with(&ImageBuilder::new().layer(Layer::gzip(tar)).build());
    let paths: Vec<_> =
        listed(&bench, "src").iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(paths, ["lib", "usr", "usr/lib", "usr/lib/x", "usr/lib/y"]);
    for path in ["lib/x", "usr/lib/x", "lib/y", "usr/lib/y"] {
        assert_eq!(bench.ok(&format!("cat src {path}")).stdout, "found", "{path}");
    }
}

#[test]
fn names_that_are_not_utf_8_are_spelled_and_found_by_their_spelling() {
    let tar = TarBuilder::new()
        .entry(Entry::file(b"d/one\xff", "1"))
        .entry(Entry::file(b"d/one\xfe", "2"))
        .file("d/one\\xff", "3")
        .finish();
    let bench = Bench::with(&ImageBuilder::new().layer(Layer::gzip(tar)).build());
    let lines = listed(&bench, "src");
    let paths: Vec<_> = lines.iter().map(|line| line.split(' ').next().unwrap()).collect();
    // What looks like a spelling is spelled, too. This is JSON's text, with its own backslashes.
    assert_eq!(paths, ["d", "d/one\\\\x5cxff", "d/one\\\\xfe", "d/one\\\\xff"]);
    for (path, expected) in [("d/one\\xff", "1"), ("d/one\\xfe", "2"), ("d/one\\x5cxff", "3")] {
        assert_eq!(bench.ok(&format!("cat src {path}")).stdout, expected, "{path}");
    }
}

#[test]
fn a_hard_link_says_last_what_its_file_is_and_a_table_cannot_say_so() {
    let tar = TarBuilder::new()
        .entry(Entry::file("tool", "#!").mode(0o4755))
        .entry(Entry::hardlink("link", "tool").mode(0o600))
        .finish();
    let bench = Bench::with(&ImageBuilder::new().layer(Layer::gzip(tar)).build());
    let expected = ["link file 2 0600 0", "tool file 2 0600 0"];
    assert_eq!(listed(&bench, "src"), expected);
    // From the memory of earlier runs, too.
    for line in ["convert src converted --zstdchunked", "convert src converted:again --zstdchunked"] {
        let run = bench.ok(line);
        let warning = "has a hard link, \"link\", that says another mode, owner, time or attributes";
        assert!(run.stderr.contains(warning), "{line}: {}", run.stderr);
    }
    let kept = bench.ok("convert src converted:kept --zstdchunked --unsupported keep");
    assert!(kept.stderr.contains("whose mode, owner, time or attributes"), "{}", kept.stderr);
    let digest = |layout: &str| bench.index(layout)["manifests"][0]["digest"].clone();
    assert_eq!(kept.stdout.trim(), digest("src").as_str().unwrap());
    assert_eq!(listed(&bench, "converted:again"), expected);
}

#[test]
fn a_layer_of_nothing_is_one_to_every_command() {
    let something = TarBuilder::new().file("f", "f").finish();
    for nothing in [Layer::plain(""), Layer::gzip(""), Layer::zstd("")] {
        let image = ImageBuilder::new().layer(Layer::gzip(something.clone())).layer(nothing).build();
        let bench = Bench::with(&image);
        for line in [
            "ls src",
            "cat src f",
            "inspect src",
            "verify src",
            "predict src",
            "convert src a --zstdchunked",
            "convert src b --estargz",
            "convert src c --gzip",
            "convert src d --uncompress",
            "optimize src e --zstdchunked",
            "verify a",
            "verify b",
            "verify d",
        ] {
            bench.ok(line);
        }
    }
}

#[test]
fn a_tar_that_ends_within_a_file_does_not_hold() {
    let tar = TarBuilder::new().file("f", vec![1; 5000]).finish();
    let bench = Bench::with(&ImageBuilder::new().layer(Layer::gzip(&tar[..2000])).build());
    let run = bench.run("verify src");
    assert_eq!(run.code, Some(1));
    assert!(run.stdout.contains("the tar ends 3512 bytes before the end of its content"), "{}", run.stdout);
}

#[test]
fn a_window_that_is_too_large_is_named_with_the_flag_for_it() {
    let tar = TarBuilder::new().file("f", "content").finish();
    let blob = RawFrame::new().window_log(28).store(&tar);
    let layer =
        Layer::blob("application/vnd.oci.image.layer.v1.tar+zstd", blob).diff_id(Digest::sha256(&tar));
    let bench = Bench::with(&ImageBuilder::new().layer(layer).build());
    let run = bench.run("cat src f");
    assert!(
        run.stderr.contains("a window of 268435456 bytes, more than the limit of 134217728"),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("hint: --max-zstd-window"), "{}", run.stderr);
    assert_eq!(bench.ok("--max-zstd-window 256MiB cat src f").stdout, "content");
}

#[test]
fn what_aufs_left_behind_is_not_listed_and_its_links_lead_to_their_files() {
    let tar = TarBuilder::new()
        .file(".wh..wh.aufs", "")
        .dir(".wh..wh.plnk/")
        .file(".wh..wh.plnk/77.1234", "the content")
        .dir("opt/")
        .hardlink("opt/linked", ".wh..wh.plnk/77.1234")
        .finish();
    let bench = Bench::with(&ImageBuilder::new().layer(Layer::gzip(tar)).build());
    bench.ok("convert src made --zstdchunked");
    for image in ["src", "made"] {
        assert_eq!(listed(&bench, image), ["opt directory 0 0755 0", "opt/linked file 11 0644 0"]);
        assert_eq!(bench.ok(&format!("cat {image} opt/linked")).stdout, "the content");
    }
}
