use restow_testkit::ImageBuilder;
use restow_testkit::Layer;
use restow_testkit::Registry;
use restow_testkit::TarBuilder;
use serde_json::Value;

use crate::base;
use crate::support::Bench;
use crate::support::Run;

/// An image of the base and a layer of its own.
fn app(name: &str) -> restow_testkit::Image {
    let tar = TarBuilder::new().dir("app/").file("app/name", name).finish();
    ImageBuilder::new().layer(base()).layer(Layer::gzip(tar)).build()
}

/// A registry with two repositories of two tags each.
fn library() -> Registry {
    let registry = Registry::start();
    for repository in ["team/a", "team/b"] {
        for tag in ["v1", "v2"] {
            registry.put(repository, tag, &app(&format!("{repository} {tag}")));
        }
    }
    registry
}

fn rules(registry: &Registry) -> String {
    let host = registry.host();
    format!(
        "defaults:\n  options: {{zstdchunked: true, no-optimize: true}}\n  platforms: [linux/amd64]\n\
         groups:\n  - name: team\n    sources: [docker://{host}/team/a, docker://{host}/team/b]\n    \
         destination: docker://{host}/out/{{name}}:{{tag}}-zc\n"
    )
}

fn lines(run: &Run) -> Vec<Value> {
    run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn fields<'a>(lines: &'a [Value], key: &str) -> Vec<&'a Value> {
    lines.iter().map(|line| &line[key]).collect()
}

#[test]
fn tags_of_places_are_listed_and_chosen() {
    let registry = library();
    let bench = Bench::new();
    app("x").write_layout(&bench.path("layout"), "v1").unwrap();
    let place = format!("docker://{}", registry.name("team/a"));
    assert_eq!(bench.ok(&format!("tags {place}")).stdout, "v1\nv2\n");
    assert_eq!(bench.ok(&format!("tags {place} v* !*2")).stdout, "v1\n");
    assert_eq!(bench.json("tags oci:layout --format json")["tags"], serde_json::json!(["v1"]));
    for (line, code) in
        [(format!("tags {place}:v1"), 2), (format!("tags {place} ["), 2), ("tags oci:none".into(), 1)]
    {
        assert_eq!(bench.run(&line).code, Some(code), "{line}");
    }
}

#[test]
fn the_second_night_costs_two_heads_an_image_and_no_get() {
    let registry = library();
    let bench = Bench::new();
    bench.write("rules.yaml", &rules(&registry));
    let first = lines(&bench.ok("sync rules.yaml"));
    assert_eq!(fields(&first, "ok"), [true; 4]);
    assert_eq!(first[0]["group"], "team");
    assert_eq!((&first[0]["line"], &first[0]["column"]), (&6.into(), &15.into()));
    assert!(registry.manifest("out/b", "v2-zc").is_some());

    registry.take_lines();
    let second = lines(&bench.ok("sync rules.yaml"));
    assert_eq!(fields(&second, "unchanged"), [true; 4]);
    assert_eq!(fields(&second, "digest"), fields(&first, "digest"));
    let mut asked: Vec<_> =
        registry.take_lines().into_iter().filter(|line| !line.ends_with("tags/list")).collect();
    asked.sort();
    let mut expected: Vec<_> = ["a", "b"]
        .iter()
        .flat_map(|name| ["v1", "v2"].map(|tag| (name, tag)))
        .flat_map(|(name, tag)| {
            [
                format!("HEAD /v2/out/{name}/manifests/{tag}-zc"),
                format!("HEAD /v2/team/{name}/manifests/{tag}"),
            ]
        })
        .collect();
    expected.sort();
    assert_eq!(asked, expected);

    // Only what has changed is done.
    registry.put("team/b", "v1", &app("new"));
    let third = lines(&bench.ok("sync rules.yaml"));
    assert_eq!(fields(&third, "unchanged"), [&true.into(), &true.into(), &Value::Null, &true.into()]);
    assert_ne!(third[2]["digest"], first[2]["digest"]);
}

#[test]
fn other_options_or_another_destination_are_a_change() {
    let registry = library();
    let bench = Bench::new();
    let text = rules(&registry);
    bench.write("rules.yaml", &text);
    bench.ok("sync rules.yaml");
    bench.write("rules.yaml", &text.replace("no-optimize", "zstdchunked-compression-level: 5, no-optimize"));
    assert_eq!(fields(&lines(&bench.ok("sync rules.yaml")), "unchanged"), [&Value::Null; 4]);

    // Somebody else has given the name away.
    registry.put("out/a", "v1-zc", &app("other"));
    let run = lines(&bench.ok("sync rules.yaml"));
    assert_eq!(fields(&run, "unchanged"), [&Value::Null, &true.into(), &true.into(), &true.into()]);
    assert_eq!(fields(&lines(&bench.ok("sync rules.yaml --no-cache")), "unchanged"), [&Value::Null; 4]);
}

