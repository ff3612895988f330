//! Damaged ONNX models.

use std::fs;
use std::path::{Path, PathBuf};

use llamac_compiler::diagnostic::{Code, Diagnostics};
use llamac_compiler::onnx::{Model, Summary, structure};
use tempfile::TempDir;

use super::limits::{limited, within};
use super::random::Random;

const MODELS: [&str; 2] = ["exported/model.onnx", "mixed.onnx"];

/// A copy of a committed model, with its data.
fn copy(name: &str) -> (TempDir, PathBuf) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/onnx").join(name);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.onnx");
    fs::copy(&from, &path).unwrap();
    let data = from.with_extension("onnx_data");
    if data.exists() {
        fs::copy(data, directory.path().join("model.onnx_data")).unwrap();
    }
    (directory, path)
}

/// Opens a model that may be damaged, and tells all about it; or its faults name a file.
fn open(path: &Path) -> Result<(), Diagnostics> {
    let size = fs::metadata(path).unwrap().len();
    let opened = limited(size as usize, || {
        let model = Model::open(path)?;
        assert!(structure(&model).ends_with(" nodes\n"));
        assert!(serde_json::to_string(&Summary::of(&model)).is_ok());
        Ok(())
    });
    if let Err(faults) = &opened {
        let directory = path.parent().unwrap().to_str().unwrap();
        assert!(!Diagnostics::is_empty(faults));
        assert!(
            faults.iter().all(|fault| fault.at.as_ref().is_some_and(|at| at.contains(directory))),
            "{faults}"
        );
    }
    opened
}

/// The code of the first fault.
fn code(opened: Result<(), Diagnostics>) -> Option<Code> {
    opened.err().and_then(|faults| faults.iter().next().map(|fault| fault.code))
}

#[test]
fn truncated_models_are_refused() {
    for name in MODELS {
        let (_directory, path) = copy(name);
        let bytes = fs::read(&path).unwrap();
        for i in 0..64 {
            let length = i * bytes.len() / 64;
            fs::write(&path, &bytes[..length]).unwrap();
            let expected = if length == 0 { Code::NotOnnx } else { Code::DamagedOnnx };
            assert_eq!(code(open(&path)), Some(expected), "{name} of {length} bytes");
        }
        fs::write(&path, &bytes).unwrap();
        assert_eq!(open(&path), Ok(()));
    }
}

#[test]
fn truncated_data_is_refused() {
    let (directory, path) = copy("exported/model.onnx");
    let data = directory.path().join("model.onnx_data");
    let bytes = fs::read(&data).unwrap();
    for i in 0..64 {
        fs::write(&data, &bytes[..i * bytes.len() / 64]).unwrap();
        assert_eq!(code(open(&path)), Some(Code::BadExternalData));
    }
    fs::remove_file(&data).unwrap();
    let faults = open(&path).unwrap_err();
    assert_eq!(faults.iter().map(|fault| fault.code).collect::<Vec<_>>(), [Code::MissingFile], "{faults}");
}

#[test]
fn flipped_bits_never_panic() {
    let mut random = Random(1);
    for name in MODELS {
        let (_directory, path) = copy(name);
        let mut bytes = fs::read(&path).unwrap();
        let mut refused = 0;
        for _ in 0..2000 {
            let end = bytes.len();
            random.flip(&mut bytes, end, |bytes, _| {
                fs::write(&path, bytes).unwrap();
                refused += usize::from(open(&path).is_err());
            });
        }
        assert!((500..1900).contains(&refused), "{name}: {refused}");
    }
}

/// A field of bytes.
fn field(number: usize, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len() + 12);
    for mut value in [number << 3 | 2, content.len()] {
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
    }
    bytes.extend(content);
    bytes
}

#[test]
fn a_small_file_does_not_ask_for_much_memory() {
    const COUNT: usize = 2_000_000;
    // What is not too large for the reader; a list that grows is there twice for a moment.
    const TAKEN_IN: usize = 3 * (128 << 20);
    // What is too large is refused before anything is decoded.
    const REFUSED: usize = 1 << 20;
    let empty = |number: usize| field(number, &[]).repeat(COUNT);
    let inside = |path: &[usize], content: Vec<u8>| {
        let nested = path.iter().rev().fold(content, |content, number| field(*number, &content));
        [&[8, 8][..], &field(8, &[16, 17]), &field(7, &[]), &nested].concat()
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.onnx");
    // Nodes, initializers, inputs, outputs; attributes, names and subgraphs of a node; dimensions; entries.
    for (place, number) in [
        (&[7][..], 1),
        (&[7], 5),
        (&[7], 11),
        (&[7], 12),
        (&[7, 1], 5),
        (&[7, 1], 1),
        (&[7, 1, 5], 9),
        (&[7, 1, 5], 11),
        (&[7, 11, 2, 1, 2], 1),
        (&[7, 5], 13),
        (&[], 14),
        (&[], 25),
    ] {
        fs::write(&path, inside(place, empty(number))).unwrap();
        match within(TAKEN_IN, || Model::open(&path)) {
            Ok(_) => {}
            Err(faults) => {
                assert_eq!(code(Err(faults)), Some(Code::OnnxTooLarge), "{place:?} {number}");
                assert!(within(REFUSED, || Model::open(&path)).is_err());
            }
        }
    }
    // Numbers of one byte in a list: of dimensions, and of an attribute.
    for place in [&[7, 5, 1][..], &[7, 1, 5, 8]] {
        fs::write(&path, inside(place, vec![1; 40 << 20])).unwrap();
        let opened = within(REFUSED, || Model::open(&path).map(drop));
        assert_eq!(code(opened), Some(Code::OnnxTooLarge), "{place:?}");
    }
}

#[test]
fn deep_nesting_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.onnx");
    // A graph in an attribute of a node of a graph …
    let graph = (0..5000).fold(Vec::new(), |graph, _| field(1, &field(5, &field(6, &graph))));
    fs::write(&path, [&[8, 8][..], &field(8, &[16, 17]), &field(7, &graph)].concat()).unwrap();
    let faults = Model::open(&path).unwrap_err();
    assert!(faults.to_string().contains("messages are nested too deeply"), "{faults}");
    // Groups are skipped, and may be nested as well.
    fs::write(&path, [&[8, 8][..], &[0x4b; 100_000]].concat()).unwrap();
    assert_eq!(code(open(&path)), Some(Code::DamagedOnnx));
}

#[test]
fn a_model_of_more_than_two_gibibytes_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.onnx");
    fs::File::create(&path).unwrap().set_len(1 << 31).unwrap();
    assert_eq!(code(open(&path)), Some(Code::OnnxTooLarge));
}
