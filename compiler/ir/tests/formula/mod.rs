//! Two-layer LLaMA models whose weights are a formula, built by hand from semantic operations.

use std::collections::BTreeMap;

use llamac_ir::ops::{Act, Add, Attention, Embed, KeepLast, KvAppend, Linear, Mul, PoolLast, RmsNorm, Rope};
use llamac_ir::{
    Activation, BuildError, Builder, DType, Dim, Graph, Loc, Op, Real, RopeScaling, Symbol, Tensor,
    TensorType, ValueId, Weight, evaluate,
};
use ndarray::ArrayD;

const VOCABULARY: usize = 16;
const HIDDEN: usize = 16;
const INTERMEDIATE: usize = 24;
const LAYERS: usize = 2;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;

/// What the head computes.
#[derive(Clone, Debug)]
pub enum Head {
    Untied,
    Tied,
    Score { labels: usize, pad: i64 },
}

/// What differs between the models.
#[derive(Clone, Debug)]
pub struct Shape {
    pub head_dim: usize,
    pub theta: f64,
    pub scaling: RopeScaling,
    pub interleaved: bool,
    pub eps: f64,
    pub head: Head,
}

impl Default for Shape {
    fn default() -> Self {
        let scaling = RopeScaling::Default;
        Self { head_dim: 4, theta: 1e4, scaling, interleaved: false, eps: 1e-5, head: Head::Untied }
    }
}

struct Model<'a> {
    shape: &'a Shape,
    builder: Builder,
    /// The number of the next weight; the formula depends on it.
    next: usize,
}

impl Model<'_> {
    fn weight(&mut self, sizes: &[usize]) -> Weight {
        let kind = if sizes.len() == 1 { "norm" } else { "matrix" };
        let weight = Weight::source(&format!("{kind}.{}", self.next), DType::F32, sizes).unwrap();
        self.next += 1;
        weight
    }

    fn push(&mut self, op: impl Into<Op>, args: &[ValueId]) -> Result<ValueId, BuildError> {
        self.builder.push(op, args, &Loc::none())
    }

    fn linear(&mut self, x: ValueId, out: usize, inputs: usize) -> Result<ValueId, BuildError> {
        let weight = self.weight(&[out, inputs]);
        self.push(Linear { weight, bias: None }, &[x])
    }

    fn norm(&mut self, x: ValueId) -> Result<ValueId, BuildError> {
        let weight = self.weight(&[HIDDEN]);
        self.push(RmsNorm { weight, eps: Real::new(self.shape.eps) }, &[x])
    }

    fn rope(&mut self, x: ValueId, heads: usize, shared: &[ValueId]) -> Result<ValueId, BuildError> {
        let rope = Rope {
            heads,
            head_dim: self.shape.head_dim,
            theta: Real::new(self.shape.theta),
            scaling: self.shape.scaling.clone(),
            interleaved: self.shape.interleaved,
        };
        let args = [&[x], shared].concat();
        self.push(rope, &args)
    }

    fn layer(
        &mut self,
        n: usize,
        x: ValueId,
        rope: &[ValueId],
        mask: ValueId,
    ) -> Result<ValueId, BuildError> {
        let d = self.shape.head_dim;
        let cache = TensorType::cache(KV_HEADS, d);
        let past_key = self.builder.param(&format!("past.{n}.key"), cache.clone())?;
        let past_value = self.builder.param(&format!("past.{n}.value"), cache)?;
        let a = self.norm(x)?;
        let q = self.linear(a, HEADS * d, HIDDEN)?;
        let k = self.linear(a, KV_HEADS * d, HIDDEN)?;
        let v = self.linear(a, KV_HEADS * d, HIDDEN)?;
        let q = self.rope(q, HEADS, rope)?;
        let k = self.rope(k, KV_HEADS, rope)?;
        let keys = self.push(KvAppend, &[past_key, k])?;
        let values = self.push(KvAppend, &[past_value, v])?;
        self.builder.result(&format!("present.{n}.key"), keys)?;
        self.builder.result(&format!("present.{n}.value"), values)?;
        let scale = Real::new((d as f64).powf(-0.5));
        let attention = Attention { heads: HEADS, kv_heads: KV_HEADS, head_dim: d, scale, causal: true };
        let o = self.push(attention, &[q, keys, values, mask])?;
        let o = self.linear(o, HIDDEN, HEADS * d)?;
        let x = self.push(Add, &[x, o])?;
        let m = self.norm(x)?;
        let gate = self.linear(m, INTERMEDIATE, HIDDEN)?;
        let up = self.linear(m, INTERMEDIATE, HIDDEN)?;
        let gate = self.push(Act { function: Activation::Silu }, &[gate])?;
        let product = self.push(Mul, &[gate, up])?;
        let down = self.linear(product, HIDDEN, INTERMEDIATE)?;
        self.push(Add, &[x, down])
    }

    fn model(&mut self) -> Result<(), BuildError> {
        let ids = self.builder.param("input_ids", TensorType::per_token())?;
        let positions = self.builder.param("positions", TensorType::per_token())?;
        let total = Dim::from(Symbol::Past) + Dim::from(Symbol::Seq);
        let mask = self.builder.param("mask", TensorType::new(DType::I64, [Symbol::Batch.into(), total]))?;
        let mut rope = vec![positions];
        if self.shape.scaling.depends_on_length() {
            rope.push(self.builder.param("length", TensorType::new(DType::I64, []))?);
        }
        let table = self.weight(&[VOCABULARY, HIDDEN]);
        let mut x = self.push(Embed { table: table.clone() }, &[ids])?;
        for n in 0..LAYERS {
            self.builder.result(&format!("hidden.{n}"), x)?;
            x = self.layer(n, x, &rope, mask)?;
        }
        let x = self.norm(x)?;
        self.builder.result(&format!("hidden.{LAYERS}"), x)?;
        let logits = match self.shape.head {
            Head::Untied => {
                let kept = self.push(KeepLast::default(), &[x])?;
                self.linear(kept, VOCABULARY, HIDDEN)?
            }
            Head::Tied => {
                let kept = self.push(KeepLast::default(), &[x])?;
                self.push(Linear { weight: table, bias: None }, &[kept])?
            }
            Head::Score { labels, pad } => {
                let pooled = self.push(PoolLast { pad: Some(pad) }, &[x, ids])?;
                self.linear(pooled, labels, HIDDEN)?
            }
        };
        self.builder.result("logits", logits)
    }
}

