//! Holds the workspace to the dependency table of ARCHITECTURE.md.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
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
