//! Graphs as lines whose names come from modules, so that a change in one place leaves the lines of others as they are.
//!
//! Not a form to read back: numbers in the text of a graph shift with every operation, and names from modules may be
//! long.

use std::collections::HashMap;

use llamac_ir::{Graph, NodeId, ValueId};

/// The lines of a graph: `name(operands, weights) {attributes} : types`, then a line for each result.
pub(super) fn lines(graph: &Graph) -> Vec<String> {
    let names = Names::new(graph);
    let mut lines = Vec::new();
    for node in graph.order() {
        let Some(op) = graph.op(node) else { continue };
        let operands = graph.operands(node).iter().map(|&value| names.value(graph, value));
        let operands: Vec<String> = operands.chain(op.weights().iter().map(ToString::to_string)).collect();
        let attrs: Vec<String> = op.attrs().iter().map(|(key, value)| format!("{key}={value}")).collect();
        let attrs = if attrs.is_empty() { String::new() } else { format!(" {{{}}}", attrs.join(", ")) };
        let types: Vec<String> = graph.types(node).iter().map(ToString::to_string).collect();
        let name = names.node(node);
        lines.push(format!("{name}({}){attrs} : {}", operands.join(", "), types.join(", ")));
    }
    lines.extend(
        graph.results().map(|(name, value)| format!("return {name} = {}", names.value(graph, value))),
    );
    lines
}

/// Names of nodes: module and mnemonic, with a number where several share them.
struct Names(HashMap<NodeId, String>);

impl Names {
    fn new(graph: &Graph) -> Self {
        let mut taken: HashMap<String, usize> = HashMap::new();
        let ops = graph.order().into_iter().filter_map(|node| Some((node, graph.op(node)?)));
        let names = ops.map(|(node, op)| {
            let name = format!("{}:{}", graph.loc(node), op.mnemonic());
            let count = taken.entry(name.clone()).or_default();
            *count += 1;
            (node, if *count == 1 { name } else { format!("{name}#{count}") })
        });
        Self(names.collect())
    }

    fn node(&self, node: NodeId) -> &str {
        self.0.get(&node).map_or("?", String::as_str)
    }

    fn value(&self, graph: &Graph, value: ValueId) -> String {
        match graph.param_name(value.node) {
            Some(name) => name.to_owned(),
            None if graph.types(value.node).len() > 1 => {
                format!("{}.{}", self.node(value.node), value.result)
            }
            None => self.node(value.node).to_owned(),
        }
    }
}
