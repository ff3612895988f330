//! What an operation is: the trait that each file of [`crate::ops`] implements, and the table of them all.
//!
//! Adding an operation is one file and one line in the table below; text, inference, evaluation and rules follow.

use std::fmt::Debug;
use std::hash::Hash;

use ndarray::ArrayD;
use smallvec::SmallVec;

use crate::attrs::Attrs;
use crate::ops::*;
use crate::rewrite::{NoMatch, OpRef, Patch};
use crate::suggest::question;
use crate::{Bindings, DType, Dim, Graph, NodeId, Tensor, TensorType, Types, Weight};

/// A kind of operation: one variant of [`Op`].
pub trait OpKind: Sized + Into<Op> {
    /// The operation, if `op` is of this kind.
    fn of(op: &Op) -> Option<&Self>;
}

/// An operation: its weights and attributes as data, its types, its meaning.
pub trait OpDef: OpKind + Clone + Debug + Eq + Hash {
    /// The name in text.
    const MNEMONIC: &'static str;

    /// The weights, in the order of text.
    fn weights(&self) -> Vec<&Weight> {
        Vec::new()
    }

    /// The attributes with their values as text.
    fn attrs(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// The operation from its text, or what is wrong with it.
    fn build(weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String>;

    /// The types of the results, or why these operands do not fit.
    fn infer(&self, args: &[&TensorType]) -> Result<Types, String>;

    /// The results, computed naively in `f32`. Operands have the types that [`OpDef::infer`] accepted; sums
    /// accumulate in `f64` and are rounded once, which makes the evaluator a better judge.
    fn eval(&self, args: &[&Tensor], context: &EvalContext<'_>) -> Result<Vec<Tensor>, String>;

    /// The same computation in simpler operations, where there is one.
    fn decompose(_node: OpRef<'_, Self>) -> Option<Result<Patch, NoMatch>> {
        None
    }
}

/// Where the evaluator gets weights from: a recipe's value, rounded to its element type and widened to `f32`.
pub trait WeightSource {
    /// The value of `weight`.
    fn load(&self, weight: &Weight) -> Result<ArrayD<f32>, String>;
}

impl<F: Fn(&Weight) -> Result<ArrayD<f32>, String>> WeightSource for F {
    fn load(&self, weight: &Weight) -> Result<ArrayD<f32>, String> {
        self(weight)
    }
}

/// What an operation may read beside its operands.
pub struct EvalContext<'a> {
    pub(crate) weights: &'a dyn WeightSource,
    pub(crate) bindings: &'a Bindings,
}

impl EvalContext<'_> {
    /// The value of a weight, in standard layout.
    pub fn weight(&self, weight: &Weight) -> Result<ArrayD<f32>, String> {
        let value = self.weights.load(weight)?;
        if value.shape() != weight.shape() {
            return Err(format!("{weight}: expected shape {:?}, found {:?}", weight.shape(), value.shape()));
        }
        Ok(if value.is_standard_layout() { value } else { value.as_standard_layout().into_owned() })
    }

    /// The values of symbols.
    pub fn bindings(&self) -> &Bindings {
        self.bindings
    }
}

macro_rules! ops {
    ($($op:ident),* $(,)?) => {
        /// Any operation.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "each variant holds the documented operation of its name")]
        pub enum Op { $($op($op)),* }

        $(
            impl From<$op> for Op {
                fn from(op: $op) -> Self {
                    Self::$op(op)
                }
            }

            impl OpKind for $op {
                fn of(op: &Op) -> Option<&Self> {
                    if let Op::$op(op) = op { Some(op) } else { None }
                }
            }
        )*

        impl Op {
            /// The mnemonics of all operations.
            pub const MNEMONICS: &'static [&'static str] = &[$($op::MNEMONIC),*];

            /// The name in text.
            pub fn mnemonic(&self) -> &'static str {
                match self { $(Self::$op(_) => $op::MNEMONIC),* }
            }

            /// See [`OpDef::weights`].
            pub fn weights(&self) -> Vec<&Weight> {
                match self { $(Self::$op(op) => op.weights()),* }
            }

            /// See [`OpDef::attrs`].
            pub fn attrs(&self) -> Vec<(&'static str, String)> {
                match self { $(Self::$op(op) => op.attrs()),* }
            }

            /// See [`OpDef::infer`].
            pub fn infer(&self, args: &[&TensorType]) -> Result<Types, String> {
                match self { $(Self::$op(op) => op.infer(args)),* }
            }

            /// See [`OpDef::eval`].
            pub fn eval(&self, args: &[&Tensor], context: &EvalContext<'_>) -> Result<Vec<Tensor>, String> {
                match self { $(Self::$op(op) => op.eval(args, context)),* }
            }

            /// See [`OpDef::decompose`].
            pub(crate) fn decompose(graph: &Graph, node: NodeId) -> Option<Result<Patch, NoMatch>> {
                match graph.op(node)? { $(Self::$op(op) => $op::decompose(OpRef::new(graph, node, op))),* }
            }

            /// The operation of a mnemonic; unknown attributes are refused.
            pub(crate) fn build(mnemonic: &str, weights: Vec<Weight>, attrs: &Attrs) -> Result<Self, String> {
                let op: Self = match mnemonic {
                    $($op::MNEMONIC => $op::build(weights, attrs)?.into(),)*
                    _ => {
                        let question = question(mnemonic, Self::MNEMONICS.iter().copied());
                        return Err(format!("`{mnemonic}` is not an operation{question}"));
                    }
                };
                let known: Vec<&str> = op.attrs().into_iter().map(|(key, _)| key).collect();
                match attrs.keys().find(|key| !known.contains(key)) {
                    Some(key) => Err(format!("there is no attribute `{key}`{}", question(key, known))),
                    None => Ok(op),
                }
            }
        }
    };
}

