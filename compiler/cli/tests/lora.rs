//! `--lora`, in the commands that take it.

mod support;

use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{fixture, folder, llamac, load};

/// The fixtures that the commands below speak of.
struct Places {
    folder: tempfile::TempDir,
    fixtures: Vec<(&'static str, PathBuf)>,
}

impl Places {
    fn new() -> Self {
        let fixtures = [
            ("tiny", "tiny/gqa-f32"),
            ("lora", "adapters/lora"),
            ("other", "adapters/rslora-patterns"),
            ("reward", "adapters/reward"),
        ];
        Self { folder: folder(), fixtures: fixtures.map(|(name, path)| (name, fixture(path))).to_vec() }
    }

    fn all(&self) -> Vec<(&str, &Path)> {
        let fixtures = self.fixtures.iter().map(|(name, path)| (*name, path.as_path()));
        fixtures.chain([("f", self.folder.path())]).collect()
    }

    /// What a command prints.
    fn run(&self, line: &str) -> String {
        llamac(&format!("-q {line}"), &self.all()).quiet()
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.run(line)).expect("JSON")
    }
}

#[test]
fn a_compiled_model_needs_no_adapter() {
    let places = Places::new();
    let tokens = |line: &str| places.run(&format!("{line} --ids 5,6,7 -n 6"));
    let merged = tokens("run {tiny} --lora {lora} --lora {other}=0.5");
    assert_ne!(merged, tokens("run {tiny}"));
    assert_ne!(merged, tokens("run {tiny} --lora {lora}"));
    places.run("compile {tiny} --lora {lora} --lora {other}=0.5 -o {f}/model.llamac");
    assert_eq!(tokens("run {f}/model.llamac"), merged);
    assert_eq!(tokens("run {tiny} --lora {lora}=0"), tokens("run {tiny}"));
    places.run("compile {tiny} --lora {lora} --verify -o {f}/verified.llamac");
    places.run("convert {tiny} --lora {lora} --lora {other}=0.5 -o {f}/merged");
    assert_eq!(tokens("run {f}/merged"), merged);
    assert!(places.run("inspect {tiny} --lora {lora}").contains("MergeLora 4"));
    let told = places.run("inspect {tiny} --lora {lora} --lora {other}=0.5");
    let [lora, other] = ["lora", "rslora-patterns"].map(|name| fixture(&format!("adapters/{name}")));
    for (path, scaled) in [(&lora, ""), (&other, ", scaled by 0.5")] {
        let row = format!("{}{scaled}", path.display());
        let is_row =
            |line: &str| line.strip_prefix("LoRA merged").is_some_and(|rest| rest.trim_start() == row);
        assert!(told.lines().any(is_row), "{row} in\n{told}");
    }
    let facts = places.json("inspect {tiny} --lora {other}=0.5 --json");
    let expected = serde_json::json!([{"path": other, "scale": 0.5}]);
    assert_eq!(facts["loras"], expected);
    let of = |line| places.json(line)["parameters"].clone();
    assert_eq!(of("estimate {tiny} --lora {lora} --json"), of("estimate {tiny} --json"));
}

#[test]
fn a_reward_adapter_makes_a_classifier() {
    let places = Places::new();
    places.run("compile {tiny} --lora {reward} -o {f}/reward.llamac");
    let facts = places.json("inspect {f}/reward.llamac --json");
    assert_eq!(facts["head"], "sequence-classification");
    assert_eq!(facts["labels"], serde_json::json!(["LABEL_0"]));
    places.run("compile {tiny} --lora {reward} --target onnx -o {f}/exported");
    places.run("convert {tiny} --lora {reward} -o {f}/merged");
    let merged = load(&places.folder.path().join("merged/model.safetensors"));
    assert_eq!(merged["score.weight"].0, [1, 32]);
    assert!(!merged.contains_key("lm_head.weight"));
}

#[test]
fn a_compiled_model_takes_no_adapter() {
    let places = Places::new();
    places.run("compile {tiny} -o {f}/model.llamac");
    let message = llamac("run {f}/model.llamac --ids 1 --lora {lora}", &places.all()).failure(2);
    assert!(message.contains("compile the checkpoint with --lora"), "{message}");
    let message = llamac("run {tiny} --ids 1 --lora {lora}=much", &places.all()).failure(2);
    assert!(message.contains("DIR=0.5"), "{message}");
}

#[test]
fn weights_stay_where_they_are_only_without_an_adapter() {
    let places = Places::new();
    for external in ["copy", "reference"] {
        let line = format!(
            "compile {{tiny}} --lora {{lora}} --target onnx --external-data {external} -o {{f}}/exported"
        );
        let message = llamac(&line, &places.all()).failure(2);
        assert!(message.contains("weights that adapters change"), "{message}");
    }
}
