//! Random input from a seed: the same on every machine and in every run.

use crate::builder::End;
use crate::builder::TarBuilder;
use crate::entry::Entry;
use crate::entry::Format;

/// A small generator of random numbers (splitmix64).
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// Starts the sequence of a seed.
    pub fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    /// Returns the next number.
    #[expect(clippy::should_implement_trait, reason = "the sequence has no end, so it is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// Returns a number below `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.next() % end as u64) as usize }
    }

    /// Returns true once in `one_in` times.
    pub fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    /// Returns one of the items.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// Returns bytes that do not compress.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(length);
        bytes
    }

    /// Returns a file's content: words, noise, or zeros.
    pub fn content(&mut self, length: usize) -> Vec<u8> {
        const WORDS: [&str; 8] =
            ["hold ", "bay ", "stow ", "hatch\n", "keel ", "cargo\0", "quay, ", "anchor\n"];
        match self.below(6) {
            0 => vec![0; length],
            1 | 2 => self.bytes(length),
            _ => {
                let mut text = Vec::with_capacity(length + 8);
                while text.len() < length {
                    text.extend(self.pick(&WORDS).bytes());
                }
                text.truncate(length);
                text
            }
        }
    }
}

/// What [`random_tar`] may make.
#[derive(Debug, Clone)]
pub struct TarOptions {
    /// How many entries.
    pub entries: usize,
    /// No file is larger than this.
    pub largest_file: usize,
    /// Whether a path may come twice, also in another spelling (`a` and `./a`).
    pub duplicates: bool,
    /// What stands before every path; one of these for the whole tar.
    pub prefixes: &'static [&'static str],
    /// Whether the end of the archive and the padding may be unusual, though valid.
    pub unusual_end: bool,
    /// A record that global extended headers before some entries have.
    pub global: Option<(&'static str, &'static str)>,
}

impl Default for TarOptions {
    fn default() -> Self {
        TarOptions {
            entries: 40,
            largest_file: 64 << 10,
            duplicates: false,
            prefixes: &["", "./", "/"],
            unusual_end: false,
            global: None,
        }
    }
}

/// Returns a valid random tar: every type of entry, long and awkward names, ustar, PAX and GNU headers,
/// hard links to earlier files, xattrs, times of every kind.
///
/// Some parent directories have no entry, as in the layers of several build tools. Names are UTF-8.
pub fn random_tar(seed: u64, options: &TarOptions) -> Vec<u8> {
    let mut random = Random::new(seed);
    let prefix = *random.pick(options.prefixes);
    let mut directories = vec![String::new()];
    let mut files: Vec<String> = Vec::new();
    let mut looks: Vec<Entry> = Vec::new();
    let mut paths: Vec<String> = Vec::new();
    let mut tar = TarBuilder::new();
    for position in 0..options.entries {
        let kind = random.below(20);
        if options.duplicates && !files.is_empty() && random.chance(8) {
            let path = random.pick(&files).clone();
            let spelling = *random.pick(&["", "./", "/"]);
            let size = random.below(options.largest_file + 1);
            let content = random.content(size);
            tar = tar.entry(Entry::file(format!("{spelling}{path}"), content));
            continue;
        }
        let path = format!("{}{}", random.pick(&directories).clone(), name(&mut random, position));
        let full = format!("{prefix}{path}");
        let mut target = None;
        let entry = match kind {
            0..=3 => {
                directories.push(format!("{path}/"));
                // A directory without an entry of its own is implied by what lies in it.
                if random.chance(3) {
                    continue;
                }
                Entry::dir(format!("{full}/"))
            }
            4 | 5 => Entry::symlink(&full, format!("../{}", name(&mut random, position))),
            6 | 7 if !files.is_empty() => {
                target = Some(random.below(files.len()));
                Entry::hardlink(&full, format!("{prefix}{}", files[target.unwrap_or(0)]))
            }
            8 => Entry::fifo(&full),
            9 => Entry::character(&full, random.below(300) as i64, random.below(300) as i64),
            10 => Entry::block(&full, random.below(300) as i64, random.below(300) as i64),
            11 => Entry::file(whiteout(&full), ""),
            12 => Entry::file(&full, ""),
            _ => {
                files.push(path.clone());
                let size = random.below(options.largest_file + 1);
                Entry::file(&full, random.content(size))
            }
        };
        paths.push(path);
        let mut entry = dress(&mut random, entry);
        match target {
            // A link that says something else of its file is another matter.
            Some(target) => entry = entry.like(&looks[target]),
            None if looks.len() < files.len() => looks.push(entry.clone()),
            None => {}
        }
        if options.unusual_end && random.chance(4) {
            entry = entry.padding(0xaa);
        }
        if let Some(record) = options.global.filter(|_| random.chance(12)) {
            tar = tar.global_pax(&[record]);
        }
        tar = tar.entry(entry);
    }
    tar.finish_with(match random.below(4) {
        0 if options.unusual_end => End::None,
        1 if options.unusual_end => End::Blocks(1),
        2 if options.unusual_end => End::Blocks(20),
        3 if options.unusual_end => End::Then(random.bytes(700)),
        _ => End::Blocks(2),
    })
}

