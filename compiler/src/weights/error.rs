//! Why weights cannot be read.

use llamac_plan::diagnostic::{Code, Diagnostic};

/// Why a recipe cannot be read from a checkpoint. Recipes are made from the checkpoint's own tensors, so that only
/// [`ReadError::NotFinite`] and [`ReadError::Overflow`] depend on a file.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReadError {
    /// The checkpoint has no such tensor.
    #[error("weight `{tensor}`: the checkpoint has no such tensor")]
    Missing {
        /// Its name in the recipe.
        tensor: String,
    },
    /// The checkpoint's tensor has another type than the recipe says.
    #[error("weight `{tensor}`: the recipe says {expected}, the checkpoint has {found}")]
    Type {
        /// Its name in the recipe.
        tensor: String,
        /// The type in the recipe.
        expected: String,
        /// The type in the checkpoint.
        found: String,
    },
    /// The rows that are asked for are not there, or do not fill the output.
    #[error("weight `{recipe}`: rows {start} to {end} of {rows}, into {length} {unit}")]
    Rows {
        /// The recipe.
        recipe: String,
        /// The first row asked for.
        start: usize,
        /// The end of the rows asked for.
        end: usize,
        /// The rows that there are.
        rows: usize,
        /// The length of the output.
        length: usize,
        /// What the output counts.
        unit: &'static str,
    },
    /// A column is asked for that is not there.
    #[error("weight `{recipe}`: column {number} of {columns}")]
    Column {
        /// The recipe of the numbers of columns.
        recipe: String,
        /// The column.
        number: usize,
        /// The columns that there are.
        columns: usize,
    },
    /// A number of the checkpoint that is infinite, or none, where one is computed with.
    #[error("{place}: {value} is no number to compute with")]
    NotFinite {
        /// The tensor of the checkpoint, and its file.
        place: String,
        /// The number.
        value: f32,
    },
    /// A number that would become infinite, or is not finite and cannot be quantized.
    #[error("{place}: {value} is more than {format} can hold")]
    Overflow {
        /// The tensor of the checkpoint, and its file.
        place: String,
        /// The type or the scheme asked for.
        format: &'static str,
        /// The number.
        value: f32,
    },
}

impl From<ReadError> for Diagnostic {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Overflow { place, format, value } => Self::new(Code::OutOfRange)
                .at(place)
                .expected(format!("numbers that {format} can hold"))
                .found(value.to_string())
                .help(match format {
                    _ if !value.is_finite() => "its numbers are finite, but what is computed of them is not",
                    // Its numbers are those of f32: what it cannot hold is infinite already.
                    "bf16" => "keep the checkpoint's own dtype",
                    _ => "keep the checkpoint's own dtype, or use `--weights bf16`",
                }),
            ReadError::NotFinite { place, value } => Self::new(Code::OutOfRange)
                .at(place)
                .expected("numbers that are finite")
                .found(value.to_string())
                .help("the file is damaged, or was written so: take it from its source again"),
            other => Self::new(Code::InvalidGraph).message(other.to_string()),
        }
    }
}
