//! Conversion to a target: in full, or not at all.
//!
//! The target's own rules come first, then the decompositions of operations, until neither changes anything. A graph
//! that is legal by then becomes a [`Legalized`]; otherwise every operation that stays illegal is reported.

use llamac_ir::rewrite::{self, Decompose, DynRule, Firing, Legality, RuleSet, legality_of};
use llamac_ir::{Graph, NodeId};
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use super::Target;

/// A graph in which a target can take every operation.
#[derive(Clone, Debug)]
pub struct Legalized {
    graph: Graph,
    target: String,
}

impl Legalized {
    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The name of the target that it is legal for.
    pub fn target(&self) -> &str {
        &self.target
    }
}

/// Converts `graph` to what `target` can take, and tells what was done.
///
/// # Errors
/// `IllegalOp` for every operation that stays illegal, with the reason and the nearest rule that did not apply;
/// `InvalidGraph` when a rule breaks the graph.
pub fn legalize(mut graph: Graph, target: &dyn Target) -> Result<(Legalized, rewrite::Report), Diagnostics> {
    let rules = target.legalizations().where_illegal().with(Decompose);
    let mut report = rewrite::apply(&mut graph, &rules, target)
        .map_err(|error| Diagnostic::new(Code::InvalidGraph).message(error.to_string()))?;
    report.firings.push(Firing { rule: "CommonSubexpressions", count: graph.merge_common() });
    let mut faults = Diagnostics::new();
    for node in graph.order() {
        if let Some(Legality::Illegal(reason)) = legality_of(&graph, node, target) {
            faults.push(fault(&graph, node, reason, &rules, target));
        }
    }
    let name = target.name().to_owned();
    faults.or((Legalized { graph, target: name }, report))
}

fn fault(graph: &Graph, node: NodeId, reason: String, rules: &RuleSet, target: &dyn Target) -> Diagnostic {
    let op = graph.op(node).map_or("a parameter", |op| op.mnemonic());
    let missed = |rule: &dyn DynRule| {
        let no_match = rule.at(node, graph, target)?.err()?;
        Some(format!("{} did not apply: {}", rule.name(), no_match.reason))
    };
    let fault = Diagnostic::new(Code::IllegalOp)
        .at(format!("{op} at {}", graph.loc(node)))
        .message(format!("{} cannot take it: {reason}", target.name()));
    match rules.rules().find_map(missed) {
        Some(nearest) => fault.help(nearest),
        None => fault.help(format!("no rule of {} turns {op} into something else", target.name())),
    }
}
