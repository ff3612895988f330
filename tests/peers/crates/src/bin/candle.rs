//! candle: its LLaMA on a checkpoint's directory, its quantized LLaMA on a GGUF file.

use std::fs::File;
use std::path::Path;

use candle_core::quantized::gguf_file::Content;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama, LlamaConfig};
use candle_transformers::models::quantized_llama::ModelWeights;
use llamac_peers::{Args, Context, Result, measure};

/// A context of the quantized model, which keeps keys and values itself.
struct Quantized {
    model: ModelWeights,
    done: usize,
}

impl Context for Quantized {
    fn forward(&mut self, ids: &[u32]) -> Result<()> {
        let input = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        self.model.forward(&input, self.done)?;
        self.done += ids.len();
        Ok(())
    }
}

/// A context of the model in one precision.
struct Plain<'a> {
    model: &'a Llama,
    cache: Cache,
    done: usize,
}

impl Context for Plain<'_> {
    fn forward(&mut self, ids: &[u32]) -> Result<()> {
        let input = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        self.model.forward(&input, self.done, &mut self.cache)?;
        self.done += ids.len();
        Ok(())
    }
}

fn quantized(args: &Args) -> Result<()> {
    let mut file = File::open(&args.model)?;
    let content = Content::read(&mut file)?;
    let model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
    measure(args, || Ok(Quantized { model: model.clone(), done: 0 }))
}

fn plain(args: &Args, dtype: DType) -> Result<()> {
    let folder = Path::new(&args.model);
    let config: LlamaConfig = serde_json::from_reader(File::open(folder.join("config.json"))?)?;
    let config: Config = config.into_config(false);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            files.push(path);
        }
    }
    // SAFETY: nobody writes the files of a checkpoint while it is measured.
    let weights = unsafe { VarBuilder::from_mmaped_safetensors(&files, dtype, &Device::Cpu)? };
    let model = Llama::load(weights, &config)?;
    measure(args, || {
        let cache = Cache::new(true, dtype, &config, &Device::Cpu)?;
        Ok(Plain { model: &model, cache, done: 0 })
    })
}

fn main() -> Result<()> {
    let args = Args::parse()?;
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", &args.threads) };
    match args.precision.as_str() {
        "f32" => plain(&args, DType::F32),
        "bf16" => plain(&args, DType::BF16),
        _ => quantized(&args),
    }
}
