//! What recordings show, and what they leave behind, however they end. Recording takes runc, and as it is done here, root;
//! where they are missing, the tests say so and end, but for those of the project's own checks (`CI`).
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use restow_oci::Digest;
use restow_testkit::ImageBuilder;
use restow_testkit::Layer;
use restow_testkit::TarBuilder;
use serde_json::Value;
use serde_json::json;

/// How many recordings are killed.
const KILLS: u32 = 100;
/// What the programs of a test have in their environment.
const MARK: &str = "RESTOW_TEST_GROUND";
const GROUPS: &str = "/sys/fs/cgroup";

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
#[expect(clippy::disallowed_methods, reason = "a test may look where it runs")]
fn may_record(test: &str) -> bool {
    let obstacle = obstacle();
    if let Some(obstacle) = &obstacle {
        assert!(std::env::var_os("CI").is_none(), "{test} cannot run: {obstacle}");
        let _ = writeln!(std::io::stderr(), "{test} is skipped: {obstacle}");
    }
    obstacle.is_none()
}

/// The busybox image of testdata, and a place for what is kept.
struct Ground {
    directory: tempfile::TempDir,
    /// As many seconds no other test lets its container sleep.
    sleep: String,
    /// Control groups that are there anyway.
    groups: BTreeSet<PathBuf>,
}

impl Ground {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = 100 * std::process::id() + NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("tmp")).unwrap();
        Self { directory, sleep: format!("9{number}"), groups: groups() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn image() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/layouts/busybox:demo")
    }

    fn restow(&self) -> Command {
        let mut restow = Command::new(env!("CARGO_BIN_EXE_restow"));
        restow.env(MARK, self.directory.path()).env("TMPDIR", self.path("tmp"));
        restow.env("XDG_CACHE_HOME", self.path("caches"));
        restow.arg("--root").arg(self.path("store"));
        restow.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        restow
    }

    /// Returns the command that records a run of busybox.
    fn record(&self, arguments: Value) -> Command {
        let mut record = self.restow();
        record.arg("record").arg(Self::image()).arg("--out").arg(self.path("record"));
        record.args(["--entrypoint", r#"["/bin/busybox"]"#, "--args", &arguments.to_string()]);
        record
    }

    fn sleeping(&self) -> Command {
        self.record(json!(["sleep", self.sleep]))
    }

    /// Says whether a container sleeps.
    fn sleeps(&self) -> bool {
        let processes = self.processes();
        processes.iter().any(|words| words.starts_with("/bin/busybox sleep"))
    }

    /// Returns the command lines of the programs that this test has started, but for those that have ended.
    fn processes(&self) -> Vec<String> {
        let mark = format!("{MARK}={}", self.directory.path().display());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            // A process that is gone in the meantime has no words.
            let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
            let (words, environment) = (read("cmdline"), read("environ"));
            let has =
                |all: &[u8], wanted: &str| all.split(|byte| *byte == 0).any(|one| one == wanted.as_bytes());
            if !words.is_empty() && (has(&environment, &mark) || has(&words, &self.sleep)) {
                found.push(String::from_utf8_lossy(&words).replace('\0', " "));
            }
        }
        found
    }

    /// Returns what is left of sandboxes: mounts in whatever namespace, processes, control groups, files.
    fn left(&self) -> Vec<String> {
        let here = self.directory.path().to_str().unwrap();
        let mut left: Vec<_> = self.processes().iter().map(|words| format!("process {words}")).collect();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let mounts = fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default();
            left.extend(
                mounts.lines().filter(|line| line.contains(here)).map(|line| format!("mount {line}")),
            );
        }
        left.extend(groups().difference(&self.groups).map(|group| format!("group {}", group.display())));
        for directory in ["sandbox", "networks"] {
            let entries = fs::read_dir(self.path("store/roots").join(directory)).into_iter().flatten();
            left.extend(entries.map(|entry| format!("file {}", entry.unwrap().path().display())));
        }
        left
    }
}

/// Returns the control groups, at any depth, that are called as the container is.
fn groups() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![PathBuf::from(GROUPS)];
    while let Some(directory) = waiting.pop() {
        // Others come and go.
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().contains("restow") {
                    found.insert(entry.path());
                }
                waiting.push(entry.path());
            }
        }
    }
    found
}

