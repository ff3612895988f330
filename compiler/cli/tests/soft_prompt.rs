//! `--soft-prompt`, in the commands that take it.

mod support;

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;
use support::{Done, fixture, folder, llamac, load, save};

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
            ("prompt", "soft-prompts/prompt"),
            ("prefix", "soft-prompts/prefix"),
            ("reward", "soft-prompts/prefix-reward"),
        ];
        Self { folder: folder(), fixtures: fixtures.map(|(name, path)| (name, fixture(path))).to_vec() }
    }

    fn start(&self, line: &str) -> Done {
        let fixtures = self.fixtures.iter().map(|(name, path)| (*name, path.as_path()));
        let all: Vec<(&str, &Path)> = fixtures.chain([("f", self.folder.path())]).collect();
        llamac(line, &all)
    }

    /// What a command prints.
    fn run(&self, line: &str) -> String {
        self.start(&format!("-q {line}")).quiet()
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.run(line)).expect("JSON")
    }
}

#[test]
fn a_compiled_model_begins_with_its_prompt() {
    let places = Places::new();
    for (kind, name, tokens) in [("prompt", "embeddings", 5), ("prefix", "prefix", 6)] {
        let run = |model: &str| places.run(&format!("run {model} --ids 5,6,7 -n 6"));
        let expected = run(&format!("{{tiny}} --soft-prompt {{{kind}}}"));
        assert_ne!(expected, run("{tiny}"));
        places.run(&format!("compile {{tiny}} --soft-prompt {{{kind}}} --verify -o {{f}}/model.llamac"));
        assert_eq!(run("{f}/model.llamac"), expected);
        let facts = places.json("inspect {f}/model.llamac --json");
        assert_eq!(facts["soft_prompt"], serde_json::json!({"kind": name, "tokens": tokens}));
        let told = places.run("inspect {f}/model.llamac");
        assert!(told.contains(&format!("256 tokens, {tokens} of them a soft prompt ({name})")), "{told}");
        assert_ne!(run(&format!("{{tiny}} --lora {{lora}} --soft-prompt {{{kind}}}")), expected);
        // The rest of the context.
        let context = |line: &str| places.json(line)["context"].clone();
        let estimate = format!("estimate {{tiny}} --soft-prompt {{{kind}}} --json");
        assert_eq!(context(&estimate), 256 - tokens);
        let message = places.start(&format!("{estimate} --context 256")).failure(5);
        assert!(message.contains(&format!("at most {} tokens", 256 - tokens)), "{message}");
        places.run("bench {f}/model.llamac -p 8 -n 4 -r 1 --json");
    }
}

/// `eval` of either backend has PEFT's outputs, those of the prompt's own rows too.
#[test]
fn eval_is_the_forward_of_peft() {
    let places = Places::new();
    for (kind, case, positions) in [
        ("prompt", "left-padded", false),
        ("prompt", "positions", true),
        ("prefix", "positions", true),
        ("reward", "right-padded", false),
    ] {
        let folder = &places.fixtures.iter().find(|(name, _)| *name == kind).expect("a fixture").1;
        let golden = std::fs::read(folder.join("golden.safetensors")).expect("goldens");
        let golden = SafeTensors::deserialize(&golden).expect("a safetensors file");
        let input = |name: &'static str| {
            let view = golden.tensor(&format!("{case}/{name}")).ok()?;
            Some((name, view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        };
        let inputs: Vec<_> =
            ["input_ids", "attention_mask", "position_ids"].into_iter().filter_map(input).collect();
        let inputs: Vec<_> =
            inputs.iter().map(|(n, d, shape, data)| (*n, *d, &shape[..], data.clone())).collect();
        assert_eq!(inputs.iter().any(|(name, ..)| *name == "position_ids"), positions);
        save(&places.folder.path().join("in"), &inputs);
        let expected = golden.tensor(&format!("{case}/logits")).expect("logits");
        let real = golden.tensor(&format!("{case}/attention_mask")).ok();
        for backend in ["native", "reference"] {
            let line = format!(
                "eval {{tiny}} --soft-prompt {{{kind}}} --backend {backend} --inputs {{f}}/in --outputs {{f}}/out"
            );
            let done = places.start(&line);
            assert_eq!((done.status, done.stdout.as_str()), (Some(0), ""), "{}", done.stderr);
            let ignored = kind == "prompt" && positions;
            assert_eq!(done.stderr.contains("position_ids"), ignored, "{}", done.stderr);
            let (shape, found) = load(&places.folder.path().join("out")).remove("logits").expect("logits");
            assert_eq!(shape, expected.shape(), "{kind} {case}");
            let wanted = expected.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
            let width = shape[shape.len() - 1];
            for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
                let padding = real.as_ref().filter(|_| shape.len() == 3).is_some_and(|mask| {
                    let (row, column) = (i / width / shape[1], i / width % shape[1]);
                    let seq = mask.shape()[1];
                    let text = (column + seq).checked_sub(shape[1]);
                    text.is_some_and(|text| mask.data()[(row * seq + text) * 8] == 0)
                });
                assert!(padding || (found - wanted).abs() <= 1e-4, "{kind} {case}: {found}, not {wanted}");
            }
        }
    }
}

#[test]
fn outputs_that_have_no_place_for_a_prompt_are_refused() {
    let places = Places::new();
    for target in ["onnx", "onnx-std", "onnx-ort"] {
        let line = format!("compile {{tiny}} --soft-prompt {{prompt}} --target {target} -o {{f}}/exported");
        let message = places.start(&line).failure(4);
        assert!(
            message.contains("error[E0803]") && message.contains("ONNX has no place for it"),
            "{message}"
        );
    }
    let message = places.start("convert {tiny} --soft-prompt {prefix} -o {f}/converted").failure(4);
    assert!(message.contains("error[E0803]"), "{message}");
    let left: Vec<_> = std::fs::read_dir(places.folder.path()).expect("a folder").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn adapters_are_told_from_each_other() {
    let places = Places::new();
    let message = places.start("run {tiny} --ids 1 --lora {prefix}").failure(4);
    assert!(message.contains("give it as --soft-prompt"), "{message}");
    let message = places.start("run {tiny} --ids 1 --soft-prompt {lora}").failure(4);
    assert!(message.contains("give it as --lora"), "{message}");
    places.run("compile {tiny} -o {f}/model.llamac");
    let message = places.start("run {f}/model.llamac --ids 1 --soft-prompt {prefix}").failure(2);
    assert!(message.contains("compile the checkpoint with --soft-prompt"), "{message}");
}
