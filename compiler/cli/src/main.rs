//! The `llamac` command.
fn main() {}
