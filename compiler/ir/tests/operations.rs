//! The meaning of single operations where it is easy to get wrong, and the evaluator's own errors.

use std::collections::BTreeMap;

use insta::assert_snapshot;
use llamac_ir::testing::{parse, random_inputs, random_weight};
use llamac_ir::{Bindings, Graph, Symbol, Tensor, Weight, evaluate};

/// The first result of the graph over inputs given as shape and values.
fn eval(text: &str, inputs: &[(&str, Tensor)], bindings: Bindings) -> Result<Vec<f32>, String> {
    let inputs = inputs.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
    let weights = |weight: &Weight| random_weight(weight, 1);
    let results = evaluate(&parse(text), &inputs, &bindings, &weights).map_err(|error| error.to_string())?;
    Ok(results[0].1.as_f32()?.iter().copied().collect())
}

fn floats(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::floats(shape, values.to_vec()).unwrap()
}

fn integers(shape: &[usize], values: &[i64]) -> Tensor {
    Tensor::integers(shape, values.to_vec()).unwrap()
}

fn pool(pad: &str, ids: &[i64]) -> f32 {
    let text = format!(
        "graph(%x: f32[batch, seq, 1], %ids: i64[batch, seq]) {{
          %0 = pool_last %x, %ids {{pad={pad}}} return out=%0 }}"
    );
    let x = floats(&[1, 4, 1], &[0.0, 1.0, 2.0, 3.0]);
    eval(&text, &[("x", x), ("ids", integers(&[1, 4], ids))], Bindings::new()).unwrap()[0]
}

#[test]
fn pooling_takes_the_rightmost_token_that_is_not_padding() {
    assert_eq!(pool("9", &[1, 2, 9, 9]), 1.0);
    assert_eq!(pool("9", &[9, 9, 1, 2]), 3.0);
    assert_eq!(pool("9", &[1, 9, 2, 9]), 2.0);
    assert_eq!(pool("9", &[9, 9, 9, 9]), 0.0);
    assert_eq!(pool("none", &[9, 9, 9, 9]), 3.0);
    let text = "graph(%x: f32[batch, seq, 1]) { %0 = pool_last %x {pad=9} return out=%0 }";
    let x = floats(&[2, 2, 1], &[1.0, 2.0, 3.0, 4.0]);
    assert_eq!(eval(text, &[("x", x)], Bindings::new()).unwrap(), [2.0, 4.0]);
}

/// Attention of two queries over three keys, the first of them cached, with uniform scores.
fn attend(causal: bool, mask: &[i64]) -> Vec<f32> {
    let text = format!(
        "graph(%q: f32[batch, seq, 4], %k: f32[batch, 1, past, 2], %v: f32[batch, 1, past, 2], %mask: i64[batch, past]) {{
          %0 = attention %q, %k, %v, %mask {{heads=2, kv_heads=1, head_dim=2, scale=0.5, causal={causal}}}
          return out=%0 }}"
    );
    let inputs = [
        ("q", floats(&[1, 2, 4], &[0.0; 8])),
        ("k", floats(&[1, 1, 3, 2], &[1.0; 6])),
        ("v", floats(&[1, 1, 3, 2], &[1.0, 0.0, 2.0, 0.0, 6.0, 0.0])),
        ("mask", integers(&[1, 3], mask)),
    ];
    eval(&text, &inputs, Bindings::new()).unwrap().into_iter().step_by(4).collect()
}

#[test]
fn attention_sees_what_mask_and_order_allow() {
    assert_eq!(attend(false, &[1, 1, 1]), [3.0, 3.0]);
    assert_eq!(attend(true, &[1, 1, 1]), [1.5, 3.0]);
    assert_eq!(attend(true, &[0, 1, 1]), [2.0, 4.0]);
    assert_eq!(attend(true, &[0, 0, 1]), [0.0, 6.0], "a query without keys gives zeros");
}

#[test]
fn grouped_heads_are_repeated_side_by_side() {
    let grouped = "graph(%q: f32[batch, seq, 8], %k: f32[batch, 2, past, 2]) {
      %0 = attention %q, %k, %k {heads=4, kv_heads=2, head_dim=2, scale=0.7, causal=true} return out=%0 }";
    let repeated = "graph(%q: f32[batch, seq, 8], %k: f32[batch, 2, past, 2]) {
      %0 = repeat_kv %k {groups=2}
      %1 = attention %q, %0, %0 {heads=4, kv_heads=4, head_dim=2, scale=0.7, causal=true} return out=%1 }";
    llamac_ir::testing::assert_equivalent(&parse(grouped), &parse(repeated));
}

