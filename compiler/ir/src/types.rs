//! Types of tensors: an element type and a shape of [`Dim`]s.

use std::fmt;
use std::str::FromStr;

use smallvec::SmallVec;

use crate::suggest::choose;
use crate::text::{Cursor, SyntaxError};
use crate::{Bindings, Dim, Symbol, float8};

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE single precision; the type of every activation.
    F32,
    /// IEEE half precision; weights only.
    F16,
    /// The upper half of single precision; weights only.
    BF16,
    /// Signed 64-bit integers: token ids, positions, masks, lengths.
    I64,
    /// Signed 32-bit integers, where a target asks for them.
    I32,
    /// Truth values.
    Bool,
    /// Bytes: codes of quantized weights.
    U8,
    /// Signed bytes: codes of weights that another method quantized.
    I8,
    /// Floating-point numbers of a byte, as [`crate::float8`] has them; such weights only.
    F8E4M3,
}

impl DType {
    /// Every element type.
    pub const ALL: [Self; 9] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::I64,
        Self::I32,
        Self::Bool,
        Self::U8,
        Self::I8,
        Self::F8E4M3,
    ];

    /// The name in text.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::Bool => "bool",
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::F8E4M3 => "f8_e4m3",
        }
    }

    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::I64 => 8,
            Self::Bool | Self::U8 | Self::I8 | Self::F8E4M3 => 1,
        }
    }

    /// Whether elements are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16 | Self::F8E4M3)
    }

    /// `value` as this type stores it, back in single precision. Integers round to nearest.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => half::f16::from_f32(value).to_f32(),
            Self::BF16 => half::bf16::from_f32(value).to_f32(),
            Self::F8E4M3 => float8::to_f32(float8::from_f32(value)),
            Self::I64 | Self::I32 | Self::U8 | Self::I8 => value.round(),
            Self::Bool => f32::from(u8::from(value != 0.0)),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        choose(text, &Self::ALL, Self::name)
    }
}

/// The type of a value of a graph.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// The type of the elements.
    pub dtype: DType,
    /// Sizes, outermost first; none for a scalar.
    pub shape: SmallVec<[Dim; 4]>,
}

/// The types of the results of an operation.
pub type Types = SmallVec<[TensorType; 1]>;

impl TensorType {
    /// A type from its parts.
    pub fn new(dtype: DType, shape: impl IntoIterator<Item = Dim>) -> Self {
        Self { dtype, shape: shape.into_iter().collect() }
    }

    /// An activation `f32[batch, seq, width]`.
    pub fn activation(width: usize) -> Self {
        Self::new(DType::F32, [Symbol::Batch.into(), Symbol::Seq.into(), width.into()])
    }

    /// Integers `i64[batch, seq]`: ids and positions.
    pub fn per_token() -> Self {
        Self::new(DType::I64, [Symbol::Batch.into(), Symbol::Seq.into()])
    }

    /// A key or value cache `f32[batch, heads, past, head_dim]`.
    pub fn cache(heads: usize, head_dim: usize) -> Self {
        Self::new(DType::F32, [Symbol::Batch.into(), heads.into(), Symbol::Past.into(), head_dim.into()])
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The size of the last dimension, if there is one and it is fixed.
    pub fn width(&self) -> Option<i64> {
        self.shape.last()?.as_constant()
    }

    /// This type with another last dimension. A scalar stays as it is.
    #[must_use]
    pub fn with_width(&self, width: impl Into<Dim>) -> Self {
        let mut shape = self.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = width.into();
        }
        Self { dtype: self.dtype, shape }
    }

    /// The sizes under `bindings`, or the first symbol that is not bound.
    pub fn sizes(&self, bindings: &Bindings) -> Result<Vec<i64>, Symbol> {
        self.shape.iter().map(|d| d.eval(bindings)).collect()
    }

    /// Reads `f32[batch, seq, 64]`.
    pub(crate) fn parse(cursor: &mut Cursor<'_>) -> Result<Self, SyntaxError> {
        let start = cursor.mark();
        let name = cursor.identifier("a type, such as f32[batch, seq, 8]")?;
        let dtype = name.parse().map_err(|_: String| {
            start.error(format!(
                "`{name}` is not an element type: f32, f16, bf16, i64, i32, bool, u8, i8 or f8_e4m3"
            ))
        })?;
        cursor.expect("[")?;
        let shape = cursor.list("]", Dim::parse)?;
        Ok(Self { dtype, shape: shape.into() })
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, dim) in self.shape.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{dim}")?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
