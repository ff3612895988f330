//! ONNX models, alone in their folder. What opens can be told in every form, and the same twice.
#![no_main]

use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use llamac_compiler::onnx::{Model, Summary, structure};
use llamac_fuzz::seed;

fuzz_target!(
    init: {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/onnx");
        let names = ["exported/model.onnx", "mixed.onnx"];
        seed("onnx", names.map(|name| fs::read(folder.join(name)).expect("the fixtures are there")));
    },
    |input: &[u8]| {
        let folder = tempfile::tempdir().expect("there is room");
        let path = folder.path().join("model.onnx");
        fs::write(&path, input).expect("there is room");
        match Model::open(&path) {
            Err(faults) => assert!(faults.iter().all(|fault| fault.at.is_some()), "{faults}"),
            Ok(model) => {
                assert_eq!(structure(&model), structure(&model));
                serde_json::to_string(&Summary::of(&model)).expect("numbers and strings are JSON");
            }
        }
    }
);
