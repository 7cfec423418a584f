//! `brick-perf`: fio-style load on files and replicated volumes.
//!
//! The life of a run as modules: [`job`] reads the job file; [`pattern`] says which block comes next and
//! [`load`] when, both without clock or target; [`verify`] says what blocks hold; an [`engine`] carries
//! requests to a target and works off a [`meter`], which adds the clock; [`record`] takes down how that goes
//! second by second, [`report`] prints what [`stats`] and [`usage`] hold, compares it and draws it. [`runner`]
//! puts them together for one job.

#![deny(missing_docs)]

pub mod engine;
pub mod job;
pub mod load;
pub mod meter;
pub mod pattern;
pub mod random;
pub mod record;
pub mod report;
pub mod runner;
pub mod stats;
pub mod usage;
pub mod verify;
