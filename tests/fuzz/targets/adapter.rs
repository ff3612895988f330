//! Adapters: a configuration, a zero byte, and the JSON header of a safetensors file; the data are zeros, as many as the
//! header calls for. The base is a small checkpoint, which takes them as a LoRA and as a soft prompt. What opens also
//! compiles and runs.
#![no_main]

use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use llamac_compiler::driver::{self, CompileOptions, Silent};
use llamac_compiler::output::Output;
use llamac_compiler::source::{AdapterSources, Checkpoint, LoraSource};
use llamac_fuzz::{data, run, seed};
use llamac_runtime::{Model, OpenOptions};

fuzz_target!(
    init: {
        let folders = ["adapters", "soft-prompts"].map(|kind| base().join("../..").join(kind));
        let folders = folders.map(|folder| fs::read_dir(folder).expect("the fixtures are there"));
        let entries = folders.into_iter().flatten();
        let mut folders: Vec<_> = entries.map(|entry| entry.expect("it can be read").path()).collect();
        folders.sort();
        let inputs = folders.into_iter().filter_map(|folder| {
            let file = fs::read(folder.join("adapter_model.safetensors")).ok()?;
            let (length, rest) = file.split_first_chunk::<8>()?;
            let header = rest.get(..u64::from_le_bytes(*length) as usize)?;
            Some([&fs::read(folder.join("adapter_config.json")).ok()?[..], &[0], header].concat())
        });
        seed("adapter", inputs);
    },
    |input: &[u8]| {
        let mut parts = input.splitn(2, |byte| *byte == 0);
        let (config, header) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let folder = tempfile::tempdir().expect("there is room");
        fs::write(folder.path().join("adapter_config.json"), config).expect("there is room");
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header);
        file.resize(file.len() + data(header) as usize, 0);
        fs::write(folder.path().join("adapter_model.safetensors"), file).expect("there is room");
        let lora = LoraSource { path: folder.path().to_owned(), scale: 1.0 };
        for adapters in [
            AdapterSources { loras: vec![lora], soft_prompt: None },
            AdapterSources { loras: Vec::new(), soft_prompt: Some(folder.path().to_owned()) },
        ] {
            match Checkpoint::open_adapted(&base(), None, &adapters, &mut Vec::new()) {
                Err(faults) => assert!(faults.iter().all(|fault| fault.at.is_some()), "{faults}"),
                Ok(checkpoint) => {
                    let output = Output::temporary().expect("there is room");
                    let options = CompileOptions { threads: 1, ..CompileOptions::default() };
                    let compiled = driver::compile(&checkpoint, &options, &output, &Silent);
                    compiled.unwrap_or_else(|e| panic!("{e}"));
                    let model = Model::from_file(output.file(), Path::new("fuzz"), OpenOptions::default());
                    run(&model.unwrap_or_else(|e| panic!("{e}"))).unwrap_or_else(|e| panic!("{e}"));
                }
            }
        }
    }
);

fn base() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny/gqa-f32")
}
