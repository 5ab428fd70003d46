//! The records of an extended header: `LENGTH KEY=VALUE\n`, LENGTH counting the whole record (POSIX pax).

use std::collections::BTreeMap;

use super::{Header, Time};

const XATTR: &[u8] = b"SCHILY.xattr.";
const SPARSE: &[u8] = b"GNU.sparse.";

/// Keys that decide where entries are and how long they are; a global header that sets one is not supported.
const STRUCTURAL: [&[u8]; 3] = [b"path", b"linkpath", b"size"];

/// The records of one extended header.
pub(super) struct Records {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What they say of a sparse file, in their order: format 0.0 repeats its keys. Without the prefix of the keys.
    pub(super) sparse: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads the payload of an extended header.
pub(super) fn parse(mut text: &[u8]) -> Result<Records, String> {
    let mut records = Records { values: BTreeMap::new(), sparse: Vec::new() };
    while !text.is_empty() {
        let Record { key, value, rest } = record(text)?;
        text = rest;
        if let Some(key) = key.strip_prefix(SPARSE) {
            records.sparse.push((key.to_vec(), value.to_vec()));
        } else if records.values.insert(key.to_vec(), value.to_vec()).is_some() {
            return Err(format!("the extended header sets {:?} twice", String::from_utf8_lossy(key)));
        }
    }
    Ok(records)
}

/// The first record of a text, and what follows it.
struct Record<'a> {
    key: &'a [u8],
    value: &'a [u8],
    rest: &'a [u8],
}

fn record(text: &[u8]) -> Result<Record<'_>, String> {
    let malformed = || "a record of the extended header is malformed".to_string();
    let space = text.iter().take(20).position(|byte| *byte == b' ').ok_or_else(malformed)?;
    let length: usize = decimal(&text[..space]).and_then(|n| n.try_into().ok()).ok_or_else(malformed)?;
    if length <= space + 1 || length > text.len() || text[length - 1] != b'\n' {
        return Err(malformed());
    }
    let body = &text[space + 1..length - 1];
    let equals = body.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    let is_text = matches!(key, b"path" | b"linkpath" | b"uname" | b"gname");
    if key.is_empty() || key.contains(&0) || (is_text && value.contains(&0)) {
        return Err(malformed());
    }
    Ok(Record { key, value, rest: &text[length..] })
}

impl Records {
    /// Returns a key that moves or resizes entries, if there is one.
    pub(super) fn changes_structure(&self) -> Option<&str> {
        if !self.sparse.is_empty() {
            return Some("GNU.sparse");
        }
        STRUCTURAL
            .iter()
            .find(|key| self.values.get(**key).is_some_and(|value| !value.is_empty()))
            .and_then(|key| std::str::from_utf8(key).ok())
    }

    /// Returns whether they say anything of entries: anything but a comment.
    pub(super) fn describe(&self) -> bool {
        self.values.keys().any(|key| key != b"comment")
    }

    /// Replaces what the records set in `header`. An empty value leaves the field as the block has it.
    pub(super) fn apply(self, header: &mut Header) -> Result<(), String> {
        for (key, value) in self.values {
            if let Some(name) = key.strip_prefix(XATTR) {
                header.xattrs.insert(name.to_vec(), value);
                continue;
            }
            if value.is_empty() {
                continue;
            }
            let bad = || {
                format!(
                    "the extended header's {} is {:?}",
                    String::from_utf8_lossy(&key),
                    String::from_utf8_lossy(&value[..value.len().min(64)])
                )
            };
            match key.as_slice() {
                b"path" => header.name = value,
                b"linkpath" => header.link_name = value,
                b"uname" => header.user_name = value,
                b"gname" => header.group_name = value,
                b"uid" => header.uid = signed(&value).ok_or_else(bad)?,
                b"gid" => header.gid = signed(&value).ok_or_else(bad)?,
                b"size" => {
                    header.recorded_size =
                        signed(&value).and_then(|size| size.try_into().ok()).ok_or_else(bad)?;
                }
                b"mtime" => header.modified = time(&value).ok_or_else(bad)?,
                b"atime" => header.accessed = Some(time(&value).ok_or_else(bad)?),
                b"ctime" => header.changed = Some(time(&value).ok_or_else(bad)?),
                _ => {}
            }
        }
        Ok(())
    }
}

pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

fn signed(text: &[u8]) -> Option<i64> {
    match text {
        [b'-', digits @ ..] => 0i64.checked_sub_unsigned(decimal(digits)?),
        [b'+', digits @ ..] | digits => decimal(digits)?.try_into().ok(),
    }
}

/// Reads seconds with an optional fraction, of which nine digits count and the rest are cut off.
fn time(text: &[u8]) -> Option<Time> {
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &[][..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = signed(whole)?;
    let nanoseconds = (0..9).fold(0u32, |value, index| {
        value * 10 + fraction.get(index).map_or(0, |digit| u32::from(digit - b'0'))
    });
    if whole.starts_with(b"-") && nanoseconds > 0 {
        // -1.25 is 0.75 seconds after -2.
        return Some(Time { seconds: seconds.checked_sub(1)?, nanoseconds: 1_000_000_000 - nanoseconds });
    }
    Some(Time { seconds, nanoseconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_records_are_refused() {
        for text in [
            "11 path=abc",
            "13 path=abc\n",
            "10 path=abc\n",
            "x path=abc\n",
            " path=abc\n",
            "3 \n",
            "8 =abcd\n",
            "9 patabc\n",
            "99999999999999999999999 path=a\n",
            "12 path=a\0c\n",
            "9 pa\0h=a\n",
            "12 path=abc\n12 path=abd\n",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(parse(b"12 path=abc\n").is_ok());
    }

    #[test]
    fn times_are_cut_to_nanoseconds_and_negative_fractions_count_back() {
        for (text, expected) in [
            ("1700000000", Some((1_700_000_000, 0))),
            ("1.5", Some((1, 500_000_000))),
            ("1.0000000019", Some((1, 1))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-0.25", Some((-1, 750_000_000))),
            ("-3", Some((-3, 0))),
            ("1.", Some((1, 0))),
            (".5", None),
            ("inf", None),
            ("NaN", None),
            ("1e5", None),
            ("1.5x", None),
            ("99999999999999999999", None),
        ] {
            let expected = expected.map(|(seconds, nanoseconds)| Time { seconds, nanoseconds });
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }
}
