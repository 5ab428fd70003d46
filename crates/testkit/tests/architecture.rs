//! Holds the workspace to the dependency table of ARCHITECTURE.md.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// Each package, and the packages of this workspace it may depend on.
const MAY_DEPEND_ON: [(&str, &[&str]); 8] = [
    ("restow-oci", &[]),
    ("restow-content", &["restow-oci"]),
    ("restow-layer", &["restow-oci"]),
    ("restow-convert", &["restow-oci", "restow-content", "restow-layer"]),
    ("restow-registry", &["restow-oci", "restow-content"]),
    ("restow-analyze", &["restow-oci", "restow-content", "restow-layer"]),
    (
        "restow",
        &[
            "restow-oci",
            "restow-content",
            "restow-layer",
            "restow-convert",
            "restow-registry",
            "restow-analyze",
        ],
    ),
    ("restow-testkit", &["restow-oci", "restow-content"]),
];

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
    let workspace = workspace();
    for (package, allowed) in MAY_DEPEND_ON {
        let (built, _) =
            workspace.get(package).unwrap_or_else(|| panic!("{package} is not in the workspace"));
        for dependency in built {
            assert!(allowed.contains(&dependency.as_str()), "{package} may not depend on {dependency}");
        }
    }
}

#[test]
fn every_package_is_in_the_table() {
    let listed: BTreeSet<String> = MAY_DEPEND_ON.iter().map(|(package, _)| (*package).to_owned()).collect();
    let members: BTreeSet<String> = workspace().into_keys().collect();
    assert_eq!(members, listed);
}

#[test]
fn tests_see_no_package_that_the_table_keeps_apart() {
    for (package, (_, tested)) in workspace() {
        let (_, allowed) = MAY_DEPEND_ON.iter().find(|(name, _)| *name == package).expect("listed");
        for dependency in tested {
            let known = dependency == "restow-testkit" || allowed.contains(&dependency.as_str());
            assert!(known, "the tests of {package} may not depend on {dependency}");
        }
    }
}
