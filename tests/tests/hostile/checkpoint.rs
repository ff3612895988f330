//! Damaged checkpoints.

use std::fs;
use std::path::Path;

use llamac_compiler::driver::{self, CompileOptions, Silent};
use llamac_compiler::output::Output;
use llamac_compiler::source::Checkpoint;
use llamac_runtime::{Engine, EngineOptions, Feed, Keep, Model, OpenOptions, Session, SessionOptions};
use llamac_tests::stored;
use tempfile::TempDir;

use super::limits::limited;
use super::random::{Random, splice};

/// Files that are damaged, one at a time.
const FILES: [(&str, &str); 6] = [
    ("tiny/gqa-f32", "model.safetensors"),
    ("tiny/rope-llama3-new", "config.json"),
    ("tiny/seqcls-pad", "config.json"),
    ("tiny/sharded-f32", "model.safetensors.index.json"),
    ("tiny/sharded-f32", "model-00002-of-00003.safetensors"),
    ("stories", "generation_config.json"),
];

/// A copy of a committed checkpoint.
pub fn copy(name: &str) -> TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name);
    let directory = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.ends_with(".safetensors") && !name.starts_with("golden")
            || name.ends_with("config.json")
            || name.ends_with("index.json")
        {
            fs::copy(entry.path(), directory.path().join(name)).unwrap();
        }
    }
    directory
}

/// Opens a checkpoint in which `file` may be damaged: its bytes can be read, or its faults name a file, and a value
/// that is wrong by its key.
fn open(directory: &Path, file: &str) -> Option<Checkpoint> {
    let bytes = fs::metadata(directory.join(file)).unwrap().len();
    match limited(bytes as usize, || Checkpoint::open(directory, None)) {
        Ok(checkpoint) => {
            assert!(checkpoint.tensors.keys().all(|name| checkpoint.bytes(name).is_some()));
            Some(checkpoint)
        }
        Err(faults) => {
            assert!(!faults.is_empty());
            for fault in faults.iter() {
                let at = fault.at.as_deref().unwrap_or_default();
                let (file, key) = at.split_once(": ").unwrap_or((at, ""));
                assert!(file.contains("config.json") || file.contains(".safetensors"), "{fault}");
                // Invalid JSON has a line and a column instead; a container may be cut anywhere.
                let without_key = [101, 200, 201, 207].contains(&fault.code.number());
                let counted = fault.message.as_ref().is_some_and(|m| m.ends_with("more such faults"));
                assert!(!key.is_empty() || without_key || counted, "{fault}");
            }
            None
        }
    }
}

/// Compiles `checkpoint` and computes a token.
fn run(checkpoint: &Checkpoint, weights: &str) -> Result<(), String> {
    let output = Output::temporary().map_err(|e| e.to_string())?;
    let options = CompileOptions { threads: 1, ..stored(weights) };
    driver::compile(checkpoint, &options, &output, &Silent).map_err(|e| e.to_string())?;
    let options = OpenOptions { verify: true, threads: 1 };
    let model = Model::from_file(output.file(), Path::new("artifact"), options).map_err(|e| e.to_string())?;
    token(&model)
}

/// Computes two tokens.
pub fn token(model: &std::sync::Arc<Model>) -> Result<(), String> {
    let mut engine = Engine::new(model, EngineOptions { threads: 1, chunk: 4, compute: None })
        .map_err(|e| e.to_string())?;
    let session = Session::new(model, SessionOptions { capacity: 4, kv: None });
    let mut session = session.map_err(|e| e.to_string())?;
    let mut feeds = [Feed::ids(&mut session, &[0, 1], Keep::All)];
    let outputs = engine.forward_with_hidden_states(&mut feeds).map_err(|e| e.to_string())?;
    assert_eq!(outputs.feed(0).len(), 2 * model.output_width());
    Ok(())
}

/// The header of a safetensors file ends here.
pub fn header_end(bytes: &[u8]) -> usize {
    8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize
}

/// The bytes of a file that say what it is: all of a JSON file, the header of another.
fn described(file: &str, bytes: &[u8]) -> usize {
    if file.ends_with(".json") { bytes.len() } else { header_end(bytes) }
}

#[test]
fn truncated_files_are_refused() {
    for (name, file) in FILES {
        let directory = copy(name);
        let path = directory.path().join(file);
        let bytes = fs::read(&path).unwrap();
        // Past the last brace of a JSON file, nothing is lost.
        let end = if file.ends_with(".json") { bytes.trim_ascii_end().len() } else { bytes.len() };
        let head = described(file, &bytes).min(end);
        for i in 0..64 {
            for length in [i * end / 64, i * head / 64] {
                fs::write(&path, &bytes[..length]).unwrap();
                assert!(open(directory.path(), file).is_none(), "{name}/{file} of {length} bytes");
            }
        }
        fs::write(&path, &bytes).unwrap();
        assert!(open(directory.path(), file).is_some());
    }
}

#[test]
fn flipped_bits_never_panic() {
    let mut random = Random(1);
    for (name, file) in FILES {
        let directory = copy(name);
        let path = directory.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        let end = described(file, &bytes);
        let mut opened = 0;
        for _ in 0..2000 {
            random.flip(&mut bytes, end, |bytes, bit| {
                fs::write(&path, bytes).unwrap();
                if let Some(checkpoint) = open(directory.path(), file) {
                    opened += 1;
                    if opened % 16 == 1 {
                        run(&checkpoint, "as-is").unwrap_or_else(|e| panic!("{name}/{file}, bit {bit}: {e}"));
                    }
                }
            });
        }
        assert!(opened < 1500, "{name}/{file}: {opened} of 2000 are read");
    }
}

