//! What LoRAs add to modules, as recipes.
//!
//! `W' = W + Σ s · B · A`, of an embedding `E' = E + Σ s · (B · A)ᵀ` (Hu et al., "LoRA"); with lengths of its own (DoRA, Liu et
//! al.) each row of the sum is stretched to its length. All of it in f32, rounded to the type of the base once.

use std::collections::{BTreeMap, BTreeSet};

use llamac_ir::{DType, Real, Weight, WeightError};
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use super::super::checkpoint::{Adapted, Checkpoint, Tie};
use super::super::names::{self, EMBEDDING, HEADS, LM_HEAD};
use super::adapter::Lora;
use super::config::is_end_of;
use super::configuration::untie;
use super::folder::Parts;
use super::names::Part;
use super::replace::of_head;
use super::taken::{Expected, Taken, contested, no_module};

/// What adapters do to one module.
#[derive(Clone, Default)]
struct Change {
    sums: Vec<Sum>,
    /// A matrix, and the rows that its rows take the place of.
    rows: Option<(Weight, Vec<usize>)>,
    /// The file that they come from.
    rows_file: String,
    /// Added to the bias.
    biases: Vec<Weight>,
    /// The lengths of rows, of an adapter that has some.
    norms: Option<Weight>,
}

/// `scale · b · a`.
#[derive(Clone)]
struct Sum {
    a: Weight,
    b: Weight,
    scale: Real,
}

/// The modules of `base` that `loras` add to, by name.
pub(super) fn adapted(
    base: &Checkpoint,
    loras: &[Lora],
    taken: &mut Taken,
) -> Result<BTreeMap<String, Adapted>, Diagnostics> {
    let mut faults = Diagnostics::new();
    let mut changes: BTreeMap<String, Change> = BTreeMap::new();
    for (i, lora) in loras.iter().enumerate() {
        missing_rows(base, lora).into_iter().for_each(|fault| faults.push(fault));
        for (module, parts) in &lora.modules {
            let name = format!("{module}.weight");
            match base.weight(&name).filter(|weight| weight.shape().len() == 2) {
                Some(weight) => {
                    let mut reader = Reader { i, lora, module, parts, weight, taken, faults: &mut faults };
                    if let Some(change) = reader.change() {
                        faults.absorb(add(&mut changes, base, lora, module, change));
                    }
                }
                // Nobody asked for a head that this is a part of.
                None if HEADS.contains(&name.as_str()) && !of_head(base.head).contains(&name.as_str()) => {}
                None => {
                    for stored in parts.tensors.values() {
                        let place = format!("{}: {}", lora.file.name(), stored.name);
                        let message = no_module(base, &name);
                        taken.misfits.add(Code::AdapterMismatch, &name, place, None, Some(&message));
                    }
                }
            }
        }
    }
    faults.or(())?;
    let recipe = |(module, change): (String, Change)| {
        let adapted = change.recipe(base, &module)?;
        Ok::<_, WeightError>((module, adapted))
    };
    let adapted: Result<_, _> = changes.into_iter().map(recipe).collect();
    Ok(adapted.map_err(|error| Diagnostic::new(Code::InvalidGraph).message(error.to_string()))?)
}

/// Faults of embeddings whose rows `lora` lists, and does not have.
fn missing_rows(base: &Checkpoint, lora: &Lora) -> Vec<Diagnostic> {
    let has = |name: &str| {
        let brought = lora.modules.values().filter(|parts| parts.tensors.contains_key(&Part::Tokens));
        brought.map(|parts| parts.path.as_str()).any(|path| is_end_of(path, name))
            || lora.replaced.keys().any(|tensor| is_end_of(tensor.trim_end_matches(".weight"), name))
    };
    let listed = lora.config.tokens.modules().into_iter();
    // Rows of a tied output embedding are those of the input embedding.
    let own = listed.filter(|name| !(base.tie == Tie::Tied && is_end_of("lm_head", name)));
    let fault = |name: &str| {
        let rows = lora.config.tokens.of(name).len();
        let part = Part::Tokens.name();
        Diagnostic::new(Code::MissingTensor)
            .at(format!("{}: {name}.{part}", lora.file.name()))
            .message(format!("trainable_token_indices lists {rows} rows that the adapter does not have"))
    };
    own.filter(|name| !has(name)).map(fault).collect()
}

/// Adds what `lora` does to `module` to what others do to it, and to an output embedding that is tied to it.
fn add(
    changes: &mut BTreeMap<String, Change>,
    base: &Checkpoint,
    lora: &Lora,
    module: &str,
    change: Change,
) -> Result<(), Diagnostics> {
    const OUTPUT: &str = "lm_head";
    if format!("{module}.weight") == EMBEDDING && base.tie == Tie::Tied && !lora.modules.contains_key(OUTPUT)
    {
        let sums = if lora.config.tied { change.sums.clone() } else { Vec::new() };
        let shared = Change { sums, rows: change.rows.clone(), ..Change::default() };
        if !shared.sums.is_empty() || shared.rows.is_some() {
            changes.entry(OUTPUT.to_owned()).or_default().join(lora, OUTPUT, shared)?;
        }
    }
    changes.entry(module.to_owned()).or_default().join(lora, module, change)
}