/// Spoils bytes in one to four places: flips, sets, inserts, removes, doubles or cuts off.
pub fn mutate(bytes: &[u8], seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut out = bytes.to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.below(out.len());
        let end = (at + 1 + random.below(16)).min(out.len());
        match random.below(8) {
            _ if out.is_empty() => out.push(random.next() as u8),
            0..=2 => out[at] ^= 1 << random.below(8),
            3 => out[at] = *random.pick(&[0, 0xff, b'0', b'9', b' ', b'/', b'"', b'-']),
            4 => {
                let inserted = random.bytes(end - at);
                out.splice(at..at, inserted);
            }
            5 => drop(out.drain(at..end)),
            6 => {
                let doubled = out[at..end].to_vec();
                out.splice(at..at, doubled);
            }
            _ => out.truncate(at),
        }
    }
    out
}

fn name(random: &mut Random, position: usize) -> String {
    // The position keeps names apart where duplicates are not wanted.
    match random.below(10) {
        0 => format!("{}{position}", "long-".repeat(random.below(40))),
        1 => format!("grüße-日本語-{position}"),
        2 => format!("a b\\\"<&>\u{2028}'{position}"),
        3 => format!("-{position}\nline"),
        4 => format!(".hidden{position}"),
        _ => format!("f{position}"),
    }
}

fn whiteout(path: &str) -> String {
    let (directory, name) = path.rsplit_once('/').map_or(("", path), |(directory, name)| (directory, name));
    if directory.is_empty() { format!(".wh.{name}") } else { format!("{directory}/.wh.{name}") }
}

/// Gives an entry random metadata and a random dialect.
fn dress(random: &mut Random, entry: Entry) -> Entry {
    let entry = entry.format(*random.pick(&[Format::Pax, Format::Pax, Format::Gnu]));
    let entry = match random.below(6) {
        0 => entry.owner(1000, 1000).names("user", "grüppe"),
        1 => entry.owner(4_294_967_294, 3_000_000),
        _ => entry,
    };
    let entry = match random.below(6) {
        0 => entry.mode(*random.pick(&[0, 0o4755, 0o1777, 0o600])),
        _ => entry,
    };
    let entry = match random.below(8) {
        0 => entry.mtime(0),
        1 => entry.mtime(-86_400),
        2 => entry.modified(1_600_000_000, 123_456_789),
        3 => entry.modified(-2, 500_000_000),
        4 => entry.accessed(1_700_000_001, 5_000).changed(1_700_000_002, 0),
        _ => entry,
    };
    if random.chance(8) {
        let value = random.bytes(20);
        return entry.xattr("user.note", "a=b\nc").xattr("security.capability", value);
    }
    entry
}