/// Waits, for as long as it takes, until something holds.
fn wait_until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reads what a program says until it has said this.
fn wait_for_words(child: &mut Child, words: &str) {
    let mut said = BufReader::new(child.stderr.as_mut().unwrap());
    let mut all = String::new();
    while !all.contains(words) {
        let mut line = String::new();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "{all}");
        all.push_str(&line);
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_hundred_recordings_that_are_killed_leave_nothing() {
    if !may_record("a_hundred_recordings_that_are_killed_leave_nothing") {
        return;
    }
    let ground = Ground::new();
    for round in 0..KILLS {
        let mut sleeping = ground.sleeping();
        if round % 10 == 5 {
            sleeping.arg("--no-cache");
        }
        let mut running = sleeping.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        if round % 5 == 0 {
            wait_until(|| ground.sleeps());
        } else {
            // At any moment before, and after.
            std::thread::sleep(Duration::from_millis(u64::from(round % 20) * 20));
        }
        running.kill().unwrap();
        running.wait().unwrap();
        // The kernel takes it all down, in its time; what never goes is stopped by the test's own limit.
        wait_until(|| ground.left().is_empty());
    }
    let done = ground.record(json!(["true"])).output().unwrap();
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!(ground.left(), [""; 0]);
    // What was begun, or not to be kept, went with the next run.
    let mut roots = fs::read_dir(ground.path("store/roots")).unwrap().map(|entry| entry.unwrap().path());
    assert!(roots.all(|path| path.extension().is_none_or(|end| end != "begun")));
    assert_eq!(fs::read_dir(ground.path("tmp")).unwrap().count(), 0);
}

/// A run, what must be on standard error after it, and what must not.
struct Row {
    flags: Vec<String>,
    arguments: Value,
    says: Vec<String>,
    never: Vec<&'static str>,
}

fn row(flags: &[&str], arguments: Value, says: &[&str], never: &[&'static str]) -> Row {
    Row {
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        arguments,
        says: says.iter().map(|words| (*words).to_owned()).collect(),
        never: never.to_vec(),
    }
}

#[test]
fn the_flags_do_what_they_say() {
    if !may_record("the_flags_do_what_they_say") {
        return;
    }
    let ground = Ground::new();
    fs::create_dir(ground.path("host")).unwrap();
    fs::write(ground.path("host/file"), "of the host\n").unwrap();
    fs::write(ground.path("variables"), "# comment\nB=2 words\n\nGREETING\n").unwrap();
    let (host, variables) = (ground.path("host"), ground.path("variables"));
    let bound = format!("type=bind,source={},destination=/in", host.display());
    let shell = |script: &str| json!(["sh", "-c", script]);
    let sleep = format!("echo is rea; echo dy; echo is ready; busybox sleep {}", ground.sleep);
    let hosts_of_host = fs::read_to_string("/etc/hosts").unwrap();
    let rows = [
        row(&["--wait-on-line", "is ready"], shell(&sleep), &["is ready"], &["ended with"]),
        row(&["--period", "1"], shell(&sleep), &["is ready"], &["ended with"]),
        row(&[], json!(["env"]), &["GREETING=hello", "ended with 0"], &[]),
        row(
            &["--env", "A=1", "--env", "HOME=/a=b", "--env-file", variables.to_str().unwrap()],
            json!(["env"]),
            &["A=1\n", "HOME=/a=b\n", "B=2 words\n"],
            &["GREETING", "comment"],
        ),
        row(
            &["--cwd", "/tmp", "--user", "7:8"],
            shell("pwd; busybox id -u; busybox id -g"),
            &["/tmp\n7\n8\n"],
            &[],
        ),
        row(
            &[
                "--allow-failure",
                "--user",
                "0",
                "--mount",
                &bound,
                "--mount",
                "type=tmpfs,source=tmpfs,destination=/new",
            ],
            shell(
                "busybox cat /in/file; echo x > /in/other; echo y > /new/file; busybox cat /new/file; exit 3",
            ),
            &["of the host", "/in/other: Read-only file system", "y\n", "ended with 3"],
            &[],
        ),
        row(
            &[
                "--add-hosts",
                "db:10.0.0.2",
                "--dns-nameservers",
                "10.0.0.3",
                "--dns-search-domains",
                "a.test",
                "--dns-options",
                "rotate",
            ],
            shell("busybox cat /etc/hosts /etc/resolv.conf; busybox ls /sys/class/net"),
            &[
                "::1\tlocalhost ip6-localhost",
                "10.0.0.2\tdb\n",
                "nameserver 10.0.0.3\nsearch a.test\noptions rotate\nlo\n",
            ],
            &[],
        ),
        row(
            &["--net-host"],
            shell("busybox cat /etc/hosts; echo =; busybox ls /sys/class/net"),
            &[&format!("{}\n=\n", hosts_of_host.trim_end())],
            &[],
        ),
    ];
    for Row { flags, arguments, says, never } in rows {
        let done = ground.record(arguments).args(&flags).output().unwrap();
        let said = said(&done);
        assert!(done.status.success(), "{flags:?}: {said}");
        for words in &says {
            assert!(said.contains(words), "{flags:?}: no {words:?} in {said}");
        }
        for words in never {
            assert!(!said.contains(words), "{flags:?}: {words:?} in {said}");
        }
        wait_until(|| ground.left().is_empty());
    }
    assert!(!host.join("other").exists());
}

#[test]
fn a_container_has_nothing_of_the_host_and_leaves_nothing_in_the_image() {
    if !may_record("a_container_has_nothing_of_the_host_and_leaves_nothing_in_the_image") {
        return;
    }
    let ground = Ground::new();
    let script = "busybox mknod /dev/own c 1 3 || echo no device; busybox mknod /own b 7 0 || echo no disk; \
        echo =; busybox ls /sys/class/net; echo =; busybox cat /proc/mounts; echo =; echo x > /etc/written; \
        echo y > /app/main; busybox cat /app/main";
    let done = ground.record(json!(["sh", "-c", script])).args(["--user", "0"]).output().unwrap();
    let said = said(&done);
    assert!(done.status.success(), "{said}");
    let parts: Vec<_> = said.split("=\n").collect();
    assert!(parts[0].contains("no device") && parts[0].contains("no disk"), "{said}");
    assert_eq!(parts[1], "lo\n", "{said}");
    assert!(parts[3].starts_with("y\n"), "{said}");
    let mut kinds = BTreeSet::new();
    for line in parts[2].lines() {
        let words: Vec<_> = line.split(' ').collect();
        kinds.insert(words[2]);
        let root = words[1] == "/";
        assert!(!root || (words[3].contains("nodev") && words[3].contains("nosuid")), "{line}");
        // Everything else is the container's own: no file system that is on a disk, or that others see.
        assert!(["overlay", "proc", "tmpfs", "devpts", "mqueue", "sysfs"].contains(&words[2]), "{line}");
    }
    assert!(kinds.contains("overlay"), "{said}");
    let roots = ground.path("store/roots");
    assert_eq!(fs::metadata(&roots).unwrap().permissions().mode() & 0o777, 0o700);
    let is_root = |path: &PathBuf| path.extension().is_none() && path.join("app/main").is_file();
    let root = fs::read_dir(&roots).unwrap().map(|entry| entry.unwrap().path()).find(is_root).unwrap();
    assert!(!root.join("etc/written").exists());
    assert_ne!(fs::read(root.join("app/main")).unwrap(), b"y\n");
    assert_eq!(ground.left(), [""; 0]);
}

#[test]
fn a_container_may_take_so_much_and_sees_no_path_of_the_host_s() {
    if !may_record("a_container_may_take_so_much_and_sees_no_path_of_the_host_s") {
        return;
    }
    let ground = Ground::new();
    let many = format!("for i in 1 2 3 4 5 6 7 8 9; do busybox sleep {} & done; wait", ground.sleep);
    let large = "busybox awk 'BEGIN { text = \"x\"; while (1) text = text text }'";
    for (flags, script, expected) in [
        (&["--max-processes", "9"][..], many.as_str(), "the container has more than 9 processes"),
        (&["--max-memory", "32MiB"], large, "the container takes more than 33554432 bytes of memory"),
    ] {
        let done = ground.record(json!(["sh", "-c", script])).args(flags).output().unwrap();
        assert!(!done.status.success() && said(&done).contains(expected), "{flags:?}: {}", said(&done));
        assert!(!ground.path("record").exists());
        wait_until(|| ground.processes().is_empty());
    }
    let script = "busybox dd if=/dev/zero of=/file bs=1M count=9; busybox cat /proc/self/cgroup; \
                  busybox grep Seccomp: /proc/self/status; echo groups $(busybox ls -A /sys/fs/cgroup) end; \
                  busybox unshare -U busybox true";
    let mut record = ground.record(json!(["sh", "-c", script]));
    let done = record.args(["--max-written", "4MiB", "--allow-failure"]).output().unwrap();
    let said = said(&done);
    assert!(done.status.success(), "{said}");
    for expected in [
        "No space left on device",
        "Seccomp:\t2",
        "groups end",
        "unshare(0x10000000): Operation not permitted",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let groups: Vec<_> =
        said.lines().filter(|line| line.splitn(3, ':').count() == 3 && line.contains(":/")).collect();
    assert!(!groups.is_empty() && groups.iter().all(|line| line.ends_with(":/")), "{said}");
}

#[test]
fn a_run_that_fails_is_no_record() {
    if !may_record("a_run_that_fails_is_no_record") {
        return;
    }
    let ground = Ground::new();
    let nowhere = ["--entrypoint", r#"["/none"]"#, "--args", "[]"];
    let mut absent = ground.restow();
    absent.arg("record").arg(Ground::image()).arg("--out").arg(ground.path("record")).args(nowhere);
    let done = absent.output().unwrap();
    assert!(!done.status.success() && said(&done).contains("/none"), "{}", said(&done));
    assert!(!ground.path("record").exists());
    // A program that fails has run, but not as was meant.
    let done = ground.record(json!(["false"])).output().unwrap();
    let expected = "workload: the container's program ended with 1 before the watching did; --allow-failure";
    assert!(!done.status.success() && said(&done).contains(expected), "{}", said(&done));
    assert!(!ground.path("record").exists());
    let allowed = ["--allow-failure", "--format", "json"];
    let done = ground.record(json!(["false"])).args(allowed).output().unwrap();
    assert!(done.status.success() && said(&done).contains("ended with 1"), "{}", said(&done));
    let document: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(document["workloads"], json!([{ "name": "workload", "exit": 1 }]));
    fs::remove_file(ground.path("record")).unwrap();
    // The first process of the sandbox is killed midway.
    let running = ground.sleeping().spawn().unwrap();
    wait_until(|| ground.sleeps());
    let inner = fs::read_dir("/proc").unwrap().flatten().find(|entry| {
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let marked =
            String::from_utf8_lossy(&read("environ")).contains(ground.directory.path().to_str().unwrap());
        marked && read("cmdline").ends_with(b"\0sandbox\0inner\0")
    });
    let inner = inner.unwrap().file_name();
    assert!(Command::new("kill").arg("-KILL").arg(inner).status().unwrap().success());
    let done = running.wait_with_output().unwrap();
    assert!(!done.status.success() && said(&done).contains("the helper ended"), "{}", said(&done));
    assert!(!ground.path("record").exists());
    wait_until(|| ground.left().is_empty());
}

#[test]
fn one_interrupt_ends_the_workload_and_not_the_work() {
    if !may_record("one_interrupt_ends_the_workload_and_not_the_work") {
        return;
    }
    let ground = Ground::new();
    let script = json!(["sh", "-c", format!("echo is up >&2; busybox sleep {}", ground.sleep)]);
    // The line and the period do not count then.
    let mut record = ground.record(script.clone());
    record.args(["--wait-on-signal", "--wait-on-line", "is up", "--period", "1"]);
    let mut optimize = ground.restow();
    optimize
        .arg("optimize")
        .arg(Ground::image())
        .arg(ground.path("out:new"))
        .args(["--zstdchunked", "--run"]);
    optimize.args(["--entrypoint", r#"["/bin/busybox"]"#, "--args", &script.to_string(), "--wait-on-signal"]);
    for (name, mut command) in [("record", record), ("out", optimize)] {
        let mut running = command.spawn().unwrap();
        wait_for_words(&mut running, "is up");
        let id = running.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        let mut rest = String::new();
        running.stderr.take().unwrap().read_to_string(&mut rest).unwrap();
        assert!(running.wait().unwrap().success() && ground.path(name).exists(), "{name}: {rest}");
        wait_until(|| ground.left().is_empty());
    }
}

#[test]
fn what_several_workloads_read_comes_first_in_the_order_of_their_weight() {
    if !may_record("what_several_workloads_read_comes_first_in_the_order_of_their_weight") {
        return;
    }
    let ground = Ground::new();
    let workload = |name: &str, path: &str, weight: u32| {
        format!("[[workload]]\nname = \"{name}\"\nargs = [\"cat\", \"{path}\"]\nweight = {weight}\n")
    };
    let text = [workload("light", "/app/lib/greet.sh", 1), workload("heavy", "/app/main", 2)].concat();
    fs::write(ground.path("workloads"), text).unwrap();
    // The second image is for a machine that this is not.
    let layout = ground.path("two");
    let copy = |from: &Path, to: &Path| {
        assert!(Command::new("cp").arg("-r").args([from, to]).status().unwrap().success());
    };
    copy(Path::new(Ground::image().to_str().unwrap().trim_end_matches(":demo")), &layout);
    let foreign = ImageBuilder::new()
        .platform("linux/s390x")
        .layer(Layer::gzip(TarBuilder::new().file("app/main", "other").finish()))
        .build();
    foreign.write_layout(&ground.path("foreign"), "x").unwrap();
    copy(&ground.path("foreign/blobs"), &layout);
    let read = |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let (here, there) = (read(layout.join("index.json")), read(ground.path("foreign/index.json")));
    let images = json!([here["manifests"][0], there["manifests"][0]]);
    let kind = "application/vnd.oci.image.index.v1+json";
    let both = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": images }).to_string();
    let digest = Digest::sha256(both.as_bytes());
    fs::write(layout.join("blobs/sha256").join(digest.encoded()), &both).unwrap();
    let root = json!([{ "mediaType": kind, "digest": digest.as_str(), "size": both.len() }]);
    let root = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": root });
    fs::write(layout.join("index.json"), root.to_string()).unwrap();

    let mut optimize = ground.restow();
    optimize.arg("optimize").arg(&layout).arg(ground.path("out:new")).args(["--zstdchunked", "--run"]);
    optimize.args(["--all-platforms", "--entrypoint", r#"["/bin/busybox"]"#]);
    optimize.arg("--workload").arg(ground.path("workloads")).arg("--record-out").arg(ground.path("record"));
    let done = optimize.args(["--format", "json"]).output().unwrap();
    let said = said(&done);
    assert!(done.status.success(), "{said}");
    assert!(said.contains("heavy: the container's program ended with 0"), "{said}");
    assert!(said.contains("was not run: it is for linux/s390x"), "{said}");
    let document: Value = serde_json::from_slice(&done.stdout).unwrap();
    let exits: Vec<_> = document["workloads"].as_array().unwrap().iter().map(|one| &one["exit"]).collect();
    assert!(exits.len() == 2 && exits.iter().all(|exit| **exit == json!(0)), "{document}");
    assert_eq!(document["workloads"][0]["name"], "heavy");
    assert_eq!(document["workloads"][0]["manifest"], here["manifests"][0]["digest"]);
    let text = fs::read_to_string(ground.path("record")).unwrap();
    let at = |path: &str| text.lines().position(|line| line.contains(&format!("\"{path}\""))).unwrap();
    assert!(at("bin/busybox") < at("app/main") && at("app/main") < at("app/lib/greet.sh"), "{text}");
    wait_until(|| ground.left().is_empty());
}

#[test]
fn an_image_that_claims_another_s_layers_is_not_run() {
    let ground = Ground::new();
    let good = TarBuilder::new().file("bin/sh", "good").finish();
    let claimed = Digest::sha256(&good);
    let evil = Layer::gzip(TarBuilder::new().file("bin/sh", "evil").finish());
    for (name, layer, expected) in [
        ("evil", evil.clone().diff_id(&claimed), "the config names sha256:"),
        ("none", evil.without_diff_id(), "the config names 0 layers, the manifest 1"),
    ] {
        ImageBuilder::new().layer(layer).build().write_layout(&ground.path(name), "x").unwrap();
        let done = ground
            .restow()
            .arg("record")
            .arg(ground.path(name))
            .arg("--out")
            .arg(ground.path("out"))
            .output();
        let done = done.unwrap();
        assert!(!done.status.success() && said(&done).contains(expected), "{}", said(&done));
        assert!(!ground.path("store/roots").exists());
    }
}

#[test]
fn a_record_says_in_which_order_and_how_much_was_read() {
    if !may_record("a_record_says_in_which_order_and_how_much_was_read") {
        return;
    }
    let ground = Ground::new();
    let script = "busybox cat /app/main; busybox stat /app/lib/greet.sh; read word; echo got $word";
    let mut record = ground.record(json!(["sh", "-c", script]));
    let mut running = record.arg("-i").stdin(Stdio::piped()).spawn().unwrap();
    running.stdin.take().unwrap().write_all(b"piped\n").unwrap();
    let done = running.wait_with_output().unwrap();
    let said = said(&done);
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
