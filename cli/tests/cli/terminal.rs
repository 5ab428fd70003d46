use std::fs;

use restow_testkit::ImageBuilder;
use restow_testkit::Layer;
use restow_testkit::TarBuilder;
use serde_json::json;

use crate::support::Bench;

/// What a terminal obeys, or what looks like a line of the program itself.
const NAMES: [&str; 6] =
    ["a\u{1b}[2Jb", "c\nerror: d", "e\u{9b}31m", "f\u{202e}g", "h\u{2028}i", "j\u{7f}\u{200b}"];

fn is_hidden(c: char) -> bool {
    c.is_control() || ['\u{202e}', '\u{2028}', '\u{200b}'].contains(&c)
}

#[test]
fn no_text_of_an_image_reaches_a_terminal_as_it_is() {
    let script = NAMES.iter().filter(|name| !name.contains('\n')).map(|name| format!(". \"/{name}\"\n"));
    let script = format!("#!/bin/sh\n{}", script.collect::<String>());
    let tar = NAMES.iter().fold(TarBuilder::new(), |tar, name| {
        tar.file(name, "x").symlink(format!("to {name}"), format!("/gone/{name}"))
    });
    let tar = tar.file("bin/sh", "x").file("run\u{1b}.sh", script).finish();
    let config = json!({ "Cmd": ["/bin/sh", "/run\u{1b}.sh"], "WorkingDir": "/\u{1b}", "User": "\u{1b}" });
    let image = ImageBuilder::new().layer(Layer::gzip(tar)).config_field("config", config).build();
    let bench = Bench::with(&image);
    let mut index = bench.index("src");
    let entry = index["manifests"][0].clone();
    for name in NAMES {
        let mut named = entry.clone();
        named["annotations"]["org.opencontainers.image.ref.name"] = name.into();
        index["manifests"].as_array_mut().unwrap().push(named);
    }
    fs::write(bench.path("src/index.json"), index.to_string()).unwrap();
    bench.write("list", "/no\u{202e}where\n/e\u{9b}31m\n");

    let mut told = 0;
    for line in [
        "inspect oci:src",
        "inspect oci:src:none",
        "ls oci:src:v1 -r",
        "ls oci:src:v1 -r --format json",
        "cat oci:src:v1 /none",
        "predict oci:src:v1 --explain",
        "predict oci:src:v1 --format json",
        "optimize oci:src:v1 oci:dst:v1 --zstdchunked --prefetch-list list --progress plain",
        "optimize oci:src:v1 oci:dst:v2 --zstdchunked --prefetch-list list --progress json",
        "convert oci:src:v1 oci:dst:v3 --gzip --format json",
        "--root store store import src",
        "--root store store images",
    ] {
        let run = bench.run(line);
        assert!(run.code.is_some_and(|code| code < 3), "{line}: {run:?}");
        for text in [&run.stdout, &run.stderr] {
            assert!(!text.contains(|c| is_hidden(c) && c != '\n'), "{line}: {text:?}");
            assert!(!text.lines().any(|line| line.starts_with("error: d")), "{line}: {text}");
            told += text.matches("\\u").count();
        }
    }
    assert!(told > NAMES.len(), "{told}");
    // Programs read lists as they are.
    assert!(bench.ok("predict oci:src:v1").stdout.contains("f\u{202e}g\n"));
}
