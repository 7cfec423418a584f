//! The user's view: every request that was made and what came of it, checked against what the rules allow.
//!
//! A half of a block has its own history (see [`super::history`]); requests are checked half by half, as
//! blocks are atomic and nothing larger is.

use std::collections::BTreeMap;

use brick_wire::limits::BLOCK_SIZE;
use brick_wire::{BlockRange, ShardIndex, Timestamp};

use super::content::{self, Content, Tag};
use super::history::{Complaint, History, Order};

/// Half of a block of a shard.
pub type Cell = (ShardIndex, u16, usize);

/// A request as the user made it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When.
    pub made_at: Timestamp,
    /// Its place among all requests.
    pub order: Order,
    /// What.
    pub what: What,
}

/// Kinds of requests.
#[derive(Clone, Debug)]
pub enum What {
    /// A read.
    Read(ShardIndex, BlockRange),
    /// A write of whole blocks, or of one half (`Some`).
    Write {
        /// Where.
        shard: ShardIndex,
        /// Where in it.
        blocks: BlockRange,
        /// Which half, if only one.
        half: Option<usize>,
        /// The tag of the first block's halves; each next block's is one more.
        tag: Tag,
        /// Durable before it completes.
        fua: bool,
    },
    /// A flush.
    Flush,
}

impl What {
    /// The halves that a write touches, with their tags.
    pub fn cells(&self) -> Vec<(Cell, Tag)> {
        let What::Write { shard, blocks, half, tag, .. } = self else { return Vec::new() };
        let halves = match half {
            Some(half) => vec![*half],
            None => vec![0, 1],
        };
        let mut cells = Vec::new();
        for block in blocks.iter() {
            let tag = tag + u64::from(block - blocks.first);
            cells.extend(halves.iter().map(|half| ((*shard, block, *half), tag)));
        }
        cells
    }
}

/// All histories.
#[derive(Debug, Default)]
pub struct Checker {
    cells: BTreeMap<Cell, History>,
    /// What went wrong first.
    pub complaint: Option<Complaint>,
    /// Requests that completed well.
    pub completed: u64,
}

impl Checker {
    /// A request was made.
    pub fn begin(&mut self, asked: &Asked) {
        for (cell, tag) in asked.what.cells() {
            self.cells.entry(cell).or_default().begin(asked.made_at, asked.order, tag);
        }
    }

    /// A write or flush was reported as done.
    pub fn done(&mut self, now: Timestamp, asked: &Asked) {
        self.completed += 1;
        match asked.what {
            What::Write { fua, .. } => {
                for (cell, tag) in asked.what.cells() {
                    let result = self.cells.entry(cell).or_default().complete(now, tag, fua);
                    self.judge(cell, result);
                }
            }
            What::Flush => {
                for history in self.cells.values_mut() {
                    history.flush(now, asked.order, asked.made_at);
                }
            }
            What::Read(..) => unreachable!("reads return data"),
        }
    }

    /// A write was refused by every copy.
    pub fn refused(&mut self, asked: &Asked) {
        for (cell, tag) in asked.what.cells() {
            self.cells.entry(cell).or_default().refuse(tag);
        }
    }

    /// A read returned `data`; `None` stands for zeros.
    pub fn read(&mut self, now: Timestamp, asked: &Asked, data: Option<&[u8]>) {
        self.completed += 1;
        let What::Read(shard, blocks) = asked.what else { unreachable!("only reads return data") };
        for (index, block) in blocks.iter().enumerate() {
            let bytes = data.map(|data| &data[index * BLOCK_SIZE..(index + 1) * BLOCK_SIZE]);
            let Some(content) = bytes.map_or(Some([0; 2]), content::read) else {
                self.complain(format!("shard {shard} block {block}: torn bytes were read"));
                return;
            };
            for (half, tag) in content.into_iter().enumerate() {
                let cell = (shard, block, half);
                let history = self.cells.entry(cell).or_default();
                let result = history.read(now, asked.order, asked.made_at, tag);
                self.judge(cell, result);
            }
        }
    }

    /// Power was lost where it mattered to these halves.
    pub fn revert(&mut self, now: Timestamp, cells: &[Cell]) {
        for cell in cells {
            self.cells.entry(*cell).or_default().revert(now);
        }
    }

    /// Every half that was ever written, with its history.
    pub fn cells(&self) -> impl Iterator<Item = (&Cell, &History)> {
        self.cells.iter()
    }

    /// One half's history, if it was ever written.
    pub fn history(&self, cell: &Cell) -> Option<&History> {
        self.cells.get(cell)
    }

    /// The runs of blocks that were ever written.
    pub fn runs(&self) -> Vec<(ShardIndex, BlockRange)> {
        let mut runs: Vec<(ShardIndex, BlockRange)> = Vec::new();
        for (shard, block, _) in self.cells.keys() {
            match runs.last_mut() {
                Some((last, run)) if last == shard && run.first + run.count > *block => {}
                Some((last, run)) if last == shard && run.first + run.count == *block => run.count += 1,
                _ => runs.push((*shard, BlockRange::new(*block, 1))),
            }
        }
        runs
    }

    /// Whether a copy holds at least what is certain (of one half).
    pub fn has_certain(history: &History, half: usize, content: Content) -> bool {
        history.index(content[half]).is_some_and(|index| index >= history.certain())
    }

    fn judge(&mut self, (shard, block, half): Cell, result: Result<(), Complaint>) {
        if let Err(complaint) = result {
            self.complain(format!("shard {shard} block {block} half {half}: {complaint}"));
        }
    }

    /// Something is wrong; only the first counts.
    pub fn complain(&mut self, complaint: Complaint) {
        self.complaint.get_or_insert(complaint);
    }
}
