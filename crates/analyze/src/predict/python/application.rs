//! Programs written in Python that import what their command line or the environment names: servers and workers.

use std::rc::Rc;

use super::Interpreter;
use crate::predict::command::Program;

/// What a program imports besides what its sources say at their top, and by which options it is told what to serve.
struct Tool {
    names: &'static [&'static str],
    imports: &'static [&'static str],
    /// Options whose value is a module; for others than these it is a word that stands alone.
    options: &'static [&'static str],
    /// Options whose value is a directory of modules.
    directories: &'static [&'static str],
    /// Where the words are that go before those of the command.
    variable: Option<&'static str>,
}

const TOOLS: [Tool; 5] = [
    Tool {
        names: &["gunicorn"],
        imports: &["gunicorn.app.wsgiapp", "gunicorn.glogging"],
        options: &[],
        directories: &["--chdir", "--pythonpath"],
        variable: Some("GUNICORN_CMD_ARGS"),
    },
    Tool {
        names: &["uvicorn"],
        imports: &[
            "uvicorn.main",
            "uvicorn.logging",
            "uvicorn.loops.auto",
            "uvicorn.protocols.http.auto",
            "uvicorn.protocols.websockets.auto",
            "uvicorn.lifespan.on",
        ],
        options: &[],
        directories: &["--app-dir"],
        variable: None,
    },
    Tool {
        names: &["flask"],
        imports: &["flask.cli", "werkzeug.serving", "werkzeug.debug"],
        options: &["--app", "-A"],
        directories: &[],
        variable: None,
    },
    Tool {
        names: &["celery"],
        imports: &[
            "celery.bin.celery",
            "celery.loaders.app",
            "celery.apps.worker",
            "celery.worker.consumer",
            "celery.concurrency.prefork",
        ],
        options: &["--app", "-A"],
        directories: &["--workdir"],
        variable: None,
    },
    Tool {
        names: &["hypercorn", "daphne", "waitress-serve", "waitress", "granian"],
        imports: &[],
        options: &[],
        directories: &[],
        variable: None,
    },
];

/// What gunicorn calls its workers, and their modules.
const WORKERS: [(&str, &str); 5] = [
    ("sync", "gunicorn.workers.sync"),
    ("gthread", "gunicorn.workers.gthread"),
    ("gevent", "gunicorn.workers.ggevent"),
    ("eventlet", "gunicorn.workers.geventlet"),
    ("tornado", "gunicorn.workers.gtornado"),
];

impl Interpreter<'_, '_> {
    /// Adds the application that a server or worker is told to run, if the program is one.
    pub(super) fn served(&mut self, name: &str, words: &[String], program: &Program) {
        let Some(tool) = TOOLS.iter().find(|tool| tool.names.contains(&name)) else { return };
        let before = tool.variable.and_then(|variable| self.reads.variable(variable)).unwrap_or_default();
        let before = self.reads.split(before, |c| c.is_ascii_whitespace());
        let words = [&before, words].concat();
        for module in tool.imports {
            self.import(module, &format!("{name} imports it when it starts"));
        }
        // All of them look for the application where they are started.
        let mut directories = vec![program.directory.clone()];
        for option in tool.directories {
            directories.extend(values(&words, &[option]).into_iter().map(|path| program.absolute(path)));
        }
        for directory in directories {
            if !self.path.contains(&directory) {
                Rc::make_mut(&mut self.path).insert(0, directory);
            }
        }
        if name == "gunicorn" {
            self.workers(&words, program);
        }
        let mut named: Vec<&str> = values(&words, tool.options);
        let variable = self.reads.variable("FLASK_APP").map(str::to_owned);
        match name {
            "flask" => {
                if let Some(variable) = variable.as_deref().filter(|_| named.is_empty()) {
                    named.push(variable);
                } else if named.is_empty() {
                    // The first that is there.
                    named.extend(["wsgi", "app"].into_iter().find(|module| self.has(module)));
                }
            }
            "celery" => {}
            _ => named = words.iter().map(String::as_str).collect(),
        }
        // Of words that may be values of options as well, the one that names a module and something in it counts.
        let mut named: Vec<(&str, bool)> = named.into_iter().filter_map(application).collect();
        named.sort_by_key(|(_, whole)| !whole);
        let Some(module) = named.into_iter().map(|(module, _)| module).find(|module| self.has(module)) else {
            return;
        };
        let reason = format!("the application that {name} is told to run");
        let modules = match name {
            "celery" => vec![module.to_owned(), format!("{module}.celery"), format!("{module}.tasks")],
            _ => vec![module.to_owned()],
        };
        for module in modules {
            self.import(&module, &reason);
            if let Some(file) = self.source(&module) {
                let package = match self.modules.get(&module) {
                    Some(Some(_)) => module.as_str(),
                    _ => module.rsplit_once('.').map_or("", |(package, _)| package),
                };
                self.main(&file, package);
            }
        }
    }

