//! `restow store` from end to end, and images in a store as source and destination.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use restow_oci::Digest;
use restow_testkit::ImageBuilder;
use restow_testkit::Layer;
use restow_testkit::TarBuilder;
use serde_json::Value;

/// A directory of its own, gone at the end, with a layout `src` of the images `v1` and `v2`.
struct Bench(tempfile::TempDir);

#[derive(Debug)]
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Bench {
    fn new() -> Bench {
        let bench = Bench(tempfile::tempdir().unwrap());
        for tag in ["v1", "v2"] {
            let tar = TarBuilder::new().file("file", vec![7; 100_000]).file("tag", tag).finish();
            let image = ImageBuilder::new().layer(Layer::gzip(tar)).build();
            image.write_layout(&bench.path(tag), tag).unwrap();
        }
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_restow"));
        command.current_dir(self.0.path()).args(line.split_whitespace()).stdin(Stdio::null());
        command.env("XDG_DATA_HOME", self.path("data")).env("XDG_CACHE_HOME", self.path("cache"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, line: &str) -> Run {
        let output = self.command(line).output().unwrap();
        Run {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn ok(&self, line: &str) -> String {
        let run = self.run(line);
        assert_eq!(run.code, Some(0), "{line}: {run:?}");
        run.stdout.trim_end().to_owned()
    }

    /// Imports what the words say, and returns the digest.
    fn import(&self, line: &str) -> String {
        let line = self.ok(&format!("store import {line}"));
        line.split_once("  ").unwrap().0.to_owned()
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(line)).unwrap()
    }

    fn blob(&self, digest: &str) -> PathBuf {
        self.path("data/restow/store/blobs").join(digest.replace(':', "/"))
    }
}

#[test]
fn an_image_goes_in_is_converted_and_comes_out() {
    let bench = Bench::new();
    let v1 = bench.import("oci:v1 v1");
    bench.ok("store import v2:v2 example.org/two:v2 two");
    assert_eq!(bench.import("v1:v1 v1"), v1);
    let names = |line: &str| {
        let images = bench.json(line);
        let names = images.as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names("store images --format json"), "example.org/two:v2 two v1");
    assert_eq!(names("store images --format json name~=two$ name==v1"), "two v1");
    bench.ok("store images tag v1 one");

    let converted = bench.ok("optimize store:one store:seekable store:further --zstdchunked --quiet");
    assert_eq!(bench.ok("optimize v1:v1 out:v1 --zstdchunked --quiet"), converted);
    bench.ok("verify store:seekable");
    assert!(bench.ok(&format!("inspect store:@{converted}")).contains("zstd:chunked"));
    for link in ["", "--link"] {
        assert_eq!(bench.ok(&format!("store export further {link} exported:x exported:y")), converted);
        bench.ok("verify exported:y");
        fs::remove_dir_all(bench.path("exported")).unwrap();
    }
    bench.ok("store images rm v1 one seekable further");
    let removed = bench.ok("store gc");
    assert!(removed.contains(&v1) && removed.contains(&converted), "{removed}");
    assert_eq!(names("store images --format json"), "example.org/two:v2 two");
    bench.ok("verify store:two");
    assert_eq!(bench.run("verify store:one").code, Some(1));
}

#[test]
fn no_image_takes_the_name_of_another_one() {
    let bench = Bench::new();
    let names = || {
        let images = bench.json("store images --format json");
        let images = images.as_array().unwrap().iter();
        let line =
            |image: &Value| format!("{} {}", image["name"], image["target"]["digest"]).replace('"', "");
        images.map(line).collect::<Vec<_>>()
    };
    for (layout, tag) in [("debian", "12"), ("busybox", "12")] {
        let from = if layout == "debian" { "v1:v1" } else { "v2:v2" };
        bench.ok(&format!("copy {from} oci:{layout}:{tag}"));
    }
    let one = bench.ok("store import debian");
    let two = bench.ok("store import busybox:12");
    assert!(one.ends_with("  debian:12") && two.ends_with("  busybox:12"), "{one} {two}");
    let (one, two) = (one.split_once(' ').unwrap().0, two.split_once(' ').unwrap().0);
    let both = [format!("busybox:12 {two}"), format!("debian:12 {one}")];
    assert_eq!(names(), both);
    // Again is nothing new, another image is.
    bench.import("debian");
    bench.ok("copy v2:v2 oci:debian:12");
    for line in ["store import debian", "store import v1 new busybox:12"] {
        let run = bench.run(line);
        assert_eq!((run.code, run.stderr.contains("already names sha256:")), (Some(1), true), "{run:?}");
        assert!(run.stderr.contains("--force"), "{run:?}");
    }
    assert_eq!(names(), both);
    bench.ok("store import --force debian");
    assert_eq!(names()[1], format!("debian:12 {two}"));
}

#[test]
fn all_images_of_an_archive_come_in_under_their_names_and_none_is_left_out_in_silence() {
    let bench = Bench::new();
    bench.ok("copy v1:v1 docker-archive:saved.tar:debian:12");
    let line = bench.ok("store import saved.tar");
    assert!(line.ends_with("  docker.io/library/debian:12"), "{line}");
    let run = bench.run("store import oci-archive:saved.tar:12 --force");
    assert_eq!(run.code, Some(0), "{run:?}");
    bench.ok("verify store:docker.io/library/debian:12");

    bench.ok("copy v1:v1 oci:mixed:v1");
    bench.ok("copy v2:v2 oci:mixed");
    let run = bench.run("store import mixed");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.ends_with("  mixed:v1\n"), "{run:?}");
    assert!(run.stderr.contains("mixed@sha256:") && run.stderr.contains("was left out"), "{run:?}");
    let run = bench.run(&format!("store import mixed@{}", run.stderr.split(['@', ' ']).nth(2).unwrap()));
    assert_eq!((run.code, run.stderr.contains("give NAME")), (Some(1), true), "{run:?}");
}

#[test]
fn every_command_reads_and_writes_images_of_the_store() {
    let bench = Bench::new();
    let v1 = bench.import("oci:v1 v1");
    bench.ok("optimize store:v1 store:seekable --zstdchunked --quiet");
    bench.ok("convert store:v1 store:plain --uncompress --quiet");
    assert_eq!(bench.ok("copy store:v1 store:copied --quiet"), v1);
    assert_eq!(bench.ok("copy store:v1 oci:out:v1 --quiet"), v1);
    assert_eq!(bench.ok("copy oci:out:v1 store:back --quiet"), v1);
    for name in ["v1", "seekable", "plain", "copied", "back"] {
        bench.ok(&format!("inspect store:{name}"));
        bench.ok(&format!("verify store:{name}"));
        assert!(bench.ok(&format!("ls store:{name}")).contains("tag"));
        assert_eq!(bench.ok(&format!("cat store:{name} tag")), "v1");
    }
    assert!(bench.ok("toc-digest store:seekable").contains("sha256:"));
    bench.ok("predict store:v1");
    assert!(bench.ok("index synthesize store:v1").contains(&v1));
}

#[test]
fn a_blob_has_a_life_of_its_own() {
    let bench = Bench::new();
    let run = bench.run("store ls");
    assert_eq!((run.code, run.stderr.contains("does not exist")), (Some(1), true), "{run:?}");
    assert!(!bench.path("data").exists());

    fs::write(bench.path("file"), "content").unwrap();
    let digest = bench.ok("store ingest file --label a=b");
    assert_eq!(bench.ok(&format!("store ingest file --expected-digest {digest} --label c=d")), digest);
    assert_eq!(bench.ok(&format!("store cat {digest}")), "content");
    let info = bench.json(&format!("store info {digest}"));
    assert_eq!(
        (&info["size"], &info["labels"]["a"], &info["labels"]["c"]),
        (&7.into(), &"b".into(), &"d".into())
    );
    assert!(bench.ok("store ls labels.a==b").contains(&digest));
    assert!(!bench.ok("store ls labels.a==c").contains(&digest));
    let run = bench.run("store ls a=b");
    assert_eq!((run.code, run.stderr.contains("malformed at byte 2")), (Some(1), true), "{run:?}");

    assert_eq!(bench.ok("store gc"), "");
    let info = bench.json(&format!("store label {digest} containerd.io/gc.root= a=z"));
    assert_eq!(info["labels"], serde_json::json!({ "a": "z", "c": "d" }));
    bench.ok(&format!("store leases create lease {digest} --expires 1h"));
    assert_eq!(bench.json("store leases --format json")[0]["blobs"][0], digest);
    assert_eq!(bench.ok("store gc"), "");
    bench.ok("store leases rm lease");
    assert_eq!(bench.ok("store gc --dry-run"), digest);
    assert_eq!(bench.ok("store gc"), digest);
    assert!(!bench.blob(&digest).exists());
    assert_eq!(bench.run(&format!("store rm {digest}")).code, Some(1));
}

#[test]
fn programs_that_ingest_the_same_all_succeed() {
    let bench = Bench::new();
    fs::write(bench.path("file"), vec![5; 3_000_000]).unwrap();
    let programs: Vec<_> = (0..8)
        .map(|number| {
            let key = if number % 2 == 0 { format!("--ref key-{number}") } else { String::new() };
            bench.command(&format!("store ingest file {key}")).spawn().unwrap()
        })
        .collect();
    for program in programs {
        let output = program.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(bench.json("store ls --format json").as_array().unwrap().len(), 1);
    assert_eq!(bench.json("store status --format json"), serde_json::json!([]));
    bench.ok("store scrub");
}

#[test]
fn a_program_does_not_wait_for_another_one_that_brings_in_the_same() {
    let bench = Bench::new();
    let ingest = || bench.command("store ingest").stdin(Stdio::piped()).spawn().unwrap();
    let mut first = ingest();
    let mut input = first.stdin.take().unwrap();
    input.write_all(b"con").unwrap();
    // Until it is under way.
    while bench.run("store status --format json").stdout.len() < 10 {
        assert!(first.try_wait().unwrap().is_none());
    }
    // It would not be given up, as old as it may be.
    assert_eq!(
        bench.json("store gc --format json --dry-run --ingest-age 0")["ingests"],
        serde_json::json!([])
    );
    let mut second = ingest();
    second.stdin.take().unwrap().write_all(b"content").unwrap();
    let second = second.wait_with_output().unwrap();
    assert!(second.status.success(), "{second:?}");
    input.write_all(b"tent").unwrap();
    drop(input);
    let first = first.wait_with_output().unwrap();
    assert_eq!((first.status.success(), &first.stdout), (true, &second.stdout), "{first:?}");
    assert_eq!(bench.json("store status --format json"), serde_json::json!([]));
}

/// Each in processes of its own, as long as it takes.
#[test]
fn collections_take_nothing_from_programs_that_bring_something_in() {
    let bench = Bench::new();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for _ in 0..5 {
                bench.import("v1 v1");
                bench.ok("optimize store:v1 store:seekable --zstdchunked --quiet --no-cache");
                for name in ["v1", "seekable"] {
                    bench.ok(&format!("verify store:{name}"));
                    bench.ok(&format!("store images rm {name}"));
                }
            }
        });
        while !writer.is_finished() {
            let run = bench.run("store gc --ingest-age 0");
            assert!(run.code == Some(0) || run.stderr.contains("does not exist"), "{run:?}");
        }
    });
    bench.ok("store gc");
    assert_eq!(bench.json("store ls --format json"), serde_json::json!([]));
}

