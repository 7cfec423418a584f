//! SIGTERM and SIGINT: the first one stops the brick cleanly, the second one at once.
//!
//! They are blocked in every thread and taken by one that waits for nothing else; it lives as long as the process, and
//! knows the cores that run at the moment: a brick may stop and serve again in the same process. SIGPIPE is ignored by
//! Rust's runtime before `main`, and sends carry MSG_NOSIGNAL besides.

use std::io;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread;

use nix::sys::signal::{SigSet, Signal};
use tracing::{info, warn};

use super::mail::{Mail, Mailbox};

/// Blocks the signals for the calling thread and those it starts. To be called before any other thread
/// exists.
pub fn block() -> nix::Result<()> {
    signals().thread_block()
}

/// Who is to be told, and whether a signal came.
struct Watch {
    mailboxes: Option<Arc<Vec<Mailbox>>>,
    stopping: bool,
}

static WATCH: Mutex<Watch> = Mutex::new(Watch { mailboxes: None, stopping: false });

/// From now on these cores are told of signals, also of one that has come already.
pub fn watch(mailboxes: Arc<Vec<Mailbox>>) -> io::Result<()> {
    static THREAD: Once = Once::new();
    {
        let mut watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
        if watch.stopping {
            stop(&mailboxes);
        }
        watch.mailboxes = Some(mailboxes);
    }
    let mut started = Ok(());
    THREAD.call_once(|| {
        started = thread::Builder::new().name("signals".to_owned()).spawn(take_signals).map(drop);
    });
    started
}

/// These cores have ended.
pub fn unwatch() {
    WATCH.lock().unwrap_or_else(PoisonError::into_inner).mailboxes = None;
}

fn take_signals() {
    loop {
        let Ok(signal) = signals().wait() else { continue };
        let mut watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
        if watch.stopping {
            warn!("{signal} again: stopping at once, as a crash would");
            std::process::exit(1);
        }
        info!("{signal}: stopping; a second signal stops at once");
        watch.stopping = true;
        if let Some(mailboxes) = &watch.mailboxes {
            stop(mailboxes);
        }
    }
}

fn stop(mailboxes: &[Mailbox]) {
    for mailbox in mailboxes {
        mailbox.send(Mail::Shutdown);
    }
}

fn signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT].into_iter().collect()
}
