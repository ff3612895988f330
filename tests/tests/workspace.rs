//! The shape of the workspace: which crate may know which.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Crate → the crates of this workspace that it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("llamac-ir", &[]),
    ("llamac-plan", &[]),
    ("llamac-compiler", &["llamac-ir", "llamac-plan"]),
    ("llamac-runtime", &["llamac-plan"]),
    ("llamac-tract", &["llamac-plan"]),
    ("llamac", &["llamac-compiler", "llamac-runtime", "llamac-tract"]),
    (
        "llamac-tests",
        &["llamac", "llamac-compiler", "llamac-ir", "llamac-plan", "llamac-runtime", "llamac-tract"],
    ),
];

/// Every crate of the workspace with the workspace crates it depends on, normal, build and dev alike.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("a list");
    let name = |value: &serde_json::Value| value["name"].as_str().expect("a name").to_owned();
    let members: BTreeSet<String> = packages.iter().map(name).collect();
    packages
        .iter()
        .map(|package| {
            let uses = package["dependencies"].as_array().expect("a list").iter().map(name);
            // A crate may name itself as a dev-dependency to switch on a feature for its own tests.
            let own = name(package);
            let uses = uses.filter(|other| members.contains(other) && *other != own).collect();
            (own, uses)
        })
        .collect()
}

#[test]
fn crates_depend_only_on_what_the_architecture_allows() {
    let found = dependencies();
    let known: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    assert_eq!(found.keys().map(String::as_str).collect::<BTreeSet<_>>(), known);
    for (name, allowed) in ALLOWED {
        for other in &found[*name] {
            assert!(allowed.contains(&other.as_str()), "{name} must not depend on {other}");
        }
    }
}

#[test]
fn the_top_level_holds_only_what_the_project_has_room_for() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "README.md",
        "LICENSE",
        "compiler",
        "runtime",
        "tests",
        "fixtures",
        "docs",
    ];
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let output = Command::new("git").args(["-C", root, "ls-tree", "--name-only", "HEAD"]).output();
    // A source archive has no history; there is nothing to check then.
    let Some(output) = output.ok().filter(|o| o.status.success()) else { return };
    for entry in String::from_utf8_lossy(&output.stdout).lines() {
        assert!(entry.starts_with('.') || allowed.contains(&entry), "{entry} has no place at the top level");
    }
}
