//! A brick that can be cut off: its packets vanish without anybody being told.
//!
//! Rules of the packet filter match a brick's port, in both directions. They belong to the network namespace
//! of this process, and only [`Silence::prepare`] in a namespace of its own is harmless: `scripts/crash` makes
//! one with `unshare --net`, and it is gone with the last process in it.

use std::process::Command;

use crate::cluster::command::run;

/// Drops packets.
#[derive(Debug)]
pub struct Silence(());

impl Silence {
    /// Makes an empty chain of rules.
    pub fn prepare() -> Silence {
        nft("add table inet crash");
        nft("add chain inet crash cut { type filter hook output priority 0; }");
        Silence(())
    }

    /// From now on, nothing reaches that port, and nothing comes from it.
    pub fn cut_off(&self, port: u16) {
        nft(&format!("add rule inet crash cut tcp dport {port} drop"));
        nft(&format!("add rule inet crash cut tcp sport {port} drop"));
    }

    /// Everything passes again.
    pub fn end(&self) {
        nft("flush chain inet crash cut");
    }
}

fn nft(rule: &str) {
    run(Command::new("nft").arg(rule)).ok();
}
