//! The imports of a Python source, found line by line.
//!
//! A note holds one import a line: `t` where the module itself runs it and `f` where a function does, the number of
//! dots, the module (`-` if there is none), and the names taken from it. `p` is a path in a string.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The longest note about one source, and the longest statement that goes on over several lines.
const MAX_NOTE: usize = 64 << 10;
/// The longest path in a string.
const MAX_PATH: usize = 256;
/// The longest name of a module; that of its file is no longer.
const MAX_MODULE: usize = 4096;

/// One import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Import {
    level: usize,
    module: String,
    /// The names taken from the module, which may be modules in it.
    pub(super) names: Vec<String>,
}

impl Import {
    /// Returns the module's full name, seen from a module in this package.
    pub(super) fn absolute(&self, package: &str) -> Option<String> {
        if self.module.len() > MAX_MODULE {
            return None;
        }
        if self.level == 0 {
            return (!self.module.is_empty()).then(|| self.module.clone());
        }
        let mut package = package;
        for _ in 1..self.level {
            package = package.rsplit_once('.')?.0;
        }
        match (package.is_empty(), self.module.is_empty()) {
            (true, _) => None,
            (false, true) => Some(package.to_owned()),
            (false, false) => Some(format!("{package}.{}", self.module)),
        }
    }
}

/// The imports of a note, read one after the other: all of them at once take many times its memory.
pub(super) struct Imports<'a> {
    note: Cow<'a, str>,
    at: usize,
    functions: bool,
}

impl<'a> Imports<'a> {
    /// Reads those of a note; those in functions only if asked to.
    pub(super) fn new(note: impl Into<Cow<'a, str>>, functions: bool) -> Self {
        Self { note: note.into(), at: 0, functions }
    }
}

impl Iterator for Imports<'_> {
    type Item = Import;

    fn next(&mut self) -> Option<Import> {
        loop {
            let rest = self.note.get(self.at..).filter(|rest| !rest.is_empty())?;
            let (line, _) = rest.split_once('\n').unwrap_or((rest, ""));
            self.at += line.len() + 1;
            if let Some(import) = parse(line, self.functions) {
                return Some(import);
            }
        }
    }
}

fn parse(line: &str, functions: bool) -> Option<Import> {
    let mut words = line.split(' ');
    let wanted = match words.next()? {
        "t" => true,
        "f" => functions,
        _ => false,
    };
    let level = words.next()?.parse().ok()?;
    let module = words.next()?.trim_start_matches('-').to_owned();
    wanted.then(|| Import { level, module, names: words.map(str::to_owned).collect() })
}

/// Reads the paths of a note.
pub(super) fn paths(note: &str) -> impl Iterator<Item = &str> {
    note.lines().filter_map(|line| line.strip_prefix("p "))
}

/// Makes the note about a source.
pub(super) fn note(text: &str) -> String {
    let mut scan = Scan::default();
    for line in text.lines() {
        scan.line(line);
        if scan.note.len() > MAX_NOTE {
            break;
        }
    }
    scan.note
}

/// What begins and ends a string of several lines.
const QUOTES: [&[u8]; 2] = [b"\"\"\"", b"'''"];

/// Where in a source a line is.
#[derive(Default)]
struct Scan {
    note: String,
    /// The quotes that end the string of several lines the line is in.
    string: Option<&'static [u8]>,
    /// An import that goes on on the next line, and whether there was a parenthesis of either kind in it.
    open: String,
    opened: bool,
    closed: bool,
    /// The indentation of the function the line is in.
    function: Option<usize>,
    /// The indentation of a block that does not run here.
    dead: Option<usize>,
}

impl Scan {
    fn line(&mut self, line: &str) {
        let inside = self.string.is_some();
        self.strings(line);
        if inside {
            return;
        }
        if !self.open.is_empty() {
            let mut statement = std::mem::take(&mut self.open);
            statement.push(' ');
            return self.statement(statement, code(line));
        }
        let body = line.trim_start();
        if body.is_empty() || body.starts_with(['#', ')', ']', '}']) {
            return;
        }
        let indent = line.len() - body.len();
        for block in [&mut self.function, &mut self.dead] {
            if block.is_some_and(|start| indent <= start) {
                *block = None;
            }
        }
        if self.dead.is_some() {
            return;
        }
        if body.starts_with("def ") || body.starts_with("async def ") {
            self.function.get_or_insert(indent);
        } else if body.starts_with("if ") || body.starts_with("elif ") {
            self.condition(body, indent);
        } else if body.starts_with("import ") || body.starts_with("from ") {
            return self.statement(String::new(), code(body));
        }
        self.paths(body);
    }

    /// Looks at what a block depends on.
    fn condition(&mut self, body: &str, indent: usize) {
        let says = |words: &[&str]| words.iter().any(|word| body.contains(word));
        if body.contains("__name__") {
            self.function.get_or_insert(indent);
        } else if !body.contains(" not ")
            && says(&[
                "TYPE_CHECKING",
                "version_info <",
                "== \"win32\"",
                "== 'win32'",
                "== \"nt\"",
                "== 'nt'",
                "\"darwin\"",
                "PY2",
            ])
        {
            self.dead = Some(indent);
        }
    }

