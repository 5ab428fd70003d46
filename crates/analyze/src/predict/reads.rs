//! The paths that are predicted, while they are being found.

use std::cell::RefCell;
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
use restow_oci::PredictionLimits;

use super::Launch;
use super::Prediction;
use super::budget::Budget;
use super::command::Command;
use super::elf;
use crate::Kind;
use crate::Tree;
use crate::path::depth;
use crate::path::join;

/// The longest path that is looked up.
pub(crate) const MAX_PATH: usize = 4096;
/// Steps to look a path up where the directory is known.
const LOOK: usize = 4;
/// How deep directories are whose ways are gone from the one above.
const DEEP: usize = 64;
/// Bytes that are handled in one step.
const STEP: u64 = 64;
/// Bytes of a file that are decoded and searched in one step.
const CONTENT: u64 = 512;
/// About as many bytes as the books about a path, a name or a word take besides its text.
const BOOKS: u64 = 64;
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

/// The way to a directory by one of its paths, so that it is gone once.
#[derive(Clone)]
struct Way {
    /// The links on it.
    touched: Rc<[(usize, String)]>,
    /// Where they lead; nowhere if there are too many.
    real: Option<Rc<str>>,
}

/// The names in a directory.
pub(crate) type Names<'a> = Rc<BTreeSet<&'a str>>;

/// A path that was followed to its end.
struct Reached<'a> {
    touched: Vec<(usize, String)>,
    position: usize,
    end: String,
    kind: &'a Kind,
}

/// What has been predicted so far, and the image it is predicted of.
pub(crate) struct Reads<'a> {
    tree: &'a Tree,
    limits: &'a PredictionLimits,
    budget: Budget,
    environment: BTreeMap<String, String>,
    files: Vec<Predicted>,
    seen: HashSet<(usize, String)>,
    /// The ways by the paths of directories, their names by where they lead, and about how large both are.
    ways: HashMap<String, Way>,
    listings: HashMap<Rc<str>, Names<'a>>,
    cached: u64,
    /// The files of which the notes were asked for.
    noted: RefCell<HashSet<(usize, u32)>>,
    loader: Option<Rc<elf::Places<'a>>>,
    commands: VecDeque<Command>,
    commands_seen: HashSet<(Vec<String>, String)>,
    notices: Vec<String>,
}

impl<'a> Reads<'a> {
    pub(crate) fn new(tree: &'a Tree, launch: &Launch, limits: &'a PredictionLimits) -> Self {
        let variable =
            |line: &String| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self {
            tree,
            limits,
            budget: Budget::new(limits),
            environment: launch.env.iter().filter_map(variable).collect(),
            files: Vec::new(),
            seen: HashSet::new(),
            ways: HashMap::new(),
            listings: HashMap::new(),
            cached: 0,
            noted: RefCell::default(),
            loader: None,
            commands: VecDeque::new(),
            commands_seen: HashSet::new(),
            notices: Vec::new(),
        }
    }

