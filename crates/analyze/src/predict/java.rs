//! Java: the virtual machine, its module image, the jars on the class path and the classes in its directories.
//!
//! A note about a jar holds the jars that it names, one about a class the classes that it names, one about a file of arguments
//! its text.

use std::collections::HashSet;
use std::io::Read as _;
use std::rc::Rc;

use flate2::read::DeflateDecoder;
use restow_layer::path::base;
use restow_layer::path::parent;

use super::Predictor;
use super::command::Program;
use super::command::prefix;
use super::elf;
use super::passing::Passing;
use super::reads::Reads;

/// What the launcher and the virtual machine read, below the runtime's directory.
const RUNTIME: [&str; 10] = [
    "lib/jvm.cfg",
    "lib/amd64/jvm.cfg",
    "conf/security/java.security",
    "lib/tzdb.dat",
    "lib/modules",
    "lib/classlist",
    "lib/server/classes.jsa",
    "lib/rt.jar",
    "lib/amd64/server/classes.jsa",
    "release",
];
/// The libraries that are loaded by name.
const LIBRARIES: [&str; 9] = [
    "jli/libjli",
    "libjli",
    "server/libjvm",
    "libverify",
    "libjava",
    "libjimage",
    "libzip",
    "libnio",
    "libnet",
];
/// The longest file of arguments.
const MAX_ARGUMENTS: u64 = 64 << 10;
/// Options that take the word behind them.
const VALUED: [&str; 8] = [
    "--add-opens",
    "--add-exports",
    "--add-modules",
    "--add-reads",
    "--limit-modules",
    "--patch-module",
    "--upgrade-module-path",
    "--source",
];
/// Entries at the start of a jar among which its manifest is.
const MAX_ENTRIES: usize = 16;
/// The longest manifest.
const MAX_MANIFEST: u64 = 64 << 10;

/// The Java launcher.
#[derive(Debug)]
pub(crate) struct Java;

impl Predictor for Java {
    fn note(&self, file: &Passing<'_>) -> Option<String> {
        if file.path.ends_with(".jar") || file.path.ends_with(".war") {
            return Some(manifest(file).map(|text| class_path(&text)).unwrap_or_default());
        }
        if file.path.ends_with(".class") {
            return Some(classes(file.head(), file.limits.note).unwrap_or_default());
        }
        // Any file may hold arguments; those that do are called so.
        let name = base(file.path);
        let says = ["args", "argfile", "options", "jib-"].iter().any(|word| name.contains(word));
        (says && file.size <= MAX_ARGUMENTS && file.shebang().is_none() && !elf::is(file.head()))
            .then(|| file.text().into_owned())
    }

    fn predict(&self, program: &Program, reads: &mut Reads<'_>) {
        if !program.is(&["java"]) {
            return;
        }
        let root = prefix(&program.file).to_owned();
        for home in [root.clone(), format!("{root}/jre")] {
            for library in LIBRARIES {
                for directory in ["lib", "lib/amd64", "lib/aarch64"] {
                    elf::load(
                        &format!("{home}/{directory}/{library}.so"),
                        "the virtual machine loads it",
                        reads,
                    );
                }
            }
            for path in RUNTIME {
                reads.open(&format!("{home}/{path}"), "the virtual machine reads it");
            }
        }
        let started = Started::of(program, reads);
        for (path, reason) in started.agents.iter().map(|path| (path, "an agent of the virtual machine")) {
            follow(path, reason, reads);
        }
        // A jar that is started stands alone: it names the others.
        let mut entries = started.modules.clone();
        match &started.jar {
            Some(jar) => entries.push(jar.clone()),
            None => entries.extend(started.class_path.clone()),
        }
        let mut directories = Vec::new();
        for path in entries {
            if reads.is_over() {
                return;
            }
            let modules = started.modules.contains(&path);
            let jars = path.strip_suffix("/*").or_else(|| modules.then_some(path.as_str()));
            match jars.filter(|directory| reads.is_directory(directory)) {
                Some(directory) => {
                    let names = reads.names(directory);
                    for name in names.iter().filter(|name| name.ends_with(".jar")) {
                        follow(&format!("{directory}/{name}"), "a jar on the class path", reads);
                    }
                }
                None if reads.look(&path).is_some() => follow(&path, "a jar on the class path", reads),
                None => directories.push(path),
            }
        }
        if let Some(main) = started.main {
            load(&main, &directories, reads);
        }
    }
}

/// Adds a jar and those that it names.
fn follow(path: &str, reason: &str, reads: &mut Reads<'_>) {
    let mut waiting = vec![(path.to_owned(), Rc::<str>::from(reason))];
    let mut seen = HashSet::new();
    while let Some((path, reason)) = waiting.pop().filter(|_| !reads.is_over()) {
        if seen.len() == reads.limits().sources || !seen.insert(path.clone()) {
            continue;
        }
        let known = reads.look(&path).is_some_and(|file| reads.has(&file));
        let Some(file) = reads.open(&path, reason).filter(|_| !known) else { continue };
        let directory = parent(&file).unwrap_or_default();
        let reason = Rc::<str>::from(format!("{file} names it"));
        let listed =
            reads.note(&file).split_ascii_whitespace().rev().map(|path| {
                if path.starts_with('/') { path.to_owned() } else { format!("/{directory}/{path}") }
            });
        let listed = listed.take_while(|path| reads.keep(2 * path.len()));
        waiting.extend(listed.map(|path| (path, Rc::clone(&reason))));
    }
}

