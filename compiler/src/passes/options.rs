//! What a caller may ask of the passes, checked before any of them runs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use llamac_ir::suggest::nearest;
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use super::{ALL, Pass, WeightPolicy, Work};
use crate::source::Adapted;

/// The name of the graph before the first pass, where the name of a pass is asked for.
pub const INPUT: &str = "input";

/// Which passes run, what they are told, where they stop, and what is kept of the way. The default runs everything,
/// leaves weights as they are, and keeps nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The modules that adapters add something to.
    pub adapted: BTreeMap<String, Adapted>,
    /// How weights are stored.
    pub weights: WeightPolicy,
    /// Passes that are switched on (`true`) or off, by name; the last word on a pass counts. All are on by default.
    pub switches: Vec<(String, bool)>,
    /// Passes after which the text of the graph is wanted; [`INPUT`] is the graph before the first.
    pub print_after: Vec<String>,
    /// The pass after which to stop; [`INPUT`] stops before the first.
    pub stop_after: Option<String>,
    /// A folder for the text of the graph after each pass, and for what the pass changed.
    pub dump_dir: Option<PathBuf>,
}

impl Options {
    /// The passes that will run, in order.
    ///
    /// # Errors
    /// All names that no pass has, and passes that cannot be switched off.
    pub(super) fn schedule(&self) -> Result<Vec<&'static Pass>, Diagnostics> {
        let mut faults = Diagnostics::new();
        for (name, on) in &self.switches {
            match find(name) {
                None => faults.push(unknown("--passes", name, false)),
                Some(pass) if matches!(pass.work, Work::Legalize) && !on => faults.push(
                    Diagnostic::new(Code::BadArgument)
                        .at(format!("--passes -{name}"))
                        .message("the target can take nothing else than a legalized graph")
                        .help("stop before it with --stop-after"),
                ),
                Some(_) => {}
            }
        }
        let places = [("--print-after", &self.print_after[..]), ("--stop-after", self.stop_after.as_slice())];
        for (option, names) in places {
            for name in names.iter().filter(|name| *name != INPUT) {
                match find(name) {
                    None => faults.push(unknown(option, name, true)),
                    Some(pass) if !self.is_on(pass) => faults.push(
                        Diagnostic::new(Code::BadArgument)
                            .at(format!("{option} {name}"))
                            .message(format!("{name} is switched off")),
                    ),
                    Some(_) => {}
                }
            }
        }
        let stop = self.stop_after.as_deref();
        let end = match stop {
            Some(INPUT) => 0,
            Some(stop) => ALL.iter().position(|pass| pass.name == stop).map_or(ALL.len(), |at| at + 1),
            None => ALL.len(),
        };
        faults.or(ALL[..end].iter().filter(|pass| self.is_on(pass)).collect())
    }

    fn is_on(&self, pass: &Pass) -> bool {
        self.switches.iter().rev().find(|(name, _)| name == pass.name).is_none_or(|(_, on)| *on)
    }
}

fn find(name: &str) -> Option<&'static Pass> {
    ALL.iter().find(|pass| pass.name == name)
}

fn unknown(option: &str, name: &str, input: bool) -> Diagnostic {
    let known: Vec<&str> =
        input.then_some(INPUT).into_iter().chain(ALL.iter().map(|pass| pass.name)).collect();
    let fault = Diagnostic::new(Code::BadArgument)
        .at(format!("{option} {name}"))
        .message("there is no pass of this name");
    match nearest(name, known.iter().copied()) {
        Some(near) => fault.help(format!("did you mean {near}?")),
        None => fault.help(format!("the passes are {}", known.join(", "))),
    }
}
