use std::fs;
use std::path::Path;
use std::process::Stdio;

use restow_testkit::Image;
use restow_testkit::ImageBuilder;
use restow_testkit::Layer;
use restow_testkit::TarBuilder;
use serde_json::Value;
use serde_json::json;

use crate::base;
use crate::support::Bench;
use crate::support::Run;
use crate::support::finish;

/// An image of the base and a layer of its own.
fn app(name: &str) -> Image {
    let tar = TarBuilder::new().dir("app/").file("app/name", name).finish();
    ImageBuilder::new().layer(base()).layer(Layer::gzip(tar)).build()
}

/// Layouts `a`, `b` and `c`, each with an image `v1`.
fn bench() -> Bench {
    let bench = Bench::new();
    for name in ["a", "b", "c"] {
        app(name).write_layout(&bench.path(name), "v1").unwrap();
    }
    bench
}

/// Damages a layer of an image, so that it can be found and not converted.
fn damage(bench: &Bench, name: &str) {
    let digest = app(name).document()["layers"][1]["digest"].as_str().unwrap().replace(':', "/");
    let path = bench.path(name).join("blobs").join(digest);
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
}

fn batch(bench: &Bench, jobs: &str, flags: &str) -> Run {
    bench.write("jobs", jobs);
    bench.run(&format!("batch jobs {flags}"))
}

/// Returns the lines that a batch printed.
fn lines(run: &Run) -> Vec<Value> {
    run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn fields<'a>(lines: &'a [Value], key: &str) -> Vec<&'a Value> {
    lines.iter().map(|line| &line[key]).collect()
}

fn tags(bench: &Bench) -> Vec<String> {
    let mut tags = bench.tags("out");
    tags.sort();
    tags
}

const FLAGS: &str = "--zstdchunked --platform linux/amd64";

#[test]
fn a_job_that_fails_leaves_the_others_alone() {
    let bench = bench();
    damage(&bench, "b");
    let jobs = format!(
        "# three images\noptimize a:v1 out:a {FLAGS}\n\n  optimize b:v1 'out':b {FLAGS}\n[\"copy\",\"c:v1\",\"out:c\"] \n"
    );
    let run = batch(&bench, &jobs, "--progress plain");
    assert_eq!(run.code, Some(3), "{run:?}");
    let lines = lines(&run);
    assert_eq!(fields(&lines, "job"), [1, 2, 3]);
    assert_eq!(fields(&lines, "line"), [2, 4, 5]);
    assert_eq!(fields(&lines, "ok"), [true, false, true]);
    assert_eq!(lines[2]["command"], json!(["copy", "c:v1", "out:c"]));
    let error = lines[1]["error"].as_str().unwrap();
    assert!(error.starts_with("oci:b:v1: ") && error.contains("layer 1"), "{error}");
    assert!(run.stderr.contains(&format!("\njob 2: error: {error}\n")), "{}", run.stderr);
    assert!(run.stderr.contains("job 1: oci:a:v1 -> oci:out:a: "), "{}", run.stderr);
    assert!(run.stderr.contains("\n3 jobs, 1 failed, in "), "{}", run.stderr);

    assert_eq!(tags(&bench), ["a", "c"]);
    for (line, tag) in [(0, "a"), (2, "c")] {
        assert_eq!(bench.json(&format!("inspect out:{tag} --format json"))["digest"], lines[line]["digest"]);
        bench.ok(&format!("verify out:{tag}"));
    }
}

