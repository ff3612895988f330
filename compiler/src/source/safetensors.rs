//! The header of a safetensors file, parsed from bytes that may be anything.
//!
//! The `safetensors` crate stops at the first fault and names no place; this parser reports all of them. It accepts
//! what the crate accepts, except for repeated names, for more than eight dimensions and for more than a hundred
//! thousand tensors: memory is bounded whatever the header says. Reading the file and the meaning of tensors are not here.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::capped::Capped;
use super::file::{self, MappedFile};

/// The format's limit on a header, in bytes.
const MAX_HEADER: u64 = 100_000_000;

/// The largest published models have a tenth of this; memory is bounded by it.
const MAX_TENSORS: usize = 100_000;

/// Tensors have few dimensions; a longer list is refused before it is stored.
const MAX_DIMENSIONS: usize = 8;

/// An element type of the format: its name and its size in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StoredDtype {
    /// The name in the header, as `BF16`.
    pub name: &'static str,
    /// Bits of an element; some are below a byte.
    pub bits: usize,
}

/// Every element type of format version 0.8.
pub const DTYPES: [StoredDtype; 22] = {
    const fn of(name: &'static str, bits: usize) -> StoredDtype {
        StoredDtype { name, bits }
    }
    [
        of("BOOL", 8),
        of("F4", 4),
        of("F6_E2M3", 6),
        of("F6_E3M2", 6),
        of("U8", 8),
        of("I8", 8),
        of("F8_E5M2", 8),
        of("F8_E4M3", 8),
        of("F8_E8M0", 8),
        of("F8_E4M3FNUZ", 8),
        of("F8_E5M2FNUZ", 8),
        of("I16", 16),
        of("U16", 16),
        of("F16", 16),
        of("BF16", 16),
        of("I32", 32),
        of("U32", 32),
        of("F32", 32),
        of("C64", 64),
        of("F64", 64),
        of("I64", 64),
        of("U64", 64),
    ]
};

/// One tensor of a file, in this format or another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// Its name in the file.
    pub name: String,
    /// The type of its elements.
    pub dtype: StoredDtype,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Where its bytes are, from the start of the file.
    pub range: Range<usize>,
    /// The distance of neighbours in each dimension, in elements, where they do not follow each other row after row.
    pub strides: Option<Vec<usize>>,
}

/// The tensors of `file`.
///
/// # Errors
/// As [`parse`].
pub fn read(file: &MappedFile) -> Result<Vec<StoredTensor>, Diagnostics> {
    parse(file.name(), file.bytes())
}

/// Parses the header of the file whose whole content is `bytes`; `file` names it in messages. The tensors come in the
/// order of their bytes, which follow each other without holes up to the end of the file.
///
/// # Errors
/// `BadContainer` and `DuplicateTensor`, all that there are up to twenty: a header that is cut, too long or not JSON;
/// tensors of unknown dtype, whose size is not that of their shape, that overlap, leave holes or lie outside the file;
/// a file that is shorter or longer than its header says.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Vec<StoredTensor>, Diagnostics> {
    let text = header(file, bytes)?;
    let data = 8 + text.len();
    let mut faults = Capped::new(file);
    let members = Members { data, faults: &mut faults, names: BTreeSet::new(), tensors: Vec::new() };
    let mut json = serde_json::Deserializer::from_str(text);
    let read = json.deserialize_map(members).and_then(|tensors| json.end().map(|()| tensors));
    let mut tensors = read.map_err(|error| {
        bad(file).message(format!("the header is not valid: {error}")).help("download the file again")
    })?;
    if faults.is_empty() {
        tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
        contiguous(&tensors, data, bytes.len(), &mut faults);
    }
    faults.into_diagnostics().or(tensors)
}

fn bad(file: &str) -> Diagnostic {
    Diagnostic::new(Code::BadContainer).at(file)
}

/// The JSON text of the header.
fn header<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a str, Diagnostic> {
    let again = "the file is cut or is something else: download it again";
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(bad(file)
            .expected("at least 8 bytes")
            .found(format!("{} bytes", bytes.len()))
            .help(again));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(bad(file)
            .message("the length of the header is not plausible")
            .expected(format!("at most {MAX_HEADER} bytes"))
            .found(format!("{length} bytes"))
            // Read as a length, the beginning of another kind of file is beyond all limits.
            .help(file::stand_in(bytes).unwrap_or(again)));
    }
    let Some(header) = rest.get(..length as usize) else {
        return Err(bad(file)
            .message("the file ends inside its header")
            .expected(format!("at least {} bytes", length + 8))
            .found(format!("{} bytes", bytes.len()))
            .help(again));
    };
    std::str::from_utf8(header)
        .map_err(|error| bad(file).message(format!("the header is not valid UTF-8: {error}")).help(again))
}

/// Reads the members of the header, each by itself: one that is wrong does not hide the others.
struct Members<'de, 'c, 'f> {
    data: usize,
    faults: &'c mut Capped<'f>,
    names: BTreeSet<Cow<'de, str>>,
    tensors: Vec<StoredTensor>,
}

