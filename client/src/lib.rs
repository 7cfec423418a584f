//! Opens replicated images: quorum writes, dummy writes to the arbiter, granular heal.

pub mod replica;
