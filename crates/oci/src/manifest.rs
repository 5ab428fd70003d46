//! Manifests: a config and layers.

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

/// The manifest of an image or an artifact, OCI's or Docker's schema 2.
#[derive(Clone, Debug)]
pub struct Manifest {
    head: Head,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

const SHAPE: Shape = Shape {
    name: "manifest",
    kind: Kind::Manifest,
    default: MediaType::OCI_MANIFEST,
    list: "layers",
    foreign: &["manifests"],
};

impl Manifest {
    /// Returns an OCI manifest.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Manifest {
        let list = layers.iter().map(|layer| Value::Object(layer.to_map())).collect();
        let rest = [("config", Value::Object(config.to_map())), ("layers", list)];
        Manifest { head: Head::new(SHAPE.default, rest), config, layers }
    }

    /// Parses a manifest whose descriptor is not known.
    pub fn parse(bytes: Vec<u8>, limits: &Limits) -> Result<Manifest> {
        parse(bytes, None, limits)
    }

    /// Parses the manifest that its descriptor calls `media_type`, with which it must not disagree.
    pub fn parse_as(bytes: Vec<u8>, media_type: &MediaType, limits: &Limits) -> Result<Manifest> {
        parse(bytes, Some(media_type), limits)
    }

    head_methods!();

    /// Returns the config's descriptor.
    ///
    /// The config of an artifact may be anything: only one whose media type is of [`Kind::Config`] is to be
    /// parsed as a [`Config`](crate::Config).
    pub fn config(&self) -> &Descriptor {
        &self.config
    }

    /// Returns the layers' descriptors, the lowest first.
    pub fn layers(&self) -> &[Descriptor] {
        &self.layers
    }

    /// Replaces the config's descriptor; with another digest, its `data` and `urls` go.
    pub fn set_config(&mut self, config: &Descriptor) {
        let config = config.in_place_of(&self.config);
        if config != self.config {
            if let Some(Value::Object(map)) = self.head.document.edit().get_mut("config") {
                config.patch(&self.config, map);
            }
            self.config = config;
        }
    }

    /// Replaces the descriptor of the layer at `position`; with another digest, its `data` and `urls` go.
    pub fn set_layer(&mut self, position: usize, layer: &Descriptor) -> Result<()> {
        self.head.set(&SHAPE, &mut self.layers, position, layer)
    }
}

