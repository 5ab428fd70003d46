//! Documents of other kinds than manifests and indexes: what they name.

use serde_json::Map;
use serde_json::Value;

use crate::Descriptor;
use crate::Digest;
use crate::Error;
use crate::Limits;
use crate::Result;
use crate::json;
use crate::json::Object;

const NAME: &str = "manifest";

/// Returns the descriptors in a document of an unknown media type that lies where manifests lie: what has to go wherever it
/// goes. Its subject is not among them, as it is none of a manifest's parts. OCI's artifact manifest of 2022 is such a document.
///
/// Bytes that are no JSON object name nothing. Docker's manifest schema 1, which names blobs without their sizes, is
/// an error, and so is an object with a digest that is no descriptor otherwise.
pub fn foreign_parts(bytes: &[u8], limits: &Limits) -> Result<Vec<Descriptor>> {
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Ok(Vec::new());
    }
    let map = json::parse(NAME, bytes, limits.manifest_size, limits)?;
    if map.contains_key("fsLayers") || map.get("schemaVersion") == Some(&Value::from(1)) {
        return Err(Error::Schema1);
    }
    let mut parts = Vec::new();
    let fields = map.iter().filter(|(key, _)| *key != "subject");
    fields.map(|(_, value)| value).try_for_each(|value| collect(value, limits, &mut parts))?;
    Ok(parts)
}

/// Adds the descriptors in a value, whose depth was bounded when it was parsed.
fn collect(value: &Value, limits: &Limits, parts: &mut Vec<Descriptor>) -> Result<()> {
    match value {
        Value::Object(map) if names_a_digest(map) => {
            parts.push(Descriptor::read(&Object::root(NAME, map, &Descriptor::KEYS, limits)?)?);
            Ok(())
        }
        Value::Object(map) => map.values().try_for_each(|value| collect(value, limits, parts)),
        Value::Array(list) => list.iter().try_for_each(|value| collect(value, limits, parts)),
        _ => Ok(()),
    }
}

fn names_a_digest(map: &Map<String, Value>) -> bool {
    map.get("digest").and_then(Value::as_str).is_some_and(|digest| Digest::parse(digest).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOB: &str = r#"{"mediaType":"a/b","digest":"sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824","size":5}"#;

    fn parts(text: &str) -> Result<usize> {
        foreign_parts(text.as_bytes(), &Limits::default()).map(|parts| parts.len())
    }

    #[test]
    fn parts_are_found_wherever_they_stand_but_for_the_subject() {
        for (text, expected) in [
            (format!(r#"{{"blobs":[{BLOB},{BLOB}],"subject":{BLOB}}}"#), 2),
            (format!(r#"{{"a":{{"b":[[{BLOB}]],"subject":{BLOB}}}}}"#), 2),
            (BLOB.replace(r#""digest":"#, r#""digests":"#), 0),
            (r#"{"subject":[{"digest":{"sha256":"00"}}],"digest":5}"#.to_owned(), 0),
            ("plain text".to_owned(), 0),
            (String::new(), 0),
            (format!("[{BLOB}]"), 0),
        ] {
            assert_eq!(parts(&text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        for (text, expected) in [
            (r#"{"schemaVersion":1}"#.to_owned(), "schema 1"),
            (r#"{"fsLayers":[{"blobSum":"sha256:00"}]}"#.to_owned(), "schema 1"),
            (format!(r#"{{"a":{}}}"#, BLOB.replace(r#","size":5"#, "")), "size"),
            (format!(r#"{{"a":{BLOB},"a":{BLOB}}}"#), "strict JSON"),
            (r#"{"a":"#.repeat(200), "strict JSON"),
        ] {
            let error = parts(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
