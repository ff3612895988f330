//! The arguments that commands share.
//!
//! Values and options that are planned and not available are not declared here, so that the help tells what there is;
//! [`crate::unavailable`] explains them.

use std::ffi::OsStr;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use llamac_compiler::passes::{WeightFormat, WeightPolicy};
use llamac_compiler::source::{AdapterSources, Head, LoraSource};
use llamac_runtime::EngineOptions;
use llamac_runtime::plan::{self, KvDtype};

/// Reads a whole number in `range`, for clap; a minus sign in front of it is no option, so that the range is told.
pub fn whole<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| match *range.end() {
            u64::MAX => format!("expected a whole number, at least {}", range.start()),
            end => format!("expected a whole number from {} to {end}", range.start()),
        })
    }
}

/// The model to use.
#[derive(Clone, Debug, clap::Args)]
pub struct ModelArg {
    /// A checkpoint: a directory, Hugging Face's or Meta's, or a GGUF file; or a compiled model
    #[arg(value_name = "MODEL")]
    pub path: PathBuf,
    /// Do not compare the checksums of a compiled model, which reads all of it
    #[arg(long, display_order = 800)]
    pub no_check: bool,
}

/// What a model is made of beside its checkpoint's directory, and how much of that is used.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ChangeArgs {
    /// Use some layers of a checkpoint only: those from A on and before B, counted from 0
    #[arg(long, value_name = "A..B", value_parser = layers)]
    pub layers: Option<Range<usize>>,
    /// Merge a LoRA adapter of PEFT into a checkpoint, scaled if a number is given; several add up
    #[arg(long, value_name = "DIR[=SCALE]", value_parser = lora)]
    pub lora: Vec<LoraSource>,
    /// Begin every text with a soft prompt of PEFT: prompt tuning, P-tuning or prefix tuning
    #[arg(long, value_name = "DIR")]
    pub soft_prompt: Option<PathBuf>,
}

impl ChangeArgs {
    /// The first option that asks for a change, if one does.
    pub fn option(&self) -> Option<&'static str> {
        match self {
            Self { layers: Some(_), .. } => Some("--layers"),
            Self { lora, .. } if !lora.is_empty() => Some("--lora"),
            Self { soft_prompt: Some(_), .. } => Some("--soft-prompt"),
            _ => None,
        }
    }

    /// The adapters.
    pub fn adapters(&self) -> AdapterSources {
        AdapterSources { loras: self.lora.clone(), soft_prompt: self.soft_prompt.clone() }
    }
}

/// A folder, and a number behind the last `=` unless the folder's own name has that.
fn lora(text: &str) -> Result<LoraSource, String> {
    let whole = || LoraSource { path: text.into(), scale: 1.0 };
    let Some((path, scale)) = text.rsplit_once('=').filter(|_| !Path::new(text).exists()) else {
        return Ok(whole());
    };
    match scale.parse::<f64>().ok().filter(|scale| scale.is_finite()) {
        Some(scale) if !path.is_empty() => Ok(LoraSource { path: path.into(), scale }),
        _ => Err("write an adapter's folder, and a number if it is to be scaled, as in DIR=0.5".to_owned()),
    }
}

fn layers(text: &str) -> Result<Range<usize>, String> {
    let bounds = text.split_once("..").and_then(|(a, b)| Some(a.parse().ok()?..b.parse().ok()?));
    bounds.ok_or_else(|| "write two numbers, as in 0..4, which is layers 0 to 3".to_owned())
}

/// How computing is done.
#[derive(Clone, Debug, clap::Args)]
pub struct ComputeArgs {
    /// Precision of activations in matrix products [default: what the model was compiled for]
    #[arg(long, value_enum)]
    pub compute: Option<Compute>,
    #[command(flatten)]
    pub threads: ThreadsArg,
}

/// How many threads work.
#[derive(Clone, Debug, clap::Args)]
pub struct ThreadsArg {
    /// Threads to use [default: all cores]
    #[arg(long = "threads", value_name = "N", allow_negative_numbers = true, value_parser = whole::<u16>(1..=1024))]
    threads: Option<u16>,
}

impl ComputeArgs {
    /// How an engine computes, unless the model has a say in it.
    pub fn engine(&self) -> EngineOptions {
        let compute = self.compute.map(plan::Compute::from);
        EngineOptions { threads: self.threads.count(), compute, ..EngineOptions::default() }
    }
}

impl ThreadsArg {
    /// The number of threads.
    pub fn count(&self) -> usize {
        let available = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or_else(available, usize::from)
    }
}

/// Precision of activations in matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compute {
    /// What suits the weights: f32 for f32 and f16, bf16 for bf16, int8 for quantized ones
    Auto,
    /// Single precision
    F32,
    /// bf16, added up in f32; decodes slowly where weights are not stored in bf16
    Bf16,
    /// Integers of 8 bits, for quantized weights
    Int8,
}

impl From<Compute> for plan::Compute {
    fn from(compute: Compute) -> Self {
        match compute {
            Compute::Auto => Self::Auto,
            Compute::F32 => Self::F32,
            Compute::Bf16 => Self::Bf16,
            Compute::Int8 => Self::Int8,
        }
    }
}

/// Reads how weights are stored.
#[derive(Clone, Copy, Debug)]
pub struct WeightsParser;

impl TypedValueParser for WeightsParser {
    type Value = WeightPolicy;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<WeightPolicy, clap::Error> {
        let parser = StringValueParser::new().try_map(|text| text.parse::<WeightPolicy>());
        parser.parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let value = |format: WeightFormat| PossibleValue::new(format.name());
        Some(Box::new(WeightFormat::ALL.into_iter().map(value)))
    }
}

/// How the cache stores keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kv {
    F32,
    F16,
    Bf16,
    /// Codes of 8 bits with scales
    Int8,
}

impl From<Kv> for KvDtype {
    fn from(kv: Kv) -> Self {
        match kv {
            Kv::F32 => Self::F32,
            Kv::F16 => Self::F16,
            Kv::Bf16 => Self::Bf16,
            Kv::Int8 => Self::Int8,
        }
    }
}

/// The head to compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HeadArg {
    /// The one that the checkpoint holds
    Auto,
    /// None: hidden states
    Base,
    /// Next-token logits
    CausalLm,
    /// Class scores of a text
    SequenceClassification,
    /// Class scores of every token
    TokenClassification,
    /// Scores of every token as the start and the end of an answer
    QuestionAnswering,
}

impl HeadArg {
    /// The head; nothing for the checkpoint's own.
    pub fn head(self) -> Option<Head> {
        match self {
            Self::Auto => None,
            Self::Base => Some(Head::Base),
            Self::CausalLm => Some(Head::CausalLm),
            Self::SequenceClassification => Some(Head::SequenceClassification),
            Self::TokenClassification => Some(Head::TokenClassification),
            Self::QuestionAnswering => Some(Head::QuestionAnswering),
        }
    }
}
