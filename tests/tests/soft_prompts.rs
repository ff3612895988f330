//! Soft prompts of PEFT over the small checkpoints: what PEFT computes behind them, by the reference evaluator and by the
//! compiled model, and that it is the same bits however a text is cut.

use std::ops::ControlFlow;

use llamac_compiler::driver::CompileOptions;
use llamac_compiler::passes::WeightPolicy;
use llamac_compiler::reference;
use llamac_compiler::source::Checkpoint;
use llamac_plan::diagnostic::Code;
use llamac_plan::eval::{Request, Tokens};
use llamac_plan::{Compute, KvDtype, PromptKind};
use llamac_runtime::generate::{Event, GenerateOptions, generate};
use llamac_runtime::perplexity::perplexity;
use llamac_runtime::{
    Engine, EngineOptions, Feed, Input, Keep, Pooling, Scoring, Session, SessionOptions, classify, embed,
};
use llamac_tests::adapters::{Kind, problems};
use llamac_tests::compare::Comparison;
use llamac_tests::golden::Fixture;
use llamac_tests::{engine, stored};

fn open(name: &str) -> (Fixture, Checkpoint) {
    Kind::SoftPrompt.open(name)
}

#[test]
fn the_reference_evaluator_agrees_with_peft() {
    let policy: WeightPolicy = "f32".parse().expect("a policy");
    let found: Vec<String> = Kind::SoftPrompt
        .names()
        .iter()
        .flat_map(|name| {
            let (fixture, checkpoint) = open(name);
            problems(&fixture, |request| reference::eval(&checkpoint, &policy, request))
        })
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_compiled_model_agrees_with_peft() {
    let options = EngineOptions { threads: 2, chunk: 4, compute: Some(Compute::F32) };
    let found: Vec<String> = Kind::SoftPrompt
        .names()
        .iter()
        .flat_map(|name| {
            let (fixture, checkpoint) = open(name);
            let mut engine = engine(&checkpoint, &stored("f32"), options);
            problems(&fixture, |request| llamac_runtime::eval(&mut engine, request, KvDtype::F32))
        })
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// A prompt that is left out would not agree.
#[test]
fn the_base_alone_does_not_agree() {
    for name in ["prompt", "p-tuning", "prefix", "prefix-reward"] {
        let (fixture, mut checkpoint) = open(name);
        checkpoint.prompt = None;
        let found =
            problems(&fixture, |request| reference::eval(&checkpoint, &WeightPolicy::default(), request));
        assert!(!found.is_empty(), "{name} changes nothing");
    }
}

#[test]
fn tokens_are_those_that_peft_generates() {
    let options = EngineOptions { threads: 2, chunk: 3, compute: Some(Compute::F32) };
    let mut seen = 0;
    for name in ["prompt", "p-tuning", "prefix"] {
        let (fixture, checkpoint) = open(name);
        for (greedy, lookup) in fixture.greedy.iter().flat_map(|greedy| [(greedy, 0), (greedy, 3)]) {
            let mut engine = engine(&checkpoint, &CompileOptions::default(), options);
            let settings = GenerateOptions {
                max_new_tokens: Some(greedy.max_new_tokens as u64),
                do_sample: Some(false),
                lookup,
                ..GenerateOptions::default()
            };
            let each = |_: Event<'_>| ControlFlow::Continue(());
            let generated = generate(&mut engine, None, &greedy.prompt[0], &settings, each);
            let generated = generated.unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(generated.tokens, greedy.tokens[0], "{name}");
            assert_eq!(
                generated.prompt_tokens,
                greedy.prompt[0].len(),
                "virtual tokens are none of the text"
            );
            seen += 1;
        }
    }
    assert_eq!(seen, 6);
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|x| x.to_bits()).collect()
}

fn session(engine: &Engine, capacity: usize, kv: KvDtype) -> Session {
    Session::new(engine.model(), SessionOptions { capacity, kv: Some(kv) }).expect("there is memory")
}

/// A text of `n` tokens.
fn ids(n: u32) -> Vec<u32> {
    (0..n).map(|i| 3 + i * 7 % 60).collect()
}

/// A forward of one sequence.
fn request(ids: Vec<u32>) -> Request {
    Request {
        batch: 1,
        seq: ids.len(),
        tokens: Tokens::Ids(ids),
        mask: None,
        positions: None,
        keep: None,
        hidden_states: false,
        cached: 0,
    }
}

/// Chunks, threads, a batch, several forwards and single steps give the bits of one forward.
#[test]
fn a_text_behind_a_prompt_is_the_same_bits_however_it_is_cut() {
    for name in ["prompt", "prefix"] {
        let (_, checkpoint) = open(name);
        let text = ids(90);
        for (weights, kv) in [
            ("as-is", KvDtype::F32),
            ("as-is", KvDtype::F16),
            ("as-is", KvDtype::Bf16),
            ("q8", KvDtype::Int8),
        ] {
            let alone = |threads, chunk, cuts: &[usize]| {
                let options = EngineOptions { threads, chunk, compute: None };
                let mut engine = engine(&checkpoint, &stored(weights), options);
                let mut session = session(&engine, text.len(), kv);
                let mut rows = Vec::new();
                for part in cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]) {
                    let mut feeds = [Feed::ids(&mut session, part, Keep::All)];
                    rows.extend(bits(engine.forward(&mut feeds).unwrap_or_else(|e| panic!("{e}")).feed(0)));
                }
                assert_eq!(session.len(), text.len());
                rows
            };
            let expected = alone(1, 512, &[0, 90]);
            let singly: Vec<usize> = (0..=90).collect();
            for (threads, chunk, cuts) in
                [(2, 512, &[0, 90][..]), (1, 1, &[0, 90]), (2, 7, &[0, 1, 40, 90]), (2, 64, &singly)]
            {
                assert!(
                    alone(threads, chunk, cuts) == expected,
                    "{name} {weights} {kv:?}: chunks of {chunk}"
                );
            }
            // Sessions that begin and one that goes on, in one forward.
            let mut engine =
                engine(&checkpoint, &stored(weights), EngineOptions { threads: 2, chunk: 11, compute: None });
            let mut sessions: Vec<Session> = (0..3).map(|_| session(&engine, 90, kv)).collect();
            engine.forward(&mut [Feed::ids(&mut sessions[0], &text[..33], Keep::None)]).expect("it fits");
            let parts = [&text[33..], &text[..], &text[..5]];
            let feeds = sessions.iter_mut().zip(parts);
            let mut feeds: Vec<Feed<'_>> = feeds.map(|(s, part)| Feed::ids(s, part, Keep::All)).collect();
            let outputs = engine.forward(&mut feeds).unwrap_or_else(|e| panic!("{e}"));
            let width = expected.len() / text.len();
            for (feed, range) in [33..90, 0..90, 0..5].into_iter().enumerate() {
                let expected = &expected[range.start * width..range.end * width];
                assert!(bits(outputs.feed(feed)) == expected, "{name} {weights} {kv:?}: sequence {feed}");
            }
        }
    }
}

