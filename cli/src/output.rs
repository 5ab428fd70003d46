//! Writing to stdout and stderr, and the way numbers and tables look.
//!
//! All words of this program pass here, and with them names and messages that an image or a registry supplied. None of
//! these reaches a terminal as it is: one could clear the screen, or look like words of ours.

use std::borrow::Cow;
use std::io;
use std::io::IsTerminal as _;
use std::io::Read as _;
use std::io::Write as _;

use restow::Destination;
use restow::Warning;
use restow_oci::Digest;
use serde::Serialize;

use crate::args::Format;

/// Writes text of lines for people to stdout. A reader that has left (`restow inspect … | head`) is no error.
///
/// Whoever puts text of an image or a registry into it passes that through a [`Table`] or [`shown`], or it may look like
/// lines of ours.
pub(crate) fn print(text: &str) -> io::Result<()> {
    print_raw(&escape(text, |c| c == '\n' || c == '\t'))
}

/// Writes a line for programs to stdout, exactly; to a terminal as [`print`] does.
pub(crate) fn print_line(line: &str) -> io::Result<()> {
    if io::stdout().is_terminal() { print(&shown(line)) } else { print_raw(line) }
}

/// Writes a line of text that is JSON to stdout.
pub(crate) fn print_json_text(json: &str) -> io::Result<()> {
    print_raw(&escape_json(json))
}

fn print_raw(text: &str) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes a line to stderr. Line breaks in it are escaped, too. If that fails there is nowhere left to say so.
pub(crate) fn tell(line: &str) {
    tell_raw(&shown(line));
}

/// Writes a table to stderr, each line behind `prefix`.
pub(crate) fn tell_table(prefix: &str, table: &Table) {
    for line in table.to_string().lines() {
        tell(&format!("{prefix}{line}"));
    }
}

/// Writes an event to stderr as a line of JSON.
pub(crate) fn tell_json(event: &serde_json::Value) {
    tell_raw(&escape_json(&event.to_string()));
}

fn tell_raw(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Tells of what went otherwise than one might expect.
pub(crate) fn warn(warnings: &[Warning]) {
    for warning in warnings {
        tell(&format!("warning: {warning}"));
    }
}

/// Writes a document to stdout as JSON that people can read too.
pub(crate) fn print_json(document: &impl Serialize) -> io::Result<()> {
    print_raw(&escape_json(&serde_json::to_string_pretty(document)?))
}

/// Writes a document to stdout as a line of JSON.
pub(crate) fn print_json_line(document: &impl Serialize) -> io::Result<()> {
    print_raw(&escape_json(&serde_json::to_string(document)?))
}

/// Prints what became of a new image, unless that is on standard output itself.
pub(crate) fn print_result(
    destination: &Destination,
    format: Format,
    digest: &Digest,
    document: &impl Serialize,
) -> io::Result<()> {
    match format {
        _ if destination.is_output() => Ok(()),
        Format::Text => print_line(digest.as_str()),
        Format::Json => print_json(document),
    }
}

/// Writes JSON to stdout as people can read it, a piece at a time. It must be sound, and is spelled as it was.
pub(crate) fn print_indented(json: &mut dyn io::Read) -> io::Result<()> {
    let mut output = io::BufWriter::new(io::stdout().lock());
    match indent(json, &mut output).and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

fn indent(json: &mut dyn io::Read, output: &mut dyn io::Write) -> io::Result<()> {
    let (mut depth, mut quoted, mut escaped, mut opened) = (0, false, false, false);
    let mut string = Vec::new();
    for byte in io::BufReader::new(json).bytes() {
        let byte = byte?;
        if quoted {
            quoted = escaped || byte != b'"';
            escaped = byte == b'\\' && !escaped;
            string.push(byte);
            if !quoted || string.len() >= STRING_PIECE {
                write_string(&mut string, output)?;
            }
            continue;
        }
        if byte.is_ascii_whitespace() {
            continue;
        }
        let closes = matches!(byte, b'}' | b']');
        depth = usize::saturating_sub(depth, usize::from(closes));
        if opened != closes && (opened || closes) {
            write!(output, "\n{:1$}", "", depth * 2)?;
        }
        opened = matches!(byte, b'{' | b'[');
        depth += usize::from(opened);
        quoted = byte == b'"';
        output.write_all(&[byte])?;
        match byte {
            b',' => write!(output, "\n{:1$}", "", depth * 2)?,
            b':' => output.write_all(b" ")?,
            _ => {}
        }
    }
    output.write_all(b"\n")
}

/// How many bytes of a string are held until they are written.
const STRING_PIECE: usize = 64 << 10;

/// Writes what is there of a string, but for a character of which a part is missing, and empties it.
fn write_string(string: &mut Vec<u8>, output: &mut dyn io::Write) -> io::Result<()> {
    let whole = std::str::from_utf8(string).map_or_else(|error| error.valid_up_to(), str::len);
    // Sound JSON is UTF-8, so at most three bytes are left.
    let rest = string.split_off(whole);
    output.write_all(escape_json(&String::from_utf8_lossy(string)).as_bytes())?;
    *string = rest;
    Ok(())
}

/// Returns text on one line, with an escape for each character that does not show itself.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    escape(text, |_| false)
}

fn escape(text: &str, is_kept: impl Fn(char) -> bool) -> Cow<'_, str> {
    escape_by(text, |c| is_hidden(c) && !is_kept(c), |c, escaped| escaped.extend(c.escape_default()))
}

