//! Image configurations: what runs, on what, from which layers.

use oci_spec::image::ImageConfiguration;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::Digest;
use crate::Error;
use crate::Limits;
use crate::Platform;
use crate::Result;
use crate::document::Document;
use crate::json::Object;

/// The configuration of an image, OCI's or Docker's.
///
/// A manifest's config is one of these only where its descriptor's media type is of
/// [`Kind::Config`](crate::Kind::Config). Anything else is an artifact's own and must not be parsed: the
/// specification leaves its content to whoever made it.
#[derive(Clone, Debug)]
pub struct Config {
    document: Document,
    platform: Platform,
    diff_ids: Vec<Digest>,
}

const NAME: &str = "config";

const KEYS: [&str; 11] = [
    "architecture",
    "os",
    "os.version",
    "os.features",
    "variant",
    "created",
    "author",
    "config",
    "container_config",
    "rootfs",
    "history",
];

const EXECUTION_KEYS: [&str; 14] = [
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "ArgsEscaped",
    "Healthcheck",
    "OnBuild",
    "Shell",
    "Image",
];

const HISTORY_KEYS: [&str; 5] = ["created", "author", "created_by", "comment", "empty_layer"];

impl Config {
    /// Parses an image configuration.
    pub fn parse(bytes: Vec<u8>, limits: &Limits) -> Result<Config> {
        let mut document = Document::parse(NAME, bytes, limits.config_size, limits)?;
        let object = Object::root(NAME, document.map(), &KEYS, limits)?;
        let platform = Platform::read(&object)?;
        for key in ["config", "container_config"] {
            object.object(key, &EXECUTION_KEYS, |_| Ok(()))?;
        }
        object.objects("history", &HISTORY_KEYS, |_| Ok(()))?;
        let diff_ids = object.object("rootfs", &["type", "diff_ids"], read_rootfs)?.unwrap_or_default();
        document.fill(|map| map.get_mut("rootfs")?.get_mut("diff_ids"));
        Ok(Config { document, platform, diff_ids })
    }

    /// Returns what the image runs on; a field left out is empty.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// Returns the digests of the uncompressed layers, the lowest first.
    ///
    /// An artifact under an image's media type may have none although its manifest has layers.
    pub fn diff_ids(&self) -> &[Digest] {
        &self.diff_ids
    }

    /// Returns the field at the top of the document.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.document.map().get(key)
    }

    /// Returns a view of the fields that the specification knows. What is `null` counts as left out.
    pub fn typed(&self) -> Result<ImageConfiguration> {
        let mut map = self.document.map().clone();
        remove_nulls(&mut map);
        for (key, default) in [("architecture", json!("")), ("os", json!("")), ("rootfs", json!({}))] {
            map.entry(key).or_insert(default);
        }
        if let Some(Value::Object(rootfs)) = map.get_mut("rootfs") {
            rootfs.entry("type").or_insert_with(|| json!("layers"));
            rootfs.entry("diff_ids").or_insert_with(|| json!([]));
        }
        serde_json::from_value(Value::Object(map))
            .map_err(|source| Error::Json { document: NAME, source: source.into() })
    }

    /// Replaces the digest of the uncompressed layer at `position`.
    pub fn set_diff_id(&mut self, position: usize, diff_id: &Digest) -> Result<()> {
        let count = self.diff_ids.len();
        let current = self.diff_ids.get_mut(position).ok_or(Error::Position {
            document: NAME,
            field: "rootfs.diff_ids",
            position,
            count,
        })?;
        if current != diff_id {
            self.document.edit()["rootfs"]["diff_ids"][position] = diff_id.as_str().into();
            *current = diff_id.clone();
        }
        Ok(())
    }

    /// Replaces the values of labels for which `edit`, given key and value, returns another one.
    pub fn edit_labels(&mut self, mut edit: impl FnMut(&str, &str) -> Option<String>) {
        for section in ["config", "container_config"] {
            let labels = self.get(section).and_then(|config| config.get("Labels")).and_then(Value::as_object);
            let edited: Vec<_> = labels
                .into_iter()
                .flatten()
                .filter_map(|(key, value)| Some((key.clone(), edit(key, value.as_str()?)?)))
                .collect();
            for (key, value) in edited {
                self.document.edit()[section]["Labels"][key] = value.into();
            }
        }
    }

    /// Removes the image that Docker says this one was built from, as containerd does when layers change.
    pub fn forget_docker_image(&mut self) {
        for key in ["config", "container_config"] {
            let names_image = |value: &Value| value.get("Image").is_some();
            if self.get(key).is_some_and(names_image)
                && let Some(Value::Object(map)) = self.document.edit().get_mut(key)
            {
                map.shift_remove("Image");
            }
        }
    }

    /// Returns whether an edit has changed anything.
    pub fn is_changed(&self) -> bool {
        self.document.is_changed()
    }

    /// Returns the document: the very bytes it was parsed from, unless it has changed.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.document.to_bytes()
    }

    /// Returns the document as [`to_bytes`](Self::to_bytes) does, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.document.into_bytes()
    }
}

