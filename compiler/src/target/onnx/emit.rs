//! From a legal graph to a model: values get names, weights become initializers, operations nodes.

use std::collections::HashMap;

use llamac_ir::{DType, Dim, Graph, NodeId, Real, ValueId, Weight, WeightExpr};
use llamac_plan::SPAN_LOGITS;
use llamac_plan::diagnostic::{Code, Diagnostic};

use super::Profile;
use super::model::{self, Attribute, Data, ElementType, Initializer, Node, ValueInfo};
use super::names::{self, Names};
use super::storage::Storage;

/// Literals of more numbers are called by where they are used.
const SHOWN: usize = 8;

/// The graph of an export, and where its constants are.
pub(super) struct Emitted<'a> {
    pub(super) graph: model::Graph,
    pub(super) storage: Storage<'a>,
}

/// Emits `graph`, which is legal for `profile`.
///
/// # Errors
/// When a constant cannot be read, or an operation has no node, which its legality rules out.
pub(super) fn emit<'a>(
    graph: &Graph,
    profile: Profile,
    storage: Storage<'a>,
) -> Result<Emitted<'a>, Diagnostic> {
    let mut emitter = Emitter {
        graph,
        profile,
        storage,
        names: Names::default(),
        values: HashMap::new(),
        nodes: Vec::new(),
        initializers: Vec::new(),
        weights: HashMap::new(),
        tensors: HashMap::new(),
        widened: HashMap::new(),
        integers: HashMap::new(),
        sizes: HashMap::new(),
        shapes: HashMap::new(),
    };
    emitter.name_ends();
    for node in graph.order() {
        if let Some(op) = graph.op(node) {
            emitter.node(node, op)?;
        }
    }
    emitter.finish()
}

/// The state of an emission. What becomes of each operation is in [`super::nodes`].
pub(super) struct Emitter<'g, 'a> {
    pub(super) graph: &'g Graph,
    pub(super) profile: Profile,
    storage: Storage<'a>,
    names: Names,
    values: HashMap<ValueId, String>,
    nodes: Vec<Node>,
    initializers: Vec<Initializer>,
    /// Names of initializers.
    weights: HashMap<Weight, String>,
    /// Names of initializers that have only the bytes of a weight.
    tensors: HashMap<(Weight, ElementType, Vec<usize>), String>,
    /// Names of weights in single precision.
    widened: HashMap<Weight, String>,
    /// Names of lists of integers, and of single ones.
    integers: HashMap<(Vec<i64>, bool), String>,
    /// Names of sizes that are computed.
    sizes: HashMap<Dim, String>,
    /// Names of shapes, by those of their parts.
    shapes: HashMap<Vec<String>, String>,
}

/// An operator with its attributes.
#[derive(Debug)]
pub(super) struct Operator {
    op: &'static str,
    domain: &'static str,
    attributes: Vec<(&'static str, Attribute)>,
}

impl Operator {
    /// One of the standard, without attributes.
    pub(super) fn new(op: &'static str) -> Self {
        Self { op, domain: "", attributes: Vec::new() }
    }

    /// One that ONNX Runtime adds.
    pub(super) fn microsoft(op: &'static str) -> Self {
        Self { domain: MICROSOFT, ..Self::new(op) }
    }

    /// With an attribute.
    pub(super) fn with(mut self, name: &'static str, value: Attribute) -> Self {
        self.attributes.push((name, value));
        self
    }

    /// With an integer attribute.
    pub(super) fn int(self, name: &'static str, value: usize) -> Self {
        self.with(name, Attribute::Int(value as i64))
    }
}

/// What a few numbers are called.
fn constant_name(dtype: DType, values: &[String], scalar: bool) -> String {
    let values = values.join(", ");
    if scalar { format!("/constants/{dtype}/{values}") } else { format!("/constants/{dtype}/[{values}]") }
}

/// All outputs of an operator with one.
pub(super) const ONE: &[Option<u32>] = &[Some(0)];

/// The domain of ONNX Runtime's operators.
pub(super) const MICROSOFT: &str = "com.microsoft";

impl<'a> Emitter<'_, 'a> {
    /// Names parameters and results, which come before all others.
    fn name_ends(&mut self) {
        for (name, value) in self.graph.params() {
            let name = self.names.unique(&names::input(name));
            self.values.insert(value, name);
        }
        for (name, value) in self.graph.results() {
            let name = self.names.unique(name);
            self.values.entry(value).or_insert(name);
        }
    }

