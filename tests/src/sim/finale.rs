//! The second half of a run: nothing breaks any more, so everything has to come to a good end.
//!
//! A fresh session must be served within a bound, every brick must be in sync again, every request must
//! succeed, the copies must be equal block by block, and after the close no brick may think otherwise.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use brick_client::replica::{Group, GroupError, Output, Purpose, State, UserRequest};
use brick_wire::checksum::crc32c;
use brick_wire::limits::BLOCK_SIZE;
use brick_wire::{BrickIndex, BrickSet, Role, SessionId, ShardIndex};
use brickd::engine::read_page;

use super::agenda::Happening;
use super::brick::Brick;
use super::checker::What;
use super::session::Answer;
use super::world::{IMAGE, SHARD_SHIFT, World};

/// Longest time for each step.
const STEP_MAX: Duration = Duration::from_secs(60);
/// Time for a brick that was just connected to learn the record.
const CATCH_UP: Duration = Duration::from_millis(200);

/// How long the holder that kept an opener out may still do so.
pub fn lease_left(error: &GroupError) -> Duration {
    match error {
        GroupError::Held { lease_left_ms, .. } => Duration::from_millis(u64::from(*lease_left_ms)),
        _ => Duration::ZERO,
    }
}

/// Why a step of the finale failed.
pub type Failure = String;

impl World {
    /// Runs the second half; all faults have ended.
    pub fn finale(&mut self) -> Result<(), Failure> {
        let id = self.open_until_served(0)?;
        self.until_in_sync(id)?;
        // Healthy is a matter of data bricks; an arbiter that was restored may be without its registers still.
        self.until("the operator has helped every brick", |world| {
            !world.bricks.iter().any(Brick::needs_operator)
        })?;
        self.run_for(CATCH_UP);
        // The arbiter has nothing to heal, but may still hang on an operation of a slow disk.
        let busy_until = self.disks_busy_until;
        self.until("every brick is connected", |world| {
            let connected = world.sessions[&id].group.report().connected;
            world.now() >= busy_until && connected.count() == world.bricks.len()
        })?;
        self.run_for(CATCH_UP);
        let runs = self.checker.runs();
        // Outstanding together and alone, these go to one copy each, whatever cores the bricks have.
        let copies = self.data_bricks().count();
        for (shard, blocks) in &runs {
            self.ask_all(id, vec![What::Read(*shard, *blocks); copies])?;
        }
        let arbiters = self.bricks.iter().filter(|brick| brick.role == Role::Arbiter);
        let arbiters: BrickSet = arbiters.map(|brick| brick.index).collect();
        self.until("every arbiter vouches", |world| world.sessions[&id].group.report().vouching == arbiters)?;
        self.check_vouching()?;
        let mut writes = Vec::new();
        for (shard, blocks) in runs {
            let tag = self.new_tag(blocks.count);
            writes.push(What::Write { shard, blocks, half: None, tag, fua: false });
        }
        self.ask_all(id, writes)?;
        self.ask_all(id, vec![What::Flush])?;
        // A brick that remembered a failed sync left S with that flush, and comes back rewritten.
        self.until_in_sync(id)?;
        // The arbiter may hear of the epoch after the flush, and would keep its bits until the next session.
        self.run_for(CATCH_UP);
        self.until("every arbiter vouches", |world| world.sessions[&id].group.report().vouching == arbiters)?;
        self.ask_all(id, vec![What::Flush])?;
        self.close(id)?;
        self.stop_all()?;
        self.audit()
    }

    fn until_in_sync(&mut self, id: SessionId) -> Result<(), Failure> {
        self.until(&format!("session {} gets every brick back in sync", id.0), |world| {
            world.sessions[&id].group.report().state == State::Healthy
        })
    }

    /// Opens the image on a client, again and again while others keep it.
    pub fn open_until_served(&mut self, client: usize) -> Result<SessionId, Failure> {
        let end = self.now() + STEP_MAX;
        loop {
            let id = self.open_by_hand(client, false);
            self.until("the image is opened or not", |world| world.sessions[&id].opened.is_some())?;
            let Some(Err(error)) = self.sessions[&id].opened.clone() else { return Ok(id) };
            if self.now() > end {
                return Err(format!("the image can't be opened: {error}"));
            }
            self.drop_session(id, false);
            self.run_for(Duration::from_millis(50) + lease_left(&error));
        }
    }

