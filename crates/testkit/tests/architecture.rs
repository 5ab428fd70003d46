//! Holds the workspace to the dependency table of ARCHITECTURE.md.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const ARCHITECTURE: &str = include_str!("../../../ARCHITECTURE.md");

/// Returns each package of the table, and the packages of this workspace it may depend on.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let package = |crate_name: &str| match crate_name {
        "restow" => "restow".to_owned(),
        name => format!("restow-{name}"),
    };
    let rows = ARCHITECTURE.lines().skip_while(|line| !line.starts_with("| crate |"));
    let rows: Vec<(&str, &str)> = rows
        .skip(2)
        .map_while(|row| match row.split('|').map(str::trim).collect::<Vec<_>>()[..] {
            ["", name, _, allowed, ""] => Some((name.trim_matches('`'), allowed)),
            _ => None,
        })
        .collect();
    let allowed = |words: &str| match words.strip_prefix("all but ") {
        Some(one) => rows.iter().map(|(name, _)| *name).filter(|name| *name != one).map(package).collect(),
        None => words.split(", ").filter(|name| *name != "–").map(package).collect(),
    };
    rows.iter().map(|(name, words)| (package(name), allowed(words))).collect()
}

/// Returns each package with the workspace packages it depends on when built, and when tested.
fn workspace() -> BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array().expect("packages are a list");
    let text = |value: &Value| value.as_str().map(str::to_owned).expect("a name is a string");
    let members: BTreeSet<String> = packages.iter().map(|package| text(&package["name"])).collect();
    let dependencies = |package: &Value, for_tests: bool| {
        package["dependencies"]
            .as_array()
            .expect("dependencies are a list")
            .iter()
            .filter(|dependency| (dependency["kind"] == "dev") == for_tests)
            .map(|dependency| text(&dependency["name"]))
            .filter(|name| members.contains(name))
            .collect()
    };
    packages
        .iter()
        .map(|package| (text(&package["name"]), (dependencies(package, false), dependencies(package, true))))
        .collect()
}

#[test]
fn packages_depend_on_what_the_table_allows() {
    let table = table();
    for (package, (built, _)) in workspace() {
        for dependency in built {
            assert!(table[&package].contains(&dependency), "{package} may not depend on {dependency}");
        }
    }
}

#[test]
fn every_package_is_in_the_table() {
    let members: BTreeSet<String> = workspace().into_keys().collect();
    let table = table();
    assert_eq!(members, table.keys().cloned().collect());
    for (package, allowed) in table {
        assert!(allowed.is_subset(&members), "{package} may depend on what is not there: {allowed:?}");
    }
}

#[test]
fn tests_see_no_package_that_the_table_keeps_apart() {
    let table = table();
    for (package, (_, tested)) in workspace() {
        for dependency in tested {
            let known = dependency == "restow-testkit" || table[&package].contains(&dependency);
            assert!(known, "the tests of {package} may not depend on {dependency}");
        }
    }
}

/// The most files of a crate that may import each other in a circle.
///
/// Four are wanted. In `restow`, what `report` shows of all documents joins eight.
const LARGEST_CIRCLE: usize = 8;

/// Returns the module of each file of a crate, and the text of the file.
fn modules(source: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![source.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory).expect("a crate has its sources") {
            let path = entry.expect("a directory can be read").path();
            if path.is_dir() {
                waiting.push(path);
                continue;
            }
            let name = path.strip_prefix(source).expect("it is below").with_extension("");
            let name = name.to_string_lossy().replace('/', "::");
            let name = name.trim_end_matches("::mod").to_owned();
            let text = std::fs::read_to_string(path).expect("a source is text");
            // Tests may name whatever they test.
            found.insert(name, text.split("\n#[cfg(test)]\nmod").next().unwrap_or_default().to_owned());
        }
    }
    found
}

/// Returns which modules of a crate import which. The crate's root names all, and hands on what they export.
fn imports(modules: &BTreeMap<String, String>) -> BTreeMap<&str, BTreeSet<&str>> {
    let owner = |path: &str| {
        let parts: Vec<_> = path.split("::").collect();
        let longest = (1..=parts.len()).rev().map(|length| parts[..length].join("::"));
        longest.into_iter().find_map(|name| modules.get_key_value(&name)).map(|(name, _)| name.as_str())
    };
    let of = |(name, text): (&String, &String)| {
        let words = text.split(|c: char| !c.is_alphanumeric() && c != ':' && c != '_');
        let parent = name.rsplit_once("::").map_or("", |(parent, _)| parent);
        let paths = words.filter_map(|word| {
            let own = |rest: &str, base: &str| format!("{base}::{rest}").trim_start_matches(':').to_owned();
            word.strip_prefix("crate::")
                .map(str::to_owned)
                .or_else(|| word.strip_prefix("self::").map(|rest| own(rest, name)))
                .or_else(|| word.strip_prefix("super::").map(|rest| own(rest, parent)))
        });
        paths.filter_map(|path| owner(&path)).filter(|other| other != name).collect()
    };
    let roots = ["lib", "main"];
    let files = modules.iter().filter(|(name, _)| !roots.contains(&name.as_str()));
    files.map(|file| (file.0.as_str(), of(file))).collect()
}

/// Returns all that a module imports, whatever lies between.
fn reached<'a>(from: &'a str, imports: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    let (mut found, mut waiting) = (BTreeSet::new(), vec![from]);
    while let Some(next) = waiting.pop() {
        for other in imports.get(next).into_iter().flatten() {
            if found.insert(*other) {
                waiting.push(other);
            }
        }
    }
    found
}

#[test]
fn files_do_not_import_each_other_in_large_circles() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for folder in ["cli", "crates/restow"] {
        let modules = modules(&workspace.join(folder).join("src"));
        let imports = imports(&modules);
        let arrows: usize = imports.values().map(BTreeSet::len).sum();
        assert!(arrows > modules.len(), "{folder}: the imports are not found: {imports:?}");
        let reach: BTreeMap<_, _> = imports.keys().map(|name| (*name, reached(name, &imports))).collect();
        for (name, all) in &reach {
            let circle: Vec<_> = all.iter().filter(|other| reach[**other].contains(name)).collect();
            assert!(circle.len() <= LARGEST_CIRCLE, "{folder}: {name} is in a circle: {circle:?}");
        }
    }
}
