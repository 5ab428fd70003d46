//! The first process of the sandbox: mounts, watches, starts the container.

use std::fs;
use std::io;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::Child;
use std::process::Command;
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

use super::Report;
use super::Sandbox;

/// How often the end of the container and of the time are looked for, and new events when there were none.
const TICK: Duration = Duration::from_millis(5);
/// The longest description of a sandbox.
const MAX_DESCRIPTION: u64 = 16 << 20;

/// Runs the sandbox that `input` describes in its first line, and tells `output` what is read in it.
///
/// Returns when the container or the time is over; the process must end then, and takes all with it. It ends by itself
/// if `input` does.
pub fn inner(input: impl io::Read + Send + 'static, mut output: impl io::Write) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    let mut input = BufReader::new(input.take(MAX_DESCRIPTION));
    let mut line = String::new();
    input.read_line(&mut line)?;
    let sandbox: Sandbox = serde_json::from_str(&line)?;
    let done = run(&sandbox, input, &mut output);
    if let Err(error) = &done {
        tell(&mut output, &Report::Failed(error.to_string()))?;
    }
    output.flush()
}

fn tell(output: &mut impl io::Write, report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    output.write_all(&line)
}

fn run(
    sandbox: &Sandbox,
    mut input: impl io::Read + Send + 'static,
    output: &mut impl io::Write,
) -> io::Result<()> {
    let merged = prepare(sandbox)?;
    // Before the container, so that nothing is missed.
    let watch = watch(&merged).map_err(|error| named("watching the container's files", error))?;
    let (child, line_seen) = start(sandbox)?;
    let ended: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    std::thread::spawn(move || {
        let _ = io::copy(&mut input, &mut io::sink());
        ended.store(true, Ordering::Relaxed);
    });
    let deadline = sandbox.period.map(|period| Instant::now() + Duration::from_millis(period));
    let mut child = Some(child);
    loop {
        // Asked first: what was opened before the end is read after it.
        let exit = match &mut child {
            Some(running) => running.try_wait()?,
            None => None,
        };
        let over = exit.is_some()
            || ended.load(Ordering::Relaxed)
            || line_seen.load(Ordering::Relaxed)
            || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let mut any = false;
        while report(&watch, &merged, output)? {
            any = true;
        }
        if let Some(status) = exit {
            child = None;
            tell(output, &Report::Exited(status.code().unwrap_or(128)))?;
        }
        if over {
            return Ok(());
        }
        if !any {
            std::thread::sleep(TICK);
        }
    }
}

fn named(what: &str, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{what}: {error}"))
}

/// Mounts the container's root and writes its bundle; returns the root's path.
fn prepare(sandbox: &Sandbox) -> io::Result<std::path::PathBuf> {
    const NONE: Option<&str> = None;
    let mounted = |what: &str| {
        let what = format!("mounting {what}");
        move |error: Errno| named(&what, error)
    };
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .map_err(mounted("nothing of it outside"))?;
    let hardened = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), hardened, NONE).map_err(mounted("/proc"))?;
    let scratch = &sandbox.scratch;
    mount(Some("tmpfs"), scratch, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=700"))
        .map_err(mounted("a memory file system"))?;
    let merged = scratch.join("bundle/rootfs");
    for directory in ["upper", "work", "state", "files", "bundle", "bundle/rootfs", "lower"] {
        fs::create_dir(scratch.join(directory))?;
    }
    // The root's path may hold what separates options; a mount point of our own does not.
    let lower = scratch.join("lower");
    mount(Some(&sandbox.root), &lower, NONE, MsFlags::MS_BIND, NONE).map_err(mounted("the root"))?;
    // The container's user must be able to pass.
    for directory in ["upper", "."] {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(scratch.join(directory), fs::Permissions::from_mode(0o755))?;
    }
    std::env::set_current_dir(scratch)?;
    let options = "lowerdir=lower,upperdir=upper,workdir=work";
    mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options))
        .map_err(mounted("an overlay"))?;
    for (name, content) in &sandbox.files {
        fs::write(Sandbox::file(scratch, name), content)?;
    }
    fs::write(scratch.join("bundle/config.json"), serde_json::to_vec(&sandbox.bundle)?)?;
    Ok(merged)
}

/// Starts the container; the flag is set once it has written the line that ends the watching.
fn start(sandbox: &Sandbox) -> io::Result<(Child, &'static AtomicBool)> {
    let seen: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    let standard_error = || io::stderr().as_fd().try_clone_to_owned().map(Stdio::from);
    let mut child = Command::new(&sandbox.runtime)
        // Without control groups: they would outlive the sandbox.
        .args(["--rootless", "true", "--root"])
        .arg(sandbox.scratch.join("state"))
        .args(["run", "--bundle"])
        .arg(sandbox.scratch.join("bundle"))
        .arg("restow")
        .stdin(Stdio::null())
        .stdout(if sandbox.wait_on_line.is_some() { Stdio::piped() } else { standard_error()? })
        .stderr(standard_error()?)
        .spawn()
        .map_err(|error| named(&format!("starting {}", sandbox.runtime.display()), error))?;
    if let (Some(line), Some(output)) = (sandbox.wait_on_line.clone(), child.stdout.take()) {
        std::thread::spawn(move || {
            for found in BufReader::new(output).split(b'\n').map_while(io::Result::ok) {
                let _ = io::stderr().lock().write_all(&[&found[..], b"\n"].concat());
                if found == line.as_bytes() {
                    seen.store(true, Ordering::Relaxed);
                }
            }
        });
    }
    Ok((child, seen))
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
