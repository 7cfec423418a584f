//! The lease (rule I8), brick side, on core 0: while the recorded holder of an image renews, nobody else
//! gets a promise, unless by force. A holder that only heals keeps out those who only heal: heal agents share the
//! images by it, and a client that opens one needn't wait for any of them.
//!
//! Time is this brick's own. A restart forgets when the holder renewed, so it counts as just renewed then.

use std::collections::BTreeMap;
use std::time::Duration;

use brick_wire::record::{EpochRecord, RecordKind};
use brick_wire::{ImageUuid, SessionId, Timestamp};

use super::fence::Fences;

#[derive(Debug)]
struct Lease {
    holder: SessionId,
    renewed: Timestamp,
    /// The holder only heals.
    preemptible: bool,
}

/// The leases of all images that have a holder.
#[derive(Debug, Default)]
pub(super) struct Leases {
    images: BTreeMap<ImageUuid, Lease>,
}

impl Leases {
    /// As the accepted records say at start.
    pub(super) fn new(fences: &Fences) -> Leases {
        let mut leases = Leases::default();
        for image in fences.images() {
            if let Some(record) = fences.record(image) {
                leases.record_accepted(image, record, Timestamp::ZERO);
            }
        }
        leases
    }

    /// The first event: every recorded holder counts as just renewed.
    pub(super) fn start(&mut self, now: Timestamp) {
        self.images.values_mut().for_each(|lease| lease.renewed = now);
    }

    /// A record was accepted; its holder has renewed by that.
    pub(super) fn record_accepted(&mut self, image: ImageUuid, record: &EpochRecord, now: Timestamp) {
        if record.kind == RecordKind::Closed {
            self.images.remove(&image);
            return;
        }
        let preemptible = record.kind.is_preemptible();
        self.images.insert(image, Lease { holder: record.holder, renewed: now, preemptible });
    }

    /// The session said that it is alive.
    pub(super) fn renew(&mut self, image: ImageUuid, session: SessionId, now: Timestamp) {
        if let Some(lease) = self.images.get_mut(&image).filter(|lease| lease.holder == session) {
            lease.renewed = now;
        }
    }

    /// How long the holder's lease still runs; zero if nobody holds the image.
    pub(super) fn left(&self, image: ImageUuid, now: Timestamp, duration: Duration) -> Duration {
        let lease = self.images.get(&image);
        lease.map_or(Duration::ZERO, |lease| duration.saturating_sub(now.since(lease.renewed)))
    }

    /// Whether another session than `session` holds the image, and keeps it out; `heals` if it only heals.
    pub(super) fn held_against(
        &self,
        image: ImageUuid,
        (session, heals): (SessionId, bool),
        now: Timestamp,
        duration: Duration,
    ) -> bool {
        let Some(lease) = self.images.get(&image) else { return false };
        let keeps_out = lease.holder != session && (heals || !lease.preemptible);
        keeps_out && !self.left(image, now, duration).is_zero()
    }
}
