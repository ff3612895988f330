//! The header of a GGUF file, versions 2 and 3: metadata, and where each tensor lies.
//!
//! All counts, lengths and offsets are a stranger's: what is read lies within the file, and nothing is kept that takes
//! more memory than its bytes there. What is wrong with single tensors is told of the first twenty.

use std::collections::BTreeMap;
use std::ops::Range;

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use super::cursor::{Cursor, Cut};
use super::types::{self, GgmlType};
use super::value::{self, Fault, Value};
use crate::source::capped::Capped;
use crate::source::file;

pub(super) const MAGIC: &[u8] = b"GGUF";

/// Files have some dozens of keys.
const MAX_KEYS: u64 = 1 << 16;

/// The largest published models have a tenth of this.
const MAX_TENSORS: u64 = 100_000;

/// Bytes of a name; `ggml` has room for 64.
const MAX_NAME: usize = 256;

/// `ggml` has no more.
const MAX_DIMENSIONS: u32 = 4;

/// Where data begins, and each tensor, unless the file says otherwise.
const ALIGNMENT: u64 = 32;

/// A tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufTensor {
    /// Its name in the file.
    pub name: String,
    /// The type of its elements.
    pub ty: &'static GgmlType,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Where its bytes are, from the start of the file.
    pub range: Range<usize>,
}

/// What the header of a file says.
#[derive(Debug)]
pub(super) struct Header<'a> {
    pub(super) metadata: BTreeMap<&'a str, Value<'a>>,
    pub(super) tensors: Vec<GgufTensor>,
}

/// Reads the header of the file whose whole content is `bytes`; `file` names it in messages.
pub(super) fn header<'a>(file: &str, bytes: &'a [u8]) -> Result<Header<'a>, Diagnostics> {
    let mut cursor = Cursor::new(bytes);
    let (tensor_count, key_count) = counts(file, bytes, &mut cursor)?;
    let mut metadata = BTreeMap::new();
    for n in 0..key_count {
        let (key, value) = entry(file, &mut cursor, n)?;
        if metadata.insert(key, value).is_some() {
            return Err(damaged(format!("{file}: {key}")).message("the key is there twice").into());
        }
    }
    let alignment = alignment(file, metadata.get("general.alignment"))?;
    let mut faults = Capped::new(file);
    let mut placed: Vec<(GgufTensor, u64)> = Vec::new();
    for n in 0..tensor_count {
        match info(file, &mut cursor, n, alignment)? {
            Ok(tensor) => placed.push(tensor),
            Err(fault) => faults.push(fault),
        }
    }
    let data = (cursor.at() as u64).next_multiple_of(alignment);
    if faults.is_empty() {
        place(&mut placed, data, bytes.len() as u64, &mut faults);
    }
    let tensors = placed.into_iter().map(|(tensor, _)| tensor).collect();
    faults.into_diagnostics().or(Header { metadata, tensors })
}

fn damaged(at: impl Into<String>) -> Diagnostic {
    Diagnostic::new(Code::DamagedGguf).at(at)
}

/// The fault of a file that ends too soon, in `what`.
fn cut(file: &str, what: &str, Cut { at, wanted }: Cut) -> Diagnostic {
    damaged(file)
        .message(format!("the file ends in {what}"))
        .expected(format!("{wanted} bytes from byte {at} on"))
        .help("the file is cut or damaged: download it again")
}

/// The counts of tensors and of keys.
fn counts(file: &str, bytes: &[u8], cursor: &mut Cursor<'_>) -> Result<(u64, u64), Diagnostic> {
    let ends = |error| cut(file, "its header", error);
    if !bytes.starts_with(MAGIC) {
        let help = file::stand_in(bytes).unwrap_or("the file is something else: download it again");
        return Err(damaged(file).expected("a GGUF file").help(help));
    }
    cursor.take(MAGIC.len() as u64).map_err(ends)?;
    let version = cursor.u32().map_err(ends)?;
    let other = |what: &str| {
        let fault = Diagnostic::new(Code::UnsupportedModel).at(file).message(what.to_owned());
        fault.help("convert the model again, with a version of llama.cpp since September 2023")
    };
    match version {
        2 | 3 => {}
        1 => return Err(other("the first version of GGUF cannot be read")),
        swapped if [1, 2, 3].contains(&swapped.swap_bytes()) => {
            return Err(other("the file is big-endian, for other processors"));
        }
        later => return Err(other("this version of GGUF is not known").found(later.to_string())),
    }
    let tensors = cursor.u64().map_err(ends)?;
    let keys = cursor.u64().map_err(ends)?;
    for (what, found, most) in [("tensors", tensors, MAX_TENSORS), ("keys", keys, MAX_KEYS)] {
        if found > most {
            let fault = damaged(file).message(format!("the number of {what} is not plausible"));
            return Err(fault.expected(format!("at most {most}")).found(found.to_string()));
        }
    }
    Ok((tensors, keys))
}

