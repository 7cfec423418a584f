//! The activity log (rule I2): a shard is in its lane's durable table before a byte of its file changes.
//!
//! Dirty bits live in memory; the log bounds what a crash can make the brick forget. After one, the dirty
//! map is what was saved last, and every block of the shards in the tables. That is right as long as
//! - a task *holds* its shard, which only a durable table can give it, from before its first write until
//!   it ends (a dummy write that takes effect at once holds nothing), and
//! - a shard leaves the table only when nothing holds it and none of its bits would be lost: they are
//!   clear, or a [`DiskRequest::SaveDirty`] that began after the last of them was set has ended well; and when its
//!   page of CRCs is durable (`witness`), which it is together with all data written to its file before.
//!
//! A lane has one table write in flight; shards that are wanted meanwhile gather for the next. A shard that
//! leaves does so in memory first and on disk with the next table that adds one: until then the table
//! names a shard too many, which costs comparisons after a crash and nothing else. For the same reason
//! `Clean` writes nothing. Leaving is lazy: a part of the table is kept free, the longest unused leave
//! first, and the lane's maps and pages are saved when too few can leave. A table without room makes its new shards
//! wait for that save, and fails them if it fails.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use brick_wire::{ImageUuid, LaneIndex, Status};

use super::tasks::data_status;
use super::{ActiveShard, DiskError, DiskRequest, Engine, Purpose, ShardKey, ShardMap, Token};

/// This part of a table is kept free for shards that are wanted suddenly.
const SPARE_FRACTION: usize = 4;
/// Pages that are saved at once, per lane, to let shards leave.
const PAGE_SAVES_MAX: usize = 16;

/// A shard that is in the durable table.
#[derive(Debug)]
struct Entry {
    shard_shift: u8,
    /// Tasks that may write.
    holders: u32,
    /// Grows with every use: its place among those that may leave.
    used_at: u64,
    /// When it last got a dirty bit that it didn't have.
    dirtied_at: u64,
}

/// A shard that isn't yet.
#[derive(Debug)]
struct Wanted {
    shard_shift: u8,
    waiters: Vec<Token>,
}

/// The table of one lane.
#[derive(Debug, Default)]
struct Table {
    active: ShardMap<Entry>,
    wanted: BTreeMap<ShardKey, Wanted>,
    /// The keys of `wanted` in order of arrival.
    queue: VecDeque<ShardKey>,
    /// What the table in flight adds.
    adding: Option<BTreeMap<ShardKey, Wanted>>,
    /// When the save in flight took its copy of the bits.
    saving: Option<u64>,
    /// Bits set up to then are durable.
    saved_at: u64,
    /// A save is wanted for its mark (see `marks`), whatever the table looks like.
    mark_wanted: bool,
    /// The save in flight carries it.
    mark_saving: bool,
}

/// The tables of a core's lanes.
#[derive(Debug)]
pub(super) struct ActivityLog {
    /// Every `cores`-th lane is this core's, in order.
    tables: Vec<Table>,
    cores: u16,
    /// Shards in a table at most.
    capacity: usize,
    /// Lanes whose table has shards waiting.
    restless: BTreeSet<LaneIndex>,
    /// Counts what happens, to tell before from after.
    clock: u64,
}

impl Table {
    /// Lets shards leave, as far as needed for those that wait and the spare room.
    fn make_room(
        &mut self,
        full: usize,
        is_clean: impl Fn(ShardKey) -> bool,
        has_page: impl Fn(ShardKey) -> bool,
    ) {
        let excess = (self.active.len() + self.queue.len()).saturating_sub(full);
        if excess == 0 {
            return;
        }
        let saved_at = self.saved_at;
        let may_leave = |key: ShardKey, entry: &Entry| {
            entry.holders == 0 && (entry.dirtied_at <= saved_at || is_clean(key)) && has_page(key)
        };
        let candidates = self.active.iter().filter(|(key, entry)| may_leave(**key, entry));
        let mut candidates: Vec<(u64, ShardKey)> =
            candidates.map(|(key, entry)| (entry.used_at, *key)).collect();
        candidates.sort_unstable();
        for (_, key) in candidates.into_iter().take(excess) {
            self.active.remove(&key);
        }
    }

