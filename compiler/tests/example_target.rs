//! The example of docs/adding-a-target.md: functions of Python over arrays of numpy.

use std::collections::HashMap;

use insta::assert_snapshot;
use llamac_compiler::target::{Legalized, Target, legalize};
use llamac_ir::ops::{Binary, BinaryFunction, Linear, Reduce, Reduction, Split, Unary, UnaryFunction};
use llamac_ir::rewrite::{Legality, NoMatch, OpRef, OpSet, Patch, Rule, RuleSet, Signature, Steps};
use llamac_ir::testing::{assert_equivalent, parse};
use llamac_ir::{Op, ValueId, Weight, WeightExpr};

/// Functions of Python over arrays of numpy.
#[derive(Clone, Copy, Debug)]
struct Numpy;

impl OpSet for Numpy {
    fn name(&self) -> &str {
        "numpy"
    }

    fn legality(&self, op: &Op, _: Signature<'_>) -> Legality {
        match op {
            Op::Unary(Unary { function: UnaryFunction::Sigmoid | UnaryFunction::Erf }) => {
                Legality::Illegal("numpy has no such function".to_owned())
            }
            Op::Add(_)
            | Op::Binary(Binary { function: BinaryFunction::Div | BinaryFunction::Pow })
            | Op::Constant(_)
            | Op::Linear(Linear { bias: None, .. })
            | Op::Mul(_)
            | Op::Reduce(Reduce { function: Reduction::Mean, axis: Some(_) })
            | Op::Split(_)
            | Op::Unary(Unary { function: UnaryFunction::Sqrt | UnaryFunction::Tanh }) => Legality::Legal,
            _ => Legality::Illegal("there is no expression for it".to_owned()),
        }
    }
}

/// `σ(x) = (1 + tanh(x / 2)) / 2`.
#[derive(Clone, Copy, Debug)]
struct SigmoidOfTanh;

impl Rule for SigmoidOfTanh {
    const NAME: &'static str = "SigmoidOfTanh";
    type Root = Unary;

    fn rewrite(&self, root: OpRef<'_, Unary>, target: &dyn OpSet) -> Result<Patch, NoMatch> {
        if root.function != UnaryFunction::Sigmoid {
            return Err(root.miss(format!("{} is no sigmoid", root.function)));
        }
        let mut steps = Steps::new(root);
        let (one, half) = (steps.number(1.0)?, steps.number(0.5)?);
        let inner = steps.product(root.operand(0).into(), half)?;
        let tanh = steps.unary(UnaryFunction::Tanh, inner)?;
        let more = steps.sum(tanh, one)?;
        let sigmoid = steps.product(more, half)?;
        let patch = steps.replace(root.value(), sigmoid);
        patch.require_legal(root.graph(), target)?;
        Ok(patch)
    }
}

impl Target for Numpy {
    fn summary(&self) -> &'static str {
        "a function of Python over arrays of numpy"
    }

    fn legalizations(&self) -> RuleSet {
        RuleSet::new().with(SigmoidOfTanh).where_illegal()
    }
}

/// The function `forward`: parameters, and weights by their recipes, to a dictionary of results.
fn emit(legalized: &Legalized) -> String {
    assert_eq!(legalized.target(), Numpy.name(), "a graph is emitted for the target that it is legal for");
    let graph = legalized.graph();
    let mut names: HashMap<ValueId, String> =
        graph.params().map(|(name, value)| (value, name.to_owned())).collect();
    let params: Vec<&str> = graph.params().map(|(name, _)| name).collect();
    let mut text = format!("def forward(w, {}):\n", params.join(", "));
    let mut count = 0;
    for node in graph.order() {
        let Some(op) = graph.op(node) else { continue };
        let operands: Vec<&str> = graph.operands(node).iter().map(|value| names[value].as_str()).collect();
        let expression = expression(op, &operands);
        let results: Vec<String> = graph.values(node).map(|_| next(&mut count)).collect();
        text += &format!("    {} = {expression}  # {}\n", results.join(", "), graph.loc(node));
        names.extend(graph.values(node).zip(results));
    }
    let results: Vec<String> =
        graph.results().map(|(name, value)| format!("{name:?}: {}", names[&value])).collect();
    text + &format!("    return {{{}}}\n", results.join(", "))
}

fn next(count: &mut usize) -> String {
    *count += 1;
    format!("v{count}")
}

