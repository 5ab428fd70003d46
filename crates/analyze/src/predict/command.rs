//! From a command to the program that runs, through `PATH` and interpreter lines.

use restow_layer::path::base;
use restow_layer::path::parent;

use super::Launch;
use super::PREDICTORS;
use super::passing;
use super::reads::MAX_PATH;
use super::reads::Reads;

/// Where a program is looked for if nothing says so, as runc does.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Something that is to be started.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    /// The program and its arguments.
    pub(crate) args: Vec<String>,
    /// The working directory.
    pub(crate) directory: String,
    /// Why it is started.
    pub(crate) reason: String,
    /// How many commands led to it.
    pub(crate) depth: usize,
}

/// A program that was found.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The path by which it was started.
    pub(crate) path: String,
    /// The clean path of the file.
    pub(crate) file: String,
    /// What follows the program's name.
    pub(crate) args: Vec<String>,
    /// The working directory.
    pub(crate) directory: String,
    depth: usize,
}

impl Program {
    /// Says whether the program goes by one of these names, a version like `3.11` or `-8.2` aside.
    pub(crate) fn is(&self, names: &[&str]) -> bool {
        [&self.path, &self.file].iter().any(|path| {
            let name = base(path).trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
            names.contains(&name)
        })
    }

    /// Returns a command that this program starts.
    pub(crate) fn starts(&self, args: Vec<String>) -> Command {
        Command {
            args,
            directory: self.directory.clone(),
            reason: format!("{} starts it", self.file),
            depth: self.depth + 1,
        }
    }

    /// Returns a path given to the program, from the root on.
    pub(crate) fn absolute(&self, path: &str) -> String {
        if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", self.directory) }
    }
}

/// Follows what the image starts, and what that starts in turn.
pub(crate) fn run(reads: &mut Reads<'_>, launch: &Launch) {
    if launch.args.is_empty() {
        reads.notice("the image's config names no command".into());
        return;
    }
    reads.run(Command {
        args: launch.args.clone(),
        // No kernel changes to a longer one.
        directory: Some(&launch.directory).filter(|path| path.len() <= MAX_PATH).cloned().unwrap_or_default(),
        reason: "the image starts it".into(),
        depth: 0,
    });
    while let Some(command) = reads.next() {
        let first = command.depth == 0;
        let name = command.args.first().cloned().unwrap_or_default();
        if start(command, reads).is_none() && first {
            let name: String = name.chars().take(80).collect();
            reads.notice(format!("the program {name:?} is not in the image"));
        }
    }
}

/// Returns the path by which a program is started.
pub(crate) fn find(name: &str, directory: &str, reads: &mut Reads<'_>) -> Option<String> {
    if name.contains('/') {
        let path = if name.starts_with('/') { name.to_owned() } else { format!("{directory}/{name}") };
        return reads.look(&path).map(|_| path);
    }
    let path = reads.variable("PATH").unwrap_or(DEFAULT_PATH).to_owned();
    let candidates = path.split(':').filter(|directory| directory.starts_with('/'));
    reads.first(candidates.map(|directory| format!("{directory}/{name}")))
}

fn start(command: Command, reads: &mut Reads<'_>) -> Option<()> {
    let Command { args, directory, reason, depth } = command;
    let (name, rest) = args.split_first()?;
    let path = find(name, &directory, reads)?;
    let file = reads.open(&path, &reason)?;
    if depth == reads.limits().command_depth {
        reads.notice(format!("{file} is reached through {depth} commands; what it starts is left out"));
        return Some(());
    }
    if let Some(line) = passing::interpreter(reads.whole_note(&file)) {
        // The kernel gives all that follows the interpreter as one argument.
        let (interpreter, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let mut args = vec![interpreter.to_owned()];
        args.extend(Some(argument.trim()).filter(|argument| !argument.is_empty()).map(str::to_owned));
        args.push(path);
        args.extend_from_slice(rest);
        reads.run_next(Command {
            args,
            directory,
            reason: format!("{file} names it as its interpreter"),
            depth: depth + 1,
        });
        return Some(());
    }
    let program = Program { path, file, args: rest.to_vec(), directory, depth };
    for predictor in PREDICTORS {
        predictor.predict(&program, reads);
    }
    Some(())
}

/// Returns the directory above that of a file: `/usr` for `/usr/bin/x`.
pub(crate) fn prefix(file: &str) -> &str {
    parent(file).and_then(parent).unwrap_or_default()
}
