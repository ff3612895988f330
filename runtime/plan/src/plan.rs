//! The plan: what a compiled model computes, step by step, over which buffers and weights.
//!
//! Activations are f32 matrices `[rows, width]`, a row for each token of a chunk (or for each kept row, see
//! [`Rows`]). Their sizes are constants × rows, so the memory plan is bytes a row and does not know a chunk's length.
//! The KV cache and the outputs are not in the arena.

use serde::{Deserialize, Serialize};

use crate::diagnostic::{Code, Diagnostic};
use crate::head::HeadKind;
use crate::layout::{ALIGNMENT, MatrixLayout, WeightDtype};
use crate::{GenerationDefaults, SoftPrompt};

/// What the compiled model computes after its trunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Head {
    /// The trunk alone: hidden states after the final norm.
    Base,
    /// Next-token logits.
    CausalLm,
    /// Class scores of one pooled position.
    SequenceClassification {
        /// Names of the classes, in the order of the scores.
        labels: Vec<String>,
        /// The padding token that pooling skips; without one a batch has one sequence, pooled at its end.
        pad_token_id: Option<u32>,
        /// `problem_type` of the configuration.
        problem_type: Option<String>,
    },
    /// Class scores of every token.
    TokenClassification {
        /// Names of the classes, in the order of the scores.
        labels: Vec<String>,
    },
    /// Two scores of every token: that an answer starts there, and that it ends there.
    QuestionAnswering,
}

/// The output of [`Head::QuestionAnswering`], two columns in one matrix. A forward gives them apart, as transformers
/// does: see [`crate::eval::spans_apart`].
pub const SPAN_LOGITS: &str = "span_logits";

impl Head {
    /// Which one it is.
    pub fn kind(&self) -> HeadKind {
        match self {
            Self::Base => HeadKind::Base,
            Self::CausalLm => HeadKind::CausalLm,
            Self::SequenceClassification { .. } => HeadKind::SequenceClassification,
            Self::TokenClassification { .. } => HeadKind::TokenClassification,
            Self::QuestionAnswering => HeadKind::QuestionAnswering,
        }
    }

    /// The name on the command line.
    pub fn name(&self) -> &'static str {
        self.kind().name()
    }

    /// The name of the head's output.
    pub fn output(&self) -> &'static str {
        match self {
            Self::Base => "last_hidden_state",
            Self::CausalLm | Self::SequenceClassification { .. } | Self::TokenClassification { .. } => {
                "logits"
            }
            Self::QuestionAnswering => SPAN_LOGITS,
        }
    }

    /// The names of a classifier's classes, in the order of its scores.
    pub fn labels(&self) -> Option<&[String]> {
        match self {
            Self::SequenceClassification { labels, .. } | Self::TokenClassification { labels } => {
                Some(labels)
            }
            Self::Base | Self::CausalLm | Self::QuestionAnswering => None,
        }
    }
}

/// The precision of activations in matrix products. All else is f32, norms and
/// what is added up; in what attention multiplies, the cache's dtype says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// What suits a matrix: f32 for f32 and f16, bf16 for bf16, int8 for quantized ones.
    Auto,
    /// f32; narrower weights are widened.
    F32,
    /// bf16: activations are rounded to it, and weights that are not stored so.
    Bf16,
    /// Blocks of 32 activations as 8-bit codes for quantized matrices; for others what suits them.
    Int8,
}

impl Compute {
    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// This, or what [`Compute::Auto`] comes to for a model's weights, where that has a name.
    pub fn of_weights(self, weights: &[WeightEntry]) -> Self {
        let dtypes = || {
            weights.iter().filter_map(|entry| match entry.layout {
                WeightLayout::Matrix(layout) => Some(layout.dtype),
                WeightLayout::Vector { .. } => None,
            })
        };
        let all = |arithmetic| dtypes().all(|dtype| self.arithmetic(dtype) == arithmetic);
        match self {
            Self::Auto if dtypes().any(WeightDtype::is_quantized) => Self::Int8,
            Self::Auto if all(Arithmetic::F32) => Self::F32,
            Self::Auto if all(Arithmetic::Bf16) => Self::Bf16,
            other => other,
        }
    }

