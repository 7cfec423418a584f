//! The brick: one process per storage directory.
//!
//! - [`buffer`]: the pool of aligned memory that payloads live in from socket to disk.
//! - [`engine`]: what a brick does, sans-IO: events in, actions out. The simulator runs this very code.
//! - [`store`]: the on-disk format (`FORMAT.md`): superblock, registers, dirty maps, shard files.
//! - [`reactor`]: the shell: io_uring, sockets, cores.

pub mod buffer;
pub mod engine;
pub mod reactor;
pub mod store;