#[test]
fn an_ingest_goes_on_with_the_same_input_alone() {
    let bench = Bench::new();
    for (name, bytes) in
        [("one", "first content"), ("two", "other content"), ("long", "first content, longer")]
    {
        fs::write(bench.path(name), bytes).unwrap();
    }
    let other = format!("sha256:{}", "0".repeat(64));
    let interrupt = || {
        assert_eq!(bench.run(&format!("store ingest one --ref m --expected-digest {other}")).code, Some(1));
    };
    interrupt();
    let run = bench.run("store ingest two --ref m");
    assert_eq!((run.code, run.stderr.contains("does not begin with what")), (Some(1), true), "{run:?}");
    let digest = bench.ok("store ingest one --ref m");
    assert_eq!(bench.ok(&format!("store cat {digest}")), "first content");
    bench.ok(&format!("store rm {digest}"));
    // Of another length it is another blob, which starts anew.
    interrupt();
    let digest = bench.ok("store ingest long --ref m");
    assert_eq!(bench.ok(&format!("store cat {digest}")), "first content, longer");
}

#[test]
fn an_ingest_that_failed_is_listed_taken_up_or_given_up() {
    let bench = Bench::new();
    fs::write(bench.path("file"), "content").unwrap();
    let other = format!("sha256:{}", "0".repeat(64));
    let run = bench.run(&format!("store ingest file --ref key --expected-digest {other}"));
    assert_eq!((run.code, run.stderr.contains("expected blob sha256:0000")), (Some(1), true), "{run:?}");
    let status = bench.json("store status --format json ref==key");
    assert_eq!((&status[0]["ref"], &status[0]["offset"]), (&"key".into(), &7.into()));
    // Nothing was lost, so that nothing is left to write.
    let digest = bench.ok("store ingest file --ref key");
    assert_eq!(bench.ok(&format!("store cat {digest}")), "content");
    bench.run(&format!("store ingest file --ref key --expected-digest {other}"));
    bench.ok("store abort key");
    assert_eq!(bench.json("store status --format json"), serde_json::json!([]));
    assert_eq!(bench.run("store abort key").code, Some(1));
}

