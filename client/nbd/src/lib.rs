//! An NBD server over anything that implements [`BlockDevice`].
//!
//! It speaks the published protocol (`doc/proto.md` of the NetworkBlockDevice project): fixed
//! newstyle negotiation, structured replies, and the `base:allocation` metadata context. It runs on
//! one thread of a monoio runtime **with timers enabled**; nothing here is `Send`.
//!
//! Where to look:
//!
//! | question | file |
//! |---|---|
//! | what must a device provide, what may it assume? | `device.rs` |
//! | how does a byte on the wire look? | `protocol/` (no I/O at all) |
//! | how many requests and bytes may be in flight? | `budget.rs` |
//! | what does a command do to the device? | `execute.rs` |
//! | how are replies gathered into one system call? | `writer.rs` |
//! | what happens at accept, stale sockets, shutdown? | `server.rs`, `socket_file.rs` |
//!
//! Invariants: a client can break only its own connection, never the server; every length a client
//! sends is checked before memory is reserved for it; a reply leaves only after the device answered.

#![deny(missing_docs)]

mod budget;
mod condition;
mod connection;
mod device;
mod execute;
pub mod protocol;
mod server;
mod socket_file;
mod writer;

pub use budget::{PAYLOAD_IN_FLIGHT_BYTES_MAX, REQUESTS_IN_FLIGHT_MAX};
pub use connection::HANDSHAKE_TIMEOUT;
pub use device::{BlockDevice, DeviceError, Extent};
pub use server::{BindError, CONNECTION_COUNT_MAX, ExportInfo, SHUTDOWN_GRACE, Server};
