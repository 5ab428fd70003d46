//! ELF programs, their loader and their shared libraries.

use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::ops::Range;
use std::rc::Rc;

use restow_layer::path::parent;
use restow_oci::PredictionLimits;

use super::Predictor;
use super::command::Program;
use super::go;
use super::passing::Passing;
use super::reads::Reads;

const MAGIC: &[u8] = b"\x7fELF";
/// Program headers that are considered; real files have a dozen.
const MAX_SEGMENTS: u64 = 256;
/// The flag of a segment that may be written to.
const WRITABLE: u64 = 2;
/// The most bytes of a dynamic section.
const MAX_DYNAMIC: u64 = 256 << 10;
/// The most libraries that one file needs.
const MAX_NEEDED: usize = 2000;
/// The longest name or search path in a file.
const MAX_NAME: usize = 4096;

/// Functions that say what a program opens later.
const CALLS: [&str; 5] = ["setlocale", "getpwnam", "getpwuid", "getaddrinfo", "dlopen"];

/// The dynamic loader: what it opens before a program runs.
#[derive(Debug)]
pub(crate) struct Loader;

impl Predictor for Loader {
    fn note(&self, file: &Passing<'_>) -> Option<String> {
        match file.path {
            "etc/ld.so.cache" => Some(cache(file.head())),
            "etc/ld.so.preload" => Some(file.text().into_owned()),
            path if path.starts_with("etc/ld-musl-") && path.ends_with(".path") => {
                Some(file.text().into_owned())
            }
            _ => describe(file),
        }
    }

    fn predict(&self, program: &Program, reads: &mut Reads<'_>) {
        let Some(interpreter) = field(reads.note(&program.file), "interp") else { return };
        let loader = reads.open(interpreter, format_args!("{} names it as its loader", program.file));
        if !interpreter.contains("ld-musl") {
            let preload = reads.open("etc/ld.so.preload", "the loader reads it");
            for path in preload.map_or("", |file| reads.note(&file)).split_ascii_whitespace() {
                load(path, "etc/ld.so.preload names it", reads);
            }
            reads.open("etc/ld.so.cache", "the loader looks libraries up in it");
        } else if let Some(loader) = loader {
            let name = restow_layer::path::base(&loader).trim_end_matches(".so.1");
            reads.open(&format!("etc/{name}.path"), "the loader looks libraries up in it");
        }
        needed(&program.file, reads);
    }
}

/// Adds a shared object that is opened by its path, and what it needs; returns its clean path.
pub(crate) fn load(path: &str, reason: impl std::fmt::Display, reads: &mut Reads<'_>) -> Option<String> {
    let known = reads.look(path).is_some_and(|file| reads.has(&file));
    let file = reads.open(path, reason)?;
    if !known {
        needed(&file, reads);
    }
    Some(file)
}

/// Adds a library that a program opens by its name.
pub(crate) fn load_named(name: &str, program: &str, reason: impl std::fmt::Display, reads: &mut Reads<'_>) {
    if let Some(path) = Search::of(program, reads).find(name, &[], &[], reads) {
        load(&path, reason, reads);
    }
}

/// Returns the clean path of the C library that a program needs, if that is glibc's.
pub(crate) fn libc(program: &str, reads: &mut Reads<'_>) -> Option<String> {
    let path = Search::of(program, reads).find("libc.so.6", &[], &[], reads)?;
    reads.look(&path)
}

