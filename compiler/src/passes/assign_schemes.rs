//! How each weight is stored, by a policy over names.
//!
//! ```text
//! linear x, @w           →    linear x, quantize(@w, scheme=q4)      or convert(@w, dtype=f16)
//! ```
//!
//! Before fusion: a policy speaks of the checkpoint's tensors, and only weights of one format are concatenated. A
//! matrix goes by the name of its tensor and by that of the module that uses it: a tied `lm_head` can be named, too.
//! Vectors are never quantized. As it is, a matrix that another method quantized goes to the scheme that holds the
//! same integers, or else to 8 bits, which change its numbers by less than that method did.

use std::collections::BTreeSet;

use llamac_ir::rewrite::{self, DynRule, NoMatch, OpSet, Patch, RewriteError, RuleSet};
use llamac_ir::suggest::nearest;
use llamac_ir::{DType, Graph, Loc, NodeId, Scheme, Weight, WeightError, WeightExpr};
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use super::canonicalize::with_weights;
use super::weight_policy::{WeightFormat, WeightPolicy, matches};

/// See the module.
#[derive(Clone, Debug)]
pub struct AssignSchemes {
    /// What is to become of which weight.
    pub policy: WeightPolicy,
}

impl DynRule for AssignSchemes {
    fn name(&self) -> &'static str {
        "AssignSchemes"
    }

    fn at(&self, node: NodeId, graph: &Graph, _: &dyn OpSet) -> Option<Result<Patch, NoMatch>> {
        let (weights, loc) = (graph.op(node)?.weights(), graph.loc(node));
        let assigned: Result<Vec<Weight>, _> =
            weights.iter().map(|weight| self.assigned(weight, loc)).collect();
        match assigned {
            Ok(assigned) if assigned.iter().eq(weights) => None,
            Ok(assigned) => Some(with_weights(graph, node, assigned)),
            Err(error) => Some(Err(NoMatch::new(error.to_string(), loc))),
        }
    }
}

impl AssignSchemes {
    fn assigned(&self, weight: &Weight, loc: &Loc) -> Result<Weight, WeightError> {
        if weight.scheme().is_some() || !weight.dtype().is_float() {
            return Ok(weight.clone());
        }
        // What is computed in f32 is rounded once: to its format, or to the type that it would have without one.
        let numbers = match weight.expr() {
            WeightExpr::Convert { base, .. } => base,
            _ => weight,
        };
        match weight.shape().len() {
            2 => match self.policy.format(&names(weight, loc)) {
                None | Some(WeightFormat::AsIs) => match stored_scheme(weight) {
                    Some(scheme) => numbers.quantize(scheme),
                    None => Ok(weight.clone()),
                },
                Some(WeightFormat::Float(dtype)) => numbers.convert(dtype),
                Some(WeightFormat::Quantized(scheme)) => numbers.quantize(scheme),
            },
            _ if self.policy.widens_vectors() => numbers.convert(DType::F32),
            _ => Ok(weight.clone()),
        }
    }
}

/// The scheme for a matrix that the checkpoint stores as codes, if it does: the one that holds them, or 8 bits.
fn stored_scheme(weight: &Weight) -> Option<Scheme> {
    match weight.expr() {
        WeightExpr::Dequantize { .. } | WeightExpr::DequantizeGroups { .. } => {
            Some(weight.carried_scheme().unwrap_or(Scheme::Q8))
        }
        WeightExpr::Permute { base, .. } | WeightExpr::Slice { base, .. } => stored_scheme(base),
        // Others compute, and their numbers are on nobody's grid any more.
        _ => weight.parts().into_iter().find_map(stored_scheme).map(|_| Scheme::Q8),
    }
}

/// What a weight of an operation at `loc` goes by.
fn names<'a>(weight: &'a Weight, loc: &'a Loc) -> Vec<&'a str> {
    let mut names: Vec<&str> = loc.modules().collect();
    weight.for_each_source(&mut |_, tensor| names.push(tensor));
    names
}

