//! `llamac eval`: one forward, as transformers' `forward` defines it.

use std::path::PathBuf;

use clap::ValueEnum;
use llamac_compiler::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_compiler::passes::WeightPolicy;
use llamac_compiler::reference;
use llamac_runtime::plan::{Compute, KvDtype, PromptKind};
use llamac_runtime::{self as runtime, EngineOptions, Request};

use crate::args::{ChangeArgs, ComputeArgs, Kv, ModelArg, WeightsParser, whole};
use crate::console::Console;
use crate::exported;
use crate::failure::Failure;
use crate::guard::{Kind, Outputs};
use crate::model::{self, Source};
use crate::request::{self, Inputs};
use crate::tensors;

/// Run the model once over tensors of a file, as transformers' `forward`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    #[command(flatten)]
    changes: ChangeArgs,
    /// The inputs: `input_ids` or `inputs_embeds`; `attention_mask` and `position_ids` if wanted
    #[arg(long, value_name = "FILE")]
    inputs: PathBuf,
    /// Where the outputs go
    #[arg(long, value_name = "FILE")]
    outputs: PathBuf,
    /// What computes
    #[arg(long, value_enum, default_value_t = Backend::Native)]
    backend: Backend,
    /// Also write hidden_states.0, hidden_states.1, …
    #[arg(long)]
    hidden_states: bool,
    /// Write the logits of the last N positions only
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<u32>(1..=u32::MAX.into()))]
    keep: Option<u32>,
    /// Run the last N positions one at a time through the KV cache
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, allow_negative_numbers = true,
        value_parser = whole::<u32>(0..=u32::MAX.into()))]
    cached: u32,
    /// How the cache stores keys and values
    #[arg(long, value_enum, default_value_t = Kv::F32)]
    kv: Kv,
    /// How the weights of a checkpoint are stored, as `compile` takes it: q4,down_proj=q8 [default: as-is]
    #[arg(long, value_name = "FORMAT[,NAME=FORMAT]", value_parser = WeightsParser)]
    weights: Option<WeightPolicy>,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Backend {
    /// The compiled model
    Native,
    /// The graph, node by node, in the simplest way: the judge of the others
    Reference,
    /// An exported directory or `.onnx` file, by tract; in programs built with the feature onnx-backend
    Onnx,
}

/// What a backend computes with.
enum Opened {
    Source(Source),
    Exported(exported::Model),
}

impl Args {
    /// Computes and writes the outputs.
    pub fn run(&self, console: &Console) -> Result<(), Failure> {
        let mut faults = Diagnostics::new();
        let inputs = faults.absorb(request::read(&self.inputs));
        // Started first, so that hours of computing do not end at a folder that is not there.
        let file = Outputs::default().file(&self.outputs, Kind::Tensors);
        let file = faults.absorb(file.map_err(Diagnostics::from));
        let model = faults.absorb(self.open(console));
        if let Some(Opened::Source(Source::Artifact(_)) | Opened::Exported(_)) = model
            && self.weights.is_some()
        {
            let fault = Diagnostic::new(Code::BadArgument).at("--weights");
            let fault = fault.expected("a checkpoint's directory").found("a compiled model");
            faults.push(fault.help("leave it out: the weights are stored as they were compiled"));
        }
        let (Some(inputs), Some(file), Some(model)) = (inputs, file, model) else {
            return Err(faults.into());
        };
        faults.or(())?;
        for (name, near) in &inputs.ignored {
            let text = format!("{}: `{name}` is no input of a forward", self.inputs.display());
            console.warn(match near {
                Some(near) => format!("{text}; did you mean `{near}`?"),
                None => text,
            });
        }
        let outputs = match model {
            Opened::Exported(model) => {
                model.eval(&self.asked(inputs.request)).map_err(|faults| self.in_inputs(&faults))?
            }
            Opened::Source(source) => {
                let request = self.request(inputs, &source)?;
                if request.positions.is_some() && source.prompt() == Some(PromptKind::Embeddings) {
                    console.warn(format!(
                        "{}: position_ids are not used, as in PEFT: positions count on from the soft prompt's",
                        self.inputs.display()
                    ));
                }
                match self.backend {
                    Backend::Reference => self.reference(&source, &request)?,
                    Backend::Native | Backend::Onnx => self.native(source, &request, console)?,
                }
            }
        };
        let not_a_number = |output: &&runtime::Output| output.data.iter().any(|x| x.is_nan());
        for output in outputs.iter().filter(not_a_number) {
            console.warn(format!(
                "{}: `{}` holds values that are not numbers",
                file.path().display(),
                output.name
            ));
        }
        tensors::write(&file, &outputs)?;
        file.publish()?;
        Ok(())
    }

