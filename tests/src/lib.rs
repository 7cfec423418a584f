//! Tests that cross crates.

pub mod cluster;
pub mod crash;
pub mod model;
pub mod sim;
