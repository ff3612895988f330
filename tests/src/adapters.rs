//! What tests of PEFT's adapters of every kind share.

use std::path::PathBuf;

use llamac_compiler::source::{AdapterSources, Checkpoint, Head, LoraSource};
use llamac_plan::diagnostic::Diagnostics;
use llamac_plan::eval::{Output, Request};
use serde::Deserialize;

use crate::compare::Comparison;
use crate::golden::{self, Fixture};

/// Fixtures of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Adapters that are merged.
    Lora,
    /// Prompts before a text.
    SoftPrompt,
}

/// What a fixture says of itself.
#[derive(Deserialize)]
struct Index {
    /// The checkpoint.
    base: String,
    /// Adapters that are merged, with their scales.
    lora: Vec<(String, f64)>,
}

impl Kind {
    /// The folder of the fixtures.
    pub fn folder(self) -> PathBuf {
        golden::fixtures().join(match self {
            Self::Lora => "adapters",
            Self::SoftPrompt => "soft-prompts",
        })
    }

    /// Every fixture, by name.
    pub fn names(self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder()).expect("the fixtures are there");
        let name = |entry: std::fs::DirEntry| entry.file_name().into_string().expect("a plain name");
        let mut names: Vec<String> = entries.map(|entry| name(entry.expect("it can be read"))).collect();
        names.sort();
        names
    }

    /// The fixture, and its checkpoint with what belongs to it.
    pub fn open(self, name: &str) -> (Fixture, Checkpoint) {
        let path = self.folder().join(name);
        let fixture = Fixture::read(&path);
        let index = std::fs::read(path.join("golden.json")).expect("the fixture has an index");
        let Index { base, lora } = serde_json::from_slice(&index).expect("the index is as described");
        let source = |(name, scale)| LoraSource { path: Self::Lora.folder().join::<String>(name), scale };
        let loras = lora.into_iter().map(source).collect();
        let adapters = AdapterSources { loras, soft_prompt: (self == Self::SoftPrompt).then_some(path) };
        let base = golden::fixtures().join("tiny").join(base);
        // The adapter alone says which head it is for.
        let checkpoint = Checkpoint::open_adapted(&base, None, &adapters, &mut Vec::new());
        let mut checkpoint = checkpoint.unwrap_or_else(|faults| panic!("{name}: {faults}"));
        assert_eq!(Some(checkpoint.head), Head::from_name(&fixture.head), "{name}");
        if name.ends_with("reward") {
            // What its users set in Python; the base says nothing of padding.
            checkpoint.config.pad_token_id = Some(0);
        }
        (fixture, checkpoint)
    }
}

/// Runs every case and tells what is too far from PEFT.
pub fn problems(
    fixture: &Fixture,
    mut eval: impl FnMut(&Request) -> Result<Vec<Output>, Diagnostics>,
) -> Vec<String> {
    let mut comparison = Comparison::default();
    for case in &fixture.cases {
        match eval(&case.request) {
            Ok(found) => case.compare(&found, &mut comparison),
            Err(faults) => comparison.problem(format!("{}: {faults}", case.name)),
        }
    }
    comparison.problems().into_iter().map(|problem| format!("{}: {problem}", fixture.name())).collect()
}
