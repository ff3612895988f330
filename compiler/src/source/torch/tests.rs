use std::path::Path;

use super::*;

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/meta").join(name)).unwrap()
}

const LEGACY: &str = "llama2-bf16-bin-legacy/pytorch_model.bin";
const ZIP: &str = "llama1-f16-mp1/consolidated.00.pth";

/// A pickle around `program`, in the older container, which needs no directory.
fn legacy(program: &[u8]) -> Vec<u8> {
    let system = b"\x80\x02}U\x0dlittle_endian\x88s.";
    let parts: [&[u8]; 4] = [legacy::MAGIC, system, b"\x80\x02", program];
    // The storages that there are have to be used.
    let storages: &[&[u8]] = match program.windows(7).any(|part| part == b"Storage") {
        true => &[b".\x80\x02](U\x010e.", &4u64.to_le_bytes(), &[7; 16]],
        false => &[b".\x80\x02]."],
    };
    [parts.concat(), storages.concat()].concat()
}

/// The instructions of a tensor `w` over a storage `0` of `elements` f32.
fn tensor(offset: &[u8], sizes: &[u8], strides: &[u8], elements: u8) -> Vec<u8> {
    let storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK";
    [
        b"}U\x01wctorch._utils\n_rebuild_tensor_v2\n((",
        &storage[1..],
        &[elements],
        b"tQ",
        offset,
        sizes,
        strides,
        b"\x89ccollections\nOrderedDict\n)RtRs",
    ]
    .concat()
}

fn read(program: &[u8]) -> Result<Vec<StoredTensor>, String> {
    parse("f", &legacy(program)).map_err(|faults| faults.to_string())
}

#[track_caller]
fn refused(program: &[u8], code: Code, says: &str) {
    let faults = parse("f", &legacy(program)).unwrap_err();
    let text = faults.to_string();
    assert!(faults.iter().all(|fault| fault.code == code) && text.contains(says), "{text}");
}

#[test]
fn strides_and_offsets_are_kept() {
    let whole = read(&tensor(b"K\x00", b"K\x02K\x02\x86", b"K\x02K\x01\x86", 4)).unwrap();
    let [w] = &whole[..] else { panic!("{whole:?}") };
    assert_eq!((w.name.as_str(), w.dtype.name, &w.shape[..], &w.strides), ("w", "F32", &[2, 2][..], &None));
    assert_eq!(w.range.len(), 16);
    let transposed = read(&tensor(b"K\x00", b"K\x02K\x02\x86", b"K\x01K\x02\x86", 4)).unwrap();
    assert_eq!(transposed[0].strides, Some(vec![1, 2]));
    let column = read(&tensor(b"K\x01", b"K\x02\x85", b"K\x02\x85", 4)).unwrap();
    assert_eq!((column[0].range.len(), &column[0].strides), (12, &Some(vec![2])));
    // A size of one and a stride of zero: neither moves.
    let expanded = read(&tensor(b"K\x03", b"K\x01K\x08\x86", b"K\x63K\x00\x86", 4)).unwrap();
    assert_eq!((expanded[0].range.len(), &expanded[0].strides), (4, &Some(vec![99, 0])));
    let nothing = read(&tensor(b"K\x04", b"K\x00K\x09\x86", b"K\x09K\x09\x86", 4)).unwrap();
    assert_eq!((nothing[0].range.len(), &nothing[0].strides), (0, &None));
}