impl Change {
    fn join(&mut self, lora: &Lora, module: &str, other: Self) -> Result<(), Diagnostics> {
        let place = format!("{}: {module}", lora.file.name());
        if self.rows.is_some() && other.rows.is_some() {
            return Err(contested(place, &self.rows_file).into());
        }
        if other.rows.is_some() {
            self.rows = other.rows;
            self.rows_file = lora.file.name().to_owned();
        }
        self.sums.extend(other.sums);
        self.biases.extend(other.biases);
        self.norms = self.norms.take().or(other.norms);
        if self.norms.is_some() && self.sums.len() > 1 {
            let fault = Diagnostic::new(Code::UnsupportedAdapter).at(place);
            let message = "a DoRA stretches what another adapter changes, too: the two have no sum";
            return Err(fault.message(message).help("leave one of the two adapters out").into());
        }
        Ok(())
    }

    fn recipe(self, base: &Checkpoint, module: &str) -> Result<Adapted, WeightError> {
        let base_weight = base.weight(&format!("{module}.weight")).expect("it was looked up before").clone();
        let dtype = base_weight.dtype();
        let mut weight = base_weight.convert(DType::F32)?;
        if let Some((new, rows)) = &self.rows {
            weight = weight.replace_rows(new, rows)?;
        }
        for Sum { a, b, scale } in &self.sums {
            weight = weight.add_low_rank(a, b, *scale)?;
        }
        if let Some(norms) = &self.norms {
            weight = weight.set_row_norms(norms)?;
        }
        let bias = match self.biases.is_empty() {
            true => None,
            false => {
                let old = base.weights.get(&format!("{module}.bias"));
                let old = old.map(|old| old.convert(DType::F32)).transpose()?;
                Some(Weight::sum(old.into_iter().chain(self.biases))?.convert(dtype)?)
            }
        };
        Ok(Adapted { base: base_weight, weight: weight.convert(dtype)?, bias })
    }
}

/// Reads what one adapter has for one module.
struct Reader<'a> {
    i: usize,
    lora: &'a Lora,
    module: &'a str,
    parts: &'a Parts,
    /// The module's weight in the base.
    weight: &'a Weight,
    taken: &'a mut Taken,
    faults: &'a mut Diagnostics,
}

