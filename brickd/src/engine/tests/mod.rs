//! The engine against a tiny disk, without sockets and time: rules one by one. What only shows in long
//! random histories is the simulator's to find.

mod activity;
mod admission;
mod adopting;
mod data;
mod dummy;
mod fencing;
mod flushing;
mod harness;
mod identity;
mod pulling;
mod registers;
mod stopping;
