//! Values of the metadata, as they lie in the file: strings and lists are not copied.

use serde_json::{Number, Value as Json};

use super::cursor::{Cursor, Cut};

/// Lists of lists of lists: nobody writes any.
const MAX_DEPTH: usize = 4;

/// The type of a value, by the number that files have for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

/// In the order of their numbers.
const KINDS: [Kind; 13] = [
    Kind::U8,
    Kind::I8,
    Kind::U16,
    Kind::I16,
    Kind::U32,
    Kind::I32,
    Kind::F32,
    Kind::Bool,
    Kind::String,
    Kind::Array,
    Kind::U64,
    Kind::I64,
    Kind::F64,
];

impl Kind {
    /// Bytes of a value, where all have as many.
    fn size(self) -> Option<u64> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    Single(f32),
    Double(f64),
    Bool(bool),
    String(&'a [u8]),
    Array(Array<'a>),
}

/// A list whose elements were walked over once.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Array<'a> {
    kind: Kind,
    pub(super) count: usize,
    bytes: &'a [u8],
}

/// Why a value cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The file ends in it.
    Cut(Cut),
    /// There is no such type.
    Kind(u32),
    /// Lists in lists, too many of them.
    Depth,
    /// A truth value that is neither 0 nor 1.
    Bool(u8),
}

impl From<Cut> for Fault {
    fn from(cut: Cut) -> Self {
        Self::Cut(cut)
    }
}

/// Reads the number of a type.
pub(super) fn kind(cursor: &mut Cursor<'_>) -> Result<Kind, Fault> {
    let number = cursor.u32()?;
    KINDS.get(number as usize).copied().ok_or(Fault::Kind(number))
}

/// Reads a value of type `kind`, which is in `depth` lists.
pub(super) fn value<'a>(cursor: &mut Cursor<'a>, kind: Kind, depth: usize) -> Result<Value<'a>, Fault> {
    Ok(match kind {
        Kind::U8 => Value::Unsigned(cursor.u8()?.into()),
        Kind::U16 => Value::Unsigned(cursor.u16()?.into()),
        Kind::U32 => Value::Unsigned(cursor.u32()?.into()),
        Kind::U64 => Value::Unsigned(cursor.u64()?),
        Kind::I8 => Value::Signed((cursor.u8()? as i8).into()),
        Kind::I16 => Value::Signed((cursor.u16()? as i16).into()),
        Kind::I32 => Value::Signed((cursor.u32()? as i32).into()),
        Kind::I64 => Value::Signed(cursor.u64()? as i64),
        Kind::F32 => Value::Single(f32::from_bits(cursor.u32()?)),
        Kind::F64 => Value::Double(f64::from_bits(cursor.u64()?)),
        Kind::Bool => match cursor.u8()? {
            0 => Value::Bool(false),
            1 => Value::Bool(true),
            other => return Err(Fault::Bool(other)),
        },
        Kind::String => Value::String(cursor.string()?),
        Kind::Array => Value::Array(array(cursor, depth)?),
    })
}

fn array<'a>(cursor: &mut Cursor<'a>, depth: usize) -> Result<Array<'a>, Fault> {
    if depth == MAX_DEPTH {
        return Err(Fault::Depth);
    }
    let kind = kind(cursor)?;
    let count = cursor.u64()?;
    let start = cursor.clone();
    match kind.size() {
        Some(size) => {
            cursor.take(count.saturating_mul(size))?;
        }
        // Each has a length of its own, so there are no more than the file has room for.
        None => (0..count).try_for_each(|_| value(cursor, kind, depth + 1).map(drop))?,
    }
    let bytes = start.clone().take((cursor.at() - start.at()) as u64)?;
    Ok(Array { kind, count: count as usize, bytes })
}

impl<'a> Array<'a> {
    /// The elements.
    pub(super) fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (mut cursor, kind) = (Cursor::new(self.bytes), self.kind);
        (0..self.count).map_while(move |_| value(&mut cursor, kind, 1).ok())
    }
}

impl<'a> Value<'a> {
    /// The text, if this is one.
    pub(super) fn text(&self) -> Option<&'a str> {
        match self {
            Self::String(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The value as JSON: single precision by its shortest digits, so that 1e-5 is 1e-5. Lists are lists of numbers
    /// of at most `most` elements. What JSON has no word for is an object, which nothing is read as, and says
    /// what it is.
    pub(super) fn json(&self, most: usize) -> Json {
        let other = |what: String| Json::Object([(what, Json::Null)].into_iter().collect());
        let number = |x: f64| Number::from_f64(x).map_or_else(|| other(x.to_string()), Json::Number);
        match self {
            Self::Unsigned(n) => (*n).into(),
            Self::Signed(n) => (*n).into(),
            Self::Single(x) => number(x.to_string().parse().unwrap_or(f64::NAN)),
            Self::Double(x) => number(*x),
            Self::Bool(b) => (*b).into(),
            Self::String(_) => {
                self.text().map_or_else(|| other("a text that is not UTF-8".into()), Json::from)
            }
            Self::Array(list) if list.count <= most && list.kind.size().is_some() => {
                list.iter().map(|value| value.json(0)).collect()
            }
            Self::Array(list) => other(format!("a list of {}", list.count)),
        }
    }
}
