//! Node.js: the entry module and what it requires and imports.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::rc::Rc;

use restow_layer::path::parent;
use serde_json::Value;

use super::Predictor;
use super::command::Program;
use super::elf;
use super::passing::Passing;
use super::reads::Reads;

/// The longest name of a module.
const MAX_NAME: usize = 256;
/// The longest note about one module.
const MAX_NOTE: usize = 64 << 10;
/// How deep the conditions of `exports` nest.
const MAX_CONDITIONS: usize = 8;

/// Where packages are besides: npm's own place, and those where Debian keeps them.
const SHARED: [&str; 4] = [
    "/usr/share/nodejs",
    "/usr/lib/nodejs",
    "/usr/lib/x86_64-linux-gnu/nodejs",
    "/usr/local/lib/node_modules",
];

/// Node.js.
#[derive(Debug)]
pub(crate) struct Node;

impl Predictor for Node {
    fn note(&self, file: &Passing<'_>) -> Option<String> {
        if file.path.ends_with("package.json") {
            return Some(package(&file.text()));
        }
        file.is(&[".js", ".cjs", ".mjs"], &["node", "nodejs"]).then(|| modules(&file.text()))
    }

    fn predict(&self, program: &Program, reads: &mut Reads<'_>) {
        if program.is(&["npm", "yarn", "pnpm", "npm-cli.js", "yarn.js"]) {
            return start_script(program, &program.args, reads);
        }
        if !program.is(&["node", "nodejs"]) {
            return;
        }
        let mut entries = Vec::new();
        let options = reads.variable("NODE_OPTIONS").unwrap_or_default();
        let options = reads.split(options, |c| c.is_ascii_whitespace());
        preloaded(&mut options.iter(), &mut entries);
        let mut words = program.args.iter();
        let script = preloaded(&mut words, &mut entries);
        let Some(script) = script else { return };
        if restow_layer::path::base(script).trim_end_matches(".js") == "npm-cli" || script.ends_with("/npm") {
            start_script(program, words.as_slice(), reads);
        }
        let listed = reads.split(reads.variable("NODE_PATH").unwrap_or_default(), |c| c == ':');
        let shared = listed.iter().map(String::as_str).chain(SHARED).map(|path| program.absolute(path));
        let shared = shared.take_while(|path| reads.keep(path.len())).collect();
        let mut modules = Modules { reads, shared, seen: HashSet::new() };
        let from = format!("{}/", program.directory);
        for entry in entries {
            modules.follow(&entry, &from, "node is told to load it");
        }
        modules.follow(&program.absolute(script), &from, "the script node runs");
    }
}

/// Returns the first word that is no option, if the options do not say that there is no script; adds the modules that they
/// name.
fn preloaded<'w>(words: &mut impl Iterator<Item = &'w String>, modules: &mut Vec<String>) -> Option<&'w str> {
    while let Some(word) = words.next() {
        match word.split_once('=').unwrap_or((word, "")) {
            ("-r" | "--require" | "--import" | "--loader" | "--experimental-loader", "") => {
                modules.extend(words.next().cloned());
            }
            ("--require" | "--import" | "--loader" | "--experimental-loader", name) => {
                modules.push(name.to_owned());
            }
            ("-e" | "--eval" | "-p" | "--print", _) => return None,
            _ if word.starts_with('-') => {}
            _ => return Some(word),
        }
    }
    None
}

/// Follows the script that `npm start` or `npm run NAME` runs.
fn start_script(program: &Program, args: &[String], reads: &mut Reads<'_>) {
    let mut words = args.iter().filter(|word| !word.starts_with('-'));
    let name = match words.next().map(String::as_str) {
        Some("run" | "run-script") => words.next().map(String::as_str),
        name => name,
    };
    let Some(file) = reads.open(&program.absolute("package.json"), "npm reads it") else { return };
    let script = elf::field(reads.note(&file), &format!("script {}", name.unwrap_or("start")));
    if let Some(script) = script {
        reads.run(program.starts(vec!["/bin/sh".into(), "-c".into(), script.to_owned()]));
    }
}