#[test]
fn what_has_rotted_is_put_away_and_brought_in_again() {
    let bench = Bench::new();
    bench.import("v1 v1");
    let config = bench.json("inspect store:v1 --format json");
    assert!(config.is_object());
    bench.ok("store scrub");
    fs::write(bench.path("file"), "content").unwrap();
    let digest = bench.ok("store ingest file");
    fs::remove_file(bench.blob(&digest)).unwrap();
    fs::write(bench.blob(&digest), "conTent").unwrap();
    // Nothing of it gets out.
    let run = bench.run(&format!("store cat {digest}"));
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
    for line in ["store scrub --dry-run", "store scrub"] {
        let run = bench.run(line);
        assert_eq!((run.code, run.stdout.trim_end()), (Some(1), digest.as_str()), "{run:?}");
    }
    assert!(bench.path("data/restow/store/quarantine").join(digest.replace(':', "/")).exists());
    // Whoever it belongs to.
    let foreign = bench.ok("store --namespace other ingest file");
    fs::remove_file(bench.blob(&foreign)).unwrap();
    fs::write(bench.blob(&foreign), "conTent").unwrap();
    let run = bench.run("store scrub");
    assert_eq!((run.code, run.stdout.trim_end()), (Some(1), foreign.as_str()), "{run:?}");
    bench.ok("store scrub");
    bench.ok("store ingest file");
    assert_eq!(bench.ok(&format!("store cat {digest}")), "content");
}

