//! What a seed draws before it starts: the shape of the group, which faults happen and how often, and what
//! the users do. Swarm testing (Groce et al., 2012): each kind of fault is on in some seeds and off in
//! others, because faults hide each other.

use std::time::Duration;

use brick_client::replica::{NoQuorum, Quorum};
use brick_wire::Role;

use super::network::NetworkConfig;
use super::random::Random;

/// How much the users of a seed do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Length {
    /// Most seeds are short, some are long: most mistakes need few steps, and others need many.
    #[default]
    Mixed,
    /// Few requests, with every kind of fault, but not for ever: more seeds, and so more different
    /// worlds, in the same time.
    Short,
    /// So many requests, with faults as long as they last.
    Requests(u32),
}

/// Requests of a short seed.
const SHORT_REQUESTS: u32 = 24;
/// Requests of a long seed.
const LONG_REQUESTS: u32 = 120;
/// Share of short seeds in the mix.
const SHORT_SHARE: f64 = 0.8;

/// Chances of faults; zero switches one off.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Mean time between two faults.
    pub pause: Duration,
    /// How many the scheduler makes. Where they never end, a short seed would be over before the image was
    /// open once.
    pub count_max: u32,
    /// Weights of the kinds that the scheduler chooses from.
    pub kill: u32,
    /// The host of a brick goes down.
    pub power_loss: u32,
    /// Every brick's process dies at one instant.
    pub kill_all: u32,
    /// Every brick's host goes down at one instant.
    pub power_cut: u32,
    /// A brick is replaced by an older copy of itself: it has forgotten promises.
    pub restore: u32,
    /// A brick's disk is lost and an empty one takes its place; later the lost one may come back.
    pub replace: u32,
    /// A brick is stopped and started in order.
    pub restart: u32,
    /// A connection breaks.
    pub reset: u32,
    /// Two hosts can't reach each other, in one or both directions.
    pub partition: u32,
    /// A host can't reach anybody, or nobody it, or both.
    pub isolate: u32,
    /// A disk takes long.
    pub slow_disk: u32,
    /// A disk is full.
    pub full_disk: u32,
    /// A block of a good copy rots.
    pub rot: u32,
    /// A client stands still, longer than its lease.
    pub pause_client: u32,
    /// A client dies.
    pub kill_client: u32,
    /// Chance that something breaks at each of the [`Moment`]s.
    pub ambush: [f64; Moment::COUNT],
    /// Chance that a read fails.
    pub read_error: f64,
    /// Chance that a write fails, having written some of its blocks.
    pub write_error: f64,
    /// Chance that a sync fails, spoiling what it covers.
    pub sync_error: f64,
    /// Chance that an append to the register log fails.
    pub append_error: f64,
    /// Chance that a payload's bit flips on the way.
    pub bit_flip: f64,
}

/// Moments at which a failure hurts most, as a brick's shell sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A promise or a record is being made durable.
    Vote,
    /// A flush is under way, or the flush before a join.
    Flush,
    /// An activity table or a dirty map is being written.
    Table,
    /// A heal starts: the brick dials its source. What breaks now is the second failure.
    Heal,
    /// A pulled or written block is on its way to the disk.
    Write,
}

impl Moment {
    /// How many there are.
    pub const COUNT: usize = 5;
}

/// What the users do.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Requests of all clients together.
    pub requests: u32,
    /// Requests that a session keeps outstanding.
    pub depth: u32,
    /// Mean time between two requests.
    pub think: Duration,
    /// Requests of one session before it closes (or dies).
    pub session_requests: u64,
    /// Weights of writes.
    pub write: u32,
    /// Of reads.
    pub read: u32,
    /// Of read-modify-writes.
    pub modify: u32,
    /// Of flushes.
    pub flush: u32,
    /// Chance that a write is durable before it completes.
    pub fua: f64,
    /// Chance that a session takes over.
    pub takeover: f64,
    /// Chance that a user's session only heals.
    pub heal_agent: f64,
    /// Hosts beside the users' whose sessions only heal, one after the other: heal agents.
    pub agents: usize,
    /// Shards in use.
    pub shards: u32,
    /// Blocks in use at the front of each shard.
    pub blocks: u16,
}

