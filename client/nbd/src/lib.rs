//! An NBD server.
