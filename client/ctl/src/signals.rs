//! SIGTERM and SIGINT as a future: a server ends by finishing what is in flight and giving its image back.

use nix::sys::signal::{SigSet, Signal};
use tokio::sync::oneshot;

/// Blocks the signals for this thread and all that it starts; [`stop_requested`] takes them.
pub fn block() {
    signals().thread_block().expect("these signals may be blocked");
}

/// For commands without an orderly end: signals kill again, as everybody expects.
pub fn unblock() {
    signals().thread_unblock().expect("these signals may be unblocked");
}

/// Completes at the first signal. The second ends the process at once.
pub async fn stop_requested() {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let _first = signals().wait();
        let _nobody_waits = sender.send(());
        let _second = signals().wait();
        std::process::exit(1);
    });
    let _thread_is_gone = receiver.await;
}

fn signals() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set
}