    /// How a matrix of `dtype` is multiplied.
    pub const fn arithmetic(self, dtype: WeightDtype) -> Arithmetic {
        match (self, dtype) {
            (Self::F32, _) => Arithmetic::F32,
            (Self::Bf16, _) => Arithmetic::Bf16,
            (Self::Auto | Self::Int8, WeightDtype::F32 | WeightDtype::F16) => Arithmetic::F32,
            (Self::Auto | Self::Int8, WeightDtype::Bf16) => Arithmetic::Bf16,
            (Self::Auto | Self::Int8, _) => Arithmetic::Int8,
        }
    }
}

/// How one matrix is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// Multiply-adds in f32.
    F32,
    /// Products of bf16, added up in f32.
    Bf16,
    /// Products of codes, added up in integers within a block and in f32 across blocks.
    Int8,
}

/// How keys and values are stored between forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvDtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// Codes of 8 bits: a scale for each 32 elements of a key, and for each head's value.
    Int8,
}

impl KvDtype {
    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

/// An elementwise activation function, by its name in the intermediate representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x · σ(x)`.
    Silu,
    /// `x · Φ(x)` with the exact error function.
    Gelu,
    /// The tanh approximation of [`Activation::Gelu`].
    GeluTanh,
    /// `x · σ(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
}

/// The shape of the model, as far as sessions, reports and limits need it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelShape {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// `max_position_embeddings`, or `--max-context` where that is smaller.
    pub max_context: usize,
}

/// Index into [`Plan::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WeightId(pub usize);

/// Index into [`Plan::buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BufferId(pub usize);

/// A constant of the model: a tensor of the artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightEntry {
    /// The tensor's name in the artifact.
    pub tensor: String,
    /// What the bytes are.
    pub layout: WeightLayout,
    /// The recipe from the checkpoint's tensors, as text.
    pub recipe: String,
}

/// What the bytes of a weight are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightLayout {
    /// Panels, see [`crate::layout`].
    Matrix(MatrixLayout),
    /// `len` f32 numbers.
    Vector {
        /// Number of elements.
        len: usize,
    },
}

impl WeightLayout {
    /// Bytes in the artifact, or `None` if that does not fit.
    pub fn bytes(&self) -> Option<usize> {
        match self {
            Self::Matrix(layout) => layout.bytes(),
            Self::Vector { len } => len.checked_mul(4),
        }
    }
}

/// What a buffer has one row for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rows {
    /// Each token of the chunk.
    Tokens,
    /// Each row that the caller asked to keep.
    Kept,
}

/// An f32 matrix in the arena, `[rows, width]`, rows [`Buffer::row_bytes`] apart.
///
/// It starts at `offset × r` bytes, where `r` is the number of tokens of the longest chunk, for which the arena is made
/// (never more rows are kept than there are tokens).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    /// Bytes a row from the arena's start; a multiple of [`crate::layout::ALIGNMENT`].
    pub offset: usize,
    /// Elements of a row.
    pub width: usize,
    /// What a row stands for.
    pub rows: Rows,
}

impl Buffer {
    /// Bytes that a row of `width` elements takes: cache lines, an odd number of them, so that the same columns of
    /// neighbouring rows are in different sets of a cache. Rows of 4 KiB would have theirs in the same set of the first.
    pub fn row_bytes(width: usize) -> Option<usize> {
        (width.checked_mul(4)?.div_ceil(ALIGNMENT) | 1).checked_mul(ALIGNMENT)
    }
}

/// A window of columns of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slice {
    /// The buffer.
    pub buffer: BufferId,
    /// First column.
    pub start: usize,
    /// Number of columns.
    pub width: usize,
}

/// Where the rotary frequencies of a forward come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Frequencies {
    /// The same for every length.
    Static {
        /// `head_dim / 2` frequencies.
        inv_freq: WeightId,
    },
    /// One of two sets, by the sequence's length.
    LongRope {
        /// Up to `threshold` positions.
        short: WeightId,
        /// Beyond.
        long: WeightId,
        /// The last length that is short.
        threshold: u64,
    },
    /// Dynamic NTK: a base that grows with the sequence's length.
    Dynamic {
        /// `rope_theta`.
        theta: f64,
        /// Growth of the base with length.
        factor: f64,
        /// Length up to which the base does not change.
        max_position: u64,
    },
}

