//! Weights are recipes: what a constant tensor is made of, as data that is typed, hashed and printed.
//!
//! Rewrites only build recipes. Reading bytes is not done here: a caller supplies the tensors of a checkpoint, and
//! [`evaluate`] computes a recipe naively in memory, as the judge of evaluators that work tile by tile.

mod blocks;
mod eval;
mod grouped;
mod packing;
mod permutation;
mod scheme;
mod text;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use smallvec::SmallVec;

pub use blocks::BlockFormat;
pub use eval::evaluate;
pub use grouped::{Group, Zeros, code_offset};
pub use packing::{PackOrder, Packing};
pub use permutation::Permutation;
pub use scheme::{Grid, QuantizedPart, Scheme};

use crate::{DType, Dim, Real, RopeScaling, TensorType};

/// Which list of divisors of a LongRoPE embedding; other rules have one set, the short one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrequencySet {
    /// For sequences up to the original length.
    Short,
    /// For longer sequences.
    Long,
}

/// How a weight is made. Rows are slices along the first dimension.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum WeightExpr {
    /// A tensor of the checkpoint.
    Source {
        /// Its name there.
        tensor: String,
        /// Its element type.
        dtype: DType,
        /// Its sizes.
        shape: SmallVec<[usize; 2]>,
    },
    /// The rows of all parts, one after the other.
    Concat {
        /// Of one element type and one row shape; at least one.
        parts: Vec<Weight>,
    },
    /// The columns of all parts, side by side.
    ConcatColumns {
        /// Matrices of one element type and as many rows; at least one.
        parts: Vec<Weight>,
    },
    /// Some rows.
    Slice {
        /// The whole.
        base: Weight,
        /// The first row taken.
        start: usize,
        /// The number of rows taken.
        rows: usize,
    },
    /// A matrix with some of its rows replaced.
    ReplaceRows {
        /// The matrix.
        base: Weight,
        /// The new rows.
        new: Weight,
        /// The rows that are replaced, ascending.
        rows: Vec<usize>,
        /// The row of `new` that takes the place of each.
        by: Vec<usize>,
    },
    /// All rows in another order.
    Permute {
        /// The rows in the old order.
        base: Weight,
        /// The new order.
        order: Permutation,
    },
    /// A matrix with rows and columns exchanged.
    Transpose {
        /// The matrix.
        base: Weight,
    },
    /// `base + scale · b · a`, rounded to the type of `base` once (Hu et al., "LoRA").
    AddLowRank {
        /// `[out, in]`.
        base: Weight,
        /// `[rank, in]`.
        a: Weight,
        /// `[out, rank]`.
        b: Weight,
        /// The factor of the product.
        scale: Real,
    },
    /// The sum of all parts.
    Sum {
        /// Of one type; at least one.
        parts: Vec<Weight>,
    },
    /// Every number times a factor, rounded to its type.
    Scale {
        /// The numbers.
        base: Weight,
        /// The factor.
        factor: Real,
    },
    /// Every row stretched to another length: `norm · row / ‖row‖₂` (Liu et al., "DoRA").
    SetRowNorms {
        /// The directions, `[rows, columns]`.
        base: Weight,
        /// The lengths, `[rows]`.
        norms: Weight,
    },
    /// The inverse frequencies of a rotary embedding, `f32[head_dim / 2]`, as [`crate::frequencies`] computes them.
    ///
    /// Dynamic scaling gives its unstretched frequencies.
    InvFreq {
        /// The base.
        theta: Real,
        /// The size of a head.
        head_dim: usize,
        /// The scaling rule.
        scaling: RopeScaling,
        /// Which divisors of LongRoPE.
        set: FrequencySet,
    },
    /// The same numbers as another element type, rounded to nearest.
    Convert {
        /// The numbers.
        base: Weight,
        /// The element type.
        dtype: DType,
    },
    /// The numbers that are left of a matrix after quantization, in `f32`.
    Quantize {
        /// The matrix.
        base: Weight,
        /// How it is quantized.
        scheme: Scheme,
    },
    /// What a quantized matrix `[rows, columns]` is stored as: codes `u8[rows, blocks · 32]`, with those of zero behind the
    /// last column; scales `f32[rows, blocks]`; or codes of zero `u8[rows, blocks]`.
    QuantizedPart {
        /// A [`WeightExpr::Quantize`].
        of: Weight,
        /// Which part.
        part: QuantizedPart,
    },
    /// Two neighbours of a row of 4-bit numbers in a byte, the first in the low bits; 0 beside an odd last one.
    PackNibbles {
        /// `u8`, of which the upper bits are zero.
        base: Weight,
    },
    /// The numbers of a matrix whose rows are stored in blocks, in `f32`.
    Dequantize {
        /// `u8[rows, bytes]`: the blocks of each row.
        base: Weight,
        /// What the blocks are.
        format: BlockFormat,
    },
    /// Integers of a few bits, in `u8`.
    Unpack {
        /// `u8`: the bytes of words, those of a row one after the other.
        base: Weight,
        /// Where they lie in it.
        packing: Packing,
    },
    /// The numbers that codes stand for, in `f32`.
    Lookup {
        /// `u8`.
        codes: Weight,
        /// `f32`: a number for each code; 16 for codes of four bits, else 256.
        table: Weight,
    },
    /// Columns of a matrix, in any order.
    GatherColumns {
        /// `[rows, columns]`.
        base: Weight,
        /// `i32`: the column that each of the new ones is. Each is below `columns`.
        index: Weight,
    },
    /// Every number plus another, rounded to its type.
    Offset {
        /// The numbers.
        base: Weight,
        /// What is added.
        term: Real,
    },
    /// `(code − zero) · scale`, in `f32`: one exact difference and one product.
    DequantizeGroups {
        /// Integers, or numbers that stand for themselves: a vector or a matrix.
        codes: Weight,
        /// A floating-point number for each group.
        scales: Weight,
        /// The codes that stand for zero.
        zeros: Zeros,
        /// What shares a scale.
        group: Group,
    },
    /// A few numbers that are no part of a checkpoint.
    Literal {
        /// The element type.
        dtype: DType,
        /// The sizes.
        shape: SmallVec<[usize; 2]>,
        /// As many as the sizes say.
        values: Vec<Real>,
    },
}

