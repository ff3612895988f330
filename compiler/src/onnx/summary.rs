//! What an ONNX model holds, in numbers and names.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use serde::Serialize;

use super::fold::fold;
use super::model::Model;
use super::proto::{GraphProto, NodeProto, TensorProto, TypeProto, ValueInfoProto};
use super::tensor::{Data, dtype};

/// How many of the largest tensors are named.
const LARGEST: usize = 5;

/// The domain of the standard's operators, which may be left out.
pub(super) const STANDARD: &str = "ai.onnx";

/// What a model holds.
#[derive(Debug, Serialize)]
pub struct Summary<'a> {
    /// The version of the file's format.
    pub ir_version: i64,
    /// Versions of operators by domain.
    pub opsets: Vec<Opset<'a>>,
    /// What wrote the model: name and version.
    pub producer: String,
    /// The model's metadata.
    pub metadata: BTreeMap<&'a str, &'a str>,
    /// Inputs in their order, without those that are initializers' names.
    pub inputs: Vec<Value<'a>>,
    /// Outputs in their order.
    pub outputs: Vec<Value<'a>>,
    /// Nodes of the graph.
    pub nodes: usize,
    /// Nodes of graphs inside of nodes: branches, bodies of loops.
    pub nested_nodes: usize,
    /// How often each operator is used in graphs, the most frequent ones first.
    pub ops: Vec<OpCount<'a>>,
    /// The model's own functions.
    pub functions: Vec<Function<'a>>,
    /// Initializers by dtype, the largest share first.
    pub weights: Vec<Weights>,
    /// Initializers by the file that holds their data, the model's own first.
    pub stored: Vec<Stored<'a>>,
    /// The largest initializers.
    pub largest: Vec<Large<'a>>,
    /// Sparse initializers, which are not among the others.
    pub sparse_initializers: usize,
    /// Nodes by module, in their order; layers that are alike are one.
    pub modules: Vec<Module>,
    /// Whether there is more than inference in the model.
    pub training: bool,
}

/// The version of a domain's operators.
#[derive(Debug, Serialize)]
pub struct Opset<'a> {
    /// The domain; `ai.onnx` for the standard.
    pub domain: &'a str,
    /// The version.
    pub version: i64,
}

/// An input or output.
#[derive(Debug, Serialize)]
pub struct Value<'a> {
    /// Its name.
    pub name: &'a str,
    /// The type of its elements, or what it is if it is no tensor.
    pub dtype: String,
    /// Its dimensions; nothing if not even their number is known.
    pub shape: Option<Vec<Dim<'a>>>,
}

/// A dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Dim<'a> {
    /// A size.
    Size(i64),
    /// A name, equal in all places where it is.
    Name(&'a str),
    /// Neither.
    Unknown,
}

/// The use of an operator.
#[derive(Debug, Serialize)]
pub struct OpCount<'a> {
    /// Its domain; `ai.onnx` for the standard.
    pub domain: &'a str,
    /// Its name.
    pub op: &'a str,
    /// How many nodes use it.
    pub count: usize,
}

/// A function of the model's own.
#[derive(Debug, Serialize)]
pub struct Function<'a> {
    /// Its domain.
    pub domain: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Nodes of its body.
    pub nodes: usize,
}

/// The initializers of one dtype.
#[derive(Debug, Serialize)]
pub struct Weights {
    /// The type of their elements.
    pub dtype: String,
    /// How many there are.
    pub tensors: usize,
    /// Their elements.
    pub elements: u64,
    /// Bytes of their elements.
    pub bytes: u64,
}

/// The initializers in one file.
#[derive(Debug, Serialize)]
pub struct Stored<'a> {
    /// The file, from the model's directory; nothing for the model's own.
    pub file: Option<&'a str>,
    /// How many there are.
    pub tensors: usize,
    /// Bytes of their data; what several share counts once.
    pub bytes: u64,
    /// Bytes of the file; nothing for the model's own.
    pub file_bytes: Option<u64>,
}

/// An initializer.
#[derive(Debug, Serialize)]
pub struct Large<'a> {
    /// Its name.
    pub name: &'a str,
    /// The type of its elements.
    pub dtype: String,
    /// Its dimensions.
    pub shape: &'a [i64],
    /// Bytes of its elements.
    pub bytes: u64,
}

/// The nodes of a module, or of each of several that are alike.
#[derive(Debug, Serialize)]
pub struct Module {
    /// The path in the nodes' names, up to the first number: `/model/layers.0…29`. Empty for nodes without one.
    pub module: String,
    /// How many modules are alike.
    pub repeats: usize,
    /// Nodes of each.
    pub nodes: usize,
}

