//! `llamac compile`: from a checkpoint to one file or a directory of ONNX, and every stop on the way.

use std::path::PathBuf;
use std::time::Instant;

use clap::ValueEnum;
use llamac_compiler::diagnostic::{Code, Diagnostic, Diagnostics};
use llamac_compiler::driver::{self, CompileOptions, ExportOptions};
use llamac_compiler::ir::DType;
use llamac_compiler::output::Output;
use llamac_compiler::passes::{self, Outcome, WeightFormat, WeightPolicy};
use llamac_compiler::source::Checkpoint;
use llamac_compiler::target::onnx::{Destination, OnnxOptions, Profile};
use llamac_compiler::verify;
use llamac_compiler::weights::Requantized;
use llamac_runtime::{Model, OpenOptions};
use tracing::debug;

use crate::args::{ChangeArgs, Compute, HeadArg, Kv, ThreadsArg, WeightsParser, whole};
use crate::comparison::{self, Side};
use crate::console::{Console, Stdout};
use crate::emit::{self, Emit, Form};
use crate::failure::Failure;
use crate::guard::{Kind, Outputs};
use crate::human;
use crate::model;
use crate::onnx::OnnxArgs;
use crate::progress::{Bar, Unit};

/// Compile a checkpoint into one file that `run` and `eval` take, or into ONNX
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A checkpoint: a directory, Hugging Face's or Meta's, or a GGUF file
    #[arg(value_name = "CKPT")]
    checkpoint: PathBuf,
    /// The compiled model, for ONNX a folder; without it only what --emit, --print-after, --dump-ir or --remarks ask for is made
    #[arg(short, long, value_name = "OUT", conflicts_with = "stop_after",
        required_unless_present_any = ["emit", "print_after", "stop_after", "dump_ir", "remarks"])]
    output: Option<PathBuf>,
    /// What to compile for
    #[arg(long, value_enum, default_value_t = Target::Native)]
    target: Target,
    /// The head to compile
    #[arg(long, value_enum, default_value_t = HeadArg::Auto)]
    head: HeadArg,
    #[command(flatten)]
    changes: ChangeArgs,
    /// How weights are stored, and some by name: q4,down_proj=q8; q4 and q4a store embeddings and heads in q8 unless
    /// they are named [default: as-is; f32 where ONNX gets a file of weights of its own]
    #[arg(long, value_name = "FORMAT[,NAME=FORMAT]", value_parser = WeightsParser)]
    weights: Option<WeightPolicy>,
    /// Precision of activations in matrix products, unless a run says otherwise
    #[arg(long, value_enum, default_value_t = Compute::Auto)]
    compute: Compute,
    /// How the cache stores keys and values, unless a run says otherwise
    #[arg(long, value_enum, default_value_t = Kv::F32)]
    kv: Kv,
    /// The longest context, if shorter than the model's own
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<u64>(1..=u64::MAX))]
    max_context: Option<u64>,
    /// Write the graph: ir, dot or svg, each with =PATH or to standard output
    #[arg(long, value_name = "KIND[=PATH]", value_delimiter = ',', value_parser = emit::parse)]
    emit: Vec<Emit>,
    /// Write the graph after each pass, and what the pass changed, into a folder
    #[arg(long, value_name = "DIR")]
    dump_ir: Option<PathBuf>,
    /// Print the graph after a pass
    #[arg(long, value_name = "PASS", value_delimiter = ',')]
    print_after: Vec<String>,
    /// Stop after a pass and print the graph
    #[arg(long, value_name = "PASS")]
    stop_after: Option<String>,
    /// Switch passes on (+NAME) or off (-NAME)
    #[arg(long, value_name = "+A,-B", value_delimiter = ',', allow_hyphen_values = true, value_parser = toggle)]
    passes: Vec<(String, bool)>,
    /// Tell which fusions fired, and which did not and why
    #[arg(long)]
    remarks: bool,
    /// Compare with the reference evaluator before anything is written, and a compiled model once more when it is: in
    /// f32, whatever --compute says
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    threads: ThreadsArg,
    #[command(flatten)]
    onnx: OnnxArgs,
}

/// What to compile for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// One file for llamac's own runtime
    Native,
    /// ONNX of primitives, for every runtime
    Onnx,
    /// ONNX with the standard's attention, norms and rotations
    OnnxStd,
    /// ONNX with ONNX Runtime's own operators
    OnnxOrt,
}

