//! Registries: as sources and destinations, and what is said of them.

use std::process::Child;
use std::process::Stdio;

use restow_testkit::IndexBuilder;
use restow_testkit::Registry;
use restow_testkit::registry::Answer;
use serde_json::json;

use super::*;
use crate::support::Run;

fn index() -> Image {
    IndexBuilder::new()
        .image(&image())
        .image(&ImageBuilder::new().platform("linux/arm64").layer(base()).build())
        .build()
}

#[test]
fn an_image_goes_round_through_every_kind_of_place_with_its_digest() {
    let registry = Registry::start();
    let index = index();
    let bench = Bench::with(&index);
    let host = registry.host();
    let digest = format!("{}\n", index.root.digest);
    for (source, destination) in [
        ("oci:src:v1".to_owned(), format!("docker://{host}/a/b:v1")),
        (format!("docker://{host}/a/b:v1"), format!("docker://{host}/c:v2")),
        (format!("docker://{host}/c:v2"), "oci-archive:x.tar:v1".to_owned()),
        ("x.tar:v1".to_owned(), "oci:back:v1".to_owned()),
        (format!("docker://{host}/c@{}", index.root.digest), "oci:back:v2".to_owned()),
    ] {
        let run = bench.ok(&format!("copy {source} {destination}"));
        assert_eq!(run.stdout, digest, "{source} {destination}");
    }
    assert_eq!(registry.manifest("c", "v2").as_deref(), Some(index.root_bytes()));
    assert_eq!(bench.tags("back"), ["v1", "v2"]);
    bench.ok("verify oci:back:v1");
    bench.ok(&format!("verify docker://{host}/c:v2"));
    bench.ok(&format!("inspect docker://{host}/c:v2"));
}

#[test]
fn one_platform_is_copied_as_its_own_image() {
    let bench = Bench::with(&index());
    let run = bench.ok("copy --platform linux/arm64 oci:src:v1 oci:out:v1");
    assert_eq!(bench.index("out")["manifests"][0]["digest"], run.stdout.trim());
    let told = "oci:out:v1 leaves out linux/amd64\n";
    assert!(run.stderr.contains(told) && !run.stderr.contains("warning: "), "{}", run.stderr);
    let document = bench.json("copy --platform linux/arm64 oci:src:v1 oci:out:v1 --format json");
    let left_out = json!([{"manifest": image().root.digest.as_str(), "platform": "linux/amd64"}]);
    assert_eq!(document["leftOut"], left_out);
    let run = bench.run("copy --platform linux/arm64,linux/amd64 oci:src:v1 oci:out:v1");
    assert_eq!(run.code, Some(2), "{run:?}");
    let saved = bench.ok("copy --platform linux/arm64 oci:src:v1 docker-archive:saved.tar:example.org/a:v1");
    assert_eq!(saved.stdout, run_digest(&bench));
    bench.ok("verify docker-archive:saved.tar:example.org/a:v1");
    // A docker archive holds one image, so there is a choice to make. The host may be of either platform.
    let all = bench.run("copy --all-platforms oci:src:v1 docker-archive:all.tar:example.org/a:v1");
    assert_eq!(all.code, Some(1), "{all:?}");
    let prefer = bench.ok("copy oci:src:v1 docker-archive:host.tar:example.org/a:v1").stderr;
    let told = "warning: docker-archive:host.tar:example.org/a:v1 leaves out linux/";
    assert!(prefer.contains(told) && prefer.contains(": a docker archive holds one image\n"), "{prefer}");
}

fn run_digest(bench: &Bench) -> String {
    format!("{}\n", bench.index("out")["manifests"][0]["digest"].as_str().unwrap())
}

