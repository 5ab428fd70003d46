//! The first process of the sandbox: mounts, watches, starts the container.

use std::fs;
use std::io;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::mount::mount;
use nix::sys::fanotify::EventFFlags;
use nix::sys::fanotify::Fanotify;
use nix::sys::fanotify::InitFlags;
use nix::sys::fanotify::MarkFlags;
use nix::sys::fanotify::MaskFlags;
use serde_json::Value;
use serde_json::json;

use super::Report;
use super::Sandbox;
use super::cni::Attachment;
use super::lower;
use super::lower::Served;

/// How often the end of the container and of the time are looked for, and new events when there were none.
const TICK: Duration = Duration::from_millis(5);
/// The longest description of a sandbox.
pub(super) const MAX_DESCRIPTION: u64 = 16 << 20;
/// As much of the container's output as is passed on at once.
const OUTPUT: usize = 16 << 10;
/// Bytes of the sandbox's own files in memory.
const OWN: u64 = 1 << 20;
/// How often it is counted how much the container takes, in ticks.
const COUNTED: u32 = 8;
/// Where the runtime says what went wrong.
const LOG: &str = "log";
const NONE: Option<&str> = None;

/// Runs the sandbox that comes through `caller`, a socket, in one line, and tells it what is read.
///
/// Returns when the container or the time is over; the process must end then, and takes all with it. It ends by itself
/// if the socket does. `helper` is the command that ends in [`serve`](super::serve).
pub fn inner(caller: OwnedFd, helper: Command) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    let mut output = UnixStream::from(caller);
    let mut input = BufReader::new(output.try_clone()?.take(MAX_DESCRIPTION));
    let mut line = String::new();
    input.read_line(&mut line)?;
    let sandbox: Sandbox = serde_json::from_str(&line)?;
    let ended: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    std::thread::spawn(move || {
        let _ = io::copy(&mut input.into_inner().into_inner(), &mut io::sink());
        ended.store(true, Ordering::Relaxed);
    });
    if let Err(error) = make_private() {
        // Some systems let users make namespaces, and nothing in them.
        let report = if is_user_namespace()? { Report::Denied } else { Report::Failed };
        tell(&mut output, &report(error.to_string()))?;
    } else if let Err(error) = run(&sandbox, helper, ended, &mut output) {
        tell(&mut output, &Report::Failed(error.to_string()))?;
    }
    output.flush()
}

pub(super) fn tell(output: &mut impl io::Write, report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    output.write_all(&line)
}

/// Runs the container, on its network if it has one.
fn run(
    sandbox: &Sandbox,
    helper: Command,
    ended: &AtomicBool,
    output: &mut impl io::Write,
) -> io::Result<()> {
    let merged = Merged::mount(sandbox, helper)?;
    let Some((network, notes)) = &sandbox.network else { return merged.watch(sandbox, None, ended, output) };
    let attachment = Attachment::attach(network, notes)?;
    let watched = merged.watch(sandbox, Some(&attachment.path()), ended, output);
    watched.and(attachment.detach())
}

fn named(what: &str, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{what}: {error}"))
}

fn mounted(what: &str) -> impl FnOnce(Errno) -> io::Error {
    move |error| named(&format!("mounting {what}"), error)
}

/// Keeps what is mounted here from being seen outside.
fn make_private() -> io::Result<()> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .map_err(mounted("nothing of it outside"))
}

/// Makes all control groups read-only, so that the runtime makes none: they would outlive the sandbox.
fn protect_groups() -> io::Result<()> {
    for (place, flags) in groups(&fs::read_to_string("/proc/self/mountinfo")?) {
        let flags = flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        match mount(NONE, &place, NONE, flags, NONE) {
            // Another mount is on top of it, and nobody gets there.
            Err(Errno::ENOENT | Errno::EINVAL) => {}
            done => done.map_err(mounted("control groups read-only"))?,
        }
    }
    Ok(())
}

