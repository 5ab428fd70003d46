//! Python: what the interpreter imports before a script, and the script's imports with all that these import.

mod application;
mod imports;

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::HashSet;
use std::rc::Rc;

use restow_layer::path::base;
use restow_layer::path::parent;

use self::imports::Imports;
use super::Predictor;
use super::command::Program;
use super::command::prefix;
use super::elf;
use super::libc;
use super::passing::Passing;
use super::reads::Reads;

/// Modules of the standard library that an interpreter since 3.11 carries in itself.
const FROZEN: [&str; 17] = [
    "abc",
    "codecs",
    "io",
    "_collections_abc",
    "_sitebuiltins",
    "genericpath",
    "ntpath",
    "posixpath",
    "os",
    "site",
    "stat",
    "importlib.util",
    "importlib.machinery",
    "runpy",
    "zipimport",
    "importlib._bootstrap",
    "importlib._bootstrap_external",
];
/// What every interpreter imports before a script.
const STARTUP: [&str; 13] = [
    "encodings",
    "encodings.aliases",
    "codecs",
    "encodings.utf_8",
    "io",
    "abc",
    "site",
    "os",
    "stat",
    "_collections_abc",
    "posixpath",
    "genericpath",
    "_sitebuiltins",
];
/// What it imports last, if it is there.
const CUSTOM: [&str; 2] = ["sitecustomize", "usercustomize"];

/// The Python interpreter.
#[derive(Debug)]
pub(crate) struct Python;

impl Predictor for Python {
    fn note(&self, file: &Passing<'_>) -> Option<String> {
        if file.path.ends_with(".pth") || file.path.ends_with("pyvenv.cfg") {
            return Some(file.text().into_owned());
        }
        file.is(&[".py"], &["python", "pypy"]).then(|| imports::note(&file.text()))
    }

    fn predict(&self, program: &Program, reads: &mut Reads<'_>) {
        if program.is(&["python", "pypy"])
            && let Some(mut interpreter) = Interpreter::new(program, reads)
        {
            interpreter.start();
            interpreter.script(program);
        }
    }
}

/// What is to be run, and the words behind it.
enum Script<'p> {
    File(&'p str, &'p [String]),
    Module(&'p str, &'p [String]),
    Text(&'p str),
}

impl<'p> Script<'p> {
    fn of(program: &'p Program) -> Option<Self> {
        let mut words = program.args.iter();
        while let Some(word) = words.next() {
            // Options stand alone or together, as in `-um`; some take what follows.
            let Some(options) = word.strip_prefix('-').filter(|options| !options.is_empty()) else {
                return Some(Self::File(word, words.as_slice()));
            };
            if options.starts_with('-') {
                continue;
            }
            let Some(at) = options.find(['c', 'm', 'W', 'X']) else { continue };
            let value = Some(&options[at + 1..])
                .filter(|value| !value.is_empty())
                .or_else(|| words.next().map(String::as_str))?;
            match options.as_bytes()[at] {
                b'c' => return Some(Self::Text(value)),
                b'm' => return Some(Self::Module(value, words.as_slice())),
                _ => {}
            }
        }
        None
    }
}

/// An interpreter with its search path.
struct Interpreter<'r, 'a> {
    reads: &'r mut Reads<'a>,
    library: String,
    path: Rc<Vec<String>>,
    /// Whether the modules of [`FROZEN`] are in the interpreter.
    frozen: bool,
    /// Whether its C library is musl, which knows one locale.
    musl: bool,
    /// The modules imported, with where their submodules are; `None` for what was not found.
    modules: HashMap<String, Option<Rc<Vec<String>>>>,
    executed: HashSet<String>,
}

/// A file being executed: its name as a module, and what it still has to import.
struct Frame<'a> {
    file: String,
    package: String,
    imports: Imports<'a>,
}