impl<'de> Visitor<'de> for Members<'de, '_, '_> {
    type Value = Vec<StoredTensor>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a member for each tensor")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Vec<StoredTensor>, A::Error> {
        while let Some(Key(name)) = map.next_key()? {
            if name == "__metadata__" {
                map.next_value::<Metadata>()?;
                continue;
            }
            let raw: &RawValue = map.next_value()?;
            let place = |file: &str| format!("{file}: {name}");
            match tensor(&name, raw, self.data) {
                Ok(tensor) => self.tensors.push(tensor),
                Err(fault) => self.faults.push(fault.at(place(self.faults.file()))),
            }
            if self.names.contains(&name) {
                let fault = Diagnostic::new(Code::DuplicateTensor).at(place(self.faults.file()));
                self.faults.push(fault.message("the header has this name twice"));
            } else if self.names.len() == MAX_TENSORS {
                return Err(A::Error::custom(format!("it has more than {MAX_TENSORS} tensors")));
            }
            self.names.insert(name);
        }
        Ok(self.tensors)
    }
}

/// A string that is borrowed where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// `__metadata__`: strings by name, which say nothing about tensors and are not kept.
struct Metadata;

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Strings;
        impl<'de> Visitor<'de> for Strings {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("__metadata__ with strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                while map.next_entry::<Key<'de>, Key<'de>>()?.is_some() {}
                Ok(Metadata)
            }

            fn visit_unit<E>(self) -> Result<Metadata, E> {
                Ok(Metadata)
            }
        }
        deserializer.deserialize_any(Strings)
    }
}

/// A tensor's members as the header has them. Offsets count from the end of the header.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: Shape,
    data_offsets: (u64, u64),
}

/// Dimensions, never more than [`MAX_DIMENSIONS`] in memory.
struct Shape {
    sizes: Vec<usize>,
    dimensions: usize,
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sizes;
        impl<'de> Visitor<'de> for Sizes {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of sizes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
                let mut sizes = Vec::new();
                while sizes.len() < MAX_DIMENSIONS {
                    let Some(size) = list.next_element()? else {
                        return Ok(Shape { dimensions: sizes.len(), sizes });
                    };
                    sizes.push(size);
                }
                let mut dimensions = sizes.len();
                while list.next_element::<IgnoredAny>()?.is_some() {
                    dimensions += 1;
                }
                Ok(Shape { sizes, dimensions })
            }
        }
        deserializer.deserialize_seq(Sizes)
    }
}

/// One member, checked as far as it can be alone. `data` is where the header ends.
fn tensor(name: &str, raw: &RawValue, data: usize) -> Result<StoredTensor, Diagnostic> {
    let fault = || Diagnostic::new(Code::BadContainer);
    let entry: Entry<'_> = serde_json::from_str(raw.get())
        .map_err(|error| fault().message(format!("the entry in the header is not valid: {error}")))?;
    let Some(dtype) = DTYPES.into_iter().find(|dtype| dtype.name == entry.dtype) else {
        return Err(fault().message("unknown dtype").found(entry.dtype.chars().take(60).collect::<String>()));
    };
    let Shape { sizes: shape, dimensions } = entry.shape;
    if dimensions > MAX_DIMENSIONS {
        return Err(fault()
            .expected(format!("at most {MAX_DIMENSIONS} dimensions"))
            .found(format!("{dimensions} dimensions")));
    }
    let bits = shape.iter().try_fold(dtype.bits, |bits, size| bits.checked_mul(*size));
    let Some(size) = bits.filter(|bits| bits % 8 == 0).map(|bits| bits / 8) else {
        return Err(fault().message("the shape does not have a size in bytes").found(format!("{shape:?}")));
    };
    let (start, end) = entry.data_offsets;
    let found = end.checked_sub(start);
    if found != Some(size as u64) {
        return Err(fault()
            .message("the offsets do not match the shape")
            .expected(format!("{size} bytes for {shape:?} of {}", dtype.name))
            .found(format!("offsets {start} to {end}")));
    }
    let in_file = |offset: u64| usize::try_from(offset).ok()?.checked_add(data);
    let (Some(start), Some(end)) = (in_file(start), in_file(end)) else {
        return Err(fault()
            .message("the offsets lie outside of any file")
            .found(format!("{start} to {end}")));
    };
    Ok(StoredTensor { name: name.to_owned(), dtype, shape, range: start..end, strides: None })
}

/// Checks that the tensors, sorted by place, fill the file from `data` to `length` without holes.
fn contiguous(tensors: &[StoredTensor], data: usize, length: usize, faults: &mut Capped<'_>) {
    let mut end = data;
    let mut before: Option<&StoredTensor> = None;
    for tensor in tensors {
        let start = tensor.range.start;
        if start != end {
            let what = if start < end { "overlaps with" } else { "leaves a hole after" };
            let neighbour = before.map_or("the header", |before| &before.name);
            faults.push(
                Diagnostic::new(Code::BadContainer)
                    .at(format!("{}: {}", faults.file(), tensor.name))
                    .message(format!("the tensor {what} {neighbour}"))
                    .expected(format!("data from byte {end} on"))
                    .found(format!("data from byte {start} on")),
            );
        }
        if tensor.range.end >= end {
            before = Some(tensor);
        }
        end = end.max(tensor.range.end);
    }
    if end != length {
        let (message, help) = if end > length {
            ("the file is cut: tensors lie beyond its end", "download the file again")
        } else {
            ("the file is longer than its header says", "the file is damaged: download it again")
        };
        let fault = bad(faults.file()).message(message).expected(format!("{end} bytes"));
        faults.push(fault.found(format!("{length} bytes")).help(help));
    }
}

#[cfg(test)]
mod tests;
