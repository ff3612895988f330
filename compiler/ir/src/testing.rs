//! The harness of rules: IR text in, IR text out, and numeric equivalence for nothing.
//!
//! Everything here panics with a message where a rule or a graph is wrong, as tests do.

use std::collections::BTreeMap;
use std::fmt::Write;

use ndarray::{ArrayD, Axis, IxDyn};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::ops::{Attention, Embed, KeepLast, PoolLast};
use crate::rewrite::{AnyOp, DynRule, OpSet, Report, RuleSet, apply_verifying};
use crate::weight::evaluate as evaluate_weight;
use crate::{Bindings, DType, Graph, OpDef, Symbol, Tensor, ValueId, Weight, evaluate};

/// Sets of random sizes and values that a graph is evaluated with.
const SEEDS: std::ops::Range<u64> = 0..4;
/// The difference allowed between two evaluations, relative to the largest magnitude of a result, or to 1.
pub const TOLERANCE: f32 = 1e-5;

/// Applies one rule, for no particular target, to the graph that `text` is. See [`run_set`].
pub fn run(rule: impl DynRule + 'static, text: &str) -> String {
    run_set(&RuleSet::new().with(rule), &AnyOp, text)
}

/// Applies `rules` for `target` to the graph that `text` is, to a fixpoint.
///
/// The graph is verified before and after each change, its text is printed, parsed and printed again, and it is evaluated before
/// and after at random small sizes with random weights. The result is the text after, then a line for each rule
/// that fired and for each miss, made for a snapshot.
pub fn run_set(rules: &RuleSet, target: &dyn OpSet, text: &str) -> String {
    let before = parse(text);
    let mut after = before.clone();
    let report =
        apply_verifying(&mut after, rules, target).unwrap_or_else(|error| panic!("{error}\n{before}"));
    assert_round_trip(&after);
    assert_equivalent(&before, &after);
    format!("{after}{}", summary(&report))
}

/// The graph that `text` is.
pub fn parse(text: &str) -> Graph {
    let graph = Graph::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_round_trip(&graph);
    graph
}

/// What rules did, a line each: `fired FuseQkv 2 times`, `missed FuseQkv: where: why`.
pub fn summary(report: &Report) -> String {
    let mut text = String::new();
    for firing in report.firings.iter().filter(|firing| firing.count > 0) {
        let times = if firing.count == 1 { "once".to_owned() } else { format!("{} times", firing.count) };
        let _ = writeln!(text, "fired {} {times}", firing.rule);
    }
    for miss in &report.misses {
        let _ = writeln!(text, "missed {}: {}", miss.rule, miss.no_match);
    }
    text
}

/// Fails unless the graph is valid, and its text reads back as the same graph and prints as the same text.
pub fn assert_round_trip(graph: &Graph) {
    graph.verify().unwrap_or_else(|errors| panic!("{errors}"));
    let read = |text: &str| Graph::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let text = graph.to_string();
    assert_eq!(read(&text).to_string(), text);
    assert!(read(&graph.text_with_locs()) == *graph, "the text reads back as another graph:\n{text}");
}

/// Fails unless both graphs give the same results, within [`TOLERANCE`], for random sizes, inputs and weights.
pub fn assert_equivalent(before: &Graph, after: &Graph) {
    for seed in SEEDS {
        let (inputs, bindings) = random_inputs(before, seed);
        let weights = |weight: &Weight| random_weight(weight, seed);
        let [before, after] = [before, after].map(|graph| {
            evaluate(graph, &inputs, &bindings, &weights).unwrap_or_else(|error| panic!("{error}\n{graph}"))
        });
        let names = |results: &[(String, Tensor)]| results.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
        assert_eq!(names(&before), names(&after), "the results changed their names");
        for ((name, expected), (_, found)) in before.iter().zip(&after) {
            assert_close(name, expected, found);
        }
    }
}