impl<'r, 'a> Interpreter<'r, 'a> {
    fn new(program: &Program, reads: &'r mut Reads<'a>) -> Option<Self> {
        let mut root = format!("/{}", prefix(&program.file));
        let mut site = Vec::new();
        // A virtual environment is where the interpreter was called, not where it lies.
        let called = format!("/{}", prefix(program.path.trim_start_matches('/')));
        let configuration = format!("{called}/pyvenv.cfg");
        if let Some(file) = reads.open(&configuration, "the interpreter looks for its environment") {
            let home = reads
                .note(&file)
                .lines()
                .find_map(|line| line.strip_prefix("home")?.split_once('=').map(|(_, path)| path.trim()));
            root = home.and_then(parent).unwrap_or(&root).to_owned();
            site.push(called);
        }
        site.push(root.clone());
        let version = version(program, &root, reads)?;
        let library = ["lib", "lib64"]
            .iter()
            .map(|name| format!("{root}/{name}/python{version}"))
            .find(|path| reads.is_directory(path))?;
        let mut path = reads.split(reads.variable("PYTHONPATH").unwrap_or_default(), |c| c == ':');
        path.retain(|path| path.starts_with('/'));
        path.extend([library.clone(), format!("{library}/lib-dynload")]);
        for root in site {
            path.push(format!("{root}/lib/python{version}/site-packages"));
            path.push(format!("{root}/local/lib/python{version}/dist-packages"));
            // Debian's own packages are shared by all versions.
            path.push(format!("{root}/lib/python3/dist-packages"));
        }
        path.retain(|directory| reads.is_directory(directory));
        let minor: u32 = version.strip_prefix("3.").and_then(|minor| minor.parse().ok()).unwrap_or_default();
        let musl = libc::is_musl(&program.file, reads);
        Some(Self {
            reads,
            musl,
            library,
            path: path.into(),
            frozen: minor >= 11,
            modules: HashMap::new(),
            executed: HashSet::new(),
        })
    }

    /// Adds what is read before any script.
    fn start(&mut self) {
        // Without a locale, the interpreter takes this one (PEP 538).
        if !self.musl {
            libc::characters("C.UTF-8", "python sets it where there is no locale", self.reads);
        }
        for name in STARTUP {
            self.import(name, "python imports it at start");
        }
        for directory in self.path.clone().iter() {
            let names = self.reads.names(directory);
            let listed: Vec<String> = names
                .iter()
                .filter(|name| name.ends_with(".pth"))
                .map(|name| format!("{directory}/{name}"))
                .collect();
            for path in listed {
                let Some(file) = self.reads.open(&path, "python reads it at start") else { continue };
                for line in
                    self.reads.note(&file).lines().map(str::trim).filter(|line| !line.starts_with('#'))
                {
                    if let Some(rest) = line.strip_prefix("import ") {
                        let names: Vec<_> =
                            rest.split(';').next().unwrap_or_default().split(',').map(str::trim).collect();
                        names.into_iter().for_each(|name| self.import(name, &format!("{file} imports it")));
                    } else if !line.is_empty() {
                        let added = if line.starts_with('/') {
                            line.to_owned()
                        } else {
                            format!("{directory}/{line}")
                        };
                        if !self.reads.keep(added.len()) {
                            return;
                        }
                        Rc::make_mut(&mut self.path).push(added);
                    }
                }
            }
        }
        for name in CUSTOM {
            self.import(name, "python imports it at start");
        }
    }