    /// Keeps track of strings of several lines.
    fn strings(&mut self, line: &str) {
        let mut rest = line.as_bytes();
        while let Some(byte) = rest.first() {
            let begun = || QUOTES.into_iter().find(|quotes| rest.starts_with(quotes));
            let step = match self.string {
                Some(quotes) if rest.starts_with(quotes) => {
                    self.string = None;
                    quotes.len()
                }
                None if *byte == b'#' => return,
                None if matches!(byte, b'"' | b'\'') => {
                    self.string = begun();
                    self.string.map_or(1, |quotes| quotes.len())
                }
                _ => 1,
            };
            rest = &rest[step..];
        }
    }

    /// Notes an import, or waits for the rest of it.
    fn statement(&mut self, mut statement: String, line: &str) {
        // Only the line is looked at: a statement may have very many.
        let (line, continued) = line.strip_suffix('\\').map_or((line, false), |line| (line, true));
        self.opened |= line.contains('(');
        self.closed |= line.contains(')');
        statement.push_str(line);
        if statement.len() < MAX_NOTE && (continued || self.opened && !self.closed) {
            self.open = statement;
        } else {
            (self.opened, self.closed) = (false, false);
            let place = if self.function.is_some() { 'f' } else { 't' };
            for import in statement.split(';') {
                self.import(place, import.trim());
            }
        }
    }

    fn import(&mut self, place: char, statement: &str) {
        let first = |text: &str| text.split_ascii_whitespace().next().unwrap_or_default().to_owned();
        if let Some(modules) = statement.strip_prefix("import ") {
            for module in modules.split(',').map(first).filter(|module| is_module(module)) {
                let _ = writeln!(self.note, "{place} 0 {module}");
            }
        } else if let Some((module, names)) =
            statement.strip_prefix("from ").and_then(|rest| rest.split_once(" import"))
        {
            let module = module.trim();
            let name = module.trim_start_matches('.');
            let level = module.len() - name.len();
            let module = if name.is_empty() { "-" } else { name };
            if !is_module(name) && !name.is_empty() {
                return;
            }
            let _ = write!(self.note, "{place} {level} {module}");
            for name in
                names.trim().trim_matches(['(', ')']).split(',').map(first).filter(|name| is_module(name))
            {
                let _ = write!(self.note, " {name}");
            }
            self.note.push('\n');
        }
    }

    /// Notes strings that look like paths from the root on.
    fn paths(&mut self, body: &str) {
        for quote in ['"', '\''] {
            for text in body.split(quote).skip(1).step_by(2) {
                let plain =
                    |c: char| c.is_ascii_graphic() && !matches!(c, '<' | '>' | '{' | '}' | '*' | '%' | '?');
                if text.len() > 3
                    && text.len() <= MAX_PATH
                    && text.starts_with('/')
                    && text[1..].contains('/')
                    && text.chars().all(plain)
                {
                    let _ = writeln!(self.note, "p {text}");
                }
            }
        }
    }
}

/// Returns a line without its comment.
fn code(line: &str) -> &str {
    line.split('#').next().unwrap_or(line).trim()
}

fn is_module(name: &str) -> bool {
    !name.is_empty()
        && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.')
        && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_found_where_they_run() {
        for (text, expected) in [
            ("import os, sys as s\nimport a.b.c", "t 0 os|t 0 sys|t 0 a.b.c"),
            ("from . import x\nfrom ..y import (a,\n  b as c, # d\n)\n", "t 1 - x|t 2 y a b"),
            ("from a import *", "t 0 a"),
            ("from a import b, \\\n  c", "t 0 a b c"),
            ("def f(\n    a,\n) -> int:\n    import late\nimport now", "f 0 late|t 0 now"),
            ("class A:\n    import here\n    async def f():\n        import late\n", "t 0 here|f 0 late"),
            ("try:\n    import a\nexcept ImportError:\n    import b", "t 0 a|t 0 b"),
            ("if TYPE_CHECKING:\n    import never\nelse:\n    import yes", "t 0 yes"),
            ("if sys.platform == \"win32\":\n    import winreg\nimport os", "t 0 os"),
            ("if __name__ == '__main__':\n    import late", "f 0 late"),
            ("'''\nimport no\n'''\nimport yes", "t 0 yes"),
            ("\"\"\"one line\"\"\"\nimport yes", "t 0 yes"),
            ("import a; import b # import c", "t 0 a|t 0 b"),
            ("open('/app/data.csv', \"r\")", "p /app/data.csv"),
            ("importlib.x\nfrom\nimport\nimport ,\nfrom import x\nimport a-b", ""),
        ] {
            assert_eq!(note(text).trim().replace('\n', "|"), expected, "{text}");
        }
    }

    #[test]
    fn relative_imports_stay_in_the_package() {
        for (line, package, expected) in [
            ("t 0 a.b x", "p", Some("a.b")),
            ("t 1 - x", "p.q", Some("p.q")),
            ("t 1 m", "p.q", Some("p.q.m")),
            ("t 2 m", "p.q", Some("p.m")),
            ("t 3 m", "p.q", None),
            ("t 1 m", "", None),
        ] {
            let import = parse(line, false).unwrap();
            assert_eq!(import.absolute(package).as_deref(), expected, "{line} in {package}");
        }
        assert!(parse("f 0 a", false).is_none() && parse("f 0 a", true).is_some());
        assert_eq!(Imports::new("t x a\nt\n\np /a/b\nt 1", true).next(), None);
        assert_eq!(Imports::new("t 0 a\n\nf 0 b\nt 0 c", false).count(), 2);
    }
}
