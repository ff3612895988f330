//! Applies rules to a fixpoint, and tells what they did and what they did not.

use std::collections::{BTreeSet, HashMap};

use super::{DynRule, NoMatch, OpSet, PatchError, RuleSet};
use crate::{Graph, NodeId, VerifyErrors};

/// How often a rule changed the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firing {
    /// The rule.
    pub rule: &'static str,
    /// The number of patches.
    pub count: usize,
}

/// A place where a rule's root is, that the rule did not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// The rule.
    pub rule: &'static str,
    /// Why not, and where.
    pub no_match: NoMatch,
}

/// What a run of the driver did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// One entry a rule, in the order of the set; zero counts included.
    pub firings: Vec<Firing>,
    /// The misses in the graph as it is now, in its order. A node that a rule has rewritten is no miss of that rule.
    pub misses: Vec<Miss>,
}

impl Report {
    /// Whether any rule fired.
    pub fn changed(&self) -> bool {
        self.firings.iter().any(|firing| firing.count > 0)
    }
}

/// A rule that broke the driver's contract. The graph is as the last valid patch left it, but for
/// [`RewriteError::Invalid`].
#[derive(Clone, Debug, thiserror::Error)]
pub enum RewriteError {
    /// A patch is inconsistent.
    #[error("rule {rule} returned a wrong patch: {error}")]
    Patch {
        /// The rule.
        rule: &'static str,
        /// What is wrong with it.
        error: PatchError,
    },
    /// Consistent patches made an invalid graph.
    #[error("{} broke the graph: {errors}", rules.join(" or "))]
    Invalid {
        /// The rules that fired since it was valid.
        rules: Vec<&'static str>,
        /// The faults.
        errors: VerifyErrors,
    },
    /// Rules keep firing.
    #[error("no fixpoint after {firings} rewrites, the last by rule {rule}")]
    Endless {
        /// The rule that fired last.
        rule: &'static str,
        /// The number of patches applied.
        firings: usize,
    },
}

/// Applies `rules` everywhere until none fires, removes dead nodes, and verifies the graph after each sweep over it.
pub fn apply(graph: &mut Graph, rules: &RuleSet, target: &dyn OpSet) -> Result<Report, RewriteError> {
    run(graph, rules, target, false)
}

/// [`apply`] for tests: verifies the graph after each patch, which takes the square of the time.
#[cfg(feature = "testing")]
pub fn apply_verifying(
    graph: &mut Graph,
    rules: &RuleSet,
    target: &dyn OpSet,
) -> Result<Report, RewriteError> {
    run(graph, rules, target, true)
}

fn run(graph: &mut Graph, rules: &RuleSet, target: &dyn OpSet, verify: bool) -> Result<Report, RewriteError> {
    graph.remove_dead();
    let limit = 1000 + 100 * graph.order().len();
    let mut run = Run { graph, target, verify, limit, fired: 0, rewritten: HashMap::new() };
    let mut firings: Vec<Firing> = rules.rules().map(|rule| Firing { rule: rule.name(), count: 0 }).collect();
    loop {
        let mut fired = BTreeSet::new();
        let mut misses = Vec::new();
        for node in run.graph.order() {
            for (index, rule) in rules.rules().enumerate() {
                match run.attempt(index, rule, node)? {
                    Outcome::Fired => {
                        firings[index].count += 1;
                        fired.insert(index);
                        break;
                    }
                    Outcome::Missed(no_match) => misses.push(Miss { rule: rule.name(), no_match }),
                    Outcome::Other => {}
                }
            }
        }
        if fired.is_empty() {
            misses.dedup();
            return Ok(Report { firings, misses });
        }
        run.verify(|| fired.iter().map(|&index| firings[index].rule).collect())?;
    }
}

enum Outcome {
    Fired,
    Missed(NoMatch),
    Other,
}

struct Run<'a> {
    graph: &'a mut Graph,
    target: &'a dyn OpSet,
    /// Whether the graph is verified after each patch.
    verify: bool,
    limit: usize,
    fired: usize,
    /// The rules that fired at a root that is still there.
    rewritten: HashMap<NodeId, Vec<usize>>,
}

impl Run<'_> {
    fn attempt(&mut self, index: usize, rule: &dyn DynRule, node: NodeId) -> Result<Outcome, RewriteError> {
        // A node of the sweep may be gone by now, or its id may stand for a new node: both are fine to try.
        let name = rule.name();
        let patch = match rule.at(node, self.graph, self.target) {
            None => return Ok(Outcome::Other),
            Some(Err(_)) if self.rewritten.get(&node).is_some_and(|rules| rules.contains(&index)) => {
                return Ok(Outcome::Other);
            }
            Some(Err(no_match)) => return Ok(Outcome::Missed(no_match)),
            Some(Ok(patch)) => patch,
        };
        let gone = patch.apply(self.graph).map_err(|error| RewriteError::Patch { rule: name, error })?;
        if self.verify {
            self.verify(|| vec![name])?;
        }
        self.rewritten.entry(node).or_default().push(index);
        // Added nodes never take the id of a node that the same patch removes.
        for node in gone {
            self.rewritten.remove(&node);
        }
        self.fired += 1;
        if self.fired > self.limit {
            return Err(RewriteError::Endless { rule: name, firings: self.fired });
        }
        Ok(Outcome::Fired)
    }

    fn verify(&self, rules: impl FnOnce() -> Vec<&'static str>) -> Result<(), RewriteError> {
        self.graph.verify().map_err(|errors| RewriteError::Invalid { rules: rules(), errors })
    }
}
