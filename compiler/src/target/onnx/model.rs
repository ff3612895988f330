//! An ONNX model as plain data: what the emitter makes and [`super::proto`] writes.
//!
//! Only what an export uses is here: a flat graph of nodes, tensors in it or beside it, no functions, no subgraphs.

use llamac_ir::DType;

/// A model: one graph, and what it is written in.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The version of the format.
    pub ir_version: i64,
    /// The sets of operators that nodes come from, each a domain (the standard's is empty) and a version.
    pub opsets: Vec<(&'static str, i64)>,
    /// Who made it, and its version.
    pub producer: (&'static str, &'static str),
    /// What else there is to know, as keys and values.
    pub metadata: Vec<(&'static str, String)>,
    /// The graph.
    pub graph: Graph,
}

/// A computation from inputs to outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// Its name.
    pub name: String,
    /// What it takes.
    pub inputs: Vec<ValueInfo>,
    /// What it gives.
    pub outputs: Vec<ValueInfo>,
    /// Each after those that it uses.
    pub nodes: Vec<Node>,
    /// The constants.
    pub initializers: Vec<Initializer>,
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// A path, as in `/model/layers.0/mlp/down_proj/MatMul`.
    pub name: String,
    /// The operator.
    pub op: &'static str,
    /// The set that the operator is from; empty for the standard's.
    pub domain: &'static str,
    /// Names of values; empty where an operand is left out.
    pub inputs: Vec<String>,
    /// Names of values; empty where a result is not wanted.
    pub outputs: Vec<String>,
    /// Attributes by name.
    pub attributes: Vec<(&'static str, Attribute)>,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// An integer.
    Int(i64),
    /// A list of integers.
    Ints(Vec<i64>),
    /// A number in single precision.
    Float(f32),
    /// The type of elements.
    Type(DType),
}

/// The name and the type of an input or an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueInfo {
    /// The name.
    pub name: String,
    /// The type of the elements.
    pub dtype: DType,
    /// The sizes, outermost first.
    pub shape: Vec<Size>,
}

/// A size of a dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Size {
    /// One that never changes.
    Fixed(i64),
    /// One that a run decides; the same wherever it has the same name.
    Named(String),
}

/// A constant tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initializer {
    /// The name of its value.
    pub name: String,
    /// The type of the elements.
    pub element: ElementType,
    /// The sizes, outermost first.
    pub shape: Vec<usize>,
    /// Where its elements are: little-endian, row after row.
    pub data: Data,
}

/// What a constant consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// Elements of whole bytes.
    Of(DType),
    /// Numbers from 0 to 15, two in a byte.
    U4,
}

/// The elements of a constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// In the model itself.
    Inline(Vec<u8>),
    /// In a file beside it.
    External(Region),
}

/// Part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// The file's name in the folder of the model.
    pub file: String,
    /// Where it starts, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
}

impl Graph {
    /// Whether it takes keys and values of earlier positions.
    pub fn has_cache(&self) -> bool {
        self.inputs.iter().any(|input| input.name.starts_with("past_key_values."))
    }

    /// Whether constants are in files of their own.
    pub fn has_external_data(&self) -> bool {
        self.initializers.iter().any(|initializer| matches!(initializer.data, Data::External(_)))
    }
}