    /// Takes shards from the queue into the next table; `false` if there is none or no room.
    fn admit(&mut self, capacity: usize) -> bool {
        let count = self.queue.len().min(capacity.saturating_sub(self.active.len()));
        let wanted = &mut self.wanted;
        let taken = self.queue.drain(..count);
        let adding: BTreeMap<ShardKey, Wanted> =
            taken.map(|key| (key, wanted.remove(&key).expect("queued shards are wanted"))).collect();
        let any = !adding.is_empty();
        self.adding = any.then_some(adding);
        any
    }

    /// Whether a save would let shards leave, and that is needed: more than those that wait for their page only.
    fn wants_save(&self, full: usize, is_clean: impl Fn(ShardKey) -> bool) -> bool {
        let count = self.active.len() + self.adding.as_ref().map_or(0, BTreeMap::len) + self.queue.len();
        if self.saving.is_some() || count <= full {
            return false;
        }
        let unused = self.active.iter().filter(|(_, entry)| entry.holders == 0);
        let needs_save =
            |(key, entry): &(&ShardKey, &Entry)| entry.dirtied_at > self.saved_at && !is_clean(**key);
        let (unsaved, saved): (Vec<_>, Vec<_>) = unused.partition(needs_save);
        !unsaved.is_empty() && count - saved.len() > full
    }

    /// Shards whose page has to be saved before they can leave, longest unused first, as many as should leave.
    fn wants_pages(&self, full: usize, has_page: impl Fn(ShardKey) -> bool) -> Vec<ActiveShard> {
        let excess = (self.active.len() + self.queue.len()).saturating_sub(full);
        let mut candidates: Vec<(u64, ActiveShard)> = if excess == 0 {
            Vec::new()
        } else {
            let unsaved = self.active.iter().filter(|(key, entry)| entry.holders == 0 && !has_page(**key));
            unsaved.map(|(key, entry)| (entry.used_at, active_shard(*key, entry.shard_shift))).collect()
        };
        candidates.sort_unstable();
        candidates.truncate(excess.min(PAGE_SAVES_MAX));
        candidates.into_iter().map(|(_, shard)| shard).collect()
    }

    /// What the table in flight says, in order.
    fn entries(&self) -> Vec<ActiveShard> {
        let active = self.active.iter().map(|(key, entry)| (key, entry.shard_shift));
        let adding = self.adding.iter().flatten().map(|(key, wanted)| (key, wanted.shard_shift));
        in_order(active.chain(adding).map(|(key, shard_shift)| active_shard(*key, shard_shift)))
    }

    /// A task waits until the shard is active.
    fn wait(&mut self, key: ShardKey, shard_shift: u8, token: Token) {
        let adding = self.adding.as_mut().and_then(|adding| adding.get_mut(&key));
        let wanted = match adding {
            Some(wanted) => wanted,
            None => self.wanted.entry(key).or_insert_with(|| {
                self.queue.push_back(key);
                Wanted { shard_shift, waiters: Vec::new() }
            }),
        };
        wanted.waiters.push(token);
    }
}

impl ActivityLog {
    /// Tables of at most `capacity` shards for `lanes` lanes, each `cores`-th of which is this core's.
    pub(super) fn new(lanes: usize, cores: u16, capacity: usize) -> ActivityLog {
        assert!(capacity > 0, "a table holds a shard");
        let tables = (0..lanes).map(|_| Table::default()).collect();
        ActivityLog { tables, cores, capacity, restless: BTreeSet::new(), clock: 0 }
    }

    /// A shard that the durable table names at start: all its blocks are dirty.
    pub(super) fn load(&mut self, lane: LaneIndex, shard: ActiveShard) {
        let at = self.tick();
        let entry = Entry { shard_shift: shard.shard_shift, holders: 0, used_at: at, dirtied_at: at };
        self.table(lane).active.insert((shard.image, shard.shard), entry);
    }