#[test]
fn namespaces_and_roots_are_apart() {
    let bench = Bench::new();
    bench.import("v1 v1");
    bench.ok("store --namespace other import v2 v2");
    bench.ok("--root elsewhere store import v2 name");
    assert_eq!(bench.json("store images --format json").as_array().unwrap().len(), 1);
    assert_eq!(bench.json("store images --namespace other --format json")[0]["name"], "v2");
    assert_eq!(bench.json("store images --root elsewhere --format json")[0]["name"], "name");
    bench.ok("verify --root elsewhere store:name");
    bench.ok("store gc");
    assert_eq!(bench.json("store ls --namespace other --format json").as_array().unwrap().len(), 3);
}

/// Whether the source was read is told by one that has rotted.
#[test]
fn a_copy_between_layouts_shares_files_where_it_is_told_to() {
    let bench = Bench::new();
    for line in ["copy oci:v1:v1 oci:copied:v1", "copy --link oci:v1:v1 oci:linked:v1"] {
        bench.ok(line);
    }
    bench.ok("verify copied:v1");
    bench.ok("verify linked:v1");
    let mut blobs = fs::read_dir(bench.path("v1/blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
    // The only one that is gzip.
    let layer = blobs.find(|path| fs::read(path).unwrap().starts_with(b"\x1f\x8b")).unwrap();
    let inode = |layout: &str| {
        let name = Path::new("blobs/sha256").join(layer.file_name().unwrap());
        fs::metadata(bench.path(layout).join(name)).unwrap().ino()
    };
    assert_ne!(inode("copied"), inode("v1"));

    let mut bytes = fs::read(&layer).unwrap();
    bytes[20] ^= 1;
    fs::write(&layer, bytes).unwrap();
    let run = bench.run("copy oci:v1:v1 oci:verified:v1");
    assert_eq!((run.code, run.stderr.contains("expected blob")), (Some(1), true), "{run:?}");
    assert!(!bench.path("verified").exists());
    bench.ok("copy --link oci:v1:v1 oci:unread:v1");
    assert_eq!(bench.run("verify unread:v1").code, Some(1));
}

#[test]
fn a_directory_without_a_database_is_used_as_it_is() {
    let bench = Bench::new();
    fs::write(bench.path("file"), "content").unwrap();
    let before = bench.json("store ls --plain --root v1 --format json");
    assert_eq!(before.as_array().unwrap().len(), 3);
    let digest = bench.ok("store ingest --plain --root v1 file");
    // No mark of ours.
    assert!(!bench.path("v1/labels").exists());
    assert_eq!(bench.ok(&format!("store cat --plain --root v1 {digest}")), "content");
    bench.ok("store scrub --plain --root v1");
    bench.ok(&format!("store rm --plain --root v1 {digest}"));
    assert_eq!(bench.json("store ls --plain --root v1 --format json"), before);
    assert!(!bench.path("v1/metadata.db").exists() && !bench.path("v1/lock").exists());
    assert_eq!(bench.run("store gc --plain --root v1").code, Some(2));
    assert_eq!(bench.run("store ls --plain --root nowhere").code, Some(1));
}

#[test]
fn a_lost_database_is_told_of() {
    let bench = Bench::new();
    let digest = bench.import("v1 v1");
    fs::write(bench.path("file"), "content").unwrap();
    let alone = bench.ok("store ingest file");
    let lose = || fs::remove_file(bench.path("data/restow/store/metadata.db")).unwrap();
    lose();
    // What nothing refers to may be dear to somebody.
    assert_eq!(bench.ok("store gc"), "");
    assert_eq!(bench.ok(&format!("store cat {alone}")), "content");
    lose();
    let run = bench.run("store images");
    assert!(run.stderr.contains("1 blob that nothing refers to"), "{run:?}");
    assert!(run.stderr.contains("names are lost, 1 image found"), "{run:?}");
    assert!(run.stdout.contains(&format!("recovered@{digest}")), "{run:?}");
    assert_eq!(bench.ok("store gc"), "");
    bench.ok(&format!("store images tag recovered@{digest} v1"));
    bench.ok("verify store:v1");
}

#[test]
fn the_command_line_is_held_to_sense() {
    let bench = Bench::new();
    bench.import("v1 v1");
    let lease = format!("store leases create x sha256:{}", "0".repeat(64));
    for (line, code, words) in [
        ("optimize v1:v1 store: --zstdchunked", 2, "needs a name"),
        ("optimize v1:v1 store:a out:b --zstdchunked", 2, "is not in store:"),
        ("store import store:v1 x", 2, "is in the store already"),
        ("store export v1 store:x", 2, "is in the store already"),
        ("store import v1:nothing", 1, "holds no image"),
        ("store export nothing out", 1, "holds no image"),
        ("store import v1:v1 :name", 2, "is not a tag"),
        ("store leases create x --expires 1", 2, "expected a time"),
        ("store cat sha256:abc", 2, "64 lower-case"),
        ("store ls --namespace a/b", 2, "is no name for a namespace"),
        ("store images rm v1 nothing", 1, "not found"),
        (&lease, 1, "not found"),
    ] {
        let run = bench.run(line);
        assert_eq!((run.code, run.stderr.contains(words)), (Some(code), true), "{line}: {run:?}");
    }
    assert!(!bench.path("out").exists());
    // What failed has done nothing.
    assert_eq!(bench.json("store images --format json").as_array().unwrap().len(), 1);
    assert_eq!(bench.json("store leases --format json"), serde_json::json!([]));
}

/// A layout that somebody else made may lead anywhere.
#[test]
fn a_copy_leaves_alone_what_links_in_a_layout_lead_to() {
    let bench = Bench::new();
    // What else lies there must be a layout.
    bench.ok("copy oci:v2:v2 oci:out:v2");
    fs::create_dir_all(bench.path("victim")).unwrap();
    fs::create_dir_all(bench.path("out/ingest")).unwrap();
    for name in ["data", "ref", "precious"] {
        fs::write(bench.path("victim").join(name), "precious").unwrap();
    }
    for entry in fs::read_dir(bench.path("v1/blobs/sha256")).unwrap() {
        let blob = entry.unwrap().file_name().into_string().unwrap();
        for kind in ["adopt", "copy", "write"] {
            let key = Digest::sha256(format!("{kind}-sha256:{blob}").as_bytes());
            symlink("../../victim", bench.path("out/ingest").join(key.encoded())).unwrap();
        }
    }
    for line in ["copy oci:v1:v1 oci:out:v1", "copy --link oci:v1:v1 oci:out:v1"] {
        let run = bench.run(line);
        assert_eq!((run.code, run.stderr.contains("cannot open directory")), (Some(1), true), "{run:?}");
    }
    for name in ["data", "ref", "precious"] {
        assert_eq!(fs::read_to_string(bench.path("victim").join(name)).unwrap(), "precious");
    }
}