/// One step of a forward.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Rows of the embedding, by token id (or the caller's own embeddings, where it gives them).
    Embed {
        /// The embedding.
        table: WeightId,
        /// The rows.
        out: Slice,
    },
    /// `out = x / sqrt(mean(x²) + eps) · weight`.
    RmsNorm {
        /// Input.
        x: Slice,
        /// Gain.
        weight: WeightId,
        /// Added to the mean square.
        eps: f32,
        /// Result.
        out: Slice,
    },
    /// `sum = a + b`, then the norm of the sum.
    AddRmsNorm {
        /// First summand.
        a: Slice,
        /// Second summand.
        b: Slice,
        /// Gain.
        weight: WeightId,
        /// Added to the mean square.
        eps: f32,
        /// The sum; may be the same window as `a` or `b`.
        sum: Slice,
        /// The norm of the sum.
        out: Slice,
    },
    /// `out = x · weightᵀ + bias`; with a gate, that has two halves: `out = gate(first) · second`.
    Linear {
        /// Input.
        x: Slice,
        /// Matrix `[out.width, x.width]`, or with a gate of twice as many rows.
        weight: WeightId,
        /// Added to every row.
        bias: Option<WeightId>,
        /// The activation of the first half.
        gate: Option<Activation>,
        /// Result.
        out: Slice,
    },
    /// `cos` and `sin` of `position · inv_freq`, times `factor`.
    RotaryAngles {
        /// The frequencies.
        frequencies: Frequencies,
        /// The factor on both.
        factor: f32,
        /// `head_dim / 2` columns.
        cos: Slice,
        /// `head_dim / 2` columns.
        sin: Slice,
    },
    /// Rotation of each head's pairs `(i, i + head_dim / 2)`.
    Rotary {
        /// `heads · head_dim` columns.
        x: Slice,
        /// From [`Step::RotaryAngles`].
        cos: Slice,
        /// From [`Step::RotaryAngles`].
        sin: Slice,
        /// Heads in `x`.
        heads: usize,
        /// Result; may be the same window as `x`.
        out: Slice,
    },
    /// Stores the keys and values of the chunk's tokens.
    KvAppend {
        /// Layer of the cache.
        layer: usize,
        /// `kv_heads · head_dim` columns.
        key: Slice,
        /// `kv_heads · head_dim` columns.
        value: Slice,
    },
    /// Attention of each token over its sequence's cache.
    Attention {
        /// Layer of the cache.
        layer: usize,
        /// `heads · head_dim` columns.
        query: Slice,
        /// Query heads.
        heads: usize,
        /// Factor on the scores.
        scale: f32,
        /// `heads · head_dim` columns.
        out: Slice,
    },
    /// `out = function(x)`.
    Activate {
        /// The activation.
        function: Activation,
        /// Its argument.
        x: Slice,
        /// Result; may be the same window as `x`.
        out: Slice,
    },
    /// `out = a + b`.
    Add {
        /// First summand.
        a: Slice,
        /// Second summand.
        b: Slice,
        /// Result; may be the same window as `a` or `b`.
        out: Slice,
    },
    /// `out = a · b`.
    Mul {
        /// First factor.
        a: Slice,
        /// Second factor.
        b: Slice,
        /// Result; may be the same window as `a` or `b`.
        out: Slice,
    },
    /// The rows that the caller asked to keep.
    Keep {
        /// A row for each token.
        x: Slice,
        /// A row for each kept row.
        out: Slice,
    },
    /// Hands `x` to the caller as `hidden_states.<index>`, if hidden states were asked for.
    HiddenState {
        /// 0 is the embedding, `layers` the final norm.
        index: usize,
        /// A row for each token.
        x: Slice,
    },
    /// Hands `x · weightᵀ + bias` to the caller as the head's output, a row for each kept row.
    OutputLinear {
        /// A row for each kept row.
        x: Slice,
        /// The head's matrix.
        weight: WeightId,
        /// Added to every row.
        bias: Option<WeightId>,
    },
    /// Hands `x` to the caller as the head's output.
    Output {
        /// A row for each kept row.
        x: Slice,
    },
}

