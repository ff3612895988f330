//! `llamac tokenize`: between text and token ids.

use llamac_runtime::text::Tokenizer;
use serde::Serialize;

use crate::args::ModelArg;
use crate::console::{Console, Stdout};
use crate::failure::Failure;
use crate::human;
use crate::ids::{self, Ids};
use crate::{input, model};

/// Show the token ids and pieces of a text
///
/// MODEL may be any folder with a tokenizer.json, as that of an export.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// The text; `-` reads standard input
    #[arg(allow_hyphen_values = true, required_unless_present = "decode")]
    text: Option<String>,
    /// Print the text of these ids, special tokens included
    #[arg(long, value_name = "IDS", allow_hyphen_values = true, value_parser = ids::parse, conflicts_with = "text")]
    decode: Option<Ids>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Tokens<'a> {
    ids: &'a [u32],
    pieces: &'a [String],
    /// What the ids say; only when they were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

impl Args {
    /// Prints ids and pieces, or text.
    pub fn run(&self, _console: &Console) -> Result<(), Failure> {
        let tokenizer = model::tokenizer(&self.model)?;
        let mut out = Stdout::lock();
        match &self.decode {
            Some(Ids(ids)) => self.decode(&tokenizer, ids, &mut out)?,
            None => {
                self.encode(&tokenizer, &input::text(self.text.as_deref().unwrap_or_default())?, &mut out)?
            }
        }
        out.flush()
    }

    fn encode(&self, tokenizer: &Tokenizer, text: &str, out: &mut Stdout) -> Result<(), Failure> {
        let ids = tokenizer.encode(text, true)?;
        let pieces = tokenizer.pieces(&ids)?;
        if self.json {
            return writeln!(out, "{}", json(&Tokens { ids: &ids, pieces: &pieces, text: None }));
        }
        let rows: Vec<[String; 2]> = ids
            .iter()
            .zip(&pieces)
            .map(|(id, piece)| [id.to_string(), piece.escape_debug().to_string()])
            .collect();
        write!(out, "{}", human::table(&rows))
    }

    fn decode(&self, tokenizer: &Tokenizer, ids: &[u32], out: &mut Stdout) -> Result<(), Failure> {
        // Decoding leaves unknown ids out; here they are a mistake.
        let pieces = tokenizer.pieces(ids)?;
        let text = tokenizer.decode(ids, false)?;
        match self.json {
            true => writeln!(out, "{}", json(&Tokens { ids, pieces: &pieces, text: Some(&text) })),
            false => writeln!(out, "{text}"),
        }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("numbers and strings are JSON")
}
