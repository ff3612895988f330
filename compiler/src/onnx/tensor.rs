//! What a tensor's message says about its data: how much there is, where, and the values if they are few.

use std::fmt::Debug;

use bytes::Bytes;
use half::{bf16, f16};

use super::external::External;
use super::proto::TensorProto;

/// Element types by their number: name and bits. A string has as many bits as its text.
const TYPES: [(&str, u64); 29] = [
    ("undefined", 0),
    ("f32", 32),
    ("u8", 8),
    ("i8", 8),
    ("u16", 16),
    ("i16", 16),
    ("i32", 32),
    ("i64", 64),
    ("string", 0),
    ("bool", 8),
    ("f16", 16),
    ("f64", 64),
    ("u32", 32),
    ("u64", 64),
    ("complex64", 64),
    ("complex128", 128),
    ("bf16", 16),
    ("f8e4m3fn", 8),
    ("f8e4m3fnuz", 8),
    ("f8e5m2", 8),
    ("f8e5m2fnuz", 8),
    ("u4", 4),
    ("i4", 4),
    ("f4e2m1", 4),
    ("f8e8m0", 8),
    ("u2", 2),
    ("i2", 2),
    ("f6e2m3", 6),
    ("f6e3m2", 6),
];

const FLOAT: i32 = 1;
const STRING: i32 = 8;
const DOUBLE: i32 = 11;
const COMPLEX64: i32 = 14;
const COMPLEX128: i32 = 15;

/// The name of an element type: `f32`; `type99` for one that is not known.
pub(super) fn dtype(number: i32) -> String {
    let known = usize::try_from(number).ok().and_then(|index| TYPES.get(index));
    known.map_or_else(|| format!("type{number}"), |(name, _)| (*name).to_owned())
}

