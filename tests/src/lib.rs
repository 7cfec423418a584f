//! Tests that cross crates.

pub mod cluster;
pub mod sim;