    /// Opens the image for a session that is asked by hand: its answers are kept.
    pub fn open_by_hand(&mut self, client: usize, takeover: bool) -> SessionId {
        let id = self.open(client, takeover, Purpose::Client);
        self.sessions.get_mut(&id).expect("just opened").answers = Some(Default::default());
        id
    }

    /// Runs until `done`, or says what didn't come about.
    pub fn until(&mut self, what: &str, done: impl Fn(&World) -> bool) -> Result<(), Failure> {
        if self.run_until(STEP_MAX, done) {
            return Ok(());
        }
        match &self.checker.complaint {
            Some(complaint) => Err(complaint.clone()),
            None => Err(format!("never, at {:?}: {what}\n{}", self.now(), self.dump())),
        }
    }

    /// Asks for something by hand.
    pub fn request(&mut self, id: SessionId, what: What) -> UserRequest {
        let mut request = UserRequest(0);
        self.with_session(id, |world, session| request = world.ask(session, what));
        request
    }

    /// Waits for the answer to a request made by hand.
    pub fn answer(&mut self, id: SessionId, request: UserRequest) -> Result<Answer<Output>, Failure> {
        self.until(&format!("request {} is answered", request.0), |world| {
            world.sessions[&id].answers.as_ref().is_some_and(|answers| answers.contains_key(&request))
        })?;
        let answers = self.sessions.get_mut(&id).and_then(|session| session.answers.as_mut());
        Ok(answers.and_then(|answers| answers.remove(&request)).expect("waited for"))
    }

    /// Makes requests, all at once, that must all succeed.
    pub fn ask_all(&mut self, id: SessionId, what: Vec<What>) -> Result<(), Failure> {
        let requests: Vec<UserRequest> = what.into_iter().map(|what| self.request(id, what)).collect();
        for request in requests {
            if let Err(error) = self.answer(id, request)? {
                return Err(format!("request {} failed though nothing is broken: {error}", request.0));
            }
        }
        Ok(())
    }

    /// Closes a session in order.
    pub fn close(&mut self, id: SessionId) -> Result<(), Failure> {
        self.with_session(id, |world, session| {
            let now = world.agenda.now();
            session.group.handle_close(now);
        });
        self.until("the image is closed", |world| world.sessions[&id].closed.is_some())?;
        let closed = self.sessions[&id].closed.clone().expect("waited for");
        // Let what is under way to the bricks arrive, as a client does that closes its connections in order.
        self.run_for(Duration::from_millis(500));
        self.drop_session(id, false);
        closed.map_err(|error| format!("the image can't be closed: {error}"))
    }

    /// Stops every brick in order.
    pub fn stop_all(&mut self) -> Result<(), Failure> {
        for index in 0..self.bricks.len() {
            self.shut_down(BrickIndex(index as u8));
        }
        self.until("every brick stops", |world| world.bricks.iter().all(|brick| brick.process.is_none()))
    }

    /// Looks at the disks of stopped bricks.
    pub fn audit(&self) -> Result<(), Failure> {
        let data: Vec<_> = self.data_bricks().collect();
        for ((shard, block, half), history) in self.checker.cells() {
            let file = self.file(*shard);
            for brick in &data {
                let content = brick.disk.durable(file, *block)[*half];
                let index = history.index(content);
                if index.is_none_or(|index| index < history.flushed()) {
                    let brick = brick.index.0;
                    return Err(format!(
                        "at the end, brick {brick} holds {content:#x} in shard {shard} block {block} half \
                         {half}; {}",
                        history.describe()
                    ));
                }
                if content != data[0].disk.durable(file, *block)[*half] {
                    return Err(format!("at the end, the copies of shard {shard} block {block} differ"));
                }
            }
        }
        self.audit_arbiters()?;
        for brick in &self.bricks {
            let index = brick.index.0;
            if !brick.disk.clean {
                return Err(format!("at the end, brick {index} stopped uncleanly though nothing was broken"));
            }
            let dirty = brick.disk.saved.values().flatten().next();
            if let Some(map) = dirty {
                return Err(format!("at the end, brick {index} still has a dirty map: {map:?}"));
            }
        }
        Ok(())
    }

