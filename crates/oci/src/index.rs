//! Indexes: lists of manifests, and of other indexes.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Descriptor;
use crate::Kind;
use crate::Limits;
use crate::MediaType;
use crate::Result;
use crate::document::Head;
use crate::document::Shape;
use crate::document::head_methods;

/// An image index, the `index.json` of a layout, or a Docker manifest list.
#[derive(Clone, Debug)]
pub struct Index {
    head: Head,
    manifests: Vec<Descriptor>,
}

const SHAPE: Shape = Shape {
    name: "index",
    kind: Kind::Index,
    default: MediaType::OCI_INDEX,
    list: "manifests",
    foreign: &["layers", "config"],
};

impl Index {
    /// Returns an OCI index.
    pub fn new(manifests: Vec<Descriptor>) -> Index {
        let list = manifests.iter().map(|manifest| Value::Object(manifest.to_map())).collect();
        Index { head: Head::new(SHAPE.default, [(SHAPE.list, list)]), manifests }
    }

    /// Parses an index whose descriptor is not known, such as a layout's `index.json`.
    pub fn parse(bytes: Vec<u8>, limits: &Limits) -> Result<Index> {
        parse(bytes, None, limits)
    }

    /// Parses the index that its descriptor calls `media_type`, with which it must not disagree.
    pub fn parse_as(bytes: Vec<u8>, media_type: &MediaType, limits: &Limits) -> Result<Index> {
        parse(bytes, Some(media_type), limits)
    }

    head_methods!();

    /// Returns the entries in their order; of equally good ones, the first is the one to take.
    pub fn manifests(&self) -> &[Descriptor] {
        &self.manifests
    }

    /// Replaces the entry at `position`; with another digest, its `data` and `urls` go.
    pub fn set_manifest(&mut self, position: usize, manifest: &Descriptor) -> Result<()> {
        self.head.set(&SHAPE, &mut self.manifests, position, manifest)
    }

    /// Adds an entry at the end.
    pub fn push(&mut self, manifest: &Descriptor) {
        self.head.edit_list(&SHAPE).push(Value::Object(manifest.to_map()));
        self.manifests.push(manifest.clone());
    }

    /// Removes the entry at `position` and returns it.
    pub fn remove(&mut self, position: usize) -> Result<Descriptor> {
        if position >= self.manifests.len() {
            return Err(SHAPE.position(position, self.manifests.len()));
        }
        let removed = self.manifests[position].clone();
        self.retain(|other, _| other != position);
        Ok(removed)
    }

    /// Removes the entries for which `keep` returns false; it is given their position before any removal.
    pub fn retain(&mut self, mut keep: impl FnMut(usize, &Descriptor) -> bool) {
        let kept: Vec<bool> =
            self.manifests.iter().enumerate().map(|(position, manifest)| keep(position, manifest)).collect();
        if kept.contains(&false) {
            self.head.retain(&SHAPE, &mut self.manifests, &kept);
        }
    }
}