/// Key and value `n` of the metadata.
fn entry<'a>(file: &str, cursor: &mut Cursor<'a>, n: u64) -> Result<(&'a str, Value<'a>), Diagnostic> {
    let ends = |error| cut(file, &format!("key {n} of its metadata"), error);
    let at = cursor.at();
    let key = cursor.string().map_err(ends)?;
    let key = std::str::from_utf8(key).ok().filter(|key| key.len() <= usize::from(u16::MAX));
    let key = key.ok_or_else(|| damaged(file).message(format!("byte {at}: key {n} is no text of a key")))?;
    let place = || damaged(format!("{file}: {key}"));
    let value = value::kind(cursor).and_then(|kind| value::value(cursor, kind, 0));
    value.map(|value| (key, value)).map_err(|fault| match fault {
        Fault::Cut(error) => cut(&format!("{file}: {key}"), "this value", error),
        Fault::Kind(number) => place()
            .message("the type of the value is not known")
            .expected("0 to 12")
            .found(number.to_string()),
        Fault::Depth => place().message("lists are nested too deeply"),
        Fault::Bool(byte) => place().expected("a truth value, 0 or 1").found(byte.to_string()),
    })
}

fn alignment(file: &str, given: Option<&Value<'_>>) -> Result<u64, Diagnostic> {
    match given {
        None => Ok(ALIGNMENT),
        Some(Value::Unsigned(n)) if n.is_power_of_two() && *n <= 1 << 20 => Ok(*n),
        Some(other) => Err(damaged(format!("{file}: general.alignment"))
            .expected("a power of two, up to 1048576")
            .found(super::shown(other))),
    }
}

/// Tensor `n` without its place, and its offset from the start of the data. What is wrong with it alone is the inner
/// fault.
fn info(
    file: &str,
    cursor: &mut Cursor<'_>,
    n: u64,
    alignment: u64,
) -> Result<Result<(GgufTensor, u64), Diagnostic>, Diagnostic> {
    let ends = |error| cut(file, &format!("its list of tensors, at tensor {n}"), error);
    let name = cursor.string().map_err(ends)?;
    let dimensions = cursor.u32().map_err(ends)?;
    let shown = String::from_utf8_lossy(&name[..name.len().min(MAX_NAME)]).into_owned();
    let place = || damaged(format!("{file}: {shown}"));
    if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
        // Nothing behind it can be read.
        return Err(place()
            .expected(format!("1 to {MAX_DIMENSIONS} dimensions"))
            .found(format!("{dimensions} dimensions")));
    }
    let mut sizes = Vec::new();
    for _ in 0..dimensions {
        sizes.push(cursor.u64().map_err(ends)?);
    }
    let (id, offset) = (cursor.u32().map_err(ends)?, cursor.u64().map_err(ends)?);
    Ok((|| {
        let name = std::str::from_utf8(name).ok().filter(|name| name.len() <= MAX_NAME);
        let name = name.ok_or_else(|| place().message(format!("tensor {n} has no name of a tensor")))?;
        let ty = types::by_id(id)
            .ok_or_else(|| place().message("there is no such type of elements").found(id.to_string()))?;
        let row = sizes[0];
        if !row.is_multiple_of(ty.numbers as u64) {
            let expected = format!("rows of a multiple of {} elements, the block of {}", ty.numbers, ty.name);
            return Err(place().expected(expected).found(format!("rows of {row}")));
        }
        let elements = sizes.iter().try_fold(1u64, |all, size| all.checked_mul(*size));
        let bytes =
            elements.filter(|n| *n > 0).and_then(|n| (n / ty.numbers as u64).checked_mul(ty.bytes as u64));
        let Some(length) = bytes.and_then(|bytes| usize::try_from(bytes).ok()) else {
            return Err(place().message("the dimensions have no size in bytes").found(format!("{sizes:?}")));
        };
        if !offset.is_multiple_of(alignment) {
            let expected = format!("an offset that is a multiple of {alignment}");
            return Err(place().expected(expected).found(offset.to_string()));
        }
        // No size is larger than the product of all.
        let shape = sizes.iter().rev().map(|size| *size as usize).collect();
        Ok((GgufTensor { name: name.to_owned(), ty, shape, range: 0..length }, offset))
    })())
}

/// Gives each tensor its place behind `data`, and checks that it has it for itself, within the file of `length` bytes.
fn place(placed: &mut [(GgufTensor, u64)], data: u64, length: u64, faults: &mut Capped<'_>) {
    let mut end = data;
    let mut beyond = 0;
    for (tensor, offset) in placed.iter_mut() {
        let start = data.checked_add(*offset);
        let stop = start.and_then(|start| start.checked_add(tensor.range.len() as u64));
        end = end.max(stop.unwrap_or(u64::MAX));
        match start.zip(stop) {
            // What lies within the file has places that fit.
            Some((start, stop)) if stop <= length => tensor.range = start as usize..stop as usize,
            _ => beyond += 1,
        }
    }
    if beyond > 0 {
        faults.push(
            damaged(faults.file())
                .message(format!("the file is cut: {beyond} of its tensors lie beyond its end"))
                .expected(format!("{end} bytes"))
                .found(format!("{length} bytes"))
                .help("download the file again"),
        );
        return;
    }
    let mut order: Vec<&GgufTensor> = placed.iter().map(|(tensor, _)| tensor).collect();
    order.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
    for pair in order.windows(2) {
        if pair[1].range.start < pair[0].range.end {
            let place = format!("{}: {}", faults.file(), pair[1].name);
            faults.push(damaged(place).message(format!("the tensor overlaps with {}", pair[0].name)));
        }
    }
    order.sort_by_key(|tensor| &tensor.name);
    for pair in order.windows(2).filter(|pair| pair[0].name == pair[1].name) {
        let place = format!("{}: {}", faults.file(), pair[1].name);
        faults.push(Diagnostic::new(Code::DuplicateTensor).at(place).message("the file has this name twice"));
    }
}