/// The graph of a model.
pub fn graph(shape: &Shape) -> Graph {
    let mut model = Model { shape, builder: Builder::new(), next: 0 };
    model.model().unwrap();
    model.builder.finish().unwrap()
}

/// The value of a weight: `norm.P` or `matrix.P` by its number P.
pub fn weights(weight: &Weight) -> Result<ArrayD<f32>, String> {
    llamac_ir::weight::evaluate(weight, &mut |name| {
        let (kind, number) = name.split_once('.').ok_or("a strange name")?;
        let p: f64 = number.parse().map_err(|_| "a strange number")?;
        let element = |i: usize| match (kind, i as f64) {
            ("norm", x) => 1.0 + 0.1 * (x + p).cos(),
            (_, x) => 0.4 * (0.7 * (x + 1.0) + 1.3 * p + 0.01 * ((i % 7) * (i % 11)) as f64).sin(),
        };
        let values: Vec<f32> = (0..weight.elements()).map(|i| element(i) as f32).collect();
        ArrayD::from_shape_vec(weight.shape().to_vec(), values).map_err(|e| e.to_string())
    })
}

/// Runs a graph on rows of tokens after a cache.
fn step(
    graph: &Graph,
    rows: &[Vec<i64>],
    positions: &[Vec<i64>],
    masks: &[Vec<i64>],
    past: BTreeMap<String, Tensor>,
) -> BTreeMap<String, Tensor> {
    let integers = |rows: &[Vec<i64>]| Tensor::integers(&[rows.len(), rows[0].len()], rows.concat()).unwrap();
    let length = 1 + positions.concat().into_iter().max().unwrap();
    let mut inputs = past;
    inputs.insert("input_ids".to_owned(), integers(rows));
    inputs.insert("positions".to_owned(), integers(positions));
    inputs.insert("mask".to_owned(), integers(masks));
    if graph.param("length").is_some() {
        inputs.insert("length".to_owned(), Tensor::integers(&[], vec![length]).unwrap());
    }
    let keep = llamac_ir::Bindings::new().with(Symbol::Keep, rows[0].len() as i64);
    evaluate(graph, &inputs, &keep, &weights).unwrap().into_iter().collect()
}

