//! Speed, side by side: the same load on the bare disk, on a replicated image and on peers, in rounds that take turns,
//! so that a disk that drifts by a factor of two within an hour does so for everybody.
//!
//! - [`case`]: the loads. [`target`]: what they are put on, and how. [`run`], [`sample`]: one run and what it said.
//! - [`table`]: medians and ratios. [`bar`]: what has to be reached. [`chart`]: a picture of it.

pub mod bar;
pub mod case;
pub mod chart;
pub mod run;
pub mod sample;
pub mod table;
pub mod target;
