//! Text of the intermediate representation: whatever it is, it is a graph or an error with a place; a graph is valid,
//! and prints as text that is the same graph.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llamac_compiler::model::{self, Inputs, ModelOptions};
use llamac_compiler::source::Checkpoint;
use llamac_compiler::{driver, passes};
use llamac_fuzz::{fixtures, seed};
use llamac_ir::Graph;

fuzz_target!(
    init: seed("ir_text", fixtures().into_iter().flat_map(|folder| {
        let checkpoint = Checkpoint::open(folder, None).expect("the fixture is sound");
        let options = ModelOptions { inputs: Inputs::Embeddings, mask: true, presents: true, ..Default::default() };
        let built = model::build(&checkpoint, &options).expect("it builds");
        let lowered = driver::lower(&checkpoint, &passes::Options::default()).expect("it lowers");
        [built.text_with_locs().into_bytes(), lowered.stage.graph().to_string().into_bytes()]
    })),
    |text: &str| {
        let Ok(graph) = Graph::parse(text) else { return };
        graph.verify().expect("a parsed graph is valid");
        let (short, long) = (graph.to_string(), graph.text_with_locs());
        let again = |text: &str| Graph::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(again(&short).to_string(), short);
        assert_eq!(again(&long).text_with_locs(), long);
        assert_eq!(again(&long), graph);
    }
);
