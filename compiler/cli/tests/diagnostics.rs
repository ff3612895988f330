//! A message of each code, as a user meets it. Read the snapshot: it is what the command says.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use llamac_compiler::diagnostic::{Class, Code};
use safetensors::Dtype;
use serde_json::{Value, json};
use support::{Done, arguments, copy, fixture, folder, llamac, load, redact, run, save};

/// What goes wrong in a folder, and the command that meets it.
type Case = (Code, fn(&Path) -> Done);

const CASES: &[Case] = &[
    (Code::IllegalOp, |f| at(f, "compile {tiny} -o {f}/model --target onnx --weights q4")),
    (Code::BadArgument, |f| at(f, "compile {tiny} --print-after fuse-qvk --passes -legalize")),
    (Code::NotBuiltYet, |f| at(f, "run {tiny} --chat")),
    #[cfg(not(feature = "onnx-backend"))]
    (Code::NotBuiltIn, |f| {
        at(f, "compile {tiny} -o {f}/exported --target onnx").success();
        at(f, "verify {tiny} {f}/exported")
    }),
    (Code::Io, |f| at(f, "compile {tiny} -o {f}/models/tiny.llamac")),
    (Code::NoSpace, |_| {
        let full = fs::File::create("/dev/full").expect("the device that is always full");
        let child = arguments("print ops", &[]).stdout(full).stderr(Stdio::piped()).spawn();
        let output = child.and_then(|child| child.wait_with_output()).expect("the command runs");
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        Done { status: output.status.code(), stdout: String::new(), stderr }
    }),
    (Code::OutOfMemory, |f| at(f, "run {dynamic} --ids 1 -n 1000000000000")),
    (Code::NoThreads, |_| {
        // Address space for no more than a few stacks.
        let llamac = env!("CARGO_BIN_EXE_llamac");
        let tiny = fixture("tiny/gqa-f32");
        let line = format!("ulimit -v 1000000; exec {llamac} run {} --ids 1 --threads 1000", tiny.display());
        run(Command::new("sh").args(["-c", &line]), "")
    }),
    (Code::NotACheckpoint, |f| {
        copy_into("tiny/gqa-f32", &f.join("model"));
        at(f, "run {f} --ids 1")
    }),
    (Code::BadJson, |f| {
        copy("tiny/gqa-f32", f);
        fs::write(f.join("config.json"), "{\"model_type\": \"llama\",\n \"rms_norm_eps\": NaN}")
            .expect("writes");
        at(f, "run {f} --ids 1")
    }),
    (Code::BadConfigValue, |f| config(f, &[("hidden_size", json!(-32)), ("num_hidden_layers", json!("2"))])),
    (Code::MissingConfigKey, |f| {
        let scaling =
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_facter": 4.0});
        config(f, &[("rope_scaling", scaling)])
    }),
    (Code::InconsistentConfig, |f| config(f, &[("num_key_value_heads", json!(3))])),
    (Code::UnsupportedConfig, |f| {
        config(f, &[("hidden_act", json!("sliu")), ("quantization_config", json!({"quant_method": "hqq"}))])
    }),
    (Code::UnsupportedModel, |f| config(f, &[("model_type", json!("mistral"))])),
    (Code::MissingFile, |f| {
        copy("tiny/sharded-f32", f);
        fs::remove_file(f.join("model-00002-of-00003.safetensors")).expect("removes");
        at(f, "run {f} --ids 1")
    }),
    (Code::BadContainer, |f| {
        copy("tiny/gqa-f32", f);
        let weights = fs::OpenOptions::new().write(true).open(f.join("model.safetensors")).expect("opens");
        weights.set_len(50_000).expect("cuts");
        at(f, "run {f} --ids 1")
    }),
    (Code::MissingTensor, |f| {
        tensors(f, |tensors| {
            let up = tensors.remove("model.layers.1.mlp.up_proj.weight").expect("a tensor");
            tensors.insert("model.layers.1.mlp.up_porj.weight".to_owned(), up);
            tensors.remove("model.norm.weight");
        });
        at(f, "run {f} --ids 1")
    }),
    (Code::WrongShape, |f| config(f, &[("num_key_value_heads", json!(4)), ("vocab_size", json!(64))])),
    (Code::WrongDtype, |f| {
        copy("tiny/gqa-f32", f);
        let path = f.join("model.safetensors");
        let mut bytes = fs::read(&path).expect("a file");
        let name = b"model.norm.weight\":{\"dtype\":\"F";
        let place =
            bytes.windows(name.len()).position(|part| part == name).expect("a tensor") + name.len() - 1;
        bytes[place] = b'I';
        fs::write(path, bytes).expect("writes");
        at(f, "run {f} --ids 1")
    }),
    (Code::DuplicateTensor, |f| {
        tensors(f, |tensors| {
            tensors.insert("norm.weight".to_owned(), tensors["model.norm.weight"].clone());
        });
        at(f, "run {f} --ids 1")
    }),
    (Code::MissingHead, |f| at(f, "compile {tiny} -o {f}/model --head question-answering")),
    (Code::BadIndex, |f| {
        copy("tiny/sharded-f32", f);
        let index = json!({"weight_map": {"model.norm.weight": "../model.safetensors"}});
        fs::write(f.join("model.safetensors.index.json"), index.to_string()).expect("writes");
        at(f, "run {f} --ids 1")
    }),
    (Code::OutOfRange, |f| {
        tensors(f, |tensors| {
            tensors.get_mut("model.layers.0.mlp.up_proj.weight").expect("a tensor").1[7] = 1e6
        });
        at(f, "compile {f} -o {f}/model --weights f16")
    }),
    (Code::DamagedTorchFile, |f| {
        copy("meta/llama1-f16-mp2", f);
        let weights = fs::OpenOptions::new().write(true).open(f.join("consolidated.01.pth")).expect("opens");
        weights.set_len(20_000).expect("cuts");
        at(f, "run {f} --ids 1")
    }),
    (Code::ForbiddenPickle, |f| {
        copy("meta/llama2-bf16-bin-legacy", f);
        let path = f.join("pytorch_model.bin");
        let mut bytes = fs::read(&path).expect("a file");
        let name = b"ctorch._utils\n_rebuild_tensor_v2\n";
        let place = bytes.windows(name.len()).position(|part| part == name).expect("a name");
        bytes[place..place + name.len()].copy_from_slice(b"cos\nsystem_of_this_computer_here\n");
        fs::write(path, bytes).expect("writes");
        at(f, "run {f} --ids 1")
    }),
    (Code::ShardsDisagree, |f| {
        copy("meta/llama1-f16-mp2", f);
        fs::copy(fixture("meta/llama1-f16-mp8").join("consolidated.01.pth"), f.join("consolidated.01.pth"))
            .expect("copies");
        at(f, "run {f} --ids 1")
    }),
    (Code::BadPackedWeight, |f| {
        copy("quantized/bnb-nf4", f);
        let path = f.join("model.safetensors");
        let mut bytes = fs::read(&path).expect("a file");
        let shape = b"\"shape\": [96, 64]";
        let place = bytes.windows(shape.len()).position(|part| part == shape).expect("a description");
        bytes[place + shape.len() - 2] = b'5';
        fs::write(path, bytes).expect("writes");
        at(f, "run {f} --ids 1")
    }),
    (Code::DamagedGguf, |f| {
        fs::write(f.join("model.gguf"), "GGUF").expect("writes");
        at(f, "run {f}/model.gguf --ids 1")
    }),
    (Code::NotAnArtifact, |f| {
        fs::write(f.join("photo.jpg"), b"\xff\xd8\xff\xe0\0\x10JFIF\0").expect("writes");
        at(f, "run {f}/photo.jpg -p Once")
    }),
    (Code::ArtifactVersion, |f| artifact(f, br#""version":"4""#, br#""version":"5""#)),
    (Code::DamagedArtifact, |f| artifact(f, b"\"use_cache\"", b"\"use_cashe\"")),
    (Code::BadToken, |f| at(f, "run {tiny} --ids 1,99999,2,88888")),
    (Code::ContextFull, |_| {
        let prompt = "Once upon a time ".repeat(200);
        run(arguments("run {stories} -p", &[("stories", &fixture("stories"))]).arg(prompt), "")
    }),
    (Code::BadInputTensor, |f| {
        save(&f.join("in.safetensors"), &[("input_id", Dtype::I64, &[1, 2], support::i64s(&[1, 2]))]);
        at(f, "eval {tiny} --inputs {f}/in.safetensors --outputs {f}/out.safetensors")
    }),
    (Code::WrongHead, |f| at(f, "classify {tiny} Once")),
    (Code::BadTokenizer, |f| {
        copy("tiny/gqa-f32", f);
        fs::write(f.join("tokenizer.json"), r#"{"version": "1.0", "model": {"type": "Unheard"}}"#)
            .expect("writes");
        at(f, "run {f} -p Once")
    }),
    (Code::NoTokenizer, |f| at(f, "run {tiny} -p Once")),
    (Code::BadSampling, |f| at(f, "run {tiny} --ids 1 --top-p 1.5 --temperature -1")),
    (Code::NotANumber, |f| {
        tensors(f, |tensors| tensors.get_mut("model.norm.weight").expect("a tensor").1.fill(f32::NAN));
        at(f, "run {f} --ids 1")
    }),
    (Code::NotOnnx, |f| {
        fs::write(f.join("model.onnx"), "GGUF and more").expect("writes");
        at(f, "inspect {f}/model.onnx")
    }),
    (Code::DamagedOnnx, |f| {
        let whole = fs::read(fixture("onnx/mixed.onnx")).expect("a fixture");
        fs::write(f.join("model.onnx"), &whole[..whole.len() / 2]).expect("writes");
        at(f, "inspect {f}/model.onnx")
    }),
    (Code::BadExternalData, |f| {
        copy("onnx/exported", f);
        fs::write(f.join("model.onnx_data"), "cut").expect("writes");
        at(f, "inspect {f}/model.onnx")
    }),
    (Code::OnnxTooLarge, |f| {
        let large = fs::File::create(f.join("model.onnx")).expect("creates");
        large.set_len(3 << 30).expect("a file without content");
        at(f, "inspect {f}/model.onnx")
    }),
    (Code::NumbersDiffer, |f| {
        tensors(f, |tensors| {
            tensors.get_mut("model.layers.1.mlp.up_proj.weight").expect("a tensor").1[7] += 1.0
        });
        at(f, "verify {tiny} {f}")
    }),
    (Code::NothingToCompare, |_| {
        let [tiny, stories] = ["tiny/gqa-f32", "stories"].map(fixture);
        llamac("verify {tiny} {stories}", &[("tiny", &tiny), ("stories", &stories)])
    }),
    (Code::NotAnAdapter, |f| at(f, "compile {tiny} -o {f}/model --lora {f}")),
    (Code::UnsupportedAdapter, |f| {
        copy("adapters/lora", f);
        fs::write(f.join("adapter_config.json"), r#"{"peft_type": "IA3"}"#).expect("writes");
        at(f, "compile {tiny} -o {f}/model --lora {f}")
    }),
    (Code::AdapterMismatch, |f| {
        copy("adapters/lora", f);
        llamac("run {stories} -p Once --lora {f}", &[("stories", &fixture("stories")), ("f", f)])
    }),
    (Code::NoPlaceForPrompt, |f| {
        copy("soft-prompts/prefix", f);
        at(f, "compile {tiny} -o {f}/exported --soft-prompt {f} --target onnx")
    }),
];

/// Runs the command; `{f}` is the folder, the other names are fixtures.
fn at(folder: &Path, line: &str) -> Done {
    let [tiny, dynamic] = ["tiny/gqa-f32", "tiny/rope-dynamic-new"].map(fixture);
    llamac(line, &[("f", folder), ("tiny", &tiny), ("dynamic", &dynamic)])
}

fn copy_into(name: &str, folder: &Path) {
    fs::create_dir(folder).expect("a folder");
    copy(name, folder);
}

/// Runs a model with other values in its configuration.
fn config(folder: &Path, changes: &[(&str, Value)]) -> Done {
    copy("tiny/gqa-f32", folder);
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
    for (key, value) in changes {
        config[key] = value.clone();
    }
    fs::write(&path, config.to_string()).expect("writes");
    at(folder, "run {f} --ids 1")
}

/// Puts a model with other tensors into the folder.
fn tensors(folder: &Path, change: impl FnOnce(&mut BTreeMap<String, (Vec<usize>, Vec<f32>)>)) {
    copy("tiny/gqa-f32", folder);
    let path = folder.join("model.safetensors");
    let mut tensors = load(&path);
    change(&mut tensors);
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let saved: Vec<_> = tensors
        .iter()
        .map(|(name, (shape, values))| (name.as_str(), Dtype::F32, shape.as_slice(), bytes(values)))
        .collect();
    save(&path, &saved);
}

/// Runs a compiled model in which one part is replaced by another of the same length.
fn artifact(folder: &Path, from: &[u8], to: &[u8]) -> Done {
    at(folder, "compile {tiny} -o {f}/model.llamac").success();
    let path = folder.join("model.llamac");
    let mut bytes = fs::read(&path).expect("a file");
    let place = bytes.windows(from.len()).position(|part| part == from).expect("a part");
    bytes[place..place + from.len()].copy_from_slice(to);
    fs::write(path, bytes).expect("writes");
    at(folder, "run {f}/model.llamac --ids 1")
}

#[test]
fn every_code_that_a_user_can_cause_reads_well() {
    let mut all = String::new();
    for (code, cause) in CASES {
        let folder = folder();
        let done = cause(folder.path());
        let message = redact(&done.failure(code.class().exit_status().into()), &[("folder", folder.path())]);
        let found = format!("error[{code}]: ");
        assert!(message.lines().any(|line| line.starts_with(&found)), "{code:?}: {message}");
        writeln!(all, "{message}\n").expect("a string takes all");
    }
    insta::assert_snapshot!(all);
}

#[test]
fn every_code_but_those_of_bugs_has_a_case() {
    for code in Code::ALL {
        let has_case = CASES.iter().any(|(other, _)| other == code);
        // Only programs with tract run exported models, and only programs without it lack it.
        let elsewhere = [Code::OnnxBackend, Code::NotBuiltIn].contains(code);
        assert!(elsewhere || has_case == (code.class() != Class::Bug), "{code:?}");
    }
}
