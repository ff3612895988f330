//! The fixtures' recorded outputs of transformers; the format is described in `fixtures/README.md`.

use std::path::{Path, PathBuf};

use llamac_plan::eval::{Output, Request, Tokens};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use tempfile::TempDir;

use crate::compare::Comparison;

/// A checkpoint with recorded outputs.
pub struct Fixture {
    /// Its folder.
    pub folder: PathBuf,
    /// The head that the outputs are of, by its name on the command line.
    pub head: String,
    /// Single forwards.
    pub cases: Vec<Case>,
    /// Greedy generations.
    pub greedy: Vec<Greedy>,
}

/// One recorded forward.
pub struct Case {
    /// Its name in the fixture.
    pub name: String,
    /// The arguments.
    pub request: Request,
    /// The columns of the sequence that were recorded, where not all were.
    rows: Option<Vec<usize>>,
    /// The outputs.
    expected: Vec<Output>,
}

/// One recorded greedy generation, a row for each sequence.
#[derive(Clone, Debug, Deserialize)]
pub struct Greedy {
    /// Its name in the fixture.
    pub name: String,
    /// The prompts, padded to one length.
    pub prompt: Vec<Vec<u32>>,
    /// 1 for real tokens of the prompts.
    pub attention_mask: Option<Vec<Vec<u8>>>,
    /// The new tokens, up to and with the first that ends the sequence.
    pub tokens: Vec<Vec<u32>>,
    /// Tokens asked for.
    pub max_new_tokens: usize,
    /// What the only prompt says, where the model has a tokenizer.
    pub prompt_text: Option<String>,
    /// Prompt and new tokens as text, special tokens left out.
    pub text: Option<String>,
}

#[derive(Deserialize)]
struct Index {
    head: String,
    cases: Vec<CaseEntry>,
    greedy: Vec<Greedy>,
}

#[derive(Deserialize)]
struct CaseEntry {
    name: String,
    hidden_states: bool,
    keep: Option<usize>,
    cached: Option<usize>,
}

/// The outputs that have one number for every token.
const SPANS: [&str; 2] = ["start_logits", "end_logits"];

/// The folder of fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

/// The checkpoint of a folder in `fixtures/quantized` that holds some layers of the story model, whole.
pub fn story_of(folder: &Path) -> TempDir {
    let place = tempfile::tempdir().expect("there is room");
    let stories = fixtures().join("stories");
    let copies = [(folder.to_owned(), "config.json"), (folder.to_owned(), "model.safetensors.index.json")];
    let of_story = ["tokenizer.json", "tokenizer.model", "tokenizer_config.json", "generation_config.json"];
    let copies = copies.into_iter().chain(of_story.map(|name| (stories.clone(), name)));
    let copy = |from: &Path, to: &str| {
        std::fs::copy(from, place.path().join(to)).unwrap_or_else(|e| panic!("{}: {e}", from.display()))
    };
    for (from, name) in copies.chain([(folder.to_owned(), "quantized.safetensors")]) {
        copy(&from.join(name), name);
    }
    copy(&stories.join("model.safetensors"), "plain.safetensors");
    place
}

/// Every checkpoint with recorded outputs: the tiny random ones, sorted by name, and the trained ones.
pub fn all() -> Vec<Fixture> {
    let entries = std::fs::read_dir(fixtures().join("tiny")).expect("the fixtures are there");
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    folders.sort();
    folders.extend(["stories", "stories-classifier"].map(|name| fixtures().join(name)));
    folders.into_iter().map(|folder| Fixture::read(&folder)).collect()
}

impl Fixture {
    /// Reads the fixture in `folder`.
    pub fn read(folder: &Path) -> Self {
        let index = std::fs::read(folder.join("golden.json")).expect("the fixture has an index");
        let index: Index = serde_json::from_slice(&index).expect("the index is as described");
        let bytes = std::fs::read(folder.join("golden.safetensors")).expect("the fixture has tensors");
        let tensors = SafeTensors::deserialize(&bytes).expect("the tensors are whole");
        let cases = index.cases.into_iter().map(|entry| Case::read(entry, &tensors)).collect();
        Self { folder: folder.to_owned(), head: index.head, cases, greedy: index.greedy }
    }

    /// The folder's name.
    pub fn name(&self) -> &str {
        self.folder.file_name().and_then(|name| name.to_str()).expect("fixtures have plain names")
    }
}

