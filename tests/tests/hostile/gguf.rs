//! Damaged GGUF files, and files that are made to harm.

use std::fs;
use std::path::{Path, PathBuf};

use insta::assert_snapshot;
use llamac_compiler::source::Checkpoint;
use llamac_compiler::weights::{Block, WeightReader};
use llamac_plan::diagnostic::{Code, Diagnostics};

use super::limits::limited;
use super::random::Random;

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/gguf");
    fs::read(folder.join(name)).unwrap()
}

/// A place for files that are damaged one at a time.
struct Place {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        Self { _folder: folder, path }
    }

    /// Opens `bytes`: they are a model, or faults name the file.
    fn open(&self, bytes: &[u8]) -> Result<Checkpoint, Diagnostics> {
        fs::write(&self.path, bytes).unwrap();
        // Vocabularies become files of several forms.
        let opened = limited(8 * bytes.len(), || Checkpoint::open(&self.path, None));
        if let Err(faults) = &opened {
            for fault in faults.iter() {
                assert!(fault.at.as_deref().unwrap_or_default().contains(".gguf"), "{fault}");
            }
        }
        opened
    }

    fn fault(&self, bytes: &[u8]) -> Diagnostics {
        self.open(bytes).expect_err("it is damaged")
    }
}

/// Every weight of an opened model can be read, as it is and quantized.
fn read(checkpoint: &Checkpoint) {
    for weight in checkpoint.weights.values() {
        let mut bytes = vec![0; weight.elements() * weight.dtype().size()];
        let block = Block::whole(weight);
        WeightReader::new(checkpoint).read(weight, &block, weight.dtype(), &mut bytes).unwrap();
    }
}

/// Where the header of a file ends: its data is that of the first tensor on.
fn header(bytes: &[u8]) -> usize {
    let tensors = llamac_compiler::source::gguf::parse("f", bytes).unwrap();
    tensors.iter().map(|tensor| tensor.range.start).min().unwrap()
}

/// The file's bytes with another name in place of a tensor's, of the same length.
fn renamed(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).expect("the tensor");
    [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
}

