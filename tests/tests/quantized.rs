//! Checkpoints that other methods quantized, against arithmetic in numpy
//! (`fixtures/scripts/make_quantized.py`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use llamac_compiler::reference;
use llamac_compiler::source::Checkpoint;
use llamac_ir::weight::QuantizedPart;
use llamac_ir::{Scheme, Weight};
use llamac_plan::{Compute, KvDtype};
use llamac_tests::compare::Comparison;
use llamac_tests::golden::{self, Fixture};
use llamac_tests::quantized::{
    converted, engine_options, exports_compute_the_same, greedy, hash_of, hashes, policy,
    tiles_are_what_they_should_be,
};
use llamac_tests::{engine, stored};
use serde_json::Value;
use tempfile::TempDir;

fn folders() -> Vec<PathBuf> {
    let entries = fs::read_dir(golden::fixtures().join("quantized")).unwrap();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

fn name(folder: &Path) -> &str {
    folder.file_name().unwrap().to_str().unwrap()
}

/// A checkpoint of its own, and what keeps it: layers of the story model lie beside the rest of it in a
/// temporary folder.
fn checkpoint(folder: &Path) -> (Checkpoint, Option<TempDir>) {
    let open = |path: &Path| Checkpoint::open(path, None).unwrap_or_else(|e| panic!("{}: {e}", name(folder)));
    if !name(folder).starts_with("stories") {
        return (open(folder), None);
    }
    let place = golden::story_of(folder);
    (open(place.path()), Some(place))
}

/// The scheme that holds the codes of a weight, if there is one.
fn carried(weight: &Weight) -> Option<Scheme> {
    Scheme::ALL.into_iter().find(|scheme| weight.shape().len() == 2 && weight.carried(0, *scheme).is_some())
}

/// The golden file of a folder.
fn golden_json(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("golden.json")).unwrap()).unwrap()
}

#[test]
fn weights_are_those_of_numpy() {
    let mut compared = 0;
    for folder in folders() {
        let (checkpoint, _place) = checkpoint(&folder);
        let expected: BTreeMap<String, String> =
            serde_json::from_value(golden_json(&folder)["weights"].clone()).unwrap();
        assert_eq!(hashes(&checkpoint), expected, "{}", name(&folder));
        assert!(checkpoint.is_quantized() && checkpoint.warnings.is_empty(), "{:?}", checkpoint.warnings);
        assert!(checkpoint.ignored.is_empty(), "{:?}", checkpoint.ignored);
        compared += 1;
    }
    assert_eq!(compared, 31);
}

#[test]
fn models_compute_what_their_numbers_say() {
    for folder in folders() {
        let fixture = Fixture::read(&folder);
        let [case] = &fixture.cases[..] else { panic!("{} has one case", name(&folder)) };
        let (checkpoint, _place) = checkpoint(&folder);
        let mut comparison = Comparison::default();
        case.compare(&reference::eval(&checkpoint, &policy("f32"), &case.request).unwrap(), &mut comparison);
        let mut engine = engine(&checkpoint, &stored("f32"), engine_options(Compute::F32));
        let native = llamac_runtime::eval(&mut engine, &case.request, KvDtype::F32).unwrap();
        case.compare(&native, &mut comparison);
        assert_eq!(comparison.problems().join("\n"), "", "{}", name(&folder));
    }
}

/// Codes, scales and zeros that numpy packed are those of the native formats.
#[test]
fn integers_and_scales_are_carried() {
    let mut carried: BTreeMap<String, usize> = BTreeMap::new();
    for folder in folders() {
        let (checkpoint, _place) = checkpoint(&folder);
        let expected = golden_json(&folder)["carried"].as_object().unwrap().clone();
        for (tensor, weight) in &checkpoint.weights {
            let scheme = self::carried(weight);
            let Some(expected) = expected.get(tensor) else {
                assert_eq!(scheme, None, "{}: {tensor}", name(&folder));
                continue;
            };
            let wanted: Scheme = expected["scheme"].as_str().unwrap().parse().unwrap();
            assert_eq!(scheme, Some(wanted), "{}: {tensor}", name(&folder));
            let quantized = weight.quantize(wanted).unwrap();
            for part in QuantizedPart::ALL {
                let found = hash_of(&checkpoint, &quantized.quantized_part(part).unwrap());
                assert_eq!(found, expected[part.name()], "{}: {tensor}, {part}", name(&folder));
            }
            // Nothing is left to round.
            assert_eq!(hash_of(&checkpoint, &quantized), hash_of(&checkpoint, weight), "{tensor}");
            *carried.entry(wanted.to_string()).or_default() += 1;
        }
    }
    assert!(carried["q4a"] > 50 && carried["q4"] > 10 && carried["q8"] > 10, "{carried:?}");
}

