//! What manifests, indexes and configs have in common: the bytes they came as, and their JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Map;
use serde_json::Value;

use crate::Descriptor;
use crate::Error;
use crate::Kind;
use crate::Limits;
use crate::MediaType;
use crate::Result;
use crate::json;
use crate::json::Object;

/// A document, and the bytes it came as.
#[derive(Clone)]
pub(crate) struct Document {
    /// The bytes the document was parsed from; nothing where it is new. Once it has been edited they say how what is
    /// still there is spelled.
    text: Vec<u8>,
    changed: bool,
    map: Map<String, Value>,
}

impl Document {
    pub(crate) fn new(map: Map<String, Value>) -> Document {
        Document { text: Vec::new(), changed: true, map }
    }

    pub(crate) fn parse(name: &'static str, bytes: Vec<u8>, size: u64, limits: &Limits) -> Result<Document> {
        let map = json::parse(name, &bytes, size, limits)?;
        Ok(Document { text: bytes, changed: false, map })
    }

    /// Makes the `null` that `find` finds the empty list Go means by it. Only an edit writes that.
    pub(crate) fn fill(&mut self, find: impl FnOnce(&mut Map<String, Value>) -> Option<&mut Value>) {
        if let Some(list @ Value::Null) = find(&mut self.map) {
            *list = Value::Array(Vec::new());
        }
    }

    pub(crate) fn map(&self) -> &Map<String, Value> {
        &self.map
    }

    /// Returns the JSON for an edit, after which the original bytes are no longer the document's.
    pub(crate) fn edit(&mut self) -> &mut Map<String, Value> {
        self.changed = true;
        &mut self.map
    }

    /// Removes the values of the list at `key` that are not to be kept.
    fn retain(&mut self, key: &str, kept: &[bool]) {
        if let Some(Value::Array(list)) = self.edit().get_mut(key) {
            retain(list, kept);
        }
        // From the text as well, so that what stands at a position there is still what is spelled there.
        if let Some(text) = json::retained(&self.text, key, |list| retain(list, kept)) {
            self.text = text;
        }
    }

    pub(crate) fn is_changed(&self) -> bool {
        self.changed
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        if self.changed { json::write(&self.map, &self.text) } else { self.text.clone() }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        if self.changed { json::write(&self.map, &self.text) } else { self.text }
    }
}

fn retain<T>(list: &mut Vec<T>, kept: &[bool]) {
    let mut answers = kept.iter();
    list.retain(|_| answers.next() != Some(&false));
}

impl fmt::Debug for Document {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&String::from_utf8_lossy(&self.to_bytes()))
    }
}

/// The fields that a manifest and an index share.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) document: Document,
    pub(crate) media_type: MediaType,
    pub(crate) artifact_type: Option<MediaType>,
    pub(crate) subject: Option<Descriptor>,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// Both kinds' keys, since each must be told from the other, and from schema 1.
pub(crate) const KEYS: [&str; 9] = [
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "manifests",
    "subject",
    "annotations",
    "fsLayers",
];

impl Head {
    /// Returns the head of a new document, which `rest` completes.
    pub(crate) fn new(media_type: MediaType, rest: impl IntoIterator<Item = (&'static str, Value)>) -> Head {
        let fixed = [("schemaVersion", Value::from(2)), ("mediaType", media_type.as_str().into())];
        let map = fixed.into_iter().chain(rest).map(|(key, value)| (key.to_owned(), value)).collect();
        let (artifact_type, subject, annotations) = Default::default();
        Head { document: Document::new(map), media_type, artifact_type, subject, annotations }
    }

    /// Parses a document of the kind of `default`, its media type where neither it nor its descriptor names
    /// one, with a list at `list` and nothing at `foreign`. The rest is read by `read`.
    pub(crate) fn parse<T>(
        shape: &Shape,
        bytes: Vec<u8>,
        expected: Option<&MediaType>,
        limits: &Limits,
        read: impl FnOnce(&Object<'_>) -> Result<T>,
    ) -> Result<(Head, T)> {
        let mut document = Document::parse(shape.name, bytes, limits.manifest_size, limits)?;
        let object = Object::root(shape.name, &document.map, &KEYS, limits)?;
        shape.check(&object)?;
        let media_type = shape.media_type(object.media_type("mediaType")?, expected)?;
        let artifact_type = object.media_type("artifactType")?;
        let subject = object.object("subject", &Descriptor::KEYS, Descriptor::read)?;
        let annotations = object.annotations()?;
        let rest = read(&object)?;
        document.fill(|map| map.get_mut(shape.list));
        Ok((Head { document, media_type, artifact_type, subject, annotations }, rest))
    }

    pub(crate) fn set_media_type(&mut self, media_type: &MediaType) {
        if self.media_type != *media_type {
            json::set(self.document.edit(), "mediaType", Some(media_type.as_str().into()));
            self.media_type = media_type.clone();
        }
    }

    pub(crate) fn set_annotations(&mut self, annotations: &BTreeMap<String, String>) {
        if self.annotations != *annotations {
            json::patch_annotations(self.document.edit(), &self.annotations, annotations);
            self.annotations = annotations.clone();
        }
    }

    pub(crate) fn set_subject(&mut self, subject: &Descriptor) {
        if self.subject.as_ref() != Some(subject) {
            json::set(self.document.edit(), "subject", Some(Value::Object(subject.to_map())));
            self.subject = Some(subject.clone());
        }
    }

    pub(crate) fn remove_subject(&mut self) {
        if self.subject.take().is_some() {
            json::set(self.document.edit(), "subject", None);
        }
    }

    /// Returns the list for an edit.
    pub(crate) fn edit_list(&mut self, shape: &Shape) -> &mut Vec<Value> {
        let list = self.document.edit().get_mut(shape.list).and_then(Value::as_array_mut);
        list.expect("a document without its list is refused when it is parsed")
    }

    /// Removes the descriptors that are not to be kept from the list, of which `descriptors` is the reading.
    pub(crate) fn retain(&mut self, shape: &Shape, descriptors: &mut Vec<Descriptor>, kept: &[bool]) {
        self.document.retain(shape.list, kept);
        retain(descriptors, kept);
    }

    /// Replaces the descriptor at `position` of the list, of which `descriptors` is the reading.
    pub(crate) fn set(
        &mut self,
        shape: &Shape,
        descriptors: &mut [Descriptor],
        position: usize,
        descriptor: &Descriptor,
    ) -> Result<()> {
        let count = descriptors.len();
        let current = descriptors.get_mut(position).ok_or_else(|| shape.position(position, count))?;
        let descriptor = descriptor.in_place_of(current);
        if descriptor != *current {
            if let Some(Value::Object(map)) = self.edit_list(shape).get_mut(position) {
                descriptor.patch(current, map);
            }
            *current = descriptor;
        }
        Ok(())
    }
}

/// What tells a manifest from an index.
pub(crate) struct Shape {
    /// What to call the document.
    pub(crate) name: &'static str,
    /// What its media type says.
    pub(crate) kind: Kind,
    /// Its media type where nothing names one.
    pub(crate) default: MediaType,
    /// The list it must have.
    pub(crate) list: &'static str,
    /// What it must not have.
    pub(crate) foreign: &'static [&'static str],
}

impl Shape {
    fn check(&self, object: &Object<'_>) -> Result<()> {
        if object.get("fsLayers").is_some() || object.get("schemaVersion") == Some(&Value::from(1)) {
            return Err(Error::Schema1);
        }
        if let Some(version) = object.get("schemaVersion").filter(|version| **version != 2) {
            return Err(object.error("schemaVersion", "2", version));
        }
        if let Some(key) = self.foreign.iter().find(|key| object.get(key).is_some()) {
            return Err(Error::Shape { document: self.name, key });
        }
        if !object.has(self.list) {
            return Err(object.error(self.list, "an array", &Value::Null));
        }
        Ok(())
    }

