//! Damaged files: every one either opens or is refused in words, whatever was done to it.

use std::fs;
use std::path::Path;

use llamac_compiler::source::Checkpoint;
use tempfile::TempDir;

/// A copy of a committed checkpoint.
fn copy(name: &str) -> TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tiny").join(name);
    let directory = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_name().to_string_lossy().starts_with("golden") {
            fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
        }
    }
    directory
}

/// Opens a checkpoint that may be damaged: its bytes can be read, or its fault names a file.
fn open(directory: &Path) -> bool {
    match Checkpoint::open(directory, None) {
        Ok(checkpoint) => {
            assert!(checkpoint.tensors.keys().all(|name| checkpoint.bytes(name).is_some()));
            true
        }
        Err(faults) => {
            assert!(!faults.is_empty());
            for fault in faults.iter() {
                let at = fault.at.as_deref().unwrap_or_default();
                assert!(at.contains("config.json") || at.contains(".safetensors"), "{fault}");
            }
            false
        }
    }
}

/// The header of a safetensors file ends here.
fn header_end(bytes: &[u8]) -> usize {
    8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize
}

/// A generator of test cases (Steele, Lea and Flood, "SplitMix64"); the same cases every time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

const FILES: [(&str, &str); 5] = [
    ("gqa-f32", "model.safetensors"),
    ("rope-llama3-new", "config.json"),
    ("seqcls-pad", "config.json"),
    ("sharded-f32", "model.safetensors.index.json"),
    ("sharded-f32", "model-00002-of-00003.safetensors"),
];

#[test]
fn truncated_files_are_refused() {
    for (name, file) in FILES {
        let directory = copy(name);
        let path = directory.path().join(file);
        let bytes = fs::read(&path).unwrap();
        // Past the last brace of a JSON file, nothing is lost.
        let end = if file.ends_with(".json") { bytes.trim_ascii_end().len() } else { bytes.len() };
        for i in 0..64 {
            let length = i * end / 64;
            fs::write(&path, &bytes[..length]).unwrap();
            assert!(!open(directory.path()), "{name}/{file} of {length} bytes");
        }
        fs::write(&path, &bytes).unwrap();
        assert!(open(directory.path()));
    }
}

#[test]
fn flipped_bits_never_panic() {
    let mut random = Random(1);
    for (name, file) in FILES {
        let directory = copy(name);
        let path = directory.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        let end = if file.ends_with(".json") { bytes.len() } else { header_end(&bytes) };
        let mut refused = 0;
        for _ in 0..400 {
            let bit = random.below(end * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bytes).unwrap();
            refused += usize::from(!open(directory.path()));
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(refused > 100, "{name}/{file}: {refused}");
    }
}

#[test]
fn spliced_numbers_and_words_never_panic() {
    const WORDS: [&str; 16] = [
        "-1",
        "0",
        "1",
        "18446744073709551615",
        "18446744073709551616",
        "1e308",
        "1e999",
        "NaN",
        "-Infinity",
        "null",
        "true",
        "\"\"",
        "[]",
        "{}",
        "[[[[[[[[",
        "\\u0000",
    ];
    let mut random = Random(2);
    for (name, file) in FILES {
        let directory = copy(name);
        let path = directory.path().join(file);
        let bytes = fs::read(&path).unwrap();
        let end = if file.ends_with(".json") { bytes.len() } else { header_end(&bytes) };
        let values: Vec<usize> = (0..end).filter(|i| matches!(bytes[*i], b':' | b'[' | b',')).collect();
        for _ in 0..400 {
            let start = values[random.below(values.len())] + 1;
            let stop = (start..end).find(|i| matches!(bytes[*i], b',' | b'}' | b']')).unwrap_or(end);
            let word = WORDS[random.below(WORDS.len())].as_bytes();
            fs::write(&path, [&bytes[..start], word, &bytes[stop..]].concat()).unwrap();
            open(directory.path());
        }
    }
}
