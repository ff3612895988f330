//! Checkpoints: a configuration, a zero byte, and the JSON header of a safetensors file; the data are zeros, as many
//! as the header calls for. What opens also compiles, and computes numbers.
#![no_main]

use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use llamac_compiler::driver::{self, CompileOptions, Silent};
use llamac_compiler::output::Output;
use llamac_compiler::source::Checkpoint;
use llamac_fuzz::{data, fixtures, folders, run, seed};
use llamac_runtime::{Model, OpenOptions};

fuzz_target!(
    init: {
        let inputs = fixtures().into_iter().chain(folders("quantized")).filter_map(|folder| {
            let file = fs::read(folder.join("model.safetensors")).ok()?;
            let (length, rest) = file.split_first_chunk::<8>()?;
            let header = rest.get(..u64::from_le_bytes(*length) as usize)?;
            Some([&fs::read(folder.join("config.json")).ok()?[..], &[0], header].concat())
        });
        seed("checkpoint", inputs);
    },
    |input: &[u8]| {
        let mut parts = input.splitn(2, |byte| *byte == 0);
        let (config, header) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let folder = tempfile::tempdir().expect("there is room");
        fs::write(folder.path().join("config.json"), config).expect("there is room");
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header);
        file.resize(file.len() + data(header) as usize, 0);
        fs::write(folder.path().join("model.safetensors"), file).expect("there is room");
        match Checkpoint::open(folder.path(), None) {
            Err(faults) => assert!(faults.iter().all(|fault| fault.at.is_some()), "{faults}"),
            Ok(checkpoint) => {
                let output = Output::temporary().expect("there is room");
                let options = CompileOptions { threads: 1, ..CompileOptions::default() };
                driver::compile(&checkpoint, &options, &output, &Silent).unwrap_or_else(|e| panic!("{e}"));
                let options = OpenOptions { verify: true, threads: 1 };
                let model = Model::from_file(output.file(), Path::new("artifact"), options);
                let output = run(&model.unwrap_or_else(|e| panic!("{e}"))).unwrap_or_else(|e| panic!("{e}"));
                assert!(output.iter().all(|x| x.is_finite()), "zeros give numbers");
            }
        }
    }
);
