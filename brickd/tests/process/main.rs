//! Tests of the real process from outside: the binary, its command line, its sockets, its directory.

mod brick;
mod commands;
mod serving;