impl Target {
    /// The profile, if it is ONNX.
    fn profile(self) -> Option<Profile> {
        match self {
            Self::Native => None,
            Self::Onnx => Some(Profile::Portable),
            Self::OnnxStd => Some(Profile::Standard),
            Self::OnnxOrt => Some(Profile::Ort),
        }
    }
}

/// `+name` or `-name`.
fn toggle(text: &str) -> Result<(String, bool), String> {
    match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(name), _) if !name.is_empty() => Ok((name.to_owned(), true)),
        (_, Some(name)) if !name.is_empty() => Ok((name.to_owned(), false)),
        _ => Err("write +NAME to switch a pass on, -NAME to switch it off".to_owned()),
    }
}

impl Args {
    /// Compiles, or goes as far as the options ask for.
    pub fn run(&self, console: &Console) -> Result<(), Failure> {
        match self.target.profile() {
            None => self.compile(console),
            Some(profile) => self.export(profile, console),
        }
    }

    fn compile(&self, console: &Console) -> Result<(), Failure> {
        self.onnx.refuse()?;
        let start = Instant::now();
        let checkpoint = self.open(console)?;
        let mut outputs = Outputs::default();
        let output = self.output.as_deref().map(|path| outputs.file(path, Kind::Model)).transpose()?;
        let graphs = self.graphs(outputs)?;
        let options = self.options();
        let (Some(output), Some(path)) = (output, &self.output) else {
            return self.show(&driver::lower(&checkpoint, &options.passes)?, graphs, console);
        };
        let compiled =
            driver::compile(&checkpoint, &options, &output, &Bar::new(console, "packing", Unit::Bytes))?;
        let mut verified = None;
        if self.verify && compiled.artifact.is_some() {
            let threads = options.threads;
            let model = Model::from_file(output.file(), path, OpenOptions { verify: false, threads })?;
            let reference = Side::Checkpoint(Box::new(checkpoint), options.passes.weights);
            let sides = [&reference, &Side::Compiled(model)];
            let tolerance = Some(verify::TOLERANCE);
            let found = comparison::compare(sides, "the compiled model", None, tolerance, threads)?;
            verified = Some(format!("; verified in f32: differences up to {:.1e}", found.largest()));
        }
        // The model first: whoever reads what is shown may have gone away.
        if let Some(artifact) = compiled.artifact {
            output.publish()?;
            let size = human::bytes(artifact.bytes);
            let (path, verified) = (path.display(), verified.unwrap_or_default());
            console.note(format!("{path}: {size}, compiled in {}{verified}", since(start)));
            model::note_of_compute(self.compute.into(), &self.checkpoint, &artifact.plan, console);
            tell_requantized(&compiled.requantized, console);
        }
        self.show(&compiled.outcome, graphs, console)
    }

    fn export(&self, profile: Profile, console: &Console) -> Result<(), Failure> {
        let start = Instant::now();
        let narrow = [
            ("--kv", self.kv != Kv::F32),
            ("--compute", matches!(self.compute, Compute::Bf16 | Compute::Int8)),
        ];
        if let Some((option, _)) = narrow.iter().find(|(_, narrow)| *narrow) {
            let fault = Diagnostic::new(Code::BadArgument).at(*option).expected("f32 in ONNX output");
            return Err(fault.help("leave it out").into());
        }
        let checkpoint = self.open(console)?;
        self.onnx.accept(checkpoint.head)?;
        let options = self.export_options(profile);
        let OnnxOptions { layout, external, .. } = options.files;
        let create = |path: &PathBuf| Destination::create(path, &checkpoint, layout, external);
        let destination = self.output.as_ref().map(create).transpose()?;
        let mut outputs = Outputs::default();
        self.output.as_deref().map(|path| outputs.claim(path)).transpose()?;
        let graphs = self.graphs(outputs)?;
        let (Some(mut destination), Some(path)) = (destination, &self.output) else {
            return self.show(&driver::lower_for_export(&checkpoint, &options)?, graphs, console);
        };
        let exported = driver::export(
            &checkpoint,
            &options,
            &mut destination,
            &Bar::new(console, "writing", Unit::Bytes),
        )?;
        if let Some(export) = exported.export {
            export.warnings.iter().for_each(|warning| console.warn(warning));
            destination.publish()?;
            let (path, size, nodes) = (path.display(), human::bytes(export.bytes), export.nodes);
            console.note(format!("{path}: {size}, {nodes} nodes, exported in {}", since(start)));
            tell_requantized(&exported.requantized, console);
        }
        self.show(&exported.outcome, graphs, console)
    }