/// Adds the libraries that a file needs, and those that they need, in the order of the loader: breadth first.
fn needed(file: &str, reads: &mut Reads<'_>) {
    let search = Search::of(file, reads);
    let mut waiting = VecDeque::from([(file.to_owned(), Rc::<[String]>::from([]))]);
    let mut names = HashSet::new();
    while let Some((file, inherited)) = waiting.pop_front().filter(|_| !reads.is_over()) {
        let note = reads.note(&file);
        let paths = |name| -> Vec<String> {
            let origin = format!("/{}", parent(&file).unwrap_or_default());
            field(note, name)
                .into_iter()
                .flat_map(|list| list.split(':'))
                .map(|path| expand(path, &origin))
                .take_while(|path| reads.keep(path.len()))
                .collect()
        };
        let runpath = paths("runpath");
        // RUNPATH speaks for its own file alone and silences RPATH, which speaks for what it loads as well.
        let mut rpath = if runpath.is_empty() { paths("rpath") } else { Vec::new() };
        rpath.extend(inherited.iter().take_while(|path| reads.keep(path.len())).cloned());
        let rpath: Rc<[String]> = rpath.into();
        let own = if runpath.is_empty() { &*rpath } else { &[] };
        for name in note.lines().filter_map(|line| line.strip_prefix("needed ")) {
            // The loader knows a library by its name once it is loaded.
            if !names.insert(name) || !reads.keep(0) {
                continue;
            }
            let Some(path) = search.find(name, own, &runpath, reads) else { continue };
            if let Some(real) = reads.look(&path) {
                let known = reads.has(&real);
                reads.open(&path, format_args!("shared library that {file} needs"));
                if !known {
                    waiting.push_back((real, Rc::clone(&rpath)));
                }
            }
        }
    }
}

/// Where the loader looks for libraries in an image.
pub(crate) struct Places<'a> {
    preferred: Vec<String>,
    /// The paths in the loader's cache, by name.
    cache: HashMap<&'a str, Vec<&'a str>>,
    defaults: Vec<String>,
}

impl<'a> Places<'a> {
    pub(crate) fn of(reads: &mut Reads<'a>) -> Self {
        let preferred = reads.variable("LD_LIBRARY_PATH").unwrap_or_default();
        let preferred = reads.split(preferred, |c| matches!(c, ':' | ';'));
        let listed = reads.look("etc/ld.so.cache").map_or("", |path| reads.note(&path));
        let mut cache: HashMap<&str, Vec<&str>> = HashMap::new();
        for (name, path) in listed.lines().filter_map(|line| line.split_once(' ')) {
            if !reads.keep(0) {
                break;
            }
            cache.entry(name).or_default().push(path);
        }
        Self { preferred, cache, defaults: defaults(reads) }
    }
}

/// Where the loader looks for a library of one machine.
struct Search<'a> {
    machine: String,
    places: Rc<Places<'a>>,
}

impl<'a> Search<'a> {
    fn of(file: &str, reads: &mut Reads<'a>) -> Self {
        let machine = field(reads.note(file), "elf").unwrap_or_default().to_owned();
        Self { machine, places: reads.loader() }
    }

    fn find(
        &self,
        name: &str,
        rpath: &[String],
        runpath: &[String],
        reads: &mut Reads<'_>,
    ) -> Option<String> {
        if name.contains('/') {
            return self.fits(name, reads).then(|| name.to_owned());
        }
        let Places { preferred, cache, defaults } = &*self.places;
        let inside = |directories: &[String], reads: &mut Reads<'_>| {
            let paths = directories.iter().filter(|path| path.starts_with('/'));
            reads.first_that(paths.map(|path| format!("{path}/{name}")), |path, reads| self.fits(path, reads))
        };
        inside(rpath, reads)
            .or_else(|| inside(preferred, reads))
            .or_else(|| inside(runpath, reads))
            .or_else(|| {
                let cached = cache.get(name).into_iter().flatten().map(|path| (*path).to_owned());
                reads.first_that(cached, |path, reads| self.fits(path, reads))
            })
            .or_else(|| inside(defaults, reads))
    }

    /// Says whether there is a library for this machine.
    fn fits(&self, path: &str, reads: &mut Reads<'_>) -> bool {
        let file = reads.look(path);
        file.is_some_and(|file| {
            field(reads.note(&file), "elf")
                .is_some_and(|machine| machine == self.machine || self.machine.is_empty())
        })
    }
}