/// One operation: what [`Numpy`] calls legal, and nothing else.
fn expression(op: &Op, operands: &[&str]) -> String {
    match (op, operands) {
        (Op::Add(_), [a, b]) => format!("{a} + {b}"),
        (Op::Binary(Binary { function: BinaryFunction::Div }), [a, b]) => format!("{a} / {b}"),
        (Op::Binary(Binary { function: BinaryFunction::Pow }), [a, b]) => format!("{a} ** {b}"),
        (Op::Constant(constant), []) => weight(&constant.weight),
        (Op::Linear(linear), [x]) => format!("{x} @ {}.T", weight(&linear.weight)),
        (Op::Mul(_), [a, b]) => format!("{a} * {b}"),
        (Op::Reduce(Reduce { axis: Some(axis), .. }), [x]) => format!("np.mean({x}, {axis}, keepdims=True)"),
        (Op::Split(Split { sizes }), [x]) => {
            let ends = sizes.iter().scan(0, |end, size| {
                *end += size;
                Some(*end)
            });
            format!("np.split({x}, {:?}, -1)", ends.take(sizes.len() - 1).collect::<Vec<_>>())
        }
        (Op::Unary(Unary { function }), [x]) => format!("np.{function}({x})"),
        _ => unreachable!("{} is not legal", op.mnemonic()),
    }
}

fn weight(weight: &Weight) -> String {
    match weight.expr() {
        WeightExpr::Literal { values, .. } if weight.shape().is_empty() => {
            format!("np.float32({})", values[0])
        }
        _ => format!("w[{:?}]", weight.to_string()),
    }
}

const BLOCK: &str =
    "graph(%x: f32[batch, seq, 8], @n: f32[8], @gate: f32[6, 8], @up: f32[6, 8], @d: f32[8, 6]) {
    %normed = rms_norm %x, @n {eps=0.00001} loc(norm)
    %both = linear %normed, concat(@gate, @up) loc(mlp.gate_up)
    %gated = gated %both {function=silu} loc(mlp)
    %y = linear %gated, @d loc(mlp.down)
    return y=%y }";

#[test]
fn legalization_keeps_the_meaning() {
    let before = parse(BLOCK);
    let (legalized, report) = legalize(before.clone(), &Numpy).unwrap();
    assert_equivalent(&before, legalized.graph());
    assert_eq!(report.firings[0].count, 1, "{report:?}");
}

#[test]
fn an_operation_is_an_expression() {
    let (legalized, _) = legalize(parse(BLOCK), &Numpy).unwrap();
    assert_snapshot!(emit(&legalized), @r#"
    def forward(w, x):
        v1 = np.float32(2.0)  # norm
        v2 = x ** v1  # norm
        v3 = np.mean(v2, 2, keepdims=True)  # norm
        v4 = np.float32(1e-5)  # norm
        v5 = v3 + v4  # norm
        v6 = np.sqrt(v5)  # norm
        v7 = x / v6  # norm
        v8 = w["@n"]  # norm
        v9 = v7 * v8  # norm
        v10 = v9 @ w["concat(@gate, @up)"].T  # mlp.gate_up
        v11, v12 = np.split(v10, [6], -1)  # mlp
        v13 = np.float32(0.5)  # mlp
        v14 = v11 * v13  # mlp
        v15 = np.tanh(v14)  # mlp
        v16 = np.float32(1.0)  # mlp
        v17 = v15 + v16  # mlp
        v18 = v17 * v13  # mlp
        v19 = v11 * v18  # mlp
        v20 = v19 * v12  # mlp
        v21 = v20 @ w["@d"].T  # mlp.down
        return {"y": v21}
    "#);
}

#[test]
fn what_stays_illegal_is_reported() {
    let text = "graph(%x: f32[batch, seq, 8]) {
        %y = act %x {function=gelu} loc(mlp.act) %z = keep_last %y loc(lm_head) return out=%z }";
    assert_snapshot!(legalize(parse(text), &Numpy).unwrap_err(), @"
    error[E0500]: an operation cannot be expressed on the target
      --> unary at mlp.act
       numpy cannot take it: numpy has no such function
       help: SigmoidOfTanh did not apply: erf is no sigmoid
    error[E0500]: an operation cannot be expressed on the target
      --> keep_last at lm_head
       numpy cannot take it: there is no expression for it
       help: Decompose did not apply: there is no value of the size
    ");
}

/// What the book quotes is all of this file between imports and tests.
#[test]
fn the_book_quotes_this_file() {
    let lines = |text: &'static str| text.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>();
    let blocks = include_str!("../../docs/adding-a-target.md").split("```rs\n").skip(1);
    let quoted: Vec<&str> = blocks.filter_map(|rest| rest.split("```").next()).flat_map(lines).collect();
    let file = lines(include_str!("example_target.rs"));
    let place = |start: &str| file.iter().position(|line| line.starts_with(start)).expect(start);
    assert_eq!(quoted, file[place("/// Functions of Python")..place("const BLOCK")]);
}
