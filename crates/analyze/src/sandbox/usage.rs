//! What a container takes of the host, without control groups, which would outlive it.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

/// The most that a container may take.
///
/// The kernel itself holds to `written`. Processes and memory are counted all the time: a container that has more is
/// ended, and may have had more for some hundredths of a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// How many processes and threads there are at once.
    pub processes: u64,
    /// Bytes of memory of all processes, but for what is in files; shared ones count once.
    pub memory: u64,
    /// Bytes of all that is written to files of the image's root.
    pub written: u64,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { processes: 4096, memory: 8 << 30, written: 2 << 30 }
    }
}

impl Allowance {
    /// Returns in words what the processes shown below `system`, a file system of processes, have too much of.
    pub(super) fn exceeded(&self, system: &Path) -> io::Result<Option<String>> {
        let (mut tasks, mut memory) = (0, 0);
        let mut contained = Vec::new();
        for process in processes(system)? {
            // One that has ended has nothing any more.
            let status = fs::read_to_string(process.join("status")).unwrap_or_default();
            if !is_contained(&status) {
                continue;
            }
            tasks += number(&status, "Threads:");
            memory += number(&status, "RssAnon:") << 10;
            contained.push(process);
        }
        if tasks > self.processes {
            let most = self.processes;
            return Ok(Some(format!("the container has more than {most} processes (--max-processes)")));
        }
        // Processes that have been forked share most of it; to count that takes longer.
        if memory > self.memory {
            let shares = contained.iter().map(|process| {
                let shares = fs::read_to_string(process.join("smaps_rollup")).unwrap_or_default();
                number(&shares, "Pss_Anon:") << 10
            });
            if shares.sum::<u64>() > self.memory {
                let most = self.memory;
                return Ok(Some(format!(
                    "the container takes more than {most} bytes of memory (--max-memory)"
                )));
            }
        }
        Ok(None)
    }
}

fn processes(system: &Path) -> io::Result<Vec<PathBuf>> {
    let is_process = |entry: &fs::DirEntry| {
        entry.file_name().to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    };
    Ok(fs::read_dir(system)?.flatten().filter(is_process).map(|entry| entry.path()).collect())
}

/// Says whether a process is in the container, and no part of the sandbox: it has a number in one more namespace.
fn is_contained(status: &str) -> bool {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_whitespace().count() > 1)
}

/// Returns the number behind a name in a table of lines, 0 if it is not there.
fn number(table: &str, name: &str) -> u64 {
    let value =
        table.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    value.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_counted_with_their_threads_and_shared_memory_once() {
        let system = tempfile::tempdir().unwrap();
        let add = |name: &str, numbers: &str, threads: u64, kib: u64, share: u64| {
            let process = system.path().join(name);
            fs::create_dir(&process).unwrap();
            fs::write(
                process.join("status"),
                format!("Name:\tx\nNSpid:\t{numbers}\nRssAnon:\t {kib} kB\nThreads:\t{threads}\n"),
            )
            .unwrap();
            fs::write(process.join("smaps_rollup"), format!("Pss:\t 9 kB\nPss_Anon:\t {share} kB\n"))
                .unwrap();
        };
        add("10", "10\t1", 1, 100, 60);
        add("22", "22\t2", 3, 100, 60);
        add("self", "22\t2", 99, 999, 999);
        // The runtime.
        add("1", "1", 9, 999, 0);
        // It has ended meanwhile.
        fs::create_dir(system.path().join("3")).unwrap();
        for (processes, kib, expected) in [
            (4, 200, None),
            (4, 120, None),
            (3, 200, Some("the container has more than 3 processes (--max-processes)")),
            (4, 119, Some("the container takes more than 121856 bytes of memory (--max-memory)")),
        ] {
            let allowance = Allowance { processes, memory: kib << 10, ..Allowance::default() };
            assert_eq!(allowance.exceeded(system.path()).unwrap().as_deref(), expected);
        }
    }
}
