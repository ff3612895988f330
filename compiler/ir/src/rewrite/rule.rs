//! Rules, what they see, and how they say why they do not apply.

use std::fmt;
use std::ops::Deref;

use super::{Legality, OpSet, Patch, legality_of};
use crate::{Graph, Loc, NodeId, OpDef, TensorType, ValueId};

/// Why a rule did not apply where its root matched. It names a place and no id, for ids are used again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NoMatch {
    /// What the rule wanted and did not find.
    pub reason: String,
    /// Where it looked.
    pub at: Loc,
}

impl NoMatch {
    /// A miss at `at`.
    pub fn new(reason: impl Into<String>, at: &Loc) -> Self {
        Self { reason: reason.into(), at: at.clone() }
    }
}

impl fmt::Display for NoMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.reason)
    }
}

/// A node of a graph that holds an operation `T`; dereferences to it.
#[derive(Debug)]
pub struct OpRef<'g, T> {
    graph: &'g Graph,
    node: NodeId,
    op: &'g T,
}

impl<T> Clone for OpRef<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for OpRef<'_, T> {}

impl<T> Deref for OpRef<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.op
    }
}

impl<'g, T> OpRef<'g, T> {
    pub(crate) fn new(graph: &'g Graph, node: NodeId, op: &'g T) -> Self {
        Self { graph, node, op }
    }

    /// The graph.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// The node.
    pub fn id(&self) -> NodeId {
        self.node
    }

    /// The operation.
    pub fn op(&self) -> &'g T {
        self.op
    }

    /// Where the node comes from.
    pub fn loc(&self) -> &'g Loc {
        self.graph.loc(self.node)
    }

    /// All operands, in order.
    pub fn operands(&self) -> &'g [ValueId] {
        self.graph.operands(self.node)
    }

    /// One operand. Panics if the operation does not take so many.
    pub fn operand(&self, index: usize) -> ValueId {
        self.operands()[index]
    }

    /// The first result.
    pub fn value(&self) -> ValueId {
        ValueId::first(self.node)
    }

    /// One of several results.
    pub fn result(&self, result: u32) -> ValueId {
        ValueId { node: self.node, result }
    }

    /// The type of a value of the same graph.
    pub fn ty(&self, value: ValueId) -> &'g TensorType {
        self.graph.ty(value)
    }

    /// The operation `U` that computes an operand, or a miss that says what it is instead.
    pub fn operand_as<U: OpDef>(&self, index: usize) -> Result<OpRef<'g, U>, NoMatch> {
        self.graph.op_of(self.operand(index))
    }

    /// Fails unless exactly one operand of one node uses the first result, and no result of the graph is it.
    pub fn only_use(&self) -> Result<(), NoMatch> {
        let value = self.value();
        if self.graph.is_result(value) {
            return Err(self.miss("the value is a result of the graph too"));
        }
        match self.graph.uses(value).len() {
            1 => Ok(()),
            uses => Err(self.miss(format!("the value has {uses} uses, expected one"))),
        }
    }

    /// A miss at this node.
    pub fn miss(&self, reason: impl Into<String>) -> NoMatch {
        NoMatch::new(reason, self.loc())
    }
}

/// A rewrite anchored at one kind of operation.
pub trait Rule: Send + Sync {
    /// The name in reports and on the command line.
    const NAME: &'static str;
    /// The operation that it looks at first.
    type Root: OpDef;

    /// The patch for `root`, or why there is none.
    fn rewrite(&self, root: OpRef<'_, Self::Root>, target: &dyn OpSet) -> Result<Patch, NoMatch>;
}

/// A rule of any root. Every [`Rule`] is one.
pub trait DynRule: Send + Sync {
    /// The name in reports.
    fn name(&self) -> &'static str;

    /// Nothing if the root does not match; otherwise a patch, or why there is none.
    fn at(&self, node: NodeId, graph: &Graph, target: &dyn OpSet) -> Option<Result<Patch, NoMatch>>;
}

impl<R: Rule> DynRule for R {
    fn name(&self) -> &'static str {
        R::NAME
    }

    fn at(&self, node: NodeId, graph: &Graph, target: &dyn OpSet) -> Option<Result<Patch, NoMatch>> {
        Some(self.rewrite(graph.op_ref(node)?, target))
    }
}

/// A rule that does not look at legal operations.
struct WhereIllegal(Box<dyn DynRule>);

impl DynRule for WhereIllegal {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn at(&self, node: NodeId, graph: &Graph, target: &dyn OpSet) -> Option<Result<Patch, NoMatch>> {
        match legality_of(graph, node, target)? {
            Legality::Legal => None,
            Legality::Illegal(_) => self.0.at(node, graph, target),
        }
    }
}

/// Rules that are applied together, tried in order at each node.
#[derive(Default)]
pub struct RuleSet(Vec<Box<dyn DynRule>>);

impl RuleSet {
    /// No rules.
    pub fn new() -> Self {
        Self::default()
    }

    /// These rules and one more.
    #[must_use]
    pub fn with(mut self, rule: impl DynRule + 'static) -> Self {
        self.0.push(Box::new(rule));
        self
    }

    /// These rules, each looking only at operations that its target cannot take.
    #[must_use]
    pub fn where_illegal(self) -> Self {
        Self(self.0.into_iter().map(|rule| Box::new(WhereIllegal(rule)) as Box<dyn DynRule>).collect())
    }

    /// The rules, in order.
    pub fn rules(&self) -> impl Iterator<Item = &dyn DynRule> {
        self.0.iter().map(|rule| &**rule)
    }
}

impl fmt::Debug for RuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.rules().map(DynRule::name)).finish()
    }
}
