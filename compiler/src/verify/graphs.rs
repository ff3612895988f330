//! A graph before and after the passes.

use std::cell::RefCell;
use std::collections::BTreeMap;

use llamac_ir::{Bindings, DType, Graph, Symbol, Tensor, Weight, evaluate};
use llamac_plan::diagnostic::{Code, Diagnostic};
use llamac_plan::eval::Output;

use super::TOLERANCE;
use super::agreement::{Agreed, agreement};
use super::random::Random;
use crate::source::Checkpoint;
use crate::weights::WeightReader;

/// Sizes of the inputs: no two are the same, so that no operation can mistake one for another.
const BATCH: i64 = 2;
const SEQ: i64 = 4;
const PAST: i64 = 3;
const KEEP: i64 = 1;

/// Evaluates both graphs, which are of `checkpoint` and have the same parameters, on the same random inputs: a batch of
/// two behind filled caches, with a token that is padding. What they give has to agree.
///
/// It takes the time of two naive forwards of 8 tokens, and twice the memory of the largest weight in `f32`.
///
/// # Errors
/// `NumbersDiffer` for the first result that differs; `InvalidGraph` if a graph cannot be evaluated; as
/// [`WeightReader::tensor`] if a weight cannot be read.
pub fn graphs(checkpoint: &Checkpoint, before: &Graph, after: &Graph) -> Result<Vec<Agreed>, Diagnostic> {
    let (inputs, bindings) = inputs(before, checkpoint.config.vocab_size)
        .map_err(|why| Diagnostic::new(Code::InvalidGraph).message(why))?;
    let reader = WeightReader::new(checkpoint);
    let unread = RefCell::new(None);
    let weights = |weight: &Weight| {
        reader.tensor(weight).map_err(|error| {
            let why = error.to_string();
            unread.borrow_mut().get_or_insert(error);
            why
        })
    };
    let results = |graph: &Graph| -> Result<Vec<Output>, Diagnostic> {
        let mut inputs = inputs.clone();
        inputs.retain(|name, _| graph.param(name).is_some());
        let results = evaluate(graph, &inputs, &bindings, &weights).map_err(|error| error.to_string());
        let outputs = results.and_then(|results| results.into_iter().map(output).collect());
        outputs.map_err(|why: String| match unread.take() {
            Some(error) => error.into(),
            None => Diagnostic::new(Code::InvalidGraph).message(why),
        })
    };
    agreement("the legalized graph", &results(before)?, &results(after)?, None, TOLERANCE)
}

fn output((name, tensor): (String, Tensor)) -> Result<Output, String> {
    Ok(Output { name, shape: tensor.shape().to_vec(), data: tensor.as_f32()?.iter().copied().collect() })
}

