//! Quantized weights whose parts are missing, contradict the configuration or each other, or are damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use llamac_compiler::source::Checkpoint;
use llamac_compiler::weights::{Block, WeightReader};
use llamac_plan::diagnostic::{Code, Diagnostics};
use llamac_tests::golden;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::limits::limited;
use super::random::Random;

/// A fixture in memory.
pub struct Files {
    pub config: Value,
    pub tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

pub const LAYER: &str = "model.layers.0.";

impl Files {
    pub fn of(name: &str) -> Self {
        let folder = golden::fixtures().join("quantized").join(name);
        let bytes = fs::read(folder.join("model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |(name, view): (&str, TensorView<'_>)| {
            (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        };
        let tensors = file.iter().map(tensor).collect();
        let config = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        Self { config, tensors }
    }

    pub fn without(mut self, tensor: &str) -> Self {
        assert!(self.tensors.remove(&format!("{LAYER}{tensor}")).is_some(), "{tensor}");
        self
    }

    pub fn with(mut self, tensor: &str, change: impl Fn(&mut (Dtype, Vec<usize>, Vec<u8>))) -> Self {
        change(self.tensors.get_mut(&format!("{LAYER}{tensor}")).unwrap_or_else(|| panic!("{tensor}")));
        self
    }

    pub fn setting(mut self, key: &str, value: Value) -> Self {
        self.config["quantization_config"][key] = value;
        self
    }

    pub fn write(&self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), self.config.to_string()).unwrap();
        let views = self.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        fs::write(folder.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap())
            .unwrap();
        folder
    }

