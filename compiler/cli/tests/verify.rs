//! `llamac verify`, `--no-check`, and what becomes of damaged models and those of other versions.

mod support;

use std::fs;
use std::path::Path;

use insta::assert_snapshot;
use llamac_runtime::{Model, OpenOptions};
use safetensors::SafeTensors;
use support::{arguments, fixture, folder, llamac, redact, run};

/// The story model, compiled to `out`, and where the bytes of its tensors are.
fn compiled(out: &Path) -> (Vec<u8>, impl Fn(&str) -> usize + use<>) {
    let stories = fixture("stories");
    llamac("-q compile {stories} -o {out}", &[("stories", &stories), ("out", out)]).quiet();
    let bytes = fs::read(out).expect("a file");
    let (length, header) = SafeTensors::read_metadata(&bytes).expect("a header");
    let place = move |name: &str| 8 + length + header.info(name).expect(name).data_offsets.0;
    (bytes, place)
}

/// Commands that open a compiled model.
const OPENING: [&str; 7] = [
    "verify {model}",
    "run {model} -p Once",
    "eval {model} --inputs {inputs} --outputs {folder}/outputs",
    "classify {model} Once",
    "embed {model} Once",
    "inspect {model}",
    "tokenize {model} Once",
];

/// The message of every command that opens `model`, which has to be the same.
#[track_caller]
fn refused(model: &Path, status: i32) -> String {
    let folder = folder();
    let inputs = folder.path().join("inputs");
    support::save(&inputs, &[("input_ids", safetensors::Dtype::I64, &[1, 1], support::i64s(&[1]))]);
    let paths = [("model", model), ("inputs", inputs.as_path()), ("folder", folder.path())];
    let messages = OPENING.map(|line| redact(&llamac(line, &paths).failure(status), &[("model", model)]));
    assert!(messages.iter().all(|message| *message == messages[0]), "{messages:#?}");
    messages[0].clone()
}