/// One seed's world.
#[derive(Clone, Debug)]
pub struct Config {
    /// The group.
    pub roles: Vec<Role>,
    /// Who decides.
    pub quorum: Quorum,
    /// Cores a brick may run on; drawn anew at each start.
    pub cores_max: u16,
    /// Lanes of each brick.
    pub lanes: u16,
    /// Open files per core.
    pub open_files_max: u32,
    /// Shards in the activity log of a lane.
    pub active_shards_max: usize,
    /// Faults that wait for a feature.
    pub switches: Switches,
    /// The bricks' lease.
    pub lease: Duration,
    /// The clients' patience with a brick.
    pub brick_timeout: Duration,
    /// Their patience with all of them.
    pub io_timeout: Duration,
    /// Whether they have that patience.
    pub no_quorum: NoQuorum,
    /// Clients.
    pub clients: usize,
    /// Mean time of a disk operation.
    pub disk_latency: Duration,
    /// The network.
    pub network: NetworkConfig,
    /// Whether frames go through the real codec.
    pub codec: bool,
    /// What breaks.
    pub faults: Faults,
    /// What is done.
    pub workload: Workload,
    /// Longest time with faults.
    pub fault_time: Duration,
}

/// Faults whose recovery needs a feature that isn't built yet; see the fields.
#[derive(Clone, Copy, Debug, Default)]
pub struct Switches {
    /// An unclean start leaves in the volatile cache what its predecessor wrote there. No engine knows of
    /// it then, so no flush covers it: the store has to sync its file system before such a start serves.
    pub unsynced_start: bool,
}

impl Config {
    /// Draws the world of a seed.
    pub fn draw(random: &mut Random, length: Length, switches: Switches) -> Config {
        let (requests, short) = match length {
            Length::Mixed if random.chance(SHORT_SHARE) => (SHORT_REQUESTS, true),
            Length::Mixed => (LONG_REQUESTS, false),
            Length::Short => (SHORT_REQUESTS, true),
            Length::Requests(requests) => (requests, false),
        };
        let (roles, quorum) = draw_shape(random);
        let brick_timeout = Duration::from_millis(random.pick(&[200, 500, 1000, 4000]));
        let latency = Duration::from_micros(random.pick(&[20, 60, 200, 1000]));
        let disk_latency = Duration::from_micros(random.pick(&[10, 80, 400, 2000]));
        let lanes = random.within(1..=5) as u16;
        Config {
            roles,
            quorum,
            cores_max: random.within(1..=3).min(u64::from(lanes)) as u16,
            lanes,
            open_files_max: random.pick(&[1, 2, 16]),
            active_shards_max: random.pick(&[1, 2, 4, 16]),
            switches,
            lease: Duration::from_millis(random.pick(&[300, 1000, 3000])),
            brick_timeout,
            io_timeout: brick_timeout * random.within(2..=4) as u32,
            no_quorum: if random.chance(0.2) { NoQuorum::Error } else { NoQuorum::Suspend },
            clients: random.pick(&[1, 1, 2, 3]),
            disk_latency,
            network: NetworkConfig { latency, spike: random.pick(&[0.0, 0.0, 0.002, 0.02]) },
            codec: random.chance(0.25),
            faults: draw_faults(random, short),
            workload: draw_workload(random, requests),
            fault_time: Duration::from_secs(if short { 5 } else { 30 }),
        }
    }

    /// A world without faults, for scenarios: 2 data and 1 arbiter, one client, small latencies.
    pub fn quiet(roles: &[Role]) -> Config {
        Config {
            roles: roles.to_vec(),
            quorum: Quorum::Majority,
            cores_max: 2,
            lanes: 4,
            open_files_max: 16,
            active_shards_max: 16,
            switches: Switches::default(),
            lease: Duration::from_secs(1),
            brick_timeout: Duration::from_secs(1),
            io_timeout: Duration::from_secs(3),
            no_quorum: NoQuorum::Suspend,
            clients: 3,
            disk_latency: Duration::from_micros(50),
            network: NetworkConfig { latency: Duration::from_micros(50), spike: 0.0 },
            codec: true,
            faults: Faults::default(),
            workload: Workload {
                requests: 0,
                depth: 1,
                think: Duration::from_millis(1),
                session_requests: 0,
                write: 1,
                read: 1,
                modify: 0,
                flush: 0,
                fua: 0.0,
                takeover: 0.0,
                heal_agent: 0.0,
                agents: 0,
                shards: 3,
                blocks: 64,
            },
            fault_time: Duration::ZERO,
        }
    }
}

