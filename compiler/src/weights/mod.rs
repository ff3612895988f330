//! Weights as numbers: recipes evaluated row by row, from the mapped checkpoint.
//!
//! A [`WeightReader`] gives any block of a recipe, in any dtype, so that a packer can walk over a weight in tiles, from several
//! threads, and hold no more than its tiles: concatenations, slices and permutations only choose which mapped bytes
//! are read. A transposition gathers a block of its operand; a low-rank change holds its two factors, which are small. The
//! naive evaluation of `llamac-ir` is the judge of this one, to the bit.
//!
//! Not here: how numbers are quantized (`llamac_ir`), and the layouts of packed weights.

mod blocks;
mod convert;
mod error;
mod grouped;
mod loss;
mod merged;
mod packed;
mod reader;

pub use error::ReadError;
pub use loss::{Requantized, requantized};
pub(crate) use merged::RowNorms;
pub use reader::{Block, WeightReader};
