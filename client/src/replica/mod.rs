//! Replication of one image in one replica group, sans-IO: events in, actions out.
//!
//! The rules are those of `REPLICATION.md` (R1–R4, I1–I15); each file names the ones it keeps. Nothing in
//! this folder opens a socket, reads a clock or draws a random number: the driver under a real client and
//! the simulator run the same code.
//!
//! Calling contract of [`Group`]: feed one event with a `handle_*` function, then drain
//! [`Group::poll_action`] until it returns `None`; call [`Group::handle_timeout`] no later than
//! [`Group::poll_timeout`] says.
//!
//! The life of a write, by file: [`group`] takes the request, `admit` orders it behind overlapping ones,
//! `write` sends it to the in-sync bricks and decides when it is complete, `dummy` tells the arbiter, `epoch` moves
//! the group to a new epoch when a brick fails, `heal` brings that brick back, `flush` makes it durable
//! and lets the bricks forget that they might differ. `read` asks one good copy, which `balance` picks;
//! `repair` mends what that copy finds rotten. `settled` says when none of that is under way.

mod admit;
mod balance;
mod bricks;
mod catch_up;
mod dummy;
mod epoch;
mod flush;
mod gather;
pub mod group;
mod heal;
mod inquiry;
mod interface;
mod judge;
mod lease;
mod open;
mod pace;
mod pending;
pub mod proposer;
mod read;
mod repair;
mod report;
mod settled;
mod vouch;
mod write;

pub use group::Group;
pub use interface::*;
pub(crate) use report::{LATE, STANDSTILLS_MAX};
