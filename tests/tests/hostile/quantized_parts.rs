//! Parts of quantized weights that could be taken for others, or left out without a word.

use std::fs;

use llamac_compiler::driver::{self, CompileOptions, Silent};
use llamac_compiler::output::Output;
use llamac_compiler::source::Checkpoint;
use llamac_plan::diagnostic::Code;
use llamac_tests::golden;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use super::quantized::{Files, LAYER, refused};

/// A fixture of compressed-tensors whose settings are `weights`, one after the other.
fn with_groups(name: &str, weights: &[Value]) -> Files {
    let group = |(n, weights): (usize, &Value)| (format!("group_{n}"), json!({"weights": weights}));
    let groups: serde_json::Map<String, Value> = weights.iter().enumerate().map(group).collect();
    Files::of(name).setting("config_groups", groups.into())
}

fn integers(bits: usize, group: usize, symmetric: bool) -> Value {
    json!({"num_bits": bits, "type": "int", "strategy": "group", "group_size": group, "symmetric": symmetric})
}

#[test]
fn codes_of_zero_that_the_settings_do_not_know() {
    let point = "mlp.down_proj.weight_zero_point";
    let symmetric = || with_groups("packed-4-act-order", &[integers(4, 16, true)]);
    refused(&symmetric(), Code::BadPackedWeight, &[point, "the weight is symmetric", "others"]);
    // Those that say nothing may be there.
    let mut files = symmetric();
    for (name, (.., bytes)) in &mut files.tensors {
        if name.ends_with("weight_zero_point") {
            bytes.fill(0x88);
        }
    }
    let folder = files.write();
    assert!(Checkpoint::open(folder.path(), None).unwrap().ignored.is_empty());
    // Of several groups, none is one with zeros.
    let groups = [integers(4, 16, true), integers(8, 16, true)];
    let expected = "parts of one of the config_groups: 4 bits in words in groups of 16; 8 bits in words";
    let found = "weight_scale BF16 [96, 4], weight_zero_point I32 [12, 4]";
    let files = with_groups("packed-4-act-order", &groups);
    refused(&files, Code::BadPackedWeight, &["weight_packed", expected]);
    assert!(files.faults().to_string().contains(found), "{}", files.faults());
    let missing = files_without(Files::of("int8-groups"), "weight_zero_point");
    refused(&missing, Code::MissingTensor, &["weight_zero_point", "in_features 96 / group_size 32"]);
}

/// The files without all parts called `part`.
fn files_without(mut files: Files, part: &str) -> Files {
    files.tensors.retain(|name, _| !name.ends_with(part));
    files
}