/// Makes weights what `policy` says.
///
/// # Errors
/// `BadArgument` for every pattern that no matrix goes by; `InvalidGraph` when the rule breaks the graph.
pub fn assign_schemes(
    graph: &mut Graph,
    policy: &WeightPolicy,
    target: &dyn OpSet,
) -> Result<rewrite::Report, Diagnostics> {
    let mut faults = Diagnostics::new();
    let (mut matrices, mut vectors) = (BTreeSet::new(), BTreeSet::new());
    for node in graph.order() {
        for weight in graph.op(node).map(|op| op.weights()).unwrap_or_default() {
            let kind = if weight.shape().len() == 2 { &mut matrices } else { &mut vectors };
            kind.extend(names(weight, graph.loc(node)).into_iter().map(str::to_owned));
        }
    }
    for entry in &policy.entries {
        let Some(pattern) = &entry.pattern else { continue };
        let any = |names: &BTreeSet<String>| names.iter().any(|name| matches(pattern, name));
        if !any(&matrices) {
            faults.push(unknown(pattern, entry.format, any(&vectors), &matrices));
        }
    }
    faults.or(())?;
    let rules = RuleSet::new().with(AssignSchemes { policy: policy.clone() });
    let broken = |error: RewriteError| Diagnostic::new(Code::InvalidGraph).message(error.to_string());
    Ok(rewrite::apply(graph, &rules, target).map_err(broken)?)
}