    /// The name of a value that is there, or will be.
    pub(super) fn value(&self, value: ValueId) -> String {
        self.values.get(&value).cloned().unwrap_or_default()
    }

    /// The names of a node's operands.
    pub(super) fn operands(&self, node: NodeId) -> Vec<String> {
        self.graph.operands(node).iter().map(|&value| self.value(value)).collect()
    }

    /// Adds the node that computes `outputs`, results of the graph's `node` by position; empty where an output is not
    /// wanted.
    pub(super) fn add(
        &mut self,
        node: NodeId,
        operator: Operator,
        inputs: Vec<String>,
        outputs: &[Option<u32>],
    ) {
        let name = self.node_name(node, operator.op);
        let outputs = outputs.iter().enumerate().map(|(i, result)| {
            let Some(result) = *result else { return String::new() };
            let value = ValueId { node, result };
            let names = &mut self.names;
            let name = || names.unique(&format!("{name}_output_{i}"));
            self.values.entry(value).or_insert_with(name).clone()
        });
        let outputs = outputs.collect();
        self.push(name, operator, inputs, outputs);
    }

    /// Adds a node for a value that the graph does not have; the value's name.
    pub(super) fn add_inner(&mut self, node: NodeId, operator: Operator, inputs: Vec<String>) -> String {
        let name = self.node_name(node, operator.op);
        self.push_inner(name, operator, inputs)
    }

    /// Adds a node for what is computed from the sizes of inputs, once for all; the value's name.
    fn add_size(&mut self, operator: Operator, inputs: Vec<String>) -> String {
        let name = self.names.unique(&format!("/sizes/{}", operator.op));
        self.push_inner(name, operator, inputs)
    }

    fn push_inner(&mut self, name: String, operator: Operator, inputs: Vec<String>) -> String {
        let output = self.names.unique(&format!("{name}_output_0"));
        self.push(name, operator, inputs, vec![output.clone()]);
        output
    }

    fn node_name(&mut self, node: NodeId, op: &str) -> String {
        let path = names::path(self.graph.loc(node));
        let slash = if path.is_empty() { "" } else { "/" };
        self.names.unique(&format!("{slash}{path}/{op}"))
    }

    fn push(&mut self, name: String, operator: Operator, inputs: Vec<String>, outputs: Vec<String>) {
        let Operator { op, domain, attributes } = operator;
        self.nodes.push(Node { name, op, domain, inputs, outputs, attributes });
    }

    /// Makes the result of a node the initializer of `weight`.
    pub(super) fn constant(&mut self, node: NodeId, weight: &Weight) -> Result<(), Diagnostic> {
        let value = ValueId { node, result: 0 };
        let name = self.initializer(node, weight, "constant")?;
        self.values.insert(value, name);
        Ok(())
    }

    /// The name of `weight` as it is. One that is no tensor of the checkpoint is called by the `node` that uses it and
    /// what it is there.
    pub(super) fn initializer(
        &mut self,
        node: NodeId,
        weight: &Weight,
        role: &str,
    ) -> Result<String, Diagnostic> {
        if let Some(name) = self.weights.get(weight) {
            return Ok(name.clone());
        }
        if let WeightExpr::Literal { dtype: DType::I64, shape, values } = weight.expr()
            && shape.len() <= 1
        {
            let values: Vec<i64> = values.iter().map(|value| value.get() as i64).collect();
            return Ok(self.integer_constant(&values, shape.is_empty()));
        }
        let name = self.names.unique(&self.weight_name(node, weight, role));
        let data = self.storage.place(weight)?;
        self.push_initializer(&name, ElementType::Of(weight.dtype()), weight.shape(), data);
        self.weights.insert(weight.clone(), name.clone());
        Ok(name)
    }

