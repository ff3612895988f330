//! Damaged ONNX models: every one either opens or is refused in words, in memory that is bounded by the file's size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use llamac_compiler::diagnostic::{Code, Diagnostics};
use llamac_compiler::onnx::{Model, Summary, structure};
use tempfile::TempDir;

thread_local! {
    /// Bytes that this thread holds, and the most that it held.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

/// Counts what each thread holds; a test runs in a thread of its own.
struct Counting;

fn count(bytes: isize) {
    // A thread that ends frees what it holds after its counter is gone.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + bytes, most.max(now + bytes)));
    });
}

// SAFETY: everything is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The result of `work`, and the most bytes that it held at once.
fn measured<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.with(|held| {
        let (now, _) = held.get();
        held.set((now, now));
        now
    });
    let result = work();
    (result, (HELD.with(Cell::get).1 - before) as usize)
}

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

/// Opens a model that may be damaged, and tells all about it: with a bounded amount of memory, and with faults that
/// name the file.
fn open(path: &Path) -> Result<(), Diagnostics> {
    let size = fs::metadata(path).unwrap().len() as usize;
    let (opened, held) = measured(|| {
        let model = Model::open(path)?;
        assert!(structure(&model).ends_with(" nodes\n"));
        assert!(serde_json::to_string(&Summary::of(&model)).is_ok());
        Ok(())
    });
    assert!(held < (1 << 20) + 64 * size, "{held} bytes for {size}");
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
            let bit = random.below(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bytes).unwrap();
            refused += usize::from(open(&path).is_err());
            bytes[bit / 8] ^= 1 << (bit % 8);
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
        let (opened, held) = measured(|| Model::open(&path).map(drop));
        // Some are small enough to be taken in; a list that grows is there twice for a moment.
        match opened {
            Ok(()) => assert!(held < 3 * (256 << 20), "{place:?} {number}: {held} bytes"),
            Err(faults) => {
                assert_eq!(code(Err(faults)), Some(Code::OnnxTooLarge), "{place:?} {number}");
                assert!(held < 1 << 20, "{place:?} {number}: {held} bytes to refuse it");
            }
        }
    }
    // Numbers of one byte in a list: of dimensions, and of an attribute.
    for place in [&[7, 5, 1][..], &[7, 1, 5, 8]] {
        fs::write(&path, inside(place, vec![1; 40 << 20])).unwrap();
        let (opened, held) = measured(|| code(Model::open(&path).map(drop)));
        assert_eq!((opened, held < 1 << 20), (Some(Code::OnnxTooLarge), true), "{place:?}");
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