/// Returns where control groups are mounted, and with which flags, by a table as `/proc/self/mountinfo` has it.
fn groups(table: &str) -> Vec<(PathBuf, MsFlags)> {
    // In a user namespace, what is set may not be taken away.
    let known = [
        ("nosuid", MsFlags::MS_NOSUID),
        ("nodev", MsFlags::MS_NODEV),
        ("noexec", MsFlags::MS_NOEXEC),
        ("noatime", MsFlags::MS_NOATIME),
        ("nodiratime", MsFlags::MS_NODIRATIME),
        ("relatime", MsFlags::MS_RELATIME),
    ];
    let group = |line: &str| {
        let (mount, kind) = line.split_once(" - ")?;
        let kind = kind.split(' ').next()?;
        let mut fields = mount.split(' ').skip(4);
        let (place, options) = (fields.next()?, fields.next()?);
        let flags = options.split(',').filter_map(|option| known.iter().find(|(name, _)| *name == option));
        let flags = flags.fold(MsFlags::empty(), |all, (_, flag)| all | *flag);
        (kind == "cgroup" || kind == "cgroup2").then(|| (unescape(place), flags))
    };
    table.lines().filter_map(group).collect()
}

/// Returns a path of that table: in it, what separates fields is written as its octal number.
fn unescape(text: &str) -> PathBuf {
    let mut text = text.to_owned();
    for (number, byte) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(number, byte);
    }
    text.into()
}

/// The container's root, and what tells what happens in it.
struct Merged {
    path: PathBuf,
    /// Who serves our file system, or why there is none.
    lower: io::Result<Served>,
}

