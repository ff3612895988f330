//! Properties of all graphs: text, clean-ups and patches on random ones.

use std::collections::BTreeSet;

mod generated;

use generated::{KINDS, choices, graph};
use llamac_ir::ops::{Act, Add};
use llamac_ir::rewrite::{AnyOp, Decompose, Legality, OpSet, Patch, RuleSet, Signature, apply};
use llamac_ir::testing::{assert_equivalent, assert_round_trip};
use llamac_ir::{Activation, Graph, Loc, Op, ValueId};
use proptest::prelude::*;

/// A target without anything that has a decomposition.
struct Simple;

impl OpSet for Simple {
    fn name(&self) -> &str {
        "simple"
    }

    fn legality(&self, op: &Op, _: Signature<'_>) -> Legality {
        match op.mnemonic() {
            "add_rms_norm" | "gated" | "rope" => Legality::Illegal("not simple".to_owned()),
            _ => Legality::Legal,
        }
    }
}

fn values(graph: &Graph) -> Vec<ValueId> {
    let params: Vec<ValueId> = graph.params().map(|(_, value)| value).collect();
    params.into_iter().chain(graph.order().into_iter().flat_map(|node| graph.values(node))).collect()
}

/// The properties below say something about every operation that a model is built from.
#[test]
fn random_graphs_hold_every_operation() {
    let choices: Vec<_> =
        (0..400u16).map(|n| ((n % u16::from(KINDS)) as u8, n / 2, n / 3, (n % 251) as u8)).collect();
    let found: BTreeSet<&str> = choices
        .chunks(8)
        .map(graph)
        .flat_map(|g| g.order().into_iter().map(|n| g.op(n).unwrap().mnemonic()).collect::<Vec<_>>())
        .collect();
    let missing: Vec<_> = Op::MNEMONICS.iter().filter(|mnemonic| !found.contains(*mnemonic)).collect();
    let made_by_decomposition = [
        "append_attention",
        "cast",
        "constant",
        "expand",
        "gather",
        "gather_rows",
        "group_query_attention",
        "length",
        "matmul",
        "positions",
        "range",
        "reshape",
        "rotary",
        "rotary_angles",
        "rotary_lookup",
        "shape",
        "slice",
        "where",
    ];
    assert_eq!(missing.into_iter().copied().collect::<Vec<_>>(), made_by_decomposition);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn text_is_the_identity(choices in choices(24)) {
        assert_round_trip(&graph(&choices));
    }

    #[test]
    fn the_parser_never_panics(choices in choices(8), at in any::<prop::sample::Index>(), with in "\\PC{0,3}") {
        let text = graph(&choices).text_with_locs();
        let mut boundaries = text.char_indices().map(|(i, _)| i).collect::<Vec<_>>();
        boundaries.push(text.len());
        let cut = boundaries[at.index(boundaries.len())];
        let _ = Graph::parse(&format!("{}{with}{}", &text[..cut], &text[cut..]));
        let _ = Graph::parse(&text[..cut]);
    }

    #[test]
    fn merging_common_subexpressions_changes_no_result(choices in choices(24)) {
        let before = graph(&choices);
        let mut after = before.clone();
        let merged = after.merge_common();
        assert_round_trip(&after);
        assert_equivalent(&before, &after);
        prop_assert_eq!(before.op_count() - merged, after.op_count());
        prop_assert_eq!(after.merge_common(), 0);
    }

    #[test]
    fn decomposition_changes_no_result(choices in choices(16)) {
        let before = graph(&choices);
        let mut after = before.clone();
        apply(&mut after, &RuleSet::new().with(Decompose), &Simple).unwrap();
        assert_round_trip(&after);
        assert_equivalent(&before, &after);
        let again = apply(&mut after, &RuleSet::new().with(Decompose), &AnyOp).unwrap();
        prop_assert!(!again.changed());
    }

    /// Whatever a patch asks for, either the graph is valid afterwards or it did not change.
    #[test]
    fn random_patches_keep_graphs_valid(
        choices in choices(16),
        patches in prop::collection::vec(any::<[prop::sample::Index; 5]>(), 1..6),
    ) {
        let mut graph = graph(&choices);
        graph.remove_dead();
        for picks in patches {
            let all = values(&graph);
            let c = all[picks[2].index(all.len())];
            // Mostly values of one type, or types alone would refuse nearly every patch.
            let alike: Vec<ValueId> = all.iter().copied().filter(|&v| graph.ty(v) == graph.ty(c)).collect();
            let [a, b, _, d, e] = picks.map(|pick| alike[pick.index(alike.len())]);
            let mut patch = Patch::new();
            let sum = patch.add(&graph, &Loc::none(), Add, &[a.into(), b.into()]);
            let new = sum.unwrap_or(all[picks[1].index(all.len())].into());
            let act = patch.add(&graph, &Loc::none(), Act { function: Activation::Relu }, &[new]);
            patch = patch.replace(c, act.unwrap_or(a.into()));
            if d != c && picks[3].index(2) == 0 {
                patch = patch.replace(d, e);
            }
            if picks[0].index(4) == 0 {
                patch = patch.erase([c.node]);
            }
            let before = graph.clone();
            match patch.apply(&mut graph) {
                Ok(_) => prop_assert!(graph.verify().is_ok(), "{}", graph.verify().unwrap_err()),
                Err(_) => prop_assert!(graph == before),
            }
            prop_assert!(graph.remove_dead().is_empty(), "a patch left dead nodes");
        }
    }
}