struct Modules<'r, 'a> {
    reads: &'r mut Reads<'a>,
    /// Where packages are that lie beside no module.
    shared: Vec<String>,
    seen: HashSet<String>,
}

impl Modules<'_, '_> {
    /// Adds a module and all it needs, depth first, as they are read.
    fn follow(&mut self, name: &str, from: &str, reason: &str) {
        let mut waiting = vec![(name.to_owned(), Rc::<str>::from(from), Rc::<str>::from(reason))];
        while let Some((name, from, reason)) = waiting.pop().filter(|_| !self.reads.is_over()) {
            if self.seen.len() >= self.reads.limits().modules {
                return;
            }
            let Some(path) = self.resolve(&name, &from, &reason) else { continue };
            if path.ends_with(".node") {
                elf::load(&path, reason, self.reads);
                continue;
            }
            let Some(file) = self.reads.open(&path, &reason) else { continue };
            if !self.seen.insert(file.clone()) {
                continue;
            }
            self.scope(&file);
            if !file.ends_with(".json") {
                let from = Rc::<str>::from(format!("/{file}"));
                let reason = Rc::<str>::from(format!("{file} requires it"));
                let needs =
                    self.reads.note(&file).lines().rev().take_while(|name| self.reads.keep(name.len()));
                waiting.extend(needs.map(|name| (name.to_owned(), Rc::clone(&from), Rc::clone(&reason))));
            }
        }
    }

    /// Adds the nearest package.json, which says what kind of module a file is.
    fn scope(&mut self, file: &str) {
        let mut directory = parent(file);
        while let Some(here) = directory {
            if self.reads.listing(here).contains("package.json") {
                self.reads.open(
                    &format!("{here}/package.json"),
                    format_args!("says what kind of module {file} is"),
                );
                return;
            }
            directory = parent(here);
        }
    }

