//! Ruby: its start-up set and the scripts' `require`s.

use std::collections::HashSet;

use restow_layer::path::parent;

use super::Predictor;
use super::command::Program;
use super::command::prefix;
use super::elf;
use super::passing::Passing;
use super::reads::Reads;

/// What the interpreter reads before any script.
const STARTUP: [&str; 8] = [
    "enc/encdb",
    "enc/trans/transdb",
    "rubygems",
    "monitor",
    "error_highlight",
    "did_you_mean",
    "syntax_suggest/core_ext",
    "rbconfig",
];
/// The most files that are followed.
const MAX_FILES: usize = 5000;

/// The Ruby interpreter.
#[derive(Debug)]
pub(crate) struct Ruby;

impl Predictor for Ruby {
    fn note(&self, file: &Passing<'_>) -> Option<String> {
        if !file.is(&[".rb", "config.ru", "Gemfile"], &["ruby"]) {
            return None;
        }
        let text = file.text();
        let requires = text.lines().filter_map(|line| {
            let line = line.trim_start();
            let (relative, rest) = match line.strip_prefix("require_relative") {
                Some(rest) => (true, rest),
                None => (false, line.strip_prefix("require")?),
            };
            let rest = rest.trim_start_matches([' ', '(']);
            let quote = rest.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
            let name = rest[1..].split(quote).next().filter(|name| !name.contains("#{"))?;
            Some(format!("{} {name}\n", if relative { "relative" } else { "require" }))
        });
        Some(requires.collect())
    }

    fn predict(&self, program: &Program, reads: &mut Reads<'_>) {
        if !program.is(&["ruby", "irb", "jruby"]) {
            return;
        }
        let search = search_path(program, reads);
        let mut waiting: Vec<(String, String)> =
            STARTUP.iter().rev().map(|name| ((*name).to_owned(), String::new())).collect();
        let script = program.args.iter().find(|word| !word.starts_with('-'));
        if let Some(file) =
            script.and_then(|script| reads.open(&program.absolute(script), "the script ruby runs"))
        {
            waiting.splice(..0, requires(reads.note(&file), &file));
        }
        let mut seen = HashSet::new();
        while let Some((name, by)) = waiting.pop() {
            if seen.len() == MAX_FILES || !seen.insert(name.clone()) {
                continue;
            }
            let reason =
                if by.is_empty() { "ruby reads it at start".to_owned() } else { format!("{by} requires it") };
            let candidates = search.iter().flat_map(|directory| {
                let path = if name.starts_with('/') { name.clone() } else { format!("{directory}/{name}") };
                [".rb", ".so", ""].map(|extension| format!("{path}{extension}"))
            });
            let Some(path) = candidates
                .into_iter()
                .find(|path| (path.ends_with(".rb") || path.ends_with(".so")) && reads.look(path).is_some())
            else {
                continue;
            };
            if path.ends_with(".so") {
                elf::load(&path, reason, reads);
            } else if let Some(file) = reads.open(&path, reason) {
                waiting.extend(requires(reads.note(&file), &file));
            }
        }
    }
}

/// Returns what a note requires, the last first.
fn requires(note: &str, file: &str) -> Vec<(String, String)> {
    let directory = parent(file).unwrap_or_default();
    let name = |line: &str| match line.split_once(' ')? {
        ("relative", name) => Some(format!("/{directory}/{name}")),
        (_, name) => Some(name.to_owned()),
    };
    note.lines().rev().filter_map(name).map(|name| (name, file.to_owned())).collect()
}

/// Returns the directories that `require` looks in.
fn search_path(program: &Program, reads: &mut Reads<'_>) -> Vec<String> {
    let root = prefix(&program.file);
    let mut paths: Vec<String> =
        reads.variable("RUBYLIB").unwrap_or_default().split(':').map(str::to_owned).collect();
    for library in [format!("{root}/lib/ruby"), "usr/lib/ruby".into(), "var/lib/gems".into()] {
        let versions: Vec<String> =
            reads.names(&library).iter().map(|name| format!("{library}/{name}")).collect();
        for version in versions {
            paths.push(version.clone());
            let names: Vec<String> =
                reads.names(&version).iter().map(|name| format!("{version}/{name}")).collect();
            paths
                .extend(names.iter().filter(|name| name.contains("-linux") || name.ends_with(".0")).cloned());
        }
    }
    // Debian keeps extensions under the machine's directory.
    let machines: Vec<String> = reads
        .names("usr/lib")
        .iter()
        .filter(|name| name.contains("-linux-gnu"))
        .map(|name| format!("usr/lib/{name}/ruby"))
        .collect();
    for machine in machines {
        let versions: Vec<String> =
            reads.names(&machine).iter().map(|name| format!("{machine}/{name}")).collect();
        paths.extend(versions);
    }
    // Gems: each has its files in `lib`.
    for gems in paths.clone().iter().map(|path| format!("{path}/gems")) {
        let names: Vec<String> = reads.names(&gems).iter().map(|name| format!("{gems}/{name}/lib")).collect();
        paths.extend(names);
    }
    paths.retain(|path| !path.is_empty());
    paths
}
