//! What every block of an image may hold, while its servers are killed.
//!
//! Each write of a block has a version, counted up. A block has *candidates*: the versions that it may hold
//! while no write to it is in flight. An acknowledged write leaves itself as the only candidate; a write whose
//! server died unanswered adds itself to those that were there, because it may or may not have reached the
//! bricks. The first read after that decides: whoever opened the image made the copies equal before it let
//! anybody read, so what was read once stays, and a read that finds another candidate later went *back*.
//!
//! When only processes die, acknowledged writes stay, flushed or not. A power cut may undo completed writes
//! back to the last flush: an oracle that is told of flushes keeps the versions since then and makes
//! candidates of them at [`Oracle::cut_power`].
//!
//! One write at a time is in flight to a block, by whoever drives it; reads overlap writes and each other.

use std::ops::Range;

use crate::cluster::pattern::{self, BLOCK_BYTES};

/// The block that reads as zeros because nothing was ever written there.
const UNWRITTEN: u64 = 0;

/// All blocks of an image that are written.
#[derive(Debug)]
pub struct Oracle {
    blocks: Vec<Block>,
    /// Added to offsets before bytes are made from them: images must not be mistaken for each other.
    salt_bytes: u64,
    /// Acknowledgements so far; a flush covers those before it.
    acknowledgements: u64,
    flushes: Flushes,
    undone: u64,
}

/// Whether completed writes can be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushes {
    /// Power stays on, so flushes are of no matter.
    Irrelevant,
    /// A power cut may come.
    Kept,
}

#[derive(Debug)]
struct Block {
    /// Where in the image, in blocks.
    number: u64,
    /// The newest version that anybody tried to write.
    tried: u64,
    /// The newest version whose write was acknowledged.
    acknowledged: u64,
    /// What it may hold, apart from what is in flight.
    candidates: Vec<u64>,
    in_flight: Option<u64>,
    /// Goes up with everything that a read must not straddle if it is to decide something.
    changes: u64,
    /// Versions acknowledged or seen that no flush covers yet, each with the acknowledgements at that time; before
    /// them, the newest one that is covered. Only with [`Flushes::Kept`].
    unflushed: Vec<(u64, u64)>,
}

/// What a read that begins now may find.
#[derive(Debug)]
pub struct Expectation {
    allowed: Vec<u64>,
    tried: u64,
    changes: u64,
}

/// A point up to which a flush that begins now makes everything durable.
#[derive(Clone, Copy, Debug)]
pub struct FlushPoint(u64);

impl Oracle {
    /// For these blocks of image number `image`, all unwritten.
    pub fn new(image: u64, numbers: &[u64], flushes: Flushes) -> Oracle {
        let block = |number: &u64| Block {
            number: *number,
            tried: UNWRITTEN,
            acknowledged: UNWRITTEN,
            candidates: vec![UNWRITTEN],
            in_flight: None,
            changes: 0,
            unflushed: vec![(UNWRITTEN, 0)],
        };
        Oracle {
            blocks: numbers.iter().map(block).collect(),
            salt_bytes: image << 40,
            acknowledgements: 0,
            flushes,
            undone: 0,
        }
    }

    /// How many blocks there are; others are named by their index.
    pub fn count(&self) -> usize {
        self.blocks.len()
    }

    /// Where in the image a block is.
    pub fn offset_bytes(&self, index: usize) -> u64 {
        self.blocks[index].number * BLOCK_BYTES as u64
    }

    /// The blocks at the start of `indices` that follow each other in the image, up to `count_max`.
    pub fn leading_run(&self, indices: Range<usize>, count_max: usize) -> Range<usize> {
        let first = self.blocks[indices.start].number;
        let follows = |index: &usize| self.blocks[*index].number == first + (index - indices.start) as u64;
        let length = indices.clone().take(count_max).take_while(follows).count();
        indices.start..indices.start + length
    }

    /// Whether a write to it is in flight.
    pub fn is_busy(&self, index: usize) -> bool {
        self.blocks[index].in_flight.is_some()
    }