    /// Finds the file a name stands for in the module at the path `from`.
    fn resolve(&mut self, name: &str, from: &str, reason: &str) -> Option<String> {
        let directory = from.rsplit_once('/').map_or("", |(directory, _)| directory);
        if name.starts_with('/') {
            return self.file(name, reason);
        }
        if name.starts_with("./") || name.starts_with("../") || name == "." || name == ".." {
            let path = restow_layer::path::clean(&format!("{directory}/{name}"));
            return self.file(&format!("/{path}"), reason);
        }
        if name.starts_with("node:") {
            return None;
        }
        if name.starts_with('#') {
            return self.imported(name, directory, reason);
        }
        let depth = if name.starts_with('@') { 2 } else { 1 };
        let end = name.match_indices('/').nth(depth - 1).map_or(name.len(), |(at, _)| at);
        let (package, inside) = name.split_at(end);
        let mut here = Some(directory);
        let mut candidates = Vec::new();
        while let Some(directory) = here {
            candidates.push(format!("{directory}/node_modules/{package}"));
            here = directory.rsplit_once('/').map(|(above, _)| above);
        }
        candidates.extend(self.shared.iter().map(|directory| format!("{directory}/{package}")));
        for home in candidates {
            if self.reads.is_over() {
                return None;
            }
            if !self.reads.is_directory(&home) {
                if let Some(file) = self.file(&home, reason).filter(|_| inside.is_empty()) {
                    return Some(file);
                }
                continue;
            }
            let found = match inside.strip_prefix('/') {
                None => self.file(&home, reason),
                Some(inside) => self
                    .exported(&home, &format!("./{inside}"), reason)
                    .or_else(|| self.file(&format!("{home}/{inside}"), reason)),
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Finds what a package exports under a name.
    fn exported(&mut self, home: &str, name: &str, reason: &str) -> Option<String> {
        let manifest = self.reads.open(&format!("{home}/package.json"), reason)?;
        let target = mapped(self.reads.note(&manifest), "exports", name)?;
        self.file(&format!("{home}/{target}"), reason)
    }

    /// Finds what the nearest package.json says that a name with `#` stands for: a file of its own, or another package's.
    fn imported(&mut self, name: &str, directory: &str, reason: &str) -> Option<String> {
        let mut here = Some(directory);
        while let Some(directory) = here {
            if let Some(manifest) = self.reads.open(&format!("{directory}/package.json"), reason) {
                let target = mapped(self.reads.note(&manifest), "imports", name)?;
                // It may not stand for another such name, so this ends.
                return match target.starts_with('#') {
                    true => None,
                    false => self.resolve(&target, &format!("{directory}/"), reason),
                };
            }
            here = directory.rsplit_once('/').map(|(above, _)| above);
        }
        None
    }

    /// Finds a file by its path with or without extension, or by its directory.
    fn file(&mut self, path: &str, reason: &str) -> Option<String> {
        let path = path.trim_end_matches('/');
        let extensions = ["", ".js", ".json", ".node", ".mjs", ".cjs"];
        let found = self.reads.first(extensions.iter().map(|extension| format!("{path}{extension}")));
        if found.is_some() || !self.reads.is_directory(path) {
            return found;
        }
        if let Some(manifest) = self.reads.open(&format!("{path}/package.json"), reason) {
            let note = self.reads.note(&manifest);
            let main = elf::field(note, "exports .").or_else(|| elf::field(note, "main"));
            if let Some(main) = main {
                let main = format!("{path}/{main}");
                let candidates = [main.clone(), format!("{main}.js"), format!("{main}/index.js")];
                if let Some(found) = self.reads.first(candidates) {
                    return Some(found);
                }
            }
        }
        self.reads.first(["index.js", "index.json", "index.node"].map(|name| format!("{path}/{name}")))
    }
}

/// Makes the note about a package.json.
fn package(text: &str) -> String {
    let mut note = String::new();
    let Ok(Value::Object(document)) = serde_json::from_str(text) else { return note };
    let mut line = |name: &str, value: &str| {
        if value.len() <= 4 * MAX_NAME
            && !name.contains('\n')
            && !value.contains('\n')
            && note.len() < MAX_NOTE
        {
            let _ = writeln!(note, "{name} {value}");
        }
    };
    if let Some(main) = document.get("main").and_then(Value::as_str) {
        line("main", main);
    }
    if let Some(Value::Object(imports)) = document.get("imports") {
        for (name, target) in imports {
            if let Some(target) = condition(target, 0) {
                line(&format!("imports {name}"), target);
            }
        }
    }
    match document.get("exports") {
        Some(Value::Object(exports)) if exports.keys().any(|key| key.starts_with('.')) => {
            for (name, target) in exports {
                if let Some(target) = condition(target, 0) {
                    line(&format!("exports {name}"), target);
                }
            }
        }
        Some(target) => {
            if let Some(target) = condition(target, 0) {
                line("exports .", target);
            }
        }
        None => {}
    }
    if let Some(Value::Object(scripts)) = document.get("scripts") {
        for (name, script) in scripts.iter().filter(|(name, _)| !name.contains(' ')) {
            line(&format!("script {name}"), script.as_str().unwrap_or_default());
        }
    }
    note
}

/// Returns what the line of a note gives for a name: its own or, of the patterns that fit, that with the longest start.
fn mapped(note: &str, kind: &str, name: &str) -> Option<String> {
    if let Some(target) = elf::field(note, &format!("{kind} {name}")) {
        return Some(target.to_owned());
    }
    let patterns =
        note.lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' ')?.split_once(' '));
    let fitting = patterns.filter_map(|(pattern, target)| {
        let (start, end) = pattern.split_once('*')?;
        let middle = name.strip_prefix(start)?.strip_suffix(end).filter(|middle| !middle.is_empty())?;
        Some((start.len(), target.replace('*', middle)))
    });
    fitting.max_by_key(|(length, _)| *length).map(|(_, target)| target)
}

/// Returns the first target whose conditions Node meets.
fn condition(target: &Value, depth: usize) -> Option<&str> {
    match target {
        Value::String(path) => Some(path),
        _ if depth == MAX_CONDITIONS => None,
        Value::Array(targets) => targets.iter().find_map(|target| condition(target, depth + 1)),
        Value::Object(conditions) => conditions
            .iter()
            .filter(|(name, _)| {
                matches!(name.as_str(), "node" | "require" | "import" | "default" | "module-sync")
            })
            .find_map(|(_, target)| condition(target, depth + 1)),
        _ => None,
    }
}

/// Makes the note about a module: what it requires and imports, one name a line.
fn modules(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut note = String::new();
    let mut at = 0;
    while let Some(quote) =
        bytes[at..].iter().position(|byte| matches!(byte, b'"' | b'\'')).map(|found| at + found)
    {
        at = quote + 1;
        if !introduces(bytes[..quote].trim_ascii_end()) {
            continue;
        }
        let end = bytes[at..].iter().take(MAX_NAME).position(|byte| *byte == bytes[quote]);
        if let Some(name) = end.and_then(|end| text.get(at..at + end))
            && !name.is_empty()
            && name.chars().all(|c| c.is_ascii_graphic())
            && note.len() < MAX_NOTE
        {
            note.push_str(name);
            note.push('\n');
        }
    }
    note
}

/// Says whether a module's name follows these bytes.
fn introduces(before: &[u8]) -> bool {
    let (words, called) = match before.strip_suffix(b"(") {
        Some(before) => (before.trim_ascii_end(), true),
        None => (before, false),
    };
    let ends = |word: &[u8]| {
        words.strip_suffix(word).is_some_and(|rest| {
            !rest
                .last()
                .is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.'))
        })
    };
    if called { ends(b"require") || ends(b"import") } else { ends(b"from") || ends(b"import") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_modules_are_found_behind_what_loads_them() {
        for (text, expected) in [
            ("const a = require('./a'), b = require( \"b\" );", "./a b"),
            ("import x from 'x';import'y';import {z} from\n\"z\";export * from './w'", "x y z ./w"),
            ("await import('./lazy.mjs')", "./lazy.mjs"),
            ("my_require('no'); obj.require('no'); 'str'; require(name); require('", ""),
            ("require('a b'); require('')", ""),
        ] {
            assert_eq!(modules(text).trim().replace('\n', " "), expected, "{text}");
        }
    }

    #[test]
    fn a_name_stands_for_what_the_longest_pattern_says() {
        let note =
            "exports ./a ./one.js\nexports ./* ./src/*.js\nexports ./deep/*.js ./x/*/*.mjs\nimports #x y\n";
        for (name, expected) in [
            ("./a", Some("./one.js")),
            ("./b", Some("./src/b.js")),
            ("./deep/c.js", Some("./x/c/c.mjs")),
            ("./deep/.js", Some("./src/deep/.js.js")),
            ("./", None),
            ("other", None),
        ] {
            assert_eq!(mapped(note, "exports", name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn a_package_names_its_entry_and_its_scripts() {
        let text = r#"{"main":"lib/x","exports":{".":{"browser":"./b.js","node":[null,{"require":"./n.js"}]},"./sub":"./s.js"},
            "scripts":{"start":"node server.js"}}"#;
        assert_eq!(
            package(text),
            "main lib/x\nexports . ./n.js\nexports ./sub ./s.js\nscript start node server.js\n"
        );
        assert_eq!(package(r#"{"exports":"./x.js"}"#), "exports . ./x.js\n");
        let text = r##"{"imports":{"#db":{"node":"pg"},"#lib/*":"./lib/*.js"},"exports":{"./*":"./src/*.js","./in/*":null}}"##;
        assert_eq!(package(text), "imports #db pg\nimports #lib/* ./lib/*.js\nexports ./* ./src/*.js\n");
        let deep = format!("{{\"exports\":{}\"x\"{}}}", "[".repeat(50), "]".repeat(50));
        for odd in ["", "[]", "{", r#"{"main":1,"exports":7,"scripts":[]}"#, &deep] {
            assert_eq!(package(odd), "", "{odd}");
        }
    }
}
