//! PHP: its settings, extensions, and the scripts' includes.

use std::collections::HashSet;

use restow_layer::path::parent;

use super::Predictor;
use super::command::Program;
use super::command::prefix;
use super::elf;
use super::passing::Passing;
use super::reads::Reads;

/// The most files that are followed.
const MAX_FILES: usize = 5000;

/// The PHP interpreter, on the command line or behind FPM.
#[derive(Debug)]
pub(crate) struct Php;

impl Predictor for Php {
    fn note(&self, file: &Passing<'_>) -> Option<String> {
        if file.path.contains("php") && file.path.ends_with(".ini") {
            let text = file.text();
            let extension = |line: &str| -> Option<String> {
                let (name, value) = line.split_once('=')?;
                let name = name.trim();
                matches!(name, "extension" | "zend_extension" | "extension_dir")
                    .then(|| format!("{name} {}\n", value.trim().trim_matches('"')))
            };
            return Some(text.lines().filter_map(extension).collect());
        }
        if !file.is(&[".php"], &["php"]) {
            return None;
        }
        let text = file.text();
        Some(text.lines().filter_map(included).map(|path| format!("include {path}\n")).collect())
    }

    fn predict(&self, program: &Program, reads: &mut Reads<'_>) {
        if !program.is(&["php", "php-fpm", "php-cgi"]) {
            return;
        }
        let modules = settings(program, reads);
        for (name, reason) in modules.wanted {
            for directory in &modules.directories {
                let path = if name.starts_with('/') { name.clone() } else { format!("{directory}/{name}") };
                if [path.clone(), format!("{path}.so")]
                    .iter()
                    .any(|path| elf::load(path, &reason, reads).is_some())
                {
                    break;
                }
            }
        }
        let script = program.args.iter().find(|word| !word.starts_with('-'));
        let Some(first) =
            script.and_then(|script| reads.open(&program.absolute(script), "the script php runs"))
        else {
            return;
        };
        let mut waiting = vec![first];
        let mut seen = HashSet::new();
        while let Some(file) = waiting.pop() {
            if seen.len() == MAX_FILES || !seen.insert(file.clone()) {
                continue;
            }
            let directory = parent(&file).unwrap_or_default().to_owned();
            let mut found = Vec::new();
            for path in reads.note(&file).lines().filter_map(|line| line.strip_prefix("include ")) {
                let path = if path.starts_with("./") || !path.starts_with('/') {
                    format!("{directory}/{path}")
                } else if let Some(below) = path.strip_prefix("//") {
                    format!("{directory}/{below}")
                } else {
                    path.to_owned()
                };
                found.extend(reads.open(&path, format_args!("{file} includes it")));
            }
            waiting.extend(found.into_iter().rev());
        }
    }
}

/// Returns the path of a plain include; `__DIR__ . '/x'` becomes `//x`.
fn included(line: &str) -> Option<String> {
    let (_, rest) = ["require_once", "include_once", "require", "include"]
        .iter()
        .find_map(|word| line.split_once(word))?;
    let rest = rest.trim_start_matches([' ', '(']);
    let (marker, rest) = match rest.strip_prefix("__DIR__") {
        Some(rest) => ("/", rest.trim_start_matches([' ', '.'])),
        None => ("", rest),
    };
    let quote = rest.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    let path = rest[1..].split(quote).next().filter(|path| !path.contains('$'))?;
    Some(format!("{marker}{path}"))
}

struct Modules {
    /// Names or paths, with the reasons for loading them.
    wanted: Vec<(String, String)>,
    directories: Vec<String>,
}

/// Adds the files of settings and returns the extensions they name.
fn settings(program: &Program, reads: &mut Reads<'_>) -> Modules {
    let root = prefix(&program.file).to_owned();
    let mut directories = vec![format!("{root}/etc/php"), format!("{root}/lib")];
    let kind = if program.is(&["php-fpm"]) { "fpm" } else { "cli" };
    let versions: Vec<String> =
        reads.names("etc/php").iter().map(|name| format!("etc/php/{name}/{kind}")).collect();
    directories.extend(versions);
    let mut modules = Modules { wanted: Vec::new(), directories: Vec::new() };
    for directory in directories {
        let mut files = vec![format!("{directory}/php.ini")];
        let extra: Vec<String> = reads
            .names(&format!("{directory}/conf.d"))
            .iter()
            .map(|name| format!("{directory}/conf.d/{name}"))
            .collect();
        files.extend(extra.into_iter().filter(|name| name.ends_with(".ini")));
        for file in
            files.iter().filter_map(|path| reads.open(path, "php reads its settings")).collect::<Vec<_>>()
        {
            for line in reads.note(&file).lines() {
                match line.split_once(' ') {
                    Some(("extension_dir", path)) => modules.directories.push(path.to_owned()),
                    Some((_, name)) => modules.wanted.push((name.to_owned(), format!("{file} names it"))),
                    None => {}
                }
            }
        }
    }
    for library in [format!("{root}/lib/php/extensions"), "usr/lib/php".into()] {
        let names: Vec<String> =
            reads.names(&library).iter().map(|name| format!("{library}/{name}")).collect();
        modules.directories.extend(names);
    }
    modules
}
