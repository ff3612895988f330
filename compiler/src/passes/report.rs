//! What passes did, for people and for tests.

use std::fmt;
use std::time::Duration;

use llamac_ir::rewrite::{self, Miss};

/// What a run of the passes did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The passes that ran, in order.
    pub passes: Vec<PassReport>,
}

/// What one pass did.
#[derive(Clone, Debug)]
pub struct PassReport {
    /// Its name.
    pub name: &'static str,
    /// How long it took, verification included.
    pub duration: Duration,
    /// How often each of its rules changed the graph, zeros included.
    pub firings: Vec<(&'static str, usize)>,
    /// Where its rules could have applied and did not.
    pub misses: Vec<Miss>,
}

impl PassReport {
    pub(super) fn new(name: &'static str, duration: Duration, report: rewrite::Report) -> Self {
        let firings = report.firings.iter().map(|firing| (firing.rule, firing.count)).collect();
        Self { name, duration, firings, misses: report.misses }
    }
}

impl Report {
    /// How often `rule` changed the graph.
    pub fn firings(&self, rule: &str) -> usize {
        let all = self.passes.iter().flat_map(|pass| &pass.firings);
        all.filter(|(name, _)| *name == rule).map(|(_, count)| count).sum()
    }

    /// A line for each rule that fired, and for each reason for which a rule did not, in the order of the passes.
    pub fn remarks(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for pass in &self.passes {
            for (rule, count) in pass.firings.iter().filter(|(_, count)| *count > 0) {
                let times = if *count == 1 { "once".to_owned() } else { format!("{count} times") };
                lines.push(format!("{}: {rule} applied {times}", pass.name));
            }
            for (Miss { rule, no_match }, count) in alike(&pass.misses) {
                let times = if count == 1 { String::new() } else { format!(" {count} times, first") };
                let (at, reason) = (&no_match.at, &no_match.reason);
                lines.push(format!("{}: {rule} missed{times} at {at}: {reason}", pass.name));
            }
        }
        lines
    }
}

/// The first miss of each rule for each reason, with their number.
fn alike(misses: &[Miss]) -> Vec<(&Miss, usize)> {
    let mut groups: Vec<(&Miss, usize)> = Vec::new();
    for miss in misses {
        let same = |(first, _): &&mut (&Miss, usize)| {
            (first.rule, &first.no_match.reason) == (miss.rule, &miss.no_match.reason)
        };
        match groups.iter_mut().find(same) {
            Some((_, count)) => *count += 1,
            None => groups.push((miss, 1)),
        }
    }
    groups
}

/// The firings that are not zero, a line a pass: `fuse: FuseQkv 2`.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for pass in &self.passes {
            let fired = pass.firings.iter().filter(|(_, count)| *count > 0);
            let fired: Vec<String> = fired.map(|(rule, count)| format!("{rule} {count}")).collect();
            let fired = if fired.is_empty() { "nothing".to_owned() } else { fired.join(", ") };
            writeln!(f, "{}: {fired}", pass.name)?;
        }
        Ok(())
    }
}