/// `eval` runs the text at once or through the cache.
#[test]
fn eval_behind_a_prompt_is_the_same_through_the_cache() {
    for name in ["prompt", "prefix", "prompt-longrope", "prefix-reward", "prompt-answers"] {
        let (fixture, checkpoint) = open(name);
        let mut engine = engine(&checkpoint, &CompileOptions::default(), EngineOptions::default());
        // Short of the length from which on other frequencies count, which a cached run crosses at another place.
        let seq = if name == "prompt-longrope" { 5 } else { 20 };
        let request = |cached| Request { hidden_states: true, cached, ..request(ids(seq as u32)) };
        let mut run = |cached| {
            llamac_runtime::eval(&mut engine, &request(cached), KvDtype::F32)
                .unwrap_or_else(|e| panic!("{e}"))
        };
        let expected = run(0);
        for cached in [1, 3, seq - 1] {
            assert!(run(cached) == expected, "{}: {cached} single steps", fixture.name());
            let judged = reference::eval(&checkpoint, &WeightPolicy::default(), &request(cached))
                .unwrap_or_else(|e| panic!("{e}"));
            let mut comparison = Comparison::default();
            for (found, expected) in expected.iter().zip(&judged) {
                assert_eq!((&found.name, &found.shape), (&expected.name, &expected.shape));
                comparison.add(&found.name, &found.data, &expected.data);
            }
            let problems = comparison.problems();
            assert!(problems.is_empty(), "{}: {}", fixture.name(), problems.join("\n"));
        }
    }
}