#[test]
fn results_are_those_of_single_runs() {
    let bench = bench();
    let lists = |layout: &str| {
        [
            format!("optimize a:v1 {layout}:a {FLAGS}"),
            format!("optimize b:v1 {layout}:b --estargz --platform linux/amd64 --estargz-external-toc"),
            format!("convert c:v1 {layout}:c --gzip --platform linux/amd64"),
            format!("copy c:v1 {layout}:d --platform linux/amd64"),
        ]
    };
    let single: Vec<_> =
        lists("single").iter().map(|line| bench.ok(line).stdout.trim_end().to_owned()).collect();
    for flags in ["", "--images 4 --jobs 3 --no-cache", "--images 1 --jobs 1 --no-cache"] {
        let run = batch(&bench, &lists("many").join("\n"), flags);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert_eq!(fields(&lines(&run), "digest"), single.iter().collect::<Vec<_>>(), "{flags}");
        assert_eq!(bench.tags("many").len(), bench.tags("single").len());
        fs::remove_dir_all(bench.path("many")).unwrap();
    }
}

#[test]
fn a_layer_that_several_images_have_is_converted_once() {
    let bench = bench();
    let jobs =
        "convert a:v1 x:a --zstd --platform linux/amd64\nconvert b:v1 y:b --zstd --platform linux/amd64";
    for flags in ["--images 2 --jobs 2 --no-cache", "--images 2"] {
        let run = batch(&bench, jobs, flags);
        assert_eq!(run.code, Some(0), "{run:?}");
        let lines = lines(&run);
        let outcome = |line: usize, layer: usize| lines[line]["layers"][layer]["outcome"].as_str().unwrap();
        let mut base = [outcome(0, 0), outcome(1, 0)];
        base.sort();
        assert_eq!(base, ["cached", "converted"], "{flags}");
        assert_eq!([outcome(0, 1), outcome(1, 1)], ["converted", "converted"]);
        for image in ["x:a", "y:b"] {
            bench.ok(&format!("verify {image}"));
        }
        fs::remove_dir_all(bench.path("x")).unwrap();
        fs::remove_dir_all(bench.path("y")).unwrap();
    }
}

#[test]
fn what_was_done_is_not_done_again() {
    let bench = bench();
    damage(&bench, "b");
    let jobs: String = ["a", "b", "c"]
        .map(|name| format!("convert {name}:v1 out:{name} --zstd --platform linux/amd64\n"))
        .concat();
    let first = batch(&bench, &jobs, "");
    assert_eq!(first.code, Some(3));
    bench.write("results", &format!("{}{{\"job\":", first.stdout));
    // The second source comes to life, the others are not even looked at.
    fs::remove_dir_all(bench.path("b")).unwrap();
    app("b").write_layout(&bench.path("b"), "v1").unwrap();
    fs::remove_dir_all(bench.path("a")).unwrap();
    let second = batch(&bench, &jobs, "--resume results");
    assert_eq!(second.code, Some(0), "{second:?}");
    let (before, after) = (lines(&first), lines(&second));
    assert_eq!(fields(&after, "ok"), [true, true, true]);
    assert_eq!(fields(&after, "resumed"), [&json!(true), &Value::Null, &json!(true)]);
    assert_eq!(after[0]["layers"], before[0]["layers"]);
    assert_eq!(tags(&bench), ["a", "b", "c"]);

    // What the destination lacks is done again.
    bench.write("results", &second.stdout);
    fs::remove_dir_all(bench.path("out")).unwrap();
    let third = batch(&bench, &jobs, "--resume results");
    assert_eq!(fields(&lines(&third), "ok"), [false, true, true]);

    bench.write("results", "{}\n");
    let run = batch(&bench, &jobs, "--resume results");
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("error: results:1: this is not a line that restow batch prints"), "{run:?}");
}