#[test]
fn tensors_stay_within_their_storages() {
    let beyond = "beyond its storage 0 of 4 elements";
    for (offset, sizes, strides) in [
        (&b"K\x01"[..], &b"K\x02K\x02\x86"[..], &b"K\x02K\x01\x86"[..]),
        (b"K\x05", b"K\x00\x85", b"K\x01\x85"),
        (b"K\x00", b"K\x02\x85", b"K\x04\x85"),
        (b"K\x00", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85", b"K\x00\x85"),
        (b"K\x00", b"K\x03\x85", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85"),
        (b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"K\x01\x85", b"K\x01\x85"),
    ] {
        let result = read(&tensor(offset, sizes, strides, 4));
        // A stride of zero may repeat an element as often as it likes.
        if strides == b"K\x00\x85" {
            assert!(result.is_ok());
        } else {
            assert!(result.as_ref().is_err_and(|text| text.contains(beyond)), "{result:?}");
        }
    }
    refused(
        &tensor(b"K\x00", b"K\x02\x85", b"J\xff\xff\xff\xff\x85", 4),
        Code::DamagedTorchFile,
        "none below zero",
    );
    refused(
        &tensor(b"J\xff\xff\xff\xff", b"K\x01\x85", b"K\x01\x85", 4),
        Code::DamagedTorchFile,
        "begins at element -1",
    );
    refused(&tensor(b"K\x00", b"K\x01\x85", b")", 4), Code::DamagedTorchFile, "1 sizes and 0 strides");
    refused(&tensor(b"K\x00", b"K\x01\x85", b"K\x01\x85", 5), Code::DamagedTorchFile, "another size");
    let many = [&b"("[..], &b"K\x01".repeat(9), b"t"].concat();
    refused(&tensor(b"K\x00", &many, &many, 4), Code::DamagedTorchFile, "at most 8 dimensions");
}

#[test]
fn what_is_more_than_tensors_is_refused() {
    let forbidden = Code::ForbiddenPickle;
    refused(b"cos\nsystem\n(U\x02lstR", forbidden, "`os.system`");
    refused(b"cbuiltins\neval\n", forbidden, "`builtins.eval`");
    refused(b"U\x02osU\x06system\x93", forbidden, "`os.system`");
    refused(b"ctorch\nFloatStorage\n)R", forbidden, "arguments that it does not take");
    refused(b"K\x01)R", forbidden, "no name");
    refused(b"}}b}K\x01}b", forbidden, "the state of an object");
    refused(b"(U\x06modulecos\nsystem\nt", forbidden, "`os.system`");
    refused(b"(U\x06moduleU\x010tQ", forbidden, "no storage");
    // Instances, classes, extensions, persistent text.
    for instruction in
        [b'i', b'o', 0x82, b'P', b'I', b'S', b'V', b'd', b'l', b'0', b'1', b'2', 0x92, 0x8e, 0x98]
    {
        refused(&[b'(', instruction], forbidden, &format!("instruction {instruction:#04x}"));
    }
}

#[test]
fn damaged_programs_are_refused() {
    let damaged = Code::DamagedTorchFile;
    for (program, says) in [
        (&b"h\x05"[..], "nothing is remembered as number 5"),
        (b"q\x00", "the stack is empty"),
        (b"\x86", "the stack is empty"),
        (b"K\x01(\x85", "the stack is empty"),
        (b"t", "no mark"),
        (b"K\x01K\x02a", "no list"),
        (b"K\x01K\x02K\x03s", "no dictionary"),
        (b"}(K\x01u", "no value"),
        (b"X\xff\xff\xff\xffab", "in the middle"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffab", "in the middle"),
        (b"U\x01\xff", "not UTF-8"),
        (b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x00", "has 9 bytes"),
        (b"K\x05", "another object"),
        (b"}", "no tensors"),
        (b"}U\x05modelK\x01s", "without tensors, of model"),
    ] {
        refused(program, damaged, says);
    }
    refused(&b"c".iter().chain(&[b'a'; 300]).copied().collect::<Vec<_>>(), damaged, "longer than 256 bytes");
    refused(&b"N".repeat(1 << 20), damaged, "instructions");
}

/// Structures that would overflow a stack if anything walked them.
#[test]
fn depth_and_circles_are_harmless() {
    refused(&[&b")"[..], &b"\x85".repeat(400_000)].concat(), Code::DamagedTorchFile, "another object");
    refused(&b"(".repeat(400_000), Code::DamagedTorchFile, "the stack is empty");
    refused(b"]q\x00h\x00ah\x00a", Code::DamagedTorchFile, "another object");
    refused(b"}q\x00U\x01wh\x00s", Code::DamagedTorchFile, "without tensors");
}

#[test]
fn cut_files_are_refused_wherever_they_are_cut() {
    for name in [LEGACY, ZIP] {
        let bytes = fixture(name);
        assert!(parse("f", &bytes).is_ok());
        for length in (0..bytes.len()).step_by(bytes.len() / 512) {
            let faults = parse("f", &bytes[..length]).expect_err(name);
            assert!(faults.iter().all(|fault| fault.code == Code::DamagedTorchFile), "{length}: {faults}");
        }
    }
}

#[test]
fn a_big_endian_file_and_other_files_are_refused() {
    let swapped = legacy(b"}").windows(2).position(|pair| pair == b"\x88s").unwrap();
    let mut bytes = legacy(b"}");
    bytes[swapped] = 0x89;
    assert!(parse("f", &bytes).unwrap_err().to_string().contains("little-endian"));
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    for (bytes, says) in [
        (&b"version https://git-lfs.github.com"[..], "git lfs pull"),
        (&tar, "a tar archive"),
        (b"", "0 bytes"),
    ] {
        assert!(parse("f", bytes).unwrap_err().to_string().contains(says));
    }
}

#[test]
fn a_name_that_is_there_twice_is_told() {
    let once = tensor(b"K\x00", b"K\x01\x85", b"K\x01\x85", 4);
    let twice = [&once[..], &once[1..]].concat();
    refused(&twice, Code::DuplicateTensor, "this name twice");
}