    /// The size of an active shard, bytes.
    pub(super) fn shard_bytes(&self, lane: LaneIndex, key: ShardKey) -> Option<u64> {
        let table = &self.tables[usize::from(lane.0 / self.cores)];
        table.active.get(&key).map(|entry| 1 << entry.shard_shift)
    }

    /// Holds a shard that is active.
    fn hold(&mut self, lane: LaneIndex, key: ShardKey) -> bool {
        let at = self.tick();
        let Some(entry) = self.table(lane).active.get_mut(&key) else { return false };
        entry.used_at = at;
        entry.holders += 1;
        true
    }

    /// One holder less.
    pub(super) fn release(&mut self, lane: LaneIndex, key: ShardKey) {
        let entry = self.table(lane).active.get_mut(&key).expect("held shards stay in the table");
        entry.holders = entry.holders.checked_sub(1).expect("holders are counted");
    }

    /// The shard got dirty bits that it didn't have. If it isn't active, that is noted when it becomes so.
    fn note_dirtied(&mut self, lane: LaneIndex, key: ShardKey) {
        let at = self.tick();
        if let Some(entry) = self.table(lane).active.get_mut(&key) {
            entry.dirtied_at = at;
        }
    }

    /// Has the lane's maps saved, in a save that begins after this.
    pub(super) fn want_save(&mut self, lane: LaneIndex) {
        self.table(lane).mark_wanted = true;
        self.restless.insert(lane);
    }

    /// The image is removed, with its bits.
    pub(super) fn forget(&mut self, image: ImageUuid) {
        for table in &mut self.tables {
            table.active.retain(|key, entry| key.0 != image || entry.holders > 0);
        }
    }

    /// Shards in a table before some have to leave.
    fn full(&self) -> usize {
        self.capacity - self.capacity / SPARE_FRACTION
    }