impl Merged {
    /// Mounts the container's root.
    fn mount(sandbox: &Sandbox, helper: Command) -> io::Result<Self> {
        let hardened = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), "/proc", Some("proc"), hardened, NONE).map_err(mounted("/proc"))?;
        protect_groups()?;
        let scratch = &sandbox.scratch;
        // What the container writes could hold devices.
        let tame = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        // Its own files are small, what the container writes is not.
        let options = format!("mode=700,size={}", sandbox.allowance.written.saturating_add(OWN));
        mount(Some("tmpfs"), scratch, Some("tmpfs"), tame, Some(options.as_str()))
            .map_err(mounted("a memory file system"))?;
        let path = scratch.join("bundle/rootfs");
        for directory in ["upper", "work", "state", "files", "bundle", "bundle/rootfs", "lower"] {
            fs::create_dir(scratch.join(directory))?;
        }
        // The root's path may hold what separates options; a mount point of our own does not.
        let place = scratch.join("lower");
        let lower = lower::mount(helper, &sandbox.root, &place);
        if lower.is_err() {
            mount(Some(&sandbox.root), &place, NONE, MsFlags::MS_BIND, NONE).map_err(mounted("the root"))?;
        }
        // The container's user must be able to pass.
        for directory in ["upper", "."] {
            fs::set_permissions(scratch.join(directory), fs::Permissions::from_mode(0o755))?;
        }
        std::env::set_current_dir(scratch)?;
        // In a user namespace, an overlay notes what it has to in attributes that users may set.
        let attributes = if is_user_namespace()? { ",userxattr" } else { "" };
        let options = format!("lowerdir=lower,upperdir=upper,workdir=work{attributes}");
        mount(Some("overlay"), &path, Some("overlay"), tame, Some(options.as_str()))
            .map_err(mounted("an overlay"))?;
        for (name, content) in &sandbox.files {
            let file = Sandbox::file(scratch, name);
            fs::write(&file, content)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
        }
        Ok(Self { path, lower })
    }

    /// Runs the container and tells what it opens and reads.
    fn watch(
        self,
        sandbox: &Sandbox,
        network: Option<&str>,
        ended: &AtomicBool,
        output: &mut impl io::Write,
    ) -> io::Result<()> {
        let Self { path: merged, lower } = self;
        // Before the container, so that nothing is missed.
        let watch = match (watch(&merged), &lower) {
            (Ok(watch), _) => Some(watch),
            (Err(_), Ok(_)) => None,
            (Err(error), Err(other)) => {
                return Err(named(
                    "nothing can tell what the container reads",
                    format!("fanotify: {error}; FUSE: {other}"),
                ));
            }
        };
        match &lower {
            Ok(_) => tell(output, &Report::Counts)?,
            Err(error) => {
                let text = format!("how much of a file is read cannot be told: {error}");
                tell(output, &Report::Notice(text))?;
            }
        }
        let bundle = described(sandbox, network, output)?;
        fs::write(sandbox.scratch.join("bundle/config.json"), serde_json::to_vec(&bundle)?)?;
        let (mut child, line_seen) = start(sandbox)?;
        let mut ticks = 0_u32;
        let deadline = sandbox.period.map(|period| Instant::now() + Duration::from_millis(period));
        loop {
            ticks = ticks.wrapping_add(1);
            if ticks.is_multiple_of(COUNTED)
                && let Some(problem) = sandbox.allowance.exceeded(Path::new("/proc"))?
            {
                return Err(io::Error::other(problem));
            }
            // Asked first: what was opened before the end is read after it.
            let exit = child.try_wait()?;
            let over = exit.is_some()
                || ended.load(Ordering::Relaxed)
                || line_seen.load(Ordering::Relaxed)
                || deadline.is_some_and(|deadline| Instant::now() >= deadline);
            let mut any = false;
            while match &watch {
                Some(watch) => report(watch, &merged, output)?,
                None => pass_on(lower.iter().flat_map(|lower| lower.opened.try_iter()), output)?,
            } {
                any = true;
            }
            if let Some(status) = exit {
                let log = fs::read_to_string(sandbox.scratch.join(LOG)).unwrap_or_default();
                tell(output, &Report::Exited(outcome(status, &log)?))?;
            }
            if over {
                break;
            }
            if !any {
                std::thread::sleep(TICK);
            }
        }
        let Ok(lower) = lower else { return Ok(()) };
        lower.reads()?.iter().try_for_each(|read| tell(output, read))
    }
}

/// Returns what the container's program ended with, or why it did not begin.
fn outcome(status: ExitStatus, log: &str) -> io::Result<i32> {
    // Of a program that a signal ended, the runtime returns a code.
    let code = status.code().ok_or_else(|| io::Error::other(format!("the runtime ended by {status}")))?;
    match complaint(log).filter(|_| code != 0) {
        Some(problem) => Err(io::Error::other(problem)),
        None => Ok(code),
    }
}

/// Returns the last error in a runtime's log.
fn complaint(log: &str) -> Option<String> {
    let message = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        let fatal = ["error", "fatal", "panic"].iter().any(|level| line["level"] == *level);
        line["msg"].as_str().filter(|_| fatal).map(str::to_owned)
    };
    log.lines().filter_map(message).next_back()
}

/// Says whether only some users exist here.
fn is_user_namespace() -> io::Result<bool> {
    // user_namespaces(7): where all exist, the map says so in one line.
    let map = fs::read_to_string("/proc/self/uid_map")?;
    Ok(map.split_whitespace().nth(2).is_none_or(|count| count != u32::MAX.to_string()))
}

