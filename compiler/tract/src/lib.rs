//! Exported ONNX models in [tract](https://github.com/sonos/tract): a forward, as [`llamac_plan::eval`] defines it.
//!
//! A judge of exports that is Rust throughout, so that tests need nothing else. A crate of its own because tract takes
//! minutes to compile: for the command it is a feature, `onnx-backend`. tract knows the standard's primitives, which is
//! what `--target onnx` writes.
//!
//! Deliberately not here: checks of the file, which the compiler's reader does, and speed.

mod eval;
mod inputs;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_plan::eval::{Output, Request};
use tract_onnx::prelude::{
    Framework, InferenceModelExt, IntoRunnable, TValue, TVec, TractResult, TypedRunnableModel,
};

use eval::Run;
use inputs::{Input, Kind};

/// How the names of grown caches begin.
const PRESENT: &str = "present.";

/// An ONNX model that tract can run.
#[derive(Debug)]
pub struct Model {
    path: PathBuf,
    plan: Arc<TypedRunnableModel>,
    inputs: Vec<Input>,
    outputs: Vec<String>,
}

impl Model {
    /// Opens the model in the file `path`, which is known to be one.
    ///
    /// # Errors
    /// When tract cannot run it, in its words, or it takes an input that a forward does not have.
    pub fn open(path: &Path) -> Result<Self, Diagnostic> {
        let (plan, outputs) = guarded(path, "load the model", || {
            let model = tract_onnx::onnx().model_for_path(path)?;
            let outlets = model.output_outlets()?.iter();
            let name = |outlet| model.outlet_label(outlet).unwrap_or_default().to_owned();
            let outputs: Vec<String> = outlets.copied().map(name).collect();
            let cached = outputs.iter().any(|name| name.starts_with(PRESENT));
            // tract 0.23 cuts a causal mask into regions, and gets one wrong that has as many keys as queries.
            let model = if cached { model.into_optimized()? } else { model.into_typed()? };
            Ok((model.into_runnable()?, outputs))
        })?;
        let inputs = guarded(path, "tell the inputs", || Input::all(&plan, &outputs))?;
        if let Some(Input { name, .. }) = inputs.iter().find(|input| input.kind == Kind::Unknown) {
            let fault = Diagnostic::new(Code::OnnxBackend).at(format!("{}: {name}", path.display()));
            let fault = fault.message("no forward has an input of this name and type");
            return Err(fault.help("export a checkpoint with --target onnx"));
        }
        Ok(Self { path: path.to_owned(), plan, inputs, outputs })
    }

    /// The width of the embeddings that the model reads; nothing if it reads ids.
    fn width(&self) -> Option<usize> {
        self.inputs.iter().find_map(|input| match input.kind {
            Kind::Embeddings { width } => Some(width),
            _ => None,
        })
    }

    /// Whether there is a cache.
    pub fn has_cache(&self) -> bool {
        self.inputs.iter().any(|input| matches!(input.kind, Kind::Past { .. }))
    }

    /// Runs `request`: its first positions at once, the last `cached` one at a time, each on the caches that the model
    /// gave before.
    ///
    /// # Errors
    /// When the request does not fit the model, or tract fails, as for a token that the vocabulary does not have.
    pub fn eval(&self, request: &Request) -> Result<Vec<Output>, Diagnostics> {
        let mut outputs = self.trace(request)?;
        outputs.retain(|output| !output.name.starts_with(PRESENT));
        Ok(outputs)
    }

    /// As [`Model::eval`], and behind the outputs the caches as they are in the end, `present.<layer>.key` and
    /// `present.<layer>.value`.
    ///
    /// # Errors
    /// As [`Model::eval`].
    pub fn trace(&self, request: &Request) -> Result<Vec<Output>, Diagnostics> {
        request.validate(usize::MAX, self.width().unwrap_or(0))?;
        self.accept(request)?;
        let mut outputs: Vec<Output> = Vec::new();
        let mut run = Run::new(self, request);
        let prefill = request.seq - request.cached;
        for phase in
            std::iter::once(0..prefill).chain((prefill..request.seq).map(|column| column..column + 1))
        {
            for new in run.forward(phase)? {
                match outputs.iter_mut().find(|output| output.name == new.name) {
                    Some(output) => output.append_columns(&new),
                    None => outputs.push(new),
                }
            }
        }
        if let Some(keep) = request.keep {
            let logits = |output: &&mut Output| output.name == "logits";
            outputs.iter_mut().filter(logits).for_each(|output| output.keep_columns(keep));
        }
        outputs.extend(run.caches()?);
        Ok(outputs)
    }

    /// Refuses what the graph has no input or output for.
    fn accept(&self, request: &Request) -> Result<(), Diagnostics> {
        let mut faults = Diagnostics::new();
        let mut refuse = |at: &str, why: &str, help: &str| {
            faults.push(Diagnostic::new(Code::BadArgument).at(at).message(why).help(help));
        };
        let takes = |name: &str| self.inputs.iter().any(|input| input.name == name);
        let tokens = match request.tokens {
            llamac_plan::eval::Tokens::Ids(_) => "input_ids",
            llamac_plan::eval::Tokens::Embeddings(_) => "inputs_embeds",
        };
        let given = [
            (tokens, true, "export it with the other --inputs, or give it what it reads"),
            ("attention_mask", request.mask.is_some(), "leave it out, and the padding"),
            ("position_ids", request.positions.is_some(), "leave it out: the model counts positions itself"),
        ];
        for (name, _, help) in given.into_iter().filter(|(name, given, _)| *given && !takes(name)) {
            refuse(name, "the exported model has no such input", help);
        }
        if request.hidden_states {
            refuse(
                "--hidden-states",
                "an exported model gives none",
                "give the checkpoint that it was made from",
            );
        }
        if request.cached > 0 && !self.has_cache() {
            refuse("--cached", "the exported model has no cache", "leave it out");
        }
        if request.keep.is_some() && !self.has_logits_by_token() {
            refuse("--keep", "the exported model has no logits for each position", "leave it out");
        }
        faults.or(())
    }

    fn has_logits_by_token(&self) -> bool {
        let index = self.outputs.iter().position(|name| name == "logits");
        index.and_then(|index| self.plan.model().output_fact(index).ok()).is_some_and(|fact| fact.rank() == 3)
    }

    fn run(&self, inputs: TVec<TValue>) -> Result<TVec<TValue>, Diagnostic> {
        guarded(&self.path, "run the model", || self.plan.run(inputs))
    }
}

/// What `work` gives. tract trusts what it loads: its faults and its panics are faults of the model at `path`.
fn guarded<T>(path: &Path, what: &str, work: impl FnOnce() -> TractResult<T>) -> Result<T, Diagnostic> {
    let why = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied();
            let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            text.unwrap_or("it panicked").to_owned()
        }
    };
    let fault = Diagnostic::new(Code::OnnxBackend).at(path.display().to_string());
    Err(fault.message(format!("tract cannot {what}: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_panic_says_is_told() {
        let told = |work: fn() -> TractResult<()>| {
            guarded(Path::new("m"), "run it", work).unwrap_err().message.clone()
        };
        let literal = told(|| panic!("a literal"));
        assert_eq!(literal.as_deref(), Some("tract cannot run it: a literal"));
        let text = told(|| panic!("a text of {}", 2));
        assert_eq!(text.as_deref(), Some("tract cannot run it: a text of 2"));
    }
}
