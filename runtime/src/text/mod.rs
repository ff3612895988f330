//! Between text and token ids: the tokenizer, streaming detokenization and stop strings.
//!
//! `tokenizer.json` describes a whole pipeline (normalizer, pre-tokenizer, model, post-processor, decoder), and it is
//! executed literally by the `tokenizers` crate. What that crate does not give is here: SentencePiece's own algorithm
//! for a `tokenizer.model`, faults that name the file, text that arrives token by token and yet adds up to the decoding
//! of the whole, and a test for stop strings that looks at bytes.
//!
//! Deliberately absent: chat templates, and tiktoken's files, which the compiler turns into a `tokenizer.json`.

mod bytes;
mod detokenizer;
mod guard;
mod parts;
mod pipeline;
mod sentencepiece;
mod stop;
mod template;
mod tokenizer;

pub use detokenizer::Detokenizer;
pub use stop::StopStrings;
pub use tokenizer::Tokenizer;

#[cfg(test)]
pub(crate) mod testing;
