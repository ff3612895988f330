//! Damaged adapters over a sound checkpoint.

use std::fs;
use std::path::Path;

use llamac_compiler::source::{AdapterSources, Checkpoint, Head, LoraSource};
use llamac_compiler::weights::{Block, WeightReader};
use llamac_plan::diagnostic::{Code, Diagnostics};
use llamac_tests::golden::fixtures;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use super::limits::limited;
use super::random::{Random, splice};

/// Opens the checkpoint with the adapter in `folder`: it opens, or every fault names a place.
fn open(base: &Path, folder: &Path, bytes: usize) -> bool {
    let source = LoraSource { path: folder.to_owned(), scale: 1.0 };
    opened(base, &AdapterSources { loras: vec![source], soft_prompt: None }, bytes)
}

fn opened(base: &Path, adapters: &AdapterSources, bytes: usize) -> bool {
    let opened = limited(bytes, || Checkpoint::open_adapted(base, None, adapters, &mut Vec::new()));
    if let Err(faults) = &opened {
        assert!(faults.iter().all(|fault| fault.at.is_some()), "{faults}");
    }
    opened.is_ok()
}

/// Opens the checkpoint with the soft prompt in `folder`, likewise.
fn open_prompt(base: &Path, folder: &Path, bytes: usize) -> bool {
    opened(base, &AdapterSources { loras: Vec::new(), soft_prompt: Some(folder.to_owned()) }, bytes)
}

#[test]
fn damaged_adapters_are_read_or_refused() {
    damage(7, "adapters", &["rslora-patterns", "tokens", "reward", "dora"], open);
}

#[test]
fn damaged_soft_prompts_are_read_or_refused() {
    damage(8, "soft-prompts", &["prompt", "p-tuning", "prefix", "prefix-reward"], open_prompt);
}

/// Opens fixtures of `kind` for one checkpoint after damaging them in many ways.
fn damage(seed: u64, kind: &str, names: &[&str], open: fn(&Path, &Path, usize) -> bool) {
    let mut random = Random(seed);
    let [mut opened, mut refused] = [0, 0];
    let base = fixtures().join("tiny/gqa-f32");
    for name in names {
        let folder = tempfile::tempdir().unwrap();
        let files = ["adapter_config.json", "adapter_model.safetensors"];
        let read = |file: &str| fs::read(fixtures().join(kind).join(name).join(file)).unwrap();
        let [config, weights] = files.map(read);
        let write = |file: &str, bytes: &[u8]| fs::write(folder.path().join(file), bytes).unwrap();
        let header = 8 + u64::from_le_bytes(*weights.first_chunk().unwrap()) as usize;
        let mut count = |ok: bool| if ok { opened += 1 } else { refused += 1 };
        write(files[1], &weights);
        for _ in 0..60 {
            write(files[0], &splice(&mut random, &config, config.len()));
            count(open(&base, folder.path(), weights.len()));
        }
        write(files[0], &config);
        for _ in 0..60 {
            write(files[1], &splice(&mut random, &weights, header));
            count(open(&base, folder.path(), weights.len()));
            random.flip(&mut weights.clone(), header, |bytes, _| write(files[1], bytes));
            count(open(&base, folder.path(), weights.len()));
        }
        write(files[1], &weights[..weights.len() / 2]);
        count(open(&base, folder.path(), weights.len()));
    }
    assert!(opened > 20 && refused > 100, "{opened} opened, {refused} refused");
}

/// Patterns that a backtracking engine would never be done with, and ones that would be too large.
#[test]
fn patterns_take_bounded_time() {
    let folder = tempfile::tempdir().unwrap();
    let from = fixtures().join("adapters/lora");
    fs::copy(from.join("adapter_model.safetensors"), folder.path().join("adapter_model.safetensors"))
        .unwrap();
    let base = fixtures().join("tiny/gqa-f32");
    for (pattern, reads) in [("(.*)*(.*)*(.*)*x", true), ("a{1000}{1000}{1000}", false), ("(?=q)", false)] {
        let config = serde_json::json!({"peft_type": "LORA", "r": 4, "rank_pattern": {pattern: 4}});
        fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
        assert_eq!(open(&base, folder.path(), 1 << 16), reads, "{pattern}");
    }
}

/// An adapter's fixture for `gqa-f32` with more tensors of zeros, and members of its configuration changed.
fn changed(name: &str, tensors: &[(&str, [usize; 2])], members: &Value) -> tempfile::TempDir {
    let from = fixtures().join("adapters").join(name);
    let folder = tempfile::tempdir().unwrap();
    let mut config: Value =
        serde_json::from_slice(&fs::read(from.join("adapter_config.json")).unwrap()).unwrap();
    config.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    let bytes = fs::read(from.join("adapter_model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let zeros: Vec<(String, [usize; 2], Vec<u8>)> = tensors
        .iter()
        .map(|(name, shape)| ((*name).to_owned(), *shape, vec![0; 4 * shape[0] * shape[1]]))
        .collect();
    let more = zeros.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap())
    });
    let views: Vec<(&str, TensorView<'_>)> = file.iter().chain(more).collect();
    let text = safetensors::serialize(views, None).unwrap();
    fs::write(folder.path().join("adapter_model.safetensors"), text).unwrap();
    folder
}

/// Opens `gqa-f32` with the adapter in `folder`.
fn adapted(folder: &Path, head: Option<Head>) -> Result<Checkpoint, Diagnostics> {
    let loras = vec![LoraSource { path: folder.to_owned(), scale: 1.0 }];
    let sources = AdapterSources { loras, soft_prompt: None };
    Checkpoint::open_adapted(&fixtures().join("tiny/gqa-f32"), head, &sources, &mut Vec::new())
}

/// What an adapter adds to a head that the base does not have is not left out without a word.
#[test]
fn a_lora_of_a_head_that_is_not_there() {
    let tensors =
        [("base_model.model.score.lora_A.weight", [4, 32]), ("base_model.model.score.lora_B.weight", [2, 4])];
    let folder = changed("lora", &tensors, &json!({"task_type": null}));
    let faults = adapted(folder.path(), None).unwrap_err();
    assert!(faults.iter().any(|fault| fault.code == Code::MissingHead), "{faults}");
    assert_eq!(adapted(folder.path(), Some(Head::CausalLm)).unwrap().head, Head::CausalLm);
}

#[test]
fn rows_that_are_listed_and_not_there() {
    for listed in [json!([5]), json!({"embed_tokens": [5]}), json!({"lm_head": [5]})] {
        let folder = changed("lora", &[], &json!({"trainable_token_indices": listed}));
        let faults = adapted(folder.path(), None).unwrap_err().to_string();
        assert!(
            faults.contains("trainable_token_indices lists 1 rows that the adapter does not have"),
            "{faults}"
        );
    }
    let folder = changed("lora", &[], &json!({"trainable_token_indices": {"embed_tokens": []}}));
    adapted(folder.path(), None).unwrap();
}

/// Finite numbers whose merge is infinite are no weight.
#[test]
fn scales_beyond_all_bounds() {
    let folder = changed("lora", &[], &json!({"lora_alpha": 1e308}));
    let checkpoint = adapted(folder.path(), None).unwrap();
    let (_, module) = checkpoint.adapted.first_key_value().unwrap();
    let weight = &module.weight;
    let mut bytes = vec![0; weight.elements() * weight.dtype().size()];
    let read = WeightReader::new(&checkpoint).read(weight, &Block::whole(weight), weight.dtype(), &mut bytes);
    let fault = read.unwrap_err().to_string();
    assert!(fault.contains("lora_A"), "{fault}");
}