/// Returns a document in which strings hold the same text, but no character that a terminal would obey. JSON itself
/// escapes a few of them only.
fn escape_json(document: &str) -> Cow<'_, str> {
    // Line breaks are between strings, never in them.
    let is_escaped = |c| is_hidden(c) && c != '\n';
    escape_by(document, is_escaped, |c, escaped| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            escaped.push_str(&format!("\\u{unit:04x}"));
        }
    })
}

fn escape_by(
    text: &str,
    is_escaped: impl Fn(char) -> bool,
    escape: impl Fn(char, &mut String),
) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_escaped(c) {
            true => escape(c, &mut escaped),
            false => escaped.push(c),
        }
    }
    escaped.into()
}

/// Returns whether a terminal obeys the character, or shows other characters elsewhere or nothing because of it: control
/// characters, what ends lines or turns the direction of writing, and what has no width.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Returns the number of bytes with a binary unit and three or more digits.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// Returns the time in seconds.
pub(crate) fn seconds(seconds: f64) -> String {
    format!("{seconds:.1} s")
}

/// Returns enough of a digest for people to tell blobs apart.
pub(crate) fn short(digest: &Digest) -> String {
    digest.short()
}

/// Returns `count` and the noun, with an s unless there is exactly one.
pub(crate) fn count(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Columns of text, as wide as they need to be.
#[derive(Debug)]
pub(crate) struct Table {
    /// For each column, whether it is aligned at its right end.
    numeric: Vec<bool>,
    rows: Vec<Vec<String>>,
}

/// As wide as a column becomes, in characters. What is longer, an image's odd names, sticks out.
const WIDEST: usize = 100;

impl Table {
    /// Starts a table; a heading that starts with `>` makes a column of numbers.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let numeric = headings.iter().map(|heading| heading.starts_with('>')).collect();
        let row = headings.iter().map(|heading| heading.trim_start_matches('>').to_owned()).collect();
        Self { numeric, rows: vec![row] }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(|cell| shown(cell).into_owned()).collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let length = |cell: &String| cell.chars().count();
        let width = |column: usize| {
            let lengths = self.rows.iter().filter_map(|row| row.get(column)).map(length);
            lengths.max().unwrap_or(0).min(WIDEST)
        };
        let widths: Vec<_> = (0..self.numeric.len()).map(width).collect();
        for (number, row) in self.rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).zip(&self.numeric);
            let padded = |((cell, width), numeric): ((&String, &usize), &bool)| {
                let blanks = " ".repeat(width.saturating_sub(length(cell)));
                if *numeric { blanks + cell } else { cell.clone() + &blanks }
            };
            let line: Vec<_> = cells.map(padded).collect();
            let separator = if number == 0 { "" } else { "\n" };
            write!(f, "{separator}{}", line.join("  ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_unit_that_suits_them() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (4 << 20, "4.0 MiB"),
            (1_288_490_189, "1.2 GiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }

    /// Names of files that have been seen in hostile images, and how they are shown.
    const HOSTILE: [(&str, &str); 9] = [
        ("a\u{1b}[31mRED\u{1b}]0;pwn\u{7}", "a\\u{1b}[31mRED\\u{1b}]0;pwn\\u{7}"),
        ("b\nfake line", "b\\nfake line"),
        ("c\rback", "c\\rback"),
        ("d\u{9b}31m", "d\\u{9b}31m"),
        ("e\u{202e}txt.exe", "e\\u{202e}txt.exe"),
        ("f\u{2028}X\u{2029}", "f\\u{2028}X\\u{2029}"),
        ("g\u{7f}\u{8}\u{8}", "g\\u{7f}\\u{8}\\u{8}"),
        ("h\ttab", "h\\ttab"),
        ("i\u{200b}\u{2066}z\u{feff}\u{e0041}", "i\\u{200b}\\u{2066}z\\u{feff}\\u{e0041}"),
    ];

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        for (name, expected) in HOSTILE {
            assert_eq!(shown(name), expected);
        }
        let plain = "größe 文件 a\\b \"c\" e\u{301} 👩‍💻".replace('\u{200d}', "");
        assert_eq!(shown(&plain), plain);
        assert_eq!(escape("a\tb\n\u{1b}", |c| c == '\n' || c == '\t'), "a\tb\n\\u{1b}");
    }

    #[test]
    fn indented_documents_hold_no_character_that_a_terminal_would_obey() {
        for name in ["a\u{202e}b", &("x".repeat(STRING_PIECE - 2) + "é\u{9b}"), "a\\\"b"] {
            let text = serde_json::json!({ "name": name, "list": [1, {}] }).to_string();
            let mut output = Vec::new();
            indent(&mut text.as_bytes(), &mut output).unwrap();
            let shown = String::from_utf8(output).unwrap();
            assert!(!shown.contains(|c| is_hidden(c) && c != '\n'), "{}", name.len());
            let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), expected);
        }
    }

    #[test]
    fn documents_hold_the_same_strings_without_what_a_terminal_would_obey() {
        let names: Vec<_> = HOSTILE.iter().map(|(name, _)| *name).collect();
        let document = serde_json::json!({ "names": names, "key\u{202e}": null });
        for text in [document.to_string(), format!("{document:#}")] {
            let escaped = escape_json(&text);
            assert!(!escaped.chars().any(|c| is_hidden(c) && c != '\n'), "{escaped}");
            assert_eq!(escaped.lines().count(), text.lines().count());
            assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), document);
        }
    }

    #[test]
    fn cells_are_one_line_and_as_wide_as_they_are_shown() {
        let mut table = Table::new(&["name", "note"]);
        table.row(["a\nb".into(), "x".into()]);
        assert_eq!(table.to_string(), "name  note\na\\nb  x");
    }

    #[test]
    fn columns_are_aligned_and_lines_end_with_text() {
        let mut table = Table::new(&["name", ">size", "note"]);
        table.row(["a".into(), "100".into(), String::new()]);
        table.row(["long".into(), "7".into(), "x".into()]);
        assert_eq!(table.to_string(), "name  size  note\na      100\nlong     7  x");
    }

    #[test]
    fn what_is_too_wide_sticks_out() {
        let mut table = Table::new(&["name", "note"]);
        table.row(["n".repeat(100_000), "x".into()]);
        table.row(["a".into(), "y".into()]);
        let lines: Vec<_> = table.to_string().lines().map(|line| line.chars().count()).collect();
        assert_eq!(lines, [WIDEST + 6, 100_003, WIDEST + 3]);
    }
}