impl Step {
    /// The name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Embed { .. } => "embed",
            Self::RmsNorm { .. } => "rms_norm",
            Self::AddRmsNorm { .. } => "add_rms_norm",
            Self::Linear { gate: Some(_), .. } => "gated_linear",
            Self::Linear { .. } | Self::OutputLinear { .. } => "linear",
            Self::RotaryAngles { .. } => "rotary_angles",
            Self::Rotary { .. } => "rotary",
            Self::KvAppend { .. } => "kv_append",
            Self::Attention { .. } => "attention",
            Self::Activate { .. } => "activate",
            Self::Add { .. } => "add",
            Self::Mul { .. } => "mul",
            Self::Keep { .. } => "keep",
            Self::HiddenState { .. } => "hidden_state",
            Self::Output { .. } => "output",
        }
    }

    /// Calls `f` with every window that the step touches.
    pub fn for_each_slice(&self, f: &mut impl FnMut(&Slice)) {
        let slices: &[&Slice] = match self {
            Self::Embed { out, .. } => &[out],
            Self::RmsNorm { x, out, .. }
            | Self::Linear { x, out, .. }
            | Self::Activate { x, out, .. }
            | Self::Keep { x, out } => &[x, out],
            Self::AddRmsNorm { a, b, sum, out, .. } => &[a, b, sum, out],
            Self::RotaryAngles { cos, sin, .. } => &[cos, sin],
            Self::Rotary { x, cos, sin, out, .. } => &[x, cos, sin, out],
            Self::KvAppend { key, value, .. } => &[key, value],
            Self::Attention { query, out, .. } => &[query, out],
            Self::Add { a, b, out } | Self::Mul { a, b, out } => &[a, b, out],
            Self::HiddenState { x, .. } | Self::OutputLinear { x, .. } | Self::Output { x } => &[x],
        };
        slices.iter().for_each(|slice| f(slice));
    }
}

/// A pass that ran, for reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassRecord {
    /// The pass.
    pub name: String,
    /// How often each of its rules fired.
    pub firings: Vec<(String, usize)>,
}

/// A compiled model without its weights' bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What wrote it, for people.
    pub producer: String,
    /// The head.
    pub head: Head,
    /// Sizes.
    pub shape: ModelShape,
    /// Precision of matrix products, unless the caller asks for another.
    pub compute: Compute,
    /// Cache dtype unless the caller asks for another.
    pub kv: KvDtype,
    /// Decoding defaults.
    pub generation: GenerationDefaults,
    /// What every sequence begins with.
    pub prompt: Option<SoftPrompt>,
    /// Constants.
    pub weights: Vec<WeightEntry>,
    /// Arena buffers.
    pub buffers: Vec<Buffer>,
    /// Arena bytes for each token of a chunk.
    pub arena_bytes_per_token: usize,
    /// What the arena would take if no two buffers shared memory; for reports.
    pub unshared_bytes_per_token: usize,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// The checkpoint's modules that each step computes, such as `model.layers.0.self_attn.{q,k,v}_proj`; for reports.
    pub modules: Vec<String>,
    /// The passes that shaped it.
    pub passes: Vec<PassRecord>,
}

impl Plan {
    /// Slots and positions that every sequence has before its first token.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt.as_ref().map_or(0, |prompt| prompt.tokens)
    }

    /// Whether its matrices can be multiplied as `compute` says: in integers only if some are quantized.
    ///
    /// # Errors
    /// When they cannot.
    pub fn accepts(&self, compute: Compute) -> Result<(), Diagnostic> {
        let quantized = |entry: &WeightEntry| match entry.layout {
            WeightLayout::Matrix(layout) => layout.dtype.is_quantized(),
            WeightLayout::Vector { .. } => false,
        };
        if compute == Compute::Int8 && !self.weights.iter().any(quantized) {
            let fault = Diagnostic::new(Code::BadArgument).at("--compute int8").expected("quantized weights");
            return Err(fault.found("none").help("compile with --weights q8, or use --compute auto"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_buffer_are_an_odd_number_of_lines_that_hold_them() {
        for width in [0, 1, 16, 17, 576, 1024, 3072] {
            let bytes = Buffer::row_bytes(width).unwrap();
            assert!(bytes.is_multiple_of(ALIGNMENT) && bytes / ALIGNMENT % 2 == 1, "{width}: {bytes}");
            assert!((4 * width..4 * width + 2 * ALIGNMENT + 1).contains(&bytes), "{width}: {bytes}");
        }
        assert_eq!(Buffer::row_bytes(usize::MAX / 4), None);
        assert_eq!(Buffer::row_bytes(usize::MAX / 2), None);
    }
}