    /// Adds the script and what it imports.
    fn script(&mut self, program: &Program) {
        match Script::of(program) {
            Some(Script::File(script, words)) => {
                let path = program.absolute(script);
                // A directory or an archive with a `__main__` is a script as well.
                let main = format!("{path}/__main__.py");
                let path = if self.reads.look(&main).is_some() { main } else { path };
                if let Some(file) = self.reads.open(&path, "the script python runs") {
                    Rc::make_mut(&mut self.path).insert(0, format!("/{}", parent(&file).unwrap_or_default()));
                    self.main(&file, "");
                    self.served(base(script).trim_end_matches(".py"), words, program);
                }
            }
            Some(Script::Module(name, words)) => {
                Rc::make_mut(&mut self.path).insert(0, program.directory.clone());
                for name in ["runpy", "importlib", "importlib.util", "pkgutil", "types", "warnings"] {
                    self.import(name, "python imports it to run a module");
                }
                self.import(name, "the module python runs");
                let main = format!("{name}.__main__");
                self.import(&main, "the module python runs");
                let file = [main.as_str(), name].iter().find_map(|name| self.source(name));
                if let Some(file) = file {
                    self.main(&file, name);
                }
                self.served(name, words, program);
            }
            Some(Script::Text(text)) => {
                Rc::make_mut(&mut self.path).insert(0, program.directory.clone());
                let note = imports::note(text);
                self.execute(Frame {
                    file: "the command".into(),
                    package: String::new(),
                    imports: Imports::new(note, true),
                });
            }
            None => {}
        }
    }

    /// Follows what the file imports when it is what runs, in its functions too, and the files it names.
    fn main(&mut self, file: &str, package: &str) {
        let note = self.reads.note(file);
        let imports = Imports::new(note, true);
        self.execute(Frame { file: file.to_owned(), package: package.to_owned(), imports });
        for path in imports::paths(note) {
            self.reads.open_named(path, format_args!("{file} names it"));
        }
    }

    /// Imports a module, and before it the packages it is in.
    fn import(&mut self, name: &str, reason: &str) {
        for (end, _) in name.match_indices('.').chain([(name.len(), "")]) {
            if let Some(frame) = self.load(&name[..end], reason) {
                self.execute(frame);
            }
        }
    }

    /// Follows imports depth first, which is the order in which they are read.
    fn execute(&mut self, frame: Frame<'a>) {
        let mut frames = vec![frame];
        while let Some(frame) = frames.last_mut().filter(|_| !self.reads.is_over()) {
            let Some(import) = frame.imports.next() else {
                frames.pop();
                continue;
            };
            let reason = format!("{} imports it", frame.file);
            let Some(module) = import.absolute(&frame.package) else { continue };
            let ends = module.match_indices('.').chain(Some((module.len(), "")));
            let packages = ends.map(|(end, _)| Cow::Borrowed(&module[..end]));
            let inside = import.names.iter().map(|name| Cow::Owned(format!("{module}.{name}")));
            let wanted = packages.chain(inside);
            let mut loaded: Vec<Frame<'_>> = wanted.filter_map(|name| self.load(&name, &reason)).collect();
            loaded.reverse();
            frames.append(&mut loaded);
        }
    }