    /// The name of a tensor that has the bytes of `weight`, whatever shape and type that has. It is called by the matrix
    /// that it is a part of, and what it is there.
    pub(super) fn tensor(
        &mut self,
        node: NodeId,
        weight: &Weight,
        element: ElementType,
        shape: &[usize],
        role: &str,
    ) -> Result<String, Diagnostic> {
        let key = (weight.clone(), element, shape.to_vec());
        if let Some(name) = self.tensors.get(&key) {
            return Ok(name.clone());
        }
        let mut matrix = weight;
        while let (false, Some(part)) = (matrix.scheme().is_some(), matrix.parts().first()) {
            matrix = part;
        }
        let matrix = matrix.parts().first().copied().unwrap_or(matrix);
        let matrix = self.weight_name(node, matrix, "weight");
        let name = self.names.unique(&format!("{matrix}.{role}"));
        let data = self.storage.place(weight)?;
        self.push_initializer(&name, element, shape, data);
        self.tensors.insert(key, name.clone());
        Ok(name)
    }

    fn weight_name(&self, node: NodeId, weight: &Weight, role: &str) -> String {
        match weight.expr() {
            WeightExpr::Source { tensor, .. } => return tensor.clone(),
            WeightExpr::Convert { base, .. } if matches!(base.expr(), WeightExpr::Source { .. }) => {
                return self.weight_name(node, base, role);
            }
            WeightExpr::Literal { dtype, shape, values } if values.len() <= SHOWN => {
                let text = |value: &Real| match dtype.is_float() {
                    true => value.to_string(),
                    false => (value.get() as i64).to_string(),
                };
                return constant_name(*dtype, &values.iter().map(text).collect::<Vec<_>>(), shape.is_empty());
            }
            WeightExpr::InvFreq { .. } => return "model.rotary_emb.inv_freq".to_owned(),
            _ => {}
        }
        let path = names::path(self.graph.loc(node)).replace('/', ".");
        if path.is_empty() { role.to_owned() } else { format!("{path}.{role}") }
    }

    fn push_initializer(&mut self, name: &str, element: ElementType, shape: &[usize], data: Data) {
        self.initializers.push(Initializer { name: name.to_owned(), element, shape: shape.to_vec(), data });
    }

    /// The name of `weight` in single precision.
    pub(super) fn float(&mut self, node: NodeId, weight: &Weight, role: &str) -> Result<String, Diagnostic> {
        if weight.dtype() == DType::F32 {
            return self.initializer(node, weight, role);
        }
        if let Some(name) = self.widened.get(weight) {
            return Ok(name.clone());
        }
        let stored = self.initializer(node, weight, role)?;
        let cast = Operator::new("Cast").with("to", Attribute::Type(DType::F32));
        let name = self.add_inner(node, cast, vec![stored]);
        self.widened.insert(weight.clone(), name.clone());
        Ok(name)
    }

    /// The name of a list of integers.
    pub(super) fn integers(&mut self, values: &[i64]) -> String {
        self.integer_constant(values, false)
    }

    /// The name of an integer.
    pub(super) fn integer(&mut self, value: i64) -> String {
        self.integer_constant(&[value], true)
    }

    fn integer_constant(&mut self, values: &[i64], scalar: bool) -> String {
        if let Some(name) = self.integers.get(&(values.to_vec(), scalar)) {
            return name.clone();
        }
        let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
        let name = self.names.unique(&constant_name(DType::I64, &texts, scalar));
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let shape = [values.len()];
        let shape = if scalar { &[][..] } else { &shape };
        self.push_initializer(&name, ElementType::Of(DType::I64), shape, Data::Inline(bytes));
        self.integers.insert((values.to_vec(), scalar), name.clone());
        name
    }

