//! The verifier: every rule that a graph keeps, and every fault beside its instruction.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use petgraph::Direction;
use petgraph::algo::toposort;
use petgraph::visit::EdgeRef;

use crate::graph::Kind;
use crate::text::{Names, is_plain_name};
use crate::{Graph, NodeId, Symbol, TensorType, ValueId, Weight};

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The instruction that breaks it, as text; none if the graph as a whole does.
    pub instruction: Option<String>,
    /// What is wrong.
    pub message: String,
}

/// All faults of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyErrors {
    /// The faults; at least one.
    pub faults: Vec<Fault>,
}

impl fmt::Display for VerifyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the graph is not valid:")?;
        for fault in &self.faults {
            match &fault.instruction {
                Some(instruction) => write!(f, "\n  {instruction}\n    error: {}", fault.message)?,
                None => write!(f, "\n  error: {}", fault.message)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for VerifyErrors {}

impl Graph {
    /// Checks every rule and reports every fault.
    pub fn verify(&self) -> Result<(), VerifyErrors> {
        let mut verifier = Verifier { graph: self, at: Vec::new() };
        verifier.nodes();
        verifier.edges();
        verifier.cycles();
        verifier.params();
        verifier.results();
        verifier.sources();
        verifier.symbols();
        if verifier.at.is_empty() {
            return Ok(());
        }
        let names = Names::new(self);
        let faults = verifier.at.into_iter().map(|(node, message)| Fault {
            instruction: node.map(|node| names.instruction(self, node, true)),
            message,
        });
        Err(VerifyErrors { faults: faults.collect() })
    }
}

struct Verifier<'a> {
    graph: &'a Graph,
    at: Vec<(Option<NodeId>, String)>,
}

impl<'a> Verifier<'a> {
    fn fault(&mut self, node: Option<NodeId>, message: impl Into<String>) {
        self.at.push((node, message.into()));
    }

    fn all_nodes(&self) -> impl Iterator<Item = NodeId> + use<'a> {
        self.graph.nodes.node_indices().map(NodeId)
    }

    /// Operands exist and have types that the operation accepts and that give its results' types.
    fn nodes(&mut self) {
        let g = self.graph;
        for id in self.all_nodes() {
            let node = &g.nodes[id.0];
            let Kind::Op(op) = &node.kind else { continue };
            let dangling = node.operands.iter().position(|&value| !g.contains(value));
            if let Some(operand) = dangling {
                self.fault(Some(id), format!("operand {operand} does not exist"));
                continue;
            }
            let types: Vec<&TensorType> = node.operands.iter().map(|&value| g.ty(value)).collect();
            match op.infer(&types) {
                Err(message) => self.fault(Some(id), message),
                Ok(types) if types != node.types => {
                    self.fault(Some(id), format!("results are {types:?}, not {:?}", node.types));
                }
                Ok(_) => {}
            }
        }
    }

    /// The use-list mirrors the operands.
    fn edges(&mut self) {
        let g = self.graph;
        for id in self.all_nodes() {
            let operands = g.operands(id);
            let mut mirrored = vec![0usize; operands.len()];
            for edge in g.nodes.edges_directed(id.0, Direction::Incoming) {
                let operand = edge.weight().operand;
                match operands.get(operand) {
                    Some(value) if value.node.0 == edge.source() => mirrored[operand] += 1,
                    _ => self.fault(
                        Some(id),
                        format!("the use-list has an operand {operand} that the instruction does not have"),
                    ),
                }
            }
            for operand in
                mirrored.iter().enumerate().filter(|(_, uses)| **uses != 1).map(|(operand, _)| operand)
            {
                self.fault(Some(id), format!("the use-list does not mirror operand {operand}"));
            }
        }
    }

    fn cycles(&mut self) {
        if let Err(cycle) = toposort(&self.graph.nodes, None) {
            self.fault(Some(NodeId(cycle.node_id())), "the instruction depends on its own result");
        }
    }

    fn params(&mut self) {
        let g = self.graph;
        let mut names = BTreeSet::new();
        for value in &g.params {
            match g.contains(*value).then(|| g.param_name(value.node)).flatten() {
                None => self.fault(None, "a parameter is not a parameter node"),
                Some(name) if !is_plain_name(name) => {
                    self.fault(None, format!("`{name}` is not a parameter name"))
                }
                Some(name) if !names.insert(name) => {
                    self.fault(None, format!("two parameters are called `{name}`"))
                }
                Some(_) => {}
            }
        }
        let listed: BTreeSet<NodeId> = g.params.iter().map(|value| value.node).collect();
        for id in self.all_nodes().filter(|id| g.param_name(*id).is_some() && !listed.contains(id)) {
            self.fault(Some(id), "this parameter is not in the list of parameters");
        }
    }

    fn results(&mut self) {
        let g = self.graph;
        if g.results.is_empty() {
            self.fault(None, "the graph has no result");
        }
        let mut names = BTreeSet::new();
        for (name, value) in &g.results {
            if !is_plain_name(name) {
                self.fault(None, format!("`{name}` is not a result name"));
            }
            if !names.insert(name) {
                self.fault(None, format!("two results are called `{name}`"));
            }
            if !g.contains(*value) {
                self.fault(None, format!("the value of result `{name}` does not exist"));
            }
        }
    }

    /// One tensor of the checkpoint has one type everywhere.
    fn sources(&mut self) {
        let g = self.graph;
        let mut seen: HashMap<&str, &Weight> = HashMap::new();
        for id in self.all_nodes() {
            for weight in g.op(id).into_iter().flat_map(|op| op.weights()) {
                weight.for_each_source(&mut |source, name| {
                    let first = *seen.entry(name).or_insert(source);
                    if first != source {
                        let (here, there) = (source.ty(), first.ty());
                        self.at.push((Some(id), format!("@{name} is {here} here and {there} elsewhere")));
                    }
                });
            }
        }
    }

    /// Symbols have possible values, and inputs give them. `keep` is the caller's choice.
    fn symbols(&mut self) {
        let g = self.graph;
        for symbol in Symbol::ALL {
            let bounds = g.bounds(symbol);
            if bounds.min < 0 || bounds.max.is_some_and(|max| max < bounds.min) {
                self.fault(None, format!("{} cannot be within {bounds}", symbol.name()));
            }
        }
        let dims = |value: ValueId| g.nodes.node_weight(value.node.0).into_iter().flat_map(|n| &n.types);
        let given: BTreeSet<Symbol> = (g.params.iter())
            .flat_map(|value| dims(*value))
            .flat_map(|ty| ty.shape.iter().filter_map(|dim| dim.as_symbol()))
            .chain([Symbol::Keep])
            .collect();
        let mut missing: Vec<Symbol> =
            Symbol::ALL.into_iter().filter(|symbol| !given.contains(symbol)).collect();
        for id in self.all_nodes() {
            if missing.is_empty() {
                return;
            }
            for symbol in g.types(id).iter().flat_map(|ty| &ty.shape).flat_map(|dim| dim.symbols()) {
                if let Some(at) = missing.iter().position(|&other| other == symbol) {
                    missing.remove(at);
                    self.fault(Some(id), format!("no parameter has a dimension that is {}", symbol.name()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::{Bounds, DType};

    fn graph() -> Graph {
        Graph::parse(
            "graph(%x: f32[batch, 8], %y: f32[batch, 8], @w: f32[8, 8]) {
              %0 = linear %x, @w : f32[batch, 8] loc(first)
              %1 = add %0, %y : f32[batch, 8]
              return out=%1, inner=%0
            }",
        )
        .unwrap()
    }

    /// The faults after `break_it`, which gets the two instructions.
    fn faults(break_it: impl FnOnce(&mut Graph, [NodeId; 2])) -> String {
        let mut graph = graph();
        let order = graph.order();
        break_it(&mut graph, [order[0], order[1]]);
        graph.verify().unwrap_err().to_string()
    }

    #[test]
    fn every_fault_is_reported_beside_its_instruction() {
        assert_snapshot!(faults(|g, [linear, add]| {
            g.nodes[linear.0].types[0] = TensorType::activation(8);
            g.nodes[add.0].operands.pop();
            g.results.push(("out".to_owned(), ValueId { node: add, result: 3 }));
            g.bounds[Symbol::Batch as usize] = Bounds { min: 4, max: Some(2) };
        }), @"
        the graph is not valid:
          %0 = linear %x, @w : f32[batch, seq, 8] loc(first)
            error: results are [f32[batch, 8]], not [f32[batch, seq, 8]]
          %1 = add %0 : f32[batch, 8]
            error: takes 2 operands, found 1
          %1 = add %0 : f32[batch, 8]
            error: the use-list has an operand 1 that the instruction does not have
          error: two results are called `out`
          error: the value of result `out` does not exist
          error: batch cannot be within 4..=2
          %0 = linear %x, @w : f32[batch, seq, 8] loc(first)
            error: no parameter has a dimension that is seq
        ");
    }

    #[test]
    fn the_use_list_mirrors_the_operands() {
        assert_snapshot!(faults(|g, [linear, add]| {
            let y = g.param("y").unwrap();
            g.nodes[add.0].operands[0] = y;
            let edge = g.nodes.find_edge(y.node.0, add.0).unwrap();
            g.nodes.add_edge(y.node.0, linear.0, crate::graph::Use { operand: 7 });
            g.nodes.remove_edge(edge);
        }), @"
        the graph is not valid:
          %1 = linear %x, @w : f32[batch, 8] loc(first)
            error: the use-list has an operand 7 that the instruction does not have
          %0 = add %y, %y : f32[batch, 8]
            error: the use-list has an operand 0 that the instruction does not have
          %0 = add %y, %y : f32[batch, 8]
            error: the use-list does not mirror operand 0
          %0 = add %y, %y : f32[batch, 8]
            error: the use-list does not mirror operand 1
        ");
    }

    #[test]
    fn cycles_and_missing_operands() {
        assert_snapshot!(faults(|g, [linear, add]| g.relink(linear, 0, ValueId::first(add))), @"
        the graph is not valid:
          %0 = linear %1, @w : f32[batch, 8] loc(first)
            error: the instruction depends on its own result
        ");
        assert_snapshot!(faults(|g, [linear, _]| {
            g.nodes.remove_node(linear.0);
        }), @"
        the graph is not valid:
          %0 = add %dead2.0, %y : f32[batch, 8]
            error: operand 0 does not exist
          %0 = add %dead2.0, %y : f32[batch, 8]
            error: the use-list does not mirror operand 0
          error: the value of result `inner` does not exist
        ");
    }

    #[test]
    fn names_and_parameters() {
        assert_snapshot!(faults(|g, _| {
            let again = g.params[0];
            g.params.push(again);
            g.params.remove(1);
            g.results.clear();
        }), @"
        the graph is not valid:
          error: two parameters are called `x`
          %y: f32[batch, 8]
            error: this parameter is not in the list of parameters
          error: the graph has no result
        ");
        assert_snapshot!(faults(|g, _| {
            g.nodes[g.params[0].node.0].kind = Kind::Param("7".to_owned());
            g.results[0].0 = "a b".to_owned();
        }), @"
        the graph is not valid:
          error: `7` is not a parameter name
          error: `a b` is not a result name
        ");
    }

    #[test]
    fn one_tensor_has_one_type_and_inputs_give_symbols() {
        assert_snapshot!(faults(|g, [_, add]| {
            let weight = Weight::source("w", DType::BF16, &[8, 8]).unwrap();
            let other = crate::ops::Linear { weight, bias: None }.into();
            let types = [g.types(add)[0].clone()].into_iter().collect();
            let node = g.insert(Kind::Op(other), &[ValueId::first(add)], types, crate::Loc::none());
            g.results[0].1 = ValueId::first(node);
            g.nodes[g.params[1].node.0].types[0].shape[0] = Symbol::Past.into();
            g.nodes[g.params[0].node.0].types[0].shape[0] = crate::Dim::from(Symbol::Seq) * 2i64.into();
        }), @"
        the graph is not valid:
          %0 = linear %x, @w : f32[batch, 8] loc(first)
            error: results are [f32[2*seq, 8]], not [f32[batch, 8]]
          %1 = add %0, %y : f32[batch, 8]
            error: f32[batch, 8] and f32[past, 8] do not broadcast
          %2 = linear %1, @w : f32[batch, 8]
            error: @w is bf16[8, 8] here and f32[8, 8] elsewhere
          %x: f32[2*seq, 8]
            error: no parameter has a dimension that is seq
          %0 = linear %x, @w : f32[batch, 8] loc(first)
            error: no parameter has a dimension that is batch
        ");
    }
}
