//! The wire protocol of brick: what bricks, clients and operators' tools say to each other.
//!
//! This crate is pure: it holds types, encodings, limits and the small block-set arithmetic that both
//! sides share. It opens no socket, reads no clock and draws no random number. `PROTOCOL.md` beside this
//! crate is the byte-level description; the fixtures in the tests hold it to its word.
//!
//! Reading order: [`limits`], [`ids`], [`header`], [`handshake`] (with [`floors`]), then the bodies ([`register`],
//! [`record`], [`body`]), and [`decode`] for turning a byte stream into frames.

pub mod blocks;
pub mod body;
pub mod checksum;
pub mod cursor;
pub mod decode;
pub mod floors;
pub mod handshake;
pub mod header;
pub mod ids;
pub mod limits;
pub mod overlap;
pub mod pause;
pub mod placement;
pub mod record;
pub mod register;
pub mod time;

#[cfg(test)]
mod samples;

pub use blocks::{BlockRange, BlockSet};
pub use floors::Floors;
pub use header::{Flags, FrameError, Header, Opcode, Status};
pub use ids::*;
pub use time::Timestamp;
