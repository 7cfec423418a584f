//! Tests of the real process from outside: the binary, its command line, its sockets, its directory; and of its threads with
//! a script in the engine's place.

mod brick;
mod bursts;
mod commands;
mod serving;
