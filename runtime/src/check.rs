//! Checks a plan before anything trusts it: every index in range, every window inside its buffer, every width the one
//! that its step needs, no step writing what it still reads.
//!
//! Checksums say that a file is the one that was written; this says that what was written makes sense. The arena's
//! unsafe windows rest on it, so it runs on every opening.

use std::collections::BTreeSet;

use llamac_plan::layout::{ALIGNMENT, PANEL};
use llamac_plan::{Buffer, Frequencies, Head, Plan, PromptKind, Rows, Slice, Step, WeightId, WeightLayout};

/// Sizes past this are not a model's; below it, products of two of them do not overflow.
const LIMIT: usize = 1 << 31;

/// What is wrong with `plan`, if anything, in a file of `bytes`.
pub(crate) fn check(plan: &Plan, bytes: usize) -> Result<(), String> {
    shape(plan)?;
    // Activations are results of weights: a model has more of these than a token takes of those.
    if plan.arena_bytes_per_token > bytes || !plan.arena_bytes_per_token.is_multiple_of(ALIGNMENT) {
        return Err("the arena's size is absurd".into());
    }
    for (i, buffer) in plan.buffers.iter().enumerate() {
        let end = Buffer::row_bytes(buffer.width).and_then(|bytes| bytes.checked_add(buffer.offset));
        if !buffer.offset.is_multiple_of(ALIGNMENT) || end.is_none_or(|end| end > plan.arena_bytes_per_token)
        {
            return Err(format!("buffer {i} does not fit into the arena"));
        }
    }
    if plan.modules.len() != plan.steps.len() {
        return Err(format!("{} steps have {} names", plan.steps.len(), plan.modules.len()));
    }
    for (i, step) in plan.steps.iter().enumerate() {
        Checker { plan }.step(step).map_err(|why| format!("step {i}: {why}"))?;
    }
    layers(plan)?;
    prompt(plan)?;
    let outputs = plan.steps.iter().filter(|s| matches!(s, Step::Output { .. } | Step::OutputLinear { .. }));
    match outputs.count() {
        1 => Ok(()),
        n => Err(format!("it has {n} outputs, not one")),
    }
}

/// Each layer appends to its cache once, each hidden state is handed out once, and all rotations turn by one rule.
fn layers(plan: &Plan) -> Result<(), String> {
    let mut appends = BTreeSet::new();
    let mut hidden = BTreeSet::new();
    let mut rule = None;
    for step in &plan.steps {
        let again = match step {
            Step::KvAppend { layer, .. } => !appends.insert(*layer),
            Step::HiddenState { index, .. } => !hidden.insert(*index),
            Step::RotaryAngles { frequencies, .. } => {
                rule.replace(frequencies).is_some_and(|other| other != frequencies)
            }
            _ => false,
        };
        if again {
            return Err("a cache, a hidden state or a rule of rotation is there twice".into());
        }
    }
    // Indices are in range, so that as many as there are layers are all of them.
    if appends.len() == plan.shape.layers && hidden.len() == plan.shape.layers + 1 {
        return Ok(());
    }
    Err("a layer has no cache, or a hidden state is never handed out".into())
}

/// A soft prompt leaves room in the context, and has the weights that its kind needs.
fn prompt(plan: &Plan) -> Result<(), String> {
    let (Some(prompt), s) = (&plan.prompt, &plan.shape) else { return Ok(()) };
    if prompt.tokens == 0 || prompt.tokens >= s.max_context {
        return Err("its soft prompt is empty, or leaves no room in the context".into());
    }
    // The cache's size was checked, which is more than either product.
    let (count, width) = match prompt.kind {
        PromptKind::Embeddings => (1, s.hidden_size),
        PromptKind::Prefix => (s.layers, 2 * s.kv_heads * s.head_dim),
    };
    same("the number of weights of its soft prompt", prompt.weights.len(), count)?;
    prompt.weights.iter().try_for_each(|&id| Checker { plan }.vector(id, prompt.tokens * width))
}

