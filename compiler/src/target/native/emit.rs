//! From a legal graph to the plan's steps: values get windows of buffers, operations become steps, and buffers get
//! their places in the arena.
//!
//! A value lives in a window of columns. Splitting is a window of a window and costs nothing; elementwise operations
//! and rotations write over their operand where nothing else needs it.

use std::collections::HashMap;

use llamac_ir::ops::{AddRmsNorm, Attention, Frequencies, Gated, KvAppend, Linear, RotaryAngles, Split};
use llamac_ir::{Graph, NodeId, Op, TensorType, ValueId};
use llamac_plan::{Buffer, BufferId, Rows, Slice, Step};

use super::memory::{self, Lifetime};
use super::weights::WeightTable;

/// The memory, steps and constants of a plan, with the recipe of each constant.
pub(super) struct Emitted {
    pub(super) weights: WeightTable,
    pub(super) buffers: Vec<Buffer>,
    pub(super) arena_bytes_per_token: usize,
    pub(super) unshared_bytes_per_token: usize,
    pub(super) steps: Vec<Step>,
    /// The modules that each step computes.
    pub(super) modules: Vec<String>,
}

/// Emits `graph`, whose result `output` is the head's and whose other results are hidden states.
///
/// # Errors
/// When the graph has a shape that no step stands for.
pub(super) fn emit(graph: &Graph, output: &str, weights: WeightTable) -> Result<Emitted, String> {
    let mut emitter = Emitter {
        graph,
        output: graph.results().find(|(name, _)| *name == output).map(|(_, value)| value),
        weights,
        steps: Vec::new(),
        modules: Vec::new(),
        buffers: Vec::new(),
        windows: HashMap::new(),
        pending: HashMap::new(),
    };
    emitter.count_uses();
    for node in graph.order() {
        emitter.node(node)?;
        emitter.modules.resize(emitter.steps.len(), graph.loc(node).to_string());
    }
    if let Some(value) = emitter.output {
        emitter.head(value)?;
        emitter.modules.resize(emitter.steps.len(), graph.loc(value.node).to_string());
    }
    emitter.finish()
}

struct Emitter<'g> {
    graph: &'g Graph,
    /// The head's result, until a step has handed it out.
    output: Option<ValueId>,
    weights: WeightTable,
    steps: Vec<Step>,
    modules: Vec<String>,
    /// Width and rows of each buffer.
    buffers: Vec<(usize, Rows)>,
    /// Where each value is.
    windows: HashMap<ValueId, Slice>,
    /// How many steps still read each value.
    pending: HashMap<ValueId, usize>,
}

