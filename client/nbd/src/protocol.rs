//! The NBD protocol as pure functions and state machines over bytes: no socket, clock or device.
//!
//! All integers on the wire are big-endian. The peer is assumed hostile: every parser returns a typed
//! error or an NBD error code, none panics on input, and no length from the wire reserves memory
//! before it was compared with a named maximum in [`constants`].
//!
//! Order of use: [`Negotiation`] until it yields a [`Session`], then [`RequestDecoder`] for what
//! arrives and [`Reply`] for what leaves.

pub mod constants;
mod decoder;
mod negotiation;
mod option;
mod reply;
mod request;

pub use constants::ErrorCode;
pub use decoder::{Incoming, RECEIVE_BYTES, RequestDecoder};
pub use negotiation::{Export, Negotiation, NegotiationError, Session, Step};
pub use option::{ContextQuery, ExportQuery, OptionHeader, OptionRequest, encode_option_reply};
pub use reply::{Descriptor, Reply};
pub use request::{BadRequestMagic, Limits, Operation, RequestHeader};
