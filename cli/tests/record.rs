//! What a recording leaves behind, however it ends. Recording takes runc, and as it is done here, root; where they are
//! missing, the tests say so and end.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

/// How many recordings are killed.
const KILLS: u32 = 100;

/// Says why nothing can be recorded here, if so.
fn obstacle() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let root = status
        .lines()
        .any(|line| line.split_whitespace().collect::<Vec<_>>()[..].starts_with(&["Uid:", "0", "0"]));
    let runc = Command::new("runc").arg("--version").output().is_ok_and(|output| output.status.success());
    match (root, runc) {
        (true, true) => None,
        (false, _) => Some("this is not root".into()),
        (_, false) => Some("there is no runc".into()),
    }
}

/// Nobody should take a test that was skipped for one that held.
fn may_record(test: &str) -> bool {
    let obstacle = obstacle();
    if let Some(obstacle) = &obstacle {
        let _ = writeln!(std::io::stderr(), "{test} is skipped: {obstacle}");
    }
    obstacle.is_none()
}

/// The busybox image of testdata, and a cache.
struct Ground(tempfile::TempDir);

impl Ground {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn record(&self, command: &str) -> Command {
        let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/layouts/busybox:demo");
        let mut record = Command::new(env!("CARGO_BIN_EXE_restow"));
        record.arg("record").arg(image).arg("--out").arg(self.path("record"));
        record.arg("--cache-dir").arg(self.path("cache")).args([
            "--entrypoint",
            r#"["/bin/busybox"]"#,
            "--args",
            command,
        ]);
        record.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        record
    }

    /// Returns what is left of sandboxes: mounts, processes, files.
    fn left(&self) -> Vec<String> {
        let here = self.0.path().to_str().unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut left: Vec<_> =
            mounts.lines().filter(|line| line.contains(here)).map(|line| format!("mount {line}")).collect();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            // A process that is gone in the meantime has no words.
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            let number =
                entry.file_name().to_string_lossy().parse().is_ok_and(|id: u32| id != std::process::id());
            if number && words.contains(here) {
                left.push(format!("process {words}"));
            }
        }
        for directory in ["sandbox", "networks"] {
            let entries = fs::read_dir(self.path("cache").join(directory)).into_iter().flatten();
            left.extend(entries.map(|entry| format!("file {}", entry.unwrap().path().display())));
        }
        left
    }
}

/// Waits, for as long as it takes, until something holds.
fn wait_until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_hundred_recordings_that_are_killed_leave_nothing() {
    if !may_record("a_hundred_recordings_that_are_killed_leave_nothing") {
        return;
    }
    let ground = Ground::new();
    for round in 0..KILLS {
        let mut running = ground.record(r#"["sleep", "600"]"#).spawn().unwrap();
        // From at once to long after the container has started.
        std::thread::sleep(Duration::from_millis(u64::from(round % 20) * 20));
        running.kill().unwrap();
        running.wait().unwrap();
        // The kernel takes it all down, in its time; what never goes is stopped by the test's own limit.
        wait_until(|| ground.left().is_empty());
    }
    let done = ground.record(r#"["true"]"#).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(ground.left(), [""; 0]);
    assert!(!ground.path("cache/roots/begun").exists());
}

#[test]
fn a_record_says_in_which_order_and_how_much_was_read() {
    if !may_record("a_record_says_in_which_order_and_how_much_was_read") {
        return;
    }
    let ground = Ground::new();
    let mut record = ground.record(
        r#"["sh", "-c", "busybox cat /app/main; busybox stat /app/lib/greet.sh; read word; echo got $word"]"#,
    );
    let mut running = record.arg("-i").stdin(Stdio::piped()).spawn().unwrap();
    running.stdin.take().unwrap().write_all(b"piped\n").unwrap();
    let done = running.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("got piped"), "{said}");
    let text = fs::read_to_string(ground.path("record")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let at = |path: &str| lines.iter().position(|line| line["path"] == path);
    assert!(at("bin/busybox").unwrap() < at("app/main").unwrap(), "{text}");
    // It was only asked about.
    assert_eq!(at("app/lib/greet.sh"), None, "{text}");
    let busybox = &lines[at("bin/busybox").unwrap()];
    if !said.contains("how much of a file is read cannot be told") {
        let (size, read) = (busybox["size"].as_u64().unwrap(), busybox["read"].as_u64().unwrap());
        assert!(0 < read && read < size, "{busybox}");
        let script = &lines[at("app/main").unwrap()];
        assert_eq!(script["read"], script["size"], "{script}");
    }
}