impl<'a> Summary<'a> {
    /// What `model` holds.
    pub fn of(model: &'a Model) -> Self {
        let (proto, graph) = (&model.proto, model.graph());
        let mut graphs = vec![graph];
        nested(graph, &mut graphs);
        let initializers: Vec<&TensorProto> = graphs.iter().flat_map(|graph| &graph.initializer).collect();
        let names: BTreeSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
        let inputs = graph.input.iter().filter(|input| !names.contains(input.name.as_str()));
        let all_nodes: usize = graphs.iter().map(|graph| graph.node.len()).sum();
        Self {
            ir_version: proto.ir_version,
            opsets: proto
                .opset_import
                .iter()
                .map(|opset| Opset { domain: domain(&opset.domain), version: opset.version })
                .collect(),
            producer: format!("{} {}", proto.producer_name, proto.producer_version).trim().to_owned(),
            metadata: proto.metadata_props.iter().map(|e| (e.key.as_str(), e.value.as_str())).collect(),
            inputs: inputs.map(Value::of).collect(),
            outputs: graph.output.iter().map(Value::of).collect(),
            nodes: graph.node.len(),
            nested_nodes: all_nodes - graph.node.len(),
            ops: ops(graphs.iter().flat_map(|graph| &graph.node)),
            functions: proto
                .functions
                .iter()
                .map(|f| Function { domain: domain(&f.domain), name: &f.name, nodes: f.node.len() })
                .collect(),
            weights: weights(&initializers),
            stored: stored(model, &initializers),
            largest: largest(&initializers),
            sparse_initializers: graphs.iter().map(|graph| graph.sparse_initializer.len()).sum(),
            modules: modules(&graph.node),
            training: !proto.training_info.is_empty(),
        }
    }
}

impl<'a> Value<'a> {
    pub(super) fn of(value: &'a ValueInfoProto) -> Self {
        let other = |dtype: &str| (dtype.to_owned(), None);
        let (dtype, shape) = match &value.r#type {
            Some(TypeProto { tensor_type: Some(tensor), .. }) => {
                (dtype(tensor.elem_type), tensor.shape.as_ref())
            }
            Some(TypeProto { sparse_tensor_type: Some(tensor), .. }) => {
                (format!("sparse {}", dtype(tensor.elem_type)), tensor.shape.as_ref())
            }
            Some(TypeProto { sequence_type: Some(()), .. }) => other("sequence"),
            Some(TypeProto { map_type: Some(()), .. }) => other("map"),
            Some(TypeProto { optional_type: Some(()), .. }) => other("optional"),
            _ => other("unknown"),
        };
        let dim = |dim: &'a super::proto::DimensionProto| match (dim.dim_value, &dim.dim_param) {
            (Some(size), _) => Dim::Size(size),
            (None, Some(name)) if !name.is_empty() => Dim::Name(name),
            (None, _) => Dim::Unknown,
        };
        Self { name: &value.name, dtype, shape: shape.map(|shape| shape.dim.iter().map(dim).collect()) }
    }

    /// Type and dimensions: `f32[batch_size, 8]`.
    pub fn signature(&self) -> String {
        let Some(shape) = &self.shape else { return self.dtype.clone() };
        let dims: Vec<String> = shape.iter().map(ToString::to_string).collect();
        format!("{}[{}]", self.dtype, dims.join(", "))
    }

    /// Names and signatures, those that differ in a number alone as one: `past_key_values.0…29.key`.
    pub fn folded(values: &[Self]) -> Vec<(String, String)> {
        let signatures: Vec<String> = values.iter().map(Self::signature).collect();
        let names = values.iter().zip(&signatures).map(|(value, signature)| (value.name, signature.as_str()));
        fold(names).into_iter().map(|folded| (folded.name, folded.what.to_owned())).collect()
    }
}

impl fmt::Display for Dim<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size) => write!(f, "{size}"),
            Self::Name(name) => f.write_str(name),
            Self::Unknown => f.write_str("?"),
        }
    }
}

/// The domain under its one name.
pub(super) fn domain(domain: &str) -> &str {
    if domain.is_empty() { STANDARD } else { domain }
}

/// Adds the graphs inside of the nodes of `graph`, and inside of their nodes.
fn nested<'a>(graph: &'a GraphProto, graphs: &mut Vec<&'a GraphProto>) {
    for attribute in graph.node.iter().flat_map(|node| &node.attribute) {
        for inner in attribute.g.iter().chain(&attribute.graphs) {
            graphs.push(inner);
            nested(inner, graphs);
        }
    }
}