impl WeightExpr {
    /// The recipes that this one uses directly.
    pub fn parts(&self) -> Vec<&Weight> {
        match self {
            Self::Source { .. } | Self::InvFreq { .. } | Self::Literal { .. } => Vec::new(),
            Self::Concat { parts } | Self::ConcatColumns { parts } | Self::Sum { parts } => {
                parts.iter().collect()
            }
            Self::SetRowNorms { base, norms } => vec![base, norms],
            Self::ReplaceRows { base, new, .. } => vec![base, new],
            Self::Slice { base, .. }
            | Self::Permute { base, .. }
            | Self::Transpose { base }
            | Self::Convert { base, .. }
            | Self::Quantize { base, .. }
            | Self::Scale { base, .. }
            | Self::Dequantize { base, .. }
            | Self::Unpack { base, .. }
            | Self::Offset { base, .. }
            | Self::PackNibbles { base } => vec![base],
            Self::QuantizedPart { of, .. } => vec![of],
            Self::Lookup { codes, table } => vec![codes, table],
            Self::GatherColumns { base, index } => vec![base, index],
            Self::DequantizeGroups { codes, scales, zeros, .. } => match zeros {
                Zeros::Same(_) => vec![codes, scales],
                Zeros::Each(zeros) => vec![codes, scales, zeros],
            },
            Self::AddLowRank { base, a, b, .. } => vec![base, a, b],
        }
    }
}

/// A recipe with its type. Cheap to clone; equal when the recipes are equal.
#[derive(Clone, Debug)]
pub struct Weight(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    expr: WeightExpr,
    dtype: DType,
    shape: SmallVec<[usize; 2]>,
}

