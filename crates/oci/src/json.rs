//! Strict parsing of JSON, and strict reading of the values parsed.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeSeed;
use serde::de::Deserializer;
use serde::de::Error as _;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;
use serde_json::Map;
use serde_json::Number;
use serde_json::Value;
use serde_json::value::RawValue;
use serde_json::value::to_raw_value;

use crate::Digest;
use crate::Error;
use crate::Limits;
use crate::MediaType;
use crate::Result;
use crate::error::excerpt;

/// Parses a document whose root is an object, refusing what readers understand differently: a key twice, and
/// anything after the end. `size` is the document's own limit.
pub(crate) fn parse(
    document: &'static str,
    bytes: &[u8],
    size: u64,
    limits: &Limits,
) -> Result<Map<String, Value>> {
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if length > size {
        return Err(Error::TooLarge { document, size: length, limit: size });
    }
    let mut values = limits.json_values;
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth: limits.json_depth, values: &mut values }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|source| Error::Json { document, source: source.into() })?;
    match value {
        Value::Object(map) => Ok(map),
        other => Err(field(document, "root", "an object", &other)),
    }
}

/// Builds a value while watching its keys, how deep it nests and how much it holds.
struct Strict<'a> {
    depth: usize,
    values: &'a mut usize,
}

impl Strict<'_> {
    /// Returns the same one level down.
    fn nested<E: serde::de::Error>(&mut self) -> std::result::Result<Strict<'_>, E> {
        let depth = self.depth.checked_sub(1).ok_or_else(|| E::custom("more levels than allowed"))?;
        Ok(Strict { depth, values: self.values })
    }
}

impl<'de> DeserializeSeed<'de> for &mut Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Value, D::Error> {
        *self.values =
            self.values.checked_sub(1).ok_or_else(|| D::Error::custom("more values than allowed"))?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Strict<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> std::result::Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> std::result::Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> std::result::Result<Value, A::Error> {
        let mut nested = self.nested()?;
        let mut values = Vec::new();
        while let Some(value) = access.next_element_seed(&mut nested)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> std::result::Result<Value, A::Error> {
        let mut nested = self.nested()?;
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("key {:?} occurs twice", excerpt(&key))));
            }
            let value = access.next_value_seed(&mut nested)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// An object being read, which knows where it stands, so that its errors can tell.
#[derive(Clone, Copy)]
pub(crate) struct Object<'a> {
    document: &'static str,
    path: &'a str,
    map: &'a Map<String, Value>,
    limits: &'a Limits,
}

impl<'a> Object<'a> {
    /// Returns the root of a document, after a look at its keys.
    pub(crate) fn root(
        document: &'static str,
        map: &'a Map<String, Value>,
        known: &[&'static str],
        limits: &'a Limits,
    ) -> Result<Object<'a>> {
        Object { document, path: "", map, limits }.checked(known)
    }