/// Returns the directories that are searched last, those of both kinds of libc.
fn defaults(reads: &mut Reads<'_>) -> Vec<String> {
    let mut paths = Vec::new();
    for name in
        reads.names("etc").iter().filter(|name| name.starts_with("ld-musl-") && name.ends_with(".path"))
    {
        let listed = reads.look(&format!("etc/{name}")).map_or("", |path| reads.note(&path));
        let listed = listed.split([':', '\n']).map(str::trim).take_while(|path| reads.keep(path.len()));
        paths.extend(listed.map(str::to_owned));
    }
    for directory in ["/lib", "/usr/lib"] {
        let names = reads.names(directory);
        let multiarch = names.iter().filter(|name| name.contains("-linux-gnu"));
        paths.extend(multiarch.map(|name| format!("{directory}/{name}")));
    }
    paths.extend(["/lib64", "/usr/lib64", "/lib", "/usr/local/lib", "/usr/lib"].map(str::to_owned));
    paths.retain(|path| path.starts_with('/'));
    paths
}

fn expand(path: &str, origin: &str) -> String {
    path.replace("${ORIGIN}", origin).replace("$ORIGIN", origin).replace("$LIB", "lib")
}

/// Returns the value of the first line of that name.
pub(crate) fn field<'n>(note: &'n str, name: &str) -> Option<&'n str> {
    note.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

/// Says whether these bytes are the start of an ELF file.
pub(crate) fn is(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

/// Returns the piece of the file that is looked at besides its start, as far as that says where it is: the dynamic section
/// or, of a program without one, the start of its data.
pub(crate) fn piece(head: &[u8], limits: &PredictionLimits) -> Option<Range<u64>> {
    let layout = Layout::read(&Passing::new("", 0, head, limits))?;
    layout.dynamic.or(layout.data)
}

/// Returns the note about a program or library.
fn describe(file: &Passing<'_>) -> Option<String> {
    if !is(file.head()) {
        return None;
    }
    let layout = Layout::read(file)?;
    let mut note = format!("elf {} {}\n", if layout.words.wide { 64 } else { 32 }, layout.machine);
    if let Some(interpreter) = layout.interpreter.clone().and_then(|range| file.bytes(range)).and_then(name) {
        let _ = writeln!(note, "interp {interpreter}");
    }
    let data = layout.data.clone().and_then(|range| file.bytes(range.start..range.end.min(file.size)));
    for package in data.and_then(|data| go::packages(data, file.head(), file.size)).into_iter().flatten() {
        let _ = writeln!(note, "go {package}");
    }
    let Some(entries) = layout.dynamic.clone().and_then(|range| file.bytes(range)) else { return Some(note) };
    let step = if layout.words.wide { 16 } else { 8 };
    let entries: Vec<(u64, u64)> = entries
        .chunks_exact(step)
        .map_while(|entry| {
            let (tag, value) = entry.split_at(step / 2);
            Some((layout.words.word(tag)?, layout.words.word(value)?)).filter(|(tag, _)| *tag != 0)
        })
        .collect();
    let value = |wanted: u64| entries.iter().find(|(tag, _)| *tag == wanted).map(|(_, value)| *value);
    let strings = value(5).zip(value(10)).and_then(|(address, size)| {
        let start = layout.offset(address)?;
        file.bytes(start..start.checked_add(size)?)
    });
    let Some(strings) = strings else { return Some(note) };
    let string = |offset: u64| strings.get(usize::try_from(offset).ok()?..).and_then(name);
    for (tag, label) in [(1, "needed"), (15, "rpath"), (29, "runpath")] {
        for (_, offset) in entries.iter().filter(|(found, _)| *found == tag).take(MAX_NEEDED) {
            if let Some(text) = string(*offset) {
                let _ = writeln!(note, "{label} {text}");
            }
        }
    }
    for called in strings.split(|byte| *byte == 0) {
        if let Some(called) = CALLS.iter().find(|call| call.as_bytes() == called) {
            let _ = writeln!(note, "calls {called}");
        }
    }
    Some(note)
}

/// Returns the text up to the zero byte, if it is one a path can be.
fn name(bytes: &[u8]) -> Option<&str> {
    let bytes = &bytes[..bytes.len().min(MAX_NAME)];
    let end = bytes.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&bytes[..end]).ok().filter(|text| !text.is_empty() && !text.contains(['\n', '\r']))
}

/// How numbers are written in a file.
#[derive(Debug, Clone, Copy)]
struct Words {
    wide: bool,
    big: bool,
}

impl Words {
    /// Reads a number of as many bytes as there are.
    fn word(self, bytes: &[u8]) -> Option<u64> {
        let add = |number: u64, byte: &u8| (number << 8) | u64::from(*byte);
        (bytes.len() <= 8)
            .then(|| if self.big { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) })
    }
}

