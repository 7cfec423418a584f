//! How large requests are: `bs`, `bsrange` and `bssplit`, for reads and for writes.
//!
//! Every size is a multiple of the smallest one, the *unit*: regions are counted, aligned and verified in
//! units. fio takes sizes such as 4k and 6k together and aligns both to 4k; here they are refused.

use crate::pattern::Kind;
use crate::random::Random;

/// The sizes of a job's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// Of reads.
    pub read: Sizes,
    /// Of writes.
    pub write: Sizes,
}

/// The sizes of requests of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// Any multiple of the smallest one, each as likely; both may be the same.
    Range {
        /// The smallest.
        min_bytes: u64,
        /// The largest.
        max_bytes: u64,
    },
    /// These, as often as their shares say. Never empty; the shares add up to 100.
    Split(Vec<Share>),
}

/// A size, and how often it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which size.
    pub bytes: u64,
    /// Of a hundred requests.
    pub percent: u8,
}

impl BlockSizes {
    /// One size for everything.
    pub fn one(bytes: u64) -> BlockSizes {
        BlockSizes { read: Sizes::one(bytes), write: Sizes::one(bytes) }
    }

    /// Those of one kind; syncs have none, and count as writes.
    pub fn of(&self, kind: Kind) -> &Sizes {
        if kind == Kind::Read { &self.read } else { &self.write }
    }
}

impl Sizes {
    /// Always the same.
    pub fn one(bytes: u64) -> Sizes {
        Sizes::Range { min_bytes: bytes, max_bytes: bytes }
    }

    /// The smallest.
    pub fn min_bytes(&self) -> u64 {
        match self {
            Sizes::Range { min_bytes, .. } => *min_bytes,
            Sizes::Split(shares) => shares.iter().map(|share| share.bytes).min().expect("never empty"),
        }
    }

    /// The largest.
    pub fn max_bytes(&self) -> u64 {
        match self {
            Sizes::Range { max_bytes, .. } => *max_bytes,
            Sizes::Split(shares) => shares.iter().map(|share| share.bytes).max().expect("never empty"),
        }
    }

    /// Whether each is a multiple of that.
    pub fn are_multiples_of(&self, unit_bytes: u64) -> bool {
        match self {
            Sizes::Range { min_bytes, .. } => min_bytes.is_multiple_of(unit_bytes),
            Sizes::Split(shares) => shares.iter().all(|share| share.bytes.is_multiple_of(unit_bytes)),
        }
    }

    /// The size of the next request. One size asks chance for nothing.
    pub fn pick(&self, chance: &mut Random) -> u64 {
        match self {
            Sizes::Range { min_bytes, max_bytes } if max_bytes / min_bytes == 1 => *min_bytes,
            Sizes::Range { min_bytes, max_bytes } => min_bytes * (1 + chance.below(max_bytes / min_bytes)),
            Sizes::Split(shares) => {
                let mut point = chance.below(100);
                for share in shares {
                    match point.checked_sub(u64::from(share.percent)) {
                        Some(left) => point = left,
                        None => return share.bytes,
                    }
                }
                unreachable!("the shares add up to 100")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(sizes: &Sizes, bytes: &[u64]) -> Vec<usize> {
        let mut chance = Random::new(3);
        let picked: Vec<u64> = (0..10_000).map(|_| sizes.pick(&mut chance)).collect();
        assert!(picked.iter().all(|size| bytes.contains(size)), "only those");
        bytes.iter().map(|size| picked.iter().filter(|other| *other == size).count()).collect()
    }

    #[test]
    fn a_range_takes_each_multiple_as_often() {
        let sizes = Sizes::Range { min_bytes: 4096, max_bytes: 18_000 };
        for count in counts(&sizes, &[4096, 8192, 12_288, 16_384]) {
            assert!(count.abs_diff(2500) < 250, "{count} of 10000");
        }
    }

    #[test]
    fn a_split_takes_each_size_as_often_as_it_says() {
        let shares = [(4096, 70), (65_536, 0), (8192, 30)].map(|(bytes, percent)| Share { bytes, percent });
        let counts = counts(&Sizes::Split(shares.into()), &[4096, 65_536, 8192]);
        assert!(counts[0].abs_diff(7000) < 300 && counts[1] == 0, "{counts:?}");
    }
}