/// Returns the container's description as it can be here.
fn described(sandbox: &Sandbox, network: Option<&str>, output: &mut impl io::Write) -> io::Result<Value> {
    let mut bundle = sandbox.bundle.clone();
    let mut has_network = false;
    let namespaces = bundle["linux"]["namespaces"].as_array_mut();
    for namespace in namespaces.into_iter().flatten().filter(|namespace| namespace["type"] == "network") {
        has_network = true;
        if let Some(path) = network {
            namespace["path"] = path.into();
        }
    }
    let mounts = bundle["mounts"].as_array_mut().into_iter().flatten();
    // It shows a network, and only whose the network is may mount it.
    if let Some(system) = mounts.filter(|_| !has_network).find(|mount| mount["type"] == "sysfs")
        && is_user_namespace()?
    {
        let options = ["rbind", "nosuid", "noexec", "nodev", "ro"];
        *system = json!({ "destination": "/sys", "source": "/sys", "type": "bind", "options": options });
    }
    let user = &mut bundle["process"]["user"];
    if is_user_namespace()? {
        if user["uid"] != 0 || user["gid"] != 0 {
            let text = "without root there is one user: the container runs as its root".into();
            tell(output, &Report::Notice(text))?;
        }
        *user = json!({ "uid": 0, "gid": 0, "additionalGids": [] });
    }
    Ok(bundle)
}

/// Starts the container; the flag is set once it has written the line that ends the watching.
fn start(sandbox: &Sandbox) -> io::Result<(Child, &'static AtomicBool)> {
    let seen: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    let standard_error = || io::stderr().as_fd().try_clone_to_owned().map(Stdio::from);
    let mut child = Command::new(&sandbox.runtime)
        // It can make no control groups; so it takes it.
        .args(["--rootless", "true", "--log-format", "json", "--log"])
        .arg(sandbox.scratch.join(LOG))
        .arg("--root")
        .arg(sandbox.scratch.join("state"))
        .args(["run", "--bundle"])
        .arg(sandbox.scratch.join("bundle"))
        .arg("restow")
        .stdin(if sandbox.input { Stdio::inherit() } else { Stdio::null() })
        .stdout(if sandbox.wait_on_line.is_some() { Stdio::piped() } else { standard_error()? })
        .stderr(standard_error()?)
        .spawn()
        .map_err(|error| named(&format!("starting {}", sandbox.runtime.display()), error))?;
    if let (Some(wanted), Some(mut output)) = (sandbox.wait_on_line.clone(), child.stdout.take()) {
        std::thread::spawn(move || {
            let mut lines = Lines::new(wanted.into_bytes());
            let mut bytes = [0; OUTPUT];
            // Passed on as it comes: what asks a question ends no line.
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                let _ = io::stderr().lock().write_all(&bytes[..count]);
                if lines.add(&bytes[..count]) {
                    seen.store(true, Ordering::Relaxed);
                }
            }
        });
    }
    Ok((child, seen))
}

/// Looks for a line that holds some bytes.
struct Lines {
    wanted: Vec<u8>,
    /// The end of the line that has begun, as long as the bytes may begin in it.
    line: Vec<u8>,
}

impl Lines {
    fn new(wanted: Vec<u8>) -> Self {
        Self { wanted, line: Vec::new() }
    }

    /// Says whether a line holds the bytes, now that these were added.
    fn add(&mut self, bytes: &[u8]) -> bool {
        let mut found = false;
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            let length = self.wanted.len();
            found |= length == 0 || self.line.windows(length).any(|window| window == self.wanted);
            let keep = if part.ends_with(b"\n") { 0 } else { length.saturating_sub(1) };
            self.line.drain(..self.line.len().saturating_sub(keep));
        }
        found
    }
}

/// Tells of files that were opened; says whether there were any.
fn pass_on(opened: impl Iterator<Item = String>, output: &mut impl io::Write) -> io::Result<bool> {
    let mut any = false;
    for path in opened {
        tell(output, &Report::Opened(path))?;
        any = true;
    }
    Ok(any)
}

