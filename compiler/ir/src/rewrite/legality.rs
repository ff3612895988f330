//! What a target can take, as rules and conversions see it.

use super::{DynRule, NoMatch, Patch};
use crate::{Graph, Loc, NodeId, Op, TensorType};

/// Whether an operation can be taken as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Legality {
    /// It can.
    Legal,
    /// It cannot, for this reason.
    Illegal(String),
}

/// The types around an operation.
#[derive(Clone, Copy, Debug)]
pub struct Signature<'a> {
    /// Of the operands, in order.
    pub operands: &'a [&'a TensorType],
    /// Of the results.
    pub results: &'a [TensorType],
}

/// A set of legal operations.
pub trait OpSet {
    /// The name in messages.
    fn name(&self) -> &str;

    /// Whether `op` is legal with these types.
    fn legality(&self, op: &Op, signature: Signature<'_>) -> Legality;
}

/// The set of all operations: for rewrites that serve no particular target.
#[derive(Clone, Copy, Debug)]
pub struct AnyOp;

impl OpSet for AnyOp {
    fn name(&self) -> &str {
        "any"
    }

    fn legality(&self, _: &Op, _: Signature<'_>) -> Legality {
        Legality::Legal
    }
}

/// An operation that a set does not contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IllegalOp {
    /// Its mnemonic.
    pub mnemonic: &'static str,
    /// Where it comes from.
    pub at: Loc,
    /// Why it is not legal.
    pub reason: String,
}

/// Whether the operation of a node is in `set`; nothing for a parameter.
pub fn legality_of(graph: &Graph, node: NodeId, set: &dyn OpSet) -> Option<Legality> {
    let op = graph.op(node)?;
    let operands: Vec<&TensorType> = graph.operands(node).iter().map(|&value| graph.ty(value)).collect();
    Some(set.legality(op, Signature { operands: &operands, results: graph.types(node) }))
}

/// Every operation of the graph that is not in `set`, in the order of [`Graph::order`].
pub fn illegal_ops(graph: &Graph, set: &dyn OpSet) -> Vec<IllegalOp> {
    let illegal = |node| match (graph.op(node)?, legality_of(graph, node, set)?) {
        (op, Legality::Illegal(reason)) => {
            Some(IllegalOp { mnemonic: op.mnemonic(), at: graph.loc(node).clone(), reason })
        }
        (_, Legality::Legal) => None,
    };
    graph.order().into_iter().filter_map(illegal).collect()
}

/// Replaces an operation that is not legal by its decomposition, where it has one.
#[derive(Clone, Copy, Debug)]
pub struct Decompose;

impl DynRule for Decompose {
    fn name(&self) -> &'static str {
        "Decompose"
    }

    fn at(&self, node: NodeId, graph: &Graph, target: &dyn OpSet) -> Option<Result<Patch, NoMatch>> {
        match legality_of(graph, node, target)? {
            Legality::Legal => None,
            Legality::Illegal(_) => Op::decompose(graph, node),
        }
    }
}
