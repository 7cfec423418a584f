//! What each command does with its arguments.

pub mod compare;
pub mod plot;
pub mod run;
