//! A directory to work in, and the binary to run there.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use restow_testkit::Image;
use serde_json::Value;

/// A directory of its own, gone at the end, and the binary to run in it.
pub(crate) struct Bench(tempfile::TempDir);

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Starts with a layout `src` that holds the image under the tag `v1`.
    pub(crate) fn with(image: &Image) -> Self {
        let bench = Self::new();
        image.write_layout(&bench.path("src"), "v1").unwrap();
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn command(&self, binary: &Path) -> Command {
        let mut command = Command::new(binary);
        command.current_dir(self.0.path()).env("XDG_CACHE_HOME", self.path("cache"));
        command
    }

    /// Runs the binary with the words of the line as arguments.
    pub(crate) fn run(&self, line: &str) -> Run {
        finish(self.command(Path::new(env!("CARGO_BIN_EXE_restow"))).args(line.split_whitespace()))
    }

    /// Runs it and expects it to succeed.
    pub(crate) fn ok(&self, line: &str) -> Run {
        let run = self.run(line);
        assert_eq!(run.code, Some(0), "{line}: {run:?}");
        run
    }

    pub(crate) fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(line).stdout).unwrap()
    }

    pub(crate) fn index(&self, layout: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(layout).join("index.json")).unwrap()).unwrap()
    }

    pub(crate) fn tags(&self, layout: &str) -> Vec<String> {
        let index = self.index(layout);
        let tag = |entry: &Value| {
            entry["annotations"]["org.opencontainers.image.ref.name"].as_str().map(str::to_owned)
        };
        index["manifests"].as_array().unwrap().iter().filter_map(tag).collect()
    }

    /// Optimizes `src`, which may fail; what comes out must verify, and nothing else may be left.
    pub(crate) fn is_sound(&self, what: &str) {
        let run = self.run("optimize src dst:v1 --zstdchunked --all-platforms");
        match run.code {
            Some(0) => drop(self.ok("verify dst:v1")),
            Some(1) => assert!(!self.path("dst").exists(), "{what}: {run:?}"),
            _ => panic!("{what}: {run:?}"),
        }
    }
}

pub(crate) fn finish(command: &mut Command) -> Run {
    let output = command.output().unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
