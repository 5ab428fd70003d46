//! Every JSON document that is printed is one of its schema.

use std::path::Path;
use std::path::PathBuf;

use restow_testkit::ImageBuilder;
use restow_testkit::Layer;
use restow_testkit::TarBuilder;
use serde_json::Value;

use crate::support::Bench;

/// Returns what of a value does not fit a schema: the part of JSON Schema that `restow schema` prints.
fn problems(value: &Value, schema: &Value, root: &Value, place: &Path) -> Vec<String> {
    if let Some(name) = schema["$ref"].as_str() {
        let pointer = name.strip_prefix('#').unwrap();
        return problems(value, root.pointer(pointer).unwrap(), root, place);
    }
    let wrong = |problem: String| vec![format!("{}: {problem}: {value}", place.display())];
    let choices = schema["anyOf"].as_array().or(schema["oneOf"].as_array());
    if let Some(choices) = choices {
        let fits = choices.iter().any(|one| problems(value, one, root, place).is_empty());
        return if fits { Vec::new() } else { wrong("it is none of the choices".into()) };
    }
    if let Some(constant) = schema.get("const") {
        return if value == constant { Vec::new() } else { wrong(format!("it is not {constant}")) };
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return wrong("it is none of the words".into());
    }
    let types: Vec<_> = match &schema["type"] {
        Value::String(one) => vec![one.as_str()],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => return wrong(format!("the schema {schema} says no type")),
    };
    match value {
        Value::Null if types.contains(&"null") => Vec::new(),
        Value::Bool(_) if types.contains(&"boolean") => Vec::new(),
        Value::String(_) if types.contains(&"string") => Vec::new(),
        Value::Number(number) if types.contains(&"integer") && !number.is_f64() => Vec::new(),
        Value::Number(_) if types.contains(&"number") => Vec::new(),
        Value::Array(items) if types.contains(&"array") => {
            let of = |(position, item): (usize, &Value)| {
                let schema = schema["prefixItems"].get(position).unwrap_or(&schema["items"]);
                problems(item, schema, root, &place.join(position.to_string()))
            };
            items.iter().enumerate().flat_map(of).collect()
        }
        Value::Object(fields) if types.contains(&"object") => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let missing = required.filter(|name| !fields.contains_key(*name));
            let missing: Vec<_> = missing.map(|name| format!("{}: no {name}", place.display())).collect();
            let of = |(name, field): (&String, &Value)| {
                let known = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
                match known {
                    Some(known) => problems(field, known, root, &place.join(name)),
                    None => vec![format!("{}: {name} is not in the schema", place.display())],
                }
            };
            missing.into_iter().chain(fields.iter().flat_map(of)).collect()
        }
        _ => wrong(format!("it is not of the type {types:?}")),
    }
}

#[test]
fn every_document_is_one_of_its_schema() {
    let tar = TarBuilder::new().dir("bin/").file("bin/app", "app").symlink("sh", "bin/app").finish();
    let bench = Bench::with(&ImageBuilder::new().layer(Layer::gzip(tar)).build());
    bench.write("first.txt", "bin/app\nnothing\n");
    let convert = "--zstdchunked --format json --progress none";
    for (name, line) in [
        ("convert", format!("optimize src:v1 dst:v1 --prefetch-list first.txt {convert}")),
        ("convert", format!("convert src:v1 dst:v2 {convert}")),
        (
            "convert",
            "convert src:v1 dst:v3 --estargz --estargz-external-toc --format json --progress none".to_owned(),
        ),
        ("copy", "copy src:v1 copied:v1 --format json --progress none".into()),
        ("verify", "verify dst:v1 --readers --format json".into()),
        ("inspect", "inspect dst:v1 --format json".into()),
        ("ls", "ls dst:v1 -r --format json".into()),
        ("predict", "predict src:v1 --format json".into()),
        ("version", "version --format json".into()),
    ] {
        let schema = bench.json(&format!("schema {name}"));
        let document = bench.json(&line);
        assert_eq!(
            problems(&document, &schema, &schema, &PathBuf::from(name)),
            Vec::<String>::new(),
            "{line}"
        );
    }
}

#[test]
fn what_does_not_fit_a_schema_is_found() {
    let bench = Bench::with(&ImageBuilder::new().layer(Layer::gzip(TarBuilder::new().finish())).build());
    let schema = bench.json("schema copy");
    let mut document = bench.json("copy src:v1 copied:v1 --format json --progress none");
    document["size"] = "many".into();
    document["color"] = "red".into();
    document.as_object_mut().unwrap().remove("digest");
    let found = problems(&document, &schema, &schema, Path::new("copy"));
    assert_eq!(found.len(), 3, "{found:?}");
}
