//! `llamac convert`: a checkpoint of any layout, as a directory that transformers loads.

use std::path::PathBuf;
use std::time::Instant;

use llamac_compiler::driver::{self, ConvertOptions};
use llamac_compiler::hugging_face;
use llamac_compiler::output::Folder;

use crate::args::{ChangeArgs, ThreadsArg};
use crate::console::Console;
use crate::failure::Failure;
use crate::progress::{Bar, Unit};
use crate::{human, model};

/// Write a checkpoint in Hugging Face's layout, its adapters merged: configuration, safetensors, tokenizer
///
/// The folder appears when all of it is written. An interrupted conversion leaves nothing and has to begin anew.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A checkpoint: a directory, Meta's or Hugging Face's with pytorch_model.bin, or a GGUF file
    #[arg(value_name = "CKPT")]
    checkpoint: PathBuf,
    /// The folder to make
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// The most bytes of weights in a file, as 5GB or 512MiB
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size)]
    max_shard_size: u64,
    #[command(flatten)]
    changes: ChangeArgs,
    #[command(flatten)]
    threads: ThreadsArg,
}

/// Units of sizes: those of a thousand as transformers writes them, those of 1024 with an i.
const UNITS: [(&str, u64); 7] = [
    ("KIB", 1 << 10),
    ("MIB", 1 << 20),
    ("GIB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

/// A size in bytes, with or without a unit.
fn size(text: &str) -> Result<u64, String> {
    let upper = text.to_ascii_uppercase();
    let unit = UNITS.iter().find_map(|(name, factor)| Some((upper.strip_suffix(name)?, *factor)));
    let (number, factor) = unit.unwrap_or((&upper, 1));
    let bytes = number.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    bytes
        .filter(|&bytes| bytes > 0)
        .ok_or_else(|| "write a number and a unit, as in 5GB or 512MiB".to_owned())
}

impl Args {
    /// Converts.
    pub fn run(&self, console: &Console) -> Result<(), Failure> {
        let start = Instant::now();
        let checkpoint = model::checkpoint(&self.checkpoint, None, &self.changes, console)?;
        model::warn_of_tokenizer(&checkpoint, console);
        let mut folder = Folder::create(&self.output, hugging_face::guard)?;
        let options = ConvertOptions { max_shard_size: self.max_shard_size, threads: self.threads.count() };
        let converted =
            driver::convert(checkpoint, options, &mut folder, &Bar::new(console, "converting", Unit::Bytes))?;
        converted.warnings.iter().for_each(|warning| console.warn(warning));
        folder.publish()?;
        let size = human::bytes(converted.bytes);
        let seconds = human::seconds(start.elapsed().as_secs_f64());
        let files =
            if converted.files == 1 { "1 file".to_owned() } else { format!("{} files", converted.files) };
        let path = self.output.display();
        console.note(format!("{path}: {} tensors, {size} in {files}, in {seconds}", converted.tensors));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_every_unit() {
        for (text, bytes) in
            [("5GB", 5_000_000_000), ("512MiB", 512 << 20), ("10 kb", 10_000), ("7", 7), ("7B", 7)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "GB", "-1GB", "1.5GB", "5TB", "99999999999GB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