    /// Reads the object at `key` by `read`, or returns nothing where there is none.
    pub(crate) fn object<T>(
        &self,
        key: &str,
        known: &[&'static str],
        read: impl FnOnce(&Object<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        self.get(key).map(|value| self.at(&self.place(key), value, known, read)).transpose()
    }

    /// Reads the object at `key`, which must be there, by `read`.
    pub(crate) fn required_object<T>(
        &self,
        key: &str,
        known: &[&'static str],
        read: impl FnOnce(&Object<'_>) -> Result<T>,
    ) -> Result<T> {
        self.at(&self.place(key), self.get(key).unwrap_or(&Value::Null), known, read)
    }

    /// Reads every object in the array at `key` by `read`; `null` and no array at all are an empty one.
    pub(crate) fn objects<T>(
        &self,
        key: &str,
        known: &[&'static str],
        mut read: impl FnMut(&Object<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let place = |position| format!("{}[{position}]", self.place(key));
        let values = self.array(key)?.iter().enumerate();
        values.map(|(position, value)| self.at(&place(position), value, known, &mut read)).collect()
    }

    fn at<T>(
        &self,
        path: &str,
        value: &Value,
        known: &[&'static str],
        read: impl FnOnce(&Object<'_>) -> Result<T>,
    ) -> Result<T> {
        let map = value.as_object().ok_or_else(|| field(self.document, path, "an object", value))?;
        read(&Object { path, map, ..*self }.checked(known)?)
    }

    /// Returns the object if each of its keys is a known one, or is not one in other case.
    fn checked(self, known: &[&'static str]) -> Result<Object<'a>> {
        for key in self.map.keys() {
            if let Some(known) = known.iter().find(|known| **known != key && fold(known).eq(fold(key))) {
                let found = excerpt(&self.place(key));
                return Err(Error::CaseVariant { document: self.document, found, known });
            }
        }
        Ok(self)
    }

    /// Returns the value at `key`, where `null` is no value.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Returns whether `key` is there, be its value `null`.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<&'a str>> {
        let text = |value: &'a Value| value.as_str().ok_or_else(|| self.error(key, "a string", value));
        self.get(key).map(text).transpose()
    }

    pub(crate) fn strings(&self, key: &str) -> Result<Vec<String>> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let error = |value| self.error(key, "strings only", value);
        self.array(key)?.iter().map(|value| text(value).ok_or_else(|| error(value))).collect()
    }

    pub(crate) fn digests(&self, key: &str) -> Result<Vec<Digest>> {
        let values = self.array(key)?.iter().enumerate();
        values.map(|(position, value)| self.read_digest(&format!("{key}[{position}]"), value)).collect()
    }

    pub(crate) fn digest(&self, key: &str) -> Result<Digest> {
        self.read_digest(key, self.required(key)?)
    }

    pub(crate) fn media_type(&self, key: &str) -> Result<Option<MediaType>> {
        let Some(text) = self.string(key)? else { return Ok(None) };
        MediaType::checked(text).map(Some).map_err(|expected| self.error(key, expected, &text.into()))
    }

    /// Returns a size, which Go reads into a signed number.
    pub(crate) fn size(&self, key: &str) -> Result<u64> {
        let value = self.required(key)?;
        let size = value.as_u64().filter(|size| i64::try_from(*size).is_ok());
        size.ok_or_else(|| self.error(key, "a whole number from 0 to 2^63-1", value))
    }

    pub(crate) fn annotations(&self) -> Result<BTreeMap<String, String>> {
        const KEY: &str = "annotations";
        let Some(value) = self.get(KEY) else { return Ok(BTreeMap::new()) };
        let map = value.as_object().ok_or_else(|| self.error(KEY, "an object", value))?;
        map.iter().map(|(key, value)| self.annotation(&format!("{KEY}.{key}"), key, value)).collect()
    }

    fn annotation(&self, place: &str, key: &str, value: &Value) -> Result<(String, String)> {
        let text = value.as_str().ok_or_else(|| self.error(place, "a string", value))?;
        let Limits { annotation_key_size, annotation_value_size, .. } = *self.limits;
        if key.len() > annotation_key_size {
            return Err(self.error(place, &format!("a key of at most {annotation_key_size} bytes"), value));
        }
        if text.len() > annotation_value_size {
            return Err(self.error(place, &format!("at most {annotation_value_size} bytes"), value));
        }
        Ok((key.to_owned(), text.to_owned()))
    }

    /// Returns the value at `key`, which must be there.
    pub(crate) fn required(&self, key: &str) -> Result<&'a Value> {
        self.get(key).ok_or_else(|| self.error(key, "a value", &Value::Null))
    }

    fn array(&self, key: &str) -> Result<&'a [Value]> {
        let array = |value: &'a Value| value.as_array().ok_or_else(|| self.error(key, "an array", value));
        Ok(self.get(key).map(array).transpose()?.map_or(&[], Vec::as_slice))
    }

    fn read_digest(&self, key: &str, value: &Value) -> Result<Digest> {
        let text = value.as_str().ok_or_else(|| self.error(key, "a digest", value))?;
        Digest::checked(text).map_err(|expected| self.error(key, expected, value))
    }

    /// Returns the error of `found` standing at `key`.
    pub(crate) fn error(&self, key: &str, expected: &str, found: &Value) -> Error {
        field(self.document, &self.place(key), expected, found)
    }

    fn place(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

fn field(document: &'static str, path: &str, expected: &str, found: &Value) -> Error {
    let found = match found {
        Value::Null => "nothing".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => format!("{:?}", excerpt(text)),
        scalar => scalar.to_string(),
    };
    Error::Field { document, field: excerpt(path), expected: expected.to_owned(), found }
}

/// Returns the form of a key that Go's decoder compares: letters of either case are one, and so are the two
/// letters outside ASCII that fold into it.
fn fold(key: &str) -> impl Iterator<Item = char> {
    key.chars().map(|letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    })
}

/// Replaces `key` by what `to` reads in JSON, or removes it where that is nothing; a value that stays the same
/// keeps its own form.
pub(crate) fn patch<T: PartialEq>(
    map: &mut Map<String, Value>,
    key: &str,
    from: &T,
    to: &T,
    value: impl FnOnce(&T) -> Option<Value>,
) {
    if from != to {
        set(map, key, value(to));
    }
}

/// Puts `value` at `key` in its place, or at the end where the key is new; nothing removes the key.
pub(crate) fn set(map: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    match value {
        Some(value) => drop(map.insert(key.to_owned(), value)),
        // A plain removal would move the last key into the gap.
        None => drop(map.shift_remove(key)),
    }
}

/// Makes the annotations of `map`, which were read as `from`, those of `to`; the ones that stay keep their order.
pub(crate) fn patch_annotations(
    map: &mut Map<String, Value>,
    from: &BTreeMap<String, String>,
    to: &BTreeMap<String, String>,
) {
    if from == to {
        return;
    }
    let mut annotations = match map.get_mut("annotations").map(Value::take) {
        Some(Value::Object(annotations)) => annotations,
        _ => Map::new(),
    };
    annotations.retain(|key, _| to.contains_key(key));
    for (key, value) in to.iter().filter(|(key, value)| from.get(*key) != Some(value)) {
        annotations.insert(key.clone(), Value::from(value.as_str()));
    }
    set(map, "annotations", (!annotations.is_empty()).then(|| Value::Object(annotations)));
}

/// Writes a document without any space. A value that `text`, which it was parsed from, has at the same place is spelled as
/// there: no digit of a number and no escape in a string changes.
pub(crate) fn write(map: &Map<String, Value>, text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_object(&mut out, map, serde_json::from_slice(text).ok());
    out
}

/// The texts of the members of an object.
type Members<'a> = BTreeMap<String, &'a RawValue>;

fn write_object(out: &mut Vec<u8>, map: &Map<String, Value>, texts: Option<Members<'_>>) {
    let texts = texts.unwrap_or_default();
    out.push(b'{');
    for (position, (key, value)) in map.iter().enumerate() {
        separate(out, position);
        out.extend(Value::from(key.as_str()).to_string().bytes());
        out.push(b':');
        write_value(out, value, texts.get(key).copied());
    }
    out.push(b'}');
}

fn write_value(out: &mut Vec<u8>, value: &Value, text: Option<&RawValue>) {
    match value {
        Value::Object(map) => write_object(out, map, text.and_then(read)),
        Value::Array(values) => {
            let texts: Vec<&RawValue> = text.and_then(read).unwrap_or_default();
            out.push(b'[');
            for (position, value) in values.iter().enumerate() {
                separate(out, position);
                write_value(out, value, texts.get(position).copied());
            }
            out.push(b']');
        }
        scalar => match text.filter(|text| read::<Value>(text).is_some_and(|text| text == *scalar)) {
            Some(text) => out.extend(text.get().bytes()),
            None => out.extend(scalar.to_string().bytes()),
        },
    }
}

fn separate(out: &mut Vec<u8>, position: usize) {
    if position > 0 {
        out.push(b',');
    }
}

fn read<'a, T: Deserialize<'a>>(text: &'a RawValue) -> Option<T> {
    serde_json::from_str(text.get()).ok()
}

/// Returns the text of a document with what `retain` leaves of the list at `key`; nothing where there is no list.
pub(crate) fn retained(text: &[u8], key: &str, retain: impl FnOnce(&mut Vec<&RawValue>)) -> Option<Vec<u8>> {
    let mut members: Members<'_> = serde_json::from_slice(text).ok()?;
    let mut list = read(members.get(key).copied()?)?;
    retain(&mut list);
    let list = to_raw_value(&list).ok()?;
    members.insert(key.to_owned(), &list);
    serde_json::to_vec(&members).ok()
}