/// As they are, weights compute in f32 what the reference does, and what numpy does where nothing was
/// rounded.
#[test]
fn weights_as_they_are() {
    let mut lossless = 0;
    for folder in folders() {
        let fixture = Fixture::read(&folder);
        let case = &fixture.cases[0];
        let (checkpoint, _place) = checkpoint(&folder);
        let mut engine = engine(&checkpoint, &stored("as-is"), engine_options(Compute::F32));
        let native = llamac_runtime::eval(&mut engine, &case.request, KvDtype::F32).unwrap();
        let mut comparison = Comparison::default();
        let expected = reference::eval(&checkpoint, &policy("as-is"), &case.request).unwrap();
        case.compare_with(&native, expected, &mut comparison);
        let mut codes = checkpoint.weights.values().filter(|weight| weight.stored_codes().is_some());
        if codes.all(|weight| carried(weight).is_some()) {
            case.compare(&native, &mut comparison);
            lossless += 1;
        }
        assert_eq!(comparison.problems().join("\n"), "", "{}", name(&folder));
    }
    assert!(lossless > 10, "{lossless}");
}

/// Products in integers leave the story model's logits within this of those in single precision: 0.098 at most.
const INT8_DIFFERENCE: f64 = 0.12;

/// Greedy tokens of products in integers are compared where the two highest logits are this far apart in every
/// step. Less than [`INT8_DIFFERENCE`], as neighbours seldom move against each other: with that, none were left.
const INT8_GAP: f64 = 0.02;

#[test]
fn products_in_integers_are_near() {
    let mut largest = 0f64;
    for folder in folders().iter().filter(|folder| name(folder).starts_with("stories")) {
        let (checkpoint, _place) = checkpoint(folder);
        let request = &Fixture::read(folder).cases[0].request;
        let expected = reference::eval(&checkpoint, &policy("as-is"), request).unwrap();
        let mut engine = engine(&checkpoint, &stored("as-is"), engine_options(Compute::Auto));
        let found = llamac_runtime::eval(&mut engine, request, KvDtype::F32).unwrap();
        for (found, expected) in found.iter().zip(&expected) {
            let numbers = found.data.iter().zip(&expected.data);
            let gap = numbers.map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
            largest = largest.max(gap);
        }
    }
    assert!(largest > 0.0 && largest <= INT8_DIFFERENCE, "{largest}");
}

#[test]
fn greedy_tokens_are_those_of_the_dequantized_models() {
    let (mut in_f32, mut in_integers) = (0, 0);
    for folder in folders() {
        let golden = golden_json(&folder);
        let (checkpoint, _place) = checkpoint(&folder);
        for (weights, compute) in [("f32", Compute::F32), ("as-is", Compute::Auto)] {
            let is_lossless = || golden["carried"].as_object().is_some_and(|carried| !carried.is_empty());
            if weights == "as-is" && !(name(&folder).starts_with("stories") && is_lossless()) {
                continue;
            }
            let mut engine = engine(&checkpoint, &stored(weights), engine_options(compute));
            for (generation, golden) in
                Fixture::read(&folder).greedy.iter().zip(golden["greedy"].as_array().unwrap())
            {
                let gap = golden["min_gap"].as_f64().unwrap();
                if gap < if weights == "f32" { 5e-4 } else { INT8_GAP } {
                    continue;
                }
                let expected = &generation.tokens[0];
                let found = greedy(&mut engine, &generation.prompt[0], expected.len());
                assert_eq!(&found, expected, "{}, {weights}, {}", name(&folder), generation.name);
                *(if weights == "f32" { &mut in_f32 } else { &mut in_integers }) += 1;
            }
        }
    }
    assert!(in_f32 >= 30 && in_integers >= 3, "{in_f32} {in_integers}");
}

/// The graphs that ONNX files are written from, in every profile, with weights as they are where it has
/// operators for them.
#[test]
fn graphs_for_onnx_compute_the_same() {
    for folder in folders().iter().filter(|folder| !name(folder).starts_with("stories")) {
        let fixture = Fixture::read(folder);
        exports_compute_the_same(&checkpoint(folder).0, &fixture.cases[0], name(folder));
    }
}

/// What `convert` writes is the same model, bit by bit, and is not quantized any more.
#[test]
fn conversions_are_the_same_models() {
    for folder in folders() {
        let place = tempfile::tempdir().unwrap();
        let (original, _story) = checkpoint(&folder);
        let (before, config) = (hashes(&original), original.config.clone());
        let converted = converted(original, place.path());
        assert_eq!(hashes(&converted), before, "{}", name(&folder));
        assert!(!converted.is_quantized());
        assert_eq!(converted.config, config);
    }
}

/// Tiles of weights and of what they are carried as, from anywhere, are what the naive evaluation says.
#[test]
fn tiles_are_parts_of_the_whole() {
    for folder in folders().iter().filter(|folder| !name(folder).starts_with("stories")) {
        let (checkpoint, _) = checkpoint(folder);
        for (tensor, weight) in
            checkpoint.weights.iter().filter(|(_, weight)| weight.stored_codes().is_some())
        {
            let name = format!("{}: {tensor}", name(folder));
            tiles_are_what_they_should_be(&checkpoint, &name, weight);
            if tensor.contains("k_proj") || tensor.contains("down_proj") {
                let scheme = carried(weight).unwrap_or(Scheme::Q8);
                tiles_are_what_they_should_be(&checkpoint, &name, &weight.quantize(scheme).unwrap());
            }
        }
    }
}
