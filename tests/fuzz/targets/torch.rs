//! PyTorch files: what they say they hold lies within them.
#![no_main]

use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use llamac_compiler::source::torch;
use llamac_fuzz::seed;

fuzz_target!(
    init: {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/meta");
        let names = [
            "llama1-f16-mp8/consolidated.00.pth",
            "llama1-f16-mp2-legacy/consolidated.00.pth",
            "llama2-bf16-bin/pytorch_model.bin",
            "llama2-bf16-bin-views/pytorch_model.bin",
        ];
        seed("torch", names.map(|name| fs::read(folder.join(name)).expect("the fixtures are there")));
    },
    |input: &[u8]| {
        match torch::parse("f.pth", input) {
            Err(faults) => assert!(faults.iter().all(|fault| fault.at.is_some()), "{faults}"),
            Ok(tensors) => {
                for tensor in tensors {
                    let bytes = input.get(tensor.range.clone()).expect("a range of the file");
                    let empty = tensor.shape.contains(&0);
                    let reach = |strides: &[usize]| -> usize {
                        let steps = tensor.shape.iter().zip(strides).map(|(n, stride)| n.saturating_sub(1) * stride);
                        steps.sum::<usize>() + 1
                    };
                    let elements = match &tensor.strides {
                        _ if empty => 0,
                        Some(strides) => reach(strides),
                        None => tensor.shape.iter().product(),
                    };
                    assert_eq!(bytes.len(), elements * tensor.dtype.bits / 8);
                }
            }
        }
    }
);
