//! The primitives of legalization on values that are worked out by hand, and what they refuse.

use std::collections::BTreeMap;

use insta::assert_snapshot;
use llamac_ir::testing::{assert_equivalent, parse, random_weight};
use llamac_ir::{Bindings, Graph, Symbol, Tensor, Weight, evaluate};

/// The results of the instructions over `%x f32[batch, seq, 2] = [[[1, 2], [3, 4], [5, 6]]]`, `%i i64[batch, seq] =
/// [[4, 0, 7]]`, `%k i64[1] = [-2]`, with the last value as the result.
fn run(instructions: &str) -> (Vec<usize>, Vec<f64>) {
    let text = format!(
        "graph(%x: f32[batch, seq, 2], %i: i64[batch, seq], %k: i64[1], %past: f32[past]) {{
           {instructions}
           return out=%out }}"
    );
    let inputs = [
        ("x", Tensor::floats(&[1, 3, 2], (1..=6u8).map(f32::from).collect()).unwrap()),
        ("i", Tensor::integers(&[1, 3], vec![4, 0, 7]).unwrap()),
        ("k", Tensor::integers(&[1], vec![-2]).unwrap()),
        ("past", Tensor::floats(&[4], vec![0.0; 4]).unwrap()),
    ];
    let inputs: BTreeMap<_, _> = inputs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let weights = |weight: &Weight| random_weight(weight, 1);
    let results = evaluate(&parse(&text), &inputs, &Bindings::new().with(Symbol::Keep, 2), &weights).unwrap();
    match &results[0].1 {
        Tensor::F32(out) => (out.shape().to_vec(), out.iter().map(|&value| value.into()).collect()),
        Tensor::I64(out) => (out.shape().to_vec(), out.iter().map(|&value| value as f64).collect()),
    }
}

/// A scalar.
fn scalar(name: &str, dtype: &str, value: &str) -> String {
    format!("%{name} = constant literal(dtype={dtype}, shape=[], values=[{value}]) ")
}