impl Case {
    fn read(entry: CaseEntry, tensors: &SafeTensors<'_>) -> Self {
        let prefix = format!("{}/", entry.name);
        let integers = |name: &str| {
            let view = tensors.tensor(&format!("{prefix}{name}")).ok()?;
            assert_eq!(view.dtype(), Dtype::I64);
            let numbers =
                view.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect::<Vec<_>>();
            Some((view.shape().to_vec(), numbers))
        };
        let floats = |view: safetensors::tensor::TensorView<'_>| {
            assert_eq!(view.dtype(), Dtype::F32);
            view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>()
        };
        let (shape, tokens) = match integers("input_ids") {
            Some((shape, ids)) => (shape, Tokens::Ids(ids.into_iter().map(|id| id as u32).collect())),
            None => {
                let view = tensors.tensor(&format!("{prefix}inputs_embeds")).expect("a case has an input");
                (view.shape().to_vec(), Tokens::Embeddings(floats(view)))
            }
        };
        let request = Request {
            batch: shape[0],
            seq: shape[1],
            tokens,
            mask: integers("attention_mask").map(|(_, mask)| mask.into_iter().map(|m| m != 0).collect()),
            positions: integers("position_ids").map(|(_, positions)| positions),
            keep: entry.keep,
            hidden_states: entry.hidden_states,
            cached: entry.cached.unwrap_or(0),
        };
        let inputs = ["input_ids", "inputs_embeds", "attention_mask", "position_ids", "rows"];
        let expected = tensors
            .tensors()
            .into_iter()
            .filter_map(|(name, view)| {
                let name = name.strip_prefix(&prefix).filter(|name| !inputs.contains(name))?.to_owned();
                Some(Output { name, shape: view.shape().to_vec(), data: floats(view) })
            })
            .collect();
        let rows = integers("rows").map(|(_, rows)| rows.into_iter().map(|row| row as usize).collect());
        Self { name: entry.name, request, rows, expected }
    }

    /// The case as a model answers it that gives no hidden states.
    pub fn without_hidden_states(mut self) -> Self {
        self.request.hidden_states = false;
        self.expected.retain(|output| !output.name.starts_with("hidden_states."));
        self
    }

    /// Compares `found` with what transformers computed.
    pub fn compare(&self, found: &[Output], comparison: &mut Comparison) {
        assert!(!self.expected.is_empty(), "{} recorded nothing", self.name);
        for expected in &self.expected {
            let what = format!("{}: {}", self.name, expected.name);
            let Some(found) = found.iter().find(|output| output.name == expected.name) else {
                comparison.problem(format!("{what}: there is no such output"));
                continue;
            };
            let columns = |output: &Output| output.shape.get(1).copied();
            if found.shape.len() != expected.shape.len() || columns(found) < columns(expected) {
                comparison.problem(format!("{what}: {:?} instead of {:?}", found.shape, expected.shape));
                continue;
            }
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            match &expected.shape[..] {
                [_, columns, width] => self.pair(found, expected, *columns, *width, &mut ours, &mut theirs),
                // One number a token; the other outputs of two dimensions are pooled.
                [_, columns] if SPANS.contains(&expected.name.as_str()) => {
                    self.pair(found, expected, *columns, 1, &mut ours, &mut theirs);
                }
                _ => (ours, theirs) = (found.data.clone(), expected.data.clone()),
            }
            comparison.add(&what, &ours, &theirs);
        }
    }

    /// Compares `found` with what something else computed of the same request.
    pub fn compare_with(&self, found: &[Output], expected: Vec<Output>, comparison: &mut Comparison) {
        let (name, request) = (self.name.clone(), self.request.clone());
        Self { name, request, rows: None, expected }.compare(found, comparison);
    }

    /// Collects the rows of real tokens that were recorded.
    fn pair(
        &self,
        found: &Output,
        expected: &Output,
        columns: usize,
        width: usize,
        ours: &mut Vec<f32>,
        theirs: &mut Vec<f32>,
    ) {
        let found_columns = found.shape[1];
        let request = &self.request;
        for row in 0..request.batch {
            for column in 0..columns {
                // `keep` counts from the end; recorded rows are columns of the whole sequence. Columns before those of
                // the request are a soft prompt's.
                let text = (request.seq + column).checked_sub(columns);
                let (place, real) = match &self.rows {
                    Some(rows) => (rows[column], request.is_real(row, rows[column])),
                    None => (column, text.is_none_or(|text| request.is_real(row, text))),
                };
                if real {
                    let at = |columns: usize, column: usize| (row * columns + column) * width;
                    ours.extend(&found.data[at(found_columns, place)..][..width]);
                    theirs.extend(&expected.data[at(columns, column)..][..width]);
                }
            }
        }
    }
}
