//! Several linears of one value as one, which the fusions of projections share.
//!
//! Rows of weights are concatenated, never widened or converted: weights of different formats stay apart.

use llamac_ir::ops::Linear;
use llamac_ir::rewrite::{NoMatch, OpRef, Patch, PatchValue};
use llamac_ir::{Loc, Scheme, Weight};

use super::simplify_weight::simplify;

/// Adds one linear that computes what `parts` compute, side by side along the last dimension, to `patch`.
///
/// # Errors
/// When the parts read different values, only some of them have a bias, or their weights cannot be concatenated.
pub(super) fn join(patch: &mut Patch, parts: &[OpRef<'_, Linear>]) -> Result<PatchValue, NoMatch> {
    let Some((first, rest)) = parts.split_first() else {
        return Err(NoMatch::new("there is nothing to join", &Loc::none()));
    };
    let loc = Loc::merge(parts.iter().map(|part| part.loc()));
    let miss = |reason: String| NoMatch::new(reason, &loc);
    if rest.iter().any(|part| part.operand(0) != first.operand(0)) {
        return Err(miss("the projections read different values".to_owned()));
    }
    if parts.iter().enumerate().any(|(i, part)| parts[..i].iter().any(|other| other.id() == part.id())) {
        return Err(miss("two of the projections are the same".to_owned()));
    }
    let weight = concat("weights", parts.iter().map(|part| part.weight.clone())).map_err(miss)?;
    let biases: Vec<Weight> = parts.iter().filter_map(|part| part.bias.clone()).collect();
    let bias = match biases.len() {
        0 => None,
        n if n == parts.len() => Some(concat("biases", biases).map_err(miss)?),
        n => {
            return Err(miss(format!(
                "{n} of {} projections have a bias, expected all or none",
                parts.len()
            )));
        }
    };
    patch.add(first.graph(), &loc, Linear { weight, bias }, &[first.operand(0).into()])
}

fn concat(what: &str, parts: impl IntoIterator<Item = Weight>) -> Result<Weight, String> {
    let parts: Vec<Weight> = parts.into_iter().collect();
    let format = |part: &Weight| part.scheme().map_or(part.dtype().name(), Scheme::name);
    let mut formats: Vec<&str> = parts.iter().map(format).collect();
    formats.dedup();
    if formats.len() > 1 {
        return Err(format!("the {what} are {}, expected one format", formats.join(", ")));
    }
    Ok(simplify(&Weight::concat(parts).map_err(|error| error.to_string())?))
}
