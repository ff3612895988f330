//! The container of a compiled model: names, versions and the place of checksums.
//!
//! An artifact is a valid `.safetensors` file in which every tensor is U8, so that existing tools can list it:
//!
//! | tensor | content |
//! |---|---|
//! | `llamac.checksums` | first; one little-endian u64 for each slot, see below |
//! | `llamac.plan` | the [`crate::Plan`] as JSON |
//! | `files/<name>` | a file of the checkpoint, byte for byte: `config.json`, `tokenizer.json`, … (for Llama 3's `tokenizer.model`, the `tokenizer.json` that says the same) |
//! | `llamac.pad.<n>` | zeros that align the next tensor; the format forbids holes |
//! | anything else | a packed weight, aligned to [`crate::layout::ALIGNMENT`] bytes |
//!
//! The header's `__metadata__` holds `format` = [`FORMAT`] and `version` = [`VERSION`] in decimal.
//!
//! Checksums are XXH3-64, in little-endian slots of eight bytes. Slot 0 covers the file's first bytes: the length
//! prefix and the header. Slot `i` covers the bytes of the `i`-th tensor in file order (`llamac.checksums` itself is
//! number 0, so its slot is the header's). Zeros follow up to a multiple of the alignment, and the last slot of all
//! covers the slots before it. Their places do not depend on their values, so that they are filled in after the
//! weights have streamed past.

/// Value of the metadata key `format`.
pub const FORMAT: &str = "llamac";

/// What the file of every compiled model has after the eight bytes of the header's length, whatever its version: enough
/// to tell one, whole or not, from another kind of file.
pub const BEGINNING: &str = r#"{"__metadata__":{"format":"llamac""#;

/// The version that this build writes and the only one that it reads.
pub const VERSION: u32 = 4;

/// The longest header, in bytes. A reader takes more memory for it than it has bytes; ten times more tensors than the
/// largest models have fit in.
pub const MAX_HEADER: usize = 2 << 20;

/// The longest plan, in bytes; as [`MAX_HEADER`].
pub const MAX_PLAN: usize = 2_800_000;

/// Name of the tensor of checksums.
pub const CHECKSUMS: &str = "llamac.checksums";

/// Name of the tensor that holds the plan.
pub const PLAN: &str = "llamac.plan";

/// Prefix of tensors that hold files of the checkpoint.
pub const FILES: &str = "files/";

/// Prefix of padding tensors.
pub const PAD: &str = "llamac.pad.";
