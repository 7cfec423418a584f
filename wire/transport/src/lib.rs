//! How both ends set up the TCP connections between them. Without any of it they work, if slower, so nothing here fails.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use nix::sys::socket::{setsockopt, sockopt};

/// Sets up a socket before it connects or listens: accepted sockets inherit it, and one that was paced when its connection
/// began stays so.
///
/// - No Nagle: with the peer's delayed acknowledgements it costs up to 44 ms a request.
/// - No pacing. Where the system's congestion control is BBR, sends wait for timers, and every ten seconds a connection
///   is held at four segments for 200 ms to learn how long the way is when it's empty (PROBE_RTT). That pays on the
///   Internet. Between hosts in a rack it costs a fifth of the throughput of large requests, so there the kernel's usual
///   choice is taken. Any other choice of the operator's stays.
pub fn prepare(socket: &impl AsFd) {
    let _ = setsockopt(socket, sockopt::TcpNoDelay, &true);
    let current = nix::sys::socket::getsockopt(socket, sockopt::TcpCongestion);
    if current.is_ok_and(|name| is_paced(&name)) {
        // Which of them a process may take is the system's to say; the second one always.
        let _one = UNPACED
            .iter()
            .any(|name| setsockopt(socket, sockopt::TcpCongestion, &OsString::from(*name)).is_ok());
    }
}

/// BBR in any version.
fn is_paced(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"bbr")
}

const UNPACED: [&str; 2] = ["cubic", "reno"];

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use nix::sys::socket::getsockopt;

    use super::*;

    #[test]
    fn sockets_are_neither_delayed_nor_paced() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        if setsockopt(&listener, sockopt::TcpCongestion, &OsString::from("bbr")).is_err() {
            println!("skipped in part: this system has no BBR");
        }
        prepare(&listener);
        let _caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(accepted.nodelay().unwrap());
        assert!(!is_paced(&getsockopt(&accepted, sockopt::TcpCongestion).unwrap()));
    }

    #[test]
    fn the_choice_of_an_operator_stays() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        setsockopt(&socket, sockopt::TcpCongestion, &OsString::from("reno")).unwrap();
        prepare(&socket);
        assert_eq!(getsockopt(&socket, sockopt::TcpCongestion).unwrap(), "reno");
    }
}
