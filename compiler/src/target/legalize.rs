//! Conversion to a target: in full, or not at all.
//!
//! The target's own rules come first, while operations are whole, then they and the decompositions of operations, until
//! nothing changes. A graph that is legal by then becomes a [`Legalized`]; otherwise every operation that stays illegal
//! is reported.

use llamac_ir::rewrite::{self, Decompose, DynRule, Firing, Legality, RuleSet, legality_of};
use llamac_ir::{Graph, NodeId};
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use super::Target;
use crate::passes::FoldReshape;

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
    let mut apply = |rules: &RuleSet| {
        rewrite::apply(&mut graph, rules, target)
            .map_err(|error| Diagnostic::new(Code::InvalidGraph).message(error.to_string()))
    };
    let first = apply(&target.legalizations())?;
    let rules = target.legalizations().with(Decompose).with(FoldReshape);
    let mut report = apply(&rules)?;
    // The same rules, in the same order.
    for (firing, first) in report.firings.iter_mut().zip(first.firings) {
        firing.count += first.count;
    }
    report.firings.push(Firing { rule: "CommonSubexpressions", count: graph.merge_common() });
    // What every layer has is told once.
    let mut illegal: Vec<(&str, String, Vec<NodeId>)> = Vec::new();
    for node in graph.order() {
        if let (Some(op), Some(Legality::Illegal(reason))) =
            (graph.op(node), legality_of(&graph, node, target))
        {
            match illegal.iter_mut().find(|(known, why, _)| *known == op.mnemonic() && *why == reason) {
                Some((.., nodes)) => nodes.push(node),
                None => illegal.push((op.mnemonic(), reason, vec![node])),
            }
        }
    }
    let mut faults = Diagnostics::new();
    for (op, reason, nodes) in illegal {
        faults.push(fault(&graph, op, &reason, &nodes, &rules, target));
    }
    let name = target.name().to_owned();
    faults.or((Legalized { graph, target: name }, report))
}