/// A recipe that has no type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("weight `{recipe}`: {message}")]
pub struct WeightError {
    /// The recipe, as text.
    pub recipe: String,
    /// What is wrong with it.
    pub message: String,
}

impl Weight {
    /// A weight made as `expr` says, or why it cannot be made.
    pub fn new(expr: WeightExpr) -> Result<Self, WeightError> {
        match infer(&expr).and_then(|(dtype, shape)| checked_size(&shape, dtype).map(|()| (dtype, shape))) {
            Ok((dtype, shape)) => Ok(Self(Arc::new(Inner { expr, dtype, shape }))),
            Err(message) => Err(WeightError { recipe: expr.to_string(), message }),
        }
    }

    /// The tensor called `tensor` of the checkpoint.
    pub fn source(tensor: &str, dtype: DType, shape: &[usize]) -> Result<Self, WeightError> {
        Self::new(WeightExpr::Source { tensor: tensor.to_owned(), dtype, shape: shape.into() })
    }

    /// The rows of all `parts`; one part is itself.
    pub fn concat(parts: impl IntoIterator<Item = Self>) -> Result<Self, WeightError> {
        let mut parts: Vec<Self> = parts.into_iter().collect();
        if parts.len() == 1 { Ok(parts.remove(0)) } else { Self::new(WeightExpr::Concat { parts }) }
    }

    /// The columns of all `parts`; one part is itself.
    pub fn concat_columns(parts: impl IntoIterator<Item = Self>) -> Result<Self, WeightError> {
        let mut parts: Vec<Self> = parts.into_iter().collect();
        if parts.len() == 1 { Ok(parts.remove(0)) } else { Self::new(WeightExpr::ConcatColumns { parts }) }
    }

    /// `rows` rows from `start` on.
    pub fn slice(&self, start: usize, rows: usize) -> Result<Self, WeightError> {
        Self::new(WeightExpr::Slice { base: self.clone(), start, rows })
    }

    /// The rows of `new` in place of these `rows`, each of which is there once.
    pub fn replace_rows(&self, new: &Self, rows: &[usize]) -> Result<Self, WeightError> {
        let mut by: Vec<usize> = (0..rows.len()).collect();
        by.sort_unstable_by_key(|i| rows[*i]);
        let rows = by.iter().map(|i| rows[*i]).collect();
        Self::new(WeightExpr::ReplaceRows { base: self.clone(), new: new.clone(), rows, by })
    }

    /// The rows in another order.
    pub fn permute(&self, order: Permutation) -> Result<Self, WeightError> {
        Self::new(WeightExpr::Permute { base: self.clone(), order })
    }

    /// The transposed matrix.
    pub fn transpose(&self) -> Result<Self, WeightError> {
        Self::new(WeightExpr::Transpose { base: self.clone() })
    }

    /// This weight plus `scale · b · a`.
    pub fn add_low_rank(&self, a: &Self, b: &Self, scale: Real) -> Result<Self, WeightError> {
        Self::new(WeightExpr::AddLowRank { base: self.clone(), a: a.clone(), b: b.clone(), scale })
    }

    /// The sum of all `parts`; one part is itself.
    pub fn sum(parts: impl IntoIterator<Item = Self>) -> Result<Self, WeightError> {
        let mut parts: Vec<Self> = parts.into_iter().collect();
        if parts.len() == 1 { Ok(parts.remove(0)) } else { Self::new(WeightExpr::Sum { parts }) }
    }

    /// Every number times `factor`.
    pub fn scale(&self, factor: Real) -> Result<Self, WeightError> {
        Self::new(WeightExpr::Scale { base: self.clone(), factor })
    }

    /// Every row stretched to the length that `norms` says.
    pub fn set_row_norms(&self, norms: &Self) -> Result<Self, WeightError> {
        Self::new(WeightExpr::SetRowNorms { base: self.clone(), norms: norms.clone() })
    }