    /// Opens the checkpoint, and says what will not be as expected of the model that is made from it.
    fn open(&self, console: &Console) -> Result<Checkpoint, Diagnostics> {
        let checkpoint = model::checkpoint(&self.checkpoint, self.head.head(), &self.changes, console)?;
        let own = checkpoint.config.max_position_embeddings;
        if let Some(wanted) = self.max_context.filter(|&wanted| wanted > own) {
            console.warn(format!(
                "--max-context {wanted} is beyond the model's own context of {own} tokens, which stays"
            ));
        }
        if self.output.is_some() {
            model::warn_of_tokenizer(&checkpoint, console);
        }
        Ok(checkpoint)
    }

    /// Starts the files of `--emit`, so that one that cannot be written is known before the work is done; nothing for
    /// what goes to standard output.
    fn graphs(&self, mut outputs: Outputs) -> Result<Vec<Option<Output>>, Diagnostics> {
        let mut faults = Diagnostics::new();
        let mut start = |emit: &Emit| {
            let file = emit.path.as_ref().map(|path| outputs.file(path, Kind::Graph)).transpose();
            faults.absorb(file.map_err(Diagnostics::from)).flatten()
        };
        let graphs = self.emit.iter().map(&mut start).collect();
        if let Some(folder) = &self.dump_ir {
            faults.absorb(outputs.claim(folder).map_err(Diagnostics::from));
        }
        faults.or(graphs)
    }

    fn passes(&self, weights: WeightPolicy) -> passes::Options {
        passes::Options {
            weights,
            switches: self.passes.clone(),
            print_after: self.print_after.clone(),
            stop_after: self.stop_after.clone(),
            dump_dir: self.dump_ir.clone(),
            ..passes::Options::default()
        }
    }

    fn options(&self) -> CompileOptions {
        CompileOptions {
            compute: self.compute.into(),
            kv: self.kv.into(),
            max_context: self.max_context,
            verify: self.verify,
            threads: self.threads.count(),
            passes: self.passes(self.weights.clone().unwrap_or_default()),
        }
    }

    fn export_options(&self, profile: Profile) -> ExportOptions {
        let files = self.onnx.files(self.max_context);
        // Few runtimes read anything else, but weights that stay where they are stay what they are.
        let default =
            if files.external.is_stored() { WeightFormat::AsIs } else { WeightFormat::Float(DType::F32) };
        let weights = self.weights.clone().unwrap_or_default().or(default.into());
        ExportOptions {
            profile,
            inputs: self.onnx.inputs(),
            logits: self.onnx.logits(),
            cache: self.onnx.cache(),
            files,
            verify: self.verify,
            threads: self.threads.count(),
            passes: self.passes(weights),
        }
    }

    /// Prints and writes what was asked for of the way.
    fn show(&self, lowered: &Outcome, graphs: Vec<Option<Output>>, console: &Console) -> Result<(), Failure> {
        for pass in &lowered.report.passes {
            debug!("pass {} took {:.1?}", pass.name, pass.duration);
        }
        let mut out = Stdout::lock();
        for (name, text) in &lowered.prints {
            if lowered.prints.len() > 1 {
                writeln!(out, "// after {name}")?;
            }
            write!(out, "{text}")?;
        }
        let graph = lowered.stage.graph();
        if self.stop_after.is_some() && self.emit.is_empty() {
            write!(out, "{}", Form::Ir.of(graph))?;
        }
        for (Emit { form, .. }, file) in self.emit.iter().zip(graphs) {
            match file {
                Some(file) => emit::write(file, &form.of(graph))?,
                None => write!(out, "{}", form.of(graph))?,
            }
        }
        if self.remarks {
            lowered.report.remarks().iter().for_each(|remark| console.remark(remark));
        }
        out.flush()
    }
}

/// Tells what became of weights that the checkpoint has quantized.
fn tell_requantized(requantized: &[Requantized], console: &Console) {
    for of in requantized {
        let Requantized { from, to, matrices, error, rounded } = of;
        let matrices = human::matrices(*matrices as u64);
        let loss = match *error {
            _ if of.is_lossless() => "without loss".to_owned(),
            0.0 if *rounded == 1 => {
                "without loss but for a scale that half precision does not hold".to_owned()
            }
            0.0 => format!("without loss but for {rounded} scales that half precision does not hold"),
            _ => format!("with a relative error of {error:.2e}"),
        };
        console.note(format!("{matrices} in {from}: {to}, {loss}"));
    }
}

/// The time since `start`, for people.
fn since(start: Instant) -> String {
    human::seconds(start.elapsed().as_secs_f64())
}