    /// The next version of a block goes out; returns its bytes.
    pub fn begin_write(&mut self, index: usize) -> Vec<u8> {
        let block = &mut self.blocks[index];
        assert!(block.in_flight.is_none(), "one write at a time");
        block.tried += 1;
        block.changes += 1;
        block.in_flight = Some(block.tried);
        let version = block.tried;
        self.content(index, version)
    }

    /// The write in flight was acknowledged.
    pub fn acknowledge(&mut self, index: usize) {
        self.acknowledgements += 1;
        let block = &mut self.blocks[index];
        let version = block.in_flight.take().expect("it was begun");
        block.changes += 1;
        block.acknowledged = version;
        block.candidates.clear();
        block.candidates.push(version);
        if self.flushes == Flushes::Kept {
            block.unflushed.push((version, self.acknowledgements));
        }
    }

    /// Nobody will ever answer the write in flight.
    pub fn lose(&mut self, index: usize) {
        let block = &mut self.blocks[index];
        let version = block.in_flight.take().expect("it was begun");
        block.changes += 1;
        block.candidates.push(version);
    }

    /// Before a read is sent.
    pub fn expect(&self, index: usize) -> Expectation {
        let block = &self.blocks[index];
        let allowed = block.candidates.iter().copied().chain(block.in_flight).collect();
        Expectation { allowed, tried: block.tried, changes: block.changes }
    }

    /// What a read found, which `expectation` was made for. The error says in words what is wrong.
    pub fn check(&mut self, index: usize, expectation: &Expectation, bytes: &[u8]) -> Result<(), String> {
        let begun_since = expectation.tried + 1..=self.blocks[index].tried;
        let mut allowed = expectation.allowed.iter().copied().chain(begun_since);
        let Some(version) = allowed.find(|version| self.is_version(index, *version, bytes)) else {
            return Err(self.describe(index, expectation, bytes));
        };
        let block = &mut self.blocks[index];
        if block.changes != expectation.changes {
            // It raced with a write, or with a read that decided: it may have been answered before.
            return Ok(());
        }
        if block.in_flight.is_none() && !block.candidates.contains(&version) {
            return Err(format!(
                "{}, after another read had found another",
                self.describe(index, expectation, bytes)
            ));
        }
        if block.candidates != [version] {
            self.undone += u64::from(version < block.acknowledged);
            block.candidates.clear();
            block.candidates.push(version);
            // A read in flight meanwhile may have been answered before this one, from before the write.
            block.changes += u64::from(block.in_flight.is_some());
        }
        Ok(())
    }

    /// Before a flush is sent.
    pub fn begin_flush(&self) -> FlushPoint {
        FlushPoint(self.acknowledgements)
    }

    /// That flush was acknowledged.
    pub fn end_flush(&mut self, point: FlushPoint) {
        for block in &mut self.blocks {
            let covered = block.unflushed.iter().rposition(|(_, at)| *at <= point.0);
            block.unflushed.drain(..covered.unwrap_or(0));
        }
    }

    /// All power goes: completed writes that no flush covers may be undone, and nothing is in flight.
    pub fn cut_power(&mut self) {
        assert_eq!(self.flushes, Flushes::Kept, "or nobody knows what was flushed");
        for block in &mut self.blocks {
            let kept = block.unflushed.iter().map(|(version, _)| *version);
            block.candidates.extend(kept);
            block.candidates.extend(block.in_flight.take());
            block.candidates.sort_unstable();
            block.candidates.dedup();
            block.changes += 1;
        }
    }

    /// Blocks whose acknowledged writes a power cut undid, as far as they were read since.
    pub fn undone(&self) -> u64 {
        self.undone
    }

    fn content(&self, index: usize, version: u64) -> Vec<u8> {
        pattern::blocks(self.salt_bytes + self.offset_bytes(index), 1, version)
    }

    fn is_version(&self, index: usize, version: u64, bytes: &[u8]) -> bool {
        match version {
            UNWRITTEN => bytes.iter().all(|byte| *byte == 0),
            _ => bytes == self.content(index, version),
        }
    }

