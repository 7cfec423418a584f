//! Crashes of real processes under loads that know what every block may hold.
//!
//! A [`campaign`] kills bricks, NBD servers and all of them together, as a seed says, while [`load`]s verify
//! against their [`oracle`]s; [`power_cut`] takes the power of a whole rack away, disks' caches included. What
//! is found and measured goes into a [`tally`]. The tests run a short campaign; `scripts/crash` and
//! `scripts/power-cut` run long ones.

pub mod campaign;
pub mod healing;
pub mod load;
pub mod oracle;
pub mod power_cut;
pub mod power_disk;
pub mod schedule;
pub mod silence;
pub mod tally;
