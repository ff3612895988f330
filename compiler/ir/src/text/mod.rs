//! The text form of graphs: printing, parsing, and what both share.
//!
//! Print → parse → print is the identity. Text is numbered in post-order from the results, so it depends on a
//! graph's structure and not on the history of passes; nodes that no result needs are not printed.

mod cursor;
mod parse;
mod print;

pub(crate) use cursor::{Cursor, is_plain_name, write_name};
pub use cursor::{SyntaxError, TextError};
pub(crate) use print::Names;
