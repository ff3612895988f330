//! The order in which nodes are printed, evaluated and visited by rules.

use petgraph::visit::NodeIndexable;

use super::{Graph, NodeId};

impl Graph {
    /// The operations that the results need, in post-order from the results: operands come before their uses, and
    /// the order depends on the structure alone.
    pub fn order(&self) -> Vec<NodeId> {
        let mut order = Vec::new();
        let mut visited = vec![false; self.nodes.node_bound()];
        let mut is_new = |node: NodeId| {
            let index = node.0.index();
            if index >= visited.len() {
                // A node that does not exist: the verifier looks at such graphs.
                return false;
            }
            !std::mem::replace(&mut visited[index], true)
        };
        // A node and how many of its operands have been visited; explicit, for graphs are deep.
        let mut stack: Vec<(NodeId, usize)> = Vec::new();
        for (_, result) in &self.results {
            if is_new(result.node) {
                stack.push((result.node, 0));
            }
            while let Some((node, next)) = stack.last_mut() {
                let operand = self.nodes.node_weight(node.0).and_then(|n| n.operands.get(*next));
                match operand {
                    Some(value) => {
                        *next += 1;
                        if is_new(value.node) {
                            stack.push((value.node, 0));
                        }
                    }
                    None => {
                        if self.op(*node).is_some() {
                            order.push(*node);
                        }
                        stack.pop();
                    }
                }
            }
        }
        order
    }

    /// The number of operations that the results need.
    pub fn op_count(&self) -> usize {
        self.order().len()
    }
}
