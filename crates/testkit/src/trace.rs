//! Programs that fail, or are killed, at a system call of one's choice.
//!
//! Counted are the calls that may change something outside of the program (what is written, created, renamed, removed,
//! synced, locked), or those that read files of its working directory. Linux on x86-64 alone, since a call is known by
//! its number.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::ptrace::Options;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// What happens at the call a test chose.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Injection {
    /// The program is killed before the call has done anything.
    Kill,
    /// The call does nothing and fails with this error.
    Fail(i32),
    /// A write takes half of its bytes. Another call is left alone.
    Short,
    /// A read does nothing and fails with this error. Another call is left alone.
    FailRead(i32),
    /// A read gives half of what was asked for. Another call is left alone.
    ShortRead,
}

/// What became of a program.
#[derive(Debug)]
pub struct Traced {
    /// How many calls were counted, at most up to the chosen one where that killed the program.
    pub steps: u64,
    /// Whether the chosen call was reached.
    pub reached: bool,
    /// The file that the chosen call waited for to be on the disk, if that is what it did.
    pub synced: Option<PathBuf>,
    /// The exit code, unless the program was killed.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

// <https://github.com/torvalds/linux/blob/v6.12/arch/x86/entry/syscalls/syscall_64.tbl>
const WRITES: [u64; 4] = [1, 18, 20, 296];
const READS: [u64; 5] = [0, 17, 19, 217, 295];
const SYNCS: [u64; 2] = [74, 75];
const OPENAT: u64 = 257;
const CHANGES: [u64; 24] = [
    16, 73, 74, 75, 76, 77, 82, 83, 84, 86, 87, 88, 90, 91, 258, 263, 264, 265, 268, 277, 280, 285, 316, 326,
];
const CREATE: u64 = 0o100;
/// The standard streams.
const STREAMS: u64 = 2;

/// Runs `program` with `arguments` and lets it meet `injection` at the call number `at`, counted from 1. Only one such
/// run goes on in a process at a time.
///
/// `files` is where stdout and stderr go meanwhile.
pub fn run(program: &mut Command, at: u64, injection: Injection, mut files: [File; 2]) -> Traced {
    let mut command = Command::new("sh");
    // The shell waits until it is traced, and becomes the program.
    command.args(["-c", "read -r _ && exec \"$0\" \"$@\" </dev/null"]).arg(program.get_program());
    command.args(program.get_args()).stdin(Stdio::piped());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(directory) = program.get_current_dir() {
        command.current_dir(directory);
    }
    let output = |file: &File| file.try_clone().expect("a descriptor is to be had");
    let mut child =
        command.stdout(output(&files[0])).stderr(output(&files[1])).spawn().expect("there is a shell");
    let main = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(main, options).expect("a child may be traced");
    ptrace::interrupt(main).expect("what is traced can be stopped");
    child.stdin.take().expect("it is piped").write_all(b"go\n").expect("the shell reads");

    let directory = program.get_current_dir().map(PathBuf::from);
    let mut tracer = Tracer { main, directory, at, injection, ..Tracer::default() };
    let code = tracer.follow();
    // It was waited for above.
    drop(child);
    let mut text = |file: usize| {
        let mut text = String::new();
        files[file].rewind().and_then(|()| files[file].read_to_string(&mut text)).expect("a file is read");
        text
    };
    let (stdout, stderr) = (text(0), text(1));
    let Tracer { steps, synced, .. } = tracer;
    Traced { steps, reached: steps >= at, synced, code, stdout, stderr }
}

struct Tracer {
    main: Pid,
    directory: Option<PathBuf>,
    at: u64,
    injection: Injection,
    steps: u64,
    synced: Option<PathBuf>,
    started: bool,
    /// The threads inside of a call, and the error it shall have.
    inside: BTreeMap<Pid, Option<i32>>,
}

impl Default for Tracer {
    fn default() -> Tracer {
        Tracer {
            main: Pid::from_raw(0),
            directory: None,
            at: 0,
            injection: Injection::Kill,
            steps: 0,
            synced: None,
            started: false,
            inside: BTreeMap::new(),
        }
    }
}

impl Tracer {
    /// Follows the program to its end and returns its exit code.
    fn follow(&mut self) -> Option<i32> {
        let mut code = None;
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                Err(_) => return code,
            };
            let mut signal = None;
            match status {
                WaitStatus::Exited(pid, exit) => {
                    if pid == self.main {
                        code = Some(exit);
                    }
                    continue;
                }
                WaitStatus::Signaled(..) => continue,
                WaitStatus::PtraceSyscall(pid) => self.call(pid),
                // After an exec no call goes on that could end.
                WaitStatus::PtraceEvent(pid, _, event)
                    if event == ptrace::Event::PTRACE_EVENT_EXEC as i32 =>
                {
                    self.started = true;
                    self.inside.insert(pid, None);
                }
                WaitStatus::Stopped(_, stop) if stop != Signal::SIGTRAP => signal = Some(stop),
                _ => {}
            }
            if let Some(pid) = status.pid() {
                // A thread that was killed meanwhile cannot go on, and says so to the next wait.
                let _ = ptrace::syscall(pid, signal);
            }
        }
    }

    /// A thread enters a call, or leaves one.
    fn call(&mut self, pid: Pid) {
        if let Some(error) = self.inside.remove(&pid) {
            if let (Some(error), Ok(mut registers)) = (error, ptrace::getregs(pid)) {
                registers.rax = i64::from(-error).cast_unsigned();
                let _ = ptrace::setregs(pid, registers);
            }
            return;
        }
        let Ok(mut registers) = ptrace::getregs(pid) else { return };
        let mut error = None;
        let (number, first, third) = (registers.orig_rax, registers.rdi, registers.rdx);
        let write = WRITES.contains(&number) && first > STREAMS;
        let change = write || CHANGES.contains(&number) || (number == OPENAT && third & CREATE != 0);
        let counts = match self.injection {
            Injection::Kill | Injection::Fail(_) => change,
            Injection::Short => write,
            Injection::FailRead(_) | Injection::ShortRead => {
                READS.contains(&number) && self.is_ours(pid, first)
            }
        };
        if self.started && counts {
            self.steps += 1;
            if self.steps == self.at {
                self.synced = if SYNCS.contains(&number) { file(pid, first) } else { None };
                match self.injection {
                    Injection::Kill => drop(kill(self.main, Signal::SIGKILL)),
                    Injection::Fail(wanted) | Injection::FailRead(wanted) => {
                        // A call that does not exist does nothing.
                        registers.orig_rax = u64::MAX;
                        error = ptrace::setregs(pid, registers).is_ok().then_some(wanted);
                    }
                    Injection::Short | Injection::ShortRead => {
                        registers.rdx = third.div_ceil(2);
                        let _ = ptrace::setregs(pid, registers);
                    }
                }
            }
        }
        self.inside.insert(pid, error);
    }

    /// Returns whether the descriptor is of a file below the working directory of the program.
    fn is_ours(&self, pid: Pid, descriptor: u64) -> bool {
        file(pid, descriptor)
            .is_some_and(|file| self.directory.as_ref().is_some_and(|directory| file.starts_with(directory)))
    }
}

/// Returns the file that a descriptor of a program is of.
fn file(pid: Pid, descriptor: u64) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).ok()
}
