//! Shells and their scripts.
//!
//! A script is read by its plain commands: words without variables at the start of a line or behind a keyword. What
//! a script computes is not known.

use super::Predictor;
use super::command::Program;
use super::passing::Passing;
use super::reads::Reads;

const NAMES: [&str; 7] = ["sh", "bash", "dash", "ash", "ksh", "zsh", "mksh"];
/// Bytes of a script that are considered.
const MAX_SCRIPT: usize = 200 << 10;
/// Commands of a script that are considered.
const MAX_COMMANDS: usize = 2000;
/// Scripts that one reads into itself, one behind the other.
const MAX_SOURCED: usize = 50;

/// What is no program although it stands where one would.
const BUILTINS: &[&str] = &[
    ":", ".", "[", "[[", "alias", "break", "case", "cd", "continue", "declare", "done", "echo", "esac",
    "eval", "exit", "export", "false", "fi", "for", "function", "getopts", "hash", "kill", "let", "local",
    "printf", "pwd", "read", "readonly", "return", "set", "shift", "shopt", "test", "trap", "true", "type",
    "ulimit", "umask", "unset", "wait", "{", "}", "(", ")",
];

/// Words behind which a command stands.
const KEYWORDS: &[&str] =
    &["if", "then", "else", "elif", "while", "until", "do", "!", "&&", "||", "|", "time", "{", "("];

/// Shells.
#[derive(Debug)]
pub(crate) struct Shell;

impl Predictor for Shell {
    fn note(&self, file: &Passing<'_>) -> Option<String> {
        if !file.is(&[".sh"], &NAMES) || file.size > MAX_SCRIPT as u64 {
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
    let mut texts = vec![text.to_owned()];
    let mut sourced = 0;
    while let Some(text) = texts.pop() {
        for words in commands(&text).into_iter().take(MAX_COMMANDS) {
            match words.split_first() {
                Some((name, rest)) if name == "." || name == "source" => {
                    let Some(path) = rest.first().filter(|path| sourced < MAX_SOURCED && path.contains('/'))
                    else {
                        continue;
                    };
                    sourced += 1;
                    if let Some(file) = reads.open(&program.absolute(path), "a script reads it into itself") {
                        texts.push(reads.note(&file).to_owned());
                    }
                }
                Some((name, rest)) if name == "$@" => {
                    let arguments = [positional, rest].concat();
                    if arguments.first().is_some_and(|word| !word.starts_with('-')) {
                        reads.run(program.starts(arguments));
                    }
                }
                Some((name, _)) if !name.contains(['$', '`']) => reads.run(program.starts(words)),
                _ => {}
            }
        }
        // The images of nginx and others run all scripts in such a directory.
        for directory in ["/docker-entrypoint.d", "/docker-entrypoint-initdb.d"] {
            if text.contains(directory) {
                let names: Vec<String> =
                    reads.names(directory).iter().map(|name| format!("{directory}/{name}")).collect();
                names
                    .into_iter()
                    .filter(|name| name.ends_with(".sh"))
                    .for_each(|name| reads.run(program.starts(vec![name])));
            }
        }
    }
}

/// Returns the simple commands of a script, in the order of its lines, each as its words.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
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
        for command in words.split(|word| word == ";") {
            let is_prefix = |word: &&String| {
                KEYWORDS.contains(&word.as_str())
                    || word.split_once('=').is_some_and(|(name, _)| is_name(name))
            };
            let skipped = command.iter().take_while(is_prefix).count();
            let command = &command[skipped..];
            let command =
                if command.first().is_some_and(|word| word == "exec") { &command[1..] } else { command };
            let ends = command
                .iter()
                .position(|word| matches!(word.as_str(), "&&" | "||" | "|" | "&" | "then" | "do"));
            let command = &command[..ends.unwrap_or(command.len())];
            let sources = command.first().is_some_and(|word| word == "." || word == "source");
            if sources
                || command
                    .first()
                    .is_some_and(|word| !BUILTINS.contains(&word.as_str()) && !word.ends_with("()"))
            {
                commands.push(command.to_vec());
            }
        }
    }
    commands
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
            let found: Vec<_> = commands(text).iter().map(|words| words.join("|")).collect();
            assert_eq!(found.join(" "), expected, "{text}");
        }
    }
}
