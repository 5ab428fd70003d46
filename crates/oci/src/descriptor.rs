//! Descriptors: what a document says of a blob.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Map;
use serde_json::Value;

use crate::Digest;
use crate::Digester;
use crate::Limits;
use crate::MediaType;
use crate::Platform;
use crate::Result;
use crate::document::Document;
use crate::json;
use crate::json::Object;

/// A blob's media type, digest and size, and what else its document says of it.
///
/// Fields of a document's descriptor that are not here survive an edit of the document all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// What the blob is.
    pub media_type: MediaType,
    /// The digest of the blob.
    pub digest: Digest,
    /// The size of the blob in bytes, below 2^63.
    pub size: u64,
    /// Where else the blob can be had; never fetched from unasked.
    pub urls: Vec<String>,
    /// What is said about the blob.
    pub annotations: BTreeMap<String, String>,
    /// The blob itself, of just that size and digest.
    pub data: Option<Vec<u8>>,
    /// What the image runs on, in an index.
    pub platform: Option<Platform>,
    /// What the manifest is for, where it is not an image.
    pub artifact_type: Option<MediaType>,
}

impl Descriptor {
    /// Returns a descriptor that says nothing but the necessary.
    pub fn new(media_type: MediaType, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type,
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: None,
        }
    }

    /// Parses a descriptor that stands alone.
    pub fn parse(bytes: Vec<u8>, limits: &Limits) -> Result<Descriptor> {
        const NAME: &str = "descriptor";
        let document = Document::parse(NAME, bytes, limits.manifest_size, limits)?;
        Descriptor::read(&Object::root(NAME, document.map(), &Descriptor::KEYS, limits)?)
    }

    /// Returns the descriptor as a document that stands alone.
    pub fn to_bytes(&self) -> Vec<u8> {
        Document::new(self.to_map()).into_bytes()
    }

    pub(crate) const KEYS: [&str; 8] =
        ["mediaType", "digest", "size", "urls", "annotations", "data", "platform", "artifactType"];

    pub(crate) fn read(object: &Object<'_>) -> Result<Descriptor> {
        let missing = || object.error("mediaType", "a media type", &Value::Null);
        let media_type = object.media_type("mediaType")?.ok_or_else(missing)?;
        let mut descriptor = Descriptor::new(media_type, object.digest("digest")?, object.size("size")?);
        descriptor.data = read_data(object, &descriptor)?;
        descriptor.urls = object.strings("urls")?;
        descriptor.annotations = object.annotations()?;
        descriptor.platform = object.object("platform", &Platform::KEYS, Platform::read)?;
        descriptor.artifact_type = object.media_type("artifactType")?;
        Ok(descriptor)
    }

    /// Returns `self` as it may stand where `from` stood: what is said of the bytes of one blob (where they can
    /// be had, what they are) is not said of others.
    pub(crate) fn in_place_of(&self, from: &Descriptor) -> Descriptor {
        let mut descriptor = self.clone();
        if descriptor.digest != from.digest {
            descriptor.data = None;
            descriptor.urls.clear();
        }
        descriptor
    }

    /// Makes `map`, which was read as `from`, say what `self` says.
    pub(crate) fn patch(&self, from: &Descriptor, map: &mut Map<String, Value>) {
        let urls = |urls: &Vec<String>| (!urls.is_empty()).then(|| Value::from(urls.as_slice()));
        let data = |data: &Option<Vec<u8>>| data.as_ref().map(|bytes| Value::from(STANDARD.encode(bytes)));
        let artifact_type = |text: &Option<MediaType>| text.as_ref().map(|text| Value::from(text.as_str()));
        json::patch(map, "mediaType", &from.media_type, &self.media_type, |text| Some(text.as_str().into()));
        json::patch(map, "digest", &from.digest, &self.digest, |digest| Some(digest.as_str().into()));
        json::patch(map, "size", &from.size, &self.size, |size| Some((*size).into()));
        json::patch(map, "urls", &from.urls, &self.urls, urls);
        json::patch_annotations(map, &from.annotations, &self.annotations);
        json::patch(map, "data", &from.data, &self.data, data);
        self.patch_platform(from, map);
        json::patch(map, "artifactType", &from.artifact_type, &self.artifact_type, artifact_type);
    }

    fn patch_platform(&self, from: &Descriptor, map: &mut Map<String, Value>) {
        match (&self.platform, &from.platform, map.get_mut("platform")) {
            (Some(platform), Some(from), Some(Value::Object(map))) => platform.patch(from, map),
            (Some(platform), ..) => json::set(map, "platform", Some(Value::Object(platform.to_map()))),
            (None, from, _) => json::patch(map, "platform", from, &None, |_| None),
        }
    }

    /// Returns the JSON of a descriptor that is new to its document, in the order of the specification.
    pub(crate) fn to_map(&self) -> Map<String, Value> {
        let mut map = Map::new();
        json::set(&mut map, "mediaType", Some(self.media_type.as_str().into()));
        json::set(&mut map, "digest", Some(self.digest.as_str().into()));
        json::set(&mut map, "size", Some(self.size.into()));
        self.patch(&Descriptor::new(self.media_type.clone(), self.digest.clone(), self.size), &mut map);
        map
    }
}

/// Returns the inline content, which has to be what the rest of the descriptor says.
fn read_data(object: &Object<'_>, descriptor: &Descriptor) -> Result<Option<Vec<u8>>> {
    const KEY: &str = "data";
    let Some(text) = object.string(KEY)? else { return Ok(None) };
    let error = |expected: &str, found: Value| object.error(KEY, expected, &found);
    let bytes = STANDARD.decode(text).map_err(|_| error("base64", text.into()))?;
    if u64::try_from(bytes.len()).ok() != Some(descriptor.size) {
        return Err(error(&format!("{} bytes", descriptor.size), bytes.len().into()));
    }
    let mut digester = Digester::new(descriptor.digest.algorithm())
        .map_err(|_| error("content of a digest that can be verified", descriptor.digest.as_str().into()))?;
    digester.update(&bytes);
    let digest = digester.finish();
    if digest != descriptor.digest {
        return Err(error(&format!("content of {}", descriptor.digest), digest.as_str().into()));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_that_stands_alone_is_read_as_it_was_written() {
        let mut descriptor = Descriptor::new(MediaType::OCI_MANIFEST, Digest::sha256(b"content"), 7);
        for _ in 0..2 {
            let bytes = descriptor.to_bytes();
            assert_eq!(Descriptor::parse(bytes, &Limits::default()).unwrap(), descriptor);
            descriptor.annotations.insert("key".into(), "value".into());
            descriptor.platform = Some(Platform::parse("linux/arm64/v8").unwrap());
            descriptor.urls.push("https://example.org/blob".into());
            descriptor.data = Some(b"content".to_vec());
        }
        for damaged in [&b""[..], b"{}", b"[]", b"{\"digest\":\"sha256:00\"}"] {
            assert!(Descriptor::parse(damaged.to_vec(), &Limits::default()).is_err());
        }
    }
}