#[test]
fn shapes_change_and_numbers_stay() {
    let (shape, out) = run("%out = transpose %x {perm=[2, 0, 1]}");
    assert_eq!((shape, out), (vec![2, 1, 3], vec![1.0, 3.0, 5.0, 2.0, 4.0, 6.0]));
    let (shape, out) = run("%out = reshape %x {shape=[batch*seq, 2]}");
    assert_eq!((shape, out), (vec![3, 2], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    let (shape, out) = run("%out = concat %x, %x {axis=2}");
    assert_eq!((shape, out[..4].to_vec()), (vec![1, 3, 4], vec![1.0, 2.0, 1.0, 2.0]));
    let (shape, out) = run("%out = slice %x, %k {axis=1, size=keep}");
    assert_eq!((shape, out), (vec![1, 2, 2], vec![3.0, 4.0, 5.0, 6.0]));
    assert_eq!(run("%out = concat %i, %i {axis=0}"), (vec![2, 3], vec![4.0, 0.0, 7.0, 4.0, 0.0, 7.0]));
    let at = scalar("at", "i64", "-1.0");
    let (shape, out) = run(&format!("{at} %out = gather %x, %at {{axis=1}}"));
    assert_eq!((shape, out), (vec![1, 2], vec![5.0, 6.0]));
    let (shape, out) = run("%index = constant literal(dtype=i64, shape=[1, 1], values=[1.0])
         %r = reshape %x {shape=[batch*seq, 2]}
         %one = reshape %r {shape=[1, batch*seq, 2]}
         %out = gather_rows %one, %index");
    assert_eq!((shape, out), (vec![1, 2], vec![3.0, 4.0]));
    let (shape, out) = run("%two = constant literal(dtype=i64, shape=[2], values=[2.0, 3.0])
         %row = reshape %i {shape=[batch*seq]} %row1 = slice %i, %k {axis=1, size=2}
         %one = reshape %k {shape=[1, 1]} %out = expand %one, %two {shape=[2, 3]}");
    assert_eq!((shape, out), (vec![2, 3], vec![-2.0; 6]));
    let (shape, out) = run("%out = split_heads %x {heads=2}");
    assert_eq!((shape, out), (vec![1, 2, 3, 1], vec![1.0, 3.0, 5.0, 2.0, 4.0, 6.0]));
}

#[test]
fn sizes_and_positions_are_values() {
    assert_eq!(run("%out = shape %x {start=1, end=3}"), (vec![2], vec![3.0, 2.0]));
    assert_eq!(run("%out = positions %x"), (vec![1, 3], vec![0.0, 1.0, 2.0]));
    assert_eq!(run("%out = length %i"), (vec![], vec![8.0]));
    let range = "%s = shape %past {start=0, end=1} %n = shape %x {start=1, end=2} %end = add %s, %n
        %a = reshape %s {shape=[]} %b = reshape %end {shape=[]} %out = range %a, %b {length=seq}";
    assert_eq!(run(range), (vec![3], vec![4.0, 5.0, 6.0]));
}

#[test]
fn numbers_change() {
    let half = scalar("c", "f32", "0.5");
    let one = |instruction: &str| run(&format!("{half} %out = {instruction}")).1;
    assert_eq!(one("binary %x, %c {function=sub}")[..2], [0.5, 1.5]);
    assert_eq!(one("binary %x, %c {function=div}")[..2], [2.0, 4.0]);
    assert_eq!(one("binary %c, %x {function=pow}")[..3], [0.5, 0.25, 0.125]);
    assert_eq!(one("mul %x, %c")[..3], [0.5, 1.0, 1.5]);
    assert_eq!(one("add %c, %x")[..3], [1.5, 2.5, 3.5]);
    assert_eq!(one("binary %x, %c {function=less_or_equal}")[..2], [0.0, 0.0]);
    assert_eq!(one("binary %c, %x {function=less_or_equal}")[..2], [1.0, 1.0]);
    assert_eq!(one("binary %x, %c {function=greater}")[..2], [1.0, 1.0]);
    assert_eq!(run("%out = binary %x, %x {function=equal}").1, [1.0; 6]);
    let three = scalar("t", "i64", "4.0");
    let integer = |instruction: &str| run(&format!("{three} %out = {instruction}")).1;
    assert_eq!(integer("binary %i, %t {function=max}"), [4.0, 4.0, 7.0]);
    assert_eq!(integer("binary %i, %t {function=less_or_equal}"), [1.0, 1.0, 0.0]);
    assert_eq!(integer("binary %i, %t {function=greater}"), [0.0, 0.0, 1.0]);
    assert_eq!(integer("binary %i, %t {function=equal}"), [1.0, 0.0, 0.0]);
    assert_eq!(integer("unary %i {function=neg}"), [-4.0, 0.0, -7.0]);
    assert_eq!(run("%out = cast %i {to=bool}").1, [1.0, 0.0, 1.0]);
    assert_eq!(
        run("%b = cast %i {to=bool} %c = cast %x {to=i64} %out = binary %b, %b {function=and}").1,
        [1.0, 0.0, 1.0]
    );
    assert_eq!(run("%out = reduce %x {function=mean, axis=1}"), (vec![1, 1, 2], vec![3.0, 4.0]));
    assert_eq!(run("%out = reduce %i {function=max, axis=none}"), (vec![], vec![7.0]));
    let functions = [
        ("cos", [0.540_302_3, -0.416_146_8]),
        ("sin", [0.841_471, 0.909_297_4]),
        ("sqrt", [1.0, std::f64::consts::SQRT_2]),
        ("sigmoid", [0.731_058_6, 0.880_797]),
        ("erf", [0.842_700_8, 0.995_322_3]),
        ("tanh", [0.761_594_2, 0.964_027_6]),
        ("neg", [-1.0, -2.0]),
    ];
    for (function, expected) in functions {
        let (_, out) = run(&format!("%out = unary %x {{function={function}}}"));
        assert!(out.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{function}: {out:?}");
    }
    let (_, out) = run("%out = softmax %x");
    assert!((out[0] - 0.268_941_4).abs() < 1e-6 && (out[0] + out[1] - 1.0).abs() < 1e-6, "{out:?}");
    let (_, out) = run("%b = cast %i {to=bool} %c = reshape %b {shape=[batch, seq, 1]}
        %zero = constant literal(dtype=f32, shape=[], values=[0.0]) %out = where %c, %x, %zero");
    assert_eq!(out, [1.0, 2.0, 0.0, 0.0, 5.0, 6.0]);
    // [[1, 2], [3, 4], [5, 6]] · [[1, 3, 5], [2, 4, 6]]
    let (shape, out) = run("%t = transpose %x {perm=[0, 2, 1]} %out = matmul %x, %t");
    assert_eq!((shape, out), (vec![1, 3, 3], vec![5.0, 11.0, 17.0, 11.0, 25.0, 39.0, 17.0, 39.0, 61.0]));
}

/// The same attention with a mask, with a bias, with the cache grown inside, and with lengths.
#[test]
fn attentions_agree() {
    let header = "graph(%q: f32[batch, seq, 8], %k: f32[batch, seq, 4], %v: f32[batch, seq, 4],
        %pk: f32[batch, 1, past, 4], %pv: f32[batch, 1, past, 4], %b: f32[batch, 1, seq, past + seq],
        %rows: i64[batch], %m: i64[batch, past + seq]) {";
    let sizes = "{heads=2, kv_heads=1, head_dim=4, scale=0.5";
    let parts = parse(&format!(
        "{header} %ck = kv_append %pk, %k %cv = kv_append %pv, %v
        %a = attention %q, %ck, %cv, %b {sizes}, causal=false}} return out=%a, k=%ck, v=%cv }}"
    ));
    let whole = parse(&format!(
        "{header} %a, %ck, %cv = append_attention %q, %k, %v, %b, %pk, %pv {sizes}}} return out=%a, k=%ck, v=%cv }}"
    ));
    let lengths = parse(&format!(
        "{header} %n = shape %b {{start=3, end=4}} %n32 = cast %n {{to=i32}} %total = reshape %n32 {{shape=[]}}
        %one = constant literal(dtype=i32, shape=[], values=[1.0]) %last = binary %total, %one {{function=sub}}
        %batch = shape %b {{start=0, end=1}} %lasts = expand %last, %batch {{shape=[batch]}}
        %a, %ck, %cv = group_query_attention %q, %k, %v, %b, %lasts, %total, %pk, %pv {sizes}}}
        return out=%a, k=%ck, v=%cv }}"
    ));
    assert_equivalent(&parts, &whole);
    assert_equivalent(&parts, &lengths);
    // A causal attention is one whose bias hides what comes later.
    let causal = parse(&format!(
        "{header} %ck = kv_append %pk, %k %cv = kv_append %pv, %v
        %a = attention %q, %ck, %cv {sizes}, causal=true}} return out=%a }}"
    ));
    let biased = parse(&format!(
        "{header} %ck = kv_append %pk, %k %cv = kv_append %pv, %v
        %t = shape %b {{start=3, end=4}} %s = shape %b {{start=2, end=3}} %first = binary %t, %s {{function=sub}}
        %t0 = reshape %t {{shape=[]}} %f0 = reshape %first {{shape=[]}}
        %z = constant literal(dtype=i64, shape=[], values=[0.0])
        %keys = range %z, %t0 {{length=past + seq}} %queries = range %f0, %t0 {{length=seq}}
        %column = reshape %queries {{shape=[1, 1, seq, 1]}} %see = binary %keys, %column {{function=less_or_equal}}
        %no = constant literal(dtype=f32, shape=[], values=[-1e30]) %yes = constant literal(dtype=f32, shape=[], values=[0.0])
        %one = where %see, %yes, %no %rows1 = shape %b {{start=0, end=4}}
        %bias = expand %one, %rows1 {{shape=[batch, 1, seq, past + seq]}}
        %a = attention %q, %ck, %cv, %bias {sizes}, causal=false}} return out=%a }}"
    ));
    assert_equivalent(&causal, &biased);
}

