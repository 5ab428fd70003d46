//! Shells and their scripts.
//!
//! A script is read by its plain commands: words without variables at the start of a line or behind a keyword. What
//! a script computes is not known. A `cd` to a directory that is spelled out holds for what follows it, up to the end of
//! the subshell or the function that it is in.

use restow_layer::path::clean;

use super::Predictor;
use super::command::Program;
use super::passing::Passing;
use super::reads::Reads;

const NAMES: [&str; 7] = ["sh", "bash", "dash", "ash", "ksh", "zsh", "mksh"];
/// Subshells and functions in one another whose directories are kept apart.
const MAX_NESTED: usize = 50;
/// The longest directory that is changed to.
const MAX_DIRECTORY: usize = 4096;

/// What is no program although it stands where one would.
const BUILTINS: &[&str] = &[
    ":", ".", "[", "[[", "alias", "break", "case", "cd", "continue", "declare", "done", "echo", "esac",
    "eval", "exit", "export", "false", "fi", "for", "function", "getopts", "hash", "kill", "let", "local",
    "printf", "pwd", "read", "readonly", "return", "set", "shift", "shopt", "test", "trap", "true", "type",
    "ulimit", "umask", "unset", "wait", "{", "}", "(", ")",
];

/// What a script does, as far as it is followed.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It starts a program or reads another script.
    Command(Vec<String>),
    /// It changes to this directory.
    Change(String),
    /// A subshell or the body of a function begins.
    Enter,
    /// It ends.
    Leave,
}

/// How parentheses that are not quoted are told from words.
const OPENED: &str = ";(";
const CLOSED: &str = ";)";

/// Words behind which a command stands.
const KEYWORDS: &[&str] =
    &["if", "then", "else", "elif", "while", "until", "do", "!", "&&", "||", "|", "time", "{", "("];

/// Shells.
#[derive(Debug)]
pub(crate) struct Shell;

impl Predictor for Shell {
    fn note(&self, file: &Passing<'_>) -> Option<String> {
        if !file.is(&[".sh"], &NAMES) || file.size > file.limits.script {
            return None;
        }
        let text = file.text();
        let body =
            if file.shebang().is_some() { text.split_once('\n').map_or("", |(_, body)| body) } else { &text };
        Some(body.to_owned())
    }

    fn predict(&self, program: &Program, reads: &mut Reads<'_>) {
        if !program.is(&NAMES) {
            return;
        }
        let options =
            program.args.iter().take_while(|word| word.starts_with('-') || word.starts_with('+')).count();
        let text = program.args[..options].iter().any(|word| !word.starts_with("--") && word.contains('c'));
        let Some((script, rest)) = program.args[options..].split_first() else { return };
        if text {
            // The word behind the text is `$0`.
            run(script, rest.get(1..).unwrap_or_default(), program, reads);
        } else if let Some(file) = reads.open(&program.absolute(script), "a script the shell runs") {
            run(reads.note(&file), rest, program, reads);
        }
    }
}

/// Adds what a script starts.
fn run(text: &str, positional: &[String], program: &Program, reads: &mut Reads<'_>) {
    let mut texts = vec![(text.to_owned(), program.directory.clone())];
    let mut here = program.clone();
    let mut sourced = 0;
    while let Some((text, directory)) = texts.pop().filter(|(text, _)| reads.spend(text.len())) {
        here.directory = directory;
        // Where the scopes began that are open, and how many more there are.
        let (mut outer, mut deeper) = (Vec::new(), 0_usize);
        let mut commands = 0;
        for step in steps(&text) {
            if reads.is_over() {
                return;
            }
            let words = match step {
                Step::Enter if outer.len() < MAX_NESTED => {
                    outer.push(here.directory.clone());
                    continue;
                }
                Step::Enter => {
                    deeper += 1;
                    continue;
                }
                Step::Leave => {
                    if let Some(rest) = deeper.checked_sub(1) {
                        deeper = rest;
                    } else if let Some(directory) = outer.pop() {
                        here.directory = directory;
                    }
                    continue;
                }
                Step::Change(directory) => {
                    // As the shell sees it: `..` goes back to where it came from, through a link or not.
                    let directory = format!("/{}", clean(&here.absolute(&directory)));
                    if reads.spend(directory.len() / 64) && directory.len() <= MAX_DIRECTORY {
                        here.directory = directory;
                    }
                    continue;
                }
                Step::Command(_) if commands == reads.limits().script_commands => break,
                Step::Command(words) => words,
            };
            commands += 1;
            match words.split_first() {
                Some((name, rest)) if name == "." || name == "source" => {
                    let most = reads.limits().sourced;
                    let Some(path) = rest.first().filter(|path| sourced < most && path.contains('/')) else {
                        continue;
                    };
                    sourced += 1;
                    if let Some(file) = reads.open(&here.absolute(path), "a script reads it into itself") {
                        texts.push((reads.note(&file).to_owned(), here.directory.clone()));
                    }
                }
                Some((name, rest)) if name == "$@" && reads.spend(positional.len()) => {
                    let arguments = [positional, rest].concat();
                    if arguments.first().is_some_and(|word| !word.starts_with('-')) {
                        reads.run(here.starts(arguments));
                    }
                }
                Some((name, _)) if !name.contains(['$', '`']) => reads.run(here.starts(words)),
                _ => {}
            }
        }
        // The images of nginx and others run all scripts in such a directory.
        for directory in ["/docker-entrypoint.d", "/docker-entrypoint-initdb.d"] {
            if text.contains(directory) {
                let names = reads.paths(directory);
                names
                    .into_iter()
                    .filter(|name| name.ends_with(".sh"))
                    .for_each(|name| reads.run(program.starts(vec![name])));
            }
        }
    }
}

