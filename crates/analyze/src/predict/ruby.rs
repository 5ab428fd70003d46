//! Ruby: its start-up set, the scripts' `require`s, and the gems in which these are.
//!
//! A note holds a word and a name a line: `require` and `relative` with what is loaded; `program` with a gem and a program in
//! it; `gem` with one that a Gemfile asks for; `locked` with a gem and its version; `all` where all gems are loaded at once.

use std::collections::HashMap;
use std::collections::HashSet;
use std::rc::Rc;

use restow_layer::path::base;
use restow_layer::path::parent;

use super::Predictor;
use super::command;
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
/// Programs that serve what `config.ru` describes, and where they have their settings.
const RACK: [&str; 7] = ["rackup", "puma", "unicorn", "thin", "falcon", "rails", "passenger"];
const SETTINGS: [&str; 2] = ["config/puma.rb", "config/unicorn.rb"];

/// The Ruby interpreter.
#[derive(Debug)]
pub(crate) struct Ruby;

impl Predictor for Ruby {
    fn note(&self, file: &Passing<'_>) -> Option<String> {
        match base(file.path) {
            "Gemfile.lock" | "gems.locked" => Some(file.text().lines().filter_map(locked).collect()),
            "Gemfile" | "gems.rb" => Some(statements(&file.text())),
            _ => file.is(&[".rb", ".ru"], &["ruby"]).then(|| statements(&file.text())),
        }
    }

    fn predict(&self, program: &Program, reads: &mut Reads<'_>) {
        if !program.is(&["ruby"]) {
            return;
        }
        let options = reads.variable("RUBYOPT").unwrap_or_default();
        let options = reads.split(options, |c| c.is_ascii_whitespace());
        let (mut path, mut wanted) = (Vec::new(), STARTUP.map(str::to_owned).to_vec());
        let mut words = options.iter().chain(&program.args);
        let script = words.find(|word| {
            if let Some(listed) = word.strip_prefix("-I") {
                let listed = listed.split(':').map(|path| program.absolute(path));
                path.extend(listed.take_while(|path| reads.keep(path.len())));
            } else if let Some(name) = word.strip_prefix("-r") {
                wanted.push(name.to_owned());
            }
            !word.starts_with('-')
        });
        let rest: Vec<String> = words.cloned().collect();
        let mut ruby = Interpreter::new(program, path, reads);
        ruby.follow(wanted.into_iter().map(|name| Wanted::new(Kind::Name(name), "ruby reads it at start")));
        ruby.specifications();
        if let Some(script) = script {
            ruby.run(script, &rest, program);
        }
    }
}

/// An interpreter, and where it finds what is required.
struct Interpreter<'r, 'a> {
    reads: &'r mut Reads<'a>,
    /// The directories of the search path in which a name's first part is, in order.
    path: HashMap<String, Vec<Rc<str>>>,
    /// The directory of each gem, by the name of the gem.
    gems: HashMap<String, Vec<String>>,
    /// Where gems are installed.
    homes: Vec<String>,
    /// The gems that the Gemfile asks for.
    asked: Vec<String>,
    seen: HashSet<String>,
}

/// Something to load, and why.
struct Wanted {
    kind: Kind,
    reason: Rc<str>,
}

enum Kind {
    /// A name to be looked for in the search path.
    Name(String),
    /// A path from the root on, with or without its extension.
    Path(String),
    /// A gem and a program in it.
    Program(String, String),
    /// Every gem that the Gemfile asks for.
    All,
}

impl Wanted {
    fn new(kind: Kind, reason: impl Into<Rc<str>>) -> Self {
        Self { kind, reason: reason.into() }
    }
}

