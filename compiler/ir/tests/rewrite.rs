//! The driver and patches: what fires, what misses and why, and what is refused.

use insta::assert_snapshot;
use llamac_ir::ops::{Act, Add, Gated, Linear, Mul, RmsNorm};
use llamac_ir::rewrite::{
    AnyOp, Decompose, Legality, NoMatch, OpRef, OpSet, Patch, PatchValue, Rule, RuleSet, Signature, apply,
    illegal_ops,
};
use llamac_ir::testing::{parse, run, run_set, summary};
use llamac_ir::{Activation, Graph, Loc, Op, ValueId, Weight};

/// A fusion as passes write them: `mul(act(linear x @gate), linear x @up)` becomes one linear and `gated`.
struct FuseGate;

impl Rule for FuseGate {
    const NAME: &'static str = "FuseGate";
    type Root = Mul;

    fn rewrite(&self, root: OpRef<'_, Mul>, target: &dyn OpSet) -> Result<Patch, NoMatch> {
        let g = root.graph();
        let act = root.operand_as::<Act>(0)?;
        let (gate, up) = (act.operand_as::<Linear>(0)?, root.operand_as::<Linear>(1)?);
        if gate.operands() != up.operands() {
            return Err(up.miss("gate and up have different inputs"));
        }
        for only in [act.only_use(), gate.only_use(), up.only_use()] {
            only?;
        }
        let weight = Weight::concat([gate.weight.clone(), up.weight.clone()]);
        let weight = weight.map_err(|error| root.miss(error.to_string()))?;
        let (linear, loc) = (Linear { weight, bias: None }, Loc::merge([gate.loc(), up.loc()]));
        let mut patch = Patch::new();
        let both = patch.add(g, &loc, linear, &[gate.operand(0).into()])?;
        let gated = patch.add(g, root.loc(), Gated { function: act.function }, &[both])?;
        patch.require_legal(g, target)?;
        Ok(patch.replace(root.value(), gated).erase([root.id(), act.id(), gate.id(), up.id()]))
    }
}

/// A target without some operations.
struct Without(&'static [&'static str]);

impl OpSet for Without {
    fn name(&self) -> &str {
        "a small target"
    }

    fn legality(&self, op: &Op, _: Signature<'_>) -> Legality {
        if self.0.contains(&op.mnemonic()) {
            return Legality::Illegal(format!("no {}", op.mnemonic()));
        }
        Legality::Legal
    }
}

const GATE: &str = "graph(%x: f32[batch, seq, 8], @gate: bf16[16, 8], @up: bf16[16, 8]) {
    %0 = linear %x, @gate : f32[batch, seq, 16] loc(mlp.gate_proj)
    %1 = act %0 {function=silu} : f32[batch, seq, 16] loc(mlp)
    %2 = linear %x, @up : f32[batch, seq, 16] loc(mlp.up_proj)
    %3 = mul %1, %2 : f32[batch, seq, 16] loc(mlp)
    return out=%3
}";

