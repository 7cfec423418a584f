//! Tests that cross crates.

pub mod bench;
pub mod cluster;
pub mod crash;
pub mod model;
pub mod sim;
