//! Java: the virtual machine, its module image, and the jars on the class path.

use std::collections::HashSet;
use std::io::Read as _;

use flate2::read::DeflateDecoder;
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
/// Jars that are followed.
const MAX_JARS: usize = 5000;
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
        None
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
        let mut waiting: Vec<String> = jars(program, reads);
        waiting.reverse();
        let mut seen = HashSet::new();
        while let Some(path) = waiting.pop() {
            if seen.len() == MAX_JARS || !seen.insert(path.clone()) {
                continue;
            }
            let Some(file) = reads.open(&path, "a jar on the class path") else { continue };
            let directory = parent(&file).unwrap_or_default();
            let listed = reads.note(&file).split_ascii_whitespace().rev();
            waiting.extend(listed.map(|path| {
                if path.starts_with('/') { path.to_owned() } else { format!("/{directory}/{path}") }
            }));
        }
    }
}

/// Returns the jars that the command names.
fn jars(program: &Program, reads: &mut Reads<'_>) -> Vec<String> {
    let mut lists = Vec::new();
    let mut words = program.args.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-cp" | "-classpath" | "--class-path" | "-p" | "--module-path" => {
                lists.extend(words.next().cloned())
            }
            "-jar" => {
                lists.extend(words.next().cloned());
                break;
            }
            word => lists.extend(
                word.strip_prefix("-javaagent:").and_then(|rest| rest.split('=').next()).map(str::to_owned),
            ),
        }
    }
    if lists.is_empty() {
        lists.extend(reads.variable("CLASSPATH").map(str::to_owned));
    }
    let mut jars = Vec::new();
    for path in lists.iter().flat_map(|list| list.split(':')).map(|path| program.absolute(path)) {
        if let Some(directory) =
            path.strip_suffix("/*").or(Some(&path)).filter(|path| !path.ends_with(".jar"))
        {
            let names = reads.names(directory);
            jars.extend(
                names.iter().filter(|name| name.ends_with(".jar")).map(|name| format!("{directory}/{name}")),
            );
        } else {
            jars.push(path);
        }
    }
    jars
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
