//! What the tests of passes share.

use llamac_ir::Op;
use llamac_ir::rewrite::{DynRule, Legality, OpSet, RuleSet, Signature};
use llamac_ir::testing::run_set;

/// Every operation but those of these mnemonics.
pub(crate) struct Without(pub(crate) &'static [&'static str]);

impl OpSet for Without {
    fn name(&self) -> &str {
        "small"
    }

    fn legality(&self, op: &Op, _: Signature<'_>) -> Legality {
        if self.0.contains(&op.mnemonic()) {
            Legality::Illegal("there is no kernel".to_owned())
        } else {
            Legality::Legal
        }
    }
}

/// One rule for a target: see [`run_set`].
pub(crate) fn run_for(rule: impl DynRule + 'static, target: &dyn OpSet, text: &str) -> String {
    run_set(&RuleSet::new().with(rule), target, text)
}

/// The misses in what [`run_set`] gives, where nothing fired.
pub(crate) fn misses(text: &str) -> String {
    assert!(!text.contains("fired"), "{text}");
    text.lines().filter(|line| line.starts_with("missed")).collect::<Vec<_>>().join("\n")
}
