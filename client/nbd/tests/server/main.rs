//! Integration tests of the NBD server, one binary so that they share [`support`].

mod hostile_clients;
mod real_clients;
mod support;
mod transmission;
