//! Damaged adapters over a sound checkpoint.

use std::fs;
use std::path::Path;

use llamac_compiler::source::{AdapterSources, Checkpoint, LoraSource};
use llamac_tests::golden::fixtures;

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