    /// The same numbers as `dtype`; itself if that is its type.
    pub fn convert(&self, dtype: DType) -> Result<Self, WeightError> {
        if self.dtype() == dtype {
            return Ok(self.clone());
        }
        Self::new(WeightExpr::Convert { base: self.clone(), dtype })
    }

    /// The numbers `values` in the given shape.
    pub fn literal(dtype: DType, shape: &[usize], values: &[f64]) -> Result<Self, WeightError> {
        let values = values.iter().map(|&value| Real::new(value)).collect();
        Self::new(WeightExpr::Literal { dtype, shape: shape.into(), values })
    }

    /// What is left of this matrix after quantization.
    pub fn quantize(&self, scheme: Scheme) -> Result<Self, WeightError> {
        Self::new(WeightExpr::Quantize { base: self.clone(), scheme })
    }

    /// What this quantized matrix is stored as.
    pub fn quantized_part(&self, part: QuantizedPart) -> Result<Self, WeightError> {
        Self::new(WeightExpr::QuantizedPart { of: self.clone(), part })
    }

    /// Two of these 4-bit numbers in a byte.
    pub fn pack_nibbles(&self) -> Result<Self, WeightError> {
        Self::new(WeightExpr::PackNibbles { base: self.clone() })
    }

    /// The numbers of these blocks.
    pub fn dequantize(&self, format: BlockFormat) -> Result<Self, WeightError> {
        Self::new(WeightExpr::Dequantize { base: self.clone(), format })
    }

    /// The integers of `packing` in these bytes.
    pub fn unpack(&self, packing: Packing) -> Result<Self, WeightError> {
        Self::new(WeightExpr::Unpack { base: self.clone(), packing })
    }

    /// The numbers in `table` that these codes stand for.
    pub fn lookup(&self, table: &Self) -> Result<Self, WeightError> {
        Self::new(WeightExpr::Lookup { codes: self.clone(), table: table.clone() })
    }

    /// The columns of this matrix that `index` names.
    pub fn gather_columns(&self, index: &Self) -> Result<Self, WeightError> {
        Self::new(WeightExpr::GatherColumns { base: self.clone(), index: index.clone() })
    }

    /// Every number plus `term`.
    pub fn offset(&self, term: Real) -> Result<Self, WeightError> {
        Self::new(WeightExpr::Offset { base: self.clone(), term })
    }

    /// The numbers that these codes stand for, by the scales and the zeros of their groups.
    pub fn dequantize_groups(&self, scales: &Self, zeros: Zeros, group: Group) -> Result<Self, WeightError> {
        Self::new(WeightExpr::DequantizeGroups { codes: self.clone(), scales: scales.clone(), zeros, group })
    }

    /// The recipe within this one that makes numbers of stored codes, if there is one: the first.
    pub fn stored_codes(&self) -> Option<&Self> {
        match self.expr() {
            WeightExpr::Dequantize { .. } | WeightExpr::DequantizeGroups { .. } => Some(self),
            _ => self.parts().into_iter().find_map(Self::stored_codes),
        }
    }

    /// The scheme that holds the codes that this recipe dequantizes, if it dequantizes any and there is one.
    pub fn carried_scheme(&self) -> Option<Scheme> {
        match self.expr() {
            WeightExpr::Dequantize { format, .. } => format.scheme(),
            WeightExpr::DequantizeGroups { codes, scales, zeros, group } => {
                grouped::scheme(codes, scales, zeros, *group)
            }
            _ => None,
        }
    }

