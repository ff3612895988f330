use ::safetensors::SafeTensors;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A file with this header and `data` bytes after it.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 7);
    bytes
}

fn sound() -> Vec<u8> {
    let header = json!({
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [8, 20]},
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "empty": {"dtype": "I64", "shape": [0, 4], "data_offsets": [20, 20]},
        "scalar": {"dtype": "U8", "shape": [], "data_offsets": [20, 21]},
    });
    file(&format!("{header}   "), 21)
}

fn faults(bytes: &[u8]) -> String {
    parse("f.safetensors", bytes).unwrap_err().to_string()
}

#[test]
fn tensors_come_in_the_order_of_their_bytes() {
    let bytes = sound();
    let tensors = parse("f", &bytes).unwrap();
    let names: Vec<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "empty", "scalar"]);
    assert_eq!(tensors[1].shape, [2, 3]);
    assert_eq!(tensors[1].dtype, StoredDtype { name: "BF16", bits: 16 });
    assert_eq!(bytes.len() - tensors[1].range.start, 13);
}

#[test]
fn dtypes_are_those_of_the_crate() {
    for dtype in DTYPES {
        let theirs: ::safetensors::Dtype = serde_json::from_value(json!(dtype.name)).unwrap();
        assert_eq!(theirs.bitsize(), dtype.bits, "{}", dtype.name);
    }
}

#[test]
fn files_that_are_something_else_are_named() {
    let long = "oid sha256:00000000000000000000000000000000000000000000";
    for (bytes, expected) in [
        (b"".to_vec(), "at least 8 bytes"),
        (b"{}".to_vec(), "at least 8 bytes"),
        (format!("version https://git-lfs.github.com/spec/v1\n{long}").into_bytes(), "git lfs pull"),
        (format!("<!DOCTYPE html>{long}").into_bytes(), "web page"),
        (b"PK\x03\x04\x00\x00\x08\x08\x00\x00rest of the archive".to_vec(), "PyTorch"),
        (vec![0xFF; 64], "not plausible"),
        (file("{", 0)[..8].to_vec(), "inside its header"),
        (file("[]", 0), "object"),
        (file("{\"a\": ", 0), "not valid"),
        (file("{}", 3), "longer than its header says"),
        (file(&format!("{{\"a\": {}", "[".repeat(200_000)), 0), "not valid"),
    ] {
        let faults = faults(&bytes);
        assert!(faults.contains(expected) && faults.contains("f.safetensors"), "{expected}: {faults}");
    }
    let mut bytes = file("{\"a\":1}", 0);
    bytes[10] = 0xFF;
    assert!(faults(&bytes).contains("UTF-8"));
}

#[test]
fn a_cut_file_says_how_much_is_there() {
    let bytes = sound();
    let faults = faults(&bytes[..bytes.len() - 5]);
    assert!(faults.contains(&format!("expected {} bytes", bytes.len())), "{faults}");
    assert!(faults.contains(&format!("found    {} bytes", bytes.len() - 5)), "{faults}");
}

#[test]
fn every_faulty_tensor_is_told() {
    let entry = |dtype: &str, shape: Value, start: u64, end: u64| json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
    let header = json!({
        "kind": entry("F33", json!([1]), 0, 4),
        "size": entry("F32", json!([2]), 0, 4),
        "back": entry("F32", json!([0]), 4, 0),
        "sign": entry("F32", json!([-1]), 0, 4),
        "huge": entry("F32", json!([u64::MAX, 2]), 0, 4),
        "wrap": entry("U8", json!([u64::MAX]), 0, u64::MAX),
        "deep": entry("U8", json!([1, 1, 1, 1, 1, 1, 1, 1, 1]), 0, 1),
        "half": entry("F4", json!([3]), 0, 1),
        "bare": {"dtype": "F32", "shape": [1]},
        "text": "F32",
    });
    let faults = parse("f", &file(&header.to_string(), 4)).unwrap_err();
    assert_eq!(faults.iter().count(), 10, "{faults}");
    let text = faults.to_string();
    for name in ["kind", "size", "back", "sign", "huge", "wrap", "deep", "half", "bare", "text"] {
        assert!(text.contains(&format!("f: {name}")), "{name}: {text}");
    }
}

