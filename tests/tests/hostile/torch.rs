//! Damaged PyTorch files and checkpoints in Meta's layout.

use std::fs;
use std::path::Path;

use llamac_compiler::source::Checkpoint;
use llamac_plan::diagnostic::{Code, Diagnostics};
use tempfile::TempDir;

use super::limits::limited;
use super::random::{Random, splice};

/// Files that are damaged, one at a time.
const FILES: [(&str, &str); 5] = [
    ("llama1-f16-mp2", "consolidated.01.pth"),
    ("llama1-f16-mp2-legacy", "consolidated.00.pth"),
    ("llama2-bf16-bin-views", "pytorch_model.bin"),
    ("llama2-bf16-bin", "pytorch_model.bin"),
    ("tied-f32-mp2", "params.json"),
];

fn copy(name: &str) -> TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/meta").join(name);
    let directory = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
    }
    directory
}

/// Opens a checkpoint in which `file` may be damaged: it opens, or its faults name a file.
fn open(directory: &Path, file: &str) -> Result<Checkpoint, Diagnostics> {
    let bytes = fs::metadata(directory.join(file)).unwrap().len();
    let opened = limited(bytes as usize, || Checkpoint::open(directory, None));
    if let Err(faults) = &opened {
        for fault in faults.iter() {
            let at = fault.at.as_deref().unwrap_or_default();
            assert!([".pth", ".bin", ".json"].iter().any(|end| at.contains(end)), "{fault}");
        }
    }
    opened
}

/// Every weight of an opened checkpoint can be read.
fn read(checkpoint: &Checkpoint) {
    use llamac_compiler::weights::{Block, WeightReader};
    for weight in checkpoint.weights.values() {
        let mut bytes = vec![0; weight.elements() * weight.dtype().size()];
        let block = Block::whole(weight);
        WeightReader::new(checkpoint).read(weight, &block, weight.dtype(), &mut bytes).unwrap();
    }
}

#[test]
fn flipped_bits_and_spliced_bytes_never_panic() {
    let mut random = Random(7);
    for (name, file) in FILES {
        let directory = copy(name);
        let path = directory.path().join(file);
        let sound = fs::read(&path).unwrap();
        let mut bytes = sound.clone();
        let mut opened = 0;
        for _ in 0..600 {
            random.flip(&mut bytes, sound.len(), |bytes, _| {
                fs::write(&path, bytes).unwrap();
                if let Ok(checkpoint) = open(directory.path(), file) {
                    opened += 1;
                    if opened % 16 == 1 {
                        read(&checkpoint);
                    }
                }
            });
        }
        for _ in 0..200 {
            fs::write(&path, splice(&mut random, &sound, sound.len())).unwrap();
            if let Ok(checkpoint) = open(directory.path(), file) {
                read(&checkpoint);
            }
        }
    }
}

/// The pickle is a small part of a file: it gets its own share of damage.
#[test]
fn damaged_pickles_never_panic() {
    let mut random = Random(8);
    for (name, file) in &FILES[..4] {
        let directory = copy(name);
        let path = directory.path().join(file);
        let sound = fs::read(&path).unwrap();
        let start = sound.windows(2).position(|pair| pair[0] == 0x80 && [2, 4].contains(&pair[1])).unwrap();
        let end = (start + 6000).min(sound.len());
        for i in 0..1500 {
            let mut bytes = sound.clone();
            for _ in 0..1 + i % 3 {
                let place = start + random.below(end - start);
                bytes[place] = match i % 2 {
                    0 => random.below(256) as u8,
                    _ => b"}()]Ntuesabhqjr.RQc\x85\x86\x87\x88\x89\x93\x94\x81"[random.below(26)],
                };
            }
            fs::write(&path, bytes).unwrap();
            if let Ok(checkpoint) = open(directory.path(), file) {
                read(&checkpoint);
            }
        }
    }
}

/// A zip file of entries: name, method, flags and data, as the directory and the local headers say it.
struct Zip {
    bytes: Vec<u8>,
    directory: Vec<u8>,
    count: u16,
}

impl Zip {
    fn new() -> Self {
        Self { bytes: Vec::new(), directory: Vec::new(), count: 0 }
    }

    fn add(&mut self, name: &str, data: &[u8], method: u16, flags: u16) {
        let offset = self.bytes.len() as u32;
        self.bytes.extend(b"PK\x03\x04\x0a\x00");
        self.bytes.extend(Self::middle(name, data.len(), method, flags));
        self.bytes.extend(name.as_bytes());
        self.bytes.extend(data);
        self.list(name, data.len(), method, flags, offset);
    }

