//! What is read from the fixtures is what the onnx package reads from them; and both their structures.

use std::path::{Path, PathBuf};

use prost::Message;
use serde_json::Value;

use super::model::{Model, each_tensor};
use super::proto::TensorProto;
use super::{Summary, structure};

const MODELS: [&str; 2] = ["exported/model.onnx", "mixed.onnx"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/onnx")
}

fn open(name: &str) -> Model {
    Model::open(&fixtures().join(name)).unwrap_or_else(|faults| panic!("{faults}"))
}

fn golden() -> Value {
    let text = std::fs::read(fixtures().join("golden.json")).expect("a file");
    serde_json::from_slice(&text).expect("JSON")
}

#[test]
fn summaries_are_those_of_the_onnx_package() {
    let golden = golden();
    for name in MODELS {
        let model = open(name);
        let summary = serde_json::to_value(Summary::of(&model)).expect("JSON");
        let expected = golden[name]["summary"].as_object().expect("an object");
        for (key, expected) in expected {
            assert_eq!(&summary[key], expected, "{name}: {key}");
        }
        assert_eq!(summary.as_object().map(|members| members.len()), Some(expected.len() + 1));
        assert!(summary["modules"].is_array());
    }
}

#[test]
fn values_are_those_of_the_onnx_package() {
    let golden = golden();
    let mut compared = 0;
    for name in MODELS {
        let model = open(name);
        for (tensor, expected) in golden[name]["values"].as_object().expect("an object") {
            let initializers = &model.graph().initializer;
            let found = initializers.iter().find(|t| t.name == *tensor).expect("an initializer");
            let found = found.values(16).unwrap_or_else(|| panic!("{tensor} has values"));
            let expected: Vec<&str> =
                expected.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
            assert_eq!(found.len(), expected.len(), "{tensor}");
            for (found, expected) in found.iter().zip(expected) {
                let as_f32 = |text: &str| text.parse().map(|value: f64| (value as f32).to_bits());
                let same = match tensor.rsplit('.').next() {
                    Some("f64") => found.parse::<f64>() == expected.parse(),
                    Some("f32" | "f16" | "bf16") | Some("odd\nname") => as_f32(found) == as_f32(expected),
                    Some("string") => *found == format!("{expected:?}"),
                    _ => found == expected,
                };
                assert!(same, "{tensor}: {found} is not {expected}");
                compared += 1;
            }
        }
    }
    assert!(compared > 80, "{compared}");
}

#[test]
fn every_tensor_is_visited() {
    let model = open("mixed.onnx");
    let mut names = Vec::new();
    each_tensor(&model.proto, &mut |name, _| names.push(name.to_owned()));
    for name in ["typed.f32", "a_value", "f_value", "e_value", "large_constant", "odd\tname.a_tensor"] {
        assert!(names.iter().any(|found| found == name), "{name}");
    }
}

#[test]
fn the_structure_of_an_exported_model() {
    insta::assert_snapshot!(structure(&open("exported/model.onnx")));
}

#[test]
fn the_structure_of_a_model_with_one_of_everything() {
    insta::assert_snapshot!(structure(&open("mixed.onnx")));
}

/// The faults of the exported model with its first initializer changed by `edit`.
fn faults(edit: impl FnOnce(&mut TensorProto)) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let mut proto = open("exported/model.onnx").proto;
    edit(&mut proto.graph.as_mut().expect("a graph").initializer[0]);
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, proto.encode_to_vec()).expect("writes");
    std::fs::copy(fixtures().join("exported/model.onnx_data"), folder.path().join("model.onnx_data"))
        .expect("a copy");
    let faults = Model::open(&path).expect_err("it is wrong");
    faults.to_string().replace(folder.path().to_str().expect("UTF-8"), "DIR")
}

#[test]
fn a_place_that_is_wrong_is_told() {
    let set = |key: &'static str, value: &'static str| {
        move |tensor: &mut TensorProto| {
            tensor.external_data.iter_mut().filter(|e| e.key == key).for_each(|e| e.value = value.to_owned());
        }
    };
    let told = [
        faults(set("location", "../model.onnx_data")),
        faults(set("location", "/etc/passwd")),
        faults(set("location", ".")),
        faults(set("offset", "-1")),
        faults(set("offset", "641")),
        faults(set("offset", "18446744073709551615")),
        faults(set("length", "511")),
        faults(|tensor| tensor.external_data.clear()),
        faults(|tensor| tensor.dims[0] = -16),
        faults(|tensor| tensor.dims = vec![i64::MAX, i64::MAX]),
        faults(|tensor| (tensor.data_location, tensor.raw_data) = (0, vec![0; 511].into())),
        faults(|tensor| tensor.data_location = 0),
    ];
    insta::assert_snapshot!(told.join("\n"));
}
