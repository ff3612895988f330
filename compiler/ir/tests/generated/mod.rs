//! Random graphs: a list of small numbers decides what each operation is and which earlier values it takes.

use llamac_ir::ops::{
    Act, Add, AddRmsNorm, Attention, Binary, BinaryFunction, Concat, Embed, Gated, KeepLast, KvAppend,
    Linear, Mul, PoolLast, Reduce, Reduction, RepeatKv, RmsNorm, Rope, Softmax, Split, SplitHeads, Transpose,
    Unary, UnaryFunction,
};
use llamac_ir::{
    Activation, Bounds, Builder, DType, Dim, Graph, Loc, Op, Permutation, Real, RopeScaling, Symbol,
    TensorType, ValueId, Weight,
};
use proptest::prelude::*;

/// What decides one operation.
pub type Choice = (u8, u16, u16, u8);

/// Choices for graphs of up to `length` operations.
pub fn choices(length: usize) -> impl Strategy<Value = Vec<Choice>> {
    prop::collection::vec(any::<Choice>(), 1..length)
}

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

fn source(name: &str, rows: usize, columns: Option<usize>, seed: u8) -> Weight {
    let dtype = DTYPES[usize::from(seed) % 3];
    let shape: Vec<usize> = std::iter::once(rows).chain(columns).collect();
    // One name has one type in a graph.
    Weight::source(&format!("{name}.{dtype}.{shape:?}"), dtype, &shape).unwrap()
}

/// A matrix `[rows, columns]` made in one of several ways.
fn matrix(rows: usize, columns: usize, seed: u8) -> Weight {
    let whole = |name| source(name, rows, Some(columns), seed);
    match seed % 6 {
        0 => Weight::concat([
            source("top", rows / 2, Some(columns), seed),
            source("bottom", rows - rows / 2, Some(columns), seed),
        ])
        .unwrap(),
        1 => source("tall", rows + 3, Some(columns), seed).slice(2, rows).unwrap(),
        2 => source("turned", columns, Some(rows), seed).transpose().unwrap(),
        3 => whole("heads").permute(Permutation::InterleavedToHalf { heads: rows / 4, head_dim: 4 }).unwrap(),
        4 => {
            let (a, b) = (source("a", 2, Some(columns), seed), source("b", rows, Some(2), seed));
            whole("base").add_low_rank(&a, &b, Real::new(0.5)).unwrap()
        }
        _ => whole("plain \"quoted\" é"),
    }
}

fn scaling(seed: u8) -> RopeScaling {
    match seed % 3 {
        0 => RopeScaling::Default,
        1 => RopeScaling::Linear { factor: Real::new(f64::from(seed) / 3.0) },
        _ => RopeScaling::Llama3 {
            factor: Real::new(8.0),
            low: Real::new(1.0),
            high: Real::new(4.0),
            original_max_position: 16,
        },
    }
}

/// How many kinds of operations a choice may name.
pub const KINDS: u8 = 20;