    /// Adds gunicorn's settings and the module of its workers.
    fn workers(&mut self, words: &[String], program: &Program) {
        let settings = values(words, &["-c", "--config"]);
        let settings = settings.first().map_or("gunicorn.conf.py", |path| path.trim_start_matches("file:"));
        if let Some(file) = self.reads.open(&program.absolute(settings), "gunicorn reads its settings") {
            self.main(&file, "");
        }
        let threads = values(words, &["--threads"]).first().is_some_and(|threads| *threads != "1");
        let class = values(words, &["-k", "--worker-class"]).first().copied().unwrap_or("sync");
        let class = if class == "sync" && threads { "gthread" } else { class };
        let known = WORKERS.iter().find(|(known, _)| *known == class).map(|(_, module)| *module);
        if let Some(module) = known.or_else(|| class.rsplit_once('.').map(|(module, _)| module)) {
            self.import(module, "gunicorn's workers are of its class");
        }
    }

    /// Says whether there is a module of that name, without adding anything.
    fn has(&mut self, module: &str) -> bool {
        let (mut search, mut found) = (self.path.to_vec(), false);
        for part in module.split('.') {
            if !self.reads.spend(search.len()) {
                return false;
            }
            found = search.iter().any(|directory| self.find(directory, part).is_some());
            search = search.iter().map(|directory| format!("{directory}/{part}")).collect();
            // A directory without an `__init__` is a package too.
            search.retain(|directory| self.reads.is_directory(directory));
            found |= !search.is_empty();
        }
        found
    }
}

/// Returns the values of options, spelled as `-k value`, `-kvalue`, `--long value` or `--long=value`.
fn values<'w>(words: &'w [String], options: &[&str]) -> Vec<&'w str> {
    let mut values = Vec::new();
    for (at, word) in words.iter().enumerate() {
        for option in options {
            match word.strip_prefix(option) {
                Some("") => values.extend(words.get(at + 1).map(String::as_str)),
                Some(rest) if !option.starts_with("--") => values.push(rest),
                Some(rest) => values.extend(rest.strip_prefix('=')),
                None => {}
            }
        }
    }
    values
}

/// Returns the module in `module`, `module:name`, `module:make()` or `file.py`, and whether something in it is named.
fn application(word: &str) -> Option<(&str, bool)> {
    let (module, name) = word.split_once(':').map_or((word, None), |(module, name)| (module, Some(name)));
    let module = module.trim_start_matches("./").trim_end_matches(".py");
    let is_name = |part: &str| {
        part.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    let names = name.is_none_or(|name| name.starts_with(|c: char| c.is_alphabetic() || c == '_'));
    (module.split('.').all(is_name) && names).then_some((module, name.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_is_told_from_addresses_and_paths() {
        for (word, expected) in [
            ("app:app", Some(("app", true))),
            ("a.b.wsgi", Some(("a.b.wsgi", false))),
            ("./hello.py", Some(("hello", false))),
            ("app:create(1)", Some(("app", true))),
            ("0.0.0.0:8000", None),
            ("localhost:8000", None),
            ("unix:/run/x", None),
            ("--reload", None),
            ("", None),
            (":app", None),
        ] {
            assert_eq!(application(word), expected, "{word}");
        }
    }

    #[test]
    fn options_are_found_in_every_spelling() {
        let words = ["-A", "a", "-Ab", "--app=c", "--app", "d", "--apple=e", "-A"].map(str::to_owned);
        assert_eq!(values(&words, &["-A", "--app"]), ["a", "b", "c", "d"]);
    }
}