#[test]
fn holes_overlaps_and_repetitions_are_refused() {
    let at =
        |start: u64, end: u64| json!({"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]});
    for (header, expected) in [
        (json!({"a": at(0, 4), "b": at(5, 8)}), "hole after a"),
        (json!({"a": at(0, 5), "b": at(4, 8)}), "overlaps with a"),
        (json!({"a": at(1, 8)}), "hole after the header"),
        (json!({"a": at(0, 8), "b": at(0, 8)}), "overlaps with a"),
    ] {
        assert!(faults(&file(&header.to_string(), 8)).contains(expected), "{expected}");
    }
    let twice = format!(r#"{{"a": {0}, "a": {0}}}"#, at(0, 8));
    assert!(faults(&file(&twice, 8)).contains("this name twice"));
}

#[test]
fn faults_without_number_are_counted() {
    let header: serde_json::Map<String, Value> = (0..500).map(|i| (format!("t{i}"), json!(0))).collect();
    let faults = parse("f", &file(&Value::Object(header).to_string(), 0)).unwrap_err();
    assert!(faults.iter().count() <= 21);
    assert!(faults.to_string().contains("480 more"), "{faults}");
}

#[test]
fn more_tensors_than_any_checkpoint_has_are_refused() {
    let tensor = json!({"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}).to_string();
    let header = |count: usize| {
        let members: Vec<String> = (0..count).map(|i| format!("\"{i}\": {tensor}")).collect();
        file(&format!("{{{}}}", members.join(",")), 0)
    };
    assert_eq!(parse("f", &header(MAX_TENSORS)).unwrap().len(), MAX_TENSORS);
    assert!(faults(&header(MAX_TENSORS + 1)).contains("more than 100000 tensors"));
}

/// The crate is the judge: both accept a file or both refuse it, and both see the same tensors.
fn agree(bytes: &[u8]) {
    match (parse("f", bytes), SafeTensors::deserialize(bytes)) {
        (Ok(ours), Ok(theirs)) => {
            assert_eq!(ours.len(), theirs.len());
            for tensor in ours {
                let view = theirs.tensor(&tensor.name).unwrap();
                assert_eq!(view.shape(), tensor.shape);
                assert_eq!(view.data(), &bytes[tensor.range]);
            }
        }
        (Err(_), Err(_)) => {}
        (ours, theirs) => panic!("ours: {ours:?}\ntheirs: {theirs:?}"),
    }
}

#[test]
fn every_truncation_is_judged_as_the_crate_does() {
    let bytes = sound();
    (0..=bytes.len()).for_each(|length| agree(&bytes[..length]));
}

#[test]
fn every_flipped_bit_is_judged_as_the_crate_does() {
    let mut bytes = sound();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        agree(&bytes);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

proptest! {
    #[test]
    fn random_layouts_are_judged_as_the_crate_does(
        tensors in prop::collection::vec((0usize..22, prop::collection::vec(0u64..5, 0..4), 0u64..3, 0u64..40), 0..5),
        data in 0usize..80,
    ) {
        let mut next = 0;
        let mut header = serde_json::Map::new();
        for (i, (dtype, shape, shift, size)) in tensors.into_iter().enumerate() {
            let dtype = DTYPES[dtype];
            // Mostly right: two of three sizes and places are those that the format demands.
            let bits = shape.iter().product::<u64>() * dtype.bits as u64;
            let size = if shift == 0 { size } else { bits / 8 };
            let start = if shift == 1 { next } else { next + shift / 2 };
            header.insert(
                format!("t{i}"),
                json!({"dtype": dtype.name, "shape": shape, "data_offsets": [start, start + size]}),
            );
            next = start + size;
        }
        let header = Value::Object(header).to_string();
        agree(&file(&header, next as usize));
        agree(&file(&header, data));
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), length in 0u64..200) {
        agree(&bytes);
        let mut framed = length.to_le_bytes().to_vec();
        framed.extend(bytes);
        agree(&framed);
    }
}
