//! The reference evaluator: naive, in `f32`, the judge of every rewrite and every target.

use std::collections::{BTreeMap, HashMap};

use crate::{
    Bindings, DType, EvalContext, Graph, Loc, NodeId, Symbol, Tensor, TensorType, ValueId, WeightSource,
};

/// Why a graph cannot be evaluated on some inputs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// A parameter has no value.
    #[error("the input `{0}` is missing")]
    Missing(String),
    /// An input is no parameter.
    #[error("the graph has no input `{0}`")]
    Unknown(String),
    /// An input does not have its parameter's type.
    #[error("the input `{name}`: {message}")]
    Input {
        /// The parameter.
        name: String,
        /// What does not fit.
        message: String,
    },
    /// A symbol has no value, or one that the graph does not allow.
    #[error("the symbol {symbol}: {message}")]
    Symbol {
        /// Its name.
        symbol: &'static str,
        /// What is wrong.
        message: String,
    },
    /// An operation cannot be computed on these values.
    #[error("{mnemonic} at {at}: {message}")]
    Operation {
        /// The operation.
        mnemonic: &'static str,
        /// Where it comes from.
        at: Loc,
        /// What is wrong.
        message: String,
    },
}

/// The results of `graph` by name, in the graph's order.
///
/// Symbols get their values from the shapes of inputs and from `bindings`, which must agree; [`Symbol::Keep`] can
/// only come from `bindings`. Inner values are dropped after their last use.
pub fn evaluate(
    graph: &Graph,
    inputs: &BTreeMap<String, Tensor>,
    bindings: &Bindings,
    weights: &dyn WeightSource,
) -> Result<Vec<(String, Tensor)>, EvalError> {
    let bindings = bind(graph, inputs, *bindings)?;
    let context = EvalContext { weights, bindings: &bindings };
    let mut values: HashMap<ValueId, Tensor> = HashMap::new();
    for (name, value) in graph.params() {
        let tensor = inputs.get(name).ok_or_else(|| EvalError::Missing(name.to_owned()))?;
        values.insert(value, tensor.clone().standardized());
    }
    let order = graph.order();
    let mut uses_left = uses(graph, &order);
    for node in order {
        let Some(op) = graph.op(node) else { continue };
        let fail =
            |message| EvalError::Operation { mnemonic: op.mnemonic(), at: graph.loc(node).clone(), message };
        let args: Option<Vec<&Tensor>> = graph.operands(node).iter().map(|value| values.get(value)).collect();
        let args = args.ok_or_else(|| fail("an operand has no value".to_owned()))?;
        let results = op.eval(&args, &context).map_err(fail)?;
        for ((value, ty), tensor) in graph.values(node).zip(graph.types(node)).zip(results) {
            check(&tensor, ty, &bindings).map_err(fail)?;
            values.insert(value, tensor);
        }
        for value in graph.operands(node) {
            if let Some(left) = uses_left.get_mut(value) {
                *left -= 1;
                if *left == 0 {
                    values.remove(value);
                }
            }
        }
    }
    let results = graph.results().map(|(name, value)| {
        let tensor = values.get(&value).ok_or_else(|| EvalError::Missing(name.to_owned()))?;
        Ok((name.to_owned(), tensor.clone()))
    });
    results.collect()
}

/// How many operands of `order` and results each value is.
fn uses(graph: &Graph, order: &[NodeId]) -> HashMap<ValueId, usize> {
    let mut uses: HashMap<ValueId, usize> = HashMap::new();
    let operands = order.iter().flat_map(|&node| graph.operands(node)).copied();
    for value in operands.chain(graph.results().map(|(_, value)| value)) {
        *uses.entry(value).or_default() += 1;
    }
    uses
}

/// Values for the symbols of the graph, and a check of every input against them.
fn bind(graph: &Graph, inputs: &BTreeMap<String, Tensor>, mut env: Bindings) -> Result<Bindings, EvalError> {
    if let Some(name) = inputs.keys().find(|name| graph.param(name).is_none()) {
        return Err(EvalError::Unknown(name.clone()));
    }
    let given: Vec<_> =
        graph.params().filter_map(|(name, value)| Some((name, graph.ty(value), inputs.get(name)?))).collect();
    for (_, ty, tensor) in &given {
        for (dim, &size) in ty.shape.iter().zip(tensor.shape()) {
            if let (Some(symbol), Ok(size)) = (dim.as_symbol(), i64::try_from(size)) {
                // The first input decides; the others are compared below.
                env.set(symbol, env.get(symbol).unwrap_or(size));
            }
        }
    }
    for (name, ty, tensor) in given {
        check(tensor, ty, &env).map_err(|message| EvalError::Input { name: name.to_owned(), message })?;
    }
    for symbol in Symbol::ALL {
        let (bounds, Some(value)) = (graph.bounds(symbol), env.get(symbol)) else { continue };
        if !bounds.contains(value) {
            let message = format!("{value} is not within {bounds}");
            return Err(EvalError::Symbol { symbol: symbol.name(), message });
        }
    }
    Ok(env)
}

fn check(tensor: &Tensor, ty: &TensorType, env: &Bindings) -> Result<(), String> {
    let sizes = ty.sizes(env).map_err(|symbol| format!("the symbol {} has no value", symbol.name()))?;
    let fits = sizes.len() == tensor.shape().len()
        && sizes.iter().zip(tensor.shape()).all(|(&size, &found)| i64::try_from(found) == Ok(size));
    if fits && tensor.holds(ty.dtype) {
        return Ok(());
    }
    let found = if tensor.holds(DType::F32) { DType::F32 } else { DType::I64 };
    Err(format!("expected {ty} = {sizes:?}, found {found}{:?}", tensor.shape()))
}