// The table.
ops! {
    Act,
    Add,
    AddRmsNorm,
    AppendAttention,
    Attention,
    Binary,
    Cast,
    Concat,
    Constant,
    Embed,
    Expand,
    Gated,
    Gather,
    GatherRows,
    GroupQueryAttention,
    KeepLast,
    KvAppend,
    Length,
    Linear,
    Matmul,
    Mul,
    PoolLast,
    Positions,
    Range,
    Reduce,
    RepeatKv,
    Reshape,
    RmsNorm,
    Rope,
    Rotary,
    RotaryAngles,
    RotaryLookup,
    Shape,
    Slice,
    Softmax,
    Split,
    SplitHeads,
    Transpose,
    Unary,
    Where,
}

impl Op {
    /// The same operation on other weights, in the order of [`Op::weights`], or why they do not fit it.
    pub fn with_weights(&self, weights: Vec<Weight>) -> Result<Self, String> {
        let mut attrs = Attrs::default();
        for (key, value) in self.attrs() {
            attrs.insert(key, &value)?;
        }
        Self::build(self.mnemonic(), weights, &attrs)
    }
}

/// Takes exactly `N` weights.
pub(crate) fn take_weights<const N: usize>(weights: Vec<Weight>) -> Result<[Weight; N], String> {
    let found = weights.len();
    weights.try_into().map_err(|_| format!("takes {N} weights, found {found}"))
}

/// The operands if there are exactly `N`.
pub(crate) fn take_args<'a, const N: usize>(args: &[&'a TensorType]) -> Result<[&'a TensorType; N], String> {
    args.try_into().map_err(|_| format!("takes {N} operands, found {}", args.len()))
}

/// Fails unless `ty` is `f32` of `rank` dimensions.
pub(crate) fn require(ty: &TensorType, name: &str, dtype: DType, rank: usize) -> Result<(), String> {
    if ty.dtype == dtype && ty.rank() == rank {
        return Ok(());
    }
    Err(format!("{name} must be {dtype} of {rank} dimensions, found {ty}"))
}

/// Fails unless `found` is `expected`.
pub(crate) fn require_type(name: &str, found: &TensorType, expected: &TensorType) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{name} must be {expected}, found {found}")) }
}

/// Fails unless `weight` holds floats and has the shape `expected`.
pub(crate) fn require_weight(name: &str, weight: &Weight, expected: &[i64]) -> Result<(), String> {
    let fits = weight.shape().len() == expected.len()
        && weight.shape().iter().zip(expected).all(|(&n, &e)| i64::try_from(n) == Ok(e));
    if fits && weight.dtype().is_float() {
        return Ok(());
    }
    Err(format!("{name} must hold floats of shape {expected:?}, found {}", weight.ty()))
}

/// The fixed size of the last dimension of an `f32` operand.
pub(crate) fn width(ty: &TensorType, name: &str) -> Result<i64, String> {
    if ty.dtype != DType::F32 {
        return Err(format!("{name} must be f32, found {ty}"));
    }
    ty.width().ok_or_else(|| format!("the last dimension of {name} must be a fixed size, found {ty}"))
}

/// `heads · head_dim`, saturating.
pub(crate) fn heads_width(heads: usize, head_dim: usize) -> i64 {
    i64::try_from(heads.saturating_mul(head_dim)).unwrap_or(i64::MAX)
}

/// The shape that the shapes of `a` and `b` broadcast to: equal sizes, or 1 against any, aligned at the end.
pub(crate) fn broadcast(a: &TensorType, b: &TensorType) -> Result<SmallVec<[Dim; 4]>, String> {
    let one = Dim::from(1usize);
    let rank = a.rank().max(b.rank());
    let size = |ty: &TensorType, at: usize| {
        (at + ty.rank()).checked_sub(rank).map_or_else(|| one.clone(), |at| ty.shape[at].clone())
    };
    (0..rank)
        .map(|at| match (size(a, at), size(b, at)) {
            (a, b) if a == b || b == one => Ok(a),
            (a, b) if a == one => Ok(b),
            _ => Err(format!("{a} and {b} do not broadcast")),
        })
        .collect()
}

/// The values of symbolic sizes.
pub(crate) fn sizes(shape: &[Dim], context: &EvalContext<'_>) -> Result<Vec<usize>, String> {
    let size = |dim: &Dim| {
        let size = dim
            .eval(context.bindings())
            .map_err(|symbol| format!("the symbol {} has no value", symbol.name()))?;
        usize::try_from(size).map_err(|_| format!("the size {dim} is {size}"))
    };
    shape.iter().map(size).collect()
}