impl Reader<'_> {
    /// What the adapter does to the module; nothing where something about it is wrong.
    fn change(&mut self) -> Option<Change> {
        let [rows, columns] = *self.weight.shape() else { return None };
        let (config, path) = (&self.lora.config, self.parts.path.as_str());
        let rank = config.rank(path);
        let is_embedding = format!("{}.weight", self.module) == EMBEDDING;
        let has = |part: Part| self.parts.tensors.contains_key(&part);
        let is_changed = Part::SUMS.iter().any(|part| has(*part));
        let (down, up) = if is_embedding { (Part::EmbeddingA, Part::EmbeddingB) } else { (Part::A, Part::B) };
        let mut wanted: Vec<Part> = if is_changed { vec![down, up] } else { Vec::new() };
        let is_dora = is_changed && config.dora;
        wanted.extend(is_dora.then_some(Part::Magnitude));
        wanted.extend((is_changed && config.bias).then_some(Part::Bias));
        wanted.extend(has(Part::Tokens).then_some(Part::Tokens));
        let complete = self.check(&wanted);
        if is_dora && (is_embedding || config.bias) {
            let what = if is_embedding { "a DoRA of an embedding" } else { "a DoRA with biases" };
            let fault = Diagnostic::new(Code::UnsupportedAdapter).at(self.place(self.module));
            self.faults.push(fault.message(format!("this is {what}")));
            return None;
        }
        // Without its number, what is the same in several layers is told once.
        let name = names::layer(self.module).map_or(self.module, |(_, rest)| rest);
        let rank_why = format!("rank {rank}, {columns} columns of {name}");
        let out_why = format!("{rows} rows of {name}, rank {rank}");
        let lengths = format!("{rows} rows of {name}");
        let tokens = config.tokens.of(path).to_vec();
        let token_why =
            format!("{} rows that trainable_token_indices lists, {columns} columns", tokens.len());
        let shapes: [(Part, Vec<usize>, &str); 7] = [
            (Part::A, vec![rank, columns], &rank_why),
            (Part::B, vec![rows, rank], &out_why),
            (Part::EmbeddingA, vec![rank, rows], &out_why),
            (Part::EmbeddingB, vec![columns, rank], &rank_why),
            (Part::Bias, vec![rows], &lengths),
            (Part::Magnitude, vec![rows], &lengths),
            (Part::Tokens, vec![tokens.len(), columns], &token_why),
        ];
        let mut found = BTreeMap::new();
        for (part, shape, why) in shapes.iter().filter(|(part, ..)| wanted.contains(part)) {
            if let Some(stored) = self.parts.tensors.get(part) {
                let shape: Vec<Option<usize>> = shape.iter().map(|&size| Some(size)).collect();
                let name = format!("{}.{}", self.module, part.recipe(self.i));
                let canonical = format!("{}.weight", self.module);
                let expected = Expected { shape: &shape, why };
                let weight =
                    self.taken.take((self.i, &self.lora.file), stored, &canonical, name, &expected)?;
                found.insert(*part, weight);
            }
        }
        if !complete {
            return None;
        }
        let scale = config.scale(path) * self.lora.scale;
        let change = self.assemble(found, is_embedding, scale, &tokens);
        change
            .map_err(|error| self.faults.push(Diagnostic::new(Code::InvalidGraph).message(error.to_string())))
            .ok()?
    }

    fn assemble(
        &mut self,
        mut found: BTreeMap<Part, Weight>,
        is_embedding: bool,
        scale: f64,
        tokens: &[usize],
    ) -> Result<Option<Change>, WeightError> {
        let mut change = Change::default();
        let scale = Real::new(scale);
        let (down, up) = if is_embedding { (Part::EmbeddingA, Part::EmbeddingB) } else { (Part::A, Part::B) };
        if let (Some(a), Some(b)) = (found.remove(&down), found.remove(&up)) {
            let (a, b) = if is_embedding { (b.transpose()?, a.transpose()?) } else { (a, b) };
            change.sums.push(Sum { a, b, scale });
        }
        if let Some(bias) = found.remove(&Part::Bias) {
            change.biases.push(bias.convert(DType::F32)?.scale(scale)?);
        }
        change.norms = found.remove(&Part::Magnitude);
        if let Some(delta) = found.remove(&Part::Tokens) {
            let rows = self.weight.shape()[0];
            let distinct: BTreeSet<usize> = tokens.iter().copied().collect();
            if distinct.len() < tokens.len() || tokens.iter().any(|row| *row >= rows) {
                let fault = Diagnostic::new(Code::AdapterMismatch)
                    .at(format!("{}: trainable_token_indices", self.lora.path.join(super::CONFIG).display()));
                let expected = format!("rows of {}, below {rows} and each once", self.module);
                let found = match distinct.last() {
                    Some(last) if distinct.len() == tokens.len() => format!("row {last}"),
                    _ => "a row twice".to_owned(),
                };
                self.faults.push(fault.expected(expected).found(found));
                return Ok(None);
            }
            change.rows = Some((delta.convert(DType::F32)?, tokens.to_vec()));
        }
        Ok(Some(change))
    }

    /// Whether all of `wanted` is there and nothing else; what is not so becomes a fault.
    fn check(&mut self, wanted: &[Part]) -> bool {
        let canonical = format!("{}.weight", self.module);
        let mut complete = true;
        for part in wanted.iter().filter(|part| !self.parts.tensors.contains_key(part)) {
            complete = false;
            let place = self.place(&format!("{}.{}", self.parts.path, part.name()));
            let others: Vec<&str> = self.parts.tensors.keys().map(|part| part.name()).collect();
            let message = format!("the adapter has {} of this module, but not this", others.join(", "));
            self.taken.misfits.add(Code::MissingTensor, &canonical, place, None, Some(&message));
        }
        for (_, stored) in self.parts.tensors.iter().filter(|(part, _)| !wanted.contains(part)) {
            complete = false;
            let place = self.place(&stored.name);
            let message =
                "it would change nothing: adapter_config.json calls for no such tensor of this module";
            self.taken.misfits.add(Code::AdapterMismatch, &canonical, place, None, Some(message));
        }
        complete
    }

    fn place(&self, name: &str) -> String {
        format!("{}: {name}", self.lora.file.name())
    }
}

impl Checkpoint {
    /// The same model with its adapters in its weights, for layouts that know no adapters. An output embedding that is no
    /// longer the input embedding is untied.
    ///
    /// # Errors
    /// `UnsupportedAdapter` where an adapter adds a bias and the configuration has none there; `NoPlaceForPrompt` for a
    /// soft prompt, which is in no weight.
    pub fn merged(mut self) -> Result<Self, Diagnostics> {
        let mut faults = Diagnostics::new();
        if self.prompt.is_some() {
            faults.push(self.no_place_for_prompt("a checkpoint of transformers"));
        }
        let of = |name: &str| self.adapted.get(name).map(|module| &module.weight);
        if self.tie == Tie::Tied && of("model.embed_tokens") != of("lm_head") {
            let shared = self.weights.get(EMBEDDING).cloned();
            self.weights.extend(shared.map(|shared| (LM_HEAD.to_owned(), shared)));
            untie(&mut self)?;
        }
        for (module, Adapted { weight, bias, .. }) in std::mem::take(&mut self.adapted) {
            let name = format!("{module}.weight");
            if let Some(old) = self.weights.get_mut(&name) {
                *old = weight;
            }
            let Some(bias) = bias else { continue };
            match self.weights.get_mut(&format!("{module}.bias")) {
                Some(old) => *old = bias,
                None => faults.push(
                    Diagnostic::new(Code::UnsupportedAdapter)
                        .at(format!("{module}.bias"))
                        .message("the adapter adds a bias, for which config.json has no place")
                        .help("compile the model with --lora: compiled models and ONNX can have it"),
                ),
            }
        }
        faults.or(self)
    }
}