impl<'r, 'a> Interpreter<'r, 'a> {
    fn new(program: &Program, mut path: Vec<String>, reads: &'r mut Reads<'a>) -> Self {
        let library = variable(reads, "RUBYLIB");
        path.extend(library);
        let mut homes = Vec::new();
        for name in ["GEM_HOME", "GEM_PATH", "BUNDLE_PATH"] {
            homes.extend(variable(reads, name).into_iter().map(|home| program.absolute(&home)));
        }
        homes.push(program.absolute("vendor/bundle"));
        // Bundler keeps the gems of each version apart.
        let of_versions: Vec<String> = homes.iter().map(|home| format!("{home}/ruby")).collect();
        homes.extend(of_versions.iter().flat_map(|home| reads.paths(home)));
        for library in [format!("/{}/lib/ruby", prefix(&program.file)), "/usr/lib/ruby".into()] {
            for version in reads.paths(&library) {
                path.push(version.clone());
                path.extend(reads.paths(&version).into_iter().filter(|name| name.contains("-linux")));
            }
            for name in ["site_ruby", "vendor_ruby"] {
                path.extend(reads.paths(&format!("{library}/{name}")));
            }
            homes.extend(reads.paths(&format!("{library}/gems")));
        }
        // Debian keeps extensions under the machine's directory.
        for machine in reads.paths("/usr/lib").into_iter().filter(|name| name.contains("-linux-gnu")) {
            path.extend(reads.paths(&format!("{machine}/ruby")));
            path.extend(reads.paths(&format!("{machine}/ruby/vendor_ruby")));
        }
        homes.extend(reads.paths("/var/lib/gems"));
        homes.push("/usr/share/rubygems-integration/all".into());

        let (asked, chosen) = gemfile(program, reads);
        let mut gems: HashMap<String, Vec<String>> = HashMap::new();
        let most = reads.limits().sources;
        for directory in homes.iter().flat_map(|home| reads.paths(&format!("{home}/gems"))).take(most) {
            let Some((name, version)) = gem(base(&directory)) else { continue };
            if chosen.get(name).is_none_or(|chosen| chosen == version) {
                path.push(format!("{directory}/lib"));
                gems.entry(name.to_owned()).or_default().push(directory.clone());
            }
        }
        // What a gem has compiled lies apart: by machine, version and gem.
        for home in &homes {
            for machine in reads.paths(&format!("{home}/extensions")) {
                for version in reads.paths(&machine) {
                    path.extend(reads.paths(&version).into_iter().take(most));
                }
            }
        }
        let mut first_parts: HashMap<String, Vec<Rc<str>>> = HashMap::new();
        for directory in path.into_iter().map(Rc::<str>::from) {
            for name in reads.names(&directory).iter() {
                if !reads.keep(name.len()) {
                    break;
                }
                let name = name.strip_suffix(".rb").or(name.strip_suffix(".so")).unwrap_or(name);
                let directories = first_parts.entry(name.to_owned()).or_default();
                if directories.last() != Some(&directory) {
                    directories.push(Rc::clone(&directory));
                }
            }
        }
        Self { reads, path: first_parts, gems, homes, asked, seen: HashSet::new() }
    }

    /// Adds the descriptions of the gems that come with Ruby, which RubyGems reads when it is loaded.
    fn specifications(&mut self) {
        for home in self.homes.clone() {
            let most = self.reads.limits().sources;
            for path in self.reads.paths(&format!("{home}/specifications/default")).into_iter().take(most) {
                self.reads.open(&path, "RubyGems reads it at start");
            }
        }
    }

    /// Follows a script and what it is told to serve or to start.
    fn run(&mut self, script: &str, rest: &[String], program: &Program) {
        let name = base(script);
        self.follow([Wanted::new(Kind::Path(program.absolute(script)), "the script ruby runs")]);
        if matches!(name, "bundle" | "bundler") {
            for path in [".bundle/config", "Gemfile", "Gemfile.lock"] {
                self.reads.open(&program.absolute(path), "bundler reads it");
            }
            self.follow([Wanted::new(Kind::Name("bundler/setup".into()), "bundler prepares what it starts")]);
            if let Some((name, rest)) = rest
                .split_first()
                .filter(|(word, _)| *word == "exec")
                .and_then(|(_, rest)| rest.split_first())
            {
                self.start(name, rest, program);
            }
        }
        if RACK.contains(&name) {
            let described =
                rest.iter().find(|word| word.ends_with(".ru")).map_or("config.ru", String::as_str);
            for path in SETTINGS.into_iter().chain([described]) {
                let reason = format!("{name} reads it");
                self.follow([Wanted::new(Kind::Path(program.absolute(path)), reason)]);
            }
        }
    }

    /// Follows what `bundle exec` starts: a program on the path, or one that a gem brings.
    fn start(&mut self, name: &str, rest: &[String], program: &Program) {
        let mut words = match command::find(name, &program.directory, self.reads) {
            Some(path) => vec![path],
            None => {
                let Some(path) = self.program(None, name) else { return };
                vec![format!("/{}", program.file), path]
            }
        };
        words.extend_from_slice(rest);
        self.reads.run(program.starts(words));
    }

