//! SIGTERM and SIGINT: the first one stops the brick cleanly, the second one at once.
//!
//! They are blocked in every thread and taken by one that waits for nothing else. SIGPIPE is ignored by
//! Rust's runtime before `main`, and sends carry MSG_NOSIGNAL besides.

use std::io;
use std::sync::Arc;
use std::thread;

use nix::sys::signal::{SigSet, Signal};
use tracing::{info, warn};

use super::mail::{Mail, Mailbox};

/// Blocks the signals for the calling thread and those it starts. To be called before any other thread
/// exists.
pub fn block() -> nix::Result<()> {
    signals().thread_block()
}

/// Starts the thread that takes them. It ends with the process.
pub fn watch(mailboxes: Arc<Vec<Mailbox>>) -> io::Result<()> {
    let wait = move || {
        let mut is_first = true;
        loop {
            match signals().wait() {
                Ok(signal) if is_first => {
                    info!("{signal}: stopping; a second signal stops at once");
                    is_first = false;
                    for mailbox in mailboxes.iter() {
                        mailbox.send(Mail::Shutdown);
                    }
                }
                Ok(signal) => {
                    warn!("{signal} again: stopping at once, as a crash would");
                    std::process::exit(1);
                }
                Err(_) => {}
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}

fn signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT].into_iter().collect()
}