fn draw_shape(random: &mut Random) -> (Vec<Role>, Quorum) {
    let (data, arbiter) = (Role::Data, Role::Arbiter);
    match random.below(10) {
        0..6 => (vec![data, data, arbiter], Quorum::Majority),
        6..8 => (vec![data, data, data], Quorum::Majority),
        8 => (vec![data, data], Quorum::First),
        _ => (vec![arbiter, data, data], Quorum::Majority),
    }
}

fn draw_faults(random: &mut Random, short: bool) -> Faults {
    // By a die of its own: seeds from before there was this fault, and that don't draw it, do what they did.
    let mut aside = Random::new(random.clone().bits() ^ 0x7265_706c_6163_6564);
    let mut weight = |choices: &[u32]| random.pick(choices);
    let pause_ms = if short { weight(&[2, 15, 60, 250]) } else { weight(&[15, 60, 250, 1000]) };
    let mut faults = Faults {
        pause: Duration::from_millis(u64::from(pause_ms)),
        count_max: if short { weight(&[2, 4, 8, 16]) } else { u32::MAX },
        kill: weight(&[0, 0, 2, 4]),
        power_loss: weight(&[0, 0, 0, 2, 4]),
        kill_all: weight(&[0, 0, 0, 1]),
        power_cut: weight(&[0, 0, 0, 1]),
        restore: weight(&[0, 0, 0, 4]),
        replace: aside.pick(&[0, 0, 0, 0, 0, 0, 4, 24]),
        restart: weight(&[0, 0, 1, 2]),
        reset: weight(&[0, 0, 2, 4]),
        partition: weight(&[0, 0, 2, 4]),
        isolate: weight(&[0, 0, 2, 4]),
        slow_disk: weight(&[0, 0, 1, 2]),
        full_disk: weight(&[0, 0, 0, 2]),
        pause_client: weight(&[0, 0, 1, 2]),
        kill_client: weight(&[0, 0, 1, 2]),
        ..Faults::default()
    };
    let mut chance = |choices: &[f64]| random.pick(choices);
    faults.ambush = [
        chance(&[0.0, 0.0, 0.02, 0.1]),
        chance(&[0.0, 0.0, 0.02, 0.1]),
        chance(&[0.0, 0.0, 0.02, 0.1]),
        chance(&[0.0, 0.0, 0.1, 0.5]),
        chance(&[0.0, 0.0, 0.0, 0.02]),
    ];
    faults.read_error = chance(&[0.0, 0.0, 0.0, 0.01]);
    faults.write_error = chance(&[0.0, 0.0, 0.0, 0.01]);
    faults.sync_error = chance(&[0.0, 0.0, 0.0, 0.03]);
    faults.append_error = chance(&[0.0, 0.0, 0.0, 0.0, 0.002]);
    faults.bit_flip = chance(&[0.0, 0.0, 0.0, 0.01]);
    if faults.read_error == 0.0 && faults.write_error == 0.0 {
        faults.rot = random.pick(&[0, 0, 4, 16]);
    }
    faults
}

fn draw_workload(random: &mut Random, requests: u32) -> Workload {
    let mut workload = Workload {
        requests,
        depth: random.pick(&[1, 2, 4, 8]),
        think: Duration::from_micros(random.pick(&[50, 1000, 10_000, 50_000])),
        session_requests: random.pick(&[10, 40, 200]),
        write: random.pick(&[2, 5, 10]),
        read: random.pick(&[1, 5]),
        modify: random.pick(&[0, 0, 2]),
        flush: random.pick(&[0, 1, 2]),
        fua: random.pick(&[0.0, 0.0, 0.1]),
        takeover: random.pick(&[0.0, 0.2, 0.7]),
        heal_agent: random.pick(&[0.0, 0.0, 0.2]),
        agents: 0,
        shards: random.within(1..=4) as u32,
        blocks: random.pick(&[2, 6, 12]),
    };
    if workload.heal_agent > 0.0 {
        workload.agents = random.pick(&[0, 1, 2, 2]);
    }
    workload
}