/// Adds a class that is in one of the directories, and those that it names.
fn load(main: &str, directories: &[String], reads: &mut Reads<'_>) {
    let mut waiting = vec![(main.replace('.', "/"), Rc::<str>::from("the class that java starts"))];
    let mut seen = HashSet::new();
    while let Some((name, reason)) = waiting.pop().filter(|_| !reads.is_over()) {
        if seen.len() == reads.limits().modules || !seen.insert(name.clone()) {
            continue;
        }
        let found = reads.first(directories.iter().map(|directory| format!("{directory}/{name}.class")));
        let Some(file) = found.and_then(|path| reads.open(&path, &reason)) else { continue };
        let reason = Rc::<str>::from(format!("{file} names it"));
        let named = reads.note(&file).lines().rev().take_while(|name| reads.keep(2 * name.len()));
        waiting.extend(named.map(|name| (name.to_owned(), Rc::clone(&reason))));
    }
}

/// What the launcher is told to start.
#[derive(Debug, Default)]
struct Started {
    class_path: Vec<String>,
    modules: Vec<String>,
    agents: Vec<String>,
    jar: Option<String>,
    main: Option<String>,
}

impl Started {
    fn of(program: &Program, reads: &mut Reads<'_>) -> Self {
        let mut words = Vec::new();
        // The virtual machine takes the first, its launcher the second before the words of the command.
        for name in ["JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS"] {
            words.extend(kept(reads.variable(name).unwrap_or_default(), reads));
        }
        words.extend(program.args.iter().cloned());
        let words: Vec<String> = words.into_iter().flat_map(|word| expand(word, program, reads)).collect();

        let list = |list: &str| -> Vec<String> {
            let paths = reads.split(list, |c| c == ':').into_iter().map(|path| program.absolute(&path));
            paths.take_while(|path| reads.keep(path.len())).collect()
        };
        let mut started = Self::default();
        let mut given = false;
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (option, joined) = match word.split_once('=') {
                Some((option, value)) if option.starts_with("--") => (option, Some(value.to_owned())),
                _ => (word.as_str(), None),
            };
            let mut value = || joined.clone().or_else(|| words.next().cloned()).unwrap_or_default();
            match option {
                "-cp" | "-classpath" | "--class-path" => (started.class_path, given) = (list(&value()), true),
                "-p" | "--module-path" => started.modules = list(&value()),
                "-jar" => {
                    started.jar = Some(program.absolute(&value()));
                    break;
                }
                "-m" | "--module" => {
                    started.main = value().split_once('/').map(|(_, class)| class.to_owned());
                    break;
                }
                option if VALUED.contains(&option) => drop(value()),
                option => {
                    match (option.strip_prefix("-javaagent:"), option.strip_prefix("-Djava.class.path=")) {
                        (Some(agent), _) => {
                            let path = agent.split('=').next().unwrap_or_default();
                            started.agents.push(program.absolute(path));
                        }
                        (None, Some(paths)) => (started.class_path, given) = (list(paths), true),
                        _ if option.starts_with('-') => {}
                        _ => {
                            started.main = Some(option.to_owned());
                            break;
                        }
                    }
                }
            }
        }
        if !given {
            // Without any, the classes are where the program is started.
            started.class_path = list(reads.variable("CLASSPATH").unwrap_or("."));
        }
        started
    }
}

/// Returns the words of a file that `@file` stands for, or the word itself.
fn expand(word: String, program: &Program, reads: &mut Reads<'_>) -> Vec<String> {
    let path = word.strip_prefix('@').filter(|path| !path.starts_with('@'));
    match path.and_then(|path| reads.open(&program.absolute(path), "java reads arguments from it")) {
        Some(file) => kept(reads.note(&file), reads),
        None => vec![word],
    }
}

/// Returns the words of a text, if there is room for them.
fn kept(text: &str, reads: &Reads<'_>) -> Vec<String> {
    // A word may be one letter, and takes many times that.
    if reads.keep(text.len().saturating_mul(16)) { split(text) } else { Vec::new() }
}

/// Returns the words of a text; quotes hold them together, `#` begins a comment.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for line in text.lines() {
        let (mut word, mut quote, mut begun) = (String::new(), None, false);
        for character in line.chars() {
            match (quote, character) {
                (Some(open), _) if open == character => quote = None,
                (None, '"' | '\'') => (quote, begun) = (Some(character), true),
                (None, '#') if !begun => break,
                (None, _) if character.is_whitespace() => {
                    words.extend(begun.then(|| std::mem::take(&mut word)));
                    begun = false;
                }
                _ => {
                    word.push(character);
                    begun = true;
                }
            }
        }
        words.extend(begun.then_some(word));
    }
    words
}