    /// Returns what a prediction may cost.
    pub(crate) fn limits(&self) -> &'a PredictionLimits {
        self.limits
    }

    /// Takes work out of the budget for `count` things that are gone through; says whether there is enough.
    pub(crate) fn spend(&self, count: usize) -> bool {
        self.budget.spend(count as u64)
    }

    /// Takes memory out of it for a text that is remembered; says whether there is enough.
    pub(crate) fn keep(&self, bytes: usize) -> bool {
        self.budget.keep(BOOKS + bytes as u64)
    }

    /// Returns the parts of a text that are not empty, as many as there is room for.
    pub(crate) fn split(&self, text: &str, at: fn(char) -> bool) -> Vec<String> {
        let parts = text.split(at).filter(|part| !part.is_empty());
        parts.take_while(|part| self.keep(part.len())).map(str::to_owned).collect()
    }

    /// Says whether the budget is used up. Nothing is found then, so that whoever goes on, ends soon; loops in loops ask.
    pub(crate) fn is_over(&self) -> bool {
        self.budget.is_over()
    }

    /// Returns where the loader looks for libraries.
    pub(crate) fn loader(&mut self) -> Rc<elf::Places<'a>> {
        match &self.loader {
            Some(places) => Rc::clone(places),
            None => {
                let places = Rc::new(elf::Places::of(self));
                self.loader = Some(Rc::clone(&places));
                places
            }
        }
    }

    /// Returns the first of the paths that leads to a regular file.
    pub(crate) fn first(&mut self, paths: impl IntoIterator<Item = String>) -> Option<String> {
        self.first_that(paths, |path, reads| reads.look(path).is_some())
    }

    /// Returns the first of the paths that fits, unless the budget is used up before.
    pub(crate) fn first_that(
        &mut self,
        paths: impl IntoIterator<Item = String>,
        mut fits: impl FnMut(&str, &mut Self) -> bool,
    ) -> Option<String> {
        for path in paths {
            if self.is_over() {
                return None;
            }
            if fits(&path, self) {
                return Some(path);
            }
        }
        None
    }

    /// Returns a variable of the environment.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        let value = self.environment.get(name).map(String::as_str)?;
        self.budget.spend(1 + value.len() as u64 / STEP).then_some(value)
    }

    /// Returns the clean path of the regular file that a path, in any spelling, leads to.
    pub(crate) fn look(&mut self, path: &str) -> Option<String> {
        let path = self.lookup(path)?;
        self.reach(&path).filter(Reached::is_file).map(|reached| reached.end)
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
        let Reached { mut touched, position, end, .. } = self.reach(&path).filter(Reached::is_file)?;
        let size = self.tree.file(&end).map(|(_, _, size)| size).unwrap_or_default();
        let part = PARTS.iter().find(|(start, _)| base(&end).starts_with(start));
        let read = size.min(part.map_or(most, |(_, part)| *part));
        touched.push((position, end.clone()));
        for (position, path) in touched {
            let most = self.limits.files;
            let key = (position, path.clone());
            if self.files.len() == most && !self.seen.contains(&key) {
                self.notice(format!("more than {most} files would be read; the rest is left out"));
                return None;
            }
            if self.seen.insert(key) {
                let reason = reason.to_string();
                if !self.keep(2 * path.len() + reason.len()) {
                    return None;
                }
                let (size, read) = if path == end { (size, read) } else { (0, 0) };
                self.files.push(Predicted { path, position, size, read, reason });
            }
        }
        Some(end)
    }

    /// Says whether the file at the clean path has been added.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.budget.spend(self.probes(path))
            && self
                .tree
                .resolve(path)
                .is_some_and(|position| self.seen.contains(&(position, path.to_owned())))
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
        self.find_note(path).unwrap_or_default()
    }

    fn find_note(&self, path: &str) -> Option<&'a str> {
        if !self.budget.spend(self.probes(path)) {
            return None;
        }
        let (position, index, size) = self.tree.file(path)?;
        // Whether the file is read now or was read with its layer.
        if self.noted.borrow_mut().insert((position, index)) {
            let looked_at = size.min(self.limits.program);
            if !self.budget.spend(looked_at / CONTENT) || !self.budget.keep(BOOKS) {
                return None;
            }
        }
        let note = self.tree.note(position, index, self.limits)?;
        self.budget.spend(note.len() as u64 / STEP).then_some(note)
    }

    /// Returns the names in the directory that a path, in any spelling, leads to, to go through them; none if there is no
    /// such directory.
    pub(crate) fn names(&mut self, directory: &str) -> Names<'a> {
        let names = self.listing(directory);
        if self.spend(names.len()) { names } else { Rc::default() }
    }

    /// Returns the paths of all that is in a directory, sorted.
    pub(crate) fn paths(&mut self, directory: &str) -> Vec<String> {
        let names = self.names(directory);
        let bytes = (directory.len() + 1) * names.len() + names.iter().map(|name| name.len()).sum::<usize>();
        if !self.budget.keep(BOOKS * names.len() as u64 + bytes as u64) {
            return Vec::new();
        }
        names.iter().map(|name| format!("{directory}/{name}")).collect()
    }

    /// Says whether a path, in any spelling, leads to a directory in which there is something.
    pub(crate) fn is_directory(&mut self, path: &str) -> bool {
        !self.listing(path).is_empty()
    }

    /// Returns the names in the directory, to look some of them up.
    pub(crate) fn listing(&mut self, directory: &str) -> Names<'a> {
        if directory.len() > MAX_PATH || !self.spend(LOOK + directory.len() / STEP as usize) {
            return Rc::default();
        }
        let Way { real, .. } = self.way(&clean(directory));
        real.map(|real| self.names_at(&real)).unwrap_or_default()
    }

    /// Returns the names in the directory at a path without links.
    fn names_at(&mut self, real: &Rc<str>) -> Names<'a> {
        if let Some(names) = self.listings.get(real) {
            return Rc::clone(names);
        }
        // Whether or not there is an entry: what no tar mentions may still be a directory.
        let most = self.budget.room(4 * BOOKS);
        let names = self
            .tree
            .names_within(real, most)
            .filter(|names| self.budget.spend(self.probes(real) + names.len() as u64));
        let Some(names) = names else {
            // Larger than anything that is left.
            self.budget.spend(u64::MAX);
            return Rc::default();
        };
        let names = Rc::new(names);
        self.remember(real.len() + names.len() * BOOKS as usize / 2);
        self.listings.insert(Rc::clone(real), Rc::clone(&names));
        names
    }

    /// Returns the way to the directory at the clean path.
    fn way(&mut self, path: &str) -> Way {
        if let Some(way) = self.ways.get(path) {
            return way.clone();
        }
        let Some(way) = self.step(path).or_else(|| self.walk(path)) else {
            return Way { touched: Rc::default(), real: None };
        };
        let links: usize = way.touched.iter().map(|(_, path)| BOOKS as usize + path.len()).sum();
        self.remember(2 * path.len() + links);
        self.ways.insert(path.to_owned(), way.clone());
        way
    }

    /// Goes on from the directory above, if its end is no link.
    fn step(&mut self, path: &str) -> Option<Way> {
        let above = parent(path).filter(|_| depth(path) <= DEEP)?;
        let Way { touched, real } = self.way(above);
        let (above, end) = (real.clone()?, join(&real?, base(path)));
        let absent = self.listings.get(&above).is_some_and(|names| !names.contains(base(path)));
        if !absent && self.budget.spend(self.probes(&end)) {
            let found = self.tree.place(&end);
            if matches!(found, Some((_, Kind::Symlink(_)))) {
                return None;
            }
        }
        Some(Way { touched, real: Some(end.into()) })
    }

    /// Goes the way from the root on.
    fn walk(&mut self, path: &str) -> Option<Way> {
        let height = self.tree.height().max(1);
        let (touched, real, parts) = self.tree.way(path, self.budget.room(1) / height);
        let way = Way { touched: touched.into(), real: real.map(Rc::from) };
        self.budget.spend(parts as u64 * height as u64).then_some(way)
    }

    /// Makes room for something that is remembered to save work. Once that is too much, all of it is forgotten.
    fn remember(&mut self, bytes: usize) {
        self.cached = self.cached.saturating_add(2 * BOOKS + bytes as u64);
        if self.cached > self.limits.memory / 4 {
            self.ways.clear();
            self.listings.clear();
            self.cached = bytes as u64;
        }
    }

    /// Follows the clean path through links; those that lead nowhere are themselves the end.
    fn reach(&mut self, path: &str) -> Option<Reached<'a>> {
        let Way { touched, real } = self.way(parent(path)?);
        let end = join(&real?, base(path));
        if !self.budget.spend(self.probes(&end)) {
            return None;
        }
        match self.tree.place(&end)? {
            (_, Kind::Symlink(_)) => {
                let mut touched = self.follow(path)?;
                let (position, end) = touched.pop()?;
                let (_, kind) = self.tree.place(&end)?;
                Some(Reached { touched, position, end, kind })
            }
            (position, kind) => Some(Reached { touched: touched.to_vec(), position, end, kind }),
        }
    }

    /// Returns what [`Tree::follow`] does for the clean path.
    fn follow(&self, path: &str) -> Option<Vec<(usize, String)>> {
        let height = self.tree.height().max(1);
        let (mut touched, real, parts) = self.tree.way(path, self.budget.room(1) / height);
        if !self.budget.spend(parts as u64 * height as u64) {
            return None;
        }
        match real.and_then(|end| Some((self.tree.resolve(&end)?, end))) {
            Some(end) => touched.push(end),
            // The last link stands for itself.
            None if touched.is_empty() => return None,
            None => {}
        }
        Some(touched)
    }

    /// Returns how many steps it takes to look a path up in all layers.
    fn probes(&self, path: &str) -> u64 {
        (self.tree.height() as u64).saturating_mul(depth(path) as u64)
    }

    /// Remembers a command to be followed once what is now being followed is done.
    pub(crate) fn run(&mut self, command: Command) {
        let words: usize = command.args.iter().map(|word| BOOKS as usize + word.len()).sum();
        if !self.spend(command.args.len()) {
            return;
        }
        let most = self.limits.commands;
        if self.commands_seen.len() == most {
            return self.notice(format!("more than {most} commands would run; the rest is left out"));
        }
        let key = (command.args.clone(), command.directory.clone());
        if self.keep(2 * (words + command.directory.len())) && self.commands_seen.insert(key) {
            self.commands.push_back(command);
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
        self.commands.pop_front().filter(|_| !self.is_over())
    }

    /// Tells something, once.
    pub(crate) fn notice(&mut self, text: String) {
        if !self.notices.contains(&text) {
            self.notices.push(text);
        }
    }

    pub(crate) fn finish(mut self) -> Prediction {
        if self.is_over() {
            let PredictionLimits { steps, memory, .. } = self.limits;
            self.notice(format!(
                "the prediction ends early: it would take more than {steps} steps or {memory} bytes of memory"
            ));
        }
        Prediction { files: self.files, notices: self.notices, layer_sizes: self.tree.layer_sizes() }
    }

    /// Returns the clean path, if a glance at its directory does not already say that nothing is there.
    fn lookup(&mut self, path: &str) -> Option<String> {
        if path.len() > MAX_PATH || path.contains('\0') || !self.spend(LOOK + path.len() / STEP as usize) {
            return None;
        }
        // Not `clean`: `link/..` is where the link leads, and only the tree knows.
        let path = if path.contains("..") { self.real(path)? } else { clean(path) };
        let Way { real, .. } = self.way(parent(&path)?);
        self.names_at(&real?).contains(base(&path)).then_some(path)
    }

    /// Returns the path with the links above its end resolved.
    fn real(&mut self, path: &str) -> Option<String> {
        let path = path.trim_end_matches('/');
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name == ".." || name == "." {
            return None;
        }
        let real = match directory.trim_matches('/') {
            "" => Rc::default(),
            directory => self.walk(directory)?.real?,
        };
        Some(join(&real, name))
    }
}

impl Reached<'_> {
    fn is_file(&self) -> bool {
        matches!(self.kind, Kind::File { .. } | Kind::Hardlink(_))
    }
}