fn read_rootfs(object: &Object<'_>) -> Result<Vec<Digest>> {
    let diff_ids = object.digests("diff_ids")?;
    match object.string("type")?.unwrap_or_default() {
        "layers" => Ok(diff_ids),
        // Go's zero value, as found in artifacts that carry an image's media type.
        "" if diff_ids.is_empty() => Ok(diff_ids),
        other => Err(object.error("type", "\"layers\"", &other.into())),
    }
}

fn remove_nulls(map: &mut Map<String, Value>) {
    map.retain(|_, value| !value.is_null());
    let objects = map.values_mut().flat_map(|value| match value {
        Value::Array(values) => values.as_mut_slice(),
        value => std::slice::from_mut(value),
    });
    objects.filter_map(Value::as_object_mut).for_each(remove_nulls);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::chain;

    const TEXT: &str = r#"{"x":1.50,"os":"linux","architecture":"arm64","variant":"v8","config":{"Image":"sha256:a","Healthcheck":{"Test":["NONE"]},"Env":null,"Cmd":["a"],"Entrypoint":["b"],"WorkingDir":"/c","User":"d"},"container_config":{"Image":"","Cmd":null},"rootfs":{"diff_ids":["foo:a","foo:a","foo:b"],"type":"layers"},"history":[{"created_by":"e"},{"created_by":null,"empty_layer":true}]}"#;

    fn parse(text: &str) -> Result<Config> {
        Config::parse(text.as_bytes().to_vec(), &Limits::default())
    }

    #[test]
    fn a_config_is_read_as_it_says() {
        let config = parse(TEXT).unwrap();
        assert_eq!(config.platform().to_string(), "linux/arm64/v8");
        assert_eq!(
            config.diff_ids().iter().map(Digest::as_str).collect::<Vec<_>>(),
            ["foo:a", "foo:a", "foo:b"]
        );
        assert_eq!(config.get("config").and_then(|config| config.get("User")), Some(&Value::from("d")));
        assert_eq!(config.get("nothing"), None);
    }

    #[test]
    fn the_typed_view_takes_null_for_nothing() {
        let typed = parse(TEXT).unwrap().typed().unwrap();
        let execution = typed.config().as_ref().unwrap();
        assert_eq!(execution.entrypoint().as_deref(), Some(["b".to_owned()].as_slice()));
        assert_eq!(execution.cmd().as_deref(), Some(["a".to_owned()].as_slice()));
        assert_eq!((execution.env(), execution.working_dir().as_deref()), (&None, Some("/c")));
        assert_eq!(execution.user().as_deref(), Some("d"));
        let history = typed.history().as_ref().unwrap();
        assert_eq!(
            history.iter().map(|entry| entry.empty_layer().unwrap_or(false)).collect::<Vec<_>>(),
            [false, true]
        );

        for text in [
            "{}",
            r#"{"rootfs":null,"config":null,"history":null,"os":null,"created":null}"#,
            r#"{"rootfs":{"type":"","diff_ids":null}}"#,
            r#"{"rootfs":{}}"#,
            r#"{"config":{"Env":null,"Labels":null,"ExposedPorts":null,"Volumes":{"/v":{}}}}"#,
        ] {
            let config = parse(text).unwrap();
            assert!(config.diff_ids().is_empty());
            assert!(config.typed().is_ok(), "{text}: {:?}", config.typed());
        }
        let message = chain(&parse(r#"{"config":{"Env":"a"}}"#).unwrap().typed().unwrap_err());
        assert!(message.starts_with("config is not strict JSON: invalid type"), "{message}");
    }

    #[test]
    fn equal_layers_get_their_digests_by_position() {
        let mut config = parse(TEXT).unwrap();
        let digest = |text| Digest::parse(text).unwrap();
        config.set_diff_id(0, &digest("foo:a")).unwrap();
        assert!(!config.is_changed());
        assert_eq!(config.to_bytes(), TEXT.as_bytes());
        config.set_diff_id(1, &digest("foo:c")).unwrap();
        assert_eq!(config.diff_ids()[1], digest("foo:c"));
        let error = config.set_diff_id(3, &digest("foo:c")).unwrap_err();
        assert_eq!(error.to_string(), "config: expected a position below 3 in rootfs.diff_ids, found 3");
        let expected = TEXT.replace(r#""foo:a","foo:b""#, r#""foo:c","foo:b""#);
        assert_eq!(String::from_utf8(config.into_bytes()).unwrap(), expected);
    }

    #[test]
    fn what_docker_says_it_was_built_from_is_forgotten_and_nothing_else() {
        let mut config = parse(TEXT).unwrap();
        config.forget_docker_image();
        let expected = TEXT.replace(r#""Image":"sha256:a","#, "").replace(r#""Image":"","#, "");
        assert_eq!(String::from_utf8(config.into_bytes()).unwrap(), expected);

        let text = r#"{ "config": {"Cmd": []}, "container_config": null, "Image": "x" }"#;
        let mut config = parse(text).unwrap();
        config.forget_docker_image();
        assert_eq!(config.into_bytes(), text.as_bytes());
    }

    #[test]
    fn labels_are_edited_in_both_places_and_nothing_else_is() {
        let text = r#"{ "config": {"Labels": {"a":"1", "b":"\u0031"}}, "container_config": {"Labels": {"a":"2","c":3}} }"#;
        let mut config = parse(text).unwrap();
        let mut seen = Vec::new();
        config.edit_labels(|key, value| {
            seen.push(format!("{key}={value}"));
            None
        });
        assert_eq!(seen, ["a=1", "b=1", "a=2"]);
        assert_eq!(config.to_bytes(), text.as_bytes());
        config.edit_labels(|key, value| (key == "a").then(|| format!("{value}0")));
        let expected = text.replace(r#""1""#, r#""10""#).replace(r#""2""#, r#""20""#).replace(' ', "");
        assert_eq!(String::from_utf8(config.into_bytes()).unwrap(), expected);

        for text in
            ["{}", r#"{"config":null}"#, r#"{"config":{"Labels":null}}"#, r#"{"config":{"Labels":[]}}"#]
        {
            let mut config = parse(text).unwrap();
            config.edit_labels(|_, _| Some("x".to_owned()));
            assert_eq!(config.into_bytes(), text.as_bytes());
        }
    }

    #[test]
    fn diff_ids_of_null_are_none_and_an_edit_writes_them_so() {
        let text = r#"{"rootfs":{"type":"layers","diff_ids":null},"config":{"Image":"a"}}"#;
        let mut config = parse(text).unwrap();
        assert_eq!((config.diff_ids().len(), config.to_bytes()), (0, text.as_bytes().to_vec()));
        config.forget_docker_image();
        let expected = r#"{"rootfs":{"type":"layers","diff_ids":[]},"config":{}}"#;
        assert_eq!(String::from_utf8(config.into_bytes()).unwrap(), expected);
    }

    #[test]
    fn what_is_not_an_image_configuration_is_refused() {
        let table = [
            ("null", r#"config: expected an object at "root", found nothing"#),
            ("[]", r#"config: expected an object at "root", found an array"#),
            ("tar", "config is not strict JSON"),
            (r#"{"rootfs":[]}"#, r#"config: expected an object at "rootfs", found an array"#),
            (
                r#"{"rootfs":{"type":"windows","diff_ids":[]}}"#,
                r#"expected "layers" at "rootfs.type", found "windows""#,
            ),
            (
                r#"{"rootfs":{"diff_ids":["foo:a"]}}"#,
                r#"config: expected "layers" at "rootfs.type", found """#,
            ),
            (
                r#"{"rootfs":{"type":"layers","diff_ids":{}}}"#,
                r#"expected an array at "rootfs.diff_ids", found an ob"#,
            ),
            (
                r#"{"rootfs":{"type":"layers","diff_ids":["foo:a",1]}}"#,
                r#"a digest at "rootfs.diff_ids[1]", found 1"#,
            ),
            (
                r#"{"rootfs":{"type":"layers","diff_ids":["../a"]}}"#,
                r#"at "rootfs.diff_ids[0]", found "../a""#,
            ),
            (
                r#"{"rootfs":{"type":"layers","Diff_IDs":[]}}"#,
                r#"expected key "diff_ids", found "rootfs.Diff_IDs""#,
            ),
            (r#"{"RootFS":{}}"#, r#"config: expected key "rootfs", found "RootFS""#),
            (r#"{"config":{"entrypoint":[]}}"#, r#"expected key "Entrypoint", found "config.entrypoint""#),
            (r#"{"history":[{},{"Empty_Layer":true}]}"#, r#""empty_layer", found "history[1].Empty_Layer""#),
            (r#"{"history":{}}"#, r#"config: expected an array at "history", found an object"#),
            (r#"{"os":1}"#, r#"config: expected a string at "os", found 1"#),
            (r#"{"os.features":[null]}"#, r#"config: expected strings only at "os.features", found nothing"#),
        ];
        for (text, expected) in table {
            let message = chain(&parse(text).unwrap_err());
            assert!(message.contains(expected), "{text}: expected {expected}, found {message}");
        }
    }

    #[test]
    fn a_config_has_a_limit_of_its_own() {
        let limits = Limits { config_size: TEXT.len() as u64, manifest_size: 0, ..Limits::default() };
        assert!(Config::parse(TEXT.as_bytes().to_vec(), &limits).is_ok());
        let error = Config::parse(format!("{TEXT} ").into_bytes(), &limits).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    }
}