fn empty_cache(shape: &Shape, batch: usize) -> BTreeMap<String, Tensor> {
    let names = (0..LAYERS).flat_map(|n| [format!("past.{n}.key"), format!("past.{n}.value")]);
    let empty = Tensor::floats(&[batch, KV_HEADS, 0, shape.head_dim], Vec::new()).unwrap();
    names.map(|name| (name, empty.clone())).collect()
}

/// All results of one forward from an empty cache; positions count from 0 whatever the mask says.
pub fn forward(shape: &Shape, rows: &[&[i64]], masks: Option<&[&[i64]]>) -> BTreeMap<String, Tensor> {
    let rows: Vec<Vec<i64>> = rows.iter().map(|row| row.to_vec()).collect();
    let ones: Vec<Vec<i64>> = rows.iter().map(|row| vec![1; row.len()]).collect();
    let masks = masks.map_or(ones, |masks| masks.iter().map(|mask| mask.to_vec()).collect());
    let positions: Vec<Vec<i64>> = rows.iter().map(|row| (0..row.len() as i64).collect()).collect();
    step(&graph(shape), &rows, &positions, &masks, empty_cache(shape, rows.len()))
}

/// Greedy tokens after each row; positions skip padding, as in transformers' `generate`.
pub fn generate(shape: &Shape, rows: &[&[i64]], masks: &[&[i64]], count: usize) -> Vec<Vec<i64>> {
    let graph = graph(shape);
    let mut masks: Vec<Vec<i64>> = masks.iter().map(|mask| mask.to_vec()).collect();
    let mut input: Vec<Vec<i64>> = rows.iter().map(|row| row.to_vec()).collect();
    let mut positions: Vec<Vec<i64>> = masks.iter().map(|mask| running_positions(mask)).collect();
    let mut cache = empty_cache(shape, rows.len());
    let mut tokens = vec![Vec::new(); rows.len()];
    for _ in 0..count {
        let outputs = step(&graph, &input, &positions, &masks, cache);
        let last = input[0].len() - 1;
        for (n, chosen) in tokens.iter_mut().enumerate() {
            let logits = row(&outputs["logits"], &[n, last]);
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            chosen.push(best as i64);
        }
        input = tokens.iter().map(|row| vec![*row.last().unwrap()]).collect();
        positions = positions.iter().map(|row| vec![row.last().unwrap() + 1]).collect();
        masks.iter_mut().for_each(|mask| mask.push(1));
        let presents = outputs.into_iter().filter(|(name, _)| name.starts_with("present"));
        cache = presents.map(|(name, tensor)| (name.replace("present", "past"), tensor)).collect();
    }
    tokens
}

fn running_positions(mask: &[i64]) -> Vec<i64> {
    let mut seen = -1;
    let counts = mask.iter().map(|&one| {
        seen += one;
        seen.max(0)
    });
    counts.collect()
}

/// The innermost row of a result at the given indices.
pub fn row(tensor: &Tensor, at: &[usize]) -> Vec<f32> {
    let mut row = tensor.as_f32().unwrap().view();
    for &index in at {
        row = row.index_axis_move(ndarray::Axis(0), index);
    }
    row.iter().copied().collect()
}

/// Fails unless the row begins with `expected`, to the digits that it is printed with.
pub fn assert_close(tensor: &Tensor, at: &[usize], expected: &[f32]) {
    let found = row(tensor, at);
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= 5e-6, "element {i} of {at:?}: {found}, expected {expected}");
    }
    assert!(found.len() >= expected.len());
}
