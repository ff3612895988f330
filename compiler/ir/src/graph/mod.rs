//! The graph: nodes with ordered operands, parameters, named results.
//!
//! Operands, types and results live on the nodes and are the truth. The edges of the private petgraph graph are the
//! derived use-list (its adjacency has no stable order and no place for results): `insert`, `relink` and
//! `unlink` touch both, and the verifier proves that they mirror each other.

mod cleanup;
mod order;

use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;
use smallvec::SmallVec;

use crate::rewrite::{NoMatch, OpRef};
use crate::{Bounds, Loc, Op, OpDef, Symbol, TensorType, Types};

/// A node of a graph. Ids of removed nodes are used again: hold none while a graph changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) NodeIndex);

/// A result of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId {
    /// The node.
    pub node: NodeId,
    /// Which of its results, from 0.
    pub result: u32,
}

impl ValueId {
    pub(crate) fn first(node: NodeId) -> Self {
        Self { node, result: 0 }
    }
}

/// An edge from a producer to a consumer: the consumer's operand that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) operand: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Param(String),
    Op(Op),
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) operands: SmallVec<[ValueId; 4]>,
    pub(crate) types: Types,
    pub(crate) loc: Loc,
}

/// A pure computation from parameters to named results.
///
/// Made by a [`crate::Builder`] or from text, changed by [`crate::rewrite`]. Printed with `Display`.
#[derive(Clone, Debug)]
pub struct Graph {
    pub(crate) nodes: StableDiGraph<Node, Use>,
    pub(crate) params: Vec<ValueId>,
    pub(crate) results: Vec<(String, ValueId)>,
    pub(crate) bounds: [Bounds; 4],
}

impl Graph {
    pub(crate) fn empty() -> Self {
        Self {
            nodes: StableDiGraph::new(),
            params: Vec::new(),
            results: Vec::new(),
            bounds: Symbol::ALL.map(Symbol::default_bounds),
        }
    }

    /// The parameters with their names, in order.
    pub fn params(&self) -> impl Iterator<Item = (&str, ValueId)> {
        self.params.iter().map(|&value| (self.param_name(value.node).unwrap_or_default(), value))
    }

    /// The parameter called `name`.
    pub fn param(&self, name: &str) -> Option<ValueId> {
        self.params().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// The results with their names, in order.
    pub fn results(&self) -> impl Iterator<Item = (&str, ValueId)> {
        self.results.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// The values that `symbol` may take.
    pub fn bounds(&self, symbol: Symbol) -> Bounds {
        self.bounds[symbol as usize]
    }

    /// The name of a parameter's node.
    pub fn param_name(&self, node: NodeId) -> Option<&str> {
        match &self.nodes.node_weight(node.0)?.kind {
            Kind::Param(name) => Some(name),
            Kind::Op(_) => None,
        }
    }

    /// The operation of a node, unless it is a parameter.
    pub fn op(&self, node: NodeId) -> Option<&Op> {
        match &self.nodes.node_weight(node.0)?.kind {
            Kind::Param(_) => None,
            Kind::Op(op) => Some(op),
        }
    }

    /// The operands of a node, in order. Panics if the node is not of this graph.
    pub fn operands(&self, node: NodeId) -> &[ValueId] {
        &self.nodes[node.0].operands
    }

    /// The types of a node's results. Panics if the node is not of this graph.
    pub fn types(&self, node: NodeId) -> &[TensorType] {
        &self.nodes[node.0].types
    }

    /// The type of a value. Panics if the value is not of this graph.
    pub fn ty(&self, value: ValueId) -> &TensorType {
        &self.nodes[value.node.0].types[value.result as usize]
    }

    /// Where a value comes from.
    pub fn loc_of(&self, value: ValueId) -> &Loc {
        self.loc(value.node)
    }

    /// Where a node comes from. Panics if the node is not of this graph.
    pub fn loc(&self, node: NodeId) -> &Loc {
        &self.nodes[node.0].loc
    }

    /// The values that a node results in.
    pub fn values(&self, node: NodeId) -> impl Iterator<Item = ValueId> + use<> {
        (0..self.types(node).len() as u32).map(move |result| ValueId { node, result })
    }

    /// The nodes that use a value, with the operand that it is; sorted. Results of the graph are not nodes: see
    /// [`Graph::is_result`].
    pub fn uses(&self, value: ValueId) -> SmallVec<[(NodeId, usize); 4]> {
        let mut uses: SmallVec<[(NodeId, usize); 4]> = self
            .nodes
            .edges_directed(value.node.0, Direction::Outgoing)
            .map(|edge| (NodeId(edge.target()), edge.weight().operand))
            .filter(|&(node, operand)| self.operands(node).get(operand) == Some(&value))
            .collect();
        uses.sort_unstable();
        uses
    }

    /// Whether the graph results in `value`.
    pub fn is_result(&self, value: ValueId) -> bool {
        self.results.iter().any(|(_, v)| *v == value)
    }

    /// The node of `value` as an operation `T`, or a miss that says what it is instead.
    pub fn op_of<T: OpDef>(&self, value: ValueId) -> Result<OpRef<'_, T>, NoMatch> {
        self.op_ref(value.node).ok_or_else(|| {
            let found = self.op(value.node).map_or("a parameter", Op::mnemonic);
            NoMatch::new(format!("expected {}, found {found}", T::MNEMONIC), self.loc(value.node))
        })
    }

    /// The node as an operation `T`, if it is one.
    pub fn op_ref<T: OpDef>(&self, node: NodeId) -> Option<OpRef<'_, T>> {
        Some(OpRef::new(self, node, T::of(self.op(node)?)?))
    }

    pub(crate) fn contains(&self, value: ValueId) -> bool {
        self.nodes.node_weight(value.node.0).is_some_and(|node| (value.result as usize) < node.types.len())
    }

    /// Adds a node whose operands exist.
    pub(crate) fn insert(&mut self, kind: Kind, operands: &[ValueId], types: Types, loc: Loc) -> NodeId {
        let node = NodeId(self.nodes.add_node(Node { kind, operands: operands.into(), types, loc }));
        for (operand, value) in operands.iter().enumerate() {
            self.nodes.add_edge(value.node.0, node.0, Use { operand });
        }
        node
    }

    /// Makes `value` the operand of `node`, in place of the one that is there.
    pub(crate) fn relink(&mut self, node: NodeId, operand: usize, value: ValueId) {
        self.unlink(node, operand);
        self.nodes[node.0].operands[operand] = value;
        self.nodes.add_edge(value.node.0, node.0, Use { operand });
    }

    fn unlink(&mut self, node: NodeId, operand: usize) {
        let producer = self.operands(node)[operand].node;
        let edge = self.nodes.edges_connecting(producer.0, node.0).find(|e| e.weight().operand == operand);
        if let Some(edge) = edge.map(|e| e.id()) {
            self.nodes.remove_edge(edge);
        }
    }
}
