//! Changes to a graph as data: made by a rule, checked as a whole, then applied without fail.

use std::collections::{HashMap, HashSet};

use petgraph::stable_graph::NodeIndex;
use petgraph::visit::NodeIndexable;

use super::{Legality, NoMatch, OpSet, Signature};
use crate::graph::Kind;
use crate::{Graph, Loc, NodeId, Op, TensorType, Types, ValueId};

/// A value of the graph or of the patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PatchValue {
    /// A value that the graph has already.
    Old(ValueId),
    /// A result of an operation that the patch adds.
    New {
        /// The index of the operation among the added ones.
        index: usize,
        /// Which of its results.
        result: u32,
    },
}

impl PatchValue {
    /// Another result of the same node.
    #[must_use]
    pub fn result(self, result: u32) -> Self {
        match self {
            Self::Old(value) => Self::Old(ValueId { node: value.node, result }),
            Self::New { index, .. } => Self::New { index, result },
        }
    }
}

impl From<ValueId> for PatchValue {
    fn from(value: ValueId) -> Self {
        Self::Old(value)
    }
}

/// A patch that would leave a graph invalid. The graph is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatchError(String);

#[derive(Clone, Debug)]
struct NewNode {
    op: Op,
    args: Vec<PatchValue>,
    types: Types,
    loc: Loc,
}

/// New operations, uses that move to other values, and nodes that must vanish.
///
/// Replacing moves the uses that the graph has when the patch is applied; operations of the patch keep the operands
/// that they were given.
#[derive(Clone, Debug, Default)]
pub struct Patch {
    new: Vec<NewNode>,
    replaced: Vec<(ValueId, PatchValue)>,
    erased: Vec<NodeId>,
}

impl Patch {
    /// No change.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an operation, infers its types at once, and returns its first result. A misfit is a miss at `loc`.
    pub fn add(
        &mut self,
        graph: &Graph,
        loc: &Loc,
        op: impl Into<Op>,
        args: &[PatchValue],
    ) -> Result<PatchValue, NoMatch> {
        let op = op.into();
        let miss = |message: String| NoMatch::new(format!("{}: {message}", op.mnemonic()), loc);
        let types = args.iter().map(|&arg| self.ty(graph, arg)).collect::<Result<Vec<_>, _>>();
        let types = types.and_then(|types| op.infer(&types)).map_err(miss)?;
        self.new.push(NewNode { op, args: args.to_vec(), types, loc: loc.clone() });
        Ok(PatchValue::New { index: self.new.len() - 1, result: 0 })
    }

    /// Moves every use of `old` to `new`.
    #[must_use]
    pub fn replace(mut self, old: ValueId, new: impl Into<PatchValue>) -> Self {
        self.replaced.push((old, new.into()));
        self
    }

    /// Demands that nodes vanish: a use that stays is a fault of the patch.
    #[must_use]
    pub fn erase(mut self, nodes: impl IntoIterator<Item = NodeId>) -> Self {
        self.erased.extend(nodes);
        self
    }

    /// Fails with the reason unless every operation of the patch is legal.
    pub fn require_legal(&self, graph: &Graph, target: &dyn OpSet) -> Result<(), NoMatch> {
        for node in &self.new {
            let operands = node.args.iter().map(|&arg| self.ty(graph, arg)).collect::<Result<Vec<_>, _>>();
            let operands = operands.map_err(|message| NoMatch::new(message, &node.loc))?;
            let signature = Signature { operands: &operands, results: &node.types };
            if let Legality::Illegal(reason) = target.legality(&node.op, signature) {
                let reason = format!("{} is not legal for {}: {reason}", node.op.mnemonic(), target.name());
                return Err(NoMatch::new(reason, &node.loc));
            }
        }
        Ok(())
    }

    pub(super) fn ty<'a>(&'a self, graph: &'a Graph, value: PatchValue) -> Result<&'a TensorType, String> {
        match value {
            PatchValue::Old(value) if graph.contains(value) => Ok(graph.ty(value)),
            PatchValue::New { index, result } => {
                let types = self.new.get(index).map(|node| &node.types);
                types.and_then(|types| types.get(result as usize)).ok_or_else(|| "no such value".to_owned())
            }
            PatchValue::Old(_) => Err("a value that the graph does not have".to_owned()),
        }
    }

    /// Checks the patch against `graph`, applies it and removes what it leaves unused; on an error the graph is as it
    /// was. Returns the nodes that are gone.
    pub fn apply(self, graph: &mut Graph) -> Result<Vec<NodeId>, PatchError> {
        self.check(graph).map_err(PatchError)?;
        let mut added: Vec<NodeId> = Vec::with_capacity(self.new.len());
        let value = |added: &[NodeId], value: PatchValue| match value {
            PatchValue::Old(value) => value,
            PatchValue::New { index, result } => ValueId { node: added[index], result },
        };
        // Uses are collected first, so that those of the added operations do not move.
        let uses: Vec<_> = self.replaced.iter().map(|(old, _)| graph.uses(*old)).collect();
        for node in self.new {
            let args: Vec<ValueId> = node.args.iter().map(|&arg| value(&added, arg)).collect();
            added.push(graph.insert(Kind::Op(node.op), &args, node.types, node.loc));
        }
        for ((old, new), uses) in self.replaced.iter().zip(uses) {
            let new = value(&added, *new);
            for (user, operand) in uses {
                graph.relink(user, operand, new);
            }
            for (_, result) in graph.results.iter_mut().filter(|(_, result)| result == old) {
                *result = new;
            }
        }
        // Nodes that may have lost their last use, or never had one.
        let mut unused = added;
        unused.extend(self.replaced.iter().map(|(old, _)| old.node));
        let mut gone = self.erased;
        for node in &gone {
            let node = graph.nodes.remove_node(node.0);
            unused.extend(node.iter().flat_map(|node| &node.operands).map(|value| value.node));
        }
        gone.extend(graph.remove_unused(unused));
        Ok(gone)
    }