    fn list(&mut self, name: &str, length: usize, method: u16, flags: u16, offset: u32) {
        self.directory.extend(b"PK\x01\x02\x0a\x00\x0a\x00");
        self.directory.extend(Self::middle(name, length, method, flags));
        self.directory.extend([0; 10]);
        self.directory.extend(offset.to_le_bytes());
        self.directory.extend(name.as_bytes());
        self.count += 1;
    }

    /// From the flags to the length of the extra field.
    fn middle(name: &str, length: usize, method: u16, flags: u16) -> Vec<u8> {
        let length = (length as u32).to_le_bytes();
        let parts: [&[u8]; 7] = [
            &flags.to_le_bytes(),
            &method.to_le_bytes(),
            &[0; 8],
            &length,
            &length,
            &(name.len() as u16).to_le_bytes(),
            &[0; 2],
        ];
        parts.concat()
    }

    fn finish(mut self) -> Vec<u8> {
        let start = self.bytes.len() as u32;
        let size = (self.directory.len() as u32).to_le_bytes();
        self.bytes.append(&mut self.directory);
        self.bytes.extend(b"PK\x05\x06\0\0\0\0");
        self.bytes.extend([self.count.to_le_bytes(), self.count.to_le_bytes()].concat());
        self.bytes.extend(size);
        self.bytes.extend(start.to_le_bytes());
        self.bytes.extend([0; 2]);
        self.bytes
    }
}

/// The instructions of a tensor `w` of two f32 in the storage `0`.
const PICKLE: &[u8] = b"\x80\x02}U\x01wctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x02tQK\x00K\x02\x85K\x01\x85\x89}tRs.";

#[track_caller]
fn refused(zip: Vec<u8>, says: &str) {
    let faults = limited(zip.len(), || llamac_compiler::source::torch::parse("f.pth", &zip)).unwrap_err();
    let text = faults.to_string();
    assert!(faults.iter().all(|fault| fault.code == Code::DamagedTorchFile) && text.contains(says), "{text}");
}

#[test]
fn zip_files_that_are_not_what_torch_writes_are_refused() {
    let zip = |change: &dyn Fn(&mut Zip)| {
        let mut zip = Zip::new();
        zip.add("a/data.pkl", PICKLE, 0, 0);
        change(&mut zip);
        zip.finish()
    };
    let sound = zip(&|zip| zip.add("a/data/0", &[1; 8], 0, 0));
    let found = llamac_compiler::source::torch::parse("f.pth", &sound).unwrap();
    assert_eq!((found.len(), &sound[found[0].range.clone()]), (1, &[1; 8][..]));
    refused(zip(&|_| ()), "no storage 0");
    refused(zip(&|zip| zip.add("a/data/0", &[1; 8], 8, 0)), "a/data/0\n   the entry is compressed");
    refused(zip(&|zip| zip.add("a/data/0", &[1; 8], 0, 1)), "the entry is encrypted");
    refused(zip(&|zip| zip.add("a/data/0", &[1; 7], 0, 0)), "another size");
    refused(zip(&|zip| zip.add("b/data/0", &[1; 8], 0, 0)), "not in one folder");
    refused(zip(&|zip| zip.add("data", &[1; 8], 0, 0)), "not in one folder");
    refused(
        zip(&|zip| {
            zip.add("a/data/0", &[1; 8], 0, 0);
            zip.add("a/data/0", &[2; 8], 0, 0);
        }),
        "this entry twice",
    );
    refused(
        zip(&|zip| {
            zip.add("a/data/0", &[1; 8], 0, 0);
            zip.list("a/data/0", 8, 0, 0, 0);
        }),
        "another name in its own header",
    );
    // A directory that gives an entry more than its own bytes.
    refused(
        zip(&|zip| {
            let offset = zip.bytes.len() as u32;
            zip.bytes.extend(b"PK\x03\x04\x0a\x00");
            zip.bytes.extend(Zip::middle("a/data/0", 200, 0, 0));
            zip.bytes.extend(b"a/data/0");
            zip.bytes.extend([1; 8]);
            zip.list("a/data/0", 200, 0, 0, offset);
            zip.add("a/version", &[b'3'; 300], 0, 0);
        }),
        "lies over",
    );
    refused(zip(&|zip| zip.list("a/data/0", 8, 0, 0, u32::MAX - 1)), "not where the directory says");
    refused(
        zip(&|zip| {
            zip.add("a/data/0", &[1; 8], 0, 0);
            zip.add("a/byteorder", b"big", 0, 0);
        }),
        "expected little",
    );
    let mut counted = zip(&|zip| zip.add("a/data/0", &[1; 8], 0, 0));
    let end = counted.len();
    counted[end - 12] = 9;
    refused(counted, "contradicts itself");
    refused([&b"PK\x03\x04"[..], &vec![0; 1 << 20]].concat(), "directory at the end");
}

