//! Changes of the base's configuration, as values and as text.

use llamac_plan::diagnostic::{Code, Diagnostic};

use super::super::checkpoint::{Checkpoint, Tie};
use super::super::locate;
use super::super::members::Members;

/// Changes members of a checkpoint's configuration, as text.
pub(super) fn configure(base: &mut Checkpoint, change: impl FnOnce(&mut Members)) -> Result<(), Diagnostic> {
    let mut members: Members = serde_json::from_slice(&base.config_json)
        .map_err(|error| Diagnostic::new(Code::BadJson).at(locate::CONFIG).message(error.to_string()))?;
    change(&mut members);
    base.config_json = members.text().unwrap_or_else(|| std::mem::take(&mut base.config_json));
    Ok(())
}

/// Says in a checkpoint's configuration that its embeddings are two.
pub(super) fn untie(base: &mut Checkpoint) -> Result<(), Diagnostic> {
    base.tie = Tie::Untied;
    base.config.tie_word_embeddings = false;
    configure(base, |members| members.set("tie_word_embeddings", &false))
}