    fn describe(&self, index: usize, expectation: &Expectation, bytes: &[u8]) -> String {
        let found = (UNWRITTEN..=self.blocks[index].tried)
            .find(|version| self.is_version(index, *version, bytes))
            .map_or("no version of it".to_owned(), |version| format!("version {version}"));
        let Block { number, tried, candidates, in_flight, .. } = &self.blocks[index];
        format!(
            "block {number} holds {found}; allowed were {:?}, now {candidates:?}, in flight {in_flight:?}, tried {tried}",
            expectation.allowed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(oracle: &mut Oracle, version: u64) -> Result<(), String> {
        let bytes = if version == 0 { vec![0; BLOCK_BYTES] } else { oracle.content(0, version) };
        let expectation = oracle.expect(0);
        oracle.check(0, &expectation, &bytes)
    }

    fn write(oracle: &mut Oracle) {
        oracle.begin_write(0);
        oracle.acknowledge(0);
    }

    #[test]
    fn an_acknowledged_write_is_the_only_candidate() {
        let mut oracle = Oracle::new(1, &[7], Flushes::Irrelevant);
        assert!(read(&mut oracle, 0).is_ok());
        write(&mut oracle);
        assert!(read(&mut oracle, 1).is_ok());
        let error = read(&mut oracle, 0).expect_err("the write was acknowledged");
        assert!(error.contains("block 7 holds version 0"), "{error}");
    }

    #[test]
    fn what_was_read_once_stays() {
        for (first, second) in [(0, 1), (1, 0)] {
            let mut oracle = Oracle::new(1, &[7], Flushes::Irrelevant);
            oracle.begin_write(0);
            oracle.lose(0);
            assert!(read(&mut oracle, first).is_ok(), "either is allowed");
            assert!(read(&mut oracle, second).is_err(), "it went from {first} to {second}");
        }
    }

    #[test]
    fn a_read_beside_a_write_may_find_either_but_not_go_back() {
        let mut oracle = Oracle::new(1, &[7], Flushes::Irrelevant);
        oracle.begin_write(0);
        assert!(read(&mut oracle, 0).is_ok());
        assert!(read(&mut oracle, 1).is_ok());
        assert!(read(&mut oracle, 0).is_err(), "the write was seen");
        oracle.lose(0);
        assert!(read(&mut oracle, 0).is_err(), "and was seen before its server died");
        assert!(read(&mut oracle, 1).is_ok());
    }

    #[test]
    fn a_read_that_races_with_writes_may_find_any_of_them() {
        let mut oracle = Oracle::new(1, &[7], Flushes::Irrelevant);
        write(&mut oracle);
        let expectation = oracle.expect(0);
        write(&mut oracle);
        write(&mut oracle);
        for version in 1..=3 {
            let bytes = oracle.content(0, version);
            assert!(oracle.check(0, &expectation, &bytes).is_ok());
        }
        let zeros = vec![0; BLOCK_BYTES];
        assert!(oracle.check(0, &expectation, &zeros).is_err(), "that was over when it began");
    }

    #[test]
    fn a_power_cut_goes_back_to_the_last_flush_and_no_further() {
        let mut oracle = Oracle::new(1, &[7], Flushes::Kept);
        write(&mut oracle);
        write(&mut oracle);
        let point = oracle.begin_flush();
        write(&mut oracle);
        oracle.end_flush(point);
        oracle.begin_write(0);
        oracle.cut_power();
        assert_eq!(oracle.expect(0).allowed, [2, 3, 4]);
        assert!(read(&mut oracle, 1).is_err(), "version 2 was flushed");
        assert!(read(&mut oracle, 2).is_ok());
        assert!(read(&mut oracle, 4).is_err(), "version 2 was read");
        assert_eq!(oracle.undone(), 1);
    }

    #[test]
    fn images_are_told_apart() {
        let (mut left, mut right) =
            (Oracle::new(1, &[7], Flushes::Irrelevant), Oracle::new(2, &[7], Flushes::Irrelevant));
        assert_ne!(left.begin_write(0), right.begin_write(0));
    }
}