    fn table(&mut self, lane: LaneIndex) -> &mut Table {
        &mut self.tables[usize::from(lane.0 / self.cores)]
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

impl Engine {
    /// Whether the task's shard is active, and held for the task; if not it has to wait.
    pub(super) fn task_activity(&mut self, token: Token) -> bool {
        let task = &self.tasks[&token];
        if task.active {
            return true;
        }
        let (key, shard_bytes) = (task.target.key, task.target.shard_bytes);
        let lane = self.lane_of(key);
        if self.activity.hold(lane, key) {
            self.task(token).active = true;
            return true;
        }
        self.activity.table(lane).wait(key, shard_bytes.ilog2() as u8, token);
        self.activity.restless.insert(lane);
        false
    }

    /// Whether the shard is active, for one who needs it now only.
    pub(super) fn is_active(&mut self, key: ShardKey) -> bool {
        let lane = self.lane_of(key);
        let active = self.activity.hold(lane, key);
        if active {
            self.activity.release(lane, key);
        }
        active
    }

    /// Notes that a shard got dirty bits: it can't leave the table before they were saved.
    pub(super) fn bits_set(&mut self, key: ShardKey, any_new: bool) {
        if any_new {
            let lane = self.lane_of(key);
            self.activity.note_dirtied(lane, key);
        }
    }

    /// Writes the tables that shards wait for, where none is being written.
    pub(super) fn advance_activity(&mut self) {
        for lane in self.activity.restless.clone() {
            self.write_table(lane);
        }
    }

    fn write_table(&mut self, lane: LaneIndex) {
        let (full, capacity) = (self.activity.full(), self.activity.capacity);
        let (dirty, witness) = (&self.dirty, &self.witness);
        let is_clean = |key| !dirty.contains(key);
        let has_page = |key| witness.is_durable(key);
        let table = self.activity.table(lane);
        let pages = table.wants_pages(full, has_page);
        let mut entries = None;
        if table.adding.is_none() {
            table.make_room(full, is_clean, has_page);
            entries = table.admit(capacity).then(|| table.entries());
        }
        let mark = table.mark_wanted && table.saving.is_none();
        let save = mark || table.wants_save(full, is_clean);
        if mark {
            (table.mark_wanted, table.mark_saving) = (false, true);
        }
        if table.queue.is_empty() && !table.mark_wanted {
            self.activity.restless.remove(&lane);
        }
        if let Some(entries) = entries {
            self.disk(Purpose::Activity(lane), DiskRequest::WriteActivity { lane, entries });
        }
        if save {
            let at = self.activity.clock;
            self.activity.table(lane).saving = Some(at);
            self.save_dirty(lane);
        }
        for shard in pages {
            self.save_page((shard.image, shard.shard), 1 << shard.shard_shift);
        }
    }

    /// The table in flight is durable, or nobody knows what is.
    pub(super) fn table_written(&mut self, lane: LaneIndex, result: Result<(), DiskError>) {
        let at = self.activity.tick();
        let table = self.activity.table(lane);
        let added = table.adding.take().expect("a table was written");
        for (key, Wanted { shard_shift, waiters }) in added {
            if result.is_ok() {
                let entry = Entry { shard_shift, holders: 0, used_at: at, dirtied_at: at };
                self.activity.table(lane).active.insert(key, entry);
                self.ready.extend(waiters);
            } else {
                waiters.into_iter().for_each(|token| self.fail_task(token, Status::Io));
            }
        }
    }

    /// Starts to save the maps of a lane.
    pub(super) fn save_dirty(&mut self, lane: LaneIndex) {
        let in_lane = |image, shard| self.lane_of((image, shard)) == lane;
        let maps = self.dirty.save(in_lane, |image| self.is_unsynced(image, lane));
        self.disk(Purpose::SaveDirty(lane), DiskRequest::SaveDirty { lane, maps });
    }

    /// The maps of a lane were saved, to make room in its table or for a mark.
    pub(super) fn bits_saved(&mut self, lane: LaneIndex, result: Result<(), DiskError>) {
        if std::mem::take(&mut self.activity.table(lane).mark_saving)
            && !self.activity.table(lane).mark_wanted
        {
            self.lane_marked(lane);
        }
        let table = self.activity.table(lane);
        let at = table.saving.take().expect("a save was in flight");
        let Err(error) = result else {
            table.saved_at = at;
            return;
        };
        self.refuse_newcomers(lane, data_status(error));
    }

    /// A page was saved, to make room in the lane's table or at a stop; or it couldn't be.
    pub(super) fn page_save_ended(&mut self, lane: LaneIndex, good: bool) {
        if !good {
            self.refuse_newcomers(lane, Status::Io);
        }
    }

    /// What would make room failed. Without any there won't be some soon; better to say so than to wait for it.
    fn refuse_newcomers(&mut self, lane: LaneIndex, status: Status) {
        let capacity = self.activity.capacity;
        let table = self.activity.table(lane);
        if table.active.len() + table.adding.as_ref().map_or(0, BTreeMap::len) < capacity {
            return;
        }
        table.queue.clear();
        for (_, wanted) in std::mem::take(&mut table.wanted) {
            wanted.waiters.into_iter().for_each(|token| self.fail_task(token, status));
        }
    }

    /// The lane's active shards whose page isn't durable, in order.
    pub(super) fn pageless_shards(&mut self, lane: LaneIndex) -> Vec<ActiveShard> {
        let witness = &self.witness;
        let active = self.activity.table(lane).active.iter().filter(|(key, _)| !witness.is_durable(**key));
        in_order(active.map(|(key, entry)| active_shard(*key, entry.shard_shift)))
    }
}

fn in_order(shards: impl Iterator<Item = ActiveShard>) -> Vec<ActiveShard> {
    let mut shards: Vec<ActiveShard> = shards.collect();
    shards.sort_unstable_by_key(|shard| (shard.image, shard.shard));
    shards
}

fn active_shard(key: ShardKey, shard_shift: u8) -> ActiveShard {
    ActiveShard { image: key.0, shard: key.1, shard_shift }
}