impl Emitter<'_> {
    fn count_uses(&mut self) {
        for node in self.graph.order() {
            for &operand in self.graph.operands(node) {
                *self.pending.entry(operand).or_default() += 1;
            }
        }
        if let Some(output) = self.output {
            *self.pending.entry(output).or_default() += 1;
        }
    }

    fn node(&mut self, node: NodeId) -> Result<(), String> {
        let Some(op) = self.graph.op(node) else { return Ok(()) };
        let operands = self.graph.operands(node);
        let out = self.graph.values(node).next();
        let Some(out) = out else { return Err("an operation without results".into()) };
        match op {
            // Appending happens with the attention that reads the cache: its operands stay alive until then.
            Op::KvAppend(_) => return Ok(()),
            Op::Embed(op) => {
                let table = self.weights.matrix(&op.table, self.graph.loc(node))?;
                let out = self.fresh(out)?;
                self.steps.push(Step::Embed { table, out });
            }
            Op::RmsNorm(op) => {
                let x = self.window(operands[0])?;
                let weight = self.weights.vector(&op.weight, self.graph.loc(node))?;
                let out = self.fresh(out)?;
                self.steps.push(Step::RmsNorm { x, weight, eps: op.eps.f32(), out });
            }
            Op::AddRmsNorm(op) => self.add_rms_norm(node, op)?,
            Op::Linear(op) => self.linear(node, op)?,
            Op::RotaryAngles(op) => self.rotary_angles(node, op)?,
            Op::Rotary(op) => {
                let [x, cos, sin] = self.windows_of(operands)?;
                let out = self.over(out, &operands[..1])?;
                self.steps.push(Step::Rotary { x, cos, sin, heads: op.heads, out });
            }
            Op::Attention(op) => self.attention(node, op)?,
            Op::Split(op) => self.split(node, op)?,
            Op::Gated(_) => self.gated(node)?,
            Op::Act(op) => {
                let [x] = self.windows_of(operands)?;
                let out = self.over(out, operands)?;
                self.steps.push(Step::Activate { function: activation(op.function), x, out });
            }
            Op::Add(_) => {
                let [a, b] = self.windows_of(operands)?;
                let out = self.over(out, operands)?;
                self.steps.push(Step::Add { a, b, out });
            }
            Op::Mul(_) => {
                let [a, b] = self.windows_of(operands)?;
                let out = self.over(out, operands)?;
                self.steps.push(Step::Mul { a, b, out });
            }
            Op::KeepLast(_) | Op::PoolLast(_) => {
                let x = self.window(operands[0])?;
                let out = self.fresh(out)?;
                self.steps.push(Step::Keep { x, out });
            }
            _ => return Err(format!("{} is not legal here", op.mnemonic())),
        }
        self.used(operands);
        self.hidden_states(node)
    }

    fn add_rms_norm(&mut self, node: NodeId, op: &AddRmsNorm) -> Result<(), String> {
        let operands = self.graph.operands(node);
        let [a, b] = self.windows_of(operands)?;
        let weight = self.weights.vector(&op.weight, self.graph.loc(node))?;
        let [sum, out] = self.results(node)?;
        let sum = self.over(sum, operands)?;
        let out = self.fresh(out)?;
        self.steps.push(Step::AddRmsNorm { a, b, weight, eps: op.eps.f32(), sum, out });
        Ok(())
    }

    fn linear(&mut self, node: NodeId, op: &Linear) -> Result<(), String> {
        let x = self.window(self.graph.operands(node)[0])?;
        let weight = self.weights.matrix(&op.weight, self.graph.loc(node))?;
        let bias =
            op.bias.as_ref().map(|bias| self.weights.vector(bias, self.graph.loc(node))).transpose()?;
        let [value] = self.results(node)?;
        // The head's own matrix writes straight to the caller's memory.
        let last = self.output == Some(value) && self.pending(value) == 1 && !self.is_hidden_state(value);
        if last && self.rows(value)? == Rows::Kept {
            self.output = None;
            self.steps.push(Step::OutputLinear { x, weight, bias });
        } else {
            let gated = self.gate_of(value);
            let out = self.fresh(gated.map_or(value, |(value, _)| value))?;
            let gate = gated.map(|(_, function)| function);
            self.steps.push(Step::Linear { x, weight, bias, gate, out });
        }
        Ok(())
    }

    /// The gate that has the only use of `value`, and its function.
    fn gate_of(&self, value: ValueId) -> Option<(ValueId, llamac_plan::Activation)> {
        let [(user, _)] = self.graph.uses(value)[..] else { return None };
        let gated = self.graph.op_ref::<Gated>(user).filter(|_| !self.graph.is_result(value))?;
        Some((gated.value(), activation(gated.function)))
    }

    fn rotary_angles(&mut self, node: NodeId, op: &RotaryAngles) -> Result<(), String> {
        let loc = self.graph.loc(node);
        let frequencies = match &op.frequencies {
            Frequencies::Static { inv_freq } => {
                llamac_plan::Frequencies::Static { inv_freq: self.weights.vector(inv_freq, loc)? }
            }
            Frequencies::ByLength { short, long, threshold } => llamac_plan::Frequencies::LongRope {
                short: self.weights.vector(short, loc)?,
                long: self.weights.vector(long, loc)?,
                threshold: *threshold,
            },
            Frequencies::Dynamic { theta, stretch, max_position, .. } => llamac_plan::Frequencies::Dynamic {
                theta: theta.get(),
                factor: stretch.get(),
                max_position: *max_position,
            },
        };
        let [cos, sin] = self.results(node)?;
        let (cos, sin) = (self.fresh(cos)?, self.fresh(sin)?);
        self.steps.push(Step::RotaryAngles { frequencies, factor: op.factor.f32(), cos, sin });
        Ok(())
    }

    fn attention(&mut self, node: NodeId, op: &Attention) -> Result<(), String> {
        let operands = self.graph.operands(node);
        let (layer, key) = self.appended(operands[1], "key")?;
        let (value_layer, value) = self.appended(operands[2], "value")?;
        if layer != value_layer {
            return Err(format!("attention reads keys of layer {layer} and values of layer {value_layer}"));
        }
        let (key_window, value_window) = (self.window(key)?, self.window(value)?);
        self.steps.push(Step::KvAppend { layer, key: key_window, value: value_window });
        self.used(&[key, value]);
        let query = self.window(operands[0])?;
        let [out] = self.results(node)?;
        let out = self.fresh(out)?;
        self.steps.push(Step::Attention { layer, query, heads: op.heads, scale: op.scale.f32(), out });
        Ok(())
    }

    /// The layer and the new part of a cache that was read from parameter `past.<layer>.<which>` and appended to.
    fn appended(&self, cache: ValueId, which: &str) -> Result<(usize, ValueId), String> {
        let miss = || format!("attention must read a grown cache past.<layer>.{which}");
        let append = self.graph.op_of::<KvAppend>(cache).map_err(|_| miss())?;
        let past = self.graph.param_name(append.operand(0).node).ok_or_else(miss)?;
        let layer = past.strip_prefix("past.").and_then(|rest| rest.strip_suffix(which)?.strip_suffix('.'));
        let layer = layer.and_then(|layer| layer.parse().ok()).ok_or_else(miss)?;
        if self.pending(cache) != 1 {
            return Err(format!("the grown cache of layer {layer} is read more than once"));
        }
        Ok((layer, append.operand(1)))
    }

    fn split(&mut self, node: NodeId, op: &Split) -> Result<(), String> {
        let x = self.window(self.graph.operands(node)[0])?;
        let mut start = x.start;
        for (value, &width) in self.graph.values(node).zip(&op.sizes) {
            self.windows.insert(value, Slice { buffer: x.buffer, start, width });
            start += width;
        }
        Ok(())
    }

    /// The linear layer before has done it.
    fn gated(&self, node: NodeId) -> Result<(), String> {
        let operand = self.graph.operands(node)[0];
        let is_fused = self.graph.op_of::<Linear>(operand).is_ok() && self.gate_of(operand).is_some();
        let found = || format!("{} reads another, or one that others read, too", self.graph.loc(node));
        let expected = "a gate takes the result of a linear layer that nothing else reads";
        if is_fused { Ok(()) } else { Err(format!("{expected}: {}", found())) }
    }

    /// Hands the head's result to the caller.
    fn head(&mut self, value: ValueId) -> Result<(), String> {
        let mut x = self.window(value)?;
        if self.buffers[x.buffer.0].1 == Rows::Tokens {
            let out = self.buffer(x.width, Rows::Kept);
            self.steps.push(Step::Keep { x, out });
            x = out;
        }
        self.steps.push(Step::Output { x });
        Ok(())
    }

    /// Hands the results of `node` that are hidden states to the caller while they are there.
    fn hidden_states(&mut self, node: NodeId) -> Result<(), String> {
        for (name, value) in self.graph.results().filter(|(_, value)| value.node == node) {
            if let Some(index) = name.strip_prefix("hidden_states.") {
                let index = index.parse().map_err(|_| format!("`{name}` has no number"))?;
                self.steps.push(Step::HiddenState { index, x: self.window(value)? });
            }
        }
        Ok(())
    }

    fn is_hidden_state(&self, value: ValueId) -> bool {
        self.graph.results().any(|(name, v)| v == value && name.starts_with("hidden_states."))
    }

    fn results<const N: usize>(&self, node: NodeId) -> Result<[ValueId; N], String> {
        let values: Vec<ValueId> = self.graph.values(node).collect();
        values.try_into().map_err(|_| "an operation has another number of results".to_owned())
    }

    fn window(&self, value: ValueId) -> Result<Slice, String> {
        self.windows.get(&value).copied().ok_or_else(|| {
            let name = self.graph.param_name(value.node).unwrap_or("a value");
            format!("{name} has no place in memory")
        })
    }

    fn windows_of<const N: usize>(&self, values: &[ValueId]) -> Result<[Slice; N], String> {
        let windows = values.iter().map(|&value| self.window(value)).collect::<Result<Vec<_>, _>>()?;
        windows.try_into().map_err(|_| "an operation has another number of operands".to_owned())
    }

    fn pending(&self, value: ValueId) -> usize {
        self.pending.get(&value).copied().unwrap_or(0)
    }

    fn used(&mut self, values: &[ValueId]) {
        for value in values {
            if let Some(pending) = self.pending.get_mut(value) {
                *pending -= 1;
            }
        }
    }

    /// Whether the step at hand is the last to need anything in the window of its operand `value`.
    fn may_overwrite(&self, value: ValueId) -> bool {
        let Some(window) = self.windows.get(&value) else { return false };
        let overlaps = |other: &Slice| {
            other.buffer == window.buffer
                && other.start < window.start + window.width
                && window.start < other.start + other.width
        };
        let needed = |other: &ValueId| self.pending(*other) > usize::from(*other == value);
        !self.windows.iter().any(|(other, place)| overlaps(place) && needed(other))
    }

    /// Puts `value` over the first of `operands` that this step is the last to need, or into memory of its own.
    fn over(&mut self, value: ValueId, operands: &[ValueId]) -> Result<Slice, String> {
        match operands.iter().find(|&&operand| self.may_overwrite(operand)) {
            Some(operand) => {
                let window = self.window(*operand)?;
                self.windows.insert(value, window);
                Ok(window)
            }
            None => self.fresh(value),
        }
    }

    /// Puts `value` into a buffer of its own.
    fn fresh(&mut self, value: ValueId) -> Result<Slice, String> {
        let width = self.graph.ty(value).width().and_then(|width| usize::try_from(width).ok());
        let width = width.ok_or_else(|| format!("a value of type {} has no width", self.graph.ty(value)))?;
        let rows = self.rows(value)?;
        let window = self.buffer(width, rows);
        self.windows.insert(value, window);
        Ok(window)
    }

    fn rows(&self, value: ValueId) -> Result<Rows, String> {
        rows(self.graph.ty(value))
    }

    fn buffer(&mut self, width: usize, rows: Rows) -> Slice {
        self.buffers.push((width, rows));
        Slice { buffer: BufferId(self.buffers.len() - 1), start: 0, width }
    }

    /// Gives buffers their places, by the steps that touch them.
    fn finish(self) -> Result<Emitted, String> {
        let bytes: Option<Vec<usize>> =
            self.buffers.iter().map(|&(width, _)| Buffer::row_bytes(width)).collect();
        let bytes = bytes.ok_or("a buffer whose rows are too long")?;
        let mut lifetimes: Vec<Option<Lifetime>> = vec![None; self.buffers.len()];
        for (at, step) in self.steps.iter().enumerate() {
            step.for_each_slice(&mut |slice| {
                let bytes = bytes[slice.buffer.0];
                let lifetime =
                    lifetimes[slice.buffer.0].get_or_insert(Lifetime { bytes, first: at, last: at });
                lifetime.last = at;
            });
        }
        let lifetimes: Option<Vec<Lifetime>> = lifetimes.into_iter().collect();
        let lifetimes = lifetimes.ok_or("a buffer that no step touches")?;
        let placement = memory::place(&lifetimes);
        let buffers = self.buffers.iter().zip(placement.offsets);
        Ok(Emitted {
            weights: self.weights,
            buffers: buffers.map(|(&(width, rows), offset)| Buffer { offset, width, rows }).collect(),
            arena_bytes_per_token: placement.total,
            unshared_bytes_per_token: lifetimes.iter().map(|lifetime| lifetime.bytes).sum(),
            steps: self.steps,
            modules: self.modules,
        })
    }
}

/// A row for each token, or for each one that is kept.
fn rows(ty: &TensorType) -> Result<Rows, String> {
    use llamac_ir::Symbol::{Batch, Keep, Seq};
    let symbols: Vec<_> = ty.shape[..ty.rank().saturating_sub(1)].iter().map(|dim| dim.as_symbol()).collect();
    match symbols[..] {
        [Some(Batch), Some(Seq)] => Ok(Rows::Tokens),
        [Some(Batch), Some(Keep)] | [Some(Batch)] => Ok(Rows::Kept),
        _ => Err(format!("a value of type {ty} is not rows of tokens")),
    }
}

fn activation(function: llamac_ir::Activation) -> llamac_plan::Activation {
    match function {
        llamac_ir::Activation::Silu => llamac_plan::Activation::Silu,
        llamac_ir::Activation::Gelu => llamac_plan::Activation::Gelu,
        llamac_ir::Activation::GeluTanh => llamac_plan::Activation::GeluTanh,
        llamac_ir::Activation::QuickGelu => llamac_plan::Activation::QuickGelu,
        llamac_ir::Activation::Relu => llamac_plan::Activation::Relu,
    }
}
