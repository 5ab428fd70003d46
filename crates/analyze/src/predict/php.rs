//! PHP: its settings, extensions, and the scripts' includes.

use std::collections::HashSet;
use std::rc::Rc;

use restow_layer::path::parent;

use super::Predictor;
use super::command::Program;
use super::command::prefix;
use super::elf;
use super::nginx::glob;
use super::passing::Passing;
use super::reads::Reads;

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
        // nginx has files of settings for PHP, too.
        if file.path.contains("php") && file.path.ends_with(".conf") && !file.path.contains("nginx") {
            let text = file.text();
            let included = |line: &str| -> Option<String> {
                let (name, value) = line.split_once('=')?;
                (name.trim() == "include").then(|| format!("include {}\n", value.trim().trim_matches('"')))
            };
            return Some(text.lines().filter_map(included).collect());
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
        if program.is(&["php-fpm"]) {
            pools(program, reads);
        }
        let modules = settings(program, reads);
        for (name, reason) in modules.wanted {
            for directory in &modules.directories {
                if reads.is_over() {
                    return;
                }
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
        while let Some(file) = waiting.pop().filter(|_| !reads.is_over()) {
            if seen.len() == reads.limits().sources || !seen.insert(file.clone()) {
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
                let opened = reads.open(&path, format_args!("{file} includes it"));
                found.extend(opened.filter(|path| reads.keep(path.len())));
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

/// Adds the settings of the process manager and those of its pools.
fn pools(program: &Program, reads: &mut Reads<'_>) {
    let root = format!("/{}", prefix(&program.file)).trim_end_matches('/').to_owned();
    let mut words = program.args.iter();
    let mut chosen = None;
    while let Some(word) = words.next() {
        chosen = match word.strip_prefix("--fpm-config") {
            Some("") => words.next().cloned(),
            Some(value) => Some(value.trim_start_matches('=').to_owned()),
            None if word == "-y" => words.next().cloned(),
            None => chosen,
        };
    }
    let mut candidates = vec![format!("{root}/etc/php-fpm.conf"), "/etc/php-fpm.conf".into()];
    // Debian's are in `etc/php/8.2/fpm`, Alpine's in `etc/php82`.
    for name in reads.names("etc").iter().filter(|name| name.starts_with("php")) {
        candidates.push(format!("/etc/{name}/php-fpm.conf"));
    }
    for name in reads.names("etc/php").iter() {
        candidates.push(format!("/etc/php/{name}/fpm/php-fpm.conf"));
    }
    let main = match chosen {
        Some(path) => Some(program.absolute(&path)),
        None => reads.first(candidates),
    };
    let mut waiting: Vec<(String, Rc<str>)> =
        main.into_iter().map(|path| (path, "php-fpm reads its settings".into())).collect();
    let mut seen = HashSet::new();
    while let Some((path, reason)) = waiting.pop().filter(|_| !reads.is_over()) {
        let Some(file) = reads.open(&path, reason) else { continue };
        if seen.len() == reads.limits().sources || !seen.insert(file.clone()) {
            continue;
        }
        let reason = Rc::<str>::from(format!("{file} includes it"));
        let mut included = Vec::new();
        for pattern in reads.note(&file).lines().filter_map(|line| line.strip_prefix("include ")) {
            // Paths are relative to where PHP is installed.
            let pattern =
                if pattern.starts_with('/') { pattern.to_owned() } else { format!("{root}/{pattern}") };
            included.extend(glob(&pattern, reads).into_iter().map(|path| (path, Rc::clone(&reason))));
        }
        waiting.extend(included.into_iter().rev());
    }
}

struct Modules {
    /// Names or paths, with the reasons for loading them.
    wanted: Vec<(String, Rc<str>)>,
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
        let extra = reads.paths(&format!("{directory}/conf.d"));
        files.extend(extra.into_iter().filter(|name| name.ends_with(".ini")));
        for file in
            files.iter().filter_map(|path| reads.open(path, "php reads its settings")).collect::<Vec<_>>()
        {
            let reason = Rc::<str>::from(format!("{file} names it"));
            for line in reads.note(&file).lines().take_while(|line| reads.keep(line.len())) {
                match line.split_once(' ') {
                    Some(("extension_dir", path)) => modules.directories.push(path.to_owned()),
                    Some((_, name)) => modules.wanted.push((name.to_owned(), Rc::clone(&reason))),
                    None => {}
                }
            }
        }
    }
    for library in [format!("{root}/lib/php/extensions"), "usr/lib/php".into()] {
        modules.directories.extend(reads.paths(&library));
    }
    modules
}
