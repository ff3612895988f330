//! The tokenizer's files of a checkpoint: carried along as they are. What they mean is the runtime's business.

use std::path::Path;

use llamac_plan::diagnostic::Diagnostics;

use super::file;

/// The largest tokenizer file: ten times the largest that is known.
const MAX_BYTES: u64 = 256 << 20;

/// The contents of the tokenizer's files, as far as there are any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// `tokenizer.json`: the tokenizer itself.
    pub tokenizer: Option<Vec<u8>>,
    /// `tokenizer_config.json`.
    pub config: Option<Vec<u8>>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<Vec<u8>>,
}

impl TokenizerFiles {
    /// Reads the files of a directory.
    ///
    /// # Errors
    /// Those that are there and cannot be read.
    pub fn read(directory: &Path) -> Result<Self, Diagnostics> {
        let mut faults = Diagnostics::new();
        let mut read = |name: &str| {
            let bytes = file::read(&directory.join(name), MAX_BYTES).map_err(Diagnostics::from);
            faults.absorb(bytes).flatten()
        };
        let files = Self {
            tokenizer: read("tokenizer.json"),
            config: read("tokenizer_config.json"),
            special_tokens_map: read("special_tokens_map.json"),
        };
        faults.or(files)
    }
}
