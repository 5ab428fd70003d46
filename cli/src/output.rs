//! Writing to stdout and stderr, and the way numbers and tables look.

use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::time::Duration;

use restow::Warning;
use restow_oci::Digest;

/// Writes text and a line break to stdout. A reader that has left (`restow inspect … | head`) is no error.
pub(crate) fn print(text: &str) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes a line to stderr. If that fails there is nowhere left to say so.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Tells of what went otherwise than one might expect.
pub(crate) fn warn(warnings: &[Warning]) {
    for warning in warnings {
        tell(&format!("warning: {warning}"));
    }
}

/// Writes a document to stdout as JSON that people can read too.
pub(crate) fn print_json(document: &serde_json::Value) -> io::Result<()> {
    print(&format!("{document:#}"))
}

/// Writes JSON to stdout as people can read it, a piece at a time. It must be sound, and is spelled as it was.
pub(crate) fn print_indented(json: &mut dyn io::Read) -> anyhow::Result<()> {
    let mut output = io::BufWriter::new(io::stdout().lock());
    let written = indent(json, &mut output).and_then(|()| Ok(output.flush()?));
    match written {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        result => result,
    }
}

/// Tells whether the error is that whoever reads what we write has left.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.downcast_ref::<io::Error>().is_some_and(broken)
        || matches!(error.downcast_ref(), Some(restow::Error::Io(error)) if broken(error))
}

fn indent(json: &mut dyn io::Read, output: &mut dyn io::Write) -> anyhow::Result<()> {
    let (mut depth, mut quoted, mut escaped, mut opened) = (0, false, false, false);
    for byte in io::BufReader::new(json).bytes() {
        let byte = byte?;
        if quoted {
            quoted = escaped || byte != b'"';
            escaped = byte == b'\\' && !escaped;
            output.write_all(&[byte])?;
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
    Ok(output.write_all(b"\n")?)
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
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// Returns enough of a digest for people to tell blobs apart.
pub(crate) fn short(digest: &Digest) -> String {
    let encoded = digest.encoded();
    format!("{}:{}", digest.algorithm_name(), encoded.get(..12).unwrap_or(encoded))
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
        self.rows.push(cells.into());
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
