//! What the C library opens on behalf of programs: locales, name services.

use restow_layer::path::base;

use super::Predictor;
use super::command::Program;
use super::elf;
use super::passing::Passing;
use super::reads::Reads;

/// The categories that a locale has a file for.
const CATEGORIES: [&str; 12] = [
    "LC_IDENTIFICATION",
    "LC_MEASUREMENT",
    "LC_TELEPHONE",
    "LC_ADDRESS",
    "LC_NAME",
    "LC_PAPER",
    "LC_MESSAGES/SYS_LC_MESSAGES",
    "LC_MONETARY",
    "LC_COLLATE",
    "LC_TIME",
    "LC_NUMERIC",
    "LC_CTYPE",
];

/// Services that are asked for a database.
const MAX_SERVICES: usize = 20;

/// The C library.
#[derive(Debug)]
pub(crate) struct Libc;

impl Predictor for Libc {
    fn note(&self, file: &Passing<'_>) -> Option<String> {
        (file.path == "etc/nsswitch.conf").then(|| file.text().into_owned())
    }

    fn predict(&self, program: &Program, reads: &mut Reads<'_>) {
        // musl reads no locale and no nsswitch.conf.
        if is_musl(&program.file, reads) {
            return;
        }
        let note = reads.note(&program.file);
        let calls = |name: &str| note.lines().any(|line| line.strip_prefix("calls ") == Some(name));
        if calls("setlocale") {
            locale(program, reads);
        }
        let users = calls("getpwnam") || calls("getpwuid");
        if users || calls("getaddrinfo") {
            let switch = reads.open("etc/nsswitch.conf", format_args!("{} asks for names", program.file));
            let databases = [("passwd:", users), ("hosts:", calls("getaddrinfo"))];
            for (database, _) in databases.into_iter().filter(|(_, asked)| *asked) {
                services(switch.as_deref(), database, program, reads);
            }
        }
        if calls("getaddrinfo") {
            for path in ["etc/host.conf", "etc/gai.conf"] {
                reads.open(path, format_args!("{} asks for addresses", program.file));
            }
        }
    }
}

/// Says whether the C library of a program is musl.
pub(crate) fn is_musl(program: &str, reads: &Reads<'_>) -> bool {
    elf::field(reads.note(program), "interp").is_some_and(|interpreter| interpreter.contains("ld-musl"))
}

/// Adds the libraries of the services that are asked for a database.
///
/// Since its version 2.34 glibc has `files` and `dns` in itself; before, its own file bore its version.
fn services(switch: Option<&str>, database: &str, program: &Program, reads: &mut Reads<'_>) {
    let apart = elf::libc(&program.file, reads).is_some_and(|library| base(&library).starts_with("libc-2."));
    let line = switch.and_then(|switch| {
        reads.note(switch).lines().find_map(|line| line.trim_start().strip_prefix(database))
    });
    // What glibc does where nothing is said.
    let services = line.unwrap_or(if database == "hosts:" { "dns files" } else { "files" });
    let services = services.split('#').next().unwrap_or_default().split_ascii_whitespace();
    for service in services.filter(|word| !word.starts_with('[') && !word.ends_with(']')).take(MAX_SERVICES) {
        if apart || !matches!(service, "files" | "dns") {
            let reason = format!("etc/nsswitch.conf has {} ask {service:.40}", program.file);
            elf::load_named(&format!("libnss_{service}.so.2"), &program.file, reason, reads);
        }
    }
}

/// Adds the files of the locale that the environment names.
fn locale(program: &Program, reads: &mut Reads<'_>) {
    let Some((variable, locale)) = named(reads) else { return };
    let reason = format!("{} sets the locale {locale:.40}", program.file);
    files(&locale, variable != "LC_CTYPE", &reason, reads);
}

/// Adds the file that says what a character is in a locale, unless the environment names another one.
pub(crate) fn characters(locale: &str, reason: &str, reads: &mut Reads<'_>) {
    if named(reads).is_none() {
        files(locale, false, reason, reads);
    }
}

/// Returns the locale that the environment names, and the variable that does.
fn named(reads: &Reads<'_>) -> Option<(&'static str, String)> {
    let names = ["LC_ALL", "LC_CTYPE", "LANG"];
    let named = names.iter().find_map(|name| reads.variable(name).map(|value| (*name, value.to_owned())));
    named.filter(|(_, value)| !matches!(value.as_str(), "" | "C" | "POSIX"))
}

fn files(locale: &str, all: bool, reason: &str, reads: &mut Reads<'_>) {
    let (language, charset) = locale.split_once('.').unwrap_or((locale, ""));
    // glibc looks the name up as written, then with the charset in lower case and without dashes.
    let normal: String = charset.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    let candidates = [locale.to_owned(), format!("{language}.{normal}"), language.to_owned()];
    reads.open("usr/lib/locale/locale-archive", reason);
    let mut directories = candidates.iter().map(|name| format!("usr/lib/locale/{name}"));
    let found = directories.find(|directory| {
        !directory.contains("..") && reads.look(&format!("{directory}/LC_CTYPE")).is_some()
    });
    if let Some(directory) = found {
        for category in CATEGORIES.iter().filter(|category| all || **category == "LC_CTYPE") {
            reads.open(&format!("{directory}/{category}"), reason);
        }
    }
    for library in ["usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/lib"] {
        reads.open(&format!("{library}/gconv/gconv-modules.cache"), reason);
    }
}
