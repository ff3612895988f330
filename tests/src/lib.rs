//! Tests that cross crates: parity with references, the command, the workspace itself.
