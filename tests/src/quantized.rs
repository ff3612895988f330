//! What tests of quantized checkpoints of every kind share.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use llamac_compiler::driver::{self, ConvertOptions, Silent};
use llamac_compiler::hugging_face;
use llamac_compiler::model::{self, Logits, ModelOptions};
use llamac_compiler::output::Folder;
use llamac_compiler::passes::{Options, PassManager, Stage, WeightPolicy};
use llamac_compiler::reference;
use llamac_compiler::source::Checkpoint;
use llamac_compiler::target::onnx::Onnx;
use llamac_compiler::weights::{Block, WeightReader};
use llamac_ir::{DType, Weight, float8};
use llamac_plan::Compute;
use llamac_runtime::generate::{GenerateOptions, generate};
use llamac_runtime::{Engine, EngineOptions};
use ndarray::ArrayD;

use crate::compare::Comparison;
use crate::golden::Case;

/// The policy that `text` is.
pub fn policy(text: &str) -> WeightPolicy {
    text.parse().expect("a policy")
}

/// An engine's options, with products as `compute` says.
pub fn engine_options(compute: Compute) -> EngineOptions {
    EngineOptions { threads: 2, chunk: 32, compute: Some(compute) }
}

/// FNV-1a of 64 bits over the words of numbers.
pub fn hash(numbers: &[f32]) -> String {
    let word = |state: u64, x: &f32| (state ^ u64::from(x.to_bits())).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", numbers.iter().fold(0xcbf2_9ce4_8422_2325, word))
}

/// The hash of the numbers of a weight.
pub fn hash_of(checkpoint: &Checkpoint, weight: &Weight) -> String {
    let numbers = WeightReader::new(checkpoint).tensor(weight).expect("it can be read");
    hash(numbers.as_slice().expect("rows lie one after the other"))
}

/// The hashes of all weights, by name.
pub fn hashes(checkpoint: &Checkpoint) -> BTreeMap<String, String> {
    let hash = |(name, weight): (&String, &Weight)| (name.clone(), hash_of(checkpoint, weight));
    checkpoint.weights.iter().map(hash).collect()
}

/// The most likely tokens after `prompt`.
pub fn greedy(engine: &mut Engine, prompt: &[u32], max_new_tokens: usize) -> Vec<u32> {
    let options = GenerateOptions {
        max_new_tokens: Some(max_new_tokens as u64),
        do_sample: Some(false),
        eos_token_ids: Some(Vec::new()),
        ..GenerateOptions::default()
    };
    generate(engine, None, prompt, &options, |_| ControlFlow::Continue(())).expect("it runs").tokens
}

/// What `convert` makes of `checkpoint`, in a new folder in `place`.
pub fn converted(checkpoint: Checkpoint, place: &Path) -> Checkpoint {
    let out = place.join("out");
    let mut folder = Folder::create(&out, hugging_face::guard).expect("there is room");
    let options = ConvertOptions { max_shard_size: 5_000_000_000, threads: 2 };
    driver::convert(checkpoint, options, &mut folder, &Silent).unwrap_or_else(|e| panic!("{e}"));
    folder.publish().expect("there is room");
    Checkpoint::open(&out, None).unwrap_or_else(|e| panic!("{e}"))
}

/// Fails unless the graphs for every profile of ONNX compute what `case` says, and with weights as they are
/// what the reference does.
pub fn exports_compute_the_same(checkpoint: &Checkpoint, case: &Case, name: &str) {
    for (target, weights) in [
        (Onnx::PORTABLE, "f32"),
        (Onnx::STANDARD, "f32"),
        (Onnx::STANDARD, "as-is,embed_tokens=q8,lm_head=q8"),
        (Onnx::ORT, "f32"),
        (Onnx::ORT, "as-is"),
    ] {
        let options = ModelOptions {
            mask: true,
            positions: true,
            length: false,
            cache: true,
            presents: true,
            logits: Logits::All,
            ..ModelOptions::default()
        };
        let graph = model::build(checkpoint, &options).expect("the model can be built");
        let manager = PassManager::new(Options { weights: policy(weights), ..Options::default() });
        let outcome = manager.expect("there are no names of passes").run(graph, &target);
        let outcome = outcome.unwrap_or_else(|e| panic!("{name}, {weights}: {e}"));
        let Stage::Legalized(legalized) = outcome.stage else { panic!("nothing stopped the passes") };
        let found = reference::eval_graph(checkpoint, legalized.graph(), &case.request).expect("it runs");
        let mut comparison = Comparison::default();
        match weights {
            "f32" => case.compare(&found, &mut comparison),
            _ => {
                let expected = reference::eval(checkpoint, &policy(weights), &case.request).expect("it runs");
                case.compare_with(&found, expected, &mut comparison);
            }
        }
        assert_eq!(comparison.problems().join("\n"), "", "{name}, {weights}");
    }
}

/// A tensor of the files for the naive evaluation.
fn stored(checkpoint: &Checkpoint, tensor: &str) -> Result<ArrayD<f32>, String> {
    let (info, bytes) = checkpoint.tensor(tensor).zip(checkpoint.bytes(tensor)).ok_or("missing")?;
    let values: Vec<f32> = match info.dtype {
        DType::U8 => bytes.iter().map(|byte| f32::from(*byte)).collect(),
        DType::I8 => bytes.iter().map(|byte| f32::from(*byte as i8)).collect(),
        DType::F8E4M3 => bytes.iter().map(|byte| float8::to_f32(*byte)).collect(),
        DType::F16 => {
            let half = |bytes: &[u8; 2]| half::f16::from_le_bytes(*bytes).to_f32();
            bytes.as_chunks().0.iter().map(half).collect()
        }
        DType::BF16 => {
            let half = |bytes: &[u8; 2]| half::bf16::from_le_bytes(*bytes).to_f32();
            bytes.as_chunks().0.iter().map(half).collect()
        }
        DType::I32 => bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes) as f32).collect(),
        DType::F32 => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        other => return Err(format!("{other} is no type of a part of a weight")),
    };
    ArrayD::from_shape_vec(info.shape.clone(), values).map_err(|e| e.to_string())
}

/// Fails unless tiles of the matrix `weight`, from anywhere, are what the naive evaluation says.
pub fn tiles_are_what_they_should_be(checkpoint: &Checkpoint, name: &str, weight: &Weight) {
    let reader = WeightReader::new(checkpoint);
    let naive = llamac_ir::weight::evaluate(weight, &mut |tensor| stored(checkpoint, tensor));
    let naive = naive.unwrap_or_else(|e| panic!("{name}: {e}"));
    let [height, width] = [0, 1].map(|dimension| weight.shape()[dimension]);
    for (rows, columns) in
        [(0..3, 0..40), (5..6, 31..33), (17..40, 33..64), (height - 1..height, 0..1), (0..height, 0..width)]
    {
        let (rows, columns) = (rows.start..rows.end.min(height), columns.start..columns.end.min(width));
        let block = Block { rows: rows.clone(), columns: columns.clone() };
        let mut bytes = vec![0; block.elements() * 4];
        reader.read(weight, &block, DType::F32, &mut bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let found: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let expected: Vec<f32> = rows
            .flat_map(|row| columns.clone().map(move |column| (row, column)))
            .map(|(r, c)| naive[[r, c]])
            .collect();
        let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(&expected), "{name}");
    }
}
