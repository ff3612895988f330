//! `llamac eval`: tensors in, tensors out.

mod support;

use std::path::Path;

use insta::assert_snapshot;
use safetensors::{Dtype, SafeTensors};
use support::{copy, fixture, folder, i64s, llamac, load, names, redact, save};

/// Writes the inputs of a golden case and returns its outputs.
fn golden(fixture_name: &str, case: &str, to: &Path) -> Vec<(String, Vec<f32>)> {
    let bytes = std::fs::read(fixture(fixture_name).join("golden.safetensors")).expect("goldens");
    let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let of_case =
        tensors.iter().filter_map(|(name, view)| Some((name.strip_prefix(case)?.strip_prefix('/')?, view)));
    let (inputs, outputs): (Vec<_>, Vec<_>) =
        of_case.partition(|(name, _)| !name.starts_with("logits") && !name.starts_with("hidden_states"));
    let inputs: Vec<_> =
        inputs.iter().map(|(name, view)| (*name, view.dtype(), view.shape(), view.data().to_vec())).collect();
    save(to, &inputs);
    let floats = |data: &[u8]| data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    outputs.iter().map(|(name, view)| ((*name).to_owned(), floats(view.data()))).collect()
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 1e-4 + 1e-4 * expected.abs(), "{what}: {found}, not {expected}");
    }
}

#[test]
fn every_way_to_compute_agrees_with_transformers() {
    let (folder, model) = (folder(), fixture("tiny/gqa-f32"));
    let [inputs, outputs, compiled] = ["in", "out", "model.llamac"].map(|name| folder.path().join(name));
    let paths = [("in", &*inputs), ("out", &*outputs), ("model", &*model), ("compiled", &*compiled)];
    llamac("compile {model} -o {compiled}", &paths).success();
    let expected = golden("tiny/gqa-f32", "hidden-7", &inputs);
    assert!(expected.len() > 2);
    let mut native = None;
    for options in [
        "eval {model}",
        "eval {model} --backend reference",
        "eval {model} --cached 3",
        "eval {model} --threads 1",
        "eval {compiled}",
    ] {
        let line = format!("{options} --inputs {{in}} --outputs {{out}} --hidden-states");
        assert_eq!(llamac(&line, &paths).quiet(), "");
        let found = load(&outputs);
        assert_eq!(found.len(), expected.len(), "{options}");
        for (name, expected) in &expected {
            assert_close(&found[name].1, expected, &format!("{options}: {name}"));
        }
        if !options.contains("reference") {
            assert_eq!(native.get_or_insert_with(|| found.clone()), &found, "{options}: not the same bits");
        }
    }
    let logits = native.expect("native outputs")["logits"].clone();
    llamac("eval {model} --inputs {in} --outputs {out} --keep 2", &paths).quiet();
    let kept = load(&outputs);
    assert_eq!(kept.keys().collect::<Vec<_>>(), ["logits"]);
    let [batch, seq, vocabulary] = logits.0[..] else { panic!("{:?}", logits.0) };
    assert_eq!(kept["logits"].0, [batch, 2, vocabulary]);
    for (kept, all) in kept["logits"].1.chunks(2 * vocabulary).zip(logits.1.chunks(seq * vocabulary)) {
        assert_eq!(kept, &all[(seq - 2) * vocabulary..]);
    }
}

