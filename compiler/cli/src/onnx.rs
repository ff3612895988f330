//! The options of `compile` that are about ONNX alone.

use clap::ValueEnum;
use llamac_compiler::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_compiler::model::{Inputs, Logits};
use llamac_compiler::source::Head;
use llamac_compiler::target::onnx::{ExternalData, Layout, OnnxOptions};

/// The options of ONNX output.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "ONNX")]
pub struct OnnxArgs {
    /// For whom files are named and placed [default: flat]
    #[arg(long, value_enum)]
    layout: Option<LayoutArg>,
    /// Where weights are [default: file]
    #[arg(long, value_enum, value_name = "WHERE")]
    external_data: Option<ExternalDataArg>,
    /// Which positions of a causal language model get logits [default: all]
    #[arg(long, value_enum)]
    logits: Option<LogitsArg>,
    /// What the model reads [default: ids]
    #[arg(long, value_enum)]
    inputs: Option<InputsArg>,
    /// A causal language model without a cache, which reads whole texts
    #[arg(long)]
    no_cache: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LayoutArg {
    /// Everything in one folder: ONNX Runtime, optimum, onnxruntime-genai
    Flat,
    /// Only what onnxruntime-genai reads
    Genai,
    /// The model in a folder `onnx`, named by its weights
    #[value(name = "transformers.js")]
    TransformersJs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ExternalDataArg {
    /// In one file, written for the model
    File,
    /// In the checkpoint, in whose folder the model is written: no weights are written
    Reference,
    /// In copies of the checkpoint's files: the output is a checkpoint, too
    Copy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogitsArg {
    All,
    Last,
    /// As many as the input num_logits_to_keep says; 0 is all
    Keep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum InputsArg {
    /// input_ids
    Ids,
    /// inputs_embeds
    Embeds,
}

impl OnnxArgs {
    /// The options of files, for a context of at most `max_context`.
    pub fn files(&self, max_context: Option<u64>) -> OnnxOptions {
        let layout = match self.layout {
            None | Some(LayoutArg::Flat) => Layout::Flat,
            Some(LayoutArg::Genai) => Layout::Genai,
            Some(LayoutArg::TransformersJs) => Layout::TransformersJs,
        };
        let external = match self.external_data {
            None | Some(ExternalDataArg::File) => ExternalData::File,
            Some(ExternalDataArg::Reference) => ExternalData::Reference,
            Some(ExternalDataArg::Copy) => ExternalData::Copy,
        };
        OnnxOptions { layout, external, max_context }
    }

    /// Which positions get logits.
    pub fn logits(&self) -> Logits {
        match self.logits {
            None | Some(LogitsArg::All) => Logits::All,
            Some(LogitsArg::Last) => Logits::Last,
            Some(LogitsArg::Keep) => Logits::Counted,
        }
    }

    /// What the model reads.
    pub fn inputs(&self) -> Inputs {
        match self.inputs {
            None | Some(InputsArg::Ids) => Inputs::Ids,
            Some(InputsArg::Embeds) => Inputs::Embeddings,
        }
    }

    /// Whether there is a cache.
    pub fn cache(&self) -> bool {
        !self.no_cache
    }

    /// Refuses what a model with this `head` cannot have.
    ///
    /// # Errors
    /// When logits are chosen, and there are none to choose.
    pub fn accept(&self, head: Head) -> Result<(), Diagnostic> {
        if self.logits.is_none() || head == Head::CausalLm {
            return Ok(());
        }
        let fault = Diagnostic::new(Code::BadArgument).at("--logits");
        let fault = fault.message("only the logits of a causal language model are a choice");
        Err(fault.found(format!("the head {}", head.name())).help("leave it out, or add --head causal-lm"))
    }

    /// Fails for every option that is given.
    ///
    /// # Errors
    /// One fault each.
    pub fn refuse(&self) -> Result<(), Diagnostics> {
        let given = [
            (self.layout.is_some(), "--layout"),
            (self.external_data.is_some(), "--external-data"),
            (self.logits.is_some(), "--logits"),
            (self.inputs.is_some(), "--inputs"),
            (self.no_cache, "--no-cache"),
        ];
        let mut faults = Diagnostics::new();
        for (_, name) in given.into_iter().filter(|(given, _)| *given) {
            let fault = Diagnostic::new(Code::BadArgument).at(name).message("the option is for ONNX output");
            faults.push(fault.help("add --target onnx, onnx-std or onnx-ort"));
        }
        faults.or(())
    }
}
