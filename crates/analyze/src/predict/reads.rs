//! The paths that are predicted, while they are being found.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::fmt::Display;
use std::rc::Rc;

use restow_layer::path::base;
use restow_layer::path::clean;
use restow_layer::path::parent;

use super::Launch;
use super::Prediction;
use super::command::Command;
use crate::Kind;
use crate::Tree;
use crate::path::join;

/// The most paths that are predicted. A start that reads more is not made faster by an order.
const MAX_FILES: usize = 20_000;
/// The most commands that are followed.
const MAX_COMMANDS: usize = 200;
/// The most paths that are looked up, whether or not they are there.
const MAX_LOOKUPS: usize = 2_000_000;
/// The longest path that is looked up.
const MAX_PATH: usize = 4096;
/// Large files that are mapped into memory, by the starts of their names, and the most that is read of them early: of all
/// locales one; of Java's classes those of the start, which lie together in its image and apart in the older archive; of ICU's
/// tables, as recorded, three chunks of 4 MiB.
const PARTS: [(&str, u64); 4] =
    [("locale-archive", 1 << 20), ("modules", 16 << 20), ("rt.jar", 24 << 20), ("libicudata.so", 12 << 20)];
/// The most that is read of a file that a script only names.
const NAMED: u64 = 16 << 20;

/// A path that a container will read early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Predicted {
    /// The clean path.
    pub path: String,
    /// The position of the layer that provides it, from 0.
    pub position: usize,
    /// The size of the file in bytes; 0 for a link.
    pub size: u64,
    /// How many of them are read early: all, unless it is known to be otherwise.
    pub read: u64,
    /// Why it is read.
    pub reason: String,
}

/// A directory by the path that leads to it, so that the way there is gone once.
#[derive(Clone)]
struct Directory<'a> {
    /// The links on the way.
    touched: Rc<[(usize, String)]>,
    /// Where they lead; nowhere if there are too many.
    real: Option<Rc<str>>,
    names: Rc<BTreeSet<&'a str>>,
}

/// What has been predicted so far, and the image it is predicted of.
pub(crate) struct Reads<'a> {
    tree: &'a Tree,
    environment: BTreeMap<String, String>,
    files: Vec<Predicted>,
    seen: HashSet<(usize, String)>,
    directories: HashMap<String, Directory<'a>>,
    commands: VecDeque<Command>,
    commands_seen: HashSet<(Vec<String>, String)>,
    lookups: usize,
    notices: Vec<String>,
}

impl<'a> Reads<'a> {
    pub(crate) fn new(tree: &'a Tree, launch: &Launch) -> Self {
        let variable =
            |line: &String| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self {
            tree,
            environment: launch.env.iter().filter_map(variable).collect(),
            files: Vec::new(),
            seen: HashSet::new(),
            directories: HashMap::new(),
            commands: VecDeque::new(),
            commands_seen: HashSet::new(),
            lookups: 0,
            notices: Vec::new(),
        }
    }

    /// Returns a variable of the environment.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }

    /// Returns the clean path of the regular file that a path, in any spelling, leads to.
    pub(crate) fn look(&mut self, path: &str) -> Option<String> {
        let path = self.lookup(path)?;
        let (_, end) = self.follow(&path)?.pop()?;
        self.is_file(&end).then_some(end)
    }

    /// Adds the regular file that a path, in any spelling, leads to, and the links on the way; returns its clean path.
    pub(crate) fn open(&mut self, path: &str, reason: impl Display) -> Option<String> {
        self.open_part(path, u64::MAX, reason)
    }

    /// Does the same with a file that may never be read, or not as a whole.
    pub(crate) fn open_named(&mut self, path: &str, reason: impl Display) -> Option<String> {
        self.open_part(path, NAMED, reason)
    }

    fn open_part(&mut self, path: &str, most: u64, reason: impl Display) -> Option<String> {
        let path = self.lookup(path)?;
        let touched = self.follow(&path)?;
        let (_, end) = touched.last()?.clone();
        if !self.is_file(&end) {
            return None;
        }
        let size = self.tree.size(&end).unwrap_or_default();
        let part = PARTS.iter().find(|(start, _)| base(&end).starts_with(start));
        let read = size.min(part.map_or(most, |(_, part)| *part));
        for (position, path) in touched {
            if self.files.len() == MAX_FILES {
                self.notice(format!("more than {MAX_FILES} files would be read; the rest is left out"));
                return None;
            }
            if self.seen.insert((position, path.clone())) {
                let (size, read) = if path == end { (size, read) } else { (0, 0) };
                self.files.push(Predicted { path, position, size, read, reason: reason.to_string() });
            }
        }
        Some(end)
    }