/// The operation that a choice names, over operands `x`, `y` and the parameters.
fn operation(kind: u8, [x, y]: [ValueId; 2], width: usize, seed: u8, p: &Params) -> (Op, Vec<ValueId>) {
    let function = Activation::ALL[usize::from(seed) % 5];
    let eps = Real::new(10f64.powi(-i32::from(seed % 8)));
    let interleaved = seed.is_multiple_of(2);
    let attention =
        Attention { heads: width / 4, kv_heads: 1, head_dim: 4, scale: Real::new(0.5), causal: interleaved };
    match kind % KINDS {
        0 => (Add.into(), vec![x, y]),
        1 => (Mul.into(), vec![x, y]),
        2 => (Act { function }.into(), vec![x]),
        3 => (Gated { function }.into(), vec![x]),
        4 => (Linear { weight: matrix(8, width, seed), bias: None }.into(), vec![x]),
        5 => {
            let bias = Some(source("bias", 16, None, seed));
            (Linear { weight: matrix(16, width, seed), bias }.into(), vec![x])
        }
        6 => (RmsNorm { weight: source("norm", width, None, seed), eps }.into(), vec![x]),
        7 => (AddRmsNorm { weight: source("norm", width, None, seed), eps }.into(), vec![x, y]),
        8 => (Split { sizes: vec![4, width.saturating_sub(4)] }.into(), vec![x]),
        9 => {
            let (theta, scaling) = (Real::new(1e4), scaling(seed));
            (Rope { heads: width / 4, head_dim: 4, theta, scaling, interleaved }.into(), vec![x, p.positions])
        }
        10 => (KvAppend.into(), vec![p.cache, x]),
        11 => (RepeatKv { groups: usize::from(seed % 3) }.into(), vec![p.cache]),
        12 => {
            use UnaryFunction::{Cos, Erf, Neg, Sigmoid, Sin, Tanh};
            (Unary { function: [Cos, Erf, Neg, Sigmoid, Sin, Tanh][usize::from(seed) % 6] }.into(), vec![x])
        }
        13 => {
            use BinaryFunction::{Max, Sub};
            (Binary { function: [Max, Sub][usize::from(seed) % 2] }.into(), vec![x, y])
        }
        14 => (Softmax.into(), vec![x]),
        15 => (Concat { axis: 2 }.into(), vec![x, y, x]),
        16 => (SplitHeads { heads: width / 4 }.into(), vec![x]),
        17 => (Transpose { perm: vec![0, 2, 1, 3] }.into(), vec![p.cache]),
        18 => (Reduce { function: Reduction::Mean, axis: Some(2) }.into(), vec![x]),
        _ => (attention.into(), vec![x, p.keys, p.keys, p.mask]),
    }
}

struct Params {
    positions: ValueId,
    cache: ValueId,
    keys: ValueId,
    mask: ValueId,
}

/// A valid graph; operations that do not fit their operands are left out.
pub fn graph(choices: &[Choice]) -> Graph {
    let mut builder = Builder::new();
    if choices.len().is_multiple_of(2) {
        builder.bounds(Symbol::Seq, Bounds { min: 1, max: Some(3) });
    }
    let ids = builder.param("input_ids", TensorType::per_token()).unwrap();
    let positions = builder.param("positions", TensorType::per_token()).unwrap();
    let cache = builder.param("past.0.key", TensorType::cache(1, 4)).unwrap();
    let total = Dim::from(Symbol::Past) + Dim::from(Symbol::Seq);
    let mask = TensorType::new(DType::I64, [Symbol::Batch.into(), total]);
    let mask = builder.param("mask", mask).unwrap();
    let narrow = builder.param("narrow", TensorType::activation(4)).unwrap();
    let keys = builder.push(KvAppend, &[cache, narrow], &Loc::none()).unwrap();
    let embedded = builder.push(Embed { table: matrix(16, 8, 3) }, &[ids], &Loc::new("embed")).unwrap();
    let params = Params { positions, cache, keys, mask };
    let mut values = vec![embedded, narrow];
    for (n, &(kind, first, second, seed)) in choices.iter().enumerate() {
        let [x, y] = [first, second].map(|at| values[usize::from(at) % values.len()]);
        let width = builder.ty(x).width().unwrap() as usize;
        let (op, args) = operation(kind, [x, y], width, seed, &params);
        let loc = if seed.is_multiple_of(4) { Loc::none() } else { Loc::new(&format!("layers.{n}.x y")) };
        let Ok(results) = builder.push_all(op, &args, &loc) else { continue };
        for value in results {
            // Only activations are operands of what follows.
            if builder.ty(value).rank() == 3 {
                values.push(value);
            } else {
                builder.result(&format!("cache.{n}"), value).unwrap();
            }
        }
    }
    let last = values[values.len() - 1];
    for (n, &value) in values.iter().enumerate().rev().take(6) {
        builder.result(&format!("out.{n}"), value).unwrap();
    }
    let kept = builder.push(KeepLast::default(), &[last], &Loc::none()).unwrap();
    builder.result("kept", kept).unwrap();
    let pad = choices.first().map(|choice| i64::from(choice.3 % 4));
    let pooled = builder.push(PoolLast { pad }, &[last, ids], &Loc::none()).unwrap();
    builder.result("pooled", pooled).unwrap();
    builder.finish().unwrap()
}
