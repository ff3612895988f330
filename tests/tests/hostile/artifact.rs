//! Damaged compiled models. With checksums a bit that is turned anywhere is found; without them, what opens runs.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use llamac_compiler::driver::{self, CompileOptions, Silent};
use llamac_compiler::output::Output;
use llamac_compiler::source::Checkpoint;
use llamac_runtime::diagnostic::Diagnostics;
use llamac_runtime::plan::artifact::{CHECKSUMS, FILES, FORMAT, PAD, PLAN, VERSION};
use llamac_runtime::{Model, OpenOptions};
use llamac_tests::artifact;
use safetensors::SafeTensors;

use super::checkpoint::{header_end, token};
use super::limits::limited;
use super::random::{Random, splice};

/// The bytes of a fixture, compiled.
pub fn compiled(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name);
    let output = Output::temporary().unwrap();
    let checkpoint = Checkpoint::open(folder, None).unwrap();
    driver::compile(&checkpoint, &CompileOptions::default(), &output, &Silent).unwrap();
    let mut bytes = Vec::new();
    output.file().rewind().unwrap();
    output.file().read_to_end(&mut bytes).unwrap();
    bytes
}

/// An artifact with these bytes.
fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Opens an artifact; what is wrong with it names it.
pub fn open(bytes: &[u8], verify: bool) -> Result<Arc<Model>, Diagnostics> {
    let options = OpenOptions { verify, threads: 1 };
    let model = limited(bytes.len(), || Model::from_file(&file(bytes), Path::new("m.llamac"), options));
    if let Err(faults) = &model {
        assert!(!faults.is_empty());
        assert!(
            faults.iter().all(|f| f.at.as_ref().is_some_and(|at| at.starts_with("m.llamac"))),
            "{faults}"
        );
    }
    model
}

/// The places of the tensors whose names start with `prefix`.
pub fn places(bytes: &[u8], prefix: &str) -> Vec<std::ops::Range<usize>> {
    let (end, header) = SafeTensors::read_metadata(bytes).map(|(n, header)| (8 + n, header)).unwrap();
    let mut places: Vec<_> = (header.tensors().into_iter())
        .filter(|(name, _)| name.starts_with(prefix))
        .map(|(_, info)| end + info.data_offsets.0..end + info.data_offsets.1)
        .collect();
    places.sort_by_key(|place| place.start);
    places
}

#[test]
fn a_cut_file_is_refused() {
    let bytes = compiled("tiny/gqa-f32");
    let head = places(&bytes, PLAN)[0].end;
    for i in 0..64 {
        for length in [i * bytes.len() / 64, i * head / 64, bytes.len() - 1 - i] {
            for verify in [true, false] {
                assert!(open(&bytes[..length], verify).is_err(), "{length} of {}", bytes.len());
            }
        }
    }
    for more in [1, 64] {
        let longer = [&bytes[..], &vec![0; more]].concat();
        assert!(open(&longer, false).is_err());
    }
    assert!(open(&bytes, true).is_ok());
}

#[test]
fn a_bit_turned_anywhere_is_found() {
    for name in ["tiny/gqa-f32", "tiny/odd-sizes"] {
        let mut bytes = compiled(name);
        let pads = places(&bytes, PAD);
        let sampled = [places(&bytes, CHECKSUMS), places(&bytes, FILES), pads.clone()].concat();
        assert!(pads.iter().any(|place| !place.is_empty()), "{name} has padding");
        let mut random = Random(11);
        // Each byte of the header, of the checksums, of the files and of the padding; weights and plan by chance.
        let mut places: Vec<usize> = (0..header_end(&bytes)).chain(sampled.into_iter().flatten()).collect();
        places.extend((0..3000).map(|_| random.below(bytes.len())));
        let path = tempfile::NamedTempFile::new().unwrap();
        fs::write(&path, &bytes).unwrap();
        let options = OpenOptions { verify: true, threads: 1 };
        for place in places {
            let bit = 1 << random.below(8);
            bytes[place] ^= bit;
            fs::write(&path, &bytes).unwrap();
            assert!(Model::open(path.path(), options).is_err(), "{name}: byte {place}");
            bytes[place] ^= bit;
        }
        fs::write(&path, &bytes).unwrap();
        assert!(Model::open(path.path(), options).is_ok());
    }
}

