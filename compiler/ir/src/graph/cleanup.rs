//! Clean-ups that need no knowledge of operations: dead nodes and common subexpressions.

use std::collections::HashMap;

use petgraph::visit::NodeIndexable;

use super::{Graph, NodeId, ValueId};
use crate::{Loc, Op};

impl Graph {
    /// Removes operations that no result needs, and returns them. Parameters stay.
    pub fn remove_dead(&mut self) -> Vec<NodeId> {
        let mut live = vec![false; self.nodes.node_bound()];
        for node in self.order() {
            live[node.0.index()] = true;
        }
        let all = self.nodes.node_indices().map(NodeId);
        let dead: Vec<NodeId> = all.filter(|n| self.op(*n).is_some() && !live[n.0.index()]).collect();
        for node in &dead {
            self.nodes.remove_node(node.0);
        }
        dead
    }

    /// Removes those of `nodes` that are operations without a use, and whatever that leaves without one, and returns them.
    pub(crate) fn remove_unused(&mut self, mut nodes: Vec<NodeId>) -> Vec<NodeId> {
        let mut removed = Vec::new();
        while let Some(node) = nodes.pop() {
            let used =
                self.nodes.edges(node.0).next().is_some() || self.results.iter().any(|(_, v)| v.node == node);
            if used || self.op(node).is_none() {
                continue;
            }
            nodes.extend(self.operands(node).iter().map(|value| value.node));
            self.nodes.remove_node(node.0);
            removed.push(node);
        }
        removed
    }

    /// Computes equal operations on equal operands once, and returns how many became superfluous. The one that stays
    /// has the locations of all.
    pub fn merge_common(&mut self) -> usize {
        let mut seen: HashMap<(Op, Vec<ValueId>), NodeId> = HashMap::new();
        let mut merged = 0;
        for node in self.order() {
            let Some(op) = self.op(node) else { continue };
            let key = (op.clone(), self.operands(node).to_vec());
            let Some(&first) = seen.get(&key) else {
                seen.insert(key, node);
                continue;
            };
            self.nodes[first.0].loc = Loc::merge([self.loc(first), self.loc(node)]);
            for value in self.values(node).collect::<Vec<_>>() {
                self.redirect(value, ValueId { node: first, result: value.result });
            }
            merged += 1;
        }
        self.remove_dead();
        merged
    }

    /// Makes every use of `old`, results of the graph included, a use of `new`.
    pub(crate) fn redirect(&mut self, old: ValueId, new: ValueId) {
        for (user, operand) in self.uses(old) {
            self.relink(user, operand, new);
        }
        for (_, value) in &mut self.results {
            if *value == old {
                *value = new;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Graph;

    #[test]
    fn equal_operations_meet_and_cascade() {
        let text = "graph(%x: f32[batch, seq, 8], @w: bf16[8, 8]) {
            %a = linear %x, @w : f32[batch, seq, 8] loc(first)
            %b = linear %x, @w : f32[batch, seq, 8] loc(second)
            %c = act %a {function=silu} : f32[batch, seq, 8]
            %d = act %b {function=silu} : f32[batch, seq, 8]
            %e = add %c, %d : f32[batch, seq, 8]
            return out=%e, other=%b
        }";
        let mut graph = Graph::parse(text).unwrap();
        assert_eq!(graph.merge_common(), 2);
        graph.verify().unwrap();
        insta::assert_snapshot!(graph.text_with_locs(), @"
        graph<batch: 1.., seq: 1..>(
          %x: f32[batch, seq, 8],
          @w: bf16[8, 8],
        ) {
          %0 = linear %x, @w : f32[batch, seq, 8] loc(first, second)
          %1 = act %0 {function=silu} : f32[batch, seq, 8]
          %2 = add %1, %1 : f32[batch, seq, 8]
          return out=%2, other=%0
        }
        ");
    }
}