    pub fn faults(&self) -> Diagnostics {
        let folder = self.write();
        Checkpoint::open(folder.path(), None).expect_err("something is wrong")
    }
}

#[test]
fn settings_that_fit_no_weight_are_one_fault() {
    for (fixture, key, value) in
        [("gptq-4", "bits", json!(8)), ("gptq-4", "group_size", json!(16)), ("awq", "group_size", json!(16))]
    {
        let files = Files::of(fixture).setting(key, value);
        let quantized = files.tensors.keys().filter(|name| name.ends_with(".scales"));
        let more = quantized.count() - 1;
        let faults = files.faults();
        assert_eq!(faults.iter().count(), 1, "{fixture}: {faults}");
        let words = format!("and {more} more: no quantized weight is as quantization_config says");
        assert!(faults.to_string().contains(&words), "{fixture}: {faults}");
    }
    // What is wrong with two of the weights is told of both.
    let files = Files::of("gptq-4").with("self_attn.q_proj.qzeros", |(dtype, ..)| *dtype = Dtype::F32);
    let faults = files.with("mlp.up_proj.qzeros", |(dtype, ..)| *dtype = Dtype::F32).faults().to_string();
    assert!(faults.contains("q_proj.qzeros") && faults.contains("up_proj.qzeros"), "{faults}");
}

/// Fails unless the only kind of fault is `code`, and the first says `words`.
pub fn refused(files: &Files, code: Code, words: &[&str]) {
    let faults = files.faults();
    assert!(faults.iter().all(|fault| fault.code == code), "{faults}");
    let first = faults.iter().next().unwrap().to_string();
    for word in words {
        assert!(first.contains(word), "no {word:?} in\n{first}");
    }
}

#[test]
fn parts_that_are_missing_or_of_another_size() {
    refused(
        &Files::of("gptq-4").without("mlp.up_proj.scales"),
        Code::MissingTensor,
        &["mlp.up_proj.scales", "[2, 96]  (in_features 64 / group_size 32, out_features 96)"],
    );
    refused(
        &Files::of("gptq-4").setting("bits", json!(8)),
        Code::WrongShape,
        &["qweight", "in_features 96 × bits 8 / 32", "[24, 64]", "[12, 64]"],
    );
    refused(
        &Files::of("gptq-4").setting("group_size", json!(16)),
        Code::WrongShape,
        &["in_features 96 / group_size 16"],
    );
    let floats = Files::of("gptq-4").with("self_attn.q_proj.qzeros", |(dtype, ..)| *dtype = Dtype::F32);
    refused(&floats, Code::WrongDtype, &["self_attn.q_proj.qzeros", "I32", "F32"]);
    refused(&Files::of("awq").without("self_attn.k_proj.qzeros"), Code::MissingTensor, &["qzeros"]);
    let turned = Files::of("awq").with("self_attn.o_proj.qweight", |(_, shape, _)| shape.reverse());
    refused(&turned, Code::WrongShape, &["self_attn.o_proj.qweight", "out_features 64 × bits 4 / 32"]);
    refused(
        &Files::of("fp8").without("mlp.down_proj.weight_scale_inv"),
        Code::MissingTensor,
        &["weight_scale_inv"],
    );
    refused(
        &Files::of("fp8").setting("weight_block_size", json!([64, 64])),
        Code::WrongShape,
        &["in_features 160 / 64, by weight_block_size"],
    );
    refused(
        &Files::of("fbgemm").without("self_attn.v_proj.weight_scale"),
        Code::MissingTensor,
        &["weight_scale"],
    );
    refused(&Files::of("bnb-8").without("mlp.gate_proj.SCB"), Code::MissingTensor, &["mlp.gate_proj.SCB"]);
    refused(
        &Files::of("bnb-nf4").without("mlp.up_proj.weight.quant_map"),
        Code::MissingTensor,
        &["quant_map"],
    );
    let state = "mlp.up_proj.weight.quant_state.bitsandbytes__nf4";
    refused(&Files::of("bnb-nf4").without(state), Code::MissingTensor, &[state]);
    refused(
        &Files::of("packed-4").without("self_attn.q_proj.weight_scale"),
        Code::MissingTensor,
        &["self_attn.q_proj.weight_scale", "by the strategy channel"],
    );
}

#[test]
fn parts_that_contradict_each_other() {
    for group in [2i32, -1, i32::MAX, i32::MIN] {
        let files = Files::of("gptq-4-act-order")
            .with("mlp.up_proj.g_idx", |(.., bytes)| bytes[12..16].copy_from_slice(&group.to_le_bytes()));
        let place = format!(
            "mlp.up_proj.g_idx[3]\n   expected a group from 0 to 1, of which there are scales\n   found    {group}"
        );
        let faults = files.faults().to_string();
        assert!(
            faults.contains("E0213") && faults.replace("    ", "  ").contains(&place.replace("    ", "  ")),
            "{faults}"
        );
    }
    let short = Files::of("gptq-4-act-order").with("mlp.up_proj.g_idx", |(_, shape, bytes)| {
        *shape = vec![63];
        bytes.truncate(63 * 4);
    });
    refused(&short, Code::WrongShape, &["I32 [64]", "I32 [63]"]);
    let other = Files::of("packed-4").with("mlp.up_proj.weight_shape", |(.., bytes)| bytes[0] += 1);
    refused(&other, Code::BadPackedWeight, &["mlp.up_proj.weight_shape", "[72, 80]", "[73, 80]"]);
    let column = Files::of("bnb-8").with("mlp.up_proj.weight_format", |(.., bytes)| bytes[0] = 1);
    refused(&column, Code::UnsupportedConfig, &["weight_format", "rows one after the other"]);
    let state = |from: &'static str, to: &'static str| {
        Files::of("bnb-nf4").with(
            "mlp.up_proj.weight.quant_state.bitsandbytes__nf4",
            move |(_, shape, bytes)| {
                *bytes = String::from_utf8(bytes.clone()).unwrap().replace(from, to).into_bytes();
                *shape = vec![bytes.len()];
            },
        )
    };
    refused(&state("}", ""), Code::BadJson, &["bitsandbytes__nf4"]);
    refused(&state("nested_offset", "offset"), Code::MissingConfigKey, &["nested_offset"]);
    refused(&state("\"blocksize\": 64", "\"blocksize\": 0"), Code::BadConfigValue, &["blocksize"]);
    refused(&state("\"blocksize\": 64", "\"blocksize\": 128"), Code::WrongShape, &["blocksize 128"]);
    refused(&state("[96, 64]", "[64, 96]"), Code::BadPackedWeight, &["[96, 64]"]);
}

#[test]
fn methods_and_options_are_refused_by_name() {
    let method = |name: Value| Files::of("gptq-4").setting("quant_method", name);
    let known = "gptq, awq, compressed-tensors, fp8, fbgemm_fp8, bitsandbytes";
    refused(&method(json!("hqq")), Code::UnsupportedConfig, &["method hqq cannot be read", known]);
    refused(&method(json!("gptqq")), Code::UnsupportedConfig, &["did you mean gptq?"]);
    refused(&method(json!(null)), Code::UnsupportedConfig, &["no quant_method", known]);
    refused(&method(json!(3)), Code::BadConfigValue, &["quantization_config.quant_method"]);
    for (fixture, key, value) in [
        ("gptq-4", "checkpoint_format", json!("marlin")),
        ("gptq-4", "bits", json!(5)),
        ("gptq-4", "is_marlin_format", json!(true)),
        ("awq", "version", json!("gemv")),
        ("awq", "bits", json!(8)),
        ("packed-4", "format", json!("marlin-24")),
        ("packed-4", "sparsity_config", json!({"format": "sparse-24-bitmask"})),
        ("fp8", "fmt", json!("e5m2")),
        ("bnb-nf4", "bnb_4bit_quant_storage", json!("bfloat16")),
    ] {
        refused(&Files::of(fixture).setting(key, value), Code::UnsupportedConfig, &[key]);
    }
    let mut files = Files::of("packed-4");
    files.config["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"] = json!(3);
    refused(&files, Code::UnsupportedConfig, &["config_groups.group_0.weights.num_bits", "one of 2, 4, 8"]);
    refused(&Files::of("gptq-4").setting("group_size", json!(0)), Code::BadConfigValue, &["group_size"]);
    let mut files = Files::of("gptq-4");
    files.config.as_object_mut().unwrap().remove("quantization_config");
    refused(&files, Code::MissingConfigKey, &["quantization_config", "nothing says how it was quantized"]);
    let files = Files::of("packed-4").setting("config_groups", json!({}));
    refused(&files, Code::MissingConfigKey, &["quantization_config", "nothing says how it was quantized"]);
}

/// Modules that a configuration lists as not quantized are not looked for in pieces, and told where they are.
#[test]
fn lists_of_plain_modules() {
    let listed =
        Files::of("awq").setting("modules_to_not_convert", json!(["lm_head", "model.layers.0.mlp.up_proj"]));
    let folder = listed.write();
    let checkpoint = Checkpoint::open(folder.path(), None).unwrap();
    assert_eq!(checkpoint.warnings.len(), 1, "{:?}", checkpoint.warnings);
    assert!(checkpoint.warnings[0].contains("model.layers.0.mlp.up_proj is listed as not quantized"));
    // The tensors say which are: one as any other beside those that are packed.
    let mut files = Files::of("awq");
    for part in ["qweight", "qzeros", "scales"] {
        files = files.without(&format!("mlp.up_proj.{part}"));
    }
    refused(&files, Code::MissingTensor, &["mlp.up_proj.weight"]);
    files
        .tensors
        .insert(format!("{LAYER}mlp.up_proj.weight"), (Dtype::F16, vec![96, 64], vec![0; 96 * 64 * 2]));
    let folder = files.write();
    let checkpoint = Checkpoint::open(folder.path(), None).unwrap();
    assert!(checkpoint.weights[&format!("{LAYER}mlp.up_proj.weight")].stored_codes().is_none());
}

/// Settings without a packed weight are not believed, and not without a word.
#[test]
fn settings_of_plain_weights() {
    let plain = |quantization: Value| {
        let place = tempfile::tempdir().unwrap();
        let folder = golden::fixtures().join("tiny/gqa3-bf16");
        fs::copy(folder.join("model.safetensors"), place.path().join("model.safetensors")).unwrap();
        let mut config: Value =
            serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        config["quantization_config"] = quantization;
        fs::write(place.path().join("config.json"), config.to_string()).unwrap();
        Checkpoint::open(place.path(), None).unwrap()
    };
    let settings = |name: &str| Files::of(name).config["quantization_config"].clone();
    for (name, method) in [
        ("gptq-4", "gptq"),
        ("awq", "awq"),
        ("packed-4", "compressed-tensors"),
        ("fp8", "fp8"),
        ("fbgemm", "fbgemm_fp8"),
        ("bnb-nf4", "bitsandbytes"),
    ] {
        let checkpoint = plain(settings(name));
        let expected = format!(
            "config.json says that {method} quantized the weights, and none is: they are read as they are"
        );
        assert_eq!(checkpoint.warnings, [expected]);
        assert!(!checkpoint.is_quantized());
        // What is converted or exported does not say so any more.
        let config: Value = serde_json::from_slice(&checkpoint.config_json).unwrap();
        assert_eq!(config.get("quantization_config"), None);
        assert_eq!(config["torch_dtype"], "bfloat16");
    }
    // Weights that were rounded and are not packed.
    let mut dense = settings("packed-4");
    dense["format"] = json!("dense");
    assert_eq!(plain(dense).warnings, [""; 0]);
}

/// Every weight of an opened model can be read.
fn read(checkpoint: &Checkpoint) {
    for weight in checkpoint.weights.values() {
        let mut bytes = vec![0; weight.elements() * weight.dtype().size()];
        let block = Block::whole(weight);
        WeightReader::new(checkpoint).read(weight, &block, weight.dtype(), &mut bytes).unwrap();
    }
}

#[test]
fn flipped_bits_never_panic() {
    let mut random = Random(17);
    let [mut opened, mut read_whole] = [0, 0];
    for name in ["gptq-4-act-order", "gptq-3", "awq", "packed-mixed", "float8-mixed", "bnb-nf4", "bnb-8"] {
        let folder = Files::of(name).write();
        let path = folder.path().join("model.safetensors");
        let sound = fs::read(&path).unwrap();
        let header = 8 + u64::from_le_bytes(*sound.first_chunk().unwrap()) as usize;
        let mut bytes = sound.clone();
        for n in 0..150 {
            // Headers, and data, of which most is codes.
            let end = if n % 2 == 0 { header } else { bytes.len() };
            random.flip(&mut bytes, end, |bytes, _| {
                fs::write(&path, bytes).unwrap();
                if let Ok(checkpoint) = open(folder.path(), bytes.len()) {
                    opened += 1;
                    if opened % 16 == 1 {
                        read(&checkpoint);
                        read_whole += 1;
                    }
                }
            });
        }
    }
    assert!(opened > 400 && read_whole > 25, "{opened} opened, {read_whole} read");
}

fn open(path: &Path, length: usize) -> Result<Checkpoint, Diagnostics> {
    let opened = limited(16 * length, || Checkpoint::open(path, None));
    if let Err(faults) = &opened {
        assert!(faults.iter().all(|fault| fault.at.is_some()), "{faults}");
    }
    opened
}