#[test]
fn rotations_agree() {
    let header = "graph(%x: f32[batch, seq, 8], %c: f32[batch, seq, 2], %s: f32[batch, seq, 2]) {";
    let direct = parse(&format!(
        "{header} %y = rotary %x, %c, %s {{heads=2, head_dim=4, interleaved=false}} return out=%y }}"
    ));
    let looked_up = parse(&format!(
        "{header} %size = shape %c {{start=0, end=2}} %z = constant literal(dtype=i64, shape=[], values=[0.0])
        %tc = reshape %c {{shape=[batch*seq, 2]}} %ts = reshape %s {{shape=[batch*seq, 2]}}
        %n1 = shape %tc {{start=0, end=1}} %n = reshape %n1 {{shape=[]}} %all = range %z, %n {{length=batch*seq}}
        %rows = reshape %all {{shape=[batch, seq]}}
        %y = rotary_lookup %x, %rows, %tc, %ts {{heads=2, head_dim=4}} return out=%y }}"
    ));
    assert_equivalent(&direct, &looked_up);
}

#[test]
fn operands_are_checked() {
    let error = |instruction: &str| {
        let header = "graph(%x: f32[batch, seq, 8], %i: i64[batch, seq], %n: i64[], %b: bool[batch, seq],
            %m: f32[8, 4]) { %0 =";
        let error =
            Graph::parse(&format!("{header} {instruction} return out=%0 }}")).unwrap_err().to_string();
        // The place and the excerpt are the parser's, which has tests of its own.
        error.lines().next().unwrap().split_once(": ").unwrap().1.to_owned()
    };
    assert_snapshot!(error("matmul %x, %x"), @"matmul: f32[batch, seq, 8] and f32[batch, seq, 8] have no product");
    assert_snapshot!(error("matmul %m, %i"), @"matmul: a and b must be f32 matrices, found f32[8, 4] and i64[batch, seq]");
    assert_snapshot!(error("transpose %x {perm=[0, 2]}"), @"transpose: [0, 2] is no order of the dimensions of f32[batch, seq, 8]");
    assert_snapshot!(error("reshape %x {shape=[batch, seq, 2, 3]}"), @"reshape: f32[batch, seq, 8] and f32[batch, seq, 2, 3] have different numbers of elements");
    assert_snapshot!(error("concat %x, %m {axis=0}"), @"concat: f32[8, 4] does not fit to f32[batch, seq, 8] along dimension 0");
    assert_snapshot!(error("concat %x {axis=3}"), @"concat: f32[batch, seq, 8] has no dimension 3");
    assert_snapshot!(error("binary %b, %b {function=sub}"), @"binary: sub takes numbers, found bool");
    assert_snapshot!(error("binary %i, %i {function=div}"), @"binary: div takes floats, found i64");
    assert_snapshot!(error("binary %x, %i {function=max}"), @"binary: a and b must be of one element type, found f32[batch, seq, 8] and i64[batch, seq]");
    assert_snapshot!(error("binary %x, %m {function=max}"), @"binary: f32[batch, seq, 8] and f32[8, 4] do not broadcast");
    assert_snapshot!(error("unary %i {function=cos}"), @"unary: x must be f32, found i64[batch, seq]");
    assert_snapshot!(error("reduce %i {function=mean, axis=0}"), @"reduce: there is no mean of i64[batch, seq]");
    assert_snapshot!(error("reduce %i {function=max, axis=2}"), @"reduce: i64[batch, seq] has no dimension 2");
    assert_snapshot!(error("shape %i {start=1, end=3}"), @"shape: i64[batch, seq] has no dimensions 1 to 3");
    assert_snapshot!(error("range %n, %i {length=seq}"), @"range: limit must be i64[], found i64[batch, seq]");
    assert_snapshot!(error("where %i, %x, %x"), @"where: takes a bool and two tensors of one type, found i64[batch, seq], f32[batch, seq, 8] and f32[batch, seq, 8]");
    assert_snapshot!(error("split_heads %x {heads=3}"), @"split_heads: f32[batch, seq, 8] does not split into 3 heads");
    assert_snapshot!(error("constant literal(dtype=f32, shape=[2], values=[1.0])"), @"weight `literal(dtype=f32, shape=[2], values=[1.0])`: 1 values do not fill shape [2]");
}
