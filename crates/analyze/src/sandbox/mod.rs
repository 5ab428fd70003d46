//! Running a container to see what it reads.
//!
//! Three processes, so that nothing is left behind however they end:
//!
//! ```text
//! caller ──▶ outer: a new mount and process namespace ──▶ inner: the first process in it ──▶ runc ──▶ the container
//! ```
//!
//! All mounts are made in the namespace of the inner process, everything the container writes goes to memory, and the
//! kernel kills all that runs in a process namespace when its first process ends. The inner process ends when the pipe
//! from the caller does, so `kill -9` of the caller takes all of it down. Control groups are not made.
//!
//! [`record`] is for the caller; a program that calls it must call [`outer`] and [`inner`] when it is started with what
//! the helper's command line says. What is read is told by fanotify on the overlay's own file system, on which nothing
//! else happens.

mod bundle;
mod inner;
mod user;

use std::collections::HashSet;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

pub use self::bundle::Mount;
pub use self::bundle::Settings;
pub use self::bundle::bundle;
pub use self::inner::inner;
pub use self::user::user;
use crate::Error;
use crate::Result;

/// The most paths that one run may touch.
const MAX_PATHS: usize = 1_000_000;

/// A container to be run and watched.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sandbox {
    /// What the container sees as its root; it is only read.
    pub root: PathBuf,
    /// An empty directory in which a namespace of its own mounts what the container writes.
    pub scratch: PathBuf,
    /// The runtime, called as runc is.
    pub runtime: PathBuf,
    /// The `config.json` of the container; see [`bundle`].
    pub bundle: Value,
    /// Files the configuration may mount, by name, from [`Sandbox::file`].
    pub files: Vec<(String, String)>,
    /// How long to watch, in milliseconds; to the end if there is no limit.
    pub period: Option<u64>,
    /// Stop as soon as the container writes this line.
    pub wait_on_line: Option<String>,
}

impl Sandbox {
    /// Returns where one of the [`files`](Self::files) is in the sandbox.
    pub fn file(scratch: &Path, name: &str) -> PathBuf {
        scratch.join("files").join(name)
    }
}

/// What a run has shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// The paths that were opened, from the container's root on, in the order of their first opening.
    pub paths: Vec<String>,
    /// How the container's program ended, if it did before the watching.
    pub exit: Option<i32>,
}

/// What the inner process tells, a line each.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    Opened(String),
    Exited(i32),
    Failed(String),
}

/// Runs a container and returns what it read. `helper` is the command that ends in [`outer`].
///
/// The container's output goes to this process's standard error. `stop` ends the watching when it says so; it is asked
/// a few times a second.
pub fn record(mut helper: Command, sandbox: &Sandbox, stop: &(dyn Fn() -> bool + Sync)) -> Result<Trace> {
    let failed = |problem: String| Error::Sandbox { problem };
    let mut child = helper
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("the helper cannot be started: {error}")))?;
    let mut trace = Trace::default();
    let mut problem = None;
    if let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) {
        let mut line = serde_json::to_vec(sandbox).map_err(|error| failed(error.to_string()))?;
        line.push(b'\n');
        let sent = input.write_all(&line);
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            // As long as the pipe is open, the sandbox runs.
            scope.spawn(|| {
                let _open = input;
                while !done.load(std::sync::atomic::Ordering::Relaxed) && !stop() {
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
            });
            let mut seen = HashSet::new();
            for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
                match serde_json::from_str(&line) {
                    Ok(Report::Opened(path)) if seen.len() < MAX_PATHS && seen.insert(path.clone()) => {
                        trace.paths.push(path)
                    }
                    Ok(Report::Opened(_)) | Err(_) => {}
                    Ok(Report::Exited(code)) => trace.exit = Some(code),
                    Ok(Report::Failed(text)) => problem = Some(text),
                }
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        if let Err(error) = sent {
            problem.get_or_insert(format!("the helper does not listen: {error}"));
        }
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    match problem {
        Some(problem) => Err(failed(problem)),
        None if !status.success() && trace.paths.is_empty() => {
            Err(failed(format!("the helper ended with {status}")))
        }
        None => Ok(trace),
    }
}

/// The outer process: makes the namespaces and starts `helper`, which ends in [`inner`]. Returns its exit code.
pub fn outer(mut helper: Command) -> std::io::Result<i32> {
    use nix::sched::CloneFlags;
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)?;
    Ok(helper.status()?.code().unwrap_or(1))
}
