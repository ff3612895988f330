//! `llamac print`: what this build of llamac knows.

use clap::ValueEnum;
use llamac_compiler::source::Head;
use llamac_compiler::{ir, passes, target};

use crate::console::Stdout;
use crate::failure::Failure;
use crate::human;

/// List what this build knows: targets, passes, ops or heads
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The list
    #[arg(value_enum)]
    list: List,
}

/// A list that can be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum List {
    /// What can be compiled for
    Targets,
    /// The passes, in the order in which they run
    Passes,
    /// The operations of the graph
    Ops,
    /// The heads of a model
    Heads,
}

impl Args {
    /// Prints the list.
    pub fn run(&self) -> Result<(), Failure> {
        let mut out = Stdout::lock();
        write!(out, "{}", self.list.text())?;
        out.flush()
    }
}

impl List {
    fn text(self) -> String {
        match self {
            Self::Targets => {
                let row = |target: &&dyn target::Target| [target.name(), target.summary()].map(str::to_owned);
                human::table(&target::ALL.iter().map(row).collect::<Vec<_>>())
            }
            Self::Passes => {
                let row =
                    |pass: &passes::Pass| [pass.name, pass.phase.name(), pass.summary].map(str::to_owned);
                human::table(&passes::ALL.iter().map(row).collect::<Vec<_>>())
            }
            Self::Ops => ir::Op::MNEMONICS.iter().map(|name| format!("{name}\n")).collect(),
            Self::Heads => {
                human::table(&Head::ALL.map(|head| [head.name(), head.class()].map(str::to_owned)))
            }
        }
    }
}