/// Random values for the parameters of `graph`.
fn inputs(graph: &Graph, vocab_size: usize) -> Result<(BTreeMap<String, Tensor>, Bindings), String> {
    let size = |symbol: Symbol, wanted: i64| {
        let bounds = graph.bounds(symbol);
        wanted.max(bounds.min).min(bounds.max.unwrap_or(i64::MAX))
    };
    let past = if graph.params().any(|(name, _)| name.starts_with("past.")) { PAST } else { 0 };
    let bindings = Bindings::new()
        .with(Symbol::Batch, size(Symbol::Batch, BATCH))
        .with(Symbol::Seq, size(Symbol::Seq, SEQ))
        .with(Symbol::Past, past)
        .with(Symbol::Keep, KEEP);
    let mut random = Random::new();
    let mut inputs = BTreeMap::new();
    for (name, value) in graph.params() {
        let ty = graph.ty(value);
        let sizes =
            ty.sizes(&bindings).map_err(|symbol| format!("the symbol {} has no value", symbol.name()))?;
        let shape = sizes.iter().map(|&size| usize::try_from(size)).collect::<Result<Vec<_>, _>>();
        let shape = shape.map_err(|e| format!("the input `{name}`: {e}"))?;
        let count: usize = shape.iter().product();
        let tensor = match ty.dtype {
            DType::I64 => {
                let columns = shape.last().copied().unwrap_or(1);
                let at = |flat: usize| ((flat / columns) as i64, (flat % columns) as i64);
                let integer = |flat: usize| match (name, at(flat)) {
                    // Padding behind a token that all see.
                    ("mask", (row, column)) => i64::from((row, column) != (1, 1)),
                    ("positions", (row, column)) => (past + column - row).max(0),
                    ("length", _) => past + SEQ,
                    ("num_logits_to_keep", _) => KEEP,
                    _ => random.below(vocab_size.max(1) as u64) as i64,
                };
                Tensor::integers(&shape, (0..count).map(integer).collect())?
            }
            _ => Tensor::floats(&shape, (0..count).map(|_| random.float()).collect())?,
        };
        inputs.insert(name.to_owned(), tensor);
    }
    Ok((inputs, bindings))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use llamac_ir::DType;

    use super::*;
    use crate::model::{self, Inputs, Logits, ModelOptions};
    use crate::passes::{Options, PassManager, Stage, WeightFormat};
    use crate::source::{Checkpoint, testing};
    use crate::target::Target;
    use crate::target::native::Native;
    use crate::target::onnx::Onnx;

    fn checkpoint(name: &str) -> Checkpoint {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tiny").join(name);
        Checkpoint::open(&folder, None).unwrap_or_else(|e| panic!("{e}"))
    }

    fn legalized(graph: Graph, target: &dyn Target) -> Graph {
        let manager = PassManager::new(Options::default()).expect("no pass is named");
        match manager.run(graph, target).unwrap_or_else(|e| panic!("{e}")).stage {
            Stage::Legalized(legalized) => legalized.graph().clone(),
            Stage::Stopped(_) => panic!("nothing stopped the passes"),
        }
    }

    fn model(checkpoint: &Checkpoint, options: ModelOptions) -> Graph {
        model::build(checkpoint, &options).expect("it builds")
    }

    fn exported() -> ModelOptions {
        ModelOptions {
            mask: true,
            length: false,
            presents: true,
            logits: Logits::All,
            ..ModelOptions::default()
        }
    }

    #[test]
    fn legal_graphs_agree_with_the_models() {
        for name in ["gqa-f32", "rope-dynamic-new", "seqcls-no-pad", "qa-transformer"] {
            let checkpoint = checkpoint(name);
            let native = model(&checkpoint, ModelOptions { hidden_states: true, ..ModelOptions::default() });
            let agreed =
                graphs(&checkpoint, &native, &legalized(native.clone(), &Native)).expect("it agrees");
            assert!(agreed.len() > 2 && agreed[0].name == "hidden_states.0", "{agreed:?}");
            for target in [Onnx::PORTABLE, Onnx::STANDARD, Onnx::ORT] {
                for cache in [true, false] {
                    let graph = model(&checkpoint, ModelOptions { cache, ..exported() });
                    graphs(&checkpoint, &graph, &legalized(graph.clone(), &target))
                        .unwrap_or_else(|e| panic!("{name}: {e}"));
                }
            }
        }
        for logits in [Logits::Last, Logits::Counted] {
            let checkpoint = checkpoint("gqa-f32");
            let graph = model(&checkpoint, ModelOptions { inputs: Inputs::Embeddings, logits, ..exported() });
            graphs(&checkpoint, &graph, &legalized(graph.clone(), &Onnx::PORTABLE)).expect("it agrees");
        }
    }

    #[test]
    fn a_number_that_no_dtype_holds_is_named() {
        let mut tensors = testing::tensors();
        tensors.values_mut().for_each(|(_, _, bytes)| bytes.fill(0));
        let (_, _, bytes) = tensors.get_mut("lm_head.weight").expect("a head");
        // 2^19 in bf16.
        bytes[..2].copy_from_slice(&0x4900u16.to_le_bytes());
        let folder = testing::checkpoint(&testing::config(), &tensors);
        let checkpoint = Checkpoint::open(folder.path(), None).unwrap_or_else(|e| panic!("{e}"));
        let graph = model(&checkpoint, exported());
        let weights = WeightFormat::Float(DType::F16).into();
        let manager = PassManager::new(Options { weights, ..Options::default() }).expect("no pass is named");
        let outcome = manager.run(graph.clone(), &Onnx::PORTABLE).unwrap_or_else(|e| panic!("{e}"));
        let fault = graphs(&checkpoint, &graph, outcome.stage.graph()).expect_err("it is too large");
        assert_eq!(fault.code, Code::OutOfRange, "{fault}");
        assert!(fault.to_string().contains("lm_head.weight") && fault.help.is_some(), "{fault}");
    }

    #[test]
    fn a_graph_that_is_wrong_in_one_layer_is_found_there() {
        let checkpoint = checkpoint("gqa-f32");
        let graph = model(&checkpoint, exported());
        // The second layer takes the norm of the first.
        let text = graph.text_with_locs();
        let [right, wrong] =
            ["@model.layers.1.input_layernorm.weight", "@model.layers.0.input_layernorm.weight"];
        let start = text.find("return").map_or(0, |end| text[..end].rfind(right).expect("it is used"));
        let other = format!("{}{wrong}{}", &text[..start], &text[start + right.len()..]);
        let other = Graph::parse(&other).unwrap_or_else(|e| panic!("{e}\n{other}"));
        let fault = graphs(&checkpoint, &graph, &other).expect_err("it is another model");
        assert!(fault.to_string().contains("present.1.key, of model.layers.1.self_attn.k_proj"), "{fault}");
    }

    #[test]
    fn inputs_tell_every_symbol_from_the_others() {
        let graph = model(&checkpoint("gqa-f32"), exported());
        let (inputs, bindings) = inputs(&graph, 67).expect("inputs");
        let sizes = Symbol::ALL.map(|symbol| bindings.get(symbol).expect("bound"));
        let unique: std::collections::BTreeSet<i64> = sizes.into_iter().collect();
        assert_eq!(unique.len(), sizes.len());
        assert!(inputs["mask"].holds(DType::I64) && inputs["mask"].shape() == [2, 7]);
    }
}