#[test]
fn a_dry_run_says_what_would_be_done_and_why() {
    let registry = library();
    let bench = Bench::new();
    let text = rules(&registry);
    bench.write("rules.yaml", &text);
    let planned = lines(&bench.ok("sync rules.yaml --dry-run"));
    assert_eq!(fields(&planned, "action"), ["run"; 4]);
    assert_eq!(fields(&planned, "reason"), ["missing"; 4]);
    assert!(registry.manifest("out/a", "v1-zc").is_none());
    let first = lines(&bench.ok("sync rules.yaml"));
    registry.put("team/a", "v2", &app("new"));
    let planned = lines(&bench.ok("sync rules.yaml --dry-run"));
    assert_eq!(fields(&planned, "action"), ["skip", "run", "skip", "skip"]);
    assert_eq!(fields(&planned, "reason"), ["unchanged", "changed", "unchanged", "unchanged"]);
    assert_eq!(planned[1]["changedSince"], first[1]["sourceDigest"]);

    bench.write("rules.yaml", &format!("{text}    only: missing\n"));
    let planned = lines(&bench.ok("sync rules.yaml --dry-run"));
    assert_eq!(fields(&planned, "action"), ["skip"; 4]);
}

#[test]
fn a_run_goes_on_from_its_journal() {
    let registry = library();
    let bench = Bench::new();
    bench.write("rules.yaml", &rules(&registry));
    let first = lines(&bench.ok("sync rules.yaml --no-cache --journal journal"));
    assert_eq!(first.len(), 4);
    // The last line was cut off, and one source has changed since.
    let journal = std::fs::read_to_string(bench.path("journal")).unwrap();
    assert_eq!(journal.lines().count(), 4);
    let (whole, last) = journal.trim_end().rsplit_once('\n').unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    let changed =
        serde_json::from_str::<Value>(whole.lines().next().unwrap()).unwrap()["job"].as_u64().unwrap();
    let repository = if changed <= 2 { "team/a" } else { "team/b" };
    registry.put(repository, if changed % 2 == 1 { "v1" } else { "v2" }, &app("new"));
    bench.write("journal", &format!("{whole}\n{{\"job\":"));
    let second = lines(&bench.ok("sync rules.yaml --no-cache --journal journal"));
    let resumed: Vec<_> = (1..=4).map(|job| job != changed && last["job"] != job).collect();
    let found: Vec<_> = second.iter().map(|line| line["resumed"] == true).collect();
    assert_eq!(found, resumed);
    assert_eq!(std::fs::read_to_string(bench.path("journal")).unwrap().lines().count(), 5);
}

#[test]
fn failures_have_causes_and_bad_images_are_not_tried_again() {
    let registry = library();
    let bench = Bench::new();
    let host = registry.host();
    bench.write("text", "not an image");
    bench.write(
        "jobs",
        &format!(
            "copy oci:none:v1 oci:out:a\ncopy docker://{host}/team/a:v9 oci:out:b\n\
             copy docker://127.0.0.1:1/x:v1 oci:out:c\ncopy oci-archive:text oci:out:d\n"
        ),
    );
    let run = bench.run("batch jobs --retry 0");
    assert_eq!(run.code, Some(3), "{run:?}");
    let lines = lines(&run);
    assert_eq!(fields(&lines, "cause"), ["not-found", "not-found", "network", "corrupt"]);
    assert_eq!(fields(&lines, "retryMayHelp"), [false, false, true, false]);
    assert_eq!(fields(&lines, "attempts"), [1; 4]);
    assert!(run.stderr.contains("\nfailed (network): job 3: docker://127.0.0.1:1/x:v1\n"), "{}", run.stderr);
}

#[test]
fn mistakes_in_rules_have_a_line_and_a_column_and_nothing_is_done() {
    let registry = library();
    let bench = Bench::new();
    let fine = rules(&registry);
    let more = |group: &str| format!("{fine}  - {group}\n");
    for (text, problem) in [
        (fine.replace("name: team", "nom: team"), "rules.yaml:5:5: unknown field"),
        (fine.replace("{name}", "{nom}"), "rules.yaml:7:18: unknown field {nom}"),
        (
            fine.replace("{name}:{tag}-zc", "x:y"),
            "rules.yaml:6:15: line 6, column 15 writes y in this place, too",
        ),
        (
            fine.replace("no-optimize: true", "no-optimise: true"),
            "rules.yaml:6:15: unexpected argument '--no-optimise'",
        ),
        (fine.replace("zstdchunked: true", "estargz: true, zstdchunked: true"), "rules.yaml:6:15: "),
        (
            more(&format!(
                "{{sources: ['docker://{}/team/a:v1'], operation: copy, options: {{zstdchunked: false, no-optimize: false}}, destination: 'docker://{}/team/a:v1'}}",
                registry.host(),
                registry.host()
            )),
            " is source and destination",
        ),
        (
            more(&format!(
                "{{sources: ['docker://{}/out/a:v1-zc'], destination: 'oci:x:y'}}",
                registry.host()
            )),
            "rules.yaml:8:16: line 6, column 15 writes what is read here",
        ),
        (String::new(), "rules.yaml:1:1: "),
        (" ".repeat(2 << 20), "rules.yaml:1:1: the rules take more than 1048576 bytes"),
    ] {
        bench.write("rules.yaml", &text);
        let run = bench.run("sync rules.yaml");
        assert_eq!((run.code, &*run.stdout), (Some(2), ""), "{text}: {run:?}");
        assert!(run.stderr.contains(problem), "{problem}: {}", run.stderr);
        assert!(registry.manifest("out/a", "v1-zc").is_none(), "{problem}");
    }
}
