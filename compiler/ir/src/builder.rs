//! Making a graph, operation by operation.

use crate::graph::Kind;
use crate::text::is_plain_name;
use crate::{Bounds, Graph, Loc, Op, Symbol, TensorType, ValueId, VerifyErrors};

/// Why something cannot be added to a graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Operands, weights or attributes do not fit an operation.
    #[error("{mnemonic} at {loc}: {message}")]
    Operation {
        /// The operation.
        mnemonic: &'static str,
        /// Where it comes from.
        loc: Loc,
        /// What does not fit.
        message: String,
    },
    /// A parameter or a result has a name that text cannot hold.
    #[error("`{0}` is not a name: it must begin with a letter and hold letters, digits, `_`, `.` and `-`")]
    Name(String),
    /// Two parameters or two results have one name.
    #[error("the name `{0}` is used twice")]
    Duplicate(String),
    /// A value does not belong to this graph.
    #[error("a value that is not of this graph is used by {0}")]
    Foreign(String),
}

/// A graph under construction. Types are inferred and checked at every step.
#[derive(Debug)]
pub struct Builder {
    graph: Graph,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// An empty graph.
    pub fn new() -> Self {
        Self { graph: Graph::empty() }
    }

    /// Sets the values that `symbol` may take.
    pub fn bounds(&mut self, symbol: Symbol, bounds: Bounds) {
        self.graph.bounds[symbol as usize] = bounds;
    }

    /// Adds a parameter.
    pub fn param(&mut self, name: &str, ty: TensorType) -> Result<ValueId, BuildError> {
        check_name(name, self.graph.param(name).is_some())?;
        let node =
            self.graph.insert(Kind::Param(name.to_owned()), &[], [ty].into_iter().collect(), Loc::none());
        self.graph.params.push(ValueId::first(node));
        Ok(ValueId::first(node))
    }

    /// Adds an operation and returns its first result.
    pub fn push(&mut self, op: impl Into<Op>, args: &[ValueId], loc: &Loc) -> Result<ValueId, BuildError> {
        let op = op.into();
        let mnemonic = op.mnemonic();
        if !args.iter().all(|&value| self.graph.contains(value)) {
            return Err(BuildError::Foreign(mnemonic.to_owned()));
        }
        let types: Vec<&TensorType> = args.iter().map(|&value| self.graph.ty(value)).collect();
        let types = op.infer(&types).map_err(|message| BuildError::Operation {
            mnemonic,
            loc: loc.clone(),
            message,
        })?;
        Ok(ValueId::first(self.graph.insert(Kind::Op(op), args, types, loc.clone())))
    }

    /// Adds an operation and returns all its results.
    pub fn push_all(
        &mut self,
        op: impl Into<Op>,
        args: &[ValueId],
        loc: &Loc,
    ) -> Result<Vec<ValueId>, BuildError> {
        let first = self.push(op, args, loc)?;
        Ok(self.graph.values(first.node).collect())
    }

    /// The type of a value. Panics if the value is not of this graph.
    pub fn ty(&self, value: ValueId) -> &TensorType {
        self.graph.ty(value)
    }

    /// Makes `value` a result of the graph.
    pub fn result(&mut self, name: &str, value: ValueId) -> Result<(), BuildError> {
        check_name(name, self.graph.results().any(|(n, _)| n == name))?;
        if !self.graph.contains(value) {
            return Err(BuildError::Foreign(format!("the result {name}")));
        }
        self.graph.results.push((name.to_owned(), value));
        Ok(())
    }

    /// The verified graph.
    pub fn finish(self) -> Result<Graph, VerifyErrors> {
        self.graph.verify()?;
        Ok(self.graph)
    }
}

fn check_name(name: &str, taken: bool) -> Result<(), BuildError> {
    match (is_plain_name(name), taken) {
        (false, _) => Err(BuildError::Name(name.to_owned())),
        (true, true) => Err(BuildError::Duplicate(name.to_owned())),
        (true, false) => Ok(()),
    }
}
