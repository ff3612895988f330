//! What the programs have in common: the arguments of `tests/peers/workers`, what they time and what they print.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Instant;

/// The result of what may fail in any way.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What to run: `MODEL --threads N --prompt N --new N --depths N,… [--precision NAME]`.
#[derive(Debug)]
pub struct Args {
    /// The model's path.
    pub model: String,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens one by one.
    pub new: usize,
    /// Tokens before them.
    pub depths: Vec<usize>,
    /// Threads.
    pub threads: String,
    /// The format of weights, where a program has several.
    pub precision: String,
}

impl Args {
    /// Reads the process's arguments.
    ///
    /// # Errors
    /// When they are others.
    pub fn parse() -> Result<Self> {
        let mut args = std::env::args().skip(1);
        let model = args.next().ok_or("no model")?;
        let mut options = BTreeMap::new();
        while let (Some(name), Some(value)) = (args.next(), args.next()) {
            options.insert(name, value);
        }
        let mut option = |name: &str| options.remove(name).ok_or_else(|| format!("no {name}"));
        let depths = option("--depths")?;
        Ok(Self {
            model,
            prompt: option("--prompt")?.parse()?,
            new: option("--new")?.parse()?,
            depths: depths.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?,
            threads: option("--threads")?,
            precision: option("--precision").unwrap_or_default(),
        })
    }
}

/// Tokens that were read.
pub trait Context {
    /// Reads further tokens; done when there are logits of the last one.
    ///
    /// # Errors
    /// When the peer has one.
    fn forward(&mut self, ids: &[u32]) -> Result<()>;
}

/// Times a model, and prints tokens a second. `start` makes a context without tokens.
///
/// # Errors
/// When the peer has one.
pub fn measure<C: Context>(args: &Args, start: impl Fn() -> Result<C>) -> Result<()> {
    start()?.forward(&tokens(args.prompt))?;
    let mut context = start()?;
    let begin = Instant::now();
    context.forward(&tokens(args.prompt))?;
    let mut speeds = BTreeMap::from([("pp".to_owned(), speed(args.prompt, begin))]);
    for &depth in &args.depths {
        let mut context = start()?;
        context.forward(&tokens(depth.max(1)))?;
        context.forward(&tokens(1))?;
        let begin = Instant::now();
        for token in tokens(args.new) {
            context.forward(&[token])?;
        }
        speeds.insert(format!("tg@{depth}"), speed(args.new, begin));
    }
    println!("{}", serde_json::to_string(&speeds)?);
    Ok(())
}

/// Ids that look random and that every vocabulary has.
fn tokens(count: usize) -> Vec<u32> {
    (0..count as u32).map(|n| 3 + n.wrapping_mul(2_654_435_761) % 997).collect()
}

fn speed(tokens: usize, begin: Instant) -> f64 {
    tokens as f64 / begin.elapsed().as_secs_f64()
}
