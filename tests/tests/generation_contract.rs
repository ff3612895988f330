//! What a caller of `generate` may rely on besides the tokens: seeds, ends, and refusals.

use std::ops::ControlFlow;

use llamac_compiler::driver::CompileOptions;
use llamac_plan::Head;
use llamac_runtime::diagnostic::Code;
use llamac_runtime::generate::{GenerateOptions, Generated, Reason, generate};
use llamac_runtime::{Engine, EngineOptions};
use llamac_tests::golden::{self, Fixture};
use llamac_tests::{engine, open};

fn fixture(name: &str) -> Fixture {
    Fixture::read(&golden::fixtures().join("tiny").join(name))
}

fn run(fixture: &Fixture, threads: usize, chunk: usize) -> Engine {
    engine(&open(fixture), &CompileOptions::default(), EngineOptions { threads, chunk, compute: None })
}

fn tokens(engine: &mut Engine, prompt: &[u32], options: &GenerateOptions) -> Generated {
    let mut seen = Vec::new();
    let generated = generate(engine, None, prompt, options, |event| {
        seen.push(event.id);
        ControlFlow::Continue(())
    });
    let generated = generated.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(seen, generated.tokens);
    generated
}

fn new_tokens(n: u64) -> GenerateOptions {
    GenerateOptions { max_new_tokens: Some(n), ..GenerateOptions::default() }
}

#[test]
fn a_seed_gives_the_same_tokens_whatever_the_threads_and_chunks() {
    let fixture = fixture("gqa-f32");
    let options = |seed| GenerateOptions { do_sample: Some(true), seed: Some(seed), ..new_tokens(24) };
    let prompt = [1, 5, 9, 2, 7];
    let first = tokens(&mut run(&fixture, 1, 512), &prompt, &options(3)).tokens;
    assert_eq!(tokens(&mut run(&fixture, 2, 2), &prompt, &options(3)).tokens, first);
    assert_ne!(tokens(&mut run(&fixture, 2, 2), &prompt, &options(4)).tokens, first);
    let greedy = tokens(&mut run(&fixture, 1, 512), &prompt, &new_tokens(24)).tokens;
    let top_1 = GenerateOptions { top_k: Some(1), ..options(3) };
    assert_eq!(tokens(&mut run(&fixture, 1, 512), &prompt, &top_1).tokens, greedy);
}

#[test]
fn guesses_change_no_token() {
    let prompt: Vec<u32> = [1, 5, 9, 2, 7].repeat(3);
    let mut right = 0;
    for fixture in golden::all() {
        let mut engine = run(&fixture, 2, 16);
        let plan = engine.model().plan();
        if plan.head != Head::CausalLm {
            continue;
        }
        let vocabulary = plan.shape.vocab_size as u32;
        let prompt: Vec<u32> = prompt.iter().map(|id| id % vocabulary).collect();
        let room = engine.model().context().min(80) - prompt.len();
        let greedy = GenerateOptions { eos_token_ids: Some(vec![]), ..new_tokens(room as u64) };
        let sampled = GenerateOptions {
            do_sample: Some(true),
            temperature: Some(0.4),
            repetition_penalty: Some(0.8),
            seed: Some(1),
            ..greedy.clone()
        };
        for options in [greedy, sampled] {
            let alone = tokens(&mut engine, &prompt, &options);
            assert_eq!((alone.guessed, alone.guessed_right), (0, 0));
            for lookup in [1, 4, 11] {
                let guessed = tokens(&mut engine, &prompt, &GenerateOptions { lookup, ..options.clone() });
                assert_eq!(guessed.tokens, alone.tokens, "{} with {lookup} guesses", fixture.name());
                assert!(guessed.guessed_right <= guessed.guessed);
                right += guessed.guessed_right;
            }
        }
    }
    assert!(right > 1000, "{right}");
}

#[test]
fn a_generation_ends_where_it_should() {
    let mut engine = run(&fixture("gqa-f32"), 1, 16);
    let prompt = [1, 5, 9, 2, 7];
    let free =
        tokens(&mut engine, &prompt, &GenerateOptions { eos_token_ids: Some(vec![]), ..new_tokens(8) });
    let options = GenerateOptions { eos_token_ids: Some(vec![free.tokens[3]]), ..new_tokens(8) };
    let ended = tokens(&mut engine, &prompt, &options);
    let first = free.tokens.iter().position(|&id| id == free.tokens[3]).unwrap_or(3);
    assert_eq!((ended.reason, &ended.tokens[..]), (Reason::Eos, &free.tokens[..=first]));

    let room = engine.model().plan().shape.max_context;
    let long = vec![3; room - 2];
    let options = GenerateOptions { eos_token_ids: Some(vec![]), ..new_tokens(9) };
    let full = tokens(&mut engine, &long, &options);
    assert_eq!((full.reason, full.tokens.len()), (Reason::Context, 2));

    let mut calls = 0;
    let cancelled = generate(&mut engine, None, &prompt, &options, |_| {
        calls += 1;
        if calls == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let cancelled = cancelled.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((cancelled.reason, &cancelled.tokens[..]), (Reason::Cancelled, &free.tokens[..2]));
}

#[test]
fn what_cannot_be_generated_is_refused() {
    let mut engine = run(&fixture("gqa-f32"), 1, 16);
    let room = engine.model().plan().shape.max_context;
    let code = |engine: &mut Engine, prompt: &[u32], options: &GenerateOptions| {
        let faults = generate(engine, None, prompt, options, |_| ControlFlow::Continue(()));
        faults.expect_err("a fault").iter().map(|f| f.code).collect::<Vec<_>>()
    };
    assert_eq!(code(&mut engine, &vec![1; room], &new_tokens(1)), [Code::ContextFull]);
    assert_eq!(code(&mut engine, &[1, u32::MAX], &new_tokens(1)), [Code::BadToken]);
    assert_eq!(code(&mut engine, &[1], &new_tokens(0)), [Code::BadArgument]);
    let stop = GenerateOptions { stop_strings: vec!["x".into()], ..new_tokens(1) };
    assert_eq!(code(&mut engine, &[1], &stop), [Code::NoTokenizer]);
    let mut checkpoint = open(&fixture("gqa-f32"));
    checkpoint.generation.bos_token_id = Some(99_999);
    let mut opened = llamac_tests::engine(
        &checkpoint,
        &CompileOptions::default(),
        EngineOptions { threads: 1, chunk: 16, compute: None },
    );
    let faults = generate(&mut opened, None, &[], &new_tokens(1), |_| ControlFlow::Continue(()));
    let fault = faults.expect_err("a fault").iter().next().expect("one").clone();
    assert_eq!((fault.code, fault.at.as_deref()), (Code::BadToken, Some("bos_token_id")));
    let mut base = run(&fixture("base-bare"), 1, 16);
    assert_eq!(code(&mut base, &[1], &new_tokens(1)), [Code::WrongHead]);
}