/// The parts of a file that matter here.
#[derive(Debug)]
struct Layout {
    words: Words,
    machine: u64,
    /// Address, offset and size of what is loaded.
    loaded: Vec<(u64, u64, u64)>,
    interpreter: Option<Range<u64>>,
    dynamic: Option<Range<u64>>,
    /// The start of what the program may write to.
    data: Option<Range<u64>>,
}

impl Layout {
    /// Reads the file's header and program headers (System V ABI, "Object Files").
    fn read(file: &Passing<'_>) -> Option<Self> {
        let head = file.head();
        let wide = match head.get(4)? {
            1 => false,
            2 => true,
            _ => return None,
        };
        let words = Words { wide, big: *head.get(5)? == 2 };
        let number = |offset: u64, size: u64| words.word(file.bytes(offset..offset.checked_add(size)?)?);
        let machine = number(18, 2)?;
        let (table, step, count) = if wide {
            (number(32, 8)?, number(54, 2)?, number(56, 2)?)
        } else {
            (number(28, 4)?, number(42, 2)?, number(44, 2)?)
        };
        let mut layout =
            Self { words, machine, loaded: Vec::new(), interpreter: None, dynamic: None, data: None };
        for index in 0..count.min(MAX_SEGMENTS) {
            let at = table.checked_add(index * step)?;
            let field = |wide_at: u64, narrow_at: u64| match wide {
                true => number(at.checked_add(wide_at)?, 8),
                false => number(at.checked_add(narrow_at)?, 4),
            };
            let (Some(kind), Some(offset), Some(address), Some(size)) =
                (number(at, 4), field(8, 4), field(16, 8), field(32, 16))
            else {
                break;
            };
            let Some(end) = offset.checked_add(size) else { continue };
            match kind {
                1 => {
                    layout.loaded.push((address, offset, size));
                    let flags = number(at.checked_add(if wide { 4 } else { 24 })?, 4);
                    if layout.data.is_none() && flags.is_some_and(|flags| flags & WRITABLE != 0) {
                        layout.data = Some(offset..end.min(offset.saturating_add(go::MARKED)));
                    }
                }
                2 if size <= MAX_DYNAMIC => layout.dynamic = Some(offset..end),
                3 if size <= MAX_NAME as u64 => layout.interpreter = Some(offset..end),
                _ => {}
            }
        }
        Some(layout)
    }

    /// Returns where in the file an address is.
    fn offset(&self, address: u64) -> Option<u64> {
        self.loaded.iter().find_map(|(start, offset, size)| {
            address.checked_sub(*start).filter(|into| into < size)?.checked_add(*offset)
        })
    }
}

/// Returns the names and paths in a loader's cache, those for any processor of the kind, one pair a line.
///
/// The layout is that of glibc's `dl-cache.h`: 48 bytes of header, 24 bytes an entry, strings at offsets from the start.
fn cache(bytes: &[u8]) -> String {
    const NEW: &[u8] = b"glibc-ld.so.cache1.1";
    // An old cache may stand before the new one.
    let Some(start) = bytes.windows(NEW.len()).position(|window| window == NEW) else { return String::new() };
    let bytes = &bytes[start..];
    let number = |offset: usize| -> Option<usize> {
        let found: [u8; 4] = bytes.get(offset..offset.checked_add(4)?)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(found)).ok()
    };
    let mut lines = String::new();
    for index in 0..number(20).unwrap_or_default() {
        let at = 48 + index * 24;
        let Some((key, value)) = number(at + 4).zip(number(at + 8)) else { break };
        // Entries for some processors alone say so here.
        let special = number(at + 16).zip(number(at + 20)).is_none_or(|(low, high)| low != 0 || high != 0);
        let text = |offset: usize| bytes.get(offset..).and_then(name).filter(|text| !text.contains(' '));
        if let Some((key, value)) = text(key).zip(text(value)).filter(|_| !special) {
            let _ = writeln!(lines, "{key} {value}");
        }
        if lines.len() > 200 << 10 {
            break;
        }
    }
    lines
}