    /// Adds the file of a module, once, and returns what it imports.
    fn load(&mut self, name: &str, reason: &str) -> Option<Frame<'a>> {
        let known = self.modules.contains_key(name) || self.modules.len() >= self.reads.limits().modules;
        if known || !self.reads.keep(name.len()) {
            return None;
        }
        let search = match name.rsplit_once('.') {
            Some((package, _)) => self.modules.get(package)?.clone()?,
            None => Rc::clone(&self.path),
        };
        if !self.reads.spend(search.len()) {
            return None;
        }
        let last = name.rsplit('.').next().unwrap_or(name);
        let found = search
            .iter()
            .find_map(|directory| self.find(directory, last).map(|found| (directory.clone(), found)));
        let Some((directory, found)) = found else {
            // A directory without an `__init__` is a package too, spread over the search path.
            let spread: Vec<String> = search
                .iter()
                .map(|directory| format!("{directory}/{last}"))
                .filter(|path| self.reads.is_directory(path) && self.reads.keep(path.len()))
                .collect();
            self.modules.insert(name.to_owned(), (!spread.is_empty()).then(|| spread.into()));
            return None;
        };
        let below =
            matches!(found, Found::Package { .. }).then(|| vec![format!("{directory}/{last}")].into());
        let is_package = below.is_some();
        self.modules.insert(name.to_owned(), below);
        let (file, note_of) = match found {
            Found::Package { path, source } | Found::Source { path, source } => {
                let carried = self.frozen && directory.starts_with(&self.library) && FROZEN.contains(&name);
                let file = if carried { path } else { self.reads.open(&path, reason)? };
                (source.clone().unwrap_or(file), source)
            }
            Found::Extension { path } => {
                elf::load(&path, reason, self.reads);
                return None;
            }
        };
        let source = note_of?;
        if !self.executed.insert(source.clone()) {
            return None;
        }
        let package =
            if is_package { name } else { name.rsplit_once('.').map_or("", |(package, _)| package) };
        let imports = Imports::new(self.reads.note(&source), false);
        Some(Frame { file, package: package.to_owned(), imports })
    }

    /// Finds what a directory of the search path has under a name, in the order in which Python looks.
    fn find(&mut self, directory: &str, name: &str) -> Option<Found> {
        let names = self.reads.listing(directory);
        if names.contains(name) {
            let package = format!("{directory}/{name}");
            if let Some((path, source)) = self.compiled(&package, "__init__") {
                return Some(Found::Package { path, source });
            }
        }
        // In the order of their names.
        let (stable, tagged, plain) =
            (format!("{name}.abi3.so"), format!("{name}.cpython-"), format!("{name}.so"));
        let mut tags = names.range(tagged.as_str()..).take_while(|found| found.starts_with(&tagged));
        let extension = names.get(stable.as_str()).copied();
        let extension =
            extension.or_else(|| tags.find(|found| !self.reads.spend(1) || found.ends_with(".so")).copied());
        if let Some(extension) = extension.or_else(|| names.get(plain.as_str()).copied()) {
            return Some(Found::Extension { path: format!("{directory}/{extension}") });
        }
        let (path, source) = self.compiled(directory, name)?;
        Some(Found::Source { path, source })
    }

    /// Returns the file that is read for a module, its compiled form if there is one, and its source.
    fn compiled(&mut self, directory: &str, name: &str) -> Option<(String, Option<String>)> {
        let names = self.reads.listing(directory);
        let file = format!("{name}.py");
        if !names.contains(file.as_str()) {
            let alone = format!("{name}.pyc");
            return names.contains(alone.as_str()).then(|| (format!("{directory}/{alone}"), None));
        }
        let path = format!("{directory}/{file}");
        let source = self.reads.look(&path)?;
        let tag = base(&self.library).replace("python", "cpython-").replace('.', "");
        // The directory of a link's target is not where Python looks.
        let cached = format!("{directory}/__pycache__/{name}.{tag}.pyc");
        let read = if self.reads.look(&cached).is_some() { cached } else { path };
        Some((read, Some(source)))
    }

    /// Returns the source of a module that was found.
    fn source(&mut self, name: &str) -> Option<String> {
        let (package, last) = name.rsplit_once('.').unwrap_or(("", name));
        let search =
            if package.is_empty() { Rc::clone(&self.path) } else { self.modules.get(package)?.clone()? };
        search.iter().find_map(|directory| match self.find(directory, last)? {
            Found::Source { source, .. } | Found::Package { source, .. } => source,
            Found::Extension { .. } => None,
        })
    }
}

/// What a name stands for.
enum Found {
    Package { path: String, source: Option<String> },
    Source { path: String, source: Option<String> },
    Extension { path: String },
}

/// Returns the version in the interpreter's name, or the one whose library there is.
fn version(program: &Program, root: &str, reads: &mut Reads<'_>) -> Option<String> {
    let own =
        |name: &str| name.strip_prefix("python").filter(|version| version.contains('.')).map(str::to_owned);
    own(base(&program.file)).or_else(|| {
        let names = reads.names(&format!("{root}/lib"));
        names.iter().rev().find_map(|name| own(name))
    })
}
