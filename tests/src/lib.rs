//! Tests that cross crates.

pub mod cluster;
pub mod crash;
pub mod sim;