/// Starts to watch the overlay that is mounted at the path, wherever else it is mounted.
fn watch(merged: &Path) -> nix::Result<Fanotify> {
    let flags = InitFlags::FAN_CLASS_NOTIF
        | InitFlags::FAN_CLOEXEC
        | InitFlags::FAN_NONBLOCK
        | InitFlags::FAN_UNLIMITED_QUEUE;
    let watch =
        Fanotify::init(flags, EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC | EventFFlags::O_LARGEFILE)?;
    // A container has its own mount of it, which a mark on the mount would miss.
    let mark = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM;
    let here = fs::File::open("/").map_err(|_| Errno::ENOENT)?;
    watch.mark(mark, MaskFlags::FAN_OPEN | MaskFlags::FAN_OPEN_EXEC, &here, Some(merged))?;
    Ok(watch)
}

/// Tells of the events that wait; says whether there were any.
fn report(watch: &Fanotify, merged: &Path, output: &mut impl io::Write) -> io::Result<bool> {
    let events = match watch.read_events() {
        Err(Errno::EAGAIN) => return Ok(false),
        events => events.map_err(|error| named("reading what was opened", error))?,
    };
    for descriptor in events.iter().filter_map(|event| event.fd()) {
        if let Some(path) = path(descriptor, merged) {
            tell(output, &Report::Opened(path))?;
        }
    }
    Ok(true)
}

/// Returns the path of an open file, seen from the container's root.
fn path(descriptor: BorrowedFd<'_>, merged: &Path) -> Option<String> {
    let path = fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd())).ok()?;
    // As the container sees it once it has changed its root, as we do before.
    let path = path.strip_prefix(merged).or_else(|_| path.strip_prefix("/")).ok()?;
    path.to_str().filter(|path| !path.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_groups_are_found_with_what_they_are_mounted_with() {
        let table = "25 1 0:23 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            26 25 0:24 / /sys/fs/cgroup/cpu\\040x rw,nosuid,relatime shared:9 - cgroup cgroup rw,cpu\n\
            27 25 0:25 / /sys/fs/cgroup/unified rw,nodev,noexec master:1 shared:2 - cgroup2 cgroup2 rw\n\
            28 1 0:26 / /cgroup rw - ext4 /dev/cgroup rw\nnonsense\n";
        let expected = [
            (PathBuf::from("/sys/fs/cgroup/cpu x"), MsFlags::MS_NOSUID | MsFlags::MS_RELATIME),
            (PathBuf::from("/sys/fs/cgroup/unified"), MsFlags::MS_NODEV | MsFlags::MS_NOEXEC),
        ];
        assert_eq!(groups(table), expected);
    }

    #[test]
    fn a_runtime_that_complains_and_fails_has_not_run_the_program() {
        use std::os::unix::process::ExitStatusExt as _;
        let complaint = "{\"level\":\"warning\",\"msg\":\"old\"}\nnonsense\n{\"level\":\"error\",\"msg\":\"no such file\"}\n";
        for (status, log, expected) in [
            (0, "", Ok(0)),
            (7 << 8, "", Ok(7)),
            (0, complaint, Ok(0)),
            (1 << 8, "{\"level\":\"warning\",\"msg\":\"old\"}\n", Ok(1)),
            (1 << 8, complaint, Err("no such file".to_owned())),
            (9, "", Err("the runtime ended by signal: 9 (SIGKILL)".to_owned())),
        ] {
            let found = outcome(ExitStatus::from_raw(status), log).map_err(|error| error.to_string());
            assert_eq!(found, expected, "{status} {log}");
        }
    }

    #[test]
    fn a_line_is_found_by_a_part_of_it_however_it_comes() {
        for (pieces, expected) in [
            (&["ser", "ver is rea", "dy\n"][..], true),
            (&["is ready"], true),
            (&["is rea\ndy"], false),
            (&["is rea", "\n", "dy"], false),
            (&["not yet\nis ready\n"], true),
            (&[""], false),
        ] {
            let mut lines = Lines::new(b"is ready".to_vec());
            let found = pieces.iter().fold(false, |found, piece| lines.add(piece.as_bytes()) | found);
            assert_eq!(found, expected, "{pieces:?}");
        }
    }
}
