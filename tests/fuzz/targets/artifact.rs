//! Compiled models, opened without comparing checksums: a `P` and a plan, or an `H` and the JSON header of the
//! container, in place of those of a real one. What opens computes tokens.
#![no_main]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use llamac_fuzz::{artifacts, run, seed, tensors};
use llamac_plan::artifact::PLAN;
use llamac_runtime::{Model, OpenOptions};
use llamac_tests::artifact;

/// What stays as it is around an input.
struct Rest {
    /// Tensors that plans name.
    tensors: BTreeMap<String, Vec<u8>>,
    /// Data that headers describe.
    data: Vec<u8>,
}

static REST: OnceLock<Rest> = OnceLock::new();

fuzz_target!(
    init: {
        let mut all = BTreeMap::new();
        let mut inputs = Vec::new();
        for artifact in artifacts() {
            let (plan, tensors) = tensors(&artifact);
            inputs.push([b"P", &plan[..]].concat());
            all.extend(tensors);
        }
        let artifact = &artifacts()[0];
        let length: [u8; 8] = artifact[..8].try_into().expect("eight bytes");
        let (header, data) = artifact[8..].split_at(u64::from_le_bytes(length) as usize);
        inputs.push([b"H", header].concat());
        seed("artifact", inputs);
        let _ = REST.set(Rest { tensors: all, data: data.to_vec() });
    },
    |input: &[u8]| {
        let Rest { tensors, data } = REST.get().expect("the target was started");
        let file = match input.split_first() {
            Some((b'P', plan)) => {
                let named = tensors.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
                let (header, data) = artifact::container(named.chain([(PLAN, plan)]));
                file(&header, &data)
            }
            Some((b'H', header)) => file(header, data),
            _ => return,
        };
        match Model::from_file(&file, Path::new("artifact"), OpenOptions { verify: false, threads: 1 }) {
            Err(faults) => {
                let named = |at: &Option<String>| at.as_ref().is_some_and(|at| at.starts_with("artifact"));
                assert!(faults.iter().all(|fault| named(&fault.at)), "{faults}");
            }
            Ok(model) => {
                // A forward may be refused, as by a vocabulary that is too small; it may not fail otherwise.
                let _ = run(&model);
                let _ = model.tokenizer();
            }
        }
    }
);

/// A file of this header and these data.
fn file(header: &[u8], data: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("there is room");
    file.write_all(&artifact::file(header, data)).expect("there is room");
    file
}
