//! Printing graphs.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write};

use super::write_name;
use crate::attrs::write_attrs;
use crate::graph::Kind;
use crate::{Graph, Loc, NodeId, Symbol, TensorType, ValueId, Weight};

/// The names of values in text: parameters have their own, results of instructions a number.
pub(crate) struct Names {
    numbers: HashMap<ValueId, usize>,
}

impl Names {
    pub(crate) fn new(graph: &Graph) -> Self {
        let values = graph.order().into_iter().flat_map(|node| graph.values(node));
        Self { numbers: values.enumerate().map(|(number, value)| (value, number)).collect() }
    }

    fn value(&self, graph: &Graph, value: ValueId) -> String {
        match (graph.param_name(value.node), self.numbers.get(&value)) {
            (Some(name), _) => format!("%{name}"),
            (None, Some(number)) => format!("%{number}"),
            // Only messages of the verifier show values that no result needs.
            (None, None) => format!("%dead{}.{}", value.node.0.index(), value.result),
        }
    }

    /// One instruction as a line of text.
    pub(crate) fn instruction(&self, graph: &Graph, id: NodeId, locs: bool) -> String {
        let mut line = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_instruction(&mut line, graph, id, locs);
        line
    }

    fn write_instruction(&self, f: &mut dyn Write, graph: &Graph, id: NodeId, locs: bool) -> fmt::Result {
        let node = &graph.nodes[id.0];
        let types: Vec<String> = node.types.iter().map(TensorType::to_string).collect();
        let op = match &node.kind {
            Kind::Param(name) => return write!(f, "%{name}: {}", types.join(", ")),
            Kind::Op(op) => op,
        };
        let names: Vec<String> = graph.values(id).map(|value| self.value(graph, value)).collect();
        let operands = node.operands.iter().map(|&value| self.value(graph, value));
        let operands: Vec<String> = operands.chain(op.weights().iter().map(ToString::to_string)).collect();
        write!(f, "{} = {} {}", names.join(", "), op.mnemonic(), operands.join(", "))?;
        let attrs = op.attrs();
        if !attrs.is_empty() {
            f.write_str(" {")?;
            write_attrs(f, &attrs)?;
            f.write_str("}")?;
        }
        write!(f, " : {}", types.join(", "))?;
        if locs { write_loc(f, &node.loc) } else { Ok(()) }
    }
}

fn write_loc(f: &mut dyn Write, loc: &Loc) -> fmt::Result {
    if loc.is_none() {
        return Ok(());
    }
    f.write_str(" loc(")?;
    for (i, module) in loc.modules().enumerate() {
        f.write_str(if i == 0 { "" } else { ", " })?;
        write_name(f, module)?;
    }
    f.write_str(")")
}

impl Graph {
    fn write(&self, f: &mut dyn Write, locs: bool) -> fmt::Result {
        let order = self.order();
        let names = Names::new(self);
        f.write_str("graph")?;
        let symbols: Vec<String> = Symbol::ALL
            .into_iter()
            .filter(|&symbol| self.mentions(&order, symbol))
            .map(|symbol| format!("{}: {}", symbol.name(), self.bounds(symbol)))
            .collect();
        if !symbols.is_empty() {
            write!(f, "<{}>", symbols.join(", "))?;
        }
        f.write_str("(\n")?;
        for (name, value) in self.params() {
            writeln!(f, "  %{name}: {},", self.ty(value))?;
        }
        for weight in self.sources() {
            writeln!(f, "  {weight}: {},", weight.ty())?;
        }
        f.write_str(") {\n")?;
        for node in order {
            f.write_str("  ")?;
            names.write_instruction(f, self, node, locs)?;
            f.write_str("\n")?;
        }
        f.write_str("  return ")?;
        for (i, (name, value)) in self.results().enumerate() {
            write!(f, "{}{name}={}", if i == 0 { "" } else { ", " }, names.value(self, value))?;
        }
        f.write_str("\n}\n")
    }

    fn mentions(&self, order: &[NodeId], symbol: Symbol) -> bool {
        let nodes = self.params.iter().map(|value| value.node).chain(order.iter().copied());
        let mut dims = nodes.flat_map(|node| self.types(node)).flat_map(|ty| &ty.shape);
        dims.any(|dim| dim.symbols().any(|s| s == symbol))
    }

    /// The checkpoint tensors that the results need, each once, in order of appearance.
    pub fn sources(&self) -> Vec<Weight> {
        let mut seen: BTreeMap<String, ()> = BTreeMap::new();
        let mut sources = Vec::new();
        for node in self.order() {
            for weight in self.op(node).into_iter().flat_map(|op| op.weights()) {
                weight.for_each_source(&mut |source, name| {
                    if seen.insert(name.to_owned(), ()).is_none() {
                        sources.push(source.clone());
                    }
                });
            }
        }
        sources
    }

    /// The text with the locations of instructions.
    pub fn text_with_locs(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text, true);
        text
    }

    /// One instruction as a line of text, numbered as in the whole text.
    pub fn instruction_text(&self, node: NodeId) -> String {
        Names::new(self).instruction(self, node, false)
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, false)
    }
}

/// Graphs are equal when they compute the same in the same way: same parameters, bounds, instructions, locations
/// and results. What no result needs does not count.
impl PartialEq for Graph {
    fn eq(&self, other: &Self) -> bool {
        self.text_with_locs() == other.text_with_locs()
    }
}