fn shape(plan: &Plan) -> Result<(), String> {
    let s = &plan.shape;
    let sizes = [s.vocab_size, s.hidden_size, s.intermediate_size, s.layers, s.heads, s.kv_heads, s.head_dim];
    if sizes.iter().chain([&s.max_context]).any(|&size| size == 0 || size > LIMIT) {
        return Err("a size of the model is zero or absurd".into());
    }
    if !s.heads.is_multiple_of(s.kv_heads) || !s.head_dim.is_multiple_of(2) {
        return Err("its heads cannot be grouped, or their size is odd".into());
    }
    let cache = [s.layers, s.kv_heads, s.head_dim.next_multiple_of(PANEL), s.max_context, 8];
    if cache.iter().try_fold(1usize, |product, &n| product.checked_mul(n)).is_none() {
        return Err("its cache does not fit into memory".into());
    }
    match plan.head.labels() {
        Some([]) => Err("it has no labels".into()),
        _ => Ok(()),
    }
}

struct Checker<'a> {
    plan: &'a Plan,
}

impl Checker<'_> {
    fn step(&self, step: &Step) -> Result<(), String> {
        use Rows::{Kept, Tokens};
        let shape = &self.plan.shape;
        match step {
            Step::Embed { table, out } => {
                self.window(out, Tokens)?;
                same("the width", out.width, shape.hidden_size)?;
                self.matrix(*table, shape.vocab_size, out.width)
            }
            Step::RmsNorm { x, weight, out, .. } => {
                let rows = self.rows(x)?;
                self.window(out, rows)?;
                same("the width", out.width, x.width)?;
                self.vector(*weight, x.width)?;
                self.apart(out, &[x], &[])
            }
            Step::AddRmsNorm { a, b, weight, sum, out, .. } => {
                let rows = self.rows(a)?;
                for slice in [b, sum, out] {
                    self.window(slice, rows)?;
                    same("the width", slice.width, a.width)?;
                }
                self.vector(*weight, a.width)?;
                self.apart(sum, &[], &[a, b])?;
                self.apart(out, &[a, b, sum], &[])
            }
            Step::Linear { x, weight, bias, gate, out } => {
                let rows = self.rows(x)?;
                self.window(out, rows)?;
                let halves = if gate.is_some() { 2 } else { 1 };
                self.linear(*weight, *bias, halves * out.width, x.width)?;
                self.apart(out, &[x], &[])
            }
            Step::RotaryAngles { frequencies, cos, sin, .. } => {
                for slice in [cos, sin] {
                    self.window(slice, Tokens)?;
                    same("the width", slice.width, shape.head_dim / 2)?;
                }
                self.frequencies(frequencies)?;
                self.apart(cos, &[sin], &[])
            }
            Step::Rotary { x, cos, sin, heads, out } => {
                for slice in [x, out] {
                    self.window(slice, Tokens)?;
                    same("the width", Some(slice.width), heads.checked_mul(shape.head_dim))?;
                }
                for slice in [cos, sin] {
                    self.window(slice, Tokens)?;
                    same("the width", slice.width, shape.head_dim / 2)?;
                }
                self.apart(out, &[cos, sin], &[x])
            }
            Step::KvAppend { layer, key, value } => {
                for slice in [key, value] {
                    self.window(slice, Tokens)?;
                    same("the width", slice.width, shape.kv_heads * shape.head_dim)?;
                }
                self.layer(*layer)
            }
            Step::Attention { layer, query, heads, out, .. } => {
                same("the number of heads", *heads, shape.heads)?;
                for slice in [query, out] {
                    self.window(slice, Tokens)?;
                    same("the width", slice.width, shape.heads * shape.head_dim)?;
                }
                self.layer(*layer)?;
                self.apart(out, &[query], &[])
            }
            Step::Add { a, b, out } | Step::Mul { a, b, out } => {
                let rows = self.rows(a)?;
                for slice in [b, out] {
                    self.window(slice, rows)?;
                    same("the width", slice.width, a.width)?;
                }
                self.apart(out, &[], &[a, b])
            }
            Step::Activate { x, out, .. } => {
                let rows = self.rows(x)?;
                self.window(out, rows)?;
                same("the width", out.width, x.width)?;
                self.apart(out, &[], &[x])
            }
            Step::Keep { x, out } => {
                self.window(x, Tokens)?;
                self.window(out, Kept)?;
                same("the width", out.width, x.width)?;
                self.apart(out, &[x], &[])
            }
            Step::HiddenState { index, x } => {
                self.window(x, Tokens)?;
                same("the width", x.width, shape.hidden_size)?;
                if *index > shape.layers { Err(format!("there is no hidden state {index}")) } else { Ok(()) }
            }
            Step::OutputLinear { x, weight, bias } => {
                self.window(x, Kept)?;
                self.linear(*weight, *bias, self.output_width(), x.width)
            }
            Step::Output { x } => {
                self.window(x, Kept)?;
                same("the width", x.width, self.output_width())
            }
        }
    }

    fn output_width(&self) -> usize {
        output_width(self.plan)
    }

    /// The rows of a slice that is inside its buffer.
    fn rows(&self, slice: &Slice) -> Result<Rows, String> {
        let buffer = self.plan.buffers.get(slice.buffer.0).ok_or("there is no such buffer")?;
        match slice.start.checked_add(slice.width) {
            Some(end) if slice.width > 0 && end <= buffer.width => Ok(buffer.rows),
            _ => Err("a window is empty or outside its buffer".into()),
        }
    }

    fn window(&self, slice: &Slice, rows: Rows) -> Result<(), String> {
        if self.rows(slice)? == rows { Ok(()) } else { Err("a window has the wrong kind of rows".into()) }
    }

    /// `out` shares no byte with `inputs`, and none with `in_place` unless it is the same window.
    fn apart(&self, out: &Slice, inputs: &[&Slice], in_place: &[&Slice]) -> Result<(), String> {
        let clash = inputs.iter().any(|x| self.overlap(out, x))
            || in_place.iter().any(|x| out != *x && self.overlap(out, x));
        if clash { Err("it would overwrite what it reads".into()) } else { Ok(()) }
    }

    /// Whether two windows that are inside their buffers share a byte, for whatever number of rows.
    fn overlap(&self, a: &Slice, b: &Slice) -> bool {
        if a.buffer == b.buffer {
            return a.start < b.start + b.width && b.start < a.start + a.width;
        }
        let span = |slice: &Slice| {
            let buffer = &self.plan.buffers[slice.buffer.0];
            (
                buffer.offset,
                buffer.offset + Buffer::row_bytes(buffer.width).unwrap_or(usize::MAX - buffer.offset),
            )
        };
        let (a, b) = (span(a), span(b));
        a.0 < b.1 && b.0 < a.1
    }

    fn weight(&self, id: WeightId) -> Result<WeightLayout, String> {
        self.plan.weights.get(id.0).map(|w| w.layout).ok_or_else(|| "there is no such weight".into())
    }

    fn matrix(&self, id: WeightId, rows: usize, cols: usize) -> Result<(), String> {
        match self.weight(id)? {
            WeightLayout::Matrix(m) if m.rows == rows && m.cols == cols => Ok(()),
            _ => Err(format!("its weight is not a matrix [{rows}, {cols}]")),
        }
    }

    fn vector(&self, id: WeightId, len: usize) -> Result<(), String> {
        match self.weight(id)? {
            WeightLayout::Vector { len: found } if found == len => Ok(()),
            _ => Err(format!("its weight is not a vector of {len}")),
        }
    }

    fn linear(
        &self,
        weight: WeightId,
        bias: Option<WeightId>,
        rows: usize,
        cols: usize,
    ) -> Result<(), String> {
        self.matrix(weight, rows, cols)?;
        bias.map_or(Ok(()), |bias| self.vector(bias, rows))
    }

    fn frequencies(&self, frequencies: &Frequencies) -> Result<(), String> {
        let half = self.plan.shape.head_dim / 2;
        match frequencies {
            Frequencies::Static { inv_freq } => self.vector(*inv_freq, half),
            Frequencies::LongRope { short, long, .. } => {
                self.vector(*short, half)?;
                self.vector(*long, half)
            }
            Frequencies::Dynamic { .. } => Ok(()),
        }
    }

    fn layer(&self, layer: usize) -> Result<(), String> {
        if layer < self.plan.shape.layers { Ok(()) } else { Err(format!("there is no layer {layer}")) }
    }
}

/// Elements of a row of the head's output.
pub(crate) fn output_width(plan: &Plan) -> usize {
    match &plan.head {
        Head::Base => plan.shape.hidden_size,
        Head::CausalLm => plan.shape.vocab_size,
        Head::SequenceClassification { labels, .. } | Head::TokenClassification { labels } => labels.len(),
        Head::QuestionAnswering => 2,
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what} is {found:?}, not {expected:?}")) }
}
