//! Running a container to see what it reads.
//!
//! Four processes, so that nothing is left behind however they end:
//!
//! ```text
//! caller ◀──▶ outer: new namespaces of mounts and processes ──▶ inner: the first process in them ──▶ runc ──▶ the container
//!                                                                    └──▶ serve: the file system below it
//! ```
//!
//! All mounts are made in the namespace of the inner process, everything the container writes goes to memory, and the
//! kernel kills all that runs in a process namespace when its first process ends. The inner process ends when the socket
//! from the caller does, so `kill -9` of the caller takes all of it down. Control groups would outlive it: they cannot be
//! made. What a network leaves outside of the namespaces is written down, and [`clean_networks`] takes it away.
//!
//! [`record`] is for the caller; a program that calls it must call [`outer`], [`inner`] and [`serve`] when it is started with what
//! the helper's command line says; the outer process must have one thread only then.
//!
//! What is opened is told by fanotify on the overlay's own file system, on which nothing else happens. Below the overlay is
//! a file system of our own, if the kernel lets us have one, which tells how much of each file is read. Who may not make
//! namespaces makes them in a user namespace; fanotify means nothing there, and our file system tells both.

mod bundle;
mod cdi;
mod cni;
mod inner;
mod lower;
mod seccomp;
mod usage;
mod user;

use std::collections::HashMap;
use std::io;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

pub use self::bundle::Mount;
pub use self::bundle::Settings;
pub use self::bundle::bundle;
pub use self::cdi::add_devices;
pub use self::cni::Network;
pub use self::cni::clean as clean_networks;
pub use self::inner::inner;
pub use self::lower::serve;
pub use self::usage::Allowance;
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
    /// The network to attach the container to, and the directory for [`clean_networks`] to look into.
    pub network: Option<(Network, PathBuf)>,
    /// What the container may take.
    pub allowance: Allowance,
    /// Whether the container reads this process's standard input; otherwise it has none.
    pub input: bool,
    /// How long to watch, in milliseconds; to the end if there is no limit.
    pub period: Option<u64>,
    /// Stop as soon as the container writes a line that holds this.
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
    /// The files that were opened, in the order of their first opening.
    pub files: Vec<Opened>,
    /// How the container's program ended, if it did before the watching.
    pub exit: Option<i32>,
    /// What the user should know of how it was run.
    pub notices: Vec<String>,
}

/// A file that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Its path, from the container's root on.
    pub path: String,
    /// How many of its bytes were read, if that is known, and how many there are, at the most, in the chunks that a lazy
    /// reader had to fetch for them.
    pub read: Option<(u64, u64)>,
}

/// What the inner process tells, a line each.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    /// A file was opened.
    Opened(String),
    /// How much was read of it; of what is not told, nothing was.
    Read(String, u64, u64),
    /// From now on it is known how much is read.
    Counts,
    Exited(i32),
    Notice(String),
    Failed(String),
    /// The namespaces cannot be made.
    Denied(String),
}