    /// The recipe that dequantizes row `row`, and the number of the row there, where it has the codes of `scheme`:
    /// quantizing leaves them as they are in each block whose grid the scheme holds ([`Scheme::holds`]).
    pub fn carried(&self, row: usize, scheme: Scheme) -> Option<(&Self, usize)> {
        match self.expr() {
            WeightExpr::Dequantize { .. } | WeightExpr::DequantizeGroups { .. } => {
                (self.carried_scheme() == Some(scheme)).then_some((self, row))
            }
            WeightExpr::Slice { base, start, .. } => base.carried(start + row, scheme),
            WeightExpr::ReplaceRows { base, rows, .. } => match rows.binary_search(&row) {
                Ok(_) => None,
                Err(_) => base.carried(row, scheme),
            },
            WeightExpr::Permute { base, order } => base.carried(order.source_row(row), scheme),
            WeightExpr::Concat { parts } => {
                let mut row = row;
                for part in parts {
                    let rows = *part.shape().first()?;
                    if row < rows {
                        return part.carried(row, scheme);
                    }
                    row -= rows;
                }
                None
            }
            _ => None,
        }
    }

    /// The parts of a concatenation, or of several, in order; of others, itself.
    pub fn row_parts(&self) -> Vec<&Self> {
        match self.expr() {
            WeightExpr::Concat { parts } => parts.iter().flat_map(Self::row_parts).collect(),
            _ => vec![self],
        }
    }

    /// How it is quantized, if it is.
    pub fn scheme(&self) -> Option<Scheme> {
        match self.expr() {
            WeightExpr::Quantize { scheme, .. } => Some(*scheme),
            _ => None,
        }
    }

    /// How it is made.
    pub fn expr(&self) -> &WeightExpr {
        &self.0.expr
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// The sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    /// The number of elements; the construction made sure that it fits.
    pub fn elements(&self) -> usize {
        self.shape().iter().product()
    }

    /// The type as a tensor.
    pub fn ty(&self) -> TensorType {
        TensorType::new(self.dtype(), self.shape().iter().map(|&n| Dim::from(n)))
    }

    /// The recipes that this one uses directly.
    pub fn parts(&self) -> Vec<&Self> {
        self.expr().parts()
    }

    /// Calls `visit` with every checkpoint tensor of the recipe, in order, repetitions included.
    pub fn for_each_source<'a>(&'a self, visit: &mut dyn FnMut(&'a Self, &'a str)) {
        if let WeightExpr::Source { tensor, .. } = self.expr() {
            visit(self, tensor);
        }
        for part in self.parts() {
            part.for_each_source(visit);
        }
    }
}

impl PartialEq for Weight {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.expr == other.0.expr
    }
}

impl Eq for Weight {}

impl Hash for Weight {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.expr.hash(state);
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.expr(), f)
    }
}

fn checked_size(shape: &[usize], dtype: DType) -> Result<(), String> {
    let bytes = shape.iter().try_fold(dtype.size(), |product, &n| product.checked_mul(n));
    match bytes {
        Some(bytes) if isize::try_from(bytes).is_ok() => Ok(()),
        _ => Err(format!("a tensor of shape {shape:?} does not fit in memory")),
    }
}

fn matrix(weight: &Weight, name: &str) -> Result<(usize, usize), String> {
    match weight.shape() {
        [rows, columns] => Ok((*rows, *columns)),
        shape => Err(format!("{name} must be a matrix, found shape {shape:?}")),
    }
}