#[test]
fn the_whole_file_is_checked_before_anything_is_done() {
    let bench = bench();
    let fine = "copy a:v1 out:a\n# a comment\n";
    for (line, problem) in [
        (
            "optimize b:v1 out:b",
            "the following required arguments were not provided: <--zstdchunked|--estargz>",
        ),
        ("copy b:v1", "the following required arguments were not provided: <DST>..."),
        ("verify b:v1", "unrecognized subcommand 'verify'"),
        ("copy b:v1 out:b --root x", "unexpected argument '--root' found"),
        ("copy b:v1 out:b --format json", "--format is not for a job of a batch: "),
        ("optimize b:v1 out:b --zstdchunked --run", "--run is not for a job of a batch: "),
        ("convert b:v1 out:b", "what is the image to become? --zstdchunked, "),
        (
            "convert b:v1 out:b --zstd --estargz-chunk-size 4KiB",
            "--estargz-chunk-size means something with --estargz",
        ),
        ("optimize b:v1 out:b --zstdchunked --prefetch-list none", "none: "),
        (
            "copy b:v1 containers-storage:b",
            "\"containers-storage:b\": containers-storage: is not supported yet",
        ),
        ("copy oci-archive:- out:b", "a job of a batch cannot read or write -"),
        ("copy b:v1 docker-archive:-", "a job of a batch cannot read or write -"),
        ("copy 'b:v1 out:b", "a quotation mark is missing"),
        ("[\"copy\", 1]", "expected an array of strings: "),
        ("copy b:v1 out:a", "line 1 writes a in this place, too"),
        ("copy out:a x:b", "line 1 writes what is read here"),
    ] {
        let run = batch(&bench, &format!("{fine}{line}\n"), "");
        assert_eq!((run.code, &*run.stdout), (Some(2), ""), "{line}: {run:?}");
        assert!(run.stderr.starts_with("error: jobs:3: ") && run.stderr.contains(problem), "{line}: {run:?}");
        assert!(!bench.path("out").exists(), "{line}");
    }
}

#[test]
fn images_go_into_one_new_layout_and_it_goes_if_none_does() {
    let bench = bench();
    damage(&bench, "a");
    damage(&bench, "b");
    let job = |name: &str| format!("convert {name}:v1 out:{name} --zstd --platform linux/amd64\n");
    for images in 1..=3 {
        let flags = format!("--images {images} --no-cache");
        let run = batch(&bench, &(job("a") + &job("c") + &job("b")), &flags);
        assert_eq!(fields(&lines(&run), "ok"), [false, true, false]);
        assert_eq!(bench.tags("out"), ["c"]);
        bench.ok("verify out:c");
        fs::remove_dir_all(bench.path("out")).unwrap();
        let run = batch(&bench, &(job("a") + &job("b")), &flags);
        assert_eq!(run.code, Some(3));
        assert!(!bench.path("out").exists());
    }
}

#[test]
fn after_a_failure_no_other_job_begins_if_that_is_asked_for() {
    let bench = bench();
    let jobs = "copy a:v1 out:a\ncopy none:v1 out:b\ncopy c:v1 out:c\n";
    let run = batch(&bench, jobs, "--images 1 --fail-fast --quiet");
    assert_eq!(run.code, Some(3));
    let lines = lines(&run);
    assert_eq!(fields(&lines, "ok"), [true, false, false]);
    assert_eq!(lines[2]["error"], "not begun, since job 2 has failed");
    assert_eq!(run.stderr, "job 2: error: none does not exist\n");
    assert_eq!(bench.tags("out"), ["a"]);
    assert_eq!(batch(&bench, jobs, "--images 1").code, Some(3));
    assert_eq!(bench.tags("out"), ["a", "c"]);
}

#[test]
fn jobs_come_through_standard_input_and_tell_by_json_which_they_are() {
    let bench = bench();
    bench.write("jobs", "convert a:v1 out:a --zstd --platform linux/amd64\ncopy b:v1 out:b");
    let input = Stdio::from(fs::File::open(bench.path("jobs")).unwrap());
    let mut command = bench.command(Path::new(env!("CARGO_BIN_EXE_restow")));
    let run = finish(command.args(["batch", "-", "--progress", "json"]).stdin(input));
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(fields(&lines(&run), "ok"), [true, true]);
    let events: Vec<Value> = run.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for job in [1, 2] {
        assert!(events.iter().any(|event| event["job"] == job && event["event"] == "finished"), "{job}");
    }
    assert!(events.iter().all(|event| event["job"].is_number()));
    // Nothing to do is no failure.
    assert_eq!(batch(&bench, "# nothing\n", "").code, Some(0));
}
