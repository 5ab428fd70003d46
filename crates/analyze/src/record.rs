//! Access records: JSON lines, as `ctr-remote image optimize --record-out` writes them.
//!
//! ```json
//! {"path":"usr/bin/app","manifestDigest":"sha256:…","layerIndex":3,"size":8192,"read":4096,"touched":8192}
//! ```
//!
//! Only `path` must be there. The order of the lines is the order of the accesses. What ctr-remote does not know, from
//! `size` on, it passes over.

use std::path::Path;

use restow_oci::Digest;

use crate::Error;
use crate::Result;
use crate::list::MAX_PATHS;
use crate::list::lines;
use crate::list::load_with;
use crate::list::refused;
use crate::path;

/// A path that was read, and where it was found then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The clean path.
    pub path: String,
    /// The manifest of the image the record was made on.
    pub manifest_digest: Option<Digest>,
    /// The position in that manifest of the layer that provided the path, from 0.
    pub layer_index: Option<usize>,
    /// How much of it was read, if that is known.
    pub share: Option<Share>,
}

/// How much of a file was read, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The size of the file.
    pub size: u64,
    /// How many of its bytes were read, each counted once.
    pub read: u64,
    /// How many bytes there are in its chunks of which something was read.
    pub touched: u64,
}

impl Share {
    /// Returns how many bytes are in chunks of which nothing was read.
    pub fn untouched(&self) -> u64 {
        self.size.saturating_sub(self.touched)
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    path: String,
    manifest_digest: Option<String>,
    // Far above any real number of layers; a larger index is damage, not an image.
    layer_index: Option<u16>,
    size: Option<u64>,
    read: Option<u64>,
    touched: Option<u64>,
}

/// Reads a record from a file.
pub fn load(path: &Path) -> Result<Vec<Access>> {
    load_with(path, parse)
}

/// Parses a record.
pub fn parse(text: &str) -> Result<Vec<Access>> {
    let mut accesses = Vec::new();
    for (number, text) in lines(text) {
        if accesses.len() == MAX_PATHS {
            return Err(Error::TooMany { line: number, limit: MAX_PATHS });
        }
        accesses.push(parse_line(number, text)?);
    }
    Ok(accesses)
}

/// Writes a record, a line for each access.
pub fn write(accesses: &[Access]) -> String {
    let mut text = String::new();
    for access in accesses {
        let mut line = serde_json::Map::new();
        line.insert("path".into(), access.path.as_str().into());
        if let Some(digest) = &access.manifest_digest {
            line.insert("manifestDigest".into(), digest.as_str().into());
        }
        if let Some(position) = access.layer_index {
            line.insert("layerIndex".into(), position.into());
        }
        if let Some(Share { size, read, touched }) = access.share {
            for (name, number) in [("size", size), ("read", read), ("touched", touched)] {
                line.insert(name.into(), number.into());
            }
        }
        text.push_str(&serde_json::Value::Object(line).to_string());
        text.push('\n');
    }
    text
}

fn share(line: &Line) -> Option<Share> {
    Some(Share { size: line.size?, read: line.read?, touched: line.touched? })
}

fn parse_line(number: usize, text: &str) -> Result<Access> {
    let malformed = |reason: String| Error::Record { line: number, source: reason.into() };
    // The parser saw one line and calls it the first.
    let line: Line = serde_json::from_str(text)
        .map_err(|error| malformed(error.to_string().replace(" at line 1 column ", " at column ")))?;
    let share = share(&line);
    // A Go writer leaves an unset digest out, but an empty one means the same.
    let manifest_digest = line
        .manifest_digest
        .filter(|digest| !digest.is_empty())
        .map(|digest| Digest::parse(&digest))
        .transpose()
        .map_err(|error| malformed(error.to_string()))?;
    Ok(Access {
        path: path::parse(&line.path).map_err(|reason| refused(number, &line.path, reason))?,
        manifest_digest,
        layer_index: line.layer_index.map(usize::from),
        share,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_keeps_its_order_and_needs_only_paths() {
        let digest = Digest::sha256(b"manifest");
        let text = format!(
            "{{\"path\":\"/usr/bin/app\",\"manifestDigest\":\"{digest}\",\"layerIndex\":0}}\n\
             \r\n{{\"path\":\"a/\",\"extra\":[1]}}\r\n{{\"path\":\"\",\"manifestDigest\":\"\",\"layerIndex\":null}}"
        );
        let access = |path: &str, manifest_digest, layer_index| Access {
            path: path.into(),
            manifest_digest,
            layer_index,
            share: None,
        };
        let expected =
            [access("usr/bin/app", Some(digest), Some(0)), access("a", None, None), access("", None, None)];
        assert_eq!(parse(&text).unwrap(), expected);
        assert_eq!(parse(&format!("\u{feff}{text}")).unwrap(), expected);
        assert_eq!(parse(&write(&expected)).unwrap(), expected);
        let shared =
            [Access { share: Some(Share { size: 10, read: 3, touched: 4 }), ..access("a", None, None) }];
        assert_eq!(write(&shared), "{\"path\":\"a\",\"size\":10,\"read\":3,\"touched\":4}\n");
        assert_eq!(parse(&write(&shared)).unwrap(), shared);
        assert_eq!(shared[0].share.unwrap().untouched(), 6);
    }

    #[test]
    fn records_are_read_as_other_programs_write_them() {
        let paths = |accesses: &[Access]| -> Vec<String> {
            accesses.iter().map(|access| access.path.clone()).collect()
        };
        let golden = load(&restow_testkit::testdata("golden/record.json")).unwrap();
        assert_eq!(paths(&golden), ["data/one", "bin/tool-hard", "app/main"]);
        assert!(golden.iter().all(|access| access.manifest_digest.is_none() && access.layer_index.is_none()));
        // ctr-remote names manifest and layer in each line.
        let digest = Digest::sha256(b"manifest");
        let line = |path: &str, position: usize| {
            format!("{{\"path\":\"{path}\",\"manifestDigest\":\"{digest}\",\"layerIndex\":{position}}}\n")
        };
        let written = parse(&(line("usr/bin/python3.11", 1) + &line("etc/", 0))).unwrap();
        assert_eq!(paths(&written), ["usr/bin/python3.11", "etc"]);
        assert!(written.iter().all(|access| access.manifest_digest.as_ref() == Some(&digest)));
        assert_eq!(written.iter().map(|access| access.layer_index).collect::<Vec<_>>(), [Some(1), Some(0)]);
    }

    #[test]
    fn a_malformed_line_is_refused_by_its_number() {
        for line in [
            "path",
            "{}",
            r#"{"path":1}"#,
            r#"{"path":"a""#,
            r#"{"path":"a"}{"path":"b"}"#,
            r#"{"path":"a","path":"b"}"#,
            r#"{"path":"a","layerIndex":-1}"#,
            r#"{"path":"a","layerIndex":65536}"#,
            r#"{"path":"a","layerIndex":18446744073709551616}"#,
            r#"{"path":"a","layerIndex":1.5}"#,
            r#"{"path":"a","layerIndex":"1"}"#,
            r#"{"path":"a","manifestDigest":"sha256:../../x"}"#,
            r#"{"path":"a","manifestDigest":"SHA256:00"}"#,
            r#"["a"]]"#,
        ] {
            let error = parse(&format!("{{\"path\":\"ok\"}}\n\n{line}\n")).unwrap_err();
            assert_eq!(error.to_string(), "line 3 is not an access record", "{line}");
        }
        let error = parse(r#"{"path":"a\u0000b"}"#).unwrap_err();
        assert_eq!(error.to_string(), r#"line 1: a zero byte in the path "a\0b""#);
    }
}