    fn native(
        &self,
        source: Source,
        request: &Request,
        console: &Console,
    ) -> Result<Vec<runtime::Output>, Failure> {
        let threads = self.compute.threads.count();
        // What is compiled for this forward alone is for comparing.
        let compute = matches!(source, Source::Checkpoint(_)).then_some(Compute::F32);
        let model = model::compiled(source, &self.model.path, self.policy(), threads, console)?;
        let options = self.compute.engine();
        let options = EngineOptions { compute: options.compute.or(compute), ..options };
        let mut engine = model::engine(&model, options, console)?;
        Ok(runtime::eval(&mut engine, request, KvDtype::from(self.kv))?)
    }

    fn reference(&self, source: &Source, request: &Request) -> Result<Vec<runtime::Output>, Failure> {
        let Source::Checkpoint(checkpoint) = source else {
            let fault = Diagnostic::new(Code::BadArgument).at("--backend reference");
            let fault =
                fault.expected("a checkpoint's directory").found("a compiled model, which has no graph");
            return Err(fault.help("give the directory that it was compiled from").into());
        };
        Ok(reference::eval(checkpoint, &self.policy(), request)?)
    }

    fn policy(&self) -> WeightPolicy {
        self.weights.clone().unwrap_or_default()
    }

    /// `request` with the options of the command line.
    fn asked(&self, request: Request) -> Request {
        let keep = self.keep.map(|keep| keep as usize);
        let (hidden_states, cached) = (self.hidden_states, self.cached as usize);
        Request { keep, hidden_states, cached, ..request }
    }

    /// Opens what the backend computes with.
    fn open(&self, console: &Console) -> Result<Opened, Diagnostics> {
        match self.backend {
            Backend::Onnx => Ok(Opened::Exported(exported::open(&self.model.path, console)?)),
            Backend::Native | Backend::Reference => {
                let threads = self.compute.threads.count();
                Ok(Opened::Source(model::source(&self.model, &self.changes, threads, console)?))
            }
        }
    }

    /// The forward with the options of the command line, which fits the model in `source`.
    fn request(&self, inputs: Inputs, source: &Source) -> Result<Request, Diagnostics> {
        let Inputs { request, width, .. } = inputs;
        let (vocab_size, hidden_size) = source.sizes();
        if let Some(width) = width.filter(|&width| width != hidden_size) {
            let place = format!("{}: inputs_embeds", self.inputs.display());
            let fault = Diagnostic::new(Code::BadInputTensor).at(place);
            return Err(fault
                .expected(format!("[batch, seq, {hidden_size}]"))
                .found(format!("a last dimension of {width}"))
                .into());
        }
        let request = self.asked(request);
        let fits = request.validate(vocab_size, hidden_size);
        let fits = fits.and_then(|()| Ok(request.check_head(&source.head())?));
        fits.map_err(|faults| self.in_inputs(&faults))?;
        Ok(request)
    }

    /// `faults` with the file of the inputs as the place of what is in it.
    fn in_inputs(&self, faults: &Diagnostics) -> Diagnostics {
        let file = self.inputs.display();
        let placed = faults.iter().map(|fault| match fault.at.as_deref() {
            Some(option) if option.starts_with("--") => fault.clone(),
            Some(tensor) => fault.clone().at(format!("{file}: {tensor}")),
            None => fault.clone().at(file.to_string()),
        });
        placed.collect()
    }
}
