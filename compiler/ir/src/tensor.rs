//! Values that the reference evaluator computes with.

use ndarray::{ArrayD, IxDyn};

use crate::DType;

/// A tensor in memory, in standard (row-major, contiguous) layout.
#[derive(Clone, Debug, PartialEq)]
pub enum Tensor {
    /// Numbers of any floating-point type, in single precision.
    F32(ArrayD<f32>),
    /// Integers of any width, and truth values as 0 and 1.
    I64(ArrayD<i64>),
}

impl Tensor {
    /// A tensor of floats; `data` is row-major.
    pub fn floats(shape: &[usize], data: Vec<f32>) -> Result<Self, String> {
        let found = data.len();
        let array = ArrayD::from_shape_vec(IxDyn(shape), data);
        array.map(Self::F32).map_err(|_| format!("{found} values do not fill shape {shape:?}"))
    }

    /// A tensor of integers; `data` is row-major.
    pub fn integers(shape: &[usize], data: Vec<i64>) -> Result<Self, String> {
        let found = data.len();
        let array = ArrayD::from_shape_vec(IxDyn(shape), data);
        array.map(Self::I64).map_err(|_| format!("{found} values do not fill shape {shape:?}"))
    }

    /// Whether it can hold elements of `dtype`.
    pub fn holds(&self, dtype: DType) -> bool {
        matches!(self, Self::F32(_)) == dtype.is_float()
    }

    /// The sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::F32(array) => array.shape(),
            Self::I64(array) => array.shape(),
        }
    }

    /// The floats, or an error if it holds integers.
    pub fn as_f32(&self) -> Result<&ArrayD<f32>, String> {
        match self {
            Self::F32(array) => Ok(array),
            Self::I64(_) => Err("expected an f32 tensor, found i64".to_owned()),
        }
    }

    /// The integers, or an error if it holds floats.
    pub fn as_i64(&self) -> Result<&ArrayD<i64>, String> {
        match self {
            Self::I64(array) => Ok(array),
            Self::F32(_) => Err("expected an i64 tensor, found f32".to_owned()),
        }
    }

    /// The same tensor in standard layout, which slices of rows need.
    pub(crate) fn standardized(self) -> Self {
        match self {
            Self::F32(a) if !a.is_standard_layout() => Self::F32(a.as_standard_layout().into_owned()),
            Self::I64(a) if !a.is_standard_layout() => Self::I64(a.as_standard_layout().into_owned()),
            tensor => tensor,
        }
    }
}

impl From<ArrayD<f32>> for Tensor {
    fn from(array: ArrayD<f32>) -> Self {
        Self::F32(array)
    }
}

impl From<ArrayD<i64>> for Tensor {
    fn from(array: ArrayD<i64>) -> Self {
        Self::I64(array)
    }
}
