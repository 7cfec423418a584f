//! Where a sequence stands: the next place for a request of so many units.
//!
//! A random job visits every start once before it visits one twice. With one size that is every block, as
//! in fio. With several, requests overlap those before them, as in fio with its `lfsr` generator: only a map
//! of all blocks could prevent that. What would stick out of the region is cut.

use crate::job::{Job, Order};
use crate::pattern::Kind;
use crate::random::{Permutation, Random};

#[derive(Clone, Debug)]
pub(super) struct Walk {
    /// Behind the last read, and behind the last write: mixed sequential jobs are two streams, as in fio.
    after: [u64; 2],
    random: Option<Jumps>,
}

/// One order for reads and writes.
#[derive(Clone, Debug)]
struct Jumps {
    seed: u64,
    pass: u64,
    index: u64,
    order: Permutation,
    /// Of a hundred requests; the others follow the last one of their kind.
    percent: u8,
    chance: Random,
}

impl Walk {
    /// At its start, in a region of so many units.
    pub fn new(job: &Job, units: u64) -> Walk {
        let random = (job.order == Order::Random).then(|| Jumps {
            seed: job.seed,
            pass: 0,
            index: 0,
            order: Permutation::new(units, job.seed),
            percent: job.percent_random,
            chance: Random::new(job.seed.swap_bytes()),
        });
        Walk { after: [0; 2], random }
    }

    /// The start and the length of the next request, which is to have so many units.
    pub fn next(&mut self, kind: Kind, wanted: u64, units: u64) -> (u64, u64) {
        let after = &mut self.after[usize::from(kind != Kind::Read)];
        let unit = match &mut self.random {
            None => *after % units,
            Some(jumps) => {
                // There is always a draw, so that what is drawn later doesn't depend on the end's place.
                let wants_jump = jumps.wants_one();
                if wants_jump || *after == units { jumps.next(units) } else { *after }
            }
        };
        let length = wanted.min(units - unit);
        *after = unit + length;
        (unit, length)
    }
}

impl Jumps {
    fn wants_one(&mut self) -> bool {
        self.percent == 100 || self.chance.percent(self.percent)
    }

    fn next(&mut self, units: u64) -> u64 {
        if self.index == units {
            self.pass += 1;
            self.index = 0;
            self.order = Permutation::new(units, self.seed.wrapping_add(self.pass));
        }
        self.index += 1;
        self.order.at(self.index - 1)
    }
}
