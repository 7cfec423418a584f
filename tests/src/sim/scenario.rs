//! Steps for scripted stories: one thing after the other, in a world where nothing happens by itself.
//!
//! Every step panics when the cluster doesn't do what it must; the checker listens all the time.

use std::time::Duration;

use brick_client::replica::{GroupError, Output, Purpose, State, UserRequest};
use brick_wire::register::RegisterKey;
use brick_wire::{BlockRange, BrickIndex, BrickSet, Role, SessionId, ShardIndex};

use super::brick::Brick;
use super::checker::What;
use super::config::Config;
use super::content::{self, Tag};
use super::log::Recording;
use super::random::Random;
use super::session::Answer;
use super::world::{IMAGE, World};

/// 2 data bricks and an arbiter.
pub const ARBITERED: [Role; 3] = [Role::Data, Role::Data, Role::Arbiter];
/// 3 data bricks.
pub const THREEFOLD: [Role; 3] = [Role::Data; 3];

/// A story.
#[derive(Debug)]
pub struct Scenario {
    /// Where it takes place.
    pub world: World,
}

impl Scenario {
    /// Everything runs, the image is there, nobody has it open.
    pub fn new(roles: &[Role]) -> Scenario {
        Scenario::seeded(roles, 7)
    }

    /// The same, with chance of its own: what a loss of power keeps differs.
    pub fn seeded(roles: &[Role], seed: u64) -> Scenario {
        Scenario::of(Config::quiet(roles), seed)
    }

    /// The same in another world.
    pub fn of(config: Config, seed: u64) -> Scenario {
        Scenario { world: World::new(config, Random::new(seed), Recording::Hash) }
    }

    /// Client 0 opens the image.
    pub fn open(&mut self) -> SessionId {
        self.world.open_until_served(0).expect("the image can be opened")
    }

    /// What an attempt to open comes to.
    pub fn try_open(&mut self, client: usize, takeover: bool) -> (SessionId, Answer<()>) {
        let id = self.world.open_by_hand(client, takeover);
        self.until("the image is opened or not", |world| world.sessions[&id].opened.is_some());
        let opened = self.world.sessions[&id].opened.clone().expect("waited for");
        (id, opened)
    }

    /// What an agent's attempt to heal comes to.
    pub fn try_heal(&mut self, client: usize) -> (SessionId, Answer<()>) {
        let id = self.world.open(client, false, Purpose::Heal);
        self.world.sessions.get_mut(&id).expect("just opened").answers = Some(Default::default());
        self.until("the agent has the image or not", |world| world.sessions[&id].opened.is_some());
        let opened = self.world.sessions[&id].opened.clone().expect("waited for");
        (id, opened)
    }

    /// The operator declares the copy of a brick good.
    pub fn declare_good(&mut self, brick: u8) -> (SessionId, Answer<()>) {
        let id = self.world.open(1, false, Purpose::DeclareGood(BrickIndex(brick)));
        self.world.sessions.get_mut(&id).expect("just opened").answers = Some(Default::default());
        self.until("the copy is declared good or not", |world| world.sessions[&id].opened.is_some());
        let opened = self.world.sessions[&id].opened.clone().expect("waited for");
        (id, opened)
    }

    /// Runs until something is so.
    pub fn until(&mut self, what: &str, done: impl Fn(&World) -> bool) {
        self.world.until(what, done).unwrap_or_else(|failure| panic!("{failure}"));
    }

    /// Asks for a write of one block, and doesn't wait.
    pub fn begin_write(&mut self, id: SessionId, shard: u32, block: u16) -> (UserRequest, Tag) {
        let tag = self.world.new_tag(1);
        let (shard, blocks) = (ShardIndex(shard), BlockRange::new(block, 1));
        let what = What::Write { shard, blocks, half: None, tag, fua: false };
        (self.world.request(id, what), tag)
    }