/// Returns the names of the classes that a class names, one a line (The Java Virtual Machine Specification, 4.4); not many more
/// than `most` bytes.
fn classes(bytes: &[u8], most: usize) -> Option<String> {
    let number = |at: usize| {
        Some(usize::from(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?)))
    };
    if !bytes.starts_with(&[0xca, 0xfe, 0xba, 0xbe]) {
        return None;
    }
    let count = number(8)?;
    let mut names = Vec::new();
    let mut texts = vec![None; count];
    let (mut at, mut index) = (10, 1);
    while index < count {
        let size = match *bytes.get(at)? {
            1 => {
                let length = number(at + 1)?;
                texts[index] = bytes.get(at + 3..at + 3 + length);
                3 + length
            }
            7 => {
                names.push(number(at + 1)?);
                3
            }
            8 | 16 | 19 | 20 => 3,
            15 => 4,
            3 | 4 | 9..=12 | 17 | 18 => 5,
            5 | 6 => {
                // These take two places.
                index += 1;
                9
            }
            _ => return None,
        };
        (at, index) = (at + size, index + 1);
    }
    // All of them are there, the last one too.
    bytes.get(..at)?;
    let name = |index: usize| std::str::from_utf8((*texts.get(index)?)?).ok();
    // An array is named by the type of what is in it, the runtime's own classes are in its image.
    let own = |name: &&str| {
        !name.starts_with(['[', '/'])
            && !name.starts_with("java/")
            && !name.contains(['\n', '\0'])
            && !name.contains("..")
    };
    let mut note = String::new();
    // A name may be named again and again.
    for name in names.into_iter().filter_map(name).filter(own) {
        if note.len() > most {
            break;
        }
        note.push_str(name);
        note.push('\n');
    }
    Some(note)
}

/// Returns `META-INF/MANIFEST.MF`, which stands at the start of a jar (ZIP's APPNOTE, 4.3.7).
fn manifest(file: &Passing<'_>) -> Option<String> {
    let head = file.head();
    let number = |at: usize, size: usize| -> Option<u64> {
        let bytes = head.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    };
    let mut at = 0;
    for _ in 0..MAX_ENTRIES {
        if number(at, 4)? != 0x0403_4b50 {
            return None;
        }
        let (flags, method) = (number(at + 6, 2)?, number(at + 8, 2)?);
        let size = usize::try_from(number(at + 18, 4)?).ok()?;
        let name_end = (at + 30).checked_add(usize::try_from(number(at + 26, 2)?).ok()?)?;
        let start = name_end.checked_add(usize::try_from(number(at + 28, 2)?).ok()?)?;
        if head.get(at + 30..name_end)? == b"META-INF/MANIFEST.MF" {
            let mut text = Vec::new();
            let content = head.get(start..)?;
            if method == 8 {
                // Its end is in the data, whatever the header says.
                DeflateDecoder::new(content).take(MAX_MANIFEST).read_to_end(&mut text).ok()?;
            } else {
                text.extend_from_slice(&content[..size.min(content.len()).min(MAX_MANIFEST as usize)]);
            }
            return String::from_utf8(text).ok();
        }
        if flags & 8 != 0 && size == 0 && !head.get(at + 30..name_end)?.ends_with(b"/") {
            return None;
        }
        at = start.checked_add(size)?;
    }
    None
}

/// Returns the `Class-Path` of a manifest, whose lines of more than 72 bytes go on behind a space.
fn class_path(manifest: &str) -> String {
    let joined = manifest.replace("\r\n", "\n").replace("\n ", "");
    joined.lines().find_map(|line| line.strip_prefix("Class-Path:")).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_in_a_file_are_split_as_the_launcher_does() {
        let text = "-cp /a:/b # no\n\"-Dx=y z\" 'q'\tcom.Main\n#all\n";
        assert_eq!(split(text), ["-cp", "/a:/b", "-Dx=y z", "q", "com.Main"]);
        assert_eq!(split(""), Vec::<String>::new());
    }

    #[test]
    fn a_class_names_others_and_a_damaged_one_none() {
        let mut class = vec![0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 61, 0, 8];
        // A long number takes two places.
        class.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0, 1]);
        for name in ["com/Other", "java/lang/Object"] {
            class.extend_from_slice(&[1, 0, name.len() as u8]);
            class.extend_from_slice(name.as_bytes());
        }
        class.extend_from_slice(&[7, 0, 3, 7, 0, 4, 12, 0, 3, 0, 4]);
        assert_eq!(classes(&class, 99).as_deref(), Some("com/Other\n"));
        for length in 0..class.len() {
            assert_eq!(classes(&class[..length], 99), None, "{length}");
        }
        class[9] = 2;
        class[10] = 99;
        assert_eq!(classes(&class, 99), None);
    }
}