/// Runs a container and returns what it read. `helper` is the command that ends in [`outer`].
///
/// The container's output goes to this process's standard error. `stop` ends the watching when it says so; it is asked
/// a few times a second.
pub fn record(mut helper: Command, sandbox: &Sandbox, stop: &(dyn Fn() -> bool + Sync)) -> Result<Trace> {
    let failed = |problem: String| Error::Sandbox { problem };
    let unstarted = |error: io::Error| failed(format!("the helper cannot be started: {error}"));
    let (mut ours, theirs) = UnixStream::pair().map_err(unstarted)?;
    helper.stdout(OwnedFd::from(theirs));
    if sandbox.input {
        helper.stdin(Stdio::inherit());
    } else {
        // A terminal's Ctrl-C is for the caller, who ends the sandbox in good order. Who reads the terminal has to be in
        // the caller's group.
        helper.stdin(Stdio::null()).process_group(0);
    }
    let mut child = helper.spawn().map_err(unstarted)?;
    // Its copy of the helper's end would keep the socket open.
    drop(helper);
    let mut line = serde_json::to_vec(sandbox).map_err(|error| failed(error.to_string()))?;
    line.push(b'\n');
    let sent = ours.write_all(&line);
    let mut told = Told::default();
    let done = std::sync::atomic::AtomicBool::new(false);
    let cloned = ours.try_clone().map_err(unstarted)?;
    std::thread::scope(|scope| {
        // As long as the socket is open, the sandbox runs.
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) && !stop() {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            let _ = ours.shutdown(Shutdown::Write);
        });
        for line in BufReader::new(cloned).lines().map_while(io::Result::ok) {
            if let Ok(report) = serde_json::from_str(&line) {
                told.hear(report);
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    if let Err(error) = sent {
        told.problem.get_or_insert(format!("the helper does not listen: {error}"));
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    if let Some(problem) = told.denied {
        return Err(Error::Namespaces { problem });
    }
    match told.problem {
        Some(problem) => Err(failed(problem)),
        // What it has told so far is no record.
        None if !status.success() => Err(failed(format!("the helper ended with {status}"))),
        None => Ok(told.trace),
    }
}

/// What the inner process has told so far.
#[derive(Default)]
struct Told {
    trace: Trace,
    /// Where each path is in the trace.
    places: HashMap<String, usize>,
    counts: bool,
    problem: Option<String>,
    denied: Option<String>,
}

impl Told {
    fn hear(&mut self, report: Report) {
        let files = &mut self.trace.files;
        match report {
            Report::Opened(path) if files.len() < MAX_PATHS && !self.places.contains_key(&path) => {
                self.places.insert(path.clone(), files.len());
                files.push(Opened { path, read: self.counts.then_some((0, 0)) });
            }
            Report::Opened(_) => {}
            Report::Read(path, read, touched) => {
                if let Some(place) = self.places.get(&path) {
                    files[*place].read = Some((read, touched));
                }
            }
            Report::Counts => self.counts = true,
            Report::Exited(code) => self.trace.exit = Some(code),
            Report::Notice(text) => self.trace.notices.push(text),
            Report::Failed(text) => self.problem = Some(text),
            Report::Denied(text) => self.denied = Some(text),
        }
    }
}

/// Says whether this process is root's.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The outer process: makes the namespaces and starts `helper`, which ends in [`inner`]. Returns its exit code.
///
/// `caller` is the socket that [`inner`] gets, too.
pub fn outer(mut helper: Command, caller: OwnedFd) -> io::Result<i32> {
    if let Err(error) = separate() {
        inner::tell(&mut UnixStream::from(caller), &Report::Denied(error.to_string()))?;
        return Ok(1);
    }
    drop(caller);
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    Ok(helper.status()?.code().unwrap_or(1))
}

/// Makes the namespaces.
fn separate() -> io::Result<()> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let spaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    match nix::sched::unshare(spaces) {
        // In a user namespace, everyone may.
        Err(Errno::EPERM) => {
            nix::sched::unshare(spaces | CloneFlags::CLONE_NEWUSER)?;
            // user_namespaces(7): who may not set groups outside must give that up inside to map his own.
            std::fs::write("/proc/self/setgroups", "deny")?;
            std::fs::write("/proc/self/gid_map", format!("0 {} 1", group.as_raw()))?;
            std::fs::write("/proc/self/uid_map", format!("0 {} 1", user.as_raw()))
        }
        made => Ok(made?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sandbox_that_ended_well_gives_a_record() {
        let sandbox = Sandbox {
            root: PathBuf::new(),
            scratch: PathBuf::new(),
            runtime: PathBuf::new(),
            bundle: Value::Null,
            files: Vec::new(),
            network: None,
            allowance: Allowance::default(),
            input: false,
            period: None,
            wait_on_line: None,
        };
        let opened = r#"{"Opened":"a"}"#;
        for (last, status, expected) in [
            (r#"{"Exited":7}"#, 0, Ok((1, Some(7)))),
            (opened, 0, Ok((1, None))),
            // Killed midway: what it has told is not all.
            (opened, 137, Err("the container cannot be run: the helper ended with exit status: 137")),
            (r#"{"Failed":"no room"}"#, 0, Err("the container cannot be run: no room")),
            (r#"{"Denied":"not you"}"#, 1, Err("this user may not make namespaces: not you")),
        ] {
            let mut helper = Command::new("sh");
            helper.args(["-c", "read line <&1; echo \"$1\"; echo \"$2\"; exit $3", "sh", opened, last]);
            helper.arg(status.to_string());
            let found = record(helper, &sandbox, &|| false);
            let found = found.map(|trace| (trace.files.len(), trace.exit)).map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{last} {status}");
        }
    }
}