/// Returns what a script does, in the order of its lines: its simple commands, each as its words, and where they run.
fn steps(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut scopes = Scopes::default();
    let mut here: Option<String> = None;
    for line in text.replace("\\\n", " ").lines() {
        if let Some(end) = &here {
            if line.trim() == end {
                here = None;
            }
            continue;
        }
        let (words, end) = split(line);
        here = end;
        let separates = |word: &String| matches!(word.as_str(), ";" | OPENED | CLOSED);
        for piece in words.split_inclusive(separates) {
            let (command, separator) = match piece.split_last() {
                Some((last, command)) if separates(last) => (command, last.as_str()),
                _ => (piece, ";"),
            };
            scopes.see(command, &mut steps);
            steps.extend(step(command));
            scopes.separate(command, separator, &mut steps);
        }
    }
    steps
}

/// Returns what a simple command does.
fn step(command: &[String]) -> Option<Step> {
    let command = &command[prefixes(command)..];
    let command = if command.first().is_some_and(|word| word == "exec") { &command[1..] } else { command };
    let ends =
        command.iter().position(|word| matches!(word.as_str(), "&&" | "||" | "|" | "&" | "then" | "do"));
    let command = &command[..ends.unwrap_or(command.len())];
    let (name, rest) = command.split_first()?;
    match name.as_str() {
        "cd" => change(rest).map(|directory| Step::Change(directory.to_owned())),
        "." | "source" => Some(Step::Command(command.to_vec())),
        name if BUILTINS.contains(&name) || name.ends_with("()") => None,
        _ => Some(Step::Command(command.to_vec())),
    }
}

/// Returns how many words stand before the name of a command.
fn prefixes(command: &[String]) -> usize {
    let is_prefix = |word: &String| {
        KEYWORDS.contains(&word.as_str()) || word.split_once('=').is_some_and(|(name, _)| is_name(name))
    };
    let mut count = 0;
    while let Some(word) = command.get(count) {
        match word.as_str() {
            // The name that follows is that of the function.
            "function" => count += 2,
            _ if is_prefix(word) => count += 1,
            _ => break,
        }
    }
    count.min(command.len())
}

/// Returns the directory that `cd` is given, unless it is computed.
fn change(arguments: &[String]) -> Option<&str> {
    let directory = arguments.iter().find(|word| word.len() == 1 || !word.starts_with('-'))?;
    let computed = directory.contains(['$', '`', '*', '?', '[']) || directory.starts_with(['~', '-']);
    (!computed && !directory.is_empty()).then_some(directory)
}

/// The parentheses and braces that are open.
#[derive(Debug, Default)]
struct Scopes {
    open: Vec<Scope>,
    /// How many of them are braces. Without one, there is none to look for.
    braces: usize,
    /// Whether a pair of parentheses has just been opened.
    opened: bool,
    /// Whether a function was named whose body comes next.
    defines: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Scope {
    Subshell,
    Function,
    Group,
}

impl Scopes {
    /// Heeds the braces around a command.
    fn see(&mut self, command: &[String], steps: &mut Vec<Step>) {
        let (before, command) = command.split_at(prefixes(command));
        self.defines |= before.iter().any(|word| word == "function");
        for _ in before.iter().filter(|word| *word == "{") {
            if std::mem::take(&mut self.defines) {
                self.open.push(Scope::Function);
                steps.push(Step::Enter);
            } else {
                self.open.push(Scope::Group);
            }
            self.braces += 1;
        }
        if self.braces > 0
            && command.first().is_some_and(|word| word == "}")
            && let Some(at) = self.open.iter().rposition(|scope| *scope != Scope::Subshell)
        {
            self.braces -= 1;
            let left = self.open.drain(at..).filter(|scope| *scope != Scope::Group);
            steps.extend(left.map(|_| Step::Leave));
        }
        self.defines &= command.is_empty();
    }

