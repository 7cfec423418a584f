//! The holder's side of the lease (I8): renewals, and whether reads and writes may complete.
//!
//! A renewal counts from the moment it was *sent*, and for less than the brick counts, so that the holder
//! always stops first. A quorum must have renewed: any other session needs a promise from one of them.

use std::time::Duration;

use brick_wire::{BrickIndex, CoreIndex, Flags, Header, Opcode, Status, Timestamp};

use super::Group;
use super::group::Phase;
use super::pending::Purpose;

/// Renewals per lease time.
const RENEWALS: u32 = 4;
/// The share of the lease that the holder believes in, percent: the rest covers clock drift between hosts.
const MARGIN_PERCENT: u32 = 80;
/// Shortest pause between renewals, whatever the lease.
const RENEW_PAUSE_MIN: Duration = Duration::from_millis(20);

impl Group {
    /// Whether no other session can hold the image yet.
    pub(super) fn lease_holds(&self) -> bool {
        let has_renewed =
            |brick| self.brick(brick).renewed_at.is_some_and(|sent_at| self.is_fresh(brick, sent_at));
        let renewed = self.linked().iter().filter(|brick| has_renewed(*brick)).collect();
        self.config.is_quorum(renewed)
    }

    /// Whether a renewal sent then still keeps others out.
    fn is_fresh(&self, brick: BrickIndex, sent_at: Timestamp) -> bool {
        self.brick(brick).link.is_some_and(|link| self.now < sent_at + link.lease * MARGIN_PERCENT / 100)
    }

    /// Sends renewals when it is time.
    pub(super) fn renew_if_due(&mut self) {
        if self.now >= self.renew_at
            && matches!(self.phase, Phase::Serving | Phase::Recovering | Phase::Closing)
        {
            self.renew();
        }
    }

    /// Sends a renewal to every brick that has none under way: to core 0, which keeps others out, and to the cores
    /// that serve data.
    pub(super) fn renew(&mut self) {
        for brick in self.ready().iter() {
            if !self.pending.any(brick, |purpose| *purpose == Purpose::Renew) {
                for core in self.brick(brick).cores() {
                    self.send_renewal(brick, core);
                }
            }
        }
        self.renew_at = self.now + self.renew_pause();
    }

    /// A core heard no renewal in time and refused a request. It gets one before the request is sent again. But
    /// this says, too, that our own clock may have stood still: what we believe of our renewals counts no more, so
    /// that no read or write completes before a quorum has heard of us again.
    pub(super) fn distrust_own_clock(&mut self, brick: BrickIndex, core: CoreIndex) {
        self.bricks.iter_mut().for_each(|brick| brick.renewed_at = None);
        if self.ready().contains(brick) {
            self.send_renewal(brick, core);
        }
    }

    pub(super) fn send_renewal(&mut self, brick: BrickIndex, core: CoreIndex) {
        let Some(record) = &self.record else { return };
        let mut header = Header::request(Opcode::Ping, brick_wire::RequestId(0));
        header.epoch = record.epoch;
        header.image = super::interface::HANDLE;
        self.send(brick, core, header, Purpose::Renew);
    }

    fn renew_pause(&self) -> Duration {
        let lease = self.bricks.iter().filter_map(|brick| brick.link).map(|link| link.lease).min();
        (lease.unwrap_or(Duration::from_secs(1)) / RENEWALS).max(RENEW_PAUSE_MIN)
    }

    pub(super) fn handle_renewed(
        &mut self,
        (brick, core): (BrickIndex, CoreIndex),
        sent_at: Timestamp,
        reply: Header,
    ) {
        match reply.status {
            // Core 0 gives the promises.
            Status::Ok if self.is_current(reply.epoch) && core == CoreIndex(0) => {
                self.brick_mut(brick).renewed_at = Some(sent_at);
            }
            Status::Ok => {}
            Status::StaleEpoch | Status::AheadEpoch => self.note_wrong_epoch(brick, reply),
            _ => {}
        }
        if reply.flags.contains(Flags::BAD) {
            self.ask_for_bad_blocks(brick, core, Flags::NONE);
        }
        if reply.flags.contains(Flags::SUSPECT) {
            self.ask_for_bad_blocks(brick, core, Flags::SUSPECT);
        }
        if !self.lease_holds() {
            // Sent before the process was stopped, it proves nothing by now: who waits for a proof needs another renewal.
            let waits = !self.unverified_reads.is_empty() || !self.unverified_writes.is_empty();
            if waits && !self.is_fresh(brick, sent_at) {
                self.renew();
            }
        } else {
            for (key, result) in std::mem::take(&mut self.unverified_reads) {
                if self.operations.contains_key(&key) {
                    self.complete_read(key, result);
                }
            }
            for key in std::mem::take(&mut self.unverified_writes) {
                self.drive(key);
            }
        }
    }
}