/// How often each operator is used, the most frequent ones first.
pub(super) fn ops<'a>(nodes: impl Iterator<Item = &'a NodeProto>) -> Vec<OpCount<'a>> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for node in nodes {
        *counts.entry((domain(&node.domain), &node.op_type)).or_default() += 1;
    }
    let mut ops: Vec<OpCount<'_>> =
        counts.into_iter().map(|((domain, op), count)| OpCount { domain, op, count }).collect();
    ops.sort_by_key(|op| std::cmp::Reverse(op.count));
    ops
}

fn weights(initializers: &[&TensorProto]) -> Vec<Weights> {
    let mut groups: BTreeMap<i32, Weights> = BTreeMap::new();
    for tensor in initializers {
        let new = || Weights { dtype: dtype(tensor.data_type), tensors: 0, elements: 0, bytes: 0 };
        let group = groups.entry(tensor.data_type).or_insert_with(new);
        group.tensors += 1;
        group.elements = group.elements.saturating_add(tensor.elements().unwrap_or(0));
        group.bytes = group.bytes.saturating_add(tensor.size());
    }
    let mut groups: Vec<Weights> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.bytes));
    groups
}

fn stored<'a>(model: &'a Model, initializers: &[&'a TensorProto]) -> Vec<Stored<'a>> {
    let mut groups: BTreeMap<Option<&str>, Stored<'_>> = BTreeMap::new();
    let mut regions: BTreeSet<(&str, u64)> = BTreeSet::new();
    for tensor in initializers {
        let place = match tensor.data() {
            Ok(Data::External(place)) => Some(place),
            _ => None,
        };
        let file = place.map(|place| place.location);
        let file_bytes = file.and_then(|file| Some(model.files.get(file)?.size));
        let group = groups.entry(file).or_insert(Stored { file, tensors: 0, bytes: 0, file_bytes });
        group.tensors += 1;
        if place.is_none_or(|place| regions.insert((place.location, place.offset))) {
            group.bytes = group.bytes.saturating_add(tensor.size());
        }
    }
    groups.into_values().collect()
}

fn largest<'a>(initializers: &[&'a TensorProto]) -> Vec<Large<'a>> {
    let mut sorted = initializers.to_vec();
    sorted.sort_by_key(|tensor| std::cmp::Reverse(tensor.size()));
    sorted.truncate(LARGEST);
    let large = |tensor: &'a TensorProto| Large {
        name: &tensor.name,
        dtype: dtype(tensor.data_type),
        shape: &tensor.dims,
        bytes: tensor.size(),
    };
    sorted.into_iter().map(large).collect()
}

fn modules(nodes: &[NodeProto]) -> Vec<Module> {
    let mut position: HashMap<&str, usize> = HashMap::new();
    let mut modules: Vec<(&str, usize)> = Vec::new();
    for node in nodes {
        let module = module(&node.name);
        let index = *position.entry(module).or_insert_with(|| {
            modules.push((module, 0));
            modules.len() - 1
        });
        modules[index].1 += 1;
    }
    let module = |folded: super::fold::Folded<usize>| Module {
        module: folded.name,
        repeats: folded.repeats,
        nodes: folded.what,
    };
    fold(modules).into_iter().map(module).collect()
}

/// The module in a node's name: the path before the last part, up to the first part that has a number of its own, as
/// `layers.3` or `3`.
fn module(name: &str) -> &str {
    let path = name.rfind('/').map_or("", |end| &name[..end]);
    let mut end = 0;
    for part in path.split_inclusive('/') {
        end += part.len();
        let part = part.trim_end_matches('/');
        let last = part.rsplit('.').next().unwrap_or(part);
        if !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()) {
            return path[..end].trim_end_matches('/');
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_end_at_their_number() {
        let cases = [
            ("/model/layers.3/self_attn/q_proj/MatMul", "/model/layers.3"),
            ("model/layers/12/mlp/Mul_1", "model/layers/12"),
            ("/model/layers.3/Add", "/model/layers.3"),
            ("/model/rotary_emb/Cos", "/model/rotary_emb"),
            ("/model/norm_1/Mul", "/model/norm_1"),
            ("/lm_head/MatMul", "/lm_head"),
            ("/Gather_3", ""),
            ("node_linear_3", ""),
            ("", ""),
            ("//", "/"),
        ];
        for (name, expected) in cases {
            assert_eq!(module(name), expected, "{name}");
        }
    }
}