    /// Whether arbiters that vouch know nothing that isn't so, now that no write is under way: bits that were cleared too
    /// early would have left them a CRC from before a write.
    fn check_vouching(&self) -> Result<(), Failure> {
        let (data, mut bytes) =
            (self.data_bricks().next().expect("a group has a data brick"), vec![0; BLOCK_SIZE]);
        for brick in self.bricks.iter().filter(|brick| brick.role == Role::Arbiter) {
            let engines = brick.process.iter().flat_map(|process| &process.engines);
            for (shard, block) in self.written_blocks() {
                let mut said = engines.clone().filter_map(|engine| engine.known_crc(IMAGE, shard, block));
                let file = self.file(shard);
                let known = match said.next() {
                    Some(known) => known,
                    None => {
                        brick.disk.fill(&mut bytes, brick.disk.intact(file, 0));
                        read_page(&bytes, 1 << SHARD_SHIFT).and_then(|page| page[usize::from(block)])
                    }
                };
                data.disk.fill(&mut bytes, data.disk.intact(file, block));
                self.compare_crc(brick, (shard, block), known, &bytes, known.is_none())?;
            }
        }
        Ok(())
    }

    /// Whether the arbiters have the CRCs of what the copies hold.
    fn audit_arbiters(&self) -> Result<(), Failure> {
        let (data, mut bytes) =
            (self.data_bricks().next().expect("a group has a data brick"), vec![0; BLOCK_SIZE]);
        for brick in self.bricks.iter().filter(|brick| brick.role == Role::Arbiter) {
            let mut pages = BTreeMap::new();
            for (shard, block) in self.written_blocks() {
                let file = self.file(shard);
                if let Entry::Vacant(place) = pages.entry(shard) {
                    brick.disk.fill(&mut bytes, brick.disk.durable(file, 0));
                    let page = read_page(&bytes, 1 << SHARD_SHIFT);
                    place.insert(page.ok_or("at the end, an arbiter's page is damaged")?);
                }
                data.disk.fill(&mut bytes, data.disk.durable(file, block));
                self.compare_crc(brick, (shard, block), pages[&shard][usize::from(block)], &bytes, false)?;
            }
        }
        Ok(())
    }

    fn compare_crc(
        &self,
        arbiter: &Brick,
        (shard, block): (ShardIndex, u16),
        known: Option<u32>,
        bytes: &[u8],
        may_be_unknown: bool,
    ) -> Result<(), Failure> {
        let crc = crc32c(bytes);
        if known == Some(crc) || may_be_unknown {
            return Ok(());
        }
        let brick = arbiter.index.0;
        Err(format!(
            "in the end, arbiter {brick} knows {known:x?} of shard {shard} block {block}, not {crc:x}"
        ))
    }

    fn written_blocks(&self) -> BTreeSet<(ShardIndex, u16)> {
        self.checker.cells().map(|((shard, block, _), _)| (*shard, *block)).collect()
    }

    /// The state of things, for who has to find out why nothing happens.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        for brick in &self.bricks {
            let (index, process) = (brick.index.0, &brick.process);
            text += &format!("brick {index}: {:?} {:?}\n", brick.incarnation(), process);
        }
        for (record, bricks) in self.records() {
            let (epoch, kind) = (record.epoch, record.kind);
            text += &format!("record {epoch} {kind:?} S {:?} on {bricks:?}\n", record.in_sync);
        }
        for session in self.sessions.values() {
            let report = Group::report(&session.group);
            text += &format!("session {}: {report:?}, {} unanswered\n", session.id.0, session.asked.len());
            if self.log.is_text() {
                text += &format!("{:#?}\n", session.group);
            }
        }
        text
    }

    /// Runs the first half: users and faults, until the requests are used up.
    pub fn fault_phase(&mut self) -> Result<(), Failure> {
        self.begin_faults();
        let end = self.now() + self.config.fault_time;
        while self.now() < end && self.requests_left > 0 && self.step() {}
        self.run_for(Duration::from_millis(20));
        self.end_faults();
        self.agenda.after(Duration::ZERO, Happening::Fault);
        self.checker.complaint.clone().map_or(Ok(()), Err)
    }
}
