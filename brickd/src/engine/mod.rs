//! What a brick does, without doing any of it: a state machine per core that takes [`Event`]s and returns
//! [`Action`]s. It opens no file or socket, reads no clock and draws no random number, so the simulator
//! runs the code that the reactor runs.
//!
//! Calling contract: feed one event with [`Engine::handle_event`], then drain [`Engine::poll_action`] until
//! it returns `None`; call with [`Event::Tick`] no later than [`Engine::poll_timeout`] says.
//!
//! One engine runs on each core. Core 0's also keeps the registers and admits connections; it reaches the
//! other cores by [`CoreMessage`] only, delivered in order per pair of cores and never lost.

mod interface;

pub use interface::*;
