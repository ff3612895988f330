//! `llamac completions`: the command line for shells to complete.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::console::Stdout;
use crate::failure::Failure;

/// Print a script that lets a shell complete this command
///
/// For bash: `llamac completions bash > ~/.local/share/bash-completion/completions/llamac`. For fish:
/// `llamac completions fish > ~/.config/fish/completions/llamac.fish`. For zsh: into a file `_llamac` in a folder of
/// `$fpath`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Args {
    /// Prints the script.
    pub fn run(&self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "llamac", &mut script);
        let mut out = Stdout::lock();
        write!(out, "{}", String::from_utf8_lossy(&script))?;
        out.flush()
    }
}
