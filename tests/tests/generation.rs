//! Greedy generations that transformers made, token by token.

use std::ops::ControlFlow;

use llamac_compiler::driver::CompileOptions;
use llamac_plan::{Compute, Frequencies, Step};
use llamac_runtime::generate::{Event, GenerateOptions, generate};
use llamac_runtime::{Engine, EngineOptions};
use llamac_tests::golden::{self, Fixture, Greedy};
use llamac_tests::{engine, open};

fn greedy(engine: &mut Engine, prompt: &[u32], max_new_tokens: usize) -> Vec<u32> {
    let options = GenerateOptions {
        max_new_tokens: Some(max_new_tokens as u64),
        do_sample: Some(false),
        ..GenerateOptions::default()
    };
    let mut streamed = Vec::new();
    let each = |event: Event<'_>| {
        streamed.push(event.id);
        ControlFlow::Continue(())
    };
    let generated = generate(engine, None, prompt, &options, each).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(streamed, generated.tokens);
    generated.tokens
}

/// Whether frequencies follow the longest sequence of a batch in transformers, and each sequence's own length here.
fn depends_on_the_batch(engine: &Engine) -> bool {
    engine.model().plan().steps.iter().any(|step| {
        matches!(
            step,
            Step::RotaryAngles {
                frequencies: Frequencies::LongRope { .. } | Frequencies::Dynamic { .. },
                ..
            }
        )
    })
}

/// The real tokens of each prompt of `generation`.
fn prompts(generation: &Greedy) -> Vec<Vec<u32>> {
    let real = |row: usize, column: usize| {
        generation.attention_mask.as_ref().is_none_or(|mask| mask[row][column] != 0)
    };
    let rows = generation.prompt.iter().enumerate();
    rows.map(|(row, ids)| (0..ids.len()).filter(|&c| real(row, c)).map(|c| ids[c]).collect()).collect()
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    let mut generations = 0;
    for fixture in golden::all().iter().filter(|fixture| !fixture.greedy.is_empty()) {
        let options = EngineOptions { threads: 2, chunk: 32, compute: Some(Compute::F32) };
        let mut engine = engine(&open(fixture), &CompileOptions::default(), options);
        for generation in &fixture.greedy {
            let prompts = prompts(generation);
            let longest = prompts.iter().map(Vec::len).max();
            for (prompt, expected) in prompts.iter().zip(&generation.tokens) {
                if depends_on_the_batch(&engine) && Some(prompt.len()) != longest {
                    continue;
                }
                let found = greedy(&mut engine, prompt, generation.max_new_tokens);
                assert_eq!(&found, expected, "{}: {}", fixture.name(), generation.name);
                generations += 1;
            }
        }
    }
    assert!(generations > 50);
}

#[test]
fn stories_are_those_of_transformers() {
    let fixture = Fixture::read(&golden::fixtures().join("stories"));
    let mut engine = engine(
        &open(&fixture),
        &CompileOptions::default(),
        EngineOptions { threads: 1, chunk: 512, compute: Some(Compute::F32) },
    );
    let tokenizer = engine.model().tokenizer().expect("the stories have a tokenizer");
    let mut stories = 0;
    for generation in &fixture.greedy {
        let (Some(prompt), Some(expected)) = (&generation.prompt_text, &generation.text) else { continue };
        let ids = tokenizer.encode(prompt, true).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(ids, generation.prompt[0]);
        let mut story = prompt.clone();
        let options = GenerateOptions {
            max_new_tokens: Some(generation.max_new_tokens as u64),
            ..GenerateOptions::default()
        };
        let each = |event: Event<'_>| {
            story.push_str(event.text);
            ControlFlow::Continue(())
        };
        generate(&mut engine, Some(&tokenizer), &ids, &options, each).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(&story, expected, "{}", generation.name);
        stories += 1;
    }
    assert!(stories >= 10);
}
