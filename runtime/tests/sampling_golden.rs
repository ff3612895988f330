//! Distributions against transformers' logits processors (`fixtures/golden/sampling.json`).

use std::path::Path;

use llamac_runtime::sampling::{Sampler, Sampling};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    settings: Settings,
    logits: Vec<f32>,
    sequence: Vec<u32>,
    kept: Vec<u32>,
    probabilities: Vec<f32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
}

impl Settings {
    fn sampling(&self) -> Sampling {
        let d = Sampling::default();
        Sampling {
            do_sample: true,
            temperature: self.temperature.unwrap_or(d.temperature),
            top_k: self.top_k.unwrap_or(d.top_k),
            top_p: self.top_p.unwrap_or(d.top_p),
            min_p: self.min_p.or(d.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(d.repetition_penalty),
            seed: 0,
        }
    }
}

#[test]
fn distributions_are_those_of_transformers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/golden/sampling.json");
    let golden: Golden = serde_json::from_slice(&std::fs::read(path).expect("a golden file")).expect("cases");
    assert!(golden.cases.len() >= 51);
    for c in &golden.cases {
        let mut sampler = Sampler::new(c.settings.sampling(), c.logits.len()).expect("valid settings");
        sampler.observe(&c.sequence);
        let kept = sampler.distribution(&mut c.logits.clone()).expect("numbers").to_vec();
        let ids: Vec<_> = kept.iter().map(|k| k.0).collect();
        assert_eq!(ids, c.kept, "{}", c.name);
        for (id, q) in kept {
            let expected = c.probabilities[id as usize];
            assert!((q - expected).abs() <= 1e-6, "{}: token {id}: {q}, not {expected}", c.name);
        }
        // What is drawn was kept.
        for _ in 0..50 {
            let id = sampler.next(&mut c.logits.clone()).expect("a token");
            assert!(c.settings.repetition_penalty.is_some() || c.kept.contains(&id), "{}", c.name);
        }
    }
}