    /// The name of the size `dim` as a list of one integer, taken from an input that has such a dimension.
    pub(super) fn size(&mut self, node: NodeId, dim: &Dim) -> Result<String, Diagnostic> {
        if let Some(name) = self.sizes.get(dim) {
            return Ok(name.clone());
        }
        let place = self.graph.params().find_map(|(_, value)| {
            Some((value, self.graph.ty(value).shape.iter().position(|found| found == dim)?))
        });
        let (value, at) = place.ok_or_else(|| self.illegal(node, &format!("no input has a size {dim}")))?;
        let shape = Operator::new("Shape").int("start", at).int("end", at + 1);
        let name = self.add_size(shape, vec![self.value(value)]);
        self.sizes.insert(dim.clone(), name.clone());
        Ok(name)
    }

    /// The name of the shape of these parts, each the name of a list of integers.
    pub(super) fn shape(&mut self, parts: Vec<String>) -> String {
        if let [shape] = &parts[..] {
            return shape.clone();
        }
        if let Some(name) = self.shapes.get(&parts) {
            return name.clone();
        }
        let name = self.add_size(Operator::new("Concat").int("axis", 0), parts.clone());
        self.shapes.insert(parts, name.clone());
        name
    }

    /// The fault of a `node` that has no form here.
    pub(super) fn illegal(&self, node: NodeId, why: &str) -> Diagnostic {
        let op = self.graph.op(node).map_or("a parameter", |op| op.mnemonic());
        Diagnostic::new(Code::IllegalOp).at(format!("{op} at {}", self.graph.loc(node))).message(why)
    }

    /// Adds what makes results of values.
    fn finish(mut self) -> Result<Emitted<'a>, Diagnostic> {
        let info = |name: String, value: ValueId| {
            let ty = self.graph.ty(value);
            ValueInfo { name, dtype: ty.dtype, shape: ty.shape.iter().map(names::size).collect() }
        };
        let inputs = self.graph.params().map(|(_, value)| info(self.value(value), value)).collect();
        let mut outputs: Vec<ValueInfo> =
            self.graph.results().map(|(name, value)| info(name.to_owned(), value)).collect();
        for (name, value) in self.graph.results() {
            let computed = self.value(value);
            if computed != name {
                let node = self.names.unique(&format!("/{name}/Identity"));
                self.push(node, Operator::new("Identity"), vec![computed], vec![name.to_owned()]);
            }
        }
        if let Some(at) = outputs.iter().position(|output| output.name == SPAN_LOGITS) {
            let spans = outputs.remove(at);
            outputs.splice(at..at, self.spans(&spans));
        }
        let graph = model::Graph {
            name: "llama".to_owned(),
            inputs,
            outputs,
            nodes: self.nodes,
            initializers: self.initializers,
        };
        Ok(Emitted { graph, storage: self.storage })
    }

    /// The two outputs that transformers makes of the two scores of each token.
    fn spans(&mut self, spans: &ValueInfo) -> [ValueInfo; 2] {
        let names = ["start_logits", "end_logits"];
        let parts = names.map(|name| self.names.unique(&format!("/qa_outputs/{name}")));
        let sizes = self.integers(&[1, 1]);
        let split = Operator::new("Split").with("axis", Attribute::Int(-1));
        self.push("/qa_outputs/Split".to_owned(), split, vec![spans.name.clone(), sizes], parts.to_vec());
        let shape = self.integers(&[0, 0]);
        std::array::from_fn(|i| {
            let name = self.names.unique("/qa_outputs/Reshape");
            let inputs = vec![parts[i].clone(), shape.clone()];
            self.push(name, Operator::new("Reshape"), inputs, vec![names[i].to_owned()]);
            ValueInfo { name: names[i].to_owned(), dtype: spans.dtype, shape: spans.shape[..2].to_vec() }
        })
    }
}