#[test]
fn without_checksums_what_opens_also_runs() {
    for name in ["tiny/gqa-f32", "tiny/rope-dynamic-new", "tiny/rope-longrope-new", "tiny/seqcls-pad"] {
        let sound = compiled(name);
        let plan = places(&sound, PLAN)[0].clone();
        let mut random = Random(12);
        for region in [0..header_end(&sound), plan.clone()] {
            let mut opened = 0;
            for _ in 0..2000 {
                let mut bytes = sound.clone();
                let bit = random.below(region.len() * 8);
                bytes[region.start + bit / 8] ^= 1 << (bit % 8);
                if let Ok(model) = open(&bytes, false) {
                    opened += 1;
                    let _ = token(&model);
                }
            }
            assert!(opened < 1000, "{name}: {opened} of 2000 open");
        }
        let text = &sound[plan];
        for _ in 0..1000 {
            let spliced = splice(&mut random, text, text.len());
            if let Ok(model) = open(&with_plan(&sound, &spliced), false) {
                let _ = token(&model);
            }
        }
    }
}

/// The artifact `bytes` with another plan, without checksums.
pub fn with_plan(bytes: &[u8], plan: &[u8]) -> Vec<u8> {
    let read = SafeTensors::deserialize(bytes).unwrap();
    let tensors = (read.iter())
        .filter(|(name, _)| *name != PLAN && *name != CHECKSUMS && !name.starts_with(PAD))
        .map(|(name, view)| (name, view.data()));
    let (header, data) = artifact::container(tensors.chain([(PLAN, plan)]));
    artifact::file(&header, &data)
}

#[test]
fn a_plan_without_checksums_is_read_as_it_is() {
    let sound = compiled("tiny/gqa-f32");
    let plan = sound[places(&sound, PLAN)[0].clone()].to_vec();
    assert_eq!(token(&open(&with_plan(&sound, &plan), false).unwrap()), Ok(()));
    assert!(open(&with_plan(&sound, &plan), true).is_err(), "there are no checksums");
}

/// Headers and plans that say more than they are worth.
#[test]
fn large_files_of_nothing_take_little_memory() {
    let many = |n: usize, each: &dyn Fn(usize) -> String| (0..n).map(each).collect::<Vec<_>>().join(",");
    let header = |json: String| [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    let entry = r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
    let metadata = format!(r#""__metadata__":{{"format":"{FORMAT}","version":"{VERSION}"}}"#);
    for json in [
        format!(
            r#"{{{metadata},"a":{{"dtype":"U8","shape":[{}],"data_offsets":[0,0]}}}}"#,
            many(8 << 20, &|_| "0".into())
        ),
        format!("{{{metadata},{}}}", many(400_000, &|i| format!(r#""{i}":{entry}"#))),
        format!(r#"{{"__metadata__":{{{}}}}}"#, many(1 << 20, &|i| format!(r#""{i}":"""#))),
        format!(r#"{{{metadata},"a":{}"#, "[".repeat(16 << 20)),
    ] {
        assert!(open(&header(json), false).is_err());
    }
    for length in [0, 1, 99_999_999, 100_000_001, u64::MAX - 8, u64::MAX] {
        assert!(open(&[&u64::to_le_bytes(length)[..], b"{}"].concat(), false).is_err());
    }
    let sound = compiled("tiny/gqa-f32");
    let text = String::from_utf8(sound[places(&sound, PLAN)[0].clone()].to_vec()).unwrap();
    let step = r#"{"activate":{"function":"silu","x":{"buffer":0,"start":0,"width":1},"out":{"buffer":0,"start":0,"width":1}}}"#;
    for (from, to) in [
        (
            r#""passes":["#,
            format!(r#""passes":[{{"name":"","firings":[{}]}},"#, many(4 << 20, &|_| r#"["",0]"#.into())),
        ),
        (r#""eos_token_ids":["#, format!(r#""eos_token_ids":[{},"#, many(8 << 20, &|_| "0".into()))),
        (r#""steps":["#, format!(r#""steps":[{},"#, many(100_000, &|_| step.into()))),
        (r#""steps":["#, format!(r#""steps":[{},"#, "[".repeat(1 << 20))),
    ] {
        assert!(text.contains(from), "{from}");
        let bytes = with_plan(&sound, text.replacen(from, &to, 1).as_bytes());
        if let Ok(model) = open(&bytes, false) {
            let _ = token(&model);
        }
    }
}