/// Meta's layout with permuted projections is Hugging Face's layout.
#[test]
fn interleaved_rotation_is_a_permutation_of_rows() {
    let graph = |weight: &str, interleaved: bool| {
        parse(&format!(
            "graph(%x: f32[batch, seq, 8], %y: f32[batch, seq, 8], %p: i64[batch, seq], %past: f32[batch, 2, past, 4], @w: f32[8, 8]) {{
              %0 = linear %x, {weight}
              %1 = rope %0, %p {{heads=2, head_dim=4, theta=100.0, scaling=default, interleaved={interleaved}}}
              %2 = linear %y, {weight}
              %3 = rope %2, %p {{heads=2, head_dim=4, theta=100.0, scaling=default, interleaved={interleaved}}}
              %4 = kv_append %past, %3
              %5 = kv_append %past, %x
              %6 = attention %1, %4, %5 {{heads=2, kv_heads=2, head_dim=4, scale=0.5, causal=true}}
              return out=%6 }}"
        ))
    };
    // The cache is empty here: old keys would be in the other layout.
    let run = |graph: &Graph| {
        let (mut inputs, bindings) = random_inputs(graph, 3);
        let batch = inputs["x"].shape()[0];
        inputs.insert("past".to_owned(), floats(&[batch, 2, 0, 4], &[]));
        let weights = |weight: &Weight| random_weight(weight, 3);
        let bindings = bindings.with(Symbol::Past, 0);
        evaluate(graph, &inputs, &bindings, &weights).unwrap()[0].1.as_f32().unwrap().clone()
    };
    let meta = run(&graph("@w", true));
    let face = run(&graph("interleaved_to_half(@w, heads=2, head_dim=4)", false));
    let wrong = run(&graph("@w", false));
    assert!((&meta - &face).iter().all(|difference| difference.abs() < 1e-6));
    assert!((&meta - &wrong).iter().any(|difference| difference.abs() > 1e-3));
}

#[test]
fn the_last_positions_are_kept() {
    let text = "graph(%x: f32[batch, seq, 1]) { %0 = keep_last %x return out=%0 }";
    let x = || floats(&[2, 3, 1], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let keep = |n| eval(text, &[("x", x())], Bindings::new().with(Symbol::Keep, n));
    assert_eq!(keep(2).unwrap(), [2.0, 3.0, 5.0, 6.0]);
    assert_eq!(keep(4).unwrap_err(), "keep_last at ?: keep is 4, but there are 3 positions");
    assert_eq!(keep(0).unwrap_err(), "the symbol keep: 0 is not within 1..");
    let unbound = eval(text, &[("x", x())], Bindings::new()).unwrap_err();
    assert_eq!(unbound, "keep_last at ?: the symbol keep has no value");
}

#[test]
fn inputs_are_checked() {
    let text = "graph<seq: 1..=2>(%ids: i64[batch, seq], %p: i64[batch, seq], @e: f32[3, 2]) {
      %0 = embed %ids, @e loc(model.embed_tokens) return out=%0 }";
    let run = |inputs: &[(&str, Tensor)]| eval(text, inputs, Bindings::new()).unwrap_err();
    let ids = |values: &[i64]| ("ids", integers(&[1, values.len()], values));
    let p = || ("p", integers(&[1, 2], &[0, 1]));
    assert_snapshot!(run(&[ids(&[0, 3]), p()]), @"embed at model.embed_tokens: token 3 is outside a vocabulary of 3");
    assert_snapshot!(run(&[ids(&[0, -1]), p()]), @"embed at model.embed_tokens: token -1 is outside a vocabulary of 3");
    assert_snapshot!(run(&[ids(&[0, 1])]), @"the input `p` is missing");
    assert_snapshot!(run(&[ids(&[0, 1]), p(), ("q", floats(&[], &[1.0]))]), @"the graph has no input `q`");
    assert_snapshot!(run(&[ids(&[0]), p()]), @"the input `p`: expected i64[batch, seq] = [1, 1], found i64[1, 2]");
    assert_snapshot!(run(&[("ids", floats(&[1, 2], &[0.0, 1.0])), p()]), @"the input `ids`: expected i64[batch, seq] = [1, 2], found f32[1, 2]");
    let three = || integers(&[1, 3], &[0, 1, 2]);
    assert_snapshot!(run(&[("ids", three()), ("p", three())]), @"the symbol seq: 3 is not within 1..=2");
    let short = |_: &Weight| Ok(ndarray::ArrayD::zeros(vec![3]));
    let inputs = BTreeMap::from([("ids".to_owned(), ids(&[0, 1]).1), ("p".to_owned(), p().1)]);
    let error = evaluate(&parse(text), &inputs, &Bindings::new(), &short).unwrap_err();
    assert_snapshot!(error, @"embed at model.embed_tokens: @e: expected shape [3, 2], found [3]");
}

