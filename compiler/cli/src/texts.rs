//! Several texts on the command line, and printing what is found out about them as it comes.

use std::ops::ControlFlow;

use llamac_compiler::diagnostic::{Diagnostic, Diagnostics};
use llamac_runtime::text::Tokenizer;

use crate::failure::Failure;
use crate::input;

/// What a library calls with the number of a text and its numbers.
pub type Each<'a> = &'a mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>;

/// The texts of `arguments`: themselves, or for `-` the lines of standard input.
///
/// # Errors
/// When standard input cannot be read, or is not UTF-8.
pub fn read(arguments: &[String]) -> Result<Vec<String>, Diagnostic> {
    let mut texts = Vec::with_capacity(arguments.len());
    for argument in arguments {
        match argument.as_str() {
            "-" => texts.extend(input::text(argument)?.lines().map(str::to_owned)),
            _ => texts.push(argument.clone()),
        }
    }
    Ok(texts)
}

/// The token ids of each text, special tokens included.
///
/// # Errors
/// One for each text that the tokenizer cannot take.
pub fn encode(tokenizer: &Tokenizer, texts: &[String]) -> Result<Vec<Vec<u32>>, Diagnostics> {
    let mut faults = Diagnostics::new();
    let ids = texts
        .iter()
        .filter_map(|text| faults.absorb(tokenizer.encode(text, true).map_err(Diagnostics::from)));
    let ids = ids.collect();
    faults.or(ids)
}

/// Runs `work`, which calls back for each text, and hands that to `print`; a failure to print ends it.
///
/// # Errors
/// Those of either.
pub fn printing(
    work: impl FnOnce(Each<'_>) -> Result<(), Diagnostics>,
    mut print: impl FnMut(usize, &[f32]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut printed = Ok(());
    let worked = work(&mut |i, numbers| {
        printed = print(i, numbers);
        if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    printed?;
    Ok(worked?)
}
