//! The `llamac` command: arguments, progress and messages. What it does is done by the compiler and the runtime.
//!
//! Standard output carries what was asked for; everything else goes to standard error. A command returns a
//! [`failure::Failure`]; only this file turns one into an exit status.

mod args;
mod bug;
mod cli;
mod command;
mod comparison;
mod console;
mod emit;
mod exported;
mod failure;
mod guard;
mod human;
mod ids;
mod input;
mod message;
mod model;
mod onnx;
mod progress;
mod request;
mod tensors;
mod texts;
mod tips;
mod unavailable;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use cli::Cli;
use console::Console;
use failure::Failure;
use message::Format;

fn main() -> ExitCode {
    bug::record_panics();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match std::panic::catch_unwind(|| dispatch(&arguments)) {
        Ok(status) => ExitCode::from(status),
        Err(_) => ExitCode::from(bug::report(Format::wanted(&arguments))),
    }
}

/// Runs the command of `arguments` and returns its exit status.
fn dispatch(arguments: &[OsString]) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return refuse(error, arguments),
    };
    let console = Console::new(cli.message_format, cli.quiet, cli.verbose);
    status(&console, cli.command.run(&console))
}

/// The exit status of a command that `ended` so, of which the faults are printed.
fn status(console: &Console, ended: Result<(), Failure>) -> u8 {
    match ended {
        Ok(()) | Err(Failure::ReaderGone) => 0,
        Err(Failure::Faults(faults)) => {
            console.faults(&faults);
            faults.exit_status()
        }
    }
}

/// A command line that clap did not take: help, a version, an option that is not available yet, or a mistake.
fn refuse(error: clap::Error, arguments: &[OsString]) -> u8 {
    let console = Console::new(Format::wanted(arguments), false, 0);
    if !error.use_stderr() {
        return status(&console, error.print().map_err(|e| console::failure(&e)));
    }
    if let Some(fault) = unavailable::explain(&error, arguments) {
        let faults = fault.into();
        console.faults(&faults);
        return faults.exit_status();
    }
    let error = tips::add(error, arguments);
    console.mistake(&error);
    u8::try_from(error.exit_code()).unwrap_or(2)
}