    /// What a request comes to.
    pub fn answer(&mut self, id: SessionId, request: UserRequest) -> Answer<Output> {
        self.world.answer(id, request).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// What a write of one block comes to.
    pub fn try_write(&mut self, id: SessionId, shard: u32, block: u16) -> Answer<Output> {
        let (request, _) = self.begin_write(id, shard, block);
        self.answer(id, request)
    }

    /// Writes one block; returns its tag.
    pub fn write(&mut self, id: SessionId, shard: u32, block: u16) -> Tag {
        let (request, tag) = self.begin_write(id, shard, block);
        self.answer(id, request).expect("the write succeeds");
        tag
    }

    /// Writes one half of a block; returns its tag.
    pub fn modify(&mut self, id: SessionId, shard: u32, block: u16, half: usize) -> Tag {
        let tag = self.world.new_tag(1);
        let (shard, blocks) = (ShardIndex(shard), BlockRange::new(block, 1));
        let request =
            self.world.request(id, What::Write { shard, blocks, half: Some(half), tag, fua: false });
        self.answer(id, request).expect("the write succeeds");
        tag
    }

    /// What a read of one block comes to.
    pub fn try_read(&mut self, id: SessionId, shard: u32, block: u16) -> Answer<Output> {
        let request = self.world.request(id, What::Read(ShardIndex(shard), BlockRange::new(block, 1)));
        self.answer(id, request)
    }

    /// Reads both halves of one block.
    pub fn read_halves(&mut self, id: SessionId, shard: u32, block: u16) -> [Tag; 2] {
        match self.try_read(id, shard, block).expect("the read succeeds") {
            Output::Data(data) => content::read(&data).expect("whole halves"),
            _ => [0; 2],
        }
    }

    /// Reads blocks, the halves of each of one write.
    pub fn read_tags(&mut self, id: SessionId, shard: u32, first: u16, count: u16) -> Vec<Tag> {
        let request = self.world.request(id, What::Read(ShardIndex(shard), BlockRange::new(first, count)));
        match self.answer(id, request).expect("the read succeeds") {
            Output::Data(data) => {
                let blocks = data.chunks_exact(brick_wire::limits::BLOCK_SIZE);
                blocks.map(|block| content::read(block).expect("whole halves")[0]).collect()
            }
            _ => vec![0; usize::from(count)],
        }
    }

    /// Reads one block, whose halves are of one write.
    pub fn read(&mut self, id: SessionId, shard: u32, block: u16) -> Tag {
        self.read_halves(id, shard, block)[0]
    }

    /// The highest ballot that a brick has durably promised, and the last one it accepted.
    pub fn votes(&self, brick: usize) -> (u64, u64) {
        let key = RegisterKey::Epoch(IMAGE);
        let state = self.world.bricks[brick].disk.register(&key).expect("written at creation");
        (state.promised.counter, state.accepted.counter)
    }

    /// Stops or lets through what a client sends to a brick.
    pub fn block_requests(&mut self, client: usize, brick: usize, blocked: bool) {
        let host = self.world.network.client_host(client);
        self.world.network.set_blocked(host, brick, blocked);
        self.world.network.release(&mut self.world.agenda);
    }

    /// Stops a client's process for some time; what it has sent arrives.
    pub fn stand_still(&mut self, client: usize, milliseconds: u64) {
        self.world.stand_still(client, Duration::from_millis(milliseconds));
    }

    /// What a flush comes to.
    pub fn try_flush(&mut self, id: SessionId) -> Answer<Output> {
        let request = self.world.request(id, What::Flush);
        self.answer(id, request)
    }

    /// Breaks all connections to these bricks.
    pub fn break_connections(&mut self, bricks: BrickSet) {
        let world = &mut self.world;
        for key in world.network.keys() {
            if world.network.connection(key).is_some_and(|connection| bricks.contains(connection.brick)) {
                world.network.reset(&mut world.agenda, &mut world.random, key);
            }
        }
    }

    /// Kills a brick's process.
    pub fn kill(&mut self, brick: u8) {
        self.world.kill_brick(BrickIndex(brick));
    }

    /// Takes a brick's power.
    pub fn lose_power(&mut self, brick: u8) {
        self.world.lose_power(BrickIndex(brick));
    }

    /// Starts a brick.
    pub fn start(&mut self, brick: u8) {
        self.world.start_brick(BrickIndex(brick));
    }

    /// S, as a session knows it.
    pub fn in_sync(&self, id: SessionId) -> BrickSet {
        self.world.sessions[&id].group.report().in_sync
    }

    /// Waits until every data brick is in sync.
    pub fn until_healthy(&mut self, id: SessionId) {
        self.until("every brick is in sync", |world| {
            world.sessions[&id].group.report().state == State::Healthy
        });
    }

    /// Runs for a while.
    pub fn pause(&mut self, milliseconds: u64) {
        self.world.run_for(Duration::from_millis(milliseconds));
        assert_eq!(self.world.checker.complaint, None);
    }

    /// What a brick would hold of a block if its power went.
    pub fn durable(&self, brick: usize, shard: u32, block: u16) -> Tag {
        let file = self.world.file(ShardIndex(shard));
        self.world.bricks[brick].disk.durable(file, block)[0]
    }

    /// A brick's disk is lost; an empty one takes its place and is taught. From then on the operator looks after everything.
    pub fn replace(&mut self, brick: u8) {
        self.world.lose_disk(BrickIndex(brick));
        self.world.inspect();
        self.until("an empty brick is in place and may vote", |world| {
            let state = &world.bricks[usize::from(brick)];
            state.retired.is_some() && !state.needs_operator()
        });
    }

    /// The lost disk is put back in place of its successor.
    pub fn put_lost_disk_back(&mut self, brick: u8) {
        self.world.put_back(BrickIndex(brick));
        self.start(brick);
    }

    /// Stops a brick in order.
    pub fn stop(&mut self, brick: u8) {
        self.world.shut_down(BrickIndex(brick));
        self.until("the brick stops", |world| world.bricks[usize::from(brick)].process.is_none());
    }

    /// Closes a session in order.
    pub fn end_session(&mut self, id: SessionId) {
        self.world.close(id).unwrap_or_else(|failure| panic!("{failure}"));
    }

    /// The good end: closes, stops every brick, and compares what they hold.
    pub fn end(mut self, id: SessionId) {
        let world = &mut self.world;
        // Bits stay while an arbiter lacks CRCs; a session that closes doesn't wait for long.
        let is_there = |brick: &&Brick| brick.role == Role::Arbiter && brick.process.is_some();
        let arbiters: BrickSet = world.bricks.iter().filter(is_there).map(|brick| brick.index).collect();
        let vouch = world.until("every arbiter vouches", |world| {
            arbiters.is_subset_of(world.sessions[&id].group.report().vouching)
        });
        let outcome =
            vouch.and_then(|()| world.close(id)).and_then(|()| world.stop_all()).and_then(|()| world.audit());
        outcome.unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(self.world.checker.complaint, None);
    }
}

/// Whether an answer is this kind of error.
pub fn is_error<T>(answer: &Answer<T>, kind: impl Fn(&GroupError) -> bool) -> bool {
    matches!(answer, Err(error) if kind(error))
}
