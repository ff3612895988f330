//! Adapters in the weights of the modules that they were trained for.
//!
//! ```text
//! linear x, @w           →    linear x, add_low_rank(@w, @a, @b, scale=s)      and a bias, where the adapter has one
//! embed ids, @w          →    embed ids, add_low_rank(@w, transpose(@b), transpose(@a), scale=s)
//! ```
//!
//! What is added is a recipe of the checkpoint's ([`Adapted`]), in f32 and rounded once. Before weights get their formats: a
//! format is one of the sum. It goes by modules, not by weights: of two embeddings that are one matrix, an adapter may change
//! one.

use std::collections::BTreeMap;

use llamac_ir::ops::{Embed, Linear};
use llamac_ir::rewrite::{self, DynRule, NoMatch, OpSet, Patch, PatchValue, RewriteError, RuleSet};
use llamac_ir::{Graph, NodeId, Op, Weight};
use llamac_plan::diagnostic::{Code, Diagnostic};

use super::simplify_weight::simplify;
use crate::source::Adapted;

/// See the module.
#[derive(Clone, Debug)]
pub struct MergeLora {
    /// What becomes of a module, by its name.
    modules: BTreeMap<String, Adapted>,
}

impl MergeLora {
    /// The rule for these `modules`.
    pub fn new(modules: &BTreeMap<String, Adapted>) -> Self {
        // The graph may have come by simplified recipes.
        let simple = |(name, adapted): (&String, &Adapted)| {
            let Adapted { base, weight, bias } = adapted;
            let bias = bias.as_ref().map(simplify);
            (name.clone(), Adapted { base: simplify(base), weight: simplify(weight), bias })
        };
        Self { modules: modules.iter().map(simple).collect() }
    }

    /// What becomes of the operation at `node` with this `weight`, if anything does.
    fn adapted(&self, graph: &Graph, node: NodeId, weight: &Weight) -> Option<&Adapted> {
        let adapted = graph.loc(node).modules().find_map(|module| self.modules.get(module))?;
        (adapted.base == simplify(weight) && adapted.weight != adapted.base).then_some(adapted)
    }
}

impl DynRule for MergeLora {
    fn name(&self) -> &'static str {
        "MergeLora"
    }

    fn at(&self, node: NodeId, graph: &Graph, _: &dyn OpSet) -> Option<Result<Patch, NoMatch>> {
        let merged: Op = match graph.op(node)? {
            Op::Linear(Linear { weight, bias }) => {
                let Adapted { weight, bias: new, .. } = self.adapted(graph, node, weight)?;
                Linear { weight: weight.clone(), bias: new.clone().or_else(|| bias.clone()) }.into()
            }
            Op::Embed(Embed { table }) => {
                Embed { table: self.adapted(graph, node, table)?.weight.clone() }.into()
            }
            _ => return None,
        };
        Some(replaced(graph, node, merged))
    }
}

/// The operation at `node` as `op`, of the same operands.
fn replaced(graph: &Graph, node: NodeId, op: Op) -> Result<Patch, NoMatch> {
    let mut patch = Patch::new();
    let operands: Vec<PatchValue> = graph.operands(node).iter().map(|&value| value.into()).collect();
    let new = patch.add(graph, graph.loc(node), op, &operands)?;
    let results = graph.values(node).map(|old| (old, new.result(old.result)));
    Ok(results.fold(patch, |patch, (old, new)| patch.replace(old, new)).erase([node]))
}

/// Puts `adapted` modules into `graph`.
///
/// # Errors
/// `InvalidGraph` when the rule breaks the graph.
pub fn merge_lora(
    graph: &mut Graph,
    adapted: &BTreeMap<String, Adapted>,
    target: &dyn OpSet,
) -> Result<rewrite::Report, Diagnostic> {
    let rules = RuleSet::new().with(MergeLora::new(adapted));
    let broken = |error: RewriteError| Diagnostic::new(Code::InvalidGraph).message(error.to_string());
    rewrite::apply(graph, &rules, target).map_err(broken)
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use llamac_ir::rewrite::AnyOp;
    use llamac_ir::testing::{assert_round_trip, parse, summary};
    use llamac_ir::{DType, Real};

    use super::*;

    const MODEL: &str =
        "graph(%i: i64[batch, seq], @embed_tokens.weight: bf16[9, 4], @q_proj.weight: bf16[4, 4],
               @k_proj.weight: f32[4, 4], @k_proj.bias: f32[4]) {
            %0 = embed %i, @embed_tokens.weight loc(embed_tokens)
            %1 = linear %0, concat(@q_proj.weight) loc(q_proj)
            %2 = linear %1, @k_proj.weight, @k_proj.bias loc(k_proj)
            %3 = linear %2, @embed_tokens.weight loc(lm_head)
            return out=%3 }";

    /// A weight of `dtype` with a low-rank sum.
    fn adapted(name: &str, dtype: DType, shape: &[usize], bias: Option<Weight>) -> (String, Adapted) {
        let base = Weight::source(&format!("{name}.weight"), dtype, shape).unwrap();
        let a = Weight::source(&format!("{name}.lora_A"), DType::F32, &[2, shape[1]]).unwrap();
        let b = Weight::source(&format!("{name}.lora_B"), DType::F32, &[shape[0], 2]).unwrap();
        let sum = base.convert(DType::F32).unwrap().add_low_rank(&a, &b, Real::new(0.5)).unwrap();
        (name.to_owned(), Adapted { base, weight: sum.convert(dtype).unwrap(), bias })
    }

    fn merged(modules: &[(String, Adapted)]) -> String {
        let mut graph = parse(MODEL);
        let report = merge_lora(&mut graph, &modules.iter().cloned().collect(), &AnyOp).unwrap();
        assert_round_trip(&graph);
        let text = graph.to_string();
        let lines = text.lines().filter(|line| line.contains(" = "));
        format!("{}\n{}", lines.collect::<Vec<_>>().join("\n"), summary(&report))
    }

    #[test]
    fn weights_get_what_adapters_add_to_their_module() {
        let bias = Weight::source("q_proj.bias", DType::BF16, &[4]).unwrap();
        assert_snapshot!(merged(&[
            adapted("embed_tokens", DType::BF16, &[9, 4], None),
            adapted("q_proj", DType::BF16, &[4, 4], Some(bias)),
            adapted("k_proj", DType::F32, &[4, 4], None),
        ]), @"
          %0 = embed %i, convert(add_low_rank(convert(@embed_tokens.weight, dtype=f32), @embed_tokens.lora_A, @embed_tokens.lora_B, scale=0.5), dtype=bf16) : f32[batch, seq, 4]
          %1 = linear %0, convert(add_low_rank(convert(@q_proj.weight, dtype=f32), @q_proj.lora_A, @q_proj.lora_B, scale=0.5), dtype=bf16), @q_proj.bias : f32[batch, seq, 4]
          %2 = linear %1, add_low_rank(@k_proj.weight, @k_proj.lora_A, @k_proj.lora_B, scale=0.5), @k_proj.bias : f32[batch, seq, 4]
          %3 = linear %2, @embed_tokens.weight : f32[batch, seq, 9]
        fired MergeLora 3 times
        ");
    }

    #[test]
    fn other_modules_and_other_weights_stay() {
        let (_, q) = adapted("q_proj", DType::BF16, &[4, 4], None);
        for module in ["v_proj", "k_proj"] {
            let unchanged = merged(&[(module.to_owned(), q.clone())]);
            assert!(!unchanged.contains("add_low_rank") && !unchanged.contains("fired"), "{unchanged}");
        }
    }
}