fn parse(bytes: Vec<u8>, expected: Option<&MediaType>, limits: &Limits) -> Result<Manifest> {
    let (head, (config, layers)) = Head::parse(&SHAPE, bytes, expected, limits, |object| {
        let config = object.required_object("config", &Descriptor::KEYS, Descriptor::read)?;
        Ok((config, object.objects(SHAPE.list, &Descriptor::KEYS, Descriptor::read)?))
    })?;
    Ok(Manifest { head, config, layers })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;
    use crate::Error;
    use crate::error::chain;

    const TEXT: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:7a7808d6669a578eccb4abea615d43a0653e6d507500af68a2ce66bcb4404a0c","size":397},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:b2173ff03b19baf6928964461e6e40b0253564b0a26ccfd881419463875bc8a2","size":25970,"annotations":{"a":"1"}},{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824","size":5,"data":"aGVsbG8=","urls":["https://example.org/"]}],"annotations":{"b":"2"}}"#;

    fn parse(text: &str) -> Result<Manifest> {
        Manifest::parse(text.as_bytes().to_vec(), &Limits::default())
    }

    fn edited(edit: impl FnOnce(&mut Manifest)) -> String {
        let mut manifest = parse(TEXT).unwrap();
        edit(&mut manifest);
        String::from_utf8(manifest.into_bytes()).unwrap()
    }

    #[test]
    fn a_manifest_is_read_as_it_says() {
        let manifest = parse(TEXT).unwrap();
        assert_eq!(*manifest.media_type(), MediaType::OCI_MANIFEST);
        assert_eq!((manifest.config().size, manifest.config().media_type.kind()), (397, Kind::Config));
        assert_eq!(manifest.layers().iter().map(|layer| layer.size).collect::<Vec<_>>(), [25970, 5]);
        assert_eq!(manifest.layers()[0].annotations["a"], "1");
        assert_eq!(manifest.layers()[1].data.as_deref(), Some(b"hello".as_slice()));
        assert_eq!(manifest.layers()[1].urls, ["https://example.org/"]);
        assert_eq!(manifest.annotations()["b"], "2");
        assert!(manifest.subject().is_none() && manifest.artifact_type().is_none() && !manifest.is_changed());
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let table = [
            // JSON.
            (
                "{\"schemaVersion\"",
                "[{\"schemaVersion\"",
                "manifest is not strict JSON: EOF while parsing a list at",
            ),
            (
                r#""layers":"#,
                r#""layers":[],"layers":"#,
                r#"manifest is not strict JSON: key "layers" occurs twice at"#,
            ),
            (r#""a":"1""#, r#""a":"1","a":"1""#, r#"manifest is not strict JSON: key "a" occurs twice at"#),
            (
                r#""a":"1""#,
                r#""a":"1","\u0061":"1""#,
                r#"manifest is not strict JSON: key "a" occurs twice at"#,
            ),
            (r#"{"b":"2"}}"#, r#"{"b":"2"}}{}"#, "manifest is not strict JSON: trailing characters at"),
            (r#"{"b":"2"}}"#, r#"{"b":"2"},}"#, "manifest is not strict JSON: trailing comma at"),
            (r#"{"b":"2"}}"#, r#"{"b":"2"}"#, "manifest is not strict JSON: EOF while parsing an object at"),
            (
                r#"{"b":"2"}"#,
                r#"{"b":"\ud800"}"#,
                "manifest is not strict JSON: unexpected end of hex escape at",
            ),
            (r#""size":397"#, r#""size":1e999"#, "manifest is not strict JSON: number out of range at"),
            // Other spellings of known keys.
            (
                r#""layers":"#,
                r#""Layers":"#,
                r#"manifest: expected key "layers", found "Layers", which only"#,
            ),
            (
                r#""layers":"#,
                r#""Layers":[],"layers":"#,
                r#"manifest: expected key "layers", found "Layers""#,
            ),
            (
                r#""layers":"#,
                "\"layer\u{17f}\":",
                "manifest: expected key \"layers\", found \"layer\u{17f}\"",
            ),
            (r#""schemaVersion""#, r#""SCHEMAVERSION""#, r#"manifest: expected key "schemaVersion", found "#),
            (
                r#""annotations":{"b""#,
                r#""Manifests":[],"annotations":{"b""#,
                r#"expected key "manifests", found "#,
            ),
            (r#""size":397"#, r#""size":397,"Digest":1"#, r#"expected key "digest", found "config.Digest""#),
            (r#""size":5"#, r#""size":5,"Size":6"#, r#"expected key "size", found "layers[1].Size""#),
            (
                r#""size":5"#,
                r#""size":5,"MediaType":"a""#,
                r#"expected key "mediaType", found "layers[1].MediaType""#,
            ),
            (
                r#""size":5"#,
                r#""size":5,"platform":{"OS":""}"#,
                r#"expected key "os", found "layers[1].platform.OS""#,
            ),
            // Other kinds of document.
            (r#""schemaVersion":2"#, r#""schemaVersion":1"#, "image manifest schema 1 is not supported"),
            (r#""layers":"#, r#""fsLayers":[],"layers":"#, "image manifest schema 1 is not supported"),
            (
                r#""schemaVersion":2"#,
                r#""schemaVersion":3"#,
                r#"manifest: expected 2 at "schemaVersion", found 3"#,
            ),
            (r#""schemaVersion":2"#, r#""schemaVersion":"2""#, r#"expected 2 at "schemaVersion", found "2""#),
            (
                r#""layers":"#,
                r#""manifests":[],"layers":"#,
                r#"expected manifest, found a document with "manifests""#,
            ),
            (r#""layers":"#, r#""manifests":"#, r#"expected manifest, found a document with "manifests""#),
            (
                "image.manifest.v1",
                "image.index.v1",
                "expected manifest of media type application/vnd.oci.image.man",
            ),
            (
                "image.manifest.v1",
                "image.manifest.v2",
                "manifest.v1+json, found application/vnd.oci.image.manifest.v2",
            ),
            // Fields.
            (r#""layers":[{"#, r#""layers":{"#, "manifest is not strict JSON"),
            (r#""layers":"#, r#""x":"#, r#"manifest: expected an array at "layers", found nothing"#),
            (
                r#""layers":[{"#,
                r#""layers":[[],{"#,
                r#"manifest: expected an object at "layers[0]", found an array"#,
            ),
            (
                r#""layers":[{"#,
                r#""layers":[null,{"#,
                r#"manifest: expected an object at "layers[0]", found nothing"#,
            ),
            (r#""config":"#, r#""x":"#, r#"manifest: expected an object at "config", found nothing"#),
            (
                r#""config":"#,
                r#""config":null,"x":"#,
                r#"manifest: expected an object at "config", found nothing"#,
            ),
            (
                r#""config":"#,
                r#""config":"y","x":"#,
                r#"manifest: expected an object at "config", found "y""#,
            ),
            (r#""size":397"#, r#""size":-1"#, r#"from 0 to 2^63-1 at "config.size", found -1"#),
            (r#""size":397"#, r#""size":1.0"#, r#"from 0 to 2^63-1 at "config.size", found 1.0"#),
            (r#""size":397"#, r#""size":"397""#, r#"from 0 to 2^63-1 at "config.size", found "397""#),
            (
                r#""size":25970"#,
                r#""size":9223372036854775808"#,
                r#"at "layers[0].size", found 9223372036854775808"#,
            ),
            (
                r#""size":25970"#,
                r#""size":18446744073709551616"#,
                r#"at "layers[0].size", found 1.8446744073709552e+19"#,
            ),
            (r#","size":25970"#, "", r#"manifest: expected a value at "layers[0].size", found nothing"#),
            (
                "sha256:b2",
                "sha256:B2",
                r#"64 lower-case hexadecimal digits after sha256: at "layers[0].digest", found "s"#,
            ),
            (
                "sha256:b2",
                "../sha256:b2",
                r#"joined by one of + . _ - at "layers[0].digest", found "../sha256:b2"#,
            ),
            (
                r#""digest":"sha256:b2"#,
                r#""x":"sha256:b2"#,
                r#"expected a value at "layers[0].digest", found nothing"#,
            ),
            (
                r#""mediaType":"application/vnd.oci.image.layer.v1.tar","#,
                "",
                r#"media type at "layers[1].mediaType", found n"#,
            ),
            (
                "layer.v1.tar+gzip",
                "layer\\n.v1.tar+gzip",
                r#"characters at "layers[0].mediaType", found "application/vnd.oci"#,
            ),
            (r#"{"a":"1"}"#, r#"{"a":1}"#, r#"expected a string at "layers[0].annotations.a", found 1"#),
            (
                r#"{"a":"1"}"#,
                r#"{"a":null}"#,
                r#"expected a string at "layers[0].annotations.a", found nothing"#,
            ),
            (r#"{"a":"1"}"#, "[]", r#"expected an object at "layers[0].annotations", found an array"#),
            (r#"["https://example.org/"]"#, "[1]", r#"expected strings only at "layers[1].urls", found 1"#),
            (r#"["https://example.org/"]"#, r#""u""#, r#"expected an array at "layers[1].urls", found "u""#),
            // Inline content.
            ("aGVsbG8=", "aGVsbG8", r#"manifest: expected base64 at "layers[1].data", found "aGVsbG8""#),
            ("aGVsbG8=", "aGVsbG8h", r#"manifest: expected 5 bytes at "layers[1].data", found 6"#),
            (
                "aGVsbG8=",
                "SGVsbG8=",
                r#"content of sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"#,
            ),
            (
                "sha256:2cf2",
                "foo:2cf2",
                r#"expected content of a digest that can be verified at "layers[1].data", found "foo"#,
            ),
            (r#""aGVsbG8=""#, "5", r#"expected a string at "layers[1].data", found 5"#),
        ];
        for (from, to, expected) in table {
            assert!(TEXT.contains(from), "{from}");
            let message = chain(&parse(&TEXT.replacen(from, to, 1)).unwrap_err());
            assert!(message.contains(expected), "{from} -> {to}\nexpected {expected}\nfound    {message}");
        }
    }

    #[test]
    fn what_is_no_object_is_no_manifest() {
        for text in ["", " ", "null", "[]", "1", "\"\"", "\u{feff}{}", "{", "nul", "\0"] {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, Error::Json { .. } | Error::Field { .. }), "{text:?}: {error}");
        }
        assert!(parse("{}").is_err());
        assert!(Manifest::parse(b"{\"\xff\":1}".to_vec(), &Limits::default()).is_err());
    }

    #[test]
    fn null_is_what_go_means_by_it() {
        let table = [
            (r#""annotations":{"b":"2"}"#, r#""annotations":null"#),
            (
                r#","annotations":{"b":"2"}"#,
                r#","annotations":null,"subject":null,"artifactType":null,"manifests":null"#,
            ),
            (r#""annotations":{"a":"1"}"#, r#""annotations":null,"data":null,"urls":null,"platform":null"#),
            (r#""mediaType":"application/vnd.oci.image.manifest.v1+json""#, r#""mediaType":null"#),
            (r#""schemaVersion":2,"#, r#""schemaVersion":null,"fsLayers":null,"#),
        ];
        for (from, to) in table {
            assert!(TEXT.contains(from), "{from}");
            let text = TEXT.replacen(from, to, 1);
            assert_eq!(parse(&text).unwrap().to_bytes(), text.as_bytes(), "{to}");
        }
    }

    #[test]
    fn a_list_of_null_is_empty_and_an_edit_writes_it_so() {
        let text = r#"{"layers":null,"config":{"mediaType":"a/b","digest":"foo:a","size":0}}"#;
        let mut manifest = parse(text).unwrap();
        assert!(manifest.layers().is_empty());
        assert_eq!(manifest.to_bytes(), text.as_bytes());
        manifest.set_annotation("k", "v");
        let expected =
            r#"{"layers":[],"config":{"mediaType":"a/b","digest":"foo:a","size":0},"annotations":{"k":"v"}}"#;
        assert_eq!(String::from_utf8(manifest.into_bytes()).unwrap(), expected);
    }

    #[test]
    fn each_limit_is_the_largest_that_passes() {
        type Limit = fn(usize) -> Limits;
        let manifest_size: Limit = |limit| Limits { manifest_size: limit as u64, ..Limits::default() };
        let json_depth: Limit = |limit| Limits { json_depth: limit, ..Limits::default() };
        let json_values: Limit = |limit| Limits { json_values: limit, ..Limits::default() };
        let annotation_key_size: Limit = |limit| Limits { annotation_key_size: limit, ..Limits::default() };
        let annotation_value_size: Limit =
            |limit| Limits { annotation_value_size: limit, ..Limits::default() };
        let deep = TEXT.replacen(r#"{"b":"2"}"#, r#"{"b":"2"},"x":[[[[]]]]"#, 1);
        let table = [
            (TEXT, manifest_size, TEXT.len(), "expected manifest of at most"),
            (&deep, json_depth, 5, "more levels than allowed"),
            (TEXT, json_values, 23, "more values than allowed"),
            (TEXT, annotation_key_size, 1, r#"a key of at most 0 bytes at "annotations.b", found "2""#),
            (TEXT, annotation_value_size, 1, r#"expected at most 0 bytes at "annotations.b", found "2""#),
        ];
        for (text, limits, largest, expected) in table {
            let parse = |limit| Manifest::parse(text.as_bytes().to_vec(), &limits(limit));
            assert!(parse(largest).is_ok(), "{expected}: {:?}", parse(largest).err());
            let message = chain(&parse(largest - 1).unwrap_err());
            assert!(message.contains(expected), "expected {expected}, found {message}");
        }
    }

    #[test]
    fn nesting_without_end_is_refused_whatever_the_limit() {
        let limits = Limits { json_depth: usize::MAX, ..Limits::default() };
        let text = format!("{{\"x\":{}", "[".repeat(1_000_000));
        assert!(matches!(Manifest::parse(text.into_bytes(), &limits), Err(Error::Json { .. })));
    }

    #[test]
    fn a_document_and_its_descriptor_agree_on_the_media_type() {
        let limits = Limits::default();
        let silent = TEXT.replacen(r#""mediaType":"application/vnd.oci.image.manifest.v1+json","#, "", 1);
        let table = [
            (TEXT, MediaType::OCI_MANIFEST, Some(MediaType::OCI_MANIFEST)),
            (TEXT, MediaType::DOCKER_MANIFEST, None),
            (TEXT, MediaType::OCI_INDEX, None),
            (&silent, MediaType::OCI_MANIFEST, Some(MediaType::OCI_MANIFEST)),
            (&silent, MediaType::DOCKER_MANIFEST, Some(MediaType::DOCKER_MANIFEST)),
            (&silent, MediaType::OCI_INDEX, None),
        ];
        for (text, expected, found) in table {
            let result = Manifest::parse_as(text.as_bytes().to_vec(), &expected, &limits);
            match (result, found) {
                (Ok(manifest), Some(found)) => assert_eq!(*manifest.media_type(), found),
                (Err(Error::Contradiction { .. }), None) => {}
                (result, _) => panic!("{expected}: {result:?}"),
            }
        }
        assert_eq!(*parse(&silent).unwrap().media_type(), MediaType::OCI_MANIFEST);
    }

    #[test]
    fn an_edit_replaces_what_it_names_and_nothing_else() {
        let layer = || parse(TEXT).unwrap().layers()[0].clone();
        let other = Digest::sha256(b"other");
        let old = "sha256:b2173ff03b19baf6928964461e6e40b0253564b0a26ccfd881419463875bc8a2";
        let set = |descriptor: Descriptor| edited(|manifest| manifest.set_layer(0, &descriptor).unwrap());
        let annotated = |key: &str, value: &str| {
            let mut descriptor = layer();
            descriptor.annotations.insert(key.to_owned(), value.to_owned());
            set(descriptor)
        };
        let bare = set(Descriptor { annotations: BTreeMap::new(), ..layer() });
        let table = [
            (set(layer()), TEXT.to_owned()),
            (set(Descriptor { digest: other.clone(), ..layer() }), TEXT.replace(old, other.as_str())),
            (set(Descriptor { size: 7, ..layer() }), TEXT.replace("25970", "7")),
            (
                set(Descriptor { media_type: MediaType::OCI_LAYER_ZSTD, ..layer() }),
                TEXT.replace("gzip", "zstd"),
            ),
            (annotated("a", "2"), TEXT.replace(r#"{"a":"1"}"#, r#"{"a":"2"}"#)),
            (annotated("0", "2"), TEXT.replace(r#"{"a":"1"}"#, r#"{"a":"1","0":"2"}"#)),
            (bare, TEXT.replace(r#","annotations":{"a":"1"}"#, "")),
            (edited(|manifest| manifest.set_annotation("b", "3")), TEXT.replace(r#""b":"2""#, r#""b":"3""#)),
            (edited(|manifest| manifest.set_annotation("b", "2")), TEXT.to_owned()),
            (
                edited(|manifest| manifest.remove_annotation("b")),
                TEXT.replace(r#","annotations":{"b":"2"}"#, ""),
            ),
            (edited(|manifest| manifest.remove_annotation("c")), TEXT.to_owned()),
            (edited(|manifest| manifest.set_media_type(&MediaType::OCI_MANIFEST)), TEXT.to_owned()),
            (
                edited(|manifest| manifest.set_media_type(&MediaType::DOCKER_MANIFEST)),
                TEXT.replace("vnd.oci.image.manifest.v1", "vnd.docker.distribution.manifest.v2"),
            ),
            (
                edited(|manifest| {
                    manifest.set_config(&Descriptor { size: 398, ..manifest.config().clone() })
                }),
                TEXT.replace("397", "398"),
            ),
        ];
        for (position, (found, expected)) in table.into_iter().enumerate() {
            assert_eq!(found, expected, "row {position}");
        }
    }

    #[test]
    fn inline_content_and_urls_stay_with_the_blob_they_are_of() {
        let kept = edited(|manifest| {
            let layer = Descriptor { media_type: MediaType::DOCKER_LAYER, ..manifest.layers()[1].clone() };
            manifest.set_layer(1, &layer).unwrap();
        });
        let docker = MediaType::DOCKER_LAYER.to_string();
        assert_eq!(kept, TEXT.replace("application/vnd.oci.image.layer.v1.tar\"", &format!("{docker}\"")));

        let mut manifest = parse(TEXT).unwrap();
        let layer = Descriptor { digest: Digest::sha256(b"other"), ..manifest.layers()[1].clone() };
        manifest.set_layer(1, &layer).unwrap();
        assert_eq!((&manifest.layers()[1].data, manifest.layers()[1].urls.len()), (&None, 0));
        let text = String::from_utf8(manifest.into_bytes()).unwrap();
        assert!(!text.contains("data") && !text.contains("urls"), "{text}");
    }

    #[test]
    fn a_subject_is_removed_and_the_rest_keeps_its_order() {
        let subject = r#""subject":{"mediaType":"a/b","digest":"foo:a","size":1},"config":"#;
        let text = TEXT.replacen(r#""config":"#, subject, 1);
        let mut manifest = parse(&text).unwrap();
        assert_eq!(manifest.subject().unwrap().size, 1);
        manifest.remove_subject();
        assert!(manifest.subject().is_none() && manifest.is_changed());
        assert_eq!(String::from_utf8(manifest.into_bytes()).unwrap(), TEXT);
    }

    #[test]
    fn an_edit_of_a_layer_that_is_not_there_is_an_error() {
        let mut manifest = parse(TEXT).unwrap();
        let layer = manifest.layers()[0].clone();
        let error = manifest.set_layer(2, &layer).unwrap_err();
        assert_eq!(error.to_string(), "manifest: expected a position below 2 in layers, found 2");
        assert!(!manifest.is_changed());
    }

    #[test]
    fn a_new_manifest_is_written_in_the_order_of_the_specification() {
        let mut layer = Descriptor::new(MediaType::OCI_LAYER, Digest::sha256(b"hello"), 5);
        layer.data = Some(b"hello".to_vec());
        layer.urls.push("https://example.org/".to_owned());
        layer.annotations.insert("b".to_owned(), "2".to_owned());
        layer.annotations.insert("a".to_owned(), "1".to_owned());
        layer.artifact_type = Some(MediaType::IN_TOTO);
        let config = Descriptor::new(MediaType::EMPTY, Digest::sha256(b"{}"), 2);
        let manifest = Manifest::new(config, vec![layer]);
        assert!(manifest.is_changed());
        let text = String::from_utf8(manifest.to_bytes()).unwrap();
        let expected = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824","size":5,"urls":["https://example.org/"],"annotations":{"a":"1","b":"2"},"data":"aGVsbG8=","artifactType":"application/vnd.in-toto+json"}]}"#;
        assert_eq!(text, expected);
        let parsed = parse(&text).unwrap();
        assert_eq!((parsed.config(), parsed.layers()), (manifest.config(), manifest.layers()));
    }
}