#[test]
fn quantized_weights_are_multiplied_as_the_command_line_says() {
    let (folder, model) = (folder(), fixture("tiny/gqa-f32"));
    let [inputs, outputs, compiled] = ["in", "out", "model.llamac"].map(|name| folder.path().join(name));
    let paths = [("in", &*inputs), ("out", &*outputs), ("model", &*model), ("compiled", &*compiled)];
    llamac("compile {model} -o {compiled} --weights q4,lm_head=q8", &paths).success();
    golden("tiny/gqa-f32", "hidden-7", &inputs);
    let logits = |line: &str| {
        assert_eq!(llamac(&format!("{line} --inputs {{in}} --outputs {{out}}"), &paths).quiet(), "");
        load(&outputs)["logits"].1.clone()
    };
    let expected = logits("eval {model} --weights q4,lm_head=q8 --backend reference");
    let wide = logits("eval {compiled} --compute f32");
    assert_close(&wide, &expected, "f32");
    assert_eq!(logits("eval {model} --weights q4,lm_head=q8"), wide);
    // Codes of activations are what quantized weights are multiplied by, unless told otherwise.
    let narrow = logits("eval {compiled}");
    assert_eq!(logits("eval {compiled} --compute int8"), narrow);
    assert_ne!(narrow, wide);
    let difference = |found: &[f32]| -> f32 { found.iter().zip(&wide).map(|(a, b)| (a - b).powi(2)).sum() };
    assert!(difference(&narrow) < 1e-2 * difference(&vec![0.0; wide.len()]));

    let message = |line: &str| llamac(line, &paths).failure(2);
    assert_snapshot!(message("eval {model} --inputs {in} --outputs {out} --compute int8"), @"
    error[E0001]: invalid argument
      --> --compute int8
       expected quantized weights
       found    none
       help: compile with --weights q8, or use --compute auto
    ");
    assert_snapshot!(message("compile {model} -o {compiled} --compute int8"), @"
    error[E0001]: invalid argument
      --> --compute int8
       expected quantized weights
       found    none
       help: compile with --weights q8, or use --compute auto
    ");
}

#[test]
fn faults_of_the_inputs_come_together_and_leave_the_output_alone() {
    let (folder, model) = (folder(), fixture("tiny/gqa-f32"));
    let [inputs, outputs] = ["in", "out"].map(|name| folder.path().join(name));
    let paths = [("in", &*inputs), ("out", &*outputs), ("model", &*model)];
    let older = r#"12345678{"__metadata__":{"producer":"llamac eval"}, and half of it"#;
    std::fs::write(&outputs, older).expect("writes");
    save(
        &inputs,
        &[
            ("input_ids", Dtype::I64, &[1, 3], i64s(&[1, 2, 3])),
            ("attention_mask", Dtype::F32, &[1, 3], vec![0; 12]),
            ("position_ids", Dtype::I64, &[1, 2], i64s(&[0, 1])),
        ],
    );
    let message = llamac("eval {model} --inputs {in} --outputs {out}", &paths).failure(3);
    assert_snapshot!(redact(&message, &[("in", &inputs)]), @r#"
        error[E0402]: invalid input tensor
          --> in: attention_mask
           expected I64, I32 or BOOL
           found    F32
        error[E0402]: invalid input tensor
          --> in: position_ids
           expected shape [1, 3]
           found    shape [1, 2]
        "#);

    save(&inputs, &[("input_ids", Dtype::I64, &[1, 2], i64s(&[1, 1_000_000]))]);
    let message = llamac("eval {model} --inputs {in} --outputs {out} --cached 2", &paths).failure(3);
    assert_snapshot!(redact(&message, &[("in", &inputs)]), @"
    error[E0400]: token id outside the vocabulary
      --> in: input_ids[0, 1]
       expected an id below 67
       found    1000000
    error[E0001]: invalid argument
      --> --cached
       expected fewer than the 2 positions of the input
       found    2
    ");

    save(&inputs, &[("inputs_embeds", Dtype::F32, &[1, 2, 3], vec![0; 24])]);
    let message = llamac("eval {model} --inputs {in} --outputs {out}", &paths).failure(3);
    assert!(message.contains("hidden") || message.contains("[batch, seq, "), "{message}");

    assert_eq!(std::fs::read_to_string(&outputs).expect("a file"), older);
    assert_eq!(names(folder.path()), ["in", "out"]);
}

#[test]
fn the_outputs_replace_older_outputs_only() {
    let (folder, model) = (folder(), fixture("tiny/gqa-f32"));
    let inputs = folder.path().join("in");
    let paths = [("in", &*inputs), ("model", &*model), ("folder", folder.path())];
    save(&inputs, &[("input_ids", Dtype::I64, &[1, 2], i64s(&[1, 2]))]);
    let before = std::fs::read(&inputs).expect("a file");
    for path in ["{in}", "{folder}/./in"] {
        let message = llamac(&format!("eval {{model}} --inputs {{in}} --outputs {path}"), &paths).failure(2);
        assert!(message.contains("which is not a file of outputs"), "{message}");
        assert!(std::fs::read(&inputs).expect("a file") == before);
    }
    llamac("eval {model} --inputs {in} --outputs {folder}/out", &paths).quiet();
    llamac("eval {model} --inputs {in} --outputs {folder}/out --keep 1", &paths).quiet();
    assert_eq!(load(&folder.path().join("out"))["logits"].0[1], 1);
}

#[test]
fn a_compiled_model_has_no_graph_for_the_reference() {
    let (folder, model) = (folder(), fixture("tiny/gqa-f32"));
    let [inputs, compiled] = ["in", "model.llamac"].map(|name| folder.path().join(name));
    let paths = [("in", &*inputs), ("model", &*model), ("compiled", &*compiled), ("folder", folder.path())];
    llamac("compile {model} -o {compiled}", &paths).success();
    save(&inputs, &[("input_ids", Dtype::I64, &[1, 1], i64s(&[1]))]);
    let line = "eval {compiled} --backend reference --inputs {in} --outputs {folder}/out";
    let message = llamac(line, &paths).failure(2);
    assert!(message.contains("the directory that it was compiled from"), "{message}");
    assert_eq!(names(folder.path()), ["in", "model.llamac"]);
}

#[test]
fn what_cannot_be_written_is_known_before_anything_is_computed() {
    let (folder, model) = (folder(), fixture("tiny/gqa-f32"));
    let inputs = folder.path().join("in");
    let paths = [("in", &*inputs), ("model", &*model), ("folder", folder.path())];
    let line = "eval {model}/none --inputs {in} --outputs {folder}/none/out";
    let message = llamac(line, &paths).failure(3);
    // The model, the inputs and the folder: three faults of one command line.
    for part in ["E0100", "E0200", "mkdir -p"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    save(
        &inputs,
        &[("input_ids", Dtype::I64, &[1, 1], i64s(&[1])), ("labels", Dtype::I64, &[1], i64s(&[1]))],
    );
    let done = llamac("eval {model} --inputs {in} --outputs {folder}/out", &paths);
    assert!(done.stderr.starts_with("warning: ") && done.stderr.contains("`labels`"), "{}", done.stderr);
    assert_eq!(done.status, Some(0));
}

#[test]
fn inputs_are_regular_files() {
    let (folder, model) = (folder(), fixture("tiny/gqa-f32"));
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let zero = Path::new("/dev/zero");
    for inputs in [&*pipe, zero, folder.path()] {
        let paths = [("in", inputs), ("model", &*model), ("folder", folder.path())];
        let message = llamac("eval {model} --inputs {in} --outputs {folder}/out", &paths).failure(1);
        assert!(message.contains("this is not a regular file"), "{message}");
    }
}

#[test]
fn values_that_are_not_numbers_are_told() {
    let folder = folder();
    copy("tiny/gqa-f32", folder.path());
    let weights = folder.path().join("model.safetensors");
    let mut tensors = load(&weights);
    tensors.get_mut("model.norm.weight").expect("a tensor").1.fill(f32::NAN);
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, (shape, values))| (name.as_str(), Dtype::F32, shape.as_slice(), bytes(values)))
        .collect();
    save(&weights, &tensors);
    let inputs = folder.path().join("in");
    save(&inputs, &[("input_ids", Dtype::I64, &[1, 2], i64s(&[1, 2]))]);
    let done = llamac("eval {f} --inputs {f}/in --outputs {f}/out", &[("f", folder.path())]);
    assert!(done.stderr.contains("out: `logits` holds values that are not numbers"), "{}", done.stderr);
    done.success();
}