fn unknown(pattern: &str, format: WeightFormat, is_vector: bool, names: &BTreeSet<String>) -> Diagnostic {
    let fault = Diagnostic::new(Code::BadArgument).at(format!("--weights {pattern}={format}"));
    if is_vector {
        return fault.message("norms and biases are vectors, which are always stored as f32 or as they are");
    }
    let length = pattern.split('.').count();
    let parts = |name: &String| -> Vec<String> {
        let parts: Vec<&str> = name.split('.').collect();
        parts.windows(length).map(|window| window.join(".")).collect()
    };
    let known: BTreeSet<String> = names.iter().flat_map(parts).collect();
    let fault = fault.message("no weight of the model has this in its name");
    let layer = |name: &str| name.strip_prefix("layers.")?.parse::<usize>().ok();
    if layer(pattern).is_some()
        && let Some(last) = known.iter().filter_map(|name| layer(name)).max()
    {
        return fault.help(format!("layers are numbered from 0 to {last}"));
    }
    match nearest(pattern, known.iter().map(String::as_str)) {
        Some(near) => fault.help(format!("did you mean {near}?")),
        None => fault.help("name a module, as in lm_head, down_proj or layers.0"),
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use llamac_ir::rewrite::AnyOp;
    use llamac_ir::testing::{assert_round_trip, parse, summary};

    use super::*;

    const MODEL: &str =
        "graph(%i: i64[batch, seq], @embed_tokens.weight: bf16[9, 4], @layers.0.q_proj.weight: bf16[4, 4],
               @layers.0.q_proj.bias: bf16[4], @norm.weight: bf16[4]) {
            %0 = embed %i, @embed_tokens.weight loc(embed_tokens)
            %1 = linear %0, @layers.0.q_proj.weight, @layers.0.q_proj.bias loc(layers.0.q_proj)
            %2 = rms_norm %1, @norm.weight {eps=0.00001} loc(norm)
            %3 = linear %2, @embed_tokens.weight loc(lm_head)
            return out=%3 }";

    /// The operations after the pass.
    fn assigned(policy: &str) -> String {
        let mut graph = parse(MODEL);
        match assign_schemes(&mut graph, &policy.parse().unwrap(), &AnyOp) {
            Ok(report) => {
                assert_round_trip(&graph);
                let text = graph.to_string();
                let lines = text.lines().filter(|line| line.contains(" = "));
                format!("{}\n{}", lines.collect::<Vec<_>>().join("\n"), summary(&report))
            }
            Err(faults) => faults.to_string(),
        }
    }

    #[test]
    fn matrices_are_quantized_and_vectors_are_not() {
        assert_snapshot!(assigned("q8"), @"
          %0 = embed %i, quantize(@embed_tokens.weight, scheme=q8) : f32[batch, seq, 4]
          %1 = linear %0, quantize(@layers.0.q_proj.weight, scheme=q8), convert(@layers.0.q_proj.bias, dtype=f32) : f32[batch, seq, 4]
          %2 = rms_norm %1, convert(@norm.weight, dtype=f32) {eps=1e-5} : f32[batch, seq, 4]
          %3 = linear %2, quantize(@embed_tokens.weight, scheme=q8) : f32[batch, seq, 9]
        fired AssignSchemes 4 times
        ");
    }

    #[test]
    fn a_tied_matrix_is_one_weight_unless_it_is_named() {
        assert_snapshot!(assigned("q4"), @"
          %0 = embed %i, quantize(@embed_tokens.weight, scheme=q8) : f32[batch, seq, 4]
          %1 = linear %0, quantize(@layers.0.q_proj.weight, scheme=q4), convert(@layers.0.q_proj.bias, dtype=f32) : f32[batch, seq, 4]
          %2 = rms_norm %1, convert(@norm.weight, dtype=f32) {eps=1e-5} : f32[batch, seq, 4]
          %3 = linear %2, quantize(@embed_tokens.weight, scheme=q8) : f32[batch, seq, 9]
        fired AssignSchemes 4 times
        ");
        assert_snapshot!(assigned("q4,lm_head=q4a"), @"
          %0 = embed %i, quantize(@embed_tokens.weight, scheme=q8) : f32[batch, seq, 4]
          %1 = linear %0, quantize(@layers.0.q_proj.weight, scheme=q4), convert(@layers.0.q_proj.bias, dtype=f32) : f32[batch, seq, 4]
          %2 = rms_norm %1, convert(@norm.weight, dtype=f32) {eps=1e-5} : f32[batch, seq, 4]
          %3 = linear %2, quantize(@embed_tokens.weight, scheme=q4a) : f32[batch, seq, 9]
        fired AssignSchemes 4 times
        ");
    }

    #[test]
    fn types_are_formats_too() {
        assert_snapshot!(assigned("f16,layers.0=as-is"), @"
          %0 = embed %i, convert(@embed_tokens.weight, dtype=f16) : f32[batch, seq, 4]
          %1 = linear %0, @layers.0.q_proj.weight, convert(@layers.0.q_proj.bias, dtype=f32) : f32[batch, seq, 4]
          %2 = rms_norm %1, convert(@norm.weight, dtype=f32) {eps=1e-5} : f32[batch, seq, 4]
          %3 = linear %2, convert(@embed_tokens.weight, dtype=f16) : f32[batch, seq, 9]
        fired AssignSchemes 4 times
        ");
        assert_snapshot!(assigned("as-is"), @"
        %0 = embed %i, @embed_tokens.weight : f32[batch, seq, 4]
        %1 = linear %0, @layers.0.q_proj.weight, @layers.0.q_proj.bias : f32[batch, seq, 4]
        %2 = rms_norm %1, @norm.weight {eps=1e-5} : f32[batch, seq, 4]
        %3 = linear %2, @embed_tokens.weight : f32[batch, seq, 9]
        ");
    }

    #[test]
    fn blocks_keep_their_integers_or_get_eight_bits() {
        let model = "graph(%i: i64[batch, seq], @embed: u8[9, 34], @q: u8[32, 18], @k: u8[32, 20]) {
            %0 = embed %i, dequantize(@embed, format=q8_0)
            %1 = linear %0, interleaved_to_half(dequantize(@q, format=q4_0), heads=2, head_dim=16)
            %2 = linear %1, dequantize(@k, format=q4_1)
            return out=%2 }";
        let assigned = |policy: &str| {
            let mut graph = parse(model);
            assign_schemes(&mut graph, &policy.parse().unwrap(), &AnyOp).unwrap();
            assert_round_trip(&graph);
            let text = graph.to_string();
            text.lines().filter(|line| line.contains(" = ")).collect::<Vec<_>>().join("\n")
        };
        assert_snapshot!(assigned("as-is"), @"
        %0 = embed %i, quantize(dequantize(@embed, format=q8_0), scheme=q8) : f32[batch, seq, 32]
        %1 = linear %0, quantize(interleaved_to_half(dequantize(@q, format=q4_0), heads=2, head_dim=16), scheme=q4) : f32[batch, seq, 32]
        %2 = linear %1, quantize(dequantize(@k, format=q4_1), scheme=q8) : f32[batch, seq, 32]
        ");
        assert_snapshot!(assigned("f32"), @"
        %0 = embed %i, dequantize(@embed, format=q8_0) : f32[batch, seq, 32]
        %1 = linear %0, interleaved_to_half(dequantize(@q, format=q4_0), heads=2, head_dim=16) : f32[batch, seq, 32]
        %2 = linear %1, dequantize(@k, format=q4_1) : f32[batch, seq, 32]
        ");
    }

    #[test]
    fn names_that_no_matrix_has_are_faults() {
        assert_snapshot!(assigned("q8,layers.1=q4,v_proj=q4,norm=f16,head=q4"), @"
        error[E0001]: invalid argument
          --> --weights layers.1=q4
           no weight of the model has this in its name
           help: layers are numbered from 0 to 0
        error[E0001]: invalid argument
          --> --weights v_proj=q4
           no weight of the model has this in its name
           help: did you mean q_proj?
        error[E0001]: invalid argument
          --> --weights norm=f16
           norms and biases are vectors, which are always stored as f32 or as they are
        error[E0001]: invalid argument
          --> --weights head=q4
           no weight of the model has this in its name
           help: name a module, as in lm_head, down_proj or layers.0
        ");
    }
}
