//! The shell around the engine: io_uring, sockets, cores.