#[test]
fn embeddings_that_are_missing_are_the_only_fault() {
    let place = Place::new();
    // There is no tokenizer that would tell the size of the vocabulary; the head does, if it is not tied.
    let untied = renamed(&fixture("mixed/model.gguf"), "token_embd.weight", "token_embx.weight");
    assert_snapshot!(place.fault(&untied), @"
    error[E0202]: a tensor is missing
      --> model.gguf: token_embd.weight
       expected [64, 256]  (vocab_size 64, llama.embedding_length 256)
       help: the files have token_embx.weight, which is no tensor of a LLaMA
    ");
    let nothing = renamed(&untied, "output.weight", "outpux.weight");
    assert_snapshot!(place.fault(&nothing), @"
    error[E0202]: a tensor is missing
      --> model.gguf: token_embd.weight
       expected [tokens, 256]  (llama.embedding_length 256)
    ");
}

#[test]
fn flipped_bits_never_panic() {
    let mut random = Random(11);
    for name in ["mixed/model.gguf", "digits/model.gguf"] {
        let place = Place::new();
        let sound = fixture(name);
        let end = header(&sound);
        read(&place.open(&sound).unwrap());
        let mut bytes = sound.clone();
        let mut opened = 0;
        for _ in 0..600 {
            random.flip(&mut bytes, end, |bytes, _| {
                if let Ok(checkpoint) = place.open(bytes) {
                    opened += 1;
                    if opened % 16 == 1 {
                        read(&checkpoint);
                    }
                }
            });
        }
        // Bits of numbers, too: any will do.
        for _ in 0..20 {
            random.flip(&mut bytes, sound.len(), |bytes, _| {
                if let Ok(checkpoint) = place.open(bytes) {
                    read(&checkpoint);
                }
            });
        }
    }
}

#[test]
fn numbers_that_are_absurd_never_panic() {
    let mut random = Random(12);
    let sound = fixture("mixed/model.gguf");
    let (place, end) = (Place::new(), header(&sound));
    for _ in 0..600 {
        let mut bytes = sound.clone();
        let at = random.below(end - 8);
        let number = [u64::MAX, 1 << 63, 1 << 40, 0, 1, u64::from(u32::MAX), 9, 8][random.below(8)];
        let width = [1, 4, 8][random.below(3)];
        bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
        if let Ok(checkpoint) = place.open(&bytes) {
            read(&checkpoint);
        }
    }
}

#[test]
fn cut_files_are_told() {
    let sound = fixture("mixed/model.gguf");
    let (place, end) = (Place::new(), header(&sound));
    for length in (0..end).step_by(23).chain([sound.len() - 1, end, end + 1]) {
        let faults = place.fault(&sound[..length]);
        assert!(faults.iter().all(|fault| fault.code == Code::DamagedGguf), "{length}: {faults}");
    }
}

/// A header by its parts.
#[derive(Default)]
struct Header {
    keys: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl Header {
    fn key(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.keys.push([&text(key)[..], &kind.to_le_bytes(), value].concat());
        self
    }

    fn tensor(mut self, name: &str, sizes: &[u64], ty: u32, offset: u64) -> Self {
        let sizes_bytes: Vec<u8> = sizes.iter().flat_map(|size| size.to_le_bytes()).collect();
        let parts: [&[u8]; 5] = [
            &text(name),
            &(sizes.len() as u32).to_le_bytes(),
            &sizes_bytes,
            &ty.to_le_bytes(),
            &offset.to_le_bytes(),
        ];
        self.tensors.push(parts.concat());
        self
    }

    /// The file with `data` bytes of zeros behind the header.
    fn bytes(&self, data: usize) -> Vec<u8> {
        let counts = [self.tensors.len() as u64, self.keys.len() as u64].map(u64::to_le_bytes).concat();
        let mut bytes =
            [b"GGUF\x03\0\0\0", &counts[..], &self.keys.concat(), &self.tensors.concat()].concat();
        let start = bytes.len().next_multiple_of(32);
        bytes.resize(start + data, 0);
        bytes
    }
}

const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// One fault each, in words.
#[test]
fn each_part_of_a_header_is_checked() {
    let place = Place::new();
    let llama = || Header::default().key("general.architecture", STRING, &text("llama"));
    let list = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let nested = |depth: usize| [list(ARRAY, 1).repeat(depth), list(0, 0)].concat();
    let cases: [(&str, Vec<u8>, &str); 20] = [
        ("empty", Vec::new(), "expected a GGUF file"),
        ("magic", b"GGUF".to_vec(), "ends in its header"),
        ("version 1", b"GGUF\x01\0\0\0aaaaaaaaaaaaaaaa".to_vec(), "first version"),
        ("big-endian", b"GGUF\0\0\0\x03aaaaaaaaaaaaaaaa".to_vec(), "big-endian"),
        ("version 9", b"GGUF\x09\0\0\0aaaaaaaaaaaaaaaa".to_vec(), "not known"),
        ("counts", [b"GGUF\x03\0\0\0", &[0xFF; 16][..]].concat(), "number of tensors is not plausible"),
        ("long key", [&llama().bytes(0)[..24], &[0xFF; 8][..]].concat(), "ends in key 0"),
        ("kind", llama().key("k", 13, b"").bytes(64), "type of the value is not known"),
        ("bool", llama().key("k", 7, &[2]).bytes(0), "a truth value"),
        ("long list", llama().key("k", ARRAY, &list(4, u64::MAX)).bytes(64), "ends in this value"),
        ("long strings", llama().key("k", ARRAY, &list(STRING, 1 << 60)).bytes(64), "ends in this value"),
        ("nested", llama().key("k", ARRAY, &nested(9)).bytes(64), "nested too deeply"),
        ("alignment", llama().key("general.alignment", 4, &3u32.to_le_bytes()).bytes(0), "a power of two"),
        ("twice", llama().key("general.architecture", STRING, &text("llama")).bytes(0), "there twice"),
        ("dimensions", llama().tensor("t", &[1; 9], 0, 0).bytes(64), "1 to 4 dimensions"),
        ("product", llama().tensor("t", &[1 << 40, 1 << 40], 0, 0).bytes(64), "no size in bytes"),
        ("block", llama().tensor("t", &[33], 2, 0).bytes(64), "multiple of 32 elements"),
        ("type", llama().tensor("t", &[32], 4, 0).bytes(64), "no such type"),
        ("offset", llama().tensor("t", &[4], 0, 7).bytes(64), "multiple of 32"),
        ("beyond", llama().tensor("t", &[4], 0, 1 << 62).bytes(64), "beyond its end"),
    ];
    for (what, bytes, expected) in cases {
        let faults = place.fault(&bytes).to_string();
        assert!(faults.contains(expected), "{what}: {faults}");
    }
    let overlapping =
        llama().tensor("a", &[16], 0, 0).tensor("b", &[4], 0, 32).tensor("a", &[4], 0, 64).bytes(96);
    let faults = place.fault(&overlapping);
    let codes: Vec<Code> = faults.iter().map(|fault| fault.code).collect();
    assert_eq!(codes, [Code::DamagedGguf, Code::DuplicateTensor], "{faults}");
}

/// What is whole and no LLaMA.
#[test]
fn other_models_are_refused_by_name() {
    let place = Place::new();
    let architecture = |name: &str| Header::default().key("general.architecture", STRING, &text(name));
    let fault = |header: Header| place.fault(&header.bytes(0)).to_string();
    assert!(fault(architecture("qwen2")).contains("found    \"qwen2\""));
    assert!(
        fault(architecture("llama").key("general.type", STRING, &text("adapter"))).contains("\"adapter\"")
    );
    assert!(fault(Header::default()).contains("missing key"));
    let missing = fault(architecture("llama"));
    for key in
        ["embedding_length", "block_count", "feed_forward_length", "head_count", "context_length", "epsilon"]
    {
        assert!(missing.contains(key), "{key}: {missing}");
    }
    let experts = architecture("llama").key("llama.expert_count", 4, &8u32.to_le_bytes());
    assert!(fault(experts).contains("expert_count"));
}

/// A count of files does not make anybody look for as many.
#[test]
fn a_count_of_parts_is_no_promise() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m-00001-of-65535.gguf");
    let header = Header::default().key("split.count", 2, &u16::MAX.to_le_bytes());
    fs::write(&path, header.bytes(0)).unwrap();
    let faults = limited(1000, || Checkpoint::open(&path, None)).unwrap_err();
    assert!(faults.iter().all(|fault| fault.code == Code::MissingFile), "{faults}");
    assert_eq!(faults.iter().count(), 20);
}

/// The fixture `bytes` with more keys, and one that keeps its tensors where alignment wants them.
fn with_keys(bytes: &[u8], keys: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let header =
        keys.iter().fold(Header::default(), |header, (key, kind, value)| header.key(key, *kind, value));
    let mut more = header.keys.concat();
    let room = 32 - (more.len() + text("pad").len() + 4 + 8) % 32;
    more.extend(Header::default().key("pad", STRING, &text(&" ".repeat(room))).keys.concat());
    let count = u64::from_le_bytes(*bytes[16..].first_chunk().unwrap()) + keys.len() as u64 + 1;
    [&bytes[..16], &count.to_le_bytes(), &more, &bytes[24..]].concat()
}

/// Rotary frequencies are scaled as llama.cpp scales them.
#[test]
fn factors_without_a_rule_and_rules_without_a_factor() {
    let (place, sound) = (Place::new(), fixture("mixed/model.gguf"));
    let (factor, old) = ("llama.rope.scaling.factor", "llama.rope.scale_linear");
    let four = 4.0f32.to_le_bytes();
    let ty = |name: &str| text(name);
    let scaling = |keys: &[(&str, u32, &[u8])]| {
        let checkpoint = place.open(&with_keys(&sound, keys)).unwrap_or_else(|faults| panic!("{faults}"));
        checkpoint.config.rope.scaling.to_string()
    };
    let plain = scaling(&[]);
    for keys in [[(factor, 6, &four[..])], [(old, 6, &four[..])]] {
        assert!(scaling(&keys).contains("linear") && scaling(&keys).contains("4.0"), "{}", scaling(&keys));
    }
    let none = ty("none");
    let kind = ("llama.rope.scaling.type", STRING, &none[..]);
    assert_eq!(scaling(&[kind, (old, 6, &four)]), plain);
    assert_eq!(scaling(&[kind, (factor, 6, &four)]), plain);
    let linear = ty("linear");
    assert_eq!(scaling(&[("llama.rope.scaling.type", STRING, &linear)]), plain);
}

/// Divisors that no rule uses change nothing, and that is told.
#[test]
fn factors_of_another_rule_are_told() {
    let place = Place::new();
    let sound = fixture("digits/model.gguf");
    let (from, to) = (text("rope_freqs.weight"), text("rope_factors_short.weight"));
    let at = sound.windows(from.len()).position(|window| window == from).unwrap();
    // Eight bytes more, and a key that fills up to the next 32.
    let pad = Header::default().key("pad", STRING, &text(&" ".repeat(32 - 8 - 23 + 32))).keys.concat();
    let count = u64::from_le_bytes(*sound[16..].first_chunk().unwrap()) + 1;
    let renamed =
        [&sound[..16], &count.to_le_bytes(), &pad, &sound[24..at], &to, &sound[at + from.len()..]].concat();
    let checkpoint = place.open(&renamed).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(checkpoint.ignored, ["rope_factors_short.weight"]);
    let told = checkpoint.warnings.iter().any(|told| told.contains("is not longrope"));
    assert!(told, "{:?}", checkpoint.warnings);
}

/// Values of another type, or that are no number, are not taken for keys that are not there.
#[test]
fn values_of_a_wrong_type_are_told() {
    // The one has no tokenizer, the other's has no merges.
    let (place, [mixed, stories]) = (Place::new(), ["mixed/model.gguf", "stories/model.gguf"].map(fixture));
    let fault = |key: &str, kind: u32, value: &[u8]| {
        let sound = if key.starts_with("tokenizer") { &stories } else { &mixed };
        place.fault(&with_keys(sound, &[(key, kind, value)])).to_string()
    };
    let texts =
        |count: u64| [&STRING.to_le_bytes()[..], &count.to_le_bytes(), &vec![0; 8 * count as usize]].concat();
    for (key, kind, value, expected) in [
        ("llama.rope.scaling.attn_factor", 6, f32::NAN.to_le_bytes().to_vec(), "NaN"),
        ("llama.rope.scaling.type", STRING, [&2u64.to_le_bytes()[..], &[0xFF, 0xFE]].concat(), "not UTF-8"),
        ("llama.rope.scaling.type", 4, 3u32.to_le_bytes().to_vec(), "found    3"),
        ("llama.expert_count", ARRAY, texts(2), "a list of 2"),
        ("general.type", 4, 7u32.to_le_bytes().to_vec(), "expected \"model\""),
        ("split.count", STRING, text("2"), "a number of files"),
        ("tokenizer.ggml.precompiled_charsmap", 4, 7u32.to_le_bytes().to_vec(), "expected bytes"),
        ("tokenizer.ggml.merges", ARRAY, texts((1 << 21) + 1), "at most 2097152 texts"),
    ] {
        let found = fault(key, kind, &value);
        assert!(found.contains(expected) && found.contains(key), "{key}: {found}");
    }
}
