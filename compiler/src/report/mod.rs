//! Graphs for people: what changed between two, pictures, and how much there is to compute; and what weights are stored as.
//!
//! Deliberately not here: the text form that reads back, which is the graph's own (`llamac_ir::Graph`).

mod cost;
mod diff;
mod dot;
mod layout;
mod listing;
mod numbers;
mod picture;
mod recipe;
mod stored;
mod svg;

pub use cost::flops;
pub use diff::diff;
pub use dot::dot;
pub use stored::stored_format;
pub use svg::svg;