#[test]
fn operands_are_checked() {
    let error = |instruction: &str| {
        let header = "graph(%x: f32[batch, seq, 8], %y: f32[batch, keep, 8], %i: i64[batch, seq], %n: i64[],
            %c: f32[batch, 2, past, 4], %m: f32[batch, 8], @w: f32[8, 8], @b: f32[7], @i: i64[8]) { %0 =";
        let text = format!("{header} {instruction} return out=%0 }}");
        let error = Graph::parse(&text).unwrap_err().to_string();
        // The place and the excerpt are the parser's, which has tests of its own.
        error.lines().next().unwrap().split_once(": ").unwrap().1.to_owned()
    };
    assert_snapshot!(error("add %x, %y"), @"add: f32[batch, seq, 8] and f32[batch, keep, 8] do not broadcast");
    assert_snapshot!(error("mul %i, %x"), @"mul: a and b must be numbers of one element type, found i64[batch, seq] and f32[batch, seq, 8]");
    assert_snapshot!(error("embed %x, @w"), @"embed: ids must be i64, found f32[batch, seq, 8]");
    assert_snapshot!(error("embed %i, @i"), @"embed: the table must hold floats [vocabulary, width], found i64[8]");
    assert_snapshot!(error("linear %x, @w, @b"), @"linear: the bias must hold floats of shape [8], found f32[7]");
    assert_snapshot!(error("linear %x, @b"), @"linear: the weight must be [out, in], found f32[7]");
    assert_snapshot!(error("rms_norm %x, @i {eps=1.0}"), @"rms_norm: the weight must hold floats of shape [8], found i64[8]");
    assert_snapshot!(error("split %x {sizes=[4, 5]}"), @"split: sizes [4, 5] do not add up to 8");
    assert_snapshot!(error("split %x {sizes=[]}"), @"split: sizes [] do not add up to 8");
    assert_snapshot!(error("keep_last %m"), @"keep_last: x must be f32 of 3 dimensions, found f32[batch, 8]");
    assert_snapshot!(error("pool_last %y, %i {pad=none}"), @"pool_last: ids must be i64[batch, keep], found i64[batch, seq]");
    assert_snapshot!(error("kv_append %c, %y, %y"), @"kv_append: takes 2 operands, found 3");
    assert_snapshot!(error("kv_append %x, %x"), @"kv_append: past must be f32 of 4 dimensions, found f32[batch, seq, 8]");
    assert_snapshot!(error("repeat_kv %c {groups=0}"), @"repeat_kv: groups must be at least 1");
    assert_snapshot!(error("attention %x, %c, %c {heads=3, kv_heads=2, head_dim=4, scale=0.5, causal=true}"), @"attention: 3 heads are not a multiple of 2 key heads");
    assert_snapshot!(error("attention %x, %c, %c {heads=4, kv_heads=2, head_dim=2, scale=0.5, causal=true}"), @"attention: k must be f32[batch, 2, past, 2], found f32[batch, 2, past, 4]");
    assert_snapshot!(error("attention %x, %c, %c, %i {heads=2, kv_heads=2, head_dim=4, scale=0.5, causal=true}"), @"attention: mask must be i64[batch, past], found i64[batch, seq]");
    assert_snapshot!(error("rope %x, %i {heads=8, head_dim=1, theta=1.0, scaling=default, interleaved=false}"), @"rope: heads of size 1 cannot be rotated in pairs");
    assert_snapshot!(error("rope %x, %i, %n {heads=2, head_dim=4, theta=1.0, scaling=default, interleaved=false}"), @"rope: these frequencies depend on no length");
    assert_snapshot!(error("rope %x, %i {heads=2, head_dim=4, theta=1.0, scaling=dynamic(factor=2.0, max_position=8), interleaved=false}"), @"rope: these frequencies depend on a length, and there is none");
    assert_snapshot!(error("rope %x, %i, %n {heads=4, head_dim=2, theta=1.0, scaling=dynamic(factor=2.0, max_position=8), interleaved=false}"), @"rope: dynamic scaling has no exponent for heads of size 2");
    assert_snapshot!(error("rope %x, %i, %n {heads=2, head_dim=4, theta=1.0, scaling=longrope(short=[1.0], long=[1.0, 1.0], original_max_position=8, attention_factor=1.0), interleaved=false}"), @"rope: the short list has 1 divisors, expected 2");
    assert_snapshot!(error("rotary %x, %x, %x {heads=2, head_dim=4, interleaved=false}"), @"rotary: cos must be f32[batch, seq, 2], found f32[batch, seq, 8]");
    assert_snapshot!(error("rotary_angles %i, @i {factor=1.0}"), @"rotary_angles: frequencies must be an f32 vector, found i64[8]");
    assert_snapshot!(error("rotary_angles %i {factor=1.0}"), @"rotary_angles: attribute `theta` is missing");
    assert_snapshot!(error("add_rms_norm %x, %x, @b {eps=1.0}"), @"add_rms_norm: the weight must hold floats of shape [8], found f32[7]");
    assert_snapshot!(error("repeat_kv %c {groups=99999999999999999999}"), @"repeat_kv: attribute `groups`: `99999999999999999999` is not a valid value: number too large to fit in target type");
}
