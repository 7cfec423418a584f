//! The only source of chance: xoshiro256++ (Blackman and Vigna, 2018), seeded by SplitMix64.
//!
//! Written out here because a printed seed has to mean the same run after every update of a dependency.

use std::ops::RangeInclusive;
use std::time::Duration;

/// A seeded generator.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// The generator of `seed`.
    pub fn new(seed: u64) -> Random {
        let mut mixer = seed;
        let state = [0; 4].map(|_: u64| {
            mixer = mixer.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = mixer;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ (word >> 31)
        });
        Random { state }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A number below `end`, which isn't zero. (The bias of the multiplication is below 2^-32 for our ends.)
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0);
        ((u128::from(self.bits()) * u128::from(end)) >> 64) as u64
    }

    /// A number in `range`.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    /// An index into something of `length` elements.
    pub fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// True with `probability`.
    pub fn chance(&mut self, probability: f64) -> bool {
        // Drawn even if the answer is certain: a switched-off fault doesn't shift the draws after it.
        ((self.bits() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    /// A time around `mean`: mostly shorter, sometimes several times longer, never zero.
    pub fn around(&mut self, mean: Duration) -> Duration {
        let mean = mean.as_nanos() as u64;
        let nanos = match self.below(16) {
            0 => self.within(mean..=mean * 6),
            1..4 => self.within(mean / 2..=mean * 2),
            _ => self.within(mean / 8..=mean),
        };
        Duration::from_nanos(nanos.max(1))
    }
}