/// The fault of operations `op` at `nodes`, which the target cannot take for the same `reason`.
fn fault(
    graph: &Graph,
    op: &str,
    reason: &str,
    nodes: &[NodeId],
    rules: &RuleSet,
    target: &dyn Target,
) -> Diagnostic {
    let first = nodes[0];
    let missed = |rule: &dyn DynRule| {
        let no_match = rule.at(first, graph, target)?.err()?;
        Some(format!("{} did not apply: {}", rule.name(), no_match.reason))
    };
    let more = match nodes.len() - 1 {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let fault = Diagnostic::new(Code::IllegalOp)
        .at(format!("{op} at {}{more}", graph.loc(first)))
        .message(format!("{} cannot take it: {reason}", target.name()));
    match rules.rules().find_map(missed) {
        // It failed for the very reason.
        Some(nearest) if nearest.ends_with(reason) => fault,
        Some(nearest) => fault.help(nearest),
        None => fault.help(format!("no rule of {} turns {op} into something else", target.name())),
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use llamac_ir::Op;
    use llamac_ir::ops::Attention;
    use llamac_ir::rewrite::{OpSet, Signature};
    use llamac_ir::testing::{assert_equivalent, assert_round_trip, parse, summary};

    use super::*;
    use crate::passes::ExpandGqa;

    /// A target that knows neither grouped attention nor anything that passes shape, but for `knows`.
    struct Plain {
        knows: &'static [&'static str],
    }

    const SHAPED: [&str; 4] = ["rope", "gated", "add_rms_norm", "split"];

    impl OpSet for Plain {
        fn name(&self) -> &str {
            "plain"
        }

        fn legality(&self, op: &Op, _: Signature<'_>) -> Legality {
            let name = op.mnemonic();
            match op {
                Op::Attention(Attention { heads, kv_heads, .. }) if heads != kv_heads => {
                    Legality::Illegal(format!("{heads} heads share {kv_heads} key heads"))
                }
                _ if SHAPED.contains(&name) && !self.knows.contains(&name) => {
                    Legality::Illegal("there is no kernel".to_owned())
                }
                Op::RepeatKv(_) if self.knows.contains(&"no repeat_kv") => {
                    Legality::Illegal("there is no kernel".to_owned())
                }
                _ => Legality::Legal,
            }
        }
    }

    impl Target for Plain {
        fn summary(&self) -> &'static str {
            "a target of tests"
        }

        fn legalizations(&self) -> RuleSet {
            RuleSet::new().with(ExpandGqa).where_illegal()
        }
    }

    const BLOCK: &str = "graph(%x: f32[batch, seq, 8], %y: f32[batch, seq, 8], %p: i64[batch, seq], @n: f32[8],
               @q: bf16[8, 8], @k: bf16[4, 8], @g: bf16[12, 8], @d: bf16[8, 6],
               %pk: f32[batch, 1, past, 4], %pv: f32[batch, 1, past, 4]) {
            %s, %m = add_rms_norm %x, %y, @n {eps=0.00001} loc(layer.0.norm)
            %q = linear %m, @q loc(layer.0.q_proj)
            %k = linear %m, @k loc(layer.0.k_proj)
            %rq = rope %q, %p {heads=2, head_dim=4, theta=100.0, scaling=default, interleaved=false} loc(layer.0)
            %rk = rope %k, %p {heads=1, head_dim=4, theta=100.0, scaling=default, interleaved=false} loc(layer.0)
            %ck = kv_append %pk, %rk loc(layer.0)
            %cv = kv_append %pv, %k loc(layer.0)
            %a = attention %rq, %ck, %cv {heads=2, kv_heads=1, head_dim=4, scale=0.5, causal=true} loc(layer.0)
            %h = add %s, %a loc(layer.0)
            %u = linear %h, @g loc(layer.0.mlp)
            %f = gated %u {function=silu} loc(layer.0.mlp)
            %o = linear %f, @d loc(layer.0.mlp)
            return out=%o }";

    #[test]
    fn rules_come_first_and_decompositions_after() {
        let before = parse(BLOCK);
        let (legalized, report) = legalize(before.clone(), &Plain { knows: &["split"] }).unwrap();
        assert_eq!(legalized.target(), "plain");
        assert_round_trip(legalized.graph());
        assert_equivalent(&before, legalized.graph());
        assert_snapshot!(format!("{}{}", legalized.graph(), summary(&report)), @"
        graph<batch: 1.., seq: 1.., past: 0..>(
          %x: f32[batch, seq, 8],
          %y: f32[batch, seq, 8],
          %p: i64[batch, seq],
          %pk: f32[batch, 1, past, 4],
          %pv: f32[batch, 1, past, 4],
          @n: f32[8],
          @q: bf16[8, 8],
          @k: bf16[4, 8],
          @g: bf16[12, 8],
          @d: bf16[8, 6],
        ) {
          %0 = add %x, %y : f32[batch, seq, 8]
          %1 = rms_norm %0, @n {eps=1e-5} : f32[batch, seq, 8]
          %2 = linear %1, @q : f32[batch, seq, 8]
          %3, %4 = rotary_angles %p, inv_freq(theta=100.0, head_dim=4, scaling=default, set=short) {factor=1.0} : f32[batch, seq, 2], f32[batch, seq, 2]
          %5 = rotary %2, %3, %4 {heads=2, head_dim=4, interleaved=false} : f32[batch, seq, 8]
          %6 = linear %1, @k : f32[batch, seq, 4]
          %7 = rotary %6, %3, %4 {heads=1, head_dim=4, interleaved=false} : f32[batch, seq, 4]
          %8 = kv_append %pk, %7 : f32[batch, 1, past + seq, 4]
          %9 = repeat_kv %8 {groups=2} : f32[batch, 2, past + seq, 4]
          %10 = kv_append %pv, %6 : f32[batch, 1, past + seq, 4]
          %11 = repeat_kv %10 {groups=2} : f32[batch, 2, past + seq, 4]
          %12 = attention %5, %9, %11 {heads=2, kv_heads=2, head_dim=4, scale=0.5, causal=true} : f32[batch, seq, 8]
          %13 = add %0, %12 : f32[batch, seq, 8]
          %14 = linear %13, @g : f32[batch, seq, 12]
          %15, %16 = split %14 {sizes=[6, 6]} : f32[batch, seq, 6], f32[batch, seq, 6]
          %17 = act %15 {function=silu} : f32[batch, seq, 6]
          %18 = mul %17, %16 : f32[batch, seq, 6]
          %19 = linear %18, @d : f32[batch, seq, 8]
          return out=%19
        }
        fired ExpandGqa once
        fired Decompose 4 times
        fired CommonSubexpressions once
        ");
    }

    #[test]
    fn what_is_legal_stays_as_it_is() {
        let before = parse("graph(%x: f32[batch, seq, 8]) { %a = gated %x {function=silu} return out=%a }");
        let (legalized, report) = legalize(before.clone(), &Plain { knows: &["gated"] }).unwrap();
        assert!(*legalized.graph() == before);
        assert!(!report.changed());
    }

    #[test]
    fn everything_that_stays_illegal_is_reported() {
        let faults = legalize(parse(BLOCK), &Plain { knows: &["no repeat_kv"] }).unwrap_err();
        assert_snapshot!(faults.to_string(), @"
        error[E0500]: an operation cannot be expressed on the target
          --> attention at layer.0
           plain cannot take it: 2 heads share 1 key heads
           help: ExpandGqa did not apply: repeat_kv is not legal for plain: there is no kernel
        error[E0500]: an operation cannot be expressed on the target
          --> split at layer.0.mlp
           plain cannot take it: there is no kernel
           help: no rule of plain turns split into something else
        ");
    }
}
