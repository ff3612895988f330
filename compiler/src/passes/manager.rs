//! Runs the passes: in order, timed, verified, counted, printed and dumped.

use std::time::Instant;

use llamac_ir::{Graph, rewrite};
use llamac_plan::diagnostic::{Code, Diagnostic, Diagnostics};

use super::dump::Dump;
use super::{INPUT, Options, Pass, PassReport, Phase, Report, Work, assign_schemes, merge_lora};
use crate::target::{Legalized, Target, legalize};

/// The passes that the options leave, ready to run on any number of graphs.
#[derive(Debug)]
pub struct PassManager {
    schedule: Vec<&'static Pass>,
    options: Options,
}

/// How far a graph has come.
#[derive(Clone, Debug)]
pub enum Stage {
    /// As the pass left it after which to stop.
    Stopped(Graph),
    /// Ready for its target.
    Legalized(Legalized),
}

impl Stage {
    /// The graph.
    pub fn graph(&self) -> &Graph {
        match self {
            Self::Stopped(graph) => graph,
            Self::Legalized(legalized) => legalized.graph(),
        }
    }
}

/// What a run of the passes gives.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The graph.
    pub stage: Stage,
    /// What the passes did.
    pub report: Report,
    /// The texts that [`Options::print_after`] asks for, with the names of the passes, in the order of the passes.
    pub prints: Vec<(String, String)>,
}

impl PassManager {
    /// A manager for what `options` ask for.
    ///
    /// # Errors
    /// `BadArgument` for every name that no pass has, with the nearest one that does, and for passes that cannot be
    /// switched off.
    pub fn new(options: Options) -> Result<Self, Diagnostics> {
        Ok(Self { schedule: options.schedule()?, options })
    }

    /// The names of the passes that will run, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.schedule.iter().map(|pass| pass.name)
    }

    /// Takes `graph` through the passes.
    ///
    /// # Errors
    /// `IllegalOp` for every operation that the target cannot take, `InvalidGraph` for a pass that broke the graph, and
    /// faults of writing dumps.
    pub fn run(&self, graph: Graph, target: &dyn Target) -> Result<Outcome, Diagnostics> {
        let mut dump = self.options.dump_dir.as_deref().map(Dump::create).transpose()?;
        let (mut report, mut prints) = (Report::default(), Vec::new());
        let mut stage = Stage::Stopped(graph);
        self.keep(INPUT, stage.graph(), &mut prints, &mut dump)?;
        for &pass in &self.schedule {
            let start = Instant::now();
            let (next, rewritten) = self.apply(pass, stage, target)?;
            stage = next;
            report.passes.push(PassReport::new(pass.name, start.elapsed(), rewritten));
            self.keep(pass.name, stage.graph(), &mut prints, &mut dump)?;
        }
        Ok(Outcome { stage, report, prints })
    }

    fn keep(
        &self,
        name: &str,
        graph: &Graph,
        prints: &mut Vec<(String, String)>,
        dump: &mut Option<Dump>,
    ) -> Result<(), Diagnostics> {
        if self.options.print_after.iter().any(|wanted| wanted == name) {
            prints.push((name.to_owned(), graph.text_with_locs()));
        }
        dump.as_mut().map_or(Ok(()), |dump| Ok(dump.add(name, graph)?))
    }

    fn apply(
        &self,
        pass: &Pass,
        stage: Stage,
        target: &dyn Target,
    ) -> Result<(Stage, rewrite::Report), Diagnostics> {
        let (stage, report) = match (pass.work, stage) {
            (Work::Legalize, Stage::Stopped(graph)) => {
                let (legalized, report) = legalize(graph, target)?;
                (Stage::Legalized(legalized), report)
            }
            (Work::Rewrite(run), Stage::Stopped(mut graph)) => {
                let report = run(&mut graph, target).map_err(|error| broken(pass, error.to_string()))?;
                graph.verify().map_err(|errors| broken(pass, errors.to_string()))?;
                (Stage::Stopped(graph), report)
            }
            (Work::Merge, Stage::Stopped(mut graph)) => {
                let report = merge_lora(&mut graph, &self.options.adapted, target)?;
                (Stage::Stopped(graph), report)
            }
            (Work::Assign, Stage::Stopped(mut graph)) => {
                let report = assign_schemes(&mut graph, &self.options.weights, target)?;
                (Stage::Stopped(graph), report)
            }
            (_, legalized @ Stage::Legalized(_)) => (legalized, rewrite::Report::default()),
        };
        if cfg!(debug_assertions) && pass.phase < Phase::Legalize {
            let violations = pass.phase.violations(stage.graph());
            if !violations.is_empty() {
                return Err(broken(pass, violations.join("\n")).into());
            }
        }
        Ok((stage, report))
    }
}

fn broken(pass: &Pass, why: String) -> Diagnostic {
    Diagnostic::new(Code::InvalidGraph).at(format!("pass {}", pass.name)).message(why)
}
