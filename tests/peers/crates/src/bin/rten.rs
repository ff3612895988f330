//! rten: a directory of ONNX, run by its own generator, whose tokens are the likeliest.

use llamac_peers::{Args, Context, Result, measure};
use rten::{Model, ModelOptions};
use rten_generate::{Generator, GeneratorConfig};

/// A generator, once it has a prompt.
struct Generated<'a> {
    model: &'a Model,
    /// Tokens that the cache has room for from the start.
    room: usize,
    generator: Option<Generator<'a>>,
}

impl Context for Generated<'_> {
    fn forward(&mut self, ids: &[u32]) -> Result<()> {
        let generator = match self.generator.take() {
            Some(generator) => generator,
            None => {
                let config = GeneratorConfig { kv_cache_capacity: Some(self.room), ..Default::default() };
                Generator::from_model_config(self.model, config)?.with_prompt(ids)
            }
        };
        self.generator.insert(generator).next().ok_or("no further token")??;
        Ok(())
    }
}

fn main() -> Result<()> {
    let args = Args::parse()?;
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("RTEN_NUM_THREADS", &args.threads) };
    let path = format!("{}/model.onnx", args.model);
    let model = ModelOptions::default().prepack_weights(true).load_file(path)?;
    let room = args.depths.iter().map(|depth| depth + args.new + 2).fold(args.prompt, usize::max);
    measure(&args, || Ok(Generated { model: &model, room, generator: None }))
}