/// Where a tensor's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data<'a> {
    /// In a file beside the model.
    External(External<'a>),
    /// In the model, as the bytes of its elements.
    Raw(&'a Bytes),
    /// In the model, in a field of its type.
    Typed,
}

impl TensorProto {
    /// Whether the data is in another file.
    pub(super) fn is_external(&self) -> bool {
        self.data_location == 1
    }

    /// Where the data is.
    ///
    /// # Errors
    /// Why the place in another file cannot be understood.
    pub(super) fn data(&self) -> Result<Data<'_>, String> {
        match self.is_external() {
            true => External::of(self).map(Data::External),
            false if self.raw_data.is_empty() => Ok(Data::Typed),
            false => Ok(Data::Raw(&self.raw_data)),
        }
    }

    /// The number of elements; nothing for dimensions that no tensor has.
    pub(super) fn elements(&self) -> Option<u64> {
        self.dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(u64::try_from(dim).ok()?))
    }

    /// Bits of an element; nothing where they differ from element to element or are not known.
    fn bits(&self) -> Option<u64> {
        let (_, bits) = TYPES.get(usize::try_from(self.data_type).ok()?)?;
        Some(*bits).filter(|bits| *bits > 0)
    }

    /// Bytes of the elements, packed; nothing where dimensions and type do not tell.
    pub(super) fn packed_size(&self) -> Option<u64> {
        Some(self.elements()?.checked_mul(self.bits()?)?.div_ceil(8))
    }

    /// Bytes of the elements: as dimensions and type tell, or what is stored.
    pub(super) fn size(&self) -> u64 {
        let strings = || self.string_data.iter().map(|text| text.len() as u64).sum::<u64>();
        self.packed_size().unwrap_or_else(|| self.raw_data.len() as u64 + strings())
    }

    /// Type and dimensions: `f32[2, 3]`.
    pub(super) fn signature(&self) -> String {
        format!("{}{:?}", dtype(self.data_type), self.dims)
    }

    /// Why the data in the model is not what dimensions and type call for; nothing if it is. Data in another file is
    /// not looked at.
    pub(super) fn inconsistency(&self) -> Option<(String, String)> {
        let Some(elements) = self.elements() else {
            return Some(("dimensions that are sizes".to_owned(), self.signature()));
        };
        if self.is_external() {
            return None;
        }
        let (expected, found, unit) = if self.raw_data.is_empty() {
            let numbers = match (self.data_type, self.bits()) {
                (COMPLEX64 | COMPLEX128, _) => elements.checked_mul(2)?,
                (_, Some(bits @ (2 | 4))) => elements.div_ceil(8 / bits),
                (STRING, _) | (_, Some(_)) => elements,
                (_, None) => return None,
            };
            (numbers, self.stored() as u64, "values")
        } else {
            (self.packed_size()?, self.raw_data.len() as u64, "bytes")
        };
        (expected != found)
            .then(|| (format!("{expected} {unit} for {}", self.signature()), format!("{found} {unit}")))
    }

    /// How many numbers, or strings, there are in the field of the tensor's type.
    fn stored(&self) -> usize {
        let size = match self.data_type {
            FLOAT | COMPLEX64 => 4,
            DOUBLE | COMPLEX128 => 8,
            STRING => return self.string_data.len(),
            _ => return self.varints().count(),
        };
        self.fixed().map(|part| part.len() / size).sum()
    }

    /// The field of numbers of fixed size.
    fn fixed(&self) -> std::slice::Iter<'_, Bytes> {
        match self.data_type {
            FLOAT | COMPLEX64 => self.float_data.iter(),
            _ => self.double_data.iter(),
        }
    }

    /// The numbers of variable length in the field of the tensor's type.
    fn varints(&self) -> impl Iterator<Item = u64> {
        let parts = match self.data_type {
            7 => &self.int64_data,
            12 | 13 => &self.uint64_data,
            _ => &self.int32_data,
        };
        parts.iter().flat_map(|part| {
            part.split_inclusive(|byte| *byte < 0x80)
                .map(|bytes| bytes.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f)))
        })
    }

    /// The elements as text, if there are at most `limit` and they are numbers of whole bytes or strings, in the model.
    pub(super) fn values(&self, limit: u64) -> Option<Vec<String>> {
        if self.is_external() || self.elements()? > limit || self.inconsistency().is_some() {
            return None;
        }
        if self.data_type == STRING {
            let text = |text: &Bytes| format!("{:?}", String::from_utf8_lossy(text));
            return Some(self.string_data.iter().map(text).collect());
        }
        let size = (self.bits()? / 8) as usize;
        let bytes: Vec<u8> = match self.data() {
            Ok(Data::Raw(raw)) => raw.to_vec(),
            _ if matches!(self.data_type, FLOAT | DOUBLE) => self.fixed().flatten().copied().collect(),
            _ => self.varints().flat_map(|number| number.to_le_bytes().into_iter().take(size)).collect(),
        };
        numbers(self.data_type, &bytes)
    }
}

/// Numbers in little-endian `bytes` as text.
fn numbers(data_type: i32, bytes: &[u8]) -> Option<Vec<String>> {
    fn each<const N: usize, T: Debug>(bytes: &[u8], of: impl Fn([u8; N]) -> T) -> Vec<String> {
        bytes.as_chunks().0.iter().map(|&bytes| format!("{:?}", of(bytes))).collect()
    }
    Some(match data_type {
        FLOAT => each(bytes, f32::from_le_bytes),
        2 => each(bytes, u8::from_le_bytes),
        3 => each(bytes, i8::from_le_bytes),
        4 => each(bytes, u16::from_le_bytes),
        5 => each(bytes, i16::from_le_bytes),
        6 => each(bytes, i32::from_le_bytes),
        7 => each(bytes, i64::from_le_bytes),
        9 => each(bytes, |[byte]: [u8; 1]| byte != 0),
        10 => each(bytes, f16::from_le_bytes),
        DOUBLE => each(bytes, f64::from_le_bytes),
        12 => each(bytes, u32::from_le_bytes),
        13 => each(bytes, u64::from_le_bytes),
        16 => each(bytes, bf16::from_le_bytes),
        _ => return None,
    })
}