#[test]
fn a_rule_fires() {
    assert_snapshot!(run(FuseGate, GATE), @"
    graph<batch: 1.., seq: 1..>(
      %x: f32[batch, seq, 8],
      @gate: bf16[16, 8],
      @up: bf16[16, 8],
    ) {
      %0 = linear %x, concat(@gate, @up) : f32[batch, seq, 32]
      %1 = gated %0 {function=silu} : f32[batch, seq, 16]
      return out=%1
    }
    fired FuseGate once
    ");
}

#[test]
fn locations_are_merged() {
    let mut graph = parse(GATE);
    apply(&mut graph, &RuleSet::new().with(FuseGate), &AnyOp).unwrap();
    assert_snapshot!(graph.text_with_locs(), @"
    graph<batch: 1.., seq: 1..>(
      %x: f32[batch, seq, 8],
      @gate: bf16[16, 8],
      @up: bf16[16, 8],
    ) {
      %0 = linear %x, concat(@gate, @up) : f32[batch, seq, 32] loc(mlp.gate_proj, mlp.up_proj)
      %1 = gated %0 {function=silu} : f32[batch, seq, 16] loc(mlp)
      return out=%1
    }
    ");
}

#[test]
fn a_miss_says_why_and_where() {
    let mut graph = parse(&GATE.replace("return out=%3", "return out=%3, gate=%0"));
    let before = graph.clone();
    let report = apply(&mut graph, &RuleSet::new().with(FuseGate), &AnyOp).unwrap();
    assert_snapshot!(summary(&report), @"missed FuseGate: mlp.gate_proj: the value is a result of the graph too");
    assert!(graph == before && !report.changed());
    assert_snapshot!(run(FuseGate, &GATE.replace("%3 = mul %1, %2", "%3 = mul %2, %1")), @"
    graph<batch: 1.., seq: 1..>(
      %x: f32[batch, seq, 8],
      @up: bf16[16, 8],
      @gate: bf16[16, 8],
    ) {
      %0 = linear %x, @up : f32[batch, seq, 16]
      %1 = linear %x, @gate : f32[batch, seq, 16]
      %2 = act %1 {function=silu} : f32[batch, seq, 16]
      %3 = mul %0, %2 : f32[batch, seq, 16]
      return out=%3
    }
    missed FuseGate: mlp.up_proj: expected act, found linear
    ");
}

#[test]
fn a_fusion_asks_what_is_legal() {
    let mut graph = parse(GATE);
    let report = apply(&mut graph, &RuleSet::new().with(FuseGate), &Without(&["gated"])).unwrap();
    assert_snapshot!(summary(&report), @"missed FuseGate: mlp: gated is not legal for a small target: no gated");
}

#[test]
fn what_is_illegal_is_decomposed() {
    let text = "graph(
      %x: f32[batch, seq, 8], %y: f32[batch, seq, 8], %p: i64[batch, seq], %n: i64[], @w: f32[8], @up: f32[16, 8],
    ) {
      %0, %1 = add_rms_norm %x, %y, @w {eps=1e-5} : f32[batch, seq, 8], f32[batch, seq, 8]
      %2 = linear %1, @up : f32[batch, seq, 16]
      %3 = gated %2 {function=gelu} : f32[batch, seq, 8]
      %4 = rope %3, %p {heads=2, head_dim=4, theta=10000.0, scaling=default, interleaved=true} : f32[batch, seq, 8]
      %5 = rope %4, %p, %n {heads=1, head_dim=8, theta=10000.0, scaling=dynamic(factor=2.0, max_position=8), interleaved=false} : f32[batch, seq, 8]
      %6 = rope %5, %p, %n {heads=2, head_dim=4, theta=10000.0, scaling=longrope(short=[1.0, 1.5], long=[2.0, 4.0], original_max_position=16, attention_factor=1.25), interleaved=false} : f32[batch, seq, 8]
      %7 = add %0, %6 : f32[batch, seq, 8]
      return out=%7
    }";
    let small = Without(&["add_rms_norm", "gated", "rope"]);
    let illegal: Vec<_> = illegal_ops(&parse(text), &small).into_iter().map(|op| op.mnemonic).collect();
    assert_eq!(illegal, ["add_rms_norm", "gated", "rope", "rope", "rope"]);
    assert_snapshot!(run_set(&RuleSet::new().with(Decompose), &small, text), @"
    graph<batch: 1.., seq: 1..>(
      %x: f32[batch, seq, 8],
      %y: f32[batch, seq, 8],
      %p: i64[batch, seq],
      %n: i64[],
      @w: f32[8],
      @up: f32[16, 8],
    ) {
      %0 = add %x, %y : f32[batch, seq, 8]
      %1 = rms_norm %0, @w {eps=1e-5} : f32[batch, seq, 8]
      %2 = linear %1, @up : f32[batch, seq, 16]
      %3, %4 = split %2 {sizes=[8, 8]} : f32[batch, seq, 8], f32[batch, seq, 8]
      %5 = act %3 {function=gelu} : f32[batch, seq, 8]
      %6 = mul %5, %4 : f32[batch, seq, 8]
      %7, %8 = rotary_angles %p, inv_freq(theta=10000.0, head_dim=4, scaling=default, set=short) {factor=1.0} : f32[batch, seq, 2], f32[batch, seq, 2]
      %9 = rotary %6, %7, %8 {heads=2, head_dim=4, interleaved=true} : f32[batch, seq, 8]
      %10, %11 = rotary_angles %p, %n {factor=1.0, theta=10000.0, stretch=2.0, max_position=8, head_dim=8} : f32[batch, seq, 4], f32[batch, seq, 4]
      %12 = rotary %9, %10, %11 {heads=1, head_dim=8, interleaved=false} : f32[batch, seq, 8]
      %13, %14 = rotary_angles %p, %n, inv_freq(theta=10000.0, head_dim=4, scaling=longrope(short=[1.0, 1.5], long=[2.0, 4.0], original_max_position=16, attention_factor=1.25), set=short), inv_freq(theta=10000.0, head_dim=4, scaling=longrope(short=[1.0, 1.5], long=[2.0, 4.0], original_max_position=16, attention_factor=1.25), set=long) {factor=1.25, threshold=16} : f32[batch, seq, 2], f32[batch, seq, 2]
      %15 = rotary %12, %13, %14 {heads=2, head_dim=4, interleaved=false} : f32[batch, seq, 8]
      %16 = add %0, %15 : f32[batch, seq, 8]
      return out=%16
    }
    fired Decompose 5 times
    ");
}

/// Wraps every `add` in another one, for ever.
struct Grow;

impl Rule for Grow {
    const NAME: &'static str = "Grow";
    type Root = Add;

    fn rewrite(&self, root: OpRef<'_, Add>, _: &dyn OpSet) -> Result<Patch, NoMatch> {
        let mut patch = Patch::new();
        let more =
            patch.add(root.graph(), root.loc(), Add, &[root.value().into(), root.operand(0).into()])?;
        Ok(patch.replace(root.value(), more))
    }
}

#[test]
fn rules_that_never_end_are_stopped() {
    let mut graph = parse("graph(%x: f32[batch, 8]) { %0 = add %x, %x : f32[batch, 8] return out=%0 }");
    let error = apply(&mut graph, &RuleSet::new().with(Grow), &AnyOp).unwrap_err();
    assert_snapshot!(error, @"no fixpoint after 1101 rewrites, the last by rule Grow");
}

fn chain() -> (Graph, [ValueId; 3]) {
    let graph = parse(
        "graph(%x: f32[batch, 8], @w: f32[4, 8]) {
          %0 = act %x {function=silu} : f32[batch, 8]
          %1 = act %0 {function=relu} : f32[batch, 8]
          %2 = linear %1, @w : f32[batch, 4]
          return inner=%1, out=%2
        }",
    );
    let order = graph.order();
    let values = [0, 1, 2].map(|i| graph.values(order[i]).next().unwrap());
    (graph, values)
}

fn refusal(patch: impl FnOnce(&Graph, [ValueId; 3]) -> Patch) -> String {
    let (mut graph, values) = chain();
    let before = graph.clone();
    let error = patch(&graph, values).apply(&mut graph).unwrap_err();
    assert!(graph == before, "a refused patch changed the graph");
    graph.verify().unwrap();
    error.to_string()
}

#[test]
fn wrong_patches_are_refused_whole() {
    let act = |g: &Graph, patch: &mut Patch, arg: PatchValue| {
        patch.add(g, &Loc::none(), Act { function: Activation::Gelu }, &[arg]).unwrap()
    };
    assert_snapshot!(refusal(|_, [a, _, c]| Patch::new().replace(c, a)), @"a value of type f32[batch, 4] is replaced by one of type f32[batch, 8]");
    assert_snapshot!(refusal(|_, [a, b, _]| Patch::new().replace(a, b)), @"a value would depend on itself");
    assert_snapshot!(refusal(|g, [a, b, _]| {
        let mut patch = Patch::new();
        let new = act(g, &mut patch, b.into());
        patch.replace(a, new)
    }), @"a value would depend on itself");
    assert_snapshot!(refusal(|_, [a, ..]| Patch::new().erase([a.node])), @"a value of the erased node at ? is still used");
    assert_snapshot!(refusal(|g, [a, b, _]| {
        let mut patch = Patch::new();
        let new = act(g, &mut patch, a.into());
        patch.replace(b, new).erase([a.node, b.node])
    }), @"the new act uses a later or erased value");
    assert_snapshot!(refusal(|g, [a, b, _]| {
        let mut patch = Patch::new();
        let new = act(g, &mut patch, a.into());
        patch.replace(b, new).replace(b, a)
    }), @"a value is replaced twice");
    assert_snapshot!(refusal(|g, [a, b, _]| {
        let x = g.param("x").unwrap();
        Patch::new().replace(b, a).replace(a, x)
    }), @"a value is replaced by one that is erased or replaced itself");
    assert_snapshot!(refusal(|g, _| Patch::new().erase([g.param("x").unwrap().node])), @"what is erased is not an operation of the graph");
}

#[test]
fn an_operation_that_does_not_fit_is_a_miss() {
    let (graph, [a, ..]) = chain();
    let weight = Weight::source("n", llamac_ir::DType::F32, &[7]).unwrap();
    let norm = RmsNorm { weight, eps: 1e-5.into() };
    let miss = Patch::new().add(&graph, &Loc::new("norm"), norm, &[a.into()]).unwrap_err();
    assert_snapshot!(miss, @"norm: rms_norm: the weight must hold floats of shape [8], found f32[7]");
}

#[test]
fn uses_of_a_replaced_value_move_but_not_those_of_new_operations() {
    let (mut graph, [_, b, _]) = chain();
    let mut patch = Patch::new();
    let wrapped = patch.add(&graph, &Loc::none(), Add, &[b.into(), b.into()]).unwrap();
    patch.replace(b, wrapped).apply(&mut graph).unwrap();
    graph.verify().unwrap();
    assert_snapshot!(graph, @"
    graph<batch: 1..>(
      %x: f32[batch, 8],
      @w: f32[4, 8],
    ) {
      %0 = act %x {function=silu} : f32[batch, 8]
      %1 = act %0 {function=relu} : f32[batch, 8]
      %2 = add %1, %1 : f32[batch, 8]
      %3 = linear %2, @w : f32[batch, 4]
      return inner=%2, out=%3
    }
    ");
}
