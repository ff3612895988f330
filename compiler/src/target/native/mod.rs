//! The native target.

mod container;
mod pack;