#[test]
fn archives_go_through_pipes() {
    let bench = Bench::with(&image());
    let mut pack = bench.command(Path::new(env!("CARGO_BIN_EXE_restow")));
    let mut pack =
        pack.args(["copy", "oci:src:v1", "oci-archive:-:v1"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut unpack = bench.command(Path::new(env!("CARGO_BIN_EXE_restow")));
    let unpack = unpack.args(["copy", "oci-archive:-:v1", "oci:out:v2"]).stdin(pack.stdout.take().unwrap());
    let run = finish(unpack);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(pack.wait().unwrap().success());
    assert_eq!(run.stdout, format!("{}\n", image().root.digest));
    bench.ok("verify oci:out:v2");
}

#[test]
fn nothing_but_the_archive_goes_to_stdout() {
    let bench = Bench::with(&image());
    for command in ["copy", "optimize --zstdchunked", "optimize --zstdchunked --format json"] {
        let mut restow = bench.command(Path::new(env!("CARGO_BIN_EXE_restow")));
        let restow = restow.args(command.split(' ')).args(["oci:src:v1", "oci-archive:-:v1"]);
        let output = restow.output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        assert_eq!(output.stdout.len() % 512, 0, "{command}: a tar and something else");
        assert!(output.stdout.ends_with(&[0; 1024]), "{command}");
    }
}

#[test]
fn a_conversion_from_registry_to_registry_gives_what_one_on_disk_gives() {
    let registry = Registry::start();
    registry.put("src", "v1", &image());
    let bench = Bench::with(&image());
    let local = bench.ok(OPTIMIZE);
    let host = registry.host();
    let line = format!(
        "optimize docker://{host}/src:v1 docker://{host}/out:v1 --zstdchunked --platform linux/amd64 --registry-stats"
    );
    let remote = bench.ok(&line);
    assert_eq!(remote.stdout, local.stdout);
    assert!(remote.stderr.contains("requests to registries"), "{}", remote.stderr);
    bench.ok(&format!("verify docker://{host}/out:v1"));
    // What it was made of can be said beside it, and is found by its digest.
    registry.list_referrers();
    bench.ok(&format!("{line} --attach-provenance"));
    let root = digest_of(&remote.stdout);
    let client = bench.json(&format!("copy --referrers --format json docker://{host}/out:v1 oci:with:v1"));
    assert_eq!(
        (client["digest"].as_str(), client["referrers"].as_array().map(Vec::len)),
        (Some(root), Some(1))
    );
    // Again: layers are recalled where the registry has them, and what the tag means is looked at.
    registry.take_lines();
    let again = bench.ok(&line);
    assert_eq!(again.stdout, local.stdout);
    let lines = registry.take_lines();
    let count = |start: &str| lines.iter().filter(|line| line.starts_with(start)).count();
    // The manifest, its config and its referrers; a look for each new layer and at the tag.
    assert_eq!((count("GET /v2/src/manifests/"), count("GET /v2/src/blobs/")), (1, 1), "{lines:#?}");
    assert_eq!((count("HEAD /v2/out/blobs/"), count("HEAD /v2/out/manifests/")), (2, 1), "{lines:#?}");
    assert_eq!((count("GET /v2/src/referrers/"), lines.len()), (1, 6), "{lines:#?}");
}

#[test]
fn uploads_are_told_of_while_a_conversion_goes_on() {
    let registry = Registry::start();
    let noise = restow_testkit::Random::new(1).bytes(300_000);
    let tar = TarBuilder::new().file("noise", noise).finish();
    registry.put("src", "v1", &ImageBuilder::new().layer(Layer::gzip(tar)).build());
    let host = registry.host();
    let bench = Bench::new();
    let line = format!("optimize docker://{host}/src:v1 docker://{host}/out:v1 --zstdchunked --no-optimize");
    let plain = bench.ok(&format!("{line} --progress plain --no-cache"));
    assert!(plain.stderr.lines().any(|line| line.starts_with("upload ")), "{}", plain.stderr);
    let line = line.replace("/out:", "/other:");
    let json = bench.ok(&format!("{line} --progress json --no-cache"));
    let events: Vec<Value> = json.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let upload = events.iter().find(|event| event["event"] == "upload finished").unwrap();
    assert_eq!(upload["read"], upload["size"]);
    // Who may not write hears of it, and the source's referrers are no business of his.
    registry.intercept(|request| (request.method == "POST").then(|| Answer::error(403, "DENIED")));
    let run = bench.run(&format!("{} --no-cache", line.replace("/other:", "/third:")));
    assert!(run.code == Some(1) && run.stderr.contains("403, DENIED"), "{run:?}");
}

#[test]
fn requests_are_told_by_host_and_kind() {
    let (from, to) = (Registry::start(), Registry::start());
    from.put("a", "v1", &image());
    let bench = Bench::new();
    let copy = format!("copy docker://{}/a:v1 docker://{}/a:v1 --registry-stats", from.host(), to.host());
    let mut expected = vec![
        format!("{}  blob get  3", from.host()),
        format!("{}  manifest get  1", from.host()),
        // The registry is not known to look for the parts of a manifest, so it is asked for each.
        format!("{}  blob head  3", to.host()),
        format!("{}  manifest head  1", to.host()),
        format!("{}  manifest put  1", to.host()),
        format!("{}  upload  6", to.host()),
    ];
    let told = |run: &Run| -> Vec<String> {
        let lines = run.stderr.lines().filter(|line| line.contains("  ") || line.contains("requests to"));
        let mut lines: Vec<_> = lines.map(str::to_owned).collect();
        lines.sort();
        lines
    };
    expected.push("15 requests to registries".to_owned());
    expected.sort();
    assert_eq!(told(&bench.ok(&copy)), expected);
    let local = Bench::with(&image());
    let run = local.ok(&format!("copy oci:src:v1 docker://{}/a:v1 --registry-stats", to.host()));
    assert!(run.stderr.contains("\n1 request to registries\n"), "{}", run.stderr);
}

fn digest_of(stdout: &str) -> &str {
    stdout.trim()
}

#[test]
fn referrers_come_along_when_asked_for() {
    let (registry, other) = (Registry::start(), Registry::start());
    other.list_referrers();
    registry.put("a", "v1", &image());
    let root = image().root;
    let subject =
        json!({"mediaType": root.media_type.as_str(), "digest": root.digest.as_str(), "size": root.size});
    let signature = ImageBuilder::new().manifest_field("subject", subject).build();
    registry.list_referrers();
    registry.put("a", "signature", &signature);
    let bench = Bench::new();
    let (from, to) = (registry.host(), other.host());
    let document =
        bench.json(&format!("copy --referrers --format json docker://{from}/a:v1 docker://{to}/a:v1"));
    assert_eq!(document["referrers"], json!([signature.root.digest.as_str()]));
    assert_eq!(other.manifest("a", signature.root.digest.as_str()).as_deref(), Some(signature.root_bytes()));
    // Through every kind of place that has room for them, and back.
    for places in [
        ["oci:out:v1", "oci:out:v1"],
        ["oci-archive:out.tar:v1", "out.tar:v1"],
        ["store:v1 --root store", "store:v1 --root store"],
    ] {
        let [there, back] = places;
        bench.ok(&format!("copy --referrers docker://{from}/a:v1 {there}"));
        let last = Registry::start();
        bench.ok(&format!("copy --referrers {back} docker://{}/a:v1", last.host()));
        assert!(last.manifest("a", signature.root.digest.as_str()).is_some(), "{there}");
    }
    bench.ok("store gc --root store");
    bench.ok("copy --referrers store:v1 --root store oci:kept:v1");
    assert_eq!(bench.index("kept")["manifests"].as_array().unwrap().len(), 2);
    let run = bench.run(&format!("copy --referrers docker://{from}/a:v1 docker-archive:out.tar:v1"));
    assert!(run.code == Some(2) && run.stderr.contains("has no place for what refers"), "{run:?}");
}

#[test]
fn what_refers_to_an_image_of_an_index_comes_along_too() {
    for lists in [true, false] {
        let (registry, other) = (Registry::start(), Registry::start());
        if lists {
            registry.list_referrers();
            other.list_referrers();
        }
        registry.put("a", "v1", &index());
        let root = image().root;
        let subject =
            json!({"mediaType": root.media_type.as_str(), "digest": root.digest.as_str(), "size": root.size});
        let signature = ImageBuilder::new().manifest_field("subject", subject).build();
        let bench = Bench::with(&signature);
        // By a tool that keeps the list where the registry does not.
        bench.ok(&format!("copy oci:src:v1 docker://{}/a:signature", registry.host()));
        let (from, to) = (registry.host(), other.host());
        let copy = format!("docker://{from}/a:v1 docker://{to}/a:v1 --all-platforms");
        let run = bench.ok(&format!("copy --referrers {copy}"));
        assert!(run.stderr.contains(" with 1 referrer in "), "{}", run.stderr);
        let digest = signature.root.digest.as_str();
        assert_eq!(other.manifest("a", digest).as_deref(), Some(signature.root_bytes()));
        // It is attached there: to what it is about, whether that is there or not.
        let convert = copy.replace("a:v1 --all", "b:v1 --zstdchunked --all");
        let run = bench.ok(&format!("optimize {convert} --no-optimize"));
        assert!(
            run.stderr.contains(&format!("1 referrer of {} stay with it", root.digest)),
            "{}",
            run.stderr
        );
        let run = bench.ok(&format!("optimize {convert} --no-optimize --copy-referrers"));
        assert!(run.stderr.contains("copied 1 referrer"), "{}", run.stderr);
        assert_eq!(other.manifest("b", digest).as_deref(), Some(signature.root_bytes()), "lists: {lists}");
        let fallback = other.manifest("b", &root.digest.as_str().replace(':', "-"));
        let fallback = fallback.map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(fallback.is_some_and(|index| index.contains(digest)), !lists);
    }
}

#[test]
fn what_refers_to_the_source_of_a_conversion_and_to_its_result_goes_where_that_goes() {
    let registry = Registry::start();
    registry.list_referrers();
    registry.put("a", "v1", &image());
    let root = image().root;
    let subject =
        json!({"mediaType": root.media_type.as_str(), "digest": root.digest.as_str(), "size": root.size});
    registry.put("a", "signature", &ImageBuilder::new().manifest_field("subject", subject).build());
    let bench = Bench::new();
    let host = registry.host();
    for (there, back) in [
        ("oci:out:v1", "oci:out"),
        ("oci-archive:out.tar:v1", "oci-archive:out.tar"),
        ("store:v1 --root store", "store:"),
    ] {
        let run = bench.ok(&format!("optimize docker://{host}/a:v1 {there} --zstdchunked"));
        assert!(run.stderr.contains("1 referrer of sha256:"), "{}", run.stderr);
        let options = "--zstdchunked --copy-referrers --attach-provenance";
        let run = bench.ok(&format!("optimize docker://{host}/a:v1 {there} {options}"));
        assert!(run.stderr.contains("copied 1 referrer"), "{}", run.stderr);
        if there.starts_with("store:") {
            bench.ok("store gc --root store");
        }
        let json = |digest: &str| {
            let from = format!("{back}@{digest}");
            bench.json(&format!("copy --referrers --root store --format json {from} oci:copied:v1"))
        };
        // Its own is the provenance; the signature is the source's, which is not there itself.
        let own = json(run.stdout.trim());
        assert_eq!(own["referrers"].as_array().map(Vec::len), Some(1), "{there}");
        let other = bench.run(&format!("inspect {back}@{} --root store", root.digest));
        assert_eq!(other.code, Some(1), "{there}");
    }
    let index = bench.index("out");
    let entries = index["manifests"].as_array().unwrap();
    let about_source = |entry: &Value| {
        let digest = entry["digest"].as_str().unwrap().replace(':', "/");
        let text = fs::read_to_string(bench.path("out/blobs").join(digest)).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["subject"]["digest"] == root.digest.as_str()
    };
    assert_eq!(entries.iter().filter(|entry| about_source(entry)).count(), 1);
}

#[test]
fn indexes_are_made_of_references_in_their_order() {
    let registry = Registry::start();
    registry.put("a", "v1", &image());
    registry.put("a", "v2", &index());
    let bench = Bench::with(&index());
    let host = registry.host();
    bench.write("refs", &format!("{host}/a:v2\n\n{host}/a:none\n"));
    let run = bench.ok(&format!("index synthesize {host}/a:v1 oci:src:v1 oci:src:v9 --from refs"));
    let lines: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let counts: Vec<_> = lines.iter().map(|line| line["manifests"].as_array().map(Vec::len)).collect();
    assert_eq!(counts, [Some(1), Some(2), None, Some(2), None]);
    let name = |line: &Value| line["annotations"]["org.opencontainers.image.ref.name"].clone();
    assert_eq!(name(&lines[0]), format!("{host}/a:v1@{}", image().root.digest));
    assert_eq!(name(&lines[1]), format!("oci:src:v1@{}", index().root.digest));
}

#[test]
fn one_reference_that_fails_costs_no_other_its_index() {
    let registry = Registry::start();
    registry.put("a", "v1", &image());
    registry.put_manifest("a", Some("odd"), "application/x", b"{\"mediaType\":\"application/x\"}");
    let bench = Bench::new();
    let host = registry.host();
    let run = bench.run(&format!("index synthesize {host}/a:odd {host}/a:v1 a:b:c {host}/a:v1"));
    assert_eq!(run.code, Some(3), "{run:?}");
    let lines: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let there: Vec<_> = lines.iter().map(|line| !line.is_null()).collect();
    assert_eq!(there, [false, true, false, true]);
    for problem in ["a:odd: cannot make an index of", "error: a:b:c: "] {
        assert!(run.stderr.contains(problem), "{}", run.stderr);
    }
    // A registry that refuses to tell may have nothing, or much.
    registry.require_password("user", "right");
    bench
        .write("auth.json", &format!(r#"{{"auths":{{"{host}":{{"username":"user","password":"wrong"}}}}}}"#));
    let run = bench.ok(&format!("index synthesize {host}/a:v1 --authfile auth.json"));
    assert_eq!(run.stdout, "null\n");
    assert!(run.stderr.contains("warning: ") && run.stderr.contains("401"), "{}", run.stderr);
    registry.intercept(|_| Some(Answer::error(403, "DENIED")));
    let run = bench.ok(&format!("index synthesize {host}/a:v1 --authfile auth.json"));
    assert!(run.stdout == "null\n" && run.stderr.contains("403"), "{run:?}");
}

#[test]
fn indexes_are_made_of_every_kind_of_place_and_with_other_words() {
    let bench = Bench::with(&index());
    bench.ok("copy --all-platforms oci:src:v1 oci-archive:a.tar:v1");
    bench.ok("copy --platform linux/arm64 oci:src:v1 docker-archive:d.tar:example.org/a:v1");
    bench.ok("copy --all-platforms oci:src:v1 store:a:v1 --root store");
    let mut restow = bench.command(Path::new(env!("CARGO_BIN_EXE_restow")));
    let options =
        "--architecture-key arch --architecture wide=linux/arm64 --architecture old=linux/386 --root store";
    let restow = restow.args(["index", "synthesize", "--from", "-"]).args(options.split(' '));
    let mut child = restow.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let references =
        ["oci:src:v1", "oci-archive:a.tar:v1", "docker-archive:d.tar:example.org/a:v1", "store:a:v1"];
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), references.join("\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let made: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(made.len(), references.len());
    for (index, reference) in made.iter().zip(references) {
        let entries = index["manifests"].as_array().unwrap();
        let place = index["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap();
        assert!(place.starts_with(&format!("{reference}@sha256:")), "{place}");
        // Only what was asked for has a word, and only under the key that was asked for.
        let words: Vec<_> = entries.iter().map(|entry| entry["annotations"]["arch"].as_str()).collect();
        let expected = [None, Some("wide")];
        assert_eq!(words, expected[2 - entries.len()..], "{reference}");
        assert!(!index.to_string().contains("bashbrew"), "{index}");
    }
}

#[test]
fn a_deployed_tag_is_told_with_the_digest_that_was_pushed() {
    let registry = Registry::start();
    registry.put("a", "v1", &image());
    let host = registry.host();
    let bench = Bench::new();
    let copy =
        json!({"type": "manifest", "refs": [format!("{host}/b:v1")], "lookup": {"": format!("{host}/a:v1")}});
    bench.write("input", &copy.to_string());
    let done = bench.json("deploy input");
    let digest = image().root.digest;
    assert_eq!(done["digest"], digest.as_str());
    assert_eq!(done["refs"], json!([format!("{host}/b:v1@{digest}")]));
}

#[test]
fn a_deployment_is_done_or_said_to_be_pending() {
    let registry = Registry::start();
    registry.put("a", "v1", &image());
    let host = registry.host();
    let bench = Bench::new();
    let copy =
        json!({"type": "manifest", "refs": [format!("{host}/b:v1")], "lookup": {"": format!("{host}/a:v1")}});
    let wrong = json!({"type": "manifest", "refs": [format!("{host}/b:v2")], "lookup": {"": format!("{host}/none:v1")}});
    bench.write("input", &format!("{copy}\n"));
    let dry = bench.ok("deploy --dry-run input");
    assert!(dry.stdout.contains("/b:v1"), "{}", dry.stdout);
    assert_eq!(registry.manifest("b", "v1"), None);
    let done = bench.ok("deploy input");
    assert!(done.stdout.contains("/b:v1"), "{}", done.stdout);
    assert_eq!(registry.manifest("b", "v1").as_deref(), Some(image().root_bytes()));
    assert_eq!(bench.ok("deploy --dry-run input").stdout, "");
    bench.write("input", &format!("{wrong}{copy}"));
    let run = bench.run("deploy input");
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.stderr.contains("/none:v1 not found"), "{}", run.stderr);
    bench.write("input", "{\"type\":\"x\",\"refs\":[\"a\"]}");
    assert_eq!(bench.run("deploy input").code, Some(1));
}

#[test]
fn what_a_registry_has_lost_is_sent_again_when_asked() {
    let (registry, source) = (Registry::start(), Registry::start());
    source.put("a", "v1", &image());
    let bench = Bench::with(&image());
    let host = registry.host();
    let deployment = json!({
        "type": "manifest",
        "refs": [format!("{host}/deploy:v1")],
        "lookup": {"": format!("{}/a:v1", source.host())},
    });
    bench.write("input", &deployment.to_string());
    bench.write("jobs", &format!("copy oci:src:v1 docker://{host}/batch:v1"));
    bench.write("jobs.2", &format!("copy --repair oci:src:v1 docker://{host}/job:v1"));
    for (repository, command) in [
        ("copy", format!("copy oci:src:v1 docker://{host}/copy:v1")),
        ("optimize", format!("optimize --zstdchunked oci:src:v1 docker://{host}/optimize:v1")),
        ("convert", format!("convert --gzip oci:src:v1 docker://{host}/convert:v1")),
        ("deploy", "deploy input".to_owned()),
        ("batch", "batch jobs".to_owned()),
        ("job", "batch jobs.2".to_owned()),
    ] {
        bench.ok(&command);
        let manifest = registry.manifest(repository, "v1").unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let lost = restow_oci::Digest::parse(manifest["config"]["digest"].as_str().unwrap()).unwrap();
        registry.remove_blob(repository, &lost);
        bench.ok(&command);
        let left = registry.missing(repository, "v1");
        assert_eq!(left.is_empty(), repository == "job", "{command}");
        if repository != "job" {
            bench.ok(&format!("{command} --repair"));
            assert!(registry.missing(repository, "v1").is_empty(), "{command}");
        }
    }
    assert_eq!(bench.run("deploy --dry-run --repair input").code, Some(2));
}

#[test]
fn errors_name_the_registry_and_never_a_secret() {
    let registry = Registry::start();
    registry.require_password("user", "right");
    let host = registry.host();
    let bench = Bench::new();
    let login = format!(r#"{{"auths":{{"{host}":{{"username":"user","password":"wrong-secret"}}}}}}"#);
    bench.write("auth.json", &login);
    let run = bench.run(&format!("inspect docker://{host}/a:v1 --authfile auth.json"));
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("401") && !run.stderr.contains("wrong-secret"), "{}", run.stderr);
    registry.intercept(|_| Some(Answer::error(404, "NAME_UNKNOWN")));
    let run = bench.run(&format!("inspect docker://{host}/a:v1"));
    assert!(run.stderr.contains("/a:v1 not found"), "{}", run.stderr);
    let run = bench.run("inspect docker://a:b:c");
    assert_eq!(run.code, Some(2), "{run:?}");
}

#[test]
fn the_environment_holds_logins_that_come_after_a_file_that_is_named() {
    let registry = Registry::start();
    registry.put("a", "v1", &image());
    registry.require_password("user", "password");
    let host = registry.host();
    let login =
        |password: &str| format!(r#"{{"auths":{{"{host}":{{"username":"user","password":"{password}"}}}}}}"#);
    let bench = Bench::new();
    fs::create_dir_all(bench.path("home/.docker")).unwrap();
    bench.write("home/.docker/config.json", &login("wrong"));
    bench.write("auth.json", &login("wrong"));
    let inspect = |arguments: &[&str], variable: &str| {
        let mut command = bench.command(Path::new(env!("CARGO_BIN_EXE_restow")));
        command.env("HOME", bench.path("home")).env("DOCKER_AUTH_CONFIG", variable);
        finish(command.args(["inspect", &format!("docker://{host}/a:v1")]).args(arguments))
    };
    assert_eq!(inspect(&[], &login("password")).code, Some(0));
    assert_eq!(inspect(&["--authfile", "auth.json"], &login("password")).code, Some(1));
    assert_eq!(inspect(&[], "").code, Some(1));
    let run = inspect(&[], r#"{"auths":"c2VjcmV0"}"#);
    assert!(run.stderr.contains("DOCKER_AUTH_CONFIG") && !run.stderr.contains("c2Vj"), "{}", run.stderr);
}

#[test]
fn a_proxy_that_takes_too_little_is_told_of_with_what_helps() {
    let registry = Registry::start();
    registry.intercept(|request| (request.method == "PUT").then(|| Answer::new(413)));
    let bench = Bench::new();
    image().write_layout(&bench.path("src"), "v1").unwrap();
    let run = bench.run(&format!("copy oci:src:v1 docker://{}/a:v1", registry.host()));
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("413") && run.stderr.contains("--upload-chunk-size"), "{}", run.stderr);
}

#[test]
fn the_environment_says_which_way_requests_go() {
    let (registry, proxy) = (Registry::start(), Registry::start());
    registry.put("a", "v1", &image());
    proxy.intercept(|_| Some(Answer::new(418)));
    let bench = Bench::new();
    let port = registry.other_host().replace("localhost:", "");
    let inspect = |variables: &[(&str, &str)], host: &str| {
        let mut command = bench.command(Path::new(env!("CARGO_BIN_EXE_restow")));
        let place = format!("docker://{host}:{port}/a:v1");
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy", "ALL_PROXY", "NO_PROXY"] {
            command.env_remove(name);
        }
        command.args(["inspect", "--plain-http", &place]).envs(variables.iter().copied());
        (finish(&mut command).code, proxy.take_lines().len())
    };
    let url = format!("http://{}", proxy.host());
    // The address that stands for none is reached like this machine's, and is not known as that.
    for (variables, host, expected) in [
        (&[("http_proxy", &*url)][..], "127.0.0.1", (Some(0), 0)),
        (&[("http_proxy", &*url)], "0.0.0.0", (Some(1), 1)),
        (&[("ALL_PROXY", &*url)], "0.0.0.0", (Some(1), 1)),
        (&[("HTTP_PROXY", &*url), ("https_proxy", &*url)], "0.0.0.0", (Some(0), 0)),
        (&[("http_proxy", &*url), ("no_proxy", "0.0.0.0")], "0.0.0.0", (Some(0), 0)),
        (&[("http_proxy", &*url), ("NO_PROXY", "0.0.0.0")], "0.0.0.0", (Some(0), 0)),
    ] {
        assert_eq!(inspect(variables, host), expected, "{variables:?} {host}");
    }
}

#[test]
fn credential_helpers_are_asked_once() {
    use std::os::unix::fs::PermissionsExt as _;
    let registry = Registry::start();
    registry.put("a", "v1", &image());
    let host = registry.host();
    let bench = Bench::new();
    fs::create_dir(bench.path("bin")).unwrap();
    let helper = |name: &str, script: &str| {
        let path = bench.path("bin").join(format!("docker-credential-{name}"));
        fs::write(&path, format!("#!/bin/sh\nread -r server\necho \"$1 $server\" >>asked\n{script}\n"))
            .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    helper("password", r#"echo '{"ServerURL":"x","Username":"user","Secret":"password"}'"#);
    helper("identity", r#"echo '{"Username":"<token>","Secret":"identity"}'"#);
    helper("nobody", "echo 'credentials not found in native keychain'; exit 1");
    helper("silent", "exec sleep 1000");
    helper("broken", "echo 'the vault is locked'; exit 1");
    let paths = format!("{}:/usr/bin:/bin", bench.path("bin").display());
    let inspect = |file: &str| {
        let _ = fs::remove_file(bench.path("asked"));
        bench.write("auth.json", file);
        let mut command = bench.command(Path::new(env!("CARGO_BIN_EXE_restow")));
        command.env("PATH", &paths).env("HOME", bench.path("home"));
        let run = finish(command.args([
            "inspect",
            &format!("docker://{host}/a:v1"),
            "--authfile",
            "auth.json",
            "--idle-timeout",
            "1",
        ]));
        (run, fs::read_to_string(bench.path("asked")).unwrap_or_default())
    };
    let asked = format!("get {host}\n");
    let one = |helper: &str| format!(r#"{{"credHelpers":{{"{host}":"{helper}"}}}}"#);
    let all = |helper: &str| format!(r#"{{"credsStore":"{helper}"}}"#);
    registry.require_password("user", "password");
    for file in [one("password"), all("password")] {
        let (run, heard) = inspect(&file);
        assert_eq!((run.code, heard), (Some(0), asked.clone()), "{run:?}");
    }
    registry.require_token(Some(("user", "password")));
    for file in [one("password"), one("identity"), all("identity")] {
        let (run, heard) = inspect(&file);
        assert_eq!((run.code, heard), (Some(0), asked.clone()), "{run:?}");
    }
    for (helper, problem) in [
        ("nobody", "no login for it is in"),
        ("broken", "docker-credential-broken: the vault is locked"),
        ("missing", "docker-credential-missing: "),
        ("silent", "docker-credential-silent: it said nothing for 1 s"),
    ] {
        let (run, _) = inspect(&one(helper));
        assert!(run.code == Some(1) && run.stderr.contains(problem), "{run:?}");
    }
    // What a file knows of a part of the registry comes before what a store knows of all of it.
    let both = format!(
        r#"{{"credsStore":"nobody","auths":{{"{host}/a":{{"username":"user","password":"password"}}}}}}"#
    );
    let (run, heard) = inspect(&both);
    assert_eq!((run.code, &*heard), (Some(0), ""), "{run:?}");
}

#[test]
fn refusals_come_with_a_way_out() {
    let registry = Registry::start();
    registry.require_password("user", "right");
    let host = registry.host();
    let bench = Bench::new();
    bench.write("auth.json", "{}");
    let run = bench.run(&format!("inspect docker://{host}/a:v1 --authfile auth.json"));
    assert!(run.stderr.contains("no login for it is in auth.json"), "{}", run.stderr);
    assert!(run.stderr.contains("hint: log in with docker login"), "{}", run.stderr);
    // TLS is asked for where an authority is named, and this registry does not speak it.
    let authority = restow_testkit::testdata("tls/registry.pem");
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        use std::io::Write as _;
        for mut stream in server.incoming().map_while(Result::ok) {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let run = bench.run(&format!("inspect docker://127.0.0.1:{port}/a:v1 --ca-file {}", authority.display()));
    assert!(run.stderr.contains("does not speak TLS\nhint: --plain-http"), "{}", run.stderr);
}

/// Starts a copy to a registry that keeps it waiting, and returns once it waits. There is one directory in
/// `scratch` then.
fn copy_that_waits(
    bench: &Bench,
    registry: &Registry,
    kept_waiting: &std::sync::mpsc::Receiver<()>,
) -> Child {
    fs::create_dir_all(bench.path("scratch")).unwrap();
    let mut command = bench.command(Path::new(env!("CARGO_BIN_EXE_restow")));
    command.env("TMPDIR", bench.path("scratch")).stderr(Stdio::piped());
    let child = command.args(["copy", "oci:src:v1", &format!("docker://{}/a:v1", registry.host())]).spawn();
    kept_waiting.recv().unwrap();
    assert_eq!(fs::read_dir(bench.path("scratch")).unwrap().count(), 1);
    child.unwrap()
}

#[test]
fn an_interrupted_run_takes_its_temporary_directories_along() {
    for signal in ["-INT", "-TERM"] {
        let registry = Registry::start();
        let (told, waits) = std::sync::mpsc::channel();
        registry.intercept(move |_| {
            told.send(()).unwrap();
            // For minutes nobody may ask again.
            Some(Answer::new(429).header("Retry-After", 500))
        });
        let bench = Bench::with(&image());
        let child = copy_that_waits(&bench, &registry, &waits);
        let killed = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{output:?}");
        assert_eq!(fs::read_dir(bench.path("scratch")).unwrap().count(), 0, "{signal}");
    }
}

#[test]
fn what_a_killed_run_left_goes_with_the_next_one() {
    let registry = Registry::start();
    let (told, waits) = std::sync::mpsc::channel();
    registry.intercept(move |_| {
        told.send(()).unwrap();
        Some(Answer::new(429).header("Retry-After", 500))
    });
    let bench = Bench::with(&image());
    let mut killed = copy_that_waits(&bench, &registry, &waits);
    let left: Vec<_> =
        fs::read_dir(bench.path("scratch")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let copy = || {
        let mut command = bench.command(Path::new(env!("CARGO_BIN_EXE_restow")));
        let run =
            finish(command.env("TMPDIR", bench.path("scratch")).args(["copy", "oci:src:v1", "out.tar:v1"]));
        assert_eq!(run.code, Some(0), "{run:?}");
    };
    // As long as it runs, it is left alone.
    copy();
    assert!(left[0].exists());
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(left[0].exists());
    copy();
    assert_eq!(fs::read_dir(bench.path("scratch")).unwrap().count(), 0);
}

#[test]
fn images_of_registries_keep_their_whole_names_in_the_store() {
    let registry = Registry::start();
    let bench = Bench::with(&image());
    let host = registry.host();
    for name in ["one", "two"] {
        bench.ok(&format!("copy oci:src:v1 docker://{host}/{name}:v1"));
        bench.ok(&format!("--root store store import docker://{host}/{name}:v1"));
    }
    let images = bench.ok("--root store store images").stdout;
    for name in ["one", "two"] {
        assert!(images.contains(&format!("{host}/{name}:v1")), "{images}");
    }
}
