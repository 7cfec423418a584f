//! Fencing (rule I1), on every core: which epoch of each image is promised, and what has to end before a
//! newer one, or a newer connection of a session, may be acknowledged to core 0.
//!
//! A fence rises at once and never falls; from then on requests under another epoch are refused, those not
//! yet issued included. What is issued already under another session's epoch is waited out: the
//! acknowledgement is the proof that none of its effects can appear later.

use std::collections::BTreeMap;

use brick_wire::cursor::Body;
use brick_wire::record::EpochRecord;
use brick_wire::register::{RegisterEntry, RegisterKey};
use brick_wire::{ConnectionGeneration, CoreIndex, Epoch, ImageUuid, SessionId, Status, Timestamp};

use super::{Action, BroadcastId, CoreMessage, Engine};

/// What a core knows of an image's epochs.
#[derive(Debug, Default)]
struct ImageFence {
    /// Requests under any other epoch are refused.
    promised: Epoch,
    /// The record accepted last.
    record: Option<EpochRecord>,
    /// Who last said on this core that it holds the image, and when.
    renewed: Option<(SessionId, Timestamp)>,
}

/// What an acknowledgement waits for.
#[derive(Clone, Copy, Debug)]
enum Drained {
    /// No request for the image under another session's epoch.
    Image { image: ImageUuid, session: SessionId },
    /// No request of the session from a connection of a lower generation.
    Session { session: SessionId, below: ConnectionGeneration },
}

/// All fences of a core, and the acknowledgements it owes.
#[derive(Debug, Default)]
pub(super) struct Fences {
    images: BTreeMap<ImageUuid, ImageFence>,
    owed: Vec<(BroadcastId, Drained)>,
}

impl Fences {
    /// As the registers say at start.
    pub(super) fn new(registers: &[RegisterEntry]) -> Fences {
        let mut fences = Fences::default();
        for entry in registers {
            if let RegisterKey::Epoch(image) = entry.key {
                // The store checked the register's checksum, and an undecodable record isn't accepted.
                let record = EpochRecord::from_bytes(&entry.state.value).ok();
                let renewed = record.as_ref().map(|record| (record.holder, Timestamp::ZERO));
                fences.images.insert(image, ImageFence { promised: entry.state.promised, record, renewed });
            }
        }
        fences
    }

    /// The first event: every recorded holder counts as just renewed (rule I8).
    pub(super) fn start(&mut self, now: Timestamp) {
        self.images.values_mut().filter_map(|fence| fence.renewed.as_mut()).for_each(|(_, at)| *at = now);
    }

    /// The session said on this core that it holds the image.
    pub(super) fn renew(&mut self, image: ImageUuid, session: SessionId, now: Timestamp) {
        self.images.entry(image).or_default().renewed = Some((session, now));
    }

    /// The images with an epoch, in order.
    pub(super) fn images(&self) -> impl Iterator<Item = ImageUuid> {
        self.images.keys().copied()
    }

    /// The highest epoch promised, zero for unknown images.
    pub(super) fn promised(&self, image: ImageUuid) -> Epoch {
        self.images.get(&image).map_or(Epoch::ZERO, |fence| fence.promised)
    }

    /// The record accepted last.
    pub(super) fn record(&self, image: ImageUuid) -> Option<&EpochRecord> {
        self.images.get(&image)?.record.as_ref()
    }
}

impl Engine {
    /// Whether `epoch` is the one promised.
    pub(super) fn check_epoch(&self, image: ImageUuid, epoch: Epoch) -> Result<(), Status> {
        match epoch.cmp(&self.fences.promised(image)) {
            std::cmp::Ordering::Less => Err(Status::StaleEpoch),
            // Zero is nobody's epoch, so it isn't that of an unknown image either.
            std::cmp::Ordering::Equal if epoch == Epoch::ZERO => Err(Status::AheadEpoch),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => Err(Status::AheadEpoch),
        }
    }

    /// Whether the session renewed its lease on this core within the lease time, by this brick's clock. A holder
    /// whose own clock stood still must not be served what its successor has replaced (rule I8).
    pub(super) fn check_lease(&self, image: ImageUuid, session: SessionId) -> Result<(), Status> {
        let renewed = self.fences.images.get(&image).and_then(|fence| fence.renewed);
        let holds = |(holder, at)| holder == session && self.now.since(at) < self.config.lease;
        if renewed.is_some_and(holds) { Ok(()) } else { Err(Status::LeaseExpired) }
    }

    pub(super) fn handle_core_message(&mut self, message: CoreMessage) {
        match message {
            CoreMessage::Fence { broadcast, image, epoch } => {
                self.raise_fence(image, epoch);
                let drained = Drained::Image { image, session: epoch.session };
                self.fences.owed.push((broadcast, drained));
                self.check_drains();
            }
            CoreMessage::Record { broadcast, image, record } => {
                self.note_record(image, record);
                self.acknowledge(broadcast);
            }
            CoreMessage::DropSession { broadcast, session, below } => {
                self.close_older(session, below);
                self.fences.owed.push((broadcast, Drained::Session { session, below }));
                self.check_drains();
            }
            CoreMessage::Acknowledge { broadcast, core } => self.handle_acknowledge(broadcast, core),
            CoreMessage::Departed { connection } => self.connection_departed(connection),
            CoreMessage::Distrust => self.distrust_maps(),
            CoreMessage::Outdated { standing } => self.close_outdated(standing),
            CoreMessage::Stamped { membership } => self.config.membership = Some(membership),
        }
    }

    fn note_record(&mut self, image: ImageUuid, record: EpochRecord) {
        let brick = self.own_brick();
        let fence = self.fences.images.entry(image).or_default();
        if fence.record.as_ref().is_some_and(|before| before.epoch > record.epoch) {
            return;
        }
        if record.is_in_sync(brick) {
            self.joins.joined(image, record.epoch, self.pulls.report(image), self.now);
        }
        fence.renewed = Some((record.holder, self.now));
        fence.record = Some(record);
    }

    fn raise_fence(&mut self, image: ImageUuid, epoch: Epoch) {
        let fence = self.fences.images.entry(image).or_default();
        fence.promised = epoch.max(fence.promised);
        let promised = fence.promised;
        for token in self.requests.under_other_epoch(image, promised) {
            self.withdraw(token, Status::StaleEpoch);
        }
    }

    /// Sends the acknowledgements whose drain is complete.
    pub(super) fn check_drains(&mut self) {
        if self.fences.owed.is_empty() {
            return;
        }
        let requests = &self.requests;
        let done = self.fences.owed.extract_if(.., |(_, drained)| match *drained {
            Drained::Image { image, session } => !requests.has_foreign(image, session),
            Drained::Session { session, below } => !requests.has_older(session, below),
        });
        let done: Vec<BroadcastId> = done.map(|(broadcast, _)| broadcast).collect();
        done.into_iter().for_each(|broadcast| self.acknowledge(broadcast));
    }

    fn acknowledge(&mut self, broadcast: BroadcastId) {
        let core = self.config.core;
        if self.is_core_zero() {
            self.handle_acknowledge(broadcast, core);
        } else {
            let message = CoreMessage::Acknowledge { broadcast, core };
            self.actions.push_back(Action::Core { to: CoreIndex(0), message });
        }
    }
}
