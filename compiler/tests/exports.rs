//! The exported models, as a codec of its own reads them: one of each head in each profile.

use std::path::Path;

use llamac_compiler::driver::{self, ExportOptions, Silent};
use llamac_compiler::model::{Inputs, Logits};
use llamac_compiler::onnx::{Model, structure};
use llamac_compiler::passes;
use llamac_compiler::source::Checkpoint;
use llamac_compiler::target::onnx::{Destination, ExternalData, Layout, OnnxOptions, Profile};
use tempfile::TempDir;

const PROFILES: [Profile; 3] = [Profile::Portable, Profile::Standard, Profile::Ort];

fn stored(weights: &str) -> passes::Options {
    passes::Options { weights: weights.parse().unwrap(), ..passes::Options::default() }
}

fn options(profile: Profile) -> ExportOptions {
    ExportOptions {
        profile,
        inputs: Inputs::Ids,
        logits: Logits::All,
        cache: true,
        files: OnnxOptions::default(),
        verify: false,
        threads: 2,
        passes: stored("f32"),
    }
}

/// Exports a fixture; the folder and the number of nodes.
fn export(name: &str, options: &ExportOptions) -> (TempDir, usize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tiny").join(name);
    let checkpoint = Checkpoint::open(path, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let OnnxOptions { layout, external, .. } = options.files;
    let mut destination = Destination::create(folder.path(), &checkpoint, layout, external).unwrap();
    let exported = driver::export(&checkpoint, options, &mut destination, &Silent).unwrap();
    destination.publish().unwrap();
    (folder, exported.export.unwrap().nodes)
}

fn text(name: &str, options: &ExportOptions) -> String {
    text_of("model.onnx", name, options)
}

/// The structure of the model at `path` in the export.
fn text_of(path: &str, name: &str, options: &ExportOptions) -> String {
    let (folder, nodes) = export(name, options);
    let model = Model::open(&folder.path().join(path)).unwrap();
    let text = structure(&model);
    assert!(text.trim_end().ends_with(&format!("{nodes} nodes")), "{text}");
    text
}

/// Snapshots of one fixture in all profiles.
fn snapshots(name: &str) {
    for target in PROFILES {
        let profile = format!("{target:?}").to_lowercase();
        insta::assert_snapshot!(format!("{name}__{profile}"), text(name, &options(target)));
    }
}

#[test]
fn hidden_states() {
    snapshots("base-bare");
}

#[test]
fn next_tokens() {
    snapshots("gqa-f32");
}

#[test]
fn classes_of_texts() {
    snapshots("seqcls-pad");
}

#[test]
fn classes_of_tokens() {
    snapshots("tokcls-bias");
}

#[test]
fn answers() {
    snapshots("qa-transformer");
}

/// What weights become that are stored as they are, and tied: the table of the embedding is there once.
#[test]
fn weights_of_the_checkpoint_in_place() {
    let files = OnnxOptions { external: ExternalData::Copy, ..OnnxOptions::default() };
    let text = text(
        "tied-embed-only",
        &ExportOptions { files, passes: stored("as-is"), ..options(Profile::Standard) },
    );
    insta::assert_snapshot!(text);
}

/// Quantized matrices in both profiles that have operators for them; a tied table is there once.
#[test]
fn quantized_weights() {
    let nodes = |name: &str, target: Profile, weights: &str| {
        let text = text(name, &ExportOptions { passes: stored(weights), ..options(target) });
        let parts = ["weight.codes", "weight.scales", "weight.zeros", "Linear(", "/lm_head/"];
        let wanted = |line: &&str| parts.iter().any(|part| line.contains(part)) && !line.contains("layers.1");
        text.lines().filter(wanted).collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!("quantized__ort", nodes("gqa-f32", Profile::Ort, "q4,o_proj=q4a"));
    insta::assert_snapshot!("quantized__standard", nodes("gqa-f32", Profile::Standard, "q4,o_proj=q4a"));
    insta::assert_snapshot!("quantized_biases__ort", nodes("all-bias-f16", Profile::Ort, "q4a"));
    insta::assert_snapshot!("quantized_biases__standard", nodes("all-bias-f16", Profile::Standard, "q4a"));
    insta::assert_snapshot!("quantized_tied__ort", nodes("tied-embed-only", Profile::Ort, "q8"));
    insta::assert_snapshot!("quantized_tied__standard", nodes("tied-embed-only", Profile::Standard, "q8"));
}

#[test]
fn a_tied_table_is_stored_once_and_logits_are_not_reshaped() {
    for (target, product) in [
        (Profile::Portable, "Transpose(model.embed_tokens.weight)"),
        (Profile::Standard, "Transpose(model.embed_tokens.weight)"),
        (Profile::Ort, "FusedMatMul("),
    ] {
        let text = text("tied-embed-only", &options(target));
        assert_eq!(text.matches("model.embed_tokens.weight: f32").count(), 1, "{text}");
        let head: Vec<&str> = text.lines().filter(|line| line.contains("lm_head")).collect();
        assert!(
            head[0].contains(product) && head.last().is_some_and(|line| line.contains("MatMul(")),
            "{head:?}"
        );
        assert!(!head.iter().any(|line| line.contains("lm_head.") || line.contains("Reshape")), "{head:?}");
    }
}

#[test]
fn inputs_and_outputs_are_a_choice() {
    let head = |options: &ExportOptions| {
        let text = text("gqa-f32", options);
        text.split("initializers").next().unwrap_or_default().to_owned()
    };
    let plain = options(Profile::Portable);
    let counted = ExportOptions { inputs: Inputs::Embeddings, logits: Logits::Counted, ..plain.clone() };
    insta::assert_snapshot!(head(&counted), @"
    ir 8, ai.onnx 17
    inputs
      inputs_embeds: f32[batch_size, sequence_length, 32]
      attention_mask: i64[batch_size, past_sequence_length + sequence_length]
      position_ids: i64[batch_size, sequence_length]
      past_key_values.0.key: f32[batch_size, 2, past_sequence_length, 8]
      past_key_values.0.value: f32[batch_size, 2, past_sequence_length, 8]
      past_key_values.1.key: f32[batch_size, 2, past_sequence_length, 8]
      past_key_values.1.value: f32[batch_size, 2, past_sequence_length, 8]
      num_logits_to_keep: i64[]
    outputs
      logits: f32[batch_size, num_logits, 67]
      present.0.key: f32[batch_size, 2, past_sequence_length + sequence_length, 8]
      present.0.value: f32[batch_size, 2, past_sequence_length + sequence_length, 8]
      present.1.key: f32[batch_size, 2, past_sequence_length + sequence_length, 8]
      present.1.value: f32[batch_size, 2, past_sequence_length + sequence_length, 8]
    ");
    let whole = ExportOptions { logits: Logits::Last, cache: false, ..plain.clone() };
    insta::assert_snapshot!(head(&whole), @"
    ir 8, ai.onnx 17
    inputs
      input_ids: i64[batch_size, sequence_length]
      attention_mask: i64[batch_size, sequence_length]
      position_ids: i64[batch_size, sequence_length]
    outputs
      logits: f32[batch_size, 1, 67]
    ");
}

/// transformers.js finds a model by its name, which tells how most matrices are stored.
#[test]
fn models_for_transformers_js_are_named_by_their_weights() {
    let files = OnnxOptions { layout: Layout::TransformersJs, ..OnnxOptions::default() };
    let js = |weights: &str, target| ExportOptions { files, passes: stored(weights), ..options(target) };
    for (weights, target, name) in [
        ("f32", Profile::Portable, "model"),
        ("bf16", Profile::Portable, "model"),
        ("f16,lm_head=f32", Profile::Portable, "model_fp16"),
        ("q8,down_proj=q4", Profile::Ort, "model_quantized"),
        ("q4", Profile::Standard, "model_q4"),
        ("q4a", Profile::Ort, "model_q4"),
    ] {
        let found = text_of(&format!("onnx/{name}.onnx"), "gqa-f32", &js(weights, target));
        assert_eq!(
            found,
            text("gqa-f32", &ExportOptions { passes: stored(weights), ..options(target) })
                .replace("model.onnx.data", &format!("{name}.onnx_data"))
        );
    }
}

/// An export of optimum of a model of two layers has 621 nodes.
#[test]
fn models_are_small() {
    let nodes = PROFILES.map(|target| export("gqa-f32", &options(target)).1);
    assert_eq!(nodes, [136, 53, 65]);
}
