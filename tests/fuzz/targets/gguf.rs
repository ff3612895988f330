//! GGUF files: what opens has its weights within the file.
#![no_main]

use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use llamac_compiler::source::{Checkpoint, gguf};
use llamac_compiler::weights::{Block, WeightReader};
use llamac_fuzz::seed;

fuzz_target!(
    init: {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/gguf");
        let names = ["mixed/model.gguf", "digits/model.gguf", "llama3/model-00003-of-00003.gguf"];
        seed("gguf", names.map(|name| fs::read(folder.join(name)).expect("the fixtures are there")));
    },
    |input: &[u8]| {
        match gguf::parse("f.gguf", input) {
            Err(faults) => assert!(faults.iter().all(|fault| fault.at.is_some()), "{faults}"),
            Ok(tensors) => {
                for tensor in tensors {
                    let bytes = input.get(tensor.range.clone()).expect("a range of the file");
                    let elements: usize = tensor.shape.iter().product();
                    assert_eq!(bytes.len(), elements / tensor.ty.numbers * tensor.ty.bytes);
                }
            }
        }
        let folder = tempfile::tempdir().expect("there is room");
        let path = folder.path().join("model.gguf");
        fs::write(&path, input).expect("there is room");
        let Ok(checkpoint) = Checkpoint::open(&path, None) else { return };
        for weight in checkpoint.weights.values() {
            let mut bytes = vec![0; weight.elements() * weight.dtype().size()];
            let block = Block::whole(weight);
            WeightReader::new(&checkpoint).read(weight, &block, weight.dtype(), &mut bytes).expect("it is there");
        }
    }
);
