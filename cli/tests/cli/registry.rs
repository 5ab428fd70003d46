//! Registries: as sources and destinations, and what is said of them.

use std::process::Stdio;

use restow_testkit::IndexBuilder;
use restow_testkit::Registry;
use restow_testkit::registry::Answer;
use serde_json::json;

use super::*;

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
        let run = bench.ok(&format!("copy --all-platforms {source} {destination}"));
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
    let run = bench.run("copy --platform linux/arm64,linux/amd64 oci:src:v1 oci:out:v1");
    assert_eq!(run.code, Some(2), "{run:?}");
    let saved = bench.ok("copy --platform linux/arm64 oci:src:v1 docker-archive:saved.tar:example.org/a:v1");
    assert_eq!(saved.stdout, run_digest(&bench));
    bench.ok("verify docker-archive:saved.tar:example.org/a:v1");
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
    assert!(lines.iter().all(|line| !line.starts_with("P")), "{lines:#?}");
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
    let run = bench.run(&format!("copy --referrers docker://{from}/a:v1 out.tar:v1"));
    assert_eq!(run.code, Some(2), "{run:?}");
    // Through a layout and back.
    bench.ok(&format!("copy --referrers docker://{from}/a:v1 oci:out:v1"));
    let last = Registry::start();
    bench.ok(&format!("copy --referrers oci:out:v1 docker://{}/a:v1", last.host()));
    assert!(last.manifest("a", signature.root.digest.as_str()).is_some());
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