fn assert_close(name: &str, expected: &Tensor, found: &Tensor) {
    let (Tensor::F32(expected), Tensor::F32(found)) = (expected, found) else {
        assert_eq!(expected, found, "result {name}");
        return;
    };
    assert_eq!(expected.shape(), found.shape(), "result {name}");
    let scale = expected.iter().fold(1f32, |scale, x| scale.max(x.abs()));
    for (expected, found) in expected.iter().zip(found) {
        let same = expected == found || (expected.is_nan() && found.is_nan());
        let fits = same || (expected - found).abs() <= TOLERANCE * scale;
        assert!(fits, "result {name}: {found} after, {expected} before, magnitude {scale}");
    }
}

/// Small random sizes within the bounds of `graph`, and inputs that its operations accept.
pub fn random_inputs(graph: &Graph, seed: u64) -> (BTreeMap<String, Tensor>, Bindings) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut bindings = Bindings::new();
    for symbol in Symbol::ALL {
        let bounds = graph.bounds(symbol);
        let highest = match symbol {
            Symbol::Batch => 3,
            Symbol::Seq => 5,
            Symbol::Past => 4,
            Symbol::Keep => bindings.get(Symbol::Seq).unwrap_or(1),
        };
        let max = highest.max(bounds.min).min(bounds.max.unwrap_or(i64::MAX));
        bindings.set(symbol, rng.random_range(bounds.min..=max));
    }
    let mut inputs = BTreeMap::new();
    for (name, value) in graph.params() {
        let ty = graph.ty(value);
        let sizes = ty.sizes(&bindings).unwrap_or_else(|symbol| panic!("{symbol:?} has no value"));
        let shape: Vec<usize> =
            sizes.iter().map(|&n| usize::try_from(n).expect("sizes are positive")).collect();
        let tensor = match ty.dtype {
            DType::I64 => {
                let limit = integer_limit(graph, value);
                let mut values = ArrayD::from_shape_simple_fn(IxDyn(&shape), || rng.random_range(0..limit));
                if is_operand::<Attention>(graph, value, 3) && shape[1] > 0 {
                    // What a query gets that sees no key, not all forms of attention agree on.
                    values.index_axis_mut(Axis(1), 0).fill(1);
                }
                if is_operand::<KeepLast>(graph, value, 1) {
                    values.fill(bindings.get(Symbol::Keep).unwrap_or(1));
                }
                values.into()
            }
            _ => ArrayD::from_shape_simple_fn(IxDyn(&shape), || rng.random_range(-1f32..1.0)).into(),
        };
        inputs.insert(name.to_owned(), tensor);
    }
    (inputs, bindings)
}

/// Whether an operation of kind `T` has `value` as this operand.
fn is_operand<T: OpDef>(graph: &Graph, value: ValueId, operand: usize) -> bool {
    let mut uses = graph.uses(value).into_iter();
    uses.any(|(node, used)| used == operand && graph.op_ref::<T>(node).is_some())
}

/// A bound of an integer input that all its uses accept: rows of a table, masks of 0 and 1, few tokens where padding
/// matters, otherwise positions and lengths that cross small thresholds.
fn integer_limit(graph: &Graph, value: ValueId) -> i64 {
    let limits = graph.uses(value).into_iter().map(|(node, operand)| {
        if let Some(embed) = graph.op_ref::<Embed>(node) {
            i64::try_from(embed.table.shape()[0]).unwrap_or(i64::MAX)
        } else if operand == 3 && graph.op_ref::<Attention>(node).is_some() {
            2
        } else if graph.op_ref::<PoolLast>(node).is_some() {
            3
        } else {
            40
        }
    });
    limits.min().unwrap_or(40)
}

/// The value of a recipe whose checkpoint tensors are random, the same for the same name and seed.
pub fn random_weight(weight: &Weight, seed: u64) -> Result<ArrayD<f32>, String> {
    let mut shapes = BTreeMap::new();
    weight.for_each_source(&mut |source, name| {
        shapes.insert(name.to_owned(), source.clone());
    });
    evaluate_weight(weight, &mut |name| {
        let source = &shapes[name];
        let hash = name.bytes().fold(seed, |hash, byte| hash.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte));
        let mut rng = SmallRng::seed_from_u64(hash);
        let dtype = source.dtype();
        Ok(ArrayD::from_shape_simple_fn(IxDyn(source.shape()), || dtype.round(rng.random_range(-1f32..1.0))))
    })
}