#[test]
fn a_whole_model_is_verified() {
    let folder = folder();
    let out = folder.path().join("stories.llamac");
    let (bytes, _) = compiled(&out);
    let text = llamac("verify {out} --threads 2", &[("out", &out)]).quiet();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], format!("{} is undamaged", out.display()));
    let cells: Vec<(&str, &str)> = lines[1..].iter().map(|line| line.split_at(13)).collect();
    let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file").len();
    let size = bytes.len() as f64 / f64::from(1 << 20);
    assert_eq!(cells[0], ("size         ", format!("{size:.1} MiB").as_str()));
    assert!(cells[1].1.starts_with(&format!("{tensors} tensors match, in ")), "{text}");
    let model = Model::open(&out, OpenOptions::default()).expect("a model");
    let (weights, steps) = (model.plan().weights.len(), model.plan().steps.len());
    assert_eq!(cells[2], ("plan         ", format!("causal-lm, {weights} weights, {steps} steps").as_str()));
    assert_eq!(cells[3], ("compiled by  ", concat!("llamac ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn every_damaged_tensor_is_named_by_every_command() {
    let folder = folder();
    let out = folder.path().join("stories.llamac");
    let (whole, place) = compiled(&out);
    let damage = |places: &[usize]| {
        let mut bytes = whole.clone();
        places.iter().for_each(|&place| bytes[place] ^= 1);
        fs::write(&out, bytes).expect("writes");
        refused(&out, 3)
    };
    assert_snapshot!(damage(&[place("model.norm.weight"), place("files/config.json"), place("lm_head.weight")]), @"
    error[E0302]: the compiled model is damaged
      --> model: files/config.json
       its bytes do not match their checksum
       help: compile the checkpoint again
    error[E0302]: the compiled model is damaged
      --> model: model.norm.weight
       its bytes do not match their checksum
       help: compile the checkpoint again
    error[E0302]: the compiled model is damaged
      --> model: lm_head.weight
       its bytes do not match their checksum
       help: compile the checkpoint again
    ");
    // A damaged plan says nothing that could be checked; damaged weights are named all the same.
    assert_snapshot!(damage(&[place("llamac.plan") + 1, place("model.norm.weight")]), @"
    error[E0302]: the compiled model is damaged
      --> model: llamac.plan
       its bytes do not match their checksum
       help: compile the checkpoint again
    error[E0302]: the compiled model is damaged
      --> model: model.norm.weight
       its bytes do not match their checksum
       help: compile the checkpoint again
    ");
    // One slot of the table, and its own checksum.
    assert_snapshot!(damage(&[place("llamac.checksums") + 8]), @"
    error[E0302]: the compiled model is damaged
      --> model: llamac.checksums
       its bytes do not match their checksum
       help: compile the checkpoint again
    error[E0302]: the compiled model is damaged
      --> model: llamac.plan
       its bytes do not match their checksum, which may be what is damaged
       help: compile the checkpoint again
    ");
    let all: Vec<usize> = (0..4)
        .flat_map(|layer| {
            [
                "input_layernorm",
                "post_attention_layernorm",
                "self_attn.o_proj",
                "self_attn.{q,k,v}_proj",
                "mlp.{gate,up}_proj",
                "mlp.down_proj",
            ]
            .map(|name| place(&format!("model.layers.{layer}.{name}.weight")))
        })
        .collect();
    let many = damage(&all);
    assert_eq!(many.matches("error[E0302]").count(), 21, "{many}");
    let last = many.lines().find_map(|line| line.strip_prefix("   the same of 4 more: ")).expect("a list");
    assert!(last.ends_with(", model.layers.3.mlp.down_proj.weight"), "{last}");
}

/// A word, or N for a number.
fn number(word: &str) -> &str {
    if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()) { "N" } else { word }
}

#[test]
fn a_damaged_header_and_a_cut_file_are_told_from_other_files() {
    let folder = folder();
    let out = folder.path().join("stories.llamac");
    let (whole, _) = compiled(&out);
    let with = |bytes: &[u8]| {
        fs::write(&out, bytes).expect("writes");
        // Sizes and columns are those of this very file.
        let words = |line: &str| line.split(' ').map(number).collect::<Vec<_>>().join(" ");
        refused(&out, 3).lines().map(words).collect::<Vec<_>>().join("\n")
    };
    assert_snapshot!(with(&whole[..whole.len() - 100]), @"
    error[E0302]: the compiled model is damaged
      --> model
       the file is cut
       expected N bytes
       found    N bytes
       help: compile the checkpoint again
    ");
    assert_snapshot!(with(&[&whole[..], b"more"].concat()), @"
    error[E0302]: the compiled model is damaged
      --> model
       the file is longer than its header says
       expected N bytes
       found    N bytes
       help: compile the checkpoint again
    ");
    assert_snapshot!(with(&whole[..500]), @"
    error[E0302]: the compiled model is damaged
      --> model
       its header does not end where it should
       help: compile the checkpoint again
    ");
    let altered = |from: &str, to: &str| {
        let at = whole.windows(from.len()).position(|bytes| bytes == from.as_bytes()).expect(from);
        [&whole[..at], to.as_bytes(), &whole[at + to.len()..]].concat()
    };
    assert_snapshot!(with(&altered("\"dtype\"", "\"dtYpe\"")), @"
    error[E0302]: the compiled model is damaged
      --> model
       its header cannot be read: invalid JSON in header: missing field `dtype` at line N column N
       help: compile the checkpoint again
    ");
    assert_snapshot!(with(&altered("[0,", "[O,")), @"
    error[E0302]: the compiled model is damaged
      --> model
       its header cannot be read: expected value at line N column N
       help: compile the checkpoint again
    ");
    // A letter of a name: it still reads.
    assert_snapshot!(with(&altered("model.norm", "model.nurm")), @"
    error[E0302]: the compiled model is damaged
      --> model: the header
       its bytes do not match their checksum
       help: compile the checkpoint again
    ");
}

#[test]
fn a_version_from_the_future_is_refused_by_every_command() {
    let folder = folder();
    let out = folder.path().join("stories.llamac");
    let (whole, _) = compiled(&out);
    let old = br#""version":"4""#;
    let at = whole.windows(old.len()).position(|bytes| bytes == old).expect("a version");
    let versioned = |version: &str, dtype: &str| {
        let mut bytes = whole.clone();
        bytes[at..at + old.len()].copy_from_slice(version.as_bytes());
        // What a later version has in its header need not make sense to this one.
        let types: Vec<usize> =
            bytes.windows(4).enumerate().filter(|(_, b)| b == b"\"U8\"").map(|(i, _)| i).collect();
        types.iter().for_each(|&i| bytes[i..i + 4].copy_from_slice(dtype.as_bytes()));
        fs::write(&out, bytes).expect("writes");
        refused(&out, 4)
    };
    assert_snapshot!(versioned(r#""version":"7""#, "\"U9\""), @"
    error[E0301]: the compiled model has another format version
      --> model
       a later llamac than this one wrote it
       expected version 4
       found    version 7
       help: compile the checkpoint again with this llamac, or use the llamac that wrote it
    ");
    assert_snapshot!(versioned(r#""version":"0""#, "\"U8\""), @"
    error[E0301]: the compiled model has another format version
      --> model
       expected version 4
       found    version 0
       help: compile the checkpoint again with this llamac, or use the llamac that wrote it
    ");
}

#[test]
fn what_is_no_compiled_model_is_told() {
    let folder = folder();
    let (stories, path) = (fixture("stories"), folder.path());
    fs::write(path.join("photo.jpg"), b"\xff\xd8\xff\xe0\0\x10JFIF\0").expect("writes");
    fs::write(path.join("model.llamac"), "").expect("writes");
    let about = |line: &str| {
        redact(&llamac(line, &[("folder", path), ("stories", &stories)]).failure(3), &[("folder", path)])
    };
    assert_snapshot!(about("verify {folder}/photo.jpg"), @"
    error[E0300]: this is not a compiled model
      --> folder/photo.jpg
       it is another kind of file
       help: `llamac compile CHECKPOINT -o OUT` makes one
    ");
    assert_snapshot!(about("verify {folder}/model.llamac"), @"
    error[E0300]: this is not a compiled model
      --> folder/model.llamac
       it is empty
       help: `llamac compile CHECKPOINT -o OUT` makes one
    ");
    assert_snapshot!(about("verify {folder}/model.lamac"), @"
    error[E0200]: a file is missing
      --> folder/model.lamac
       found    no such file
       help: did you mean folder/model.llamac?
    ");
    assert_snapshot!(about("verify {stories}"), @"
    error[E0300]: this is not a compiled model
      --> fixtures/stories
       found    a directory
       help: compile it: llamac compile fixtures/stories -o OUT
    ");
    assert_snapshot!(about("verify {stories}/model.safetensors"), @"
    error[E0300]: this is not a compiled model
      --> fixtures/stories/model.safetensors
       it is a safetensors file, but not one that llamac compiled
       help: `llamac compile CHECKPOINT -o OUT` makes one
    ");
    assert_snapshot!(about("verify /dev/null"), @"
    error[E0300]: this is not a compiled model
      --> /dev/null
       it is no regular file
       help: `llamac compile CHECKPOINT -o OUT` makes one
    ");
}

#[test]
fn without_a_check_damage_goes_unnoticed() {
    let folder = folder();
    let out = folder.path().join("stories.llamac");
    let (whole, place) = compiled(&out);
    let paths = [("model", out.as_path()), ("folder", folder.path())];
    let expected = llamac("run {model} -p Once -n 5 --no-check", &paths).quiet();
    assert_eq!(expected, llamac("run {model} -p Once -n 5", &paths).quiet());
    let mut bytes = whole;
    // A sign in the embedding of a token that no text here has.
    bytes[place("model.embed_tokens.weight") + 2 * 128 * 1000 + 1] ^= 0x80;
    fs::write(&out, bytes).expect("writes");
    refused(&out, 3);
    assert_eq!(llamac("run {model} -p Once -n 5 --no-check", &paths).quiet(), expected);
    for line in
        ["embed {model} Once --no-check", "tokenize {model} Once --no-check", "inspect {model} --no-check"]
    {
        assert!(!llamac(line, &paths).quiet().is_empty());
    }
    let inputs = folder.path().join("inputs");
    support::save(&inputs, &[("input_ids", safetensors::Dtype::I64, &[1, 1], support::i64s(&[1]))]);
    llamac("eval {model} --no-check --inputs {folder}/inputs --outputs {folder}/outputs", &paths).quiet();
    let classifier = fixture("stories-classifier");
    run(arguments("classify {model} --no-check Once", &[("model", &classifier)]).arg("text"), "").quiet();
    // The plan and the header are checked all the same.
    fs::write(&out, "text").expect("writes");
    llamac("inspect {model} --no-check", &paths).failure(3);
}

/// Bytes of the mapping of `path` that this process has touched.
fn resident(path: &Path) -> usize {
    let maps = fs::read_to_string("/proc/self/smaps").expect("the mappings");
    let mapping = maps.split_once(path.to_str().expect("UTF-8")).expect("the file is mapped").1;
    let rss = mapping.lines().find_map(|line| line.strip_prefix("Rss:")).expect("its size");
    1024 * rss.trim().trim_end_matches(" kB").parse::<usize>().expect("a number")
}

#[test]
fn an_unchecked_model_is_read_lazily() {
    let folder = folder();
    // Where pages are huge, the first of them is touched whole.
    let out = folder.path().join("zeros.llamac");
    support::zeros(folder.path(), 300_000);
    llamac("-q compile {folder} -o {out}", &[("folder", folder.path()), ("out", &out)]).quiet();
    let bytes = fs::read(&out).expect("a file");
    let touched = |verify| {
        let model = Model::open(&out, OpenOptions { verify, threads: 1 }).expect("a model");
        let touched = resident(&out);
        drop(model);
        touched
    };
    assert!(touched(true) >= bytes.len());
    assert!(touched(false) <= 4 << 20, "{}", touched(false));
}
