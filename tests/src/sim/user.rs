//! What users do while things break: open, read, write, flush, close, over and over.

use std::time::Duration;

use brick_client::replica::{Purpose, State};
use brick_wire::{BlockRange, ShardIndex};

use super::agenda::Happening;
use super::checker::What;
use super::session::Session;
use super::world::World;

/// Longest range of one request.
const BLOCKS_MAX: u64 = 4;

impl World {
    /// A client opens the image again, while there is work left.
    pub(super) fn open_next(&mut self, client: usize) {
        if self.clients[client].session.is_some() || self.requests_left == 0 {
            return;
        }
        if self.clients[client].paused {
            self.clients[client].deferred.push(Happening::Open(client));
            return;
        }
        let workload = self.config.workload;
        let takeover = self.random.chance(workload.takeover);
        let heals = client >= self.config.clients || self.random.chance(workload.heal_agent);
        let purpose = if heals { Purpose::Heal } else { Purpose::Client };
        self.open(client, takeover && !heals, purpose);
    }

    /// A session's user does something.
    pub(super) fn work(&mut self, session: &mut Session) {
        if session.answers.is_some() || session.closed.is_some() {
            return;
        }
        let workload = self.config.workload;
        let enough = session.heals || session.requests >= workload.session_requests;
        if enough || self.requests_left == 0 {
            let heal_time = Duration::from_millis(self.random.within(1..=300));
            if session.heals && self.heals_on(session) {
                session.requests += 1;
                self.agenda.after(heal_time, Happening::Work(session.id));
            } else {
                let now = self.agenda.now();
                session.group.handle_close(now);
            }
            return;
        }
        if session.asked.len() as u32 >= workload.depth {
            // An answer wakes it: to look again and again would be most of what happens in a slow world.
            session.waits = true;
            return;
        }
        self.requests_left -= 1;
        let what = self.draw_request();
        self.ask(session, what);
        let pause = self.random.around(workload.think);
        self.agenda.after(pause, Happening::Work(session.id));
    }

    /// Whether a session that only heals looks once more: as an agent does, until everything is healed, or until it
    /// loses patience with a brick that doesn't come back.
    fn heals_on(&mut self, session: &Session) -> bool {
        let healthy = session.group.report().state == State::Healthy;
        session.requests == 0 || (self.requests_left > 0 && !healthy && self.random.chance(0.7))
    }

    fn draw_request(&mut self) -> What {
        let workload = self.config.workload;
        let shard = ShardIndex(self.random.below(u64::from(workload.shards)) as u32);
        let first = self.random.below(u64::from(workload.blocks)) as u16;
        let count = self.random.within(1..=BLOCKS_MAX.min(u64::from(workload.blocks - first))) as u16;
        let blocks = BlockRange::new(first, count);
        let fua = self.random.chance(workload.fua);
        let weights = [workload.write, workload.read, workload.modify, workload.flush];
        let mut draw = self.random.below(u64::from(weights.iter().sum::<u32>())) as u32;
        let kind = weights.iter().position(|weight| {
            let hit = draw < *weight;
            draw = draw.saturating_sub(*weight);
            hit
        });
        match kind.expect("the draw is below the sum") {
            0 => What::Write { shard, blocks, half: None, tag: self.new_tag(count), fua },
            1 => What::Read(shard, blocks),
            2 => {
                let blocks = BlockRange::new(first, 1);
                let half = Some(self.random.index(2));
                What::Write { shard, blocks, half, tag: self.new_tag(1), fua }
            }
            _ => What::Flush,
        }
    }
}