/// Programs of little else than allocations.
#[test]
fn pickles_take_little_memory() {
    let repeated: [&[u8]; 8] =
        [b"]", b"}", b")\x85", b"N", b"]\x94", b"(K\x01K\x02t\x94", b"\x8f", b")]}\x87\x94"];
    for instructions in repeated {
        for times in [1 << 16, 1 << 21] {
            let pickle = [&b"\x80\x02"[..], &instructions.repeat(times), b"."].concat();
            let mut zip = Zip::new();
            zip.add("a/data.pkl", &pickle, 0, 0);
            let zip = zip.finish();
            let result = limited(zip.len(), || llamac_compiler::source::torch::parse("f.pth", &zip));
            assert!(result.is_err());
        }
    }
}

/// One long name, for one tensor as often as there is room for.
#[test]
fn names_of_pickles_are_short() {
    let tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n\
        X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQK\x00K\x02\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR\x94";
    let refused = |length: u32, why: &str| {
        let name = [&b"X"[..], &length.to_le_bytes(), &vec![b'x'; length as usize], b"\x94"].concat();
        let entries = b"h\x00h\x01".repeat(100_000);
        let pickle = [&b"\x80\x02}("[..], &name, tensor, &entries, b"u."].concat();
        let mut zip = Zip::new();
        zip.add("a/data.pkl", &pickle, 0, 0);
        zip.add("a/data/0", &[0; 8], 0, 0);
        let zip = zip.finish();
        let faults = limited(zip.len(), || llamac_compiler::source::torch::parse("f.pth", &zip)).unwrap_err();
        assert!(faults.to_string().contains(why), "{faults}");
    };
    refused(1 << 23, "a text has 8388608 bytes, more than 4096");
    refused(4096, "and 99980 more such faults");
}

#[test]
fn shards_that_do_not_belong_together_are_told() {
    let fault = |change: &dyn Fn(&Path)| {
        let directory = copy("llama1-f16-mp2");
        change(directory.path());
        Checkpoint::open(directory.path(), None).unwrap_err()
    };
    let other = |name: &str, file: &str| {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/meta").join(name).join(file)
    };
    let cut_otherwise = fault(&|path| {
        fs::copy(other("llama1-f16-mp8", "consolidated.01.pth"), path.join("consolidated.01.pth")).unwrap();
    });
    let text = cut_otherwise.to_string();
    assert!(cut_otherwise.iter().all(|fault| fault.code == Code::ShardsDisagree), "{text}");
    assert!(text.contains("consolidated.01.pth: layers.0.attention.wk.weight"), "{text}");
    assert!(
        text.contains("F16 [16, 32], as in consolidated.00.pth") && text.contains("F16 [4, 32]"),
        "{text}"
    );
    let of_another_dtype = fault(&|path| {
        fs::copy(other("tied-f32-mp2", "consolidated.01.pth"), path.join("consolidated.01.pth")).unwrap();
    });
    assert!(of_another_dtype.iter().all(|fault| fault.code == Code::ShardsDisagree));
    let missing = fault(&|path| {
        fs::rename(path.join("consolidated.00.pth"), path.join("consolidated.02.pth")).unwrap()
    });
    assert!(missing.iter().all(|fault| fault.code == Code::MissingFile), "{missing}");
    let too_few = fault(&|path| fs::remove_file(path.join("consolidated.01.pth")).unwrap());
    assert!(too_few.to_string().contains("expected 2 files"), "{too_few}");
    let too_many = fault(&|path| {
        fs::copy(path.join("consolidated.00.pth"), path.join("consolidated.02.pth")).unwrap();
    });
    assert!(too_many.to_string().contains("found    3 files"), "{too_many}");
    let other_model = fault(&|path| {
        fs::write(path.join("params.json"), r#"{"dim": 32, "n_heads": 4, "n_layers": 3, "norm_eps": 1e-6}"#)
            .unwrap();
    });
    let text = other_model.to_string();
    assert!(text.contains("params.json: n_layers") && text.contains("these weights have 2"), "{text}");
}

/// No file is opened that is not in the checkpoint's folder.
#[test]
fn indices_of_bin_files_stay_in_their_folder() {
    for escape in ["../pytorch_model.bin", "/etc/passwd", "a/../../b", "", ".", "a\\b", "a\0b"] {
        let directory = copy("llama2-bf16-bin-sharded");
        let index = serde_json::json!({"weight_map": {"model.norm.weight": escape}});
        fs::write(directory.path().join("pytorch_model.bin.index.json"), index.to_string()).unwrap();
        let faults = Checkpoint::open(directory.path(), None).unwrap_err();
        assert!(faults.iter().all(|fault| fault.code == Code::BadIndex), "{escape}: {faults}");
    }
}