#[test]
fn the_context_has_room_for_what_is_left_of_it() {
    for (name, tokens) in [("prompt", 5), ("prefix", 6)] {
        let (_, checkpoint) = open(name);
        let mut engine = engine(&checkpoint, &CompileOptions::default(), EngineOptions::default());
        assert_eq!(engine.model().context(), 256 - tokens);
        let mut sequence = session(&engine, 4, KvDtype::F32);
        assert!(sequence.is_empty());
        assert_eq!(sequence.capacity(), 4);
        let faults = engine
            .forward(&mut [Feed::ids(&mut sequence, &ids(5), Keep::None)])
            .expect_err("there is room for four");
        let told = faults.to_string();
        assert!(told.contains("expected at most 4 tokens\n   found    5 tokens"), "{told}");
        assert!(sequence.is_empty());
        engine.forward(&mut [Feed::ids(&mut sequence, &ids(4), Keep::None)]).expect("it fits");
        assert_eq!(sequence.len(), 4);
        engine
            .forward(&mut [Feed::ids(&mut sequence, &ids(1), Keep::None)])
            .expect_err("the session is full");
        let mut feed = Feed::ids(&mut sequence, &[], Keep::All);
        feed.input = Input::Prompt;
        let faults = engine.forward(&mut [feed]).expect_err("the prompt comes first");
        assert!(faults.iter().all(|fault| fault.code == Code::BadInputTensor), "{faults}");
        // A text that fills the context, and one that is a token longer.
        let whole = GenerateOptions { max_new_tokens: Some(1), ..GenerateOptions::default() };
        let each = |_: Event<'_>| ControlFlow::Continue(());
        let text = vec![5; 256 - tokens];
        generate(&mut engine, None, &text[1..], &whole, each).expect("it fits");
        let faults =
            generate(&mut engine, None, &text, &whole, each).expect_err("there is no room for a token");
        assert!(faults.iter().all(|fault| fault.code == Code::ContextFull), "{faults}");
    }
}

#[test]
fn a_context_that_the_prompt_fills_is_no_context() {
    let (_, checkpoint) = open("prefix");
    for (max_context, works) in [(7, true), (6, false)] {
        let options = CompileOptions { max_context: Some(max_context), ..CompileOptions::default() };
        let planned = llamac_compiler::driver::dry_run(&checkpoint, &options);
        assert_eq!(planned.is_ok(), works, "{max_context}");
        if let Err(faults) = planned {
            assert!(faults.to_string().contains("more than the 6 tokens of the soft prompt"), "{faults}");
        }
    }
}

/// Some of the layers keep their parts of a prefix.
#[test]
fn layers_keep_their_prefixes() {
    let (fixture, checkpoint) = open("prefix");
    let request = &fixture.cases[0].request;
    let all = checkpoint.prompt.clone().expect("a prompt");
    assert_eq!((all.kind, all.weights.len()), (PromptKind::Prefix, 2));
    let checkpoint = checkpoint.with_layers(1..2).expect("there are two");
    assert_eq!(
        checkpoint.prompt.as_ref().map(|prompt| prompt.weights.clone()),
        Some(all.weights[1..].to_vec())
    );
    let judged =
        reference::eval(&checkpoint, &WeightPolicy::default(), request).unwrap_or_else(|e| panic!("{e}"));
    let mut engine = engine(&checkpoint, &CompileOptions::default(), EngineOptions::default());
    let found = llamac_runtime::eval(&mut engine, request, KvDtype::F32).unwrap_or_else(|e| panic!("{e}"));
    let mut comparison = Comparison::default();
    for (found, expected) in found.iter().zip(&judged) {
        comparison.add(&found.name, &found.data, &expected.data);
    }
    assert!(comparison.problems().is_empty());
}