    fn check(&self, graph: &Graph) -> Result<(), String> {
        let replaced: HashMap<ValueId, PatchValue> = self.replaced.iter().copied().collect();
        if replaced.len() != self.replaced.len() {
            return Err("a value is replaced twice".to_owned());
        }
        let erased: HashSet<NodeId> = self.erased.iter().copied().collect();
        for node in &erased {
            if graph.op(*node).is_none() {
                return Err("what is erased is not an operation of the graph".to_owned());
            }
        }
        let from_erased = |value| matches!(value, PatchValue::Old(value) if erased.contains(&value.node));
        for (index, node) in self.new.iter().enumerate() {
            for &arg in &node.args {
                self.ty(graph, arg)?;
                let later = matches!(arg, PatchValue::New { index: used, .. } if used >= index);
                if later || from_erased(arg) {
                    return Err(format!("the new {} uses a later or erased value", node.op.mnemonic()));
                }
            }
        }
        for (&old, &new) in &replaced {
            let (old_ty, new_ty) = (self.ty(graph, PatchValue::Old(old))?, self.ty(graph, new)?);
            if old_ty != new_ty {
                return Err(format!("a value of type {old_ty} is replaced by one of type {new_ty}"));
            }
            if from_erased(new) || matches!(new, PatchValue::Old(new) if replaced.contains_key(&new)) {
                return Err("a value is replaced by one that is erased or replaced itself".to_owned());
            }
        }
        for value in erased.iter().flat_map(|&node| graph.values(node)) {
            let outside = graph.uses(value).iter().any(|(user, _)| !erased.contains(user));
            if (outside || graph.is_result(value)) && !replaced.contains_key(&value) {
                let at = graph.loc(value.node);
                return Err(format!("a value of the erased node at {at} is still used"));
            }
        }
        self.check_acyclic(graph, &replaced)
    }

    /// A cycle must pass through a use that moves: search backwards from the replacements. No value that all replaced
    /// ones depend on has such a use, so the search ends where it comes near them, and does not go through the graph.
    fn check_acyclic(&self, graph: &Graph, replaced: &HashMap<ValueId, PatchValue>) -> Result<(), String> {
        // Nodes of the graph by their indices, then those of the patch.
        let bound = graph.nodes.node_bound();
        let producer = |value: PatchValue| match value {
            PatchValue::Old(value) => value.node.0.index(),
            PatchValue::New { index, .. } => bound + index,
        };
        let operand = |at: usize, i: usize| -> Option<usize> {
            if at >= bound {
                return self.new[at - bound].args.get(i).map(|&arg| producer(arg));
            }
            let value = graph.operands(NodeId(NodeIndex::new(at))).get(i)?;
            Some(producer(replaced.get(value).copied().unwrap_or(PatchValue::Old(*value))))
        };
        let mut state = vec![State::New; bound + self.new.len()];
        for node in before_all(graph, replaced.keys().map(|old| old.node)) {
            state[node.0.index()] = State::Done;
        }
        for start in replaced.values().map(|&new| producer(new)) {
            if state[start] != State::New {
                continue;
            }
            state[start] = State::OnPath;
            let mut path = vec![(start, 0)];
            while let Some((at, next)) = path.last_mut() {
                let Some(before) = operand(*at, *next) else {
                    state[*at] = State::Done;
                    path.pop();
                    continue;
                };
                *next += 1;
                match state[before] {
                    State::OnPath => return Err("a value would depend on itself".to_owned()),
                    State::Done => {}
                    State::New => {
                        state[before] = State::OnPath;
                        path.push((before, 0));
                    }
                }
            }
        }
        Ok(())
    }
}

/// How many nodes before a replaced value are looked at: more than any pattern that is rewritten has.
const NEAR: usize = 32;

/// Nodes that each of `nodes` is or depends on, of those near them.
fn before_all(graph: &Graph, nodes: impl Iterator<Item = NodeId>) -> Vec<NodeId> {
    let near = |node| {
        let mut near = vec![node];
        let mut next = 0;
        while next < near.len() && near.len() < NEAR {
            for operand in graph.operands(near[next]) {
                if !near.contains(&operand.node) {
                    near.push(operand.node);
                }
            }
            next += 1;
        }
        near
    };
    let common = |mut common: Vec<NodeId>, near: Vec<NodeId>| {
        common.retain(|node| near.contains(node));
        common
    };
    nodes.map(near).reduce(common).unwrap_or_default()
}

/// How far the search for cycles is with a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    OnPath,
    Done,
}
