//! Tests that cross crates.

pub mod cluster;
pub mod model;
pub mod sim;