    /// Says whether the file at the clean path has been added.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.tree.resolve(path).is_some_and(|position| self.seen.contains(&(position, path.to_owned())))
    }

    /// Returns the note about the file at the clean path, without the line that names an interpreter.
    pub(crate) fn note(&self, path: &str) -> &'a str {
        match self.whole_note(path) {
            note if note.starts_with("#!") => note.split_once('\n').map_or("", |(_, rest)| rest),
            note => note,
        }
    }

    /// Returns the note about the file at the clean path.
    pub(crate) fn whole_note(&self, path: &str) -> &'a str {
        self.tree.note(path).unwrap_or_default()
    }

    /// Returns the names in the directory that a path, in any spelling, leads to; none if there is no such directory.
    pub(crate) fn names(&mut self, directory: &str) -> Rc<BTreeSet<&'a str>> {
        self.directory(&clean(directory)).names
    }

    /// Returns the directory that the clean path leads to.
    fn directory(&mut self, path: &str) -> Directory<'a> {
        if let Some(directory) = self.directories.get(path) {
            return directory.clone();
        }
        // Whether or not there is an entry: what no tar mentions may still be a directory.
        let (touched, real) = self.tree.way(path);
        let names = Rc::new(real.as_ref().map(|real| self.tree.names(real)).unwrap_or_default());
        let directory = Directory { touched: touched.into(), real: real.map(Rc::from), names };
        self.directories.insert(path.to_owned(), directory.clone());
        directory
    }

    /// Returns what [`Tree::follow`] does for the clean path.
    fn follow(&mut self, path: &str) -> Option<Vec<(usize, String)>> {
        let Directory { touched, real, .. } = self.directory(parent(path)?);
        let end = join(&real?, base(path));
        match self.tree.place(&end)? {
            (_, Kind::Symlink(_)) => self.tree.follow(path),
            (position, _) => Some(touched.iter().cloned().chain([(position, end)]).collect()),
        }
    }

    /// Remembers a command to be followed once what is now being followed is done.
    pub(crate) fn run(&mut self, command: Command) {
        let key = (command.args.clone(), command.directory.clone());
        if self.commands_seen.len() < MAX_COMMANDS {
            if self.commands_seen.insert(key) {
                self.commands.push_back(command);
            }
        } else {
            self.notice(format!("more than {MAX_COMMANDS} commands would run; the rest is left out"));
        }
    }

    /// Remembers a command to be followed before all others.
    pub(crate) fn run_next(&mut self, command: Command) {
        let waiting = std::mem::take(&mut self.commands);
        self.run(command);
        self.commands.extend(waiting);
    }

    /// Returns the next command to be followed.
    pub(crate) fn next(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Tells something, once.
    pub(crate) fn notice(&mut self, text: String) {
        if !self.notices.contains(&text) {
            self.notices.push(text);
        }
    }

    pub(crate) fn finish(self) -> Prediction {
        Prediction { files: self.files, notices: self.notices, layer_sizes: self.tree.layer_sizes() }
    }

    /// Returns the clean path, if a glance at its directory does not already say that nothing is there.
    fn lookup(&mut self, path: &str) -> Option<String> {
        if path.len() > MAX_PATH || path.contains('\0') {
            return None;
        }
        if self.lookups == MAX_LOOKUPS {
            self.notice(format!("more than {MAX_LOOKUPS} paths would be looked up; the rest is left out"));
            return None;
        }
        self.lookups += 1;
        // Not `clean`: `link/..` is where the link leads, and only the tree knows.
        let path = if path.contains("..") { self.real(path)? } else { clean(path) };
        let names = self.directory(parent(&path)?).names;
        names.contains(base(&path)).then_some(path)
    }

    /// Returns the path with the links above its end resolved.
    fn real(&self, path: &str) -> Option<String> {
        let path = path.trim_end_matches('/');
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name == ".." || name == "." {
            return None;
        }
        let directory = directory.trim_matches('/');
        let real = match directory {
            "" => String::new(),
            _ => self.tree.way(directory).1?,
        };
        Some(join(&real, name))
    }

    fn is_file(&self, path: &str) -> bool {
        matches!(self.tree.kind(path), Some(Kind::File { .. } | Kind::Hardlink(_)))
    }
}