#[test]
fn groups_of_settings_that_mean_different_things() {
    let blocks = |columns: usize| {
        let sizes = [16, columns];
        json!({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": sizes})
    };
    let tensor = json!({"num_bits": 8, "type": "float", "strategy": "tensor"});
    let channel = json!({"num_bits": 8, "type": "float", "strategy": "channel"});
    let groups = [blocks(32), blocks(40), tensor, channel];
    let files = with_groups("float8-mixed", &groups);
    refused(&files, Code::BadPackedWeight, &["k_proj.weight_scale", "several of them"]);
}

#[test]
fn an_order_of_columns_that_is_missing() {
    let missing = Files::of("gptq-4-act-order").without("mlp.up_proj.g_idx");
    refused(&missing, Code::MissingTensor, &["mlp.up_proj.g_idx", "in_features 64, by desc_act"]);
    let own = json!({"+:.*up_proj.*": {"desc_act": true}});
    let missing = Files::of("gptq-4").without("mlp.up_proj.g_idx").setting("dynamic", own);
    refused(&missing, Code::MissingTensor, &["mlp.up_proj.g_idx"]);
    let missing = Files::of("packed-4-act-order").without("mlp.up_proj.weight_g_idx");
    refused(&missing, Code::MissingTensor, &["mlp.up_proj.weight_g_idx", "in_features 64, by actorder"]);
    // Groups in their own order need none.
    for files in [files_without(Files::of("gptq-4"), "g_idx"), Files::of("gptq-3")] {
        Checkpoint::open(files.write().path(), None).unwrap();
    }
}

#[test]
fn sizes_of_groups_with_the_right_number_of_groups() {
    for fixture in ["awq", "gptq-3"] {
        let files = Files::of(fixture).setting("group_size", json!(40));
        refused(&files, Code::InconsistentConfig, &["a group_size that divides in_features", "40"]);
    }
    let files = with_groups("int8-groups", &[integers(8, 40, false)]);
    refused(&files, Code::InconsistentConfig, &["a group_size that divides in_features"]);
    // The numbers of groups say which they are.
    Checkpoint::open(Files::of("gptq-4").setting("group_size", json!(40)).write().path(), None).unwrap();
}

#[test]
fn weights_that_are_there_twice() {
    let place = format!("{LAYER}self_attn.q_proj");
    let mut files = Files::of("gptq-4");
    let copy = files.tensors[&format!("{place}.qweight")].clone();
    files.tensors.insert("layers.0.self_attn.q_proj.qweight".to_owned(), copy);
    refused(&files, Code::DuplicateTensor, &["qweight of model.layers.0.self_attn.q_proj.weight, too"]);
    let plain = (Dtype::F16, vec![64, 64], vec![0; 64 * 64 * 2]);
    let mut files = Files::of("gptq-4");
    files.tensors.insert(format!("{place}.weight"), plain.clone());
    refused(&files, Code::BadPackedWeight, &["stored in F16, and model.layers.0.self_attn.q_proj.qweight"]);
    for fixture in ["fp8", "fbgemm", "int8", "bnb-8"] {
        let mut files = Files::of(fixture);
        files.tensors.insert(format!("{place}.weight"), plain.clone());
        refused(&files, Code::BadPackedWeight, &["q_proj.weight", "nothing says which of the two counts"]);
    }
    let mut files = Files::of("fp8");
    for (dtype, shape, bytes) in files.tensors.values_mut().filter(|(dtype, ..)| *dtype == Dtype::F8_E4M3) {
        *dtype = Dtype::F16;
        *bytes = vec![0; 2 * shape[0] * shape[1]];
    }
    files.config.as_object_mut().unwrap().remove("quantization_config");
    let words = ["mlp.down_proj.weight_scale_inv is a part of a quantized weight"];
    refused(&files, Code::MissingConfigKey, &words);
}

#[test]
fn parts_without_a_use_are_told() {
    let mut files = Files::of("gptq-4");
    let mut add = |name: &str, of: &str| {
        let part = files.tensors[&format!("{LAYER}{of}")].clone();
        files.tensors.insert(name.to_owned(), part);
    };
    add("model.layers.5.mlp.up_proj.qweight", "mlp.up_proj.qweight");
    add("model.layers.0.mlp.up_proj.weight_scale", "mlp.up_proj.scales");
    add("model.norm.scales", "mlp.up_proj.scales");
    add("model.layers.0.mlp.up_proj.input_scale", "mlp.up_proj.scales");
    let folder = files.write();
    let mut checkpoint = Checkpoint::open(folder.path(), None).unwrap();
    checkpoint.ignored.sort();
    let ignored = [
        "model.layers.0.mlp.up_proj.weight_scale",
        "model.layers.5.mlp.up_proj.qweight",
        "model.norm.scales",
    ];
    assert_eq!(checkpoint.ignored, ignored);
    let warnings = checkpoint.warnings.join("\n");
    assert!(warnings.contains("model.layers.5.mlp.up_proj.qweight (config.json says num_hidden_layers = 1)"));
    assert!(warnings.contains("2 tensors are ignored: model.layers.0.mlp.up_proj.weight_scale and others"));
}

#[test]
fn messages_name_what_is_wrong() {
    let files = Files::of("gptq-4").setting("group_size", Value::Null);
    refused(&files, Code::WrongShape, &["one group a row, as group_size is −1 or missing"]);
    let files = Files::of("gptq-4").setting("group_size", json!(16));
    refused(&files, Code::WrongShape, &["do weights and quantization_config come from the same checkpoint?"]);
    refused(
        &Files::of("awq").setting("version", json!("gemv")),
        Code::UnsupportedConfig,
        &["expected \"gemm\""],
    );
    for wrong in [json!({"g": 3}), json!({"g": {"weights": 3}})] {
        let files = Files::of("int8").setting("config_groups", wrong);
        refused(&files, Code::BadConfigValue, &["quantization_config.config_groups.g", "found    3"]);
    }
    let sparse = json!({"g": {"format": "marlin-24", "weights": integers(4, 32, true)}});
    let files = Files::of("packed-4").setting("config_groups", sparse);
    refused(&files, Code::UnsupportedConfig, &["config_groups.g.format", "marlin-24"]);
    let ordered = json!({"num_bits": 4, "type": "int", "group_size": 32, "actorder": "random"});
    let files = with_groups("packed-4", &[ordered]);
    refused(&files, Code::UnsupportedConfig, &["actorder", "one of group, dynamic, weight, static"]);
    let shape = |dtype, bytes: Vec<u8>| {
        Files::of("packed-4").with("mlp.up_proj.weight_shape", move |part| {
            *part = (dtype, vec![2], bytes.clone());
        })
    };
    let words = |numbers: [i32; 2]| numbers.map(i32::to_le_bytes).concat();
    Checkpoint::open(shape(Dtype::I32, words([72, 80])).write().path(), None).unwrap();
    refused(&shape(Dtype::I32, words([72, 81])), Code::BadPackedWeight, &["[72, 80]", "[72, 81]"]);
    refused(&shape(Dtype::F32, words([0, 0])), Code::WrongDtype, &["I64 or I32", "F32"]);
    let files = Files::of("bnb-nf4").without("mlp.up_proj.weight.nested_absmax");
    refused(&files, Code::MissingTensor, &["weight.nested_absmax", "weight.absmax, which is in bytes"]);
}

/// What is wrong in every layer is told once, and settings that are wrong for all of the weights.
#[test]
fn one_fault_of_several_layers() {
    let place = golden::story_of(&golden::fixtures().join("quantized/stories-gptq"));
    let path = place.path().join("quantized.safetensors");
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let turned = file.iter().map(|(name, view)| {
        let shape = view.shape().to_vec();
        let shape = if name.ends_with("up_proj.qzeros") { shape.into_iter().rev().collect() } else { shape };
        (name, TensorView::new(view.dtype(), shape, view.data()).unwrap())
    });
    fs::write(&path, safetensors::serialize(turned, None).unwrap()).unwrap();
    let faults = Checkpoint::open(place.path(), None).unwrap_err();
    let of_layers: Vec<_> = faults.iter().map(|fault| fault.message.as_deref()).collect();
    assert_eq!(of_layers, [Some("the same in layers 1 to 3")], "{faults}");

    let path = place.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["quantization_config"]["group_size"] = json!(128);
    fs::write(&path, config.to_string()).unwrap();
    let faults = Checkpoint::open(place.path(), None).unwrap_err();
    let of_all: Vec<_> = faults.iter().map(|fault| fault.message.as_deref()).collect();
    let words = "and 27 more: no quantized weight is as quantization_config says";
    assert_eq!(of_all, [Some(words)], "{faults}");
}

/// What is said of weights in another method's codes: a scale that half precision does not hold is seen wherever
/// it is.
#[test]
fn losses_outside_of_the_rows_that_are_looked_at() {
    let requantized = |rows: &[usize]| {
        let mut files = Files::of("int8");
        let (.., scales) = files.tensors.get_mut(&format!("{LAYER}mlp.up_proj.weight_scale")).unwrap();
        for row in rows {
            // Below what half precision has, in bfloat16.
            scales[2 * row..2 * row + 2].copy_from_slice(&0x2F81u16.to_le_bytes());
        }
        let folder = files.write();
        let checkpoint = Checkpoint::open(folder.path(), None).unwrap();
        let output = Output::temporary().unwrap();
        let compiled = driver::compile(&checkpoint, &CompileOptions::default(), &output, &Silent).unwrap();
        let [of] = &compiled.requantized[..] else { panic!("one format: {:?}", compiled.requantized) };
        (of.is_lossless(), of.error > 0.0, of.rounded)
    };
    assert_eq!(requantized(&[]), (true, false, 0));
    // Of 96 rows, every third is looked at.
    assert_eq!(requantized(&[1]), (false, false, 1));
    assert_eq!(requantized(&[0, 1]), (false, true, 2));
}

/// Numbers that are not finite are blamed on the tensor that has them.
#[test]
fn scales_that_are_no_number() {
    let mut half = Files::of("gptq-4").with("mlp.up_proj.scales", |(.., bytes)| bytes[11] = 0x7C);
    half = half.with("mlp.up_proj.scales", |(.., bytes)| bytes[10] = 0);
    let map = Files::of("bnb-nf4").with("mlp.up_proj.weight.quant_map", |(.., bytes)| {
        bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    for (files, place, value) in
        [(half, "mlp.up_proj.scales", "inf"), (map, "up_proj.weight.quant_map", "NaN")]
    {
        let folder = files.write();
        let checkpoint = Checkpoint::open(folder.path(), None).unwrap();
        let output = Output::temporary().unwrap();
        let faults = driver::compile(&checkpoint, &CompileOptions::default(), &output, &Silent).unwrap_err();
        let text = faults.to_string();
        assert!(
            text.contains(place) && text.contains(value) && text.contains("take it from its source"),
            "{text}"
        );
    }
}