    /// Returns the path of a program that a gem brings.
    fn program(&mut self, gem: Option<&str>, name: &str) -> Option<String> {
        if !self.reads.spend(1 + self.gems.len()) {
            return None;
        }
        let gems = match gem {
            Some(gem) => self.gems.get(gem).cloned().unwrap_or_default(),
            None => {
                let mut gems: Vec<String> = self.gems.values().flatten().cloned().collect();
                gems.sort_unstable();
                gems
            }
        };
        let paths = gems.iter().flat_map(|gem| ["exe", "bin"].map(|place| format!("{gem}/{place}/{name}")));
        self.reads.first(paths)
    }

    /// Adds what is wanted and what that requires, depth first, as it is read.
    fn follow(&mut self, wanted: impl IntoIterator<Item = Wanted>) {
        let mut waiting: Vec<Wanted> = wanted.into_iter().collect();
        waiting.reverse();
        while let Some(Wanted { kind, reason }) = waiting.pop().filter(|_| !self.reads.is_over()) {
            let found = match kind {
                Kind::All => {
                    // A gem is required by its name; that of one with a dash may stand for a path.
                    let asked =
                        self.asked.iter().rev().flat_map(|name| [name.replace('-', "/"), name.clone()]);
                    let reason = Rc::<str>::from("the Gemfile asks for it");
                    let asked = asked.take_while(|name| self.reads.keep(name.len()));
                    waiting.extend(asked.map(|name| Wanted::new(Kind::Name(name), Rc::clone(&reason))));
                    continue;
                }
                Kind::Program(gem, name) => self.program(Some(&gem), &name),
                Kind::Path(path) => self.file(&path),
                Kind::Name(name) if name.starts_with('/') => self.file(&name),
                Kind::Name(name) => {
                    let first = name.split('/').next().unwrap_or_default();
                    let first = first.strip_suffix(".rb").or(first.strip_suffix(".so")).unwrap_or(first);
                    let directories = self.path.get(first).cloned().unwrap_or_default();
                    match self.reads.spend(directories.len()) {
                        true => {
                            directories.iter().find_map(|directory| self.file(&format!("{directory}/{name}")))
                        }
                        false => None,
                    }
                }
            };
            let Some(path) = found else { continue };
            if self.seen.len() == self.reads.limits().sources || !self.seen.insert(path.clone()) {
                continue;
            }
            if path.ends_with(".so") {
                elf::load(&path, reason, self.reads);
            } else if let Some(file) = self.reads.open(&path, reason) {
                self.describe(&file);
                let first = waiting.len();
                waiting.extend(needs(&file, self.reads));
                waiting[first..].reverse();
            }
        }
    }

    /// Adds the description of the gem that a file is in.
    fn describe(&mut self, file: &str) {
        let Some((home, inside)) = file.split_once("/gems/").filter(|_| file.contains("/lib/")) else {
            return;
        };
        // The directory of a version may be called `gems`, too.
        let (home, inside) = match inside.split_once("/gems/") {
            Some((version, inside)) => (format!("{home}/gems/{version}"), inside),
            None => (home.to_owned(), inside),
        };
        let name = inside.split('/').next().unwrap_or_default();
        self.reads
            .open(&format!("{home}/specifications/{name}.gemspec"), format_args!("says what {name} is"));
    }

    /// Returns the path of a script or a library, with its extension.
    fn file(&mut self, path: &str) -> Option<String> {
        self.reads.first(["", ".rb", ".so"].map(|extension| format!("{path}{extension}")))
    }
}

/// Returns what the note about a file wants.
fn needs(file: &str, reads: &Reads<'_>) -> impl Iterator<Item = Wanted> {
    let directory = parent(file).unwrap_or_default();
    let reason = Rc::<str>::from(format!("{file} requires it"));
    let lines = reads.note(file).lines().take_while(|line| reads.keep(directory.len() + line.len()));
    lines.filter_map(move |line| {
        let (word, name) = line.split_once(' ').unwrap_or((line, ""));
        let kind = match word {
            "require" => Kind::Name(name.to_owned()),
            "relative" => Kind::Path(format!("/{directory}/{name}")),
            "program" => name.split_once(' ').map(|(gem, name)| Kind::Program(gem.into(), name.into()))?,
            "all" => Kind::All,
            _ => return None,
        };
        Some(Wanted::new(kind, Rc::clone(&reason)))
    })
}

