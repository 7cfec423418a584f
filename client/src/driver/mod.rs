//! The shell around the replica core: sockets, clock, tasks. One thread, monoio.
//!
//! - [`clock`]: the time that the core is told.
//! - [`outbox`]: frames on their way to one core of a brick, within its credits.
//! - [`incoming`]: what was received, and how much to ask for next.
//! - [`connection`]: one TCP connection: hello, frames out, frames in.
//! - [`link`]: all connections to one brick, kept up.
//! - [`session`]: a [`Group`](crate::replica::Group) with its links and timer, as async calls.
//! - [`runtime`]: what all of it runs on.
//! - [`patience`]: how long peers may take.
//! - `spin`, `timers`: when the thread sleeps, and that it does.
//! - [`control`]: requests to bricks outside any image: registers, status, stamps.

pub(crate) mod clock;
pub(crate) mod connection;
pub(crate) mod control;
mod incoming;
pub(crate) mod link;
pub(crate) mod outbox;
pub(crate) mod patience;
mod resolve;
pub(crate) mod runtime;
pub(crate) mod session;
mod spin;
mod timers;
