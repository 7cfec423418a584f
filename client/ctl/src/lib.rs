//! The parts of brickctl that need no volume: sizes as people write them, and disk images on the way
//! in ([`source`]) and out ([`sink`]).
//!
//! They block, and know nothing of the client library; the commands put the two together.

#![deny(missing_docs)]

pub mod sink;
pub mod size;
pub mod source;