#[test]
fn spliced_numbers_and_words_never_panic() {
    let mut random = Random(2);
    for (name, file) in FILES {
        let directory = copy(name);
        let path = directory.path().join(file);
        let bytes = fs::read(&path).unwrap();
        let end = described(file, &bytes);
        for i in 0..400 {
            fs::write(&path, splice(&mut random, &bytes, end)).unwrap();
            if let Some(checkpoint) = open(directory.path(), file).filter(|_| i % 8 == 0) {
                run(&checkpoint, "as-is").unwrap_or_else(|e| panic!("{name}/{file}: {e}"));
            }
        }
    }
}

/// Weights are numbers, whatever they are: also infinite ones and none.
#[test]
fn damaged_weights_are_computed_with() {
    let mut random = Random(3);
    for name in ["gqa-f32", "gqa3-bf16", "all-bias-f16"] {
        let directory = copy(&format!("tiny/{name}"));
        let path = directory.path().join("model.safetensors");
        let sound = fs::read(&path).unwrap();
        let start = header_end(&sound);
        for i in 0..40 {
            let mut bytes = sound.clone();
            for _ in 0..1 << (i % 12) {
                let bit = random.below((bytes.len() - start) * 8);
                bytes[start + bit / 8] ^= 1 << (bit % 8);
            }
            fs::write(&path, &bytes).unwrap();
            run(&Checkpoint::open(directory.path(), None).unwrap(), "as-is")
                .unwrap_or_else(|e| panic!("{e}"));
        }
        for byte in [0x00, 0x7F, 0xFF] {
            let mut bytes = sound.clone();
            bytes[start..].fill(byte);
            fs::write(&path, &bytes).unwrap();
            let checkpoint = Checkpoint::open(directory.path(), None).unwrap();
            for weights in ["as-is", "f32", "f16", "bf16"] {
                if let Err(fault) = run(&checkpoint, weights) {
                    // What is beyond the numbers of f16 cannot be narrowed to it.
                    assert!(weights == "f16" && fault.contains("E0208"), "{name}: {fault}");
                }
            }
        }
    }
}

/// Headers and indices that say more than they are worth: a few letters for an allocation each.
#[test]
fn large_files_of_nothing_take_little_memory() {
    let write = |name: &str, file: &str, bytes: &[u8]| {
        let directory = copy(name);
        fs::write(directory.path().join(file), bytes).unwrap();
        assert!(open(directory.path(), file).is_none(), "{name}/{file} of {} bytes", bytes.len());
    };
    let header = |json: String| [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    let many = |n: usize, each: &dyn Fn(usize) -> String| (0..n).map(each).collect::<Vec<_>>().join(",");
    let entry = r#"{"dtype":"U8","shape":[],"data_offsets":[0,0]}"#;
    for json in [
        format!(
            r#"{{"a":{{"dtype":"U8","shape":[{}],"data_offsets":[0,0]}}}}"#,
            many(8 << 20, &|_| "0".into())
        ),
        format!("{{{}}}", many(400_000, &|i| format!(r#""{i}":{entry}"#))),
        format!("{{{}}}", many(1 << 20, &|_| format!(r#""a":{}"#, 0))),
        format!(r#"{{"__metadata__":{{{}}}}}"#, many(1 << 20, &|i| format!(r#""{i}":"""#))),
        format!(r#"{{"a":{}"#, "[".repeat(16 << 20)),
        " ".repeat(16 << 20),
    ] {
        write("tiny/gqa-f32", "model.safetensors", &header(json));
    }
    for length in [0, 1, 99_999_999, 100_000_001, u64::MAX - 8, u64::MAX] {
        write("tiny/gqa-f32", "model.safetensors", &[&length.to_le_bytes()[..], b"{}"].concat());
    }
    for index in [
        format!(r#"{{"weight_map":{{{}}}}}"#, many(100_000, &|i| format!(r#""{i}":"m""#))),
        format!(r#"{{"weight_map":{{{}}}}}"#, many(100_000, &|i| format!(r#""{i}":"{i}""#))),
        format!(r#"{{"weight_map":{}"#, "{\"a\":".repeat(200_000)),
        format!(r#"{{"metadata":[{}],"weight_map":{{}}}}"#, many(1_000_000, &|_| "0".into())),
    ] {
        write("tiny/sharded-f32", "model.safetensors.index.json", index.as_bytes());
    }
    for config in [
        format!(r#"{{"model_type":"llama","a":[{}]}}"#, many(1_000_000, &|_| "0".into())),
        format!(r#"{{"model_type":"llama",{}}}"#, many(200_000, &|i| format!(r#""{i}":0"#))),
        format!(r#"{{"model_type":"llama","id2label":{{{}}}}}"#, many(100_000, &|i| format!(r#""{i}":"""#))),
        format!(r#"{{"model_type":"llama","num_labels":{}}}"#, 1_000_000),
        format!(
            r#"{{"model_type":"llama","rope_scaling":{{"type":"longrope","long_factor":[{}]}}}}"#,
            many(900_000, &|_| "1".into())
        ),
        "[".repeat(2 << 20),
        " ".repeat(3 << 20),
    ] {
        write("tiny/gqa-f32", "config.json", config.as_bytes());
    }
}