fn infer(expr: &WeightExpr) -> Result<(DType, SmallVec<[usize; 2]>), String> {
    match expr {
        WeightExpr::Source { dtype, shape, .. } => Ok((*dtype, shape.clone())),
        WeightExpr::Concat { parts } => {
            let first = parts.first().ok_or("nothing to concatenate")?;
            let mut shape: SmallVec<[usize; 2]> = first.shape().into();
            let columns = shape.get(1..).ok_or("a scalar has no rows")?.to_vec();
            for part in &parts[1..] {
                if part.dtype() != first.dtype() || part.shape().get(1..) != Some(&columns[..]) {
                    return Err(format!("rows of {} and {} differ in type or size", first.ty(), part.ty()));
                }
                shape[0] = shape[0].checked_add(part.shape()[0]).ok_or("too many rows")?;
            }
            Ok((first.dtype(), shape))
        }
        WeightExpr::ConcatColumns { parts } => {
            let first = parts.first().ok_or("nothing to concatenate")?;
            let (rows, mut columns) = (matrix(first, "the first part")?.0, 0usize);
            for part in parts {
                if part.dtype() != first.dtype() || matrix(part, "a part")?.0 != rows {
                    return Err(format!(
                        "columns of {} and {} differ in type or size",
                        first.ty(),
                        part.ty()
                    ));
                }
                columns = columns.checked_add(part.shape()[1]).ok_or("too many columns")?;
            }
            Ok((first.dtype(), [rows, columns].as_slice().into()))
        }
        WeightExpr::Slice { base, start, rows } => {
            let mut shape: SmallVec<[usize; 2]> = base.shape().into();
            let all = shape.first_mut().ok_or("a scalar has no rows")?;
            if start.checked_add(*rows).is_none_or(|end| end > *all) {
                return Err(format!("{rows} rows from {start} on are more than the {all} there are"));
            }
            *all = *rows;
            Ok((base.dtype(), shape))
        }
        WeightExpr::ReplaceRows { base, new, rows, by } => {
            let ((all, columns), (count, new_columns)) =
                (matrix(base, "the base")?, matrix(new, "the rows")?);
            let ascend =
                rows.windows(2).all(|pair| pair[0] < pair[1]) && rows.last().is_none_or(|n| *n < all);
            let exist = rows.len() == by.len() && by.iter().all(|n| *n < count);
            if !(ascend && exist) || columns != new_columns || base.dtype() != new.dtype() {
                return Err(format!("rows of {} do not take the place of rows of {}", new.ty(), base.ty()));
            }
            Ok((base.dtype(), base.shape().into()))
        }
        WeightExpr::Permute { base, order } => {
            let found = *base.shape().first().ok_or("a scalar has no rows")?;
            order.check(found)?;
            Ok((base.dtype(), base.shape().into()))
        }
        WeightExpr::Transpose { base } => {
            let (rows, columns) = matrix(base, "the operand")?;
            Ok((base.dtype(), [columns, rows].as_slice().into()))
        }
        WeightExpr::AddLowRank { base, a, b, .. } => {
            let ((out, inputs), (rank, a_in), (b_out, b_rank)) =
                (matrix(base, "the base")?, matrix(a, "a")?, matrix(b, "b")?);
            if a_in != inputs || b_out != out || rank != b_rank {
                let (base, a, b) = (base.ty(), a.ty(), b.ty());
                return Err(format!("{b} · {a} is not a change of {base}"));
            }
            if !(base.dtype().is_float() && a.dtype().is_float() && b.dtype().is_float()) {
                return Err("integers have no low-rank change".to_owned());
            }
            Ok((base.dtype(), base.shape().into()))
        }
        WeightExpr::Sum { parts } => {
            let first = parts.first().ok_or("nothing to add up")?;
            for part in parts {
                if part.ty() != first.ty() || !part.dtype().is_float() {
                    return Err(format!("{} and {} are no numbers of one type", first.ty(), part.ty()));
                }
            }
            Ok((first.dtype(), first.shape().into()))
        }
        WeightExpr::Scale { base, .. } | WeightExpr::Offset { base, .. } => match base.dtype().is_float() {
            true => Ok((base.dtype(), base.shape().into())),
            false => Err(format!("{} are no numbers to compute with", base.ty())),
        },
        WeightExpr::SetRowNorms { base, norms } => {
            let (rows, columns) = matrix(base, "the base")?;
            if norms.shape() != [rows] || !(base.dtype().is_float() && norms.dtype().is_float()) {
                return Err(format!("{} are no lengths of the rows of {}", norms.ty(), base.ty()));
            }
            Ok((base.dtype(), [rows, columns].as_slice().into()))
        }
        WeightExpr::InvFreq { head_dim, scaling, .. } => {
            scaling.check(*head_dim)?;
            Ok((DType::F32, [head_dim / 2].as_slice().into()))
        }
        WeightExpr::Convert { base, dtype } => match (base.dtype().is_float(), dtype.is_float()) {
            (true, true) => Ok((*dtype, base.shape().into())),
            _ => Err(format!("{} does not become {dtype}", base.ty())),
        },
        WeightExpr::Quantize { base, .. } => {
            let (rows, columns) = matrix(base, "the base")?;
            if !base.dtype().is_float() || columns == 0 {
                return Err(format!("{} cannot be quantized", base.ty()));
            }
            Ok((DType::F32, [rows, columns].as_slice().into()))
        }
        WeightExpr::QuantizedPart { of, part } => {
            if of.scheme().is_none() {
                return Err(format!("{of} is not quantized"));
            }
            let (rows, blocks) = (of.shape()[0], of.shape()[1].div_ceil(Scheme::BLOCK));
            Ok(match part {
                QuantizedPart::Codes => (DType::U8, [rows, blocks * Scheme::BLOCK].as_slice().into()),
                QuantizedPart::Scales => (DType::F32, [rows, blocks].as_slice().into()),
                QuantizedPart::Zeros => (DType::U8, [rows, blocks].as_slice().into()),
            })
        }
        WeightExpr::PackNibbles { base } => {
            let (rows, columns) = matrix(base, "the operand")?;
            match base.dtype() {
                DType::U8 => Ok((DType::U8, [rows, columns.div_ceil(2)].as_slice().into())),
                _ => Err(format!("{} are no codes", base.ty())),
            }
        }
        WeightExpr::Dequantize { base, format } => {
            let (rows, bytes) = matrix(base, "the operand")?;
            let numbers = (bytes / format.bytes()).checked_mul(format.numbers());
            match (base.dtype(), numbers) {
                (DType::U8, Some(numbers)) if bytes.is_multiple_of(format.bytes()) => {
                    Ok((DType::F32, [rows, numbers].as_slice().into()))
                }
                _ => Err(format!("{} are no rows of {format} blocks", base.ty())),
            }
        }
        WeightExpr::Unpack { base, packing } => match base.dtype() {
            DType::U8 => Ok((DType::U8, packing.shape(base.shape())?)),
            _ => Err(format!("{} are no bytes", base.ty())),
        },
        WeightExpr::Lookup { codes, table } => match (codes.dtype(), table.dtype(), table.shape()) {
            (DType::U8, DType::F32, [16]) if grouped::code_bits(codes) == Some(4) => {
                Ok((DType::F32, codes.shape().into()))
            }
            (DType::U8, DType::F32, [256]) => Ok((DType::F32, codes.shape().into())),
            _ => Err(format!("{} do not name numbers of {}", codes.ty(), table.ty())),
        },
        WeightExpr::GatherColumns { base, index } => {
            let (rows, _) = matrix(base, "the base")?;
            match (index.dtype(), index.shape()) {
                (DType::I32, &[columns]) => Ok((base.dtype(), [rows, columns].as_slice().into())),
                _ => Err(format!("{} are no numbers of columns", index.ty())),
            }
        }
        WeightExpr::DequantizeGroups { codes, scales, zeros, group } => {
            let zeros_fit = match zeros {
                Zeros::Same(_) => true,
                Zeros::Each(zeros) => zeros.shape() == scales.shape(),
            };
            if !scales.dtype().is_float() || !zeros_fit || !group.fits(codes.shape(), scales.shape()) {
                let Group { rows, columns } = group;
                let groups = format!("groups of {rows} × {columns}");
                return Err(format!("{} have no {groups} with {} for scales", codes.ty(), scales.ty()));
            }
            Ok((DType::F32, codes.shape().into()))
        }
        WeightExpr::Literal { dtype, shape, values } => {
            let elements = shape.iter().try_fold(1usize, |all, &size| all.checked_mul(size));
            match elements == Some(values.len()) {
                true => Ok((*dtype, shape.clone())),
                false => Err(format!("{} values do not fill shape {shape:?}", values.len())),
            }
        }
    }
}