    /// Heeds the parenthesis behind a command.
    fn separate(&mut self, command: &[String], separator: &str, steps: &mut Vec<Step>) {
        let opened = std::mem::take(&mut self.opened);
        match separator {
            OPENED => {
                self.opened = true;
                self.open.push(Scope::Subshell);
                steps.push(Step::Enter);
            }
            CLOSED => {
                self.defines |= opened && command.is_empty();
                // Otherwise it ends a pattern of `case`.
                if self.open.last() == Some(&Scope::Subshell) {
                    self.open.pop();
                    steps.push(Step::Leave);
                }
            }
            _ => {}
        }
    }
}

fn is_name(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Splits a line into words, and says which line ends a here-document that starts on it.
fn split(line: &str) -> (Vec<String>, Option<String>) {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (Some('\''), _) => word.push(character),
            (None, '\'' | '"') => {
                quote = Some(character);
                quoted = true;
            }
            (_, '\\') => word.extend(characters.next()),
            (Some(_), _) => word.push(character),
            (None, '#') if word.is_empty() && !quoted => break,
            (None, '&') if word.ends_with(['>', '<']) => word.push(character),
            (None, ' ' | '\t' | ';' | '(' | ')' | '|' | '&') => {
                if !word.is_empty() || quoted {
                    words.push(std::mem::take(&mut word));
                    quoted = false;
                }
                let joined: &str = match character {
                    '(' => OPENED,
                    ')' => CLOSED,
                    '&' | '|' if characters.peek() == Some(&character) => {
                        characters.next();
                        ";"
                    }
                    ' ' | '\t' => continue,
                    _ => ";",
                };
                words.push(joined.to_owned());
            }
            (None, _) => word.push(character),
        }
    }
    if !word.is_empty() || quoted {
        words.push(word);
    }
    let end =
        words.iter().position(|word| word.starts_with("<<") && !word.starts_with("<<<")).and_then(|at| {
            let end = words[at].trim_start_matches(['<', '-']);
            if end.is_empty() { words.get(at + 1).cloned() } else { Some(end.to_owned()) }
        });
    // Redirections are no words of the command.
    words.retain(|word| !word.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with(['<', '>']));
    (words, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_commands_are_found_and_what_is_computed_is_not() {
        let plain = |step| if let Step::Command(words) = step { Some(words.join("|")) } else { None };
        for (text, expected) in [
            ("exec nginx -g 'daemon off;'", "nginx|-g|daemon off;"),
            ("# exec no\nset -e\nA=1 B=2 tool --x \"a b\" >out 2>&1", "tool|--x|a b"),
            ("if [ -x /bin/a ]; then a; else b -c; fi", "a b|-c"),
            ("a && b || c | d", "a b c d"),
            ("cat <<EOF\nexec no\nEOF\nyes", "cat yes"),
            ("run \\\n  --flag", "run|--flag"),
            (". /etc/profile", ".|/etc/profile"),
            ("exec \"$@\"", "$@"),
            ("f() { a; }", "f a"),
            ("'unfinished", "unfinished"),
            ("echo hi; exit 0", ""),
        ] {
            let found: Vec<_> = steps(text).into_iter().filter_map(plain).collect();
            assert_eq!(found.join(" "), expected, "{text}");
        }
    }

    #[test]
    fn directories_hold_up_to_the_end_of_a_subshell_or_function() {
        for (text, expected) in [
            ("cd /opt/app && ./main.sh", "cd:/opt/app ./main.sh"),
            ("if ! cd -P -- 'a b'; then exit 1; fi\na", "cd:a b a"),
            ("cd /a >/dev/null 2>&1 || exit; a | b", "cd:/a a b"),
            // What is computed, and what goes back or home.
            ("cd; cd -; cd ~; cd ~/x; cd \"$APP\"; cd `pwd`; cd /a*; cd ''; cd --", ""),
            ("(cd /a; a); b", "( cd:/a a ) b"),
            ("x=$(cd /a && a)\nb", "( cd:/a a ) b"),
            ("f() {\ncd /a\na\n}\nb", "f ( ) ( cd:/a a ) b"),
            ("f()\n{ cd /a; }; b", "f ( ) ( cd:/a ) b"),
            ("function f { cd /a; }; b", "( cd:/a ) b"),
            ("function f() { cd /a; }; b", "( ) ( cd:/a ) b"),
            ("[ -d /a ] && { cd /a; a; }; b", "cd:/a a b"),
            // A pattern of `case` closes nothing.
            ("f() {\ncase $1 in\na) cd /a;;\nesac\n}\nb", "f ( ) ( a cd:/a ) b"),
            ("f() { (a; }; b", "f ( ) ( ( a ) ) b"),
            ("} ) } a; function; function f", ""),
            (")\n}\na", "a"),
        ] {
            let found: Vec<_> = steps(text)
                .into_iter()
                .map(|step| match step {
                    Step::Command(words) => words.join("|"),
                    Step::Change(directory) => format!("cd:{directory}"),
                    Step::Enter => "(".into(),
                    Step::Leave => ")".into(),
                })
                .collect();
            assert_eq!(found.join(" "), expected, "{text}");
        }
    }
}
