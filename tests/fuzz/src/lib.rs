//! What the fuzz targets share: the first inputs, made from the fixtures, and running what opens.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llamac_compiler::driver::{self, CompileOptions, Silent};
use llamac_compiler::output::Output;
use llamac_compiler::passes;
use llamac_compiler::source::{Checkpoint, Rope};
use llamac_ir::RopeScaling;
use llamac_plan::artifact::PLAN;
use llamac_plan::diagnostic::Diagnostics;
use llamac_runtime::{Engine, EngineOptions, Feed, Keep, Model, Session, SessionOptions};
use safetensors::SafeTensors;

/// The folders of the small fixtures, in the order of their names.
pub fn fixtures() -> Vec<PathBuf> {
    folders("tiny")
}

/// The folders of fixtures in `name`, in the order of their names.
pub fn folders(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
    let entries = fs::read_dir(folder).expect("the fixtures are there");
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    folders.sort();
    folders
}

/// Writes the first inputs of a target to where `cargo fuzz` keeps its inputs.
pub fn seed(target: &str, inputs: impl IntoIterator<Item = Vec<u8>>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder).expect("there is room");
    for (i, input) in inputs.into_iter().enumerate() {
        fs::write(folder.join(format!("seed-{i:03}")), input).expect("there is room");
    }
}

/// Small compiled models of one size that have every kind of step: as they come, without fusions, and with the other
/// kinds of rotary frequencies.
pub fn artifacts() -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny/gqa-f32");
    let checkpoint = || Checkpoint::open(&path, None).expect("the fixture is sound");
    let unfused = ["fuse-qkv", "fuse-gate-up", "fuse-add-rms-norm"].map(|name| (name.to_owned(), false));
    let unfused = passes::Options { switches: unfused.to_vec(), ..passes::Options::default() };
    let turned = |scaling| {
        let mut checkpoint = checkpoint();
        checkpoint.config.rope = Rope { scaling, ..checkpoint.config.rope };
        checkpoint
    };
    let dynamic = RopeScaling::Dynamic { factor: 2.0.into(), max_position: 256 };
    let sets = [1.0, 2.0].map(|x: f64| vec![x.into(); checkpoint().config.head_dim / 2]);
    let [short, long] = sets;
    let longrope =
        RopeScaling::LongRope { short, long, original_max_position: 2, attention_factor: 1.0.into() };
    vec![
        compile(&checkpoint(), passes::Options::default()),
        compile(&checkpoint(), unfused),
        compile(&turned(dynamic), passes::Options::default()),
        compile(&turned(longrope), passes::Options::default()),
    ]
}

fn compile(checkpoint: &Checkpoint, passes: passes::Options) -> Vec<u8> {
    let output = Output::temporary().expect("there is room");
    let options = CompileOptions { threads: 1, passes, ..CompileOptions::default() };
    driver::compile(checkpoint, &options, &output, &Silent).expect("it compiles");
    let mut bytes = Vec::new();
    let mut file = output.file();
    file.rewind().expect("it is a file");
    file.read_to_end(&mut bytes).expect("it can be read");
    bytes
}

/// The tensors of an artifact without padding: the plan, and the others by name.
pub fn tensors(artifact: &[u8]) -> (Vec<u8>, BTreeMap<String, Vec<u8>>) {
    let file = SafeTensors::deserialize(artifact).expect("an artifact is a safetensors file");
    let tensors = file.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec()));
    let mut tensors: BTreeMap<_, _> = tensors.filter(|(name, _)| !name.starts_with("llamac.pad.")).collect();
    (tensors.remove(PLAN).expect("an artifact has a plan"), tensors)
}

/// Computes tokens with `model`, in two forwards. Returns the last output.
pub fn run(model: &Arc<Model>) -> Result<Vec<f32>, Diagnostics> {
    let mut engine = Engine::new(model, EngineOptions { threads: 1, chunk: 4, compute: None })?;
    let mut session = Session::new(model, SessionOptions { capacity: 4, kv: None })?;
    let mut last = Vec::new();
    for tokens in [&[0, 0, 0][..], &[0]] {
        let mut feeds = [Feed::ids(&mut session, tokens, Keep::Last(2))];
        last = engine.forward_with_hidden_states(&mut feeds)?.feed(0).to_vec();
    }
    Ok(last)
}

/// Data beyond this are left out, so that an input stays quick.
const MAX_DATA: u64 = 1 << 20;

/// The end of the last tensor of a header.
pub fn data(header: &[u8]) -> u64 {
    let Ok(serde_json::Value::Object(header)) = serde_json::from_slice(header) else { return 0 };
    let ends = header.values().filter_map(|tensor| tensor["data_offsets"][1].as_u64());
    ends.max().unwrap_or(0).min(MAX_DATA)
}
