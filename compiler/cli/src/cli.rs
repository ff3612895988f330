//! The command line as a whole.

use clap::{ArgAction, Parser};

use crate::command::Command;
use crate::message::Format;

/// Compiles LLaMA checkpoints and runs them.
#[derive(Debug, Parser)]
#[command(name = "llamac", version, arg_required_else_help = true)]
pub struct Cli {
    /// Print errors and results only
    #[arg(short, long, global = true, conflicts_with = "verbose", display_order = 900)]
    pub quiet: bool,
    /// Say what is being done; twice (-vv) for details: times of passes, tensors without a use
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 901)]
    pub verbose: u8,
    /// Format of messages: human, or json (an object a line)
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t = Format::Human,
        hide_default_value = true, hide_possible_values = true, display_order = 902)]
    pub message_format: Format,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}
