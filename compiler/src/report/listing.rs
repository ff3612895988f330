//! Graphs as lines whose names come from modules, so that a change in one place leaves the lines of others as they are.
//!
//! Not a form to read back: numbers in the text of a graph shift with every operation, and names from modules may be
//! long.

use std::collections::HashMap;

use llamac_ir::ops::Constant;
use llamac_ir::{Graph, Loc, NodeId, ValueId};

use super::recipe::recipe;

/// The lines of a graph: `name(operands, weights) {attributes} : types`, then a line for each result. A constant is an
/// operand like a weight, without a line of its own.
pub(super) fn lines(graph: &Graph) -> Vec<String> {
    let names = Names::new(graph);
    let mut lines = Vec::new();
    for node in graph.order() {
        let Some(op) = graph.op(node).filter(|_| graph.op_ref::<Constant>(node).is_none()) else { continue };
        let operands = graph.operands(node).iter().map(|&value| names.value(graph, value));
        let operands: Vec<String> = operands.chain(op.weights().into_iter().map(recipe)).collect();
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
            let name = format!("{}:{}", module(graph.loc(node)), op.mnemonic());
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
        if let Some(constant) = graph.op_ref::<Constant>(value.node) {
            return recipe(&constant.weight);
        }
        match graph.param_name(value.node) {
            Some(name) => name.to_owned(),
            None if graph.types(value.node).len() > 1 => {
                format!("{}.{}", self.node(value.node), value.result)
            }
            None => self.node(value.node).to_owned(),
        }
    }
}

/// The module that a node is called by: what has one parent is written together; otherwise the last of two, which is
/// where the result is, or what all have in common.
fn module(loc: &Loc) -> String {
    let modules: Vec<&str> = loc.modules().collect();
    let parents: Vec<&str> =
        modules.iter().map(|name| name.rsplit_once('.').map_or("", |(parent, _)| parent)).collect();
    match modules[..] {
        [_, last] if parents[0] != parents[1] => last.to_owned(),
        [first, ..] if parents.iter().any(|parent| *parent != parents[0]) => {
            let parts: Vec<&str> = first.split('.').collect();
            let shared = |count: &usize| {
                let start = parts[..*count].join(".") + ".";
                modules.iter().all(|name| name.starts_with(&start))
            };
            let count = (1..parts.len()).rev().find(shared).unwrap_or(0);
            parts[..count].join(".")
        }
        _ => loc.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_called_by_one_module() {
        let name = |modules: &[&str]| {
            module(&Loc::merge(modules.iter().map(|name| Loc::new(name)).collect::<Vec<_>>().iter()))
        };
        assert_eq!(name(&["m.layers.0.attn.q_proj", "m.layers.0.attn.k_proj"]), "m.layers.0.attn.{q,k}_proj");
        assert_eq!(name(&["m.layers.0", "m.layers.1.norm"]), "m.layers.1.norm");
        assert_eq!(name(&["m.layers.0.norm", "m.layers.1.norm", "m.norm"]), "m");
        assert_eq!(name(&["m.layers.0.norm", "m.layers.1.norm", "m.layers.10"]), "m.layers");
        assert_eq!(name(&["norm"]), "norm");
        assert_eq!(name(&["a.norm", "b.norm", "c"]), "");
        assert_eq!(name(&[]), "?");
    }
}