    /// Returns the media type, on which the document and its descriptor have to agree.
    fn media_type(&self, found: Option<MediaType>, expected: Option<&MediaType>) -> Result<MediaType> {
        let error = |expected: &MediaType, found: &MediaType| Error::Contradiction {
            document: self.name,
            expected: expected.to_string(),
            found: found.to_string(),
        };
        let media_type = match (found, expected) {
            (Some(found), Some(expected)) if found != *expected => return Err(error(expected, &found)),
            (Some(found), _) => found,
            (None, expected) => expected.unwrap_or(&self.default).clone(),
        };
        if media_type.kind() == self.kind { Ok(media_type) } else { Err(error(&self.default, &media_type)) }
    }

    pub(crate) fn position(&self, position: usize, count: usize) -> Error {
        Error::Position { document: self.name, field: self.list, position, count }
    }
}

/// Writes the methods that a manifest and an index share, on their field `head`.
macro_rules! head_methods {
    () => {
        /// Returns the media type: the document's own, else that of its descriptor, else OCI's.
        pub fn media_type(&self) -> &MediaType {
            &self.head.media_type
        }

        /// Returns what the document is for, where that is not an image.
        pub fn artifact_type(&self) -> Option<&MediaType> {
            self.head.artifact_type.as_ref()
        }

        /// Returns the manifest that this document is about, for instance signs.
        pub fn subject(&self) -> Option<&Descriptor> {
            self.head.subject.as_ref()
        }

        /// Returns the annotations of the document itself.
        pub fn annotations(&self) -> &BTreeMap<String, String> {
            &self.head.annotations
        }

        /// Replaces the media type, in the document too.
        pub fn set_media_type(&mut self, media_type: &MediaType) {
            self.head.set_media_type(media_type);
        }

        /// Adds an annotation or replaces its value.
        pub fn set_annotation(&mut self, key: &str, value: &str) {
            let mut annotations = self.head.annotations.clone();
            annotations.insert(key.to_owned(), value.to_owned());
            self.head.set_annotations(&annotations);
        }

        /// Removes an annotation if it is there.
        pub fn remove_annotation(&mut self, key: &str) {
            let mut annotations = self.head.annotations.clone();
            annotations.remove(key);
            self.head.set_annotations(&annotations);
        }

        /// Says which other manifest this one is about.
        pub fn set_subject(&mut self, subject: &Descriptor) {
            self.head.set_subject(subject);
        }

        /// Removes the link to another manifest, which an edit may have made untrue.
        pub fn remove_subject(&mut self) {
            self.head.remove_subject();
        }

        /// Returns whether an edit has changed anything, or the document is new.
        pub fn is_changed(&self) -> bool {
            self.head.document.is_changed()
        }

        /// Returns the document: the very bytes it was parsed from, unless it has changed.
        pub fn to_bytes(&self) -> Vec<u8> {
            self.head.document.to_bytes()
        }

        /// Returns the document as [`to_bytes`](Self::to_bytes) does, without a copy.
        pub fn into_bytes(self) -> Vec<u8> {
            self.head.document.into_bytes()
        }
    };
}
pub(crate) use head_methods;