fn parse(bytes: Vec<u8>, expected: Option<&MediaType>, limits: &Limits) -> Result<Index> {
    let (head, manifests) = Head::parse(&SHAPE, bytes, expected, limits, |object| {
        object.objects(SHAPE.list, &Descriptor::KEYS, Descriptor::read)
    })?;
    Ok(Index { head, manifests })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;
    use crate::Platform;
    use crate::error::chain;

    const TEXT: &str = r#"{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"foo:a","size":1,"platform":{"os":"linux","x":[],"architecture":"amd64"}},{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"foo:b","size":2},{"mediaType":"a/b","digest":"foo:c","size":3}],"x":{}}"#;

    fn parse(text: &str) -> Result<Index> {
        Index::parse(text.as_bytes().to_vec(), &Limits::default())
    }

    fn edited(edit: impl FnOnce(&mut Index)) -> String {
        let mut index = parse(TEXT).unwrap();
        edit(&mut index);
        // What the index says of itself is what it writes.
        let written = Index::parse(index.to_bytes(), &Limits::default()).unwrap();
        assert_eq!(written.manifests(), index.manifests());
        String::from_utf8(index.into_bytes()).unwrap()
    }

    /// Returns the text of the index with only some of its entries.
    fn only(kept: &[usize]) -> String {
        let (start, rest) = TEXT.split_once('[').unwrap();
        let (entries, end) = rest.rsplit_once(']').unwrap();
        let entries: Vec<_> =
            entries.split_inclusive("},{").map(|entry| entry.trim_matches(['{', '}', ','])).collect();
        // The platform's brace went with the trimming.
        let entry = |position: &usize| format!("{{{}}}", entries[*position].replace("amd64\"", "amd64\"}"));
        format!("{start}[{}]{end}", kept.iter().map(entry).collect::<Vec<_>>().join(","))
    }

    #[test]
    fn entries_are_removed_by_position_and_the_rest_keeps_its_bytes() {
        let table = [
            (edited(|_| ()), TEXT.to_owned()),
            (edited(|index| index.retain(|_, _| true)), TEXT.to_owned()),
            (edited(|index| drop(index.remove(0))), only(&[1, 2])),
            (edited(|index| drop(index.remove(1))), only(&[0, 2])),
            (edited(|index| drop(index.remove(3))), TEXT.to_owned()),
            (edited(|index| index.retain(|position, _| position == 1)), only(&[1])),
            (edited(|index| index.retain(|_, manifest| manifest.size != 2)), only(&[0, 2])),
            (edited(|index| index.retain(|_, _| false)), only(&[])),
        ];
        for (position, (found, expected)) in table.into_iter().enumerate() {
            assert_eq!(found, expected, "row {position}");
        }
        let error = parse(TEXT).unwrap().remove(3).unwrap_err();
        assert_eq!(error.to_string(), "index: expected a position below 3 in manifests, found 3");
    }

    #[test]
    fn an_entry_keeps_what_an_edit_of_it_does_not_name() {
        let set = |position: usize, edit: fn(&mut Descriptor)| {
            edited(|index| {
                let mut manifest = index.manifests()[position].clone();
                edit(&mut manifest);
                index.set_manifest(position, &manifest).unwrap();
            })
        };
        let arm = r#""x":[],"architecture":"arm64","variant":"v8""#;
        let windows = Platform {
            os_version: Some("10.0".to_owned()),
            os_features: vec!["win32k".to_owned()],
            ..Platform::new("windows", "amd64")
        };
        let written = r#","platform":{"architecture":"","os":""}}"#;
        let full = r#""size":2,"platform":{"architecture":"amd64","os":"windows","os.version":"10.0","os.features":["win32k"]}"#;
        let table = [
            (set(0, |manifest| manifest.size = 9), TEXT.replace(r#""size":1"#, r#""size":9"#)),
            (
                set(0, |manifest| {
                    manifest.platform =
                        Some(Platform { variant: Some("v8".to_owned()), ..Platform::new("linux", "arm64") });
                }),
                TEXT.replace(r#""x":[],"architecture":"amd64""#, arm),
            ),
            (
                set(0, |manifest| manifest.platform = None),
                TEXT.replace(r#","platform":{"os":"linux","x":[],"architecture":"amd64"}"#, ""),
            ),
            (
                set(2, |manifest| manifest.platform = Some(Platform::default())),
                TEXT.replace(r#""size":3}"#, &format!(r#""size":3{written}"#)),
            ),
            (
                edited(|index| {
                    let manifest = Descriptor { platform: Some(windows), ..index.manifests()[1].clone() };
                    index.set_manifest(1, &manifest).unwrap();
                }),
                TEXT.replace(r#""size":2"#, full),
            ),
        ];
        for (position, (found, expected)) in table.into_iter().enumerate() {
            assert_eq!(found, expected, "row {position}");
        }
    }

    #[test]
    fn an_entry_is_added_at_the_end_even_of_null() {
        let entry = Descriptor::new(MediaType::OCI_MANIFEST, Digest::parse("foo:d").unwrap(), 4);
        let json = r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"foo:d","size":4}"#;
        let mut index = parse(r#"{"manifests":null,"schemaVersion":2}"#).unwrap();
        assert!(index.manifests().is_empty() && !index.is_changed());
        index.push(&entry);
        let expected = format!(r#"{{"manifests":[{json}],"schemaVersion":2}}"#);
        assert_eq!(String::from_utf8(index.into_bytes()).unwrap(), expected);
        assert_eq!(edited(|index| index.push(&entry)), TEXT.replace("}],", &format!("}},{json}],")));
        let media_type = "application/vnd.oci.image.index.v1+json";
        let expected = format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","manifests":[{json}]}}"#);
        assert_eq!(String::from_utf8(Index::new(vec![entry]).into_bytes()).unwrap(), expected);
    }

    #[test]
    fn an_index_is_not_a_manifest() {
        let table = [
            (r#"{"manifests":[],"layers":[]}"#, r#"expected index, found a document with "layers""#),
            (r#"{"manifests":[],"config":{}}"#, r#"expected index, found a document with "config""#),
            (r#"{"layers":[],"config":{}}"#, r#"expected index, found a document with "layers""#),
            (r#"{}"#, r#"index: expected an array at "manifests", found nothing"#),
            (r#"{"manifests":{}}"#, r#"index: expected an array at "manifests", found an object"#),
            (r#"{"manifests":[],"fsLayers":[]}"#, "image manifest schema 1 is not supported"),
            (r#"{"Manifests":[]}"#, r#"index: expected key "manifests", found "Manifests""#),
            (
                r#"{"manifests":[],"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#,
                "expected index of media type application/vnd.oci.image.index.v1+json, found application/vnd.oci.image.m",
            ),
        ];
        for (text, expected) in table {
            let message = chain(&parse(text).unwrap_err());
            assert!(message.contains(expected), "{text}: expected {expected}, found {message}");
        }
        let docker = Index::parse_as(
            b"{\"manifests\":[]}".to_vec(),
            &MediaType::DOCKER_MANIFEST_LIST,
            &Limits::default(),
        );
        assert_eq!(*docker.unwrap().media_type(), MediaType::DOCKER_MANIFEST_LIST);
    }
}