/// Narrow caches round a prefix as they round a text's keys.
#[test]
fn a_prefix_goes_into_every_cache() {
    let (fixture, checkpoint) = open("prefix");
    let mut engine = engine(&checkpoint, &CompileOptions::default(), EngineOptions::default());
    let mut run = |kv| {
        let outputs = llamac_runtime::eval(&mut engine, &fixture.cases[0].request, kv);
        outputs.unwrap_or_else(|e| panic!("{e}")).remove(0).data
    };
    let expected = run(KvDtype::F32);
    let norm =
        |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let scale = norm(&mut expected.iter().copied());
    for (kv, most) in [(KvDtype::F16, 1e-3), (KvDtype::Bf16, 1e-2), (KvDtype::Int8, 2e-2)] {
        let found = run(kv);
        let difference = norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b)) / scale;
        assert!(difference > 0.0 && difference < most, "{kv:?}: {difference}");
    }
}

/// What reads whole texts gives each what `eval` gives it.
#[test]
fn texts_are_scored_and_embedded_behind_the_prompt() {
    let texts = [ids(9), ids(4), ids(30)];
    for name in ["prompt-reward", "prefix-reward"] {
        let (_, checkpoint) = open(name);
        let mut engine = engine(&checkpoint, &CompileOptions::default(), EngineOptions::default());
        let mut scores = Vec::new();
        let each = |_: usize, score: &[f32]| {
            scores.extend_from_slice(score);
            ControlFlow::Continue(())
        };
        classify(&mut engine, &texts, each).unwrap_or_else(|e| panic!("{e}"));
        for (text, score) in texts.iter().zip(scores) {
            let request = Request { hidden_states: true, ..request(text.clone()) };
            let outputs = llamac_runtime::eval(&mut engine, &request, KvDtype::F32);
            let outputs = outputs.unwrap_or_else(|e| panic!("{e}"));
            let mut logit = outputs[0].data.clone();
            Scoring::Sigmoid.apply(&mut logit);
            assert_eq!(logit, [score], "{name}");
            // A text's vector is that of its own tokens.
            let last = outputs.last().expect("hidden states");
            let lead = last.shape[1] - text.len();
            assert_eq!(lead, if name.starts_with("prompt") { 4 } else { 0 });
            let width = last.shape[2];
            let mut rows = Vec::new();
            let each = |_: usize, vector: &[f32]| {
                rows.extend_from_slice(vector);
                ControlFlow::Continue(())
            };
            embed(&mut engine, std::slice::from_ref(text), Pooling::None, false, each)
                .unwrap_or_else(|e| panic!("{e}"));
            assert!(rows == last.data[lead * width..], "{name}");
        }
    }
}

#[test]
fn perplexity_is_that_of_the_logits_behind_the_prompt() {
    for name in ["prompt", "prefix"] {
        let (_, checkpoint) = open(name);
        let mut engine = engine(&checkpoint, &CompileOptions::default(), EngineOptions::default());
        let text = ids(40);
        let measured = perplexity(&mut engine, None, std::slice::from_ref(&text), |_| {});
        let likelihood = measured.unwrap_or_else(|e| panic!("{e}")).likelihood;
        let outputs = llamac_runtime::eval(&mut engine, &request(text.clone()), KvDtype::F32);
        let logits = &outputs.unwrap_or_else(|e| panic!("{e}"))[0];
        let rows: Vec<&[f32]> = logits.data.chunks(logits.shape[2]).collect();
        let of_text = &rows[rows.len() - text.len()..];
        let nll = |(row, next): (&&[f32], &u32)| {
            let sum: f64 = row.iter().map(|&z| f64::from(z).exp()).sum();
            sum.ln() - f64::from(row[*next as usize])
        };
        let expected: f64 = of_text.iter().zip(&text[1..]).map(nll).sum();
        assert_eq!(likelihood.tokens, 39);
        assert!((likelihood.nll - expected).abs() < 1e-6 * expected, "{name}: {} {expected}", likelihood.nll);
    }
}