/// Makes the note about a script.
fn statements(text: &str) -> String {
    let statement = |line: &str| -> Option<String> {
        let line = line.trim_start();
        if line.contains("Bundler.require") && !line.starts_with('#') {
            return Some("all\n".into());
        }
        if let Some((_, rest)) = line.split_once("activate_bin_path(") {
            let mut names = rest.split(['\'', '"']).skip(1).step_by(2);
            let (gem, name) = (names.next()?, names.next()?);
            return (!gem.contains(' ') && !name.contains('/')).then(|| format!("program {gem} {name}\n"));
        }
        let (word, rest) = [("relative", "require_relative"), ("require", "require"), ("gem", "gem ")]
            .iter()
            .find_map(|(word, start)| Some((word, line.strip_prefix(start)?)))?;
        let rest = rest.trim_start_matches([' ', '(']);
        let quote = rest.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
        let name = rest[1..].split(quote).next().filter(|name| !name.contains("#{"))?;
        Some(format!("{word} {name}\n"))
    };
    text.lines().filter_map(statement).collect()
}

/// Returns the line of a note for one of `Gemfile.lock` that says which version of a gem is used: `    name (version)`.
fn locked(line: &str) -> Option<String> {
    let (name, version) = line.strip_prefix("    ")?.split_once(" (")?;
    let version = version.strip_suffix(')')?;
    (!name.starts_with(' ') && !version.contains(' ')).then(|| format!("locked {name} {version}\n"))
}

/// Returns the gems that the Gemfile asks for, and the versions that are chosen.
fn gemfile(program: &Program, reads: &mut Reads<'_>) -> (Vec<String>, HashMap<String, String>) {
    let named = reads.variable("BUNDLE_GEMFILE").map(|path| program.absolute(path));
    let gemfile = named.unwrap_or_else(|| program.absolute("Gemfile"));
    let mut note = |path: &str| reads.look(path).map_or("", |file| reads.note(&file));
    let (asked, chosen) = (note(&gemfile), note(&format!("{gemfile}.lock")));
    let kept = |line: &&str| reads.keep(line.len());
    let asked = asked.lines().filter_map(|line| line.strip_prefix("gem "));
    let asked = asked.take_while(kept).map(str::to_owned).collect();
    let chosen = chosen
        .lines()
        .take_while(kept)
        .filter_map(|line| line.strip_prefix("locked ")?.split_once(' '))
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .collect();
    (asked, chosen)
}

/// Splits the name of a gem's directory into the gem's name and its version, the machine's name included.
fn gem(directory: &str) -> Option<(&str, &str)> {
    let is_version = |(at, _): &(usize, &str)| directory[at + 1..].starts_with(|c: char| c.is_ascii_digit());
    let (at, _) = directory.rmatch_indices('-').find(is_version)?;
    Some((&directory[..at], &directory[at + 1..]))
}

/// Returns the paths in a variable.
fn variable(reads: &Reads<'_>, name: &str) -> Vec<String> {
    reads.split(reads.variable(name).unwrap_or_default(), |c| c == ':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_that_load_something_are_found() {
        for (text, expected) in [
            ("require 'a'\n  require_relative(\"b/c\")\n# require 'no'", "require a|relative b/c"),
            ("load Gem.activate_bin_path('rack', 'rackup', version)", "program rack rackup"),
            ("Bundler.require(*Rails.groups)", "all"),
            ("gem 'puma', '~> 6'\ngems 'no'", "gem puma"),
            ("require \"#{x}\"\nrequire name\nrequire '", "require "),
        ] {
            assert_eq!(statements(text).trim_end_matches('\n').replace('\n', "|"), expected, "{text}");
        }
        let lock = "GEM\n  specs:\n    rack (3.0.8)\n      webrick (>= 1)\n    nio4r (2.5-java)\n\nDEPENDENCIES\n  rack (~> 3)\n";
        let found: String = lock.lines().filter_map(locked).collect();
        assert_eq!(found, "locked rack 3.0.8\nlocked nio4r 2.5-java\n");
    }

    #[test]
    fn a_gems_directory_is_its_name_and_its_version() {
        for (directory, expected) in [
            ("rack-3.0.8", Some(("rack", "3.0.8"))),
            ("google-protobuf-3.25.0-x86_64-linux", Some(("google-protobuf", "3.25.0-x86_64-linux"))),
            ("rack", None),
            ("a-b", None),
        ] {
            assert_eq!(gem(directory), expected);
        }
    }
}
