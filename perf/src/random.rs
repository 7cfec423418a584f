//! Chance that repeats: a seeded generator, and random orders without memory.
//!
//! A random job visits every block once before it visits one twice, as fio's does. fio keeps a bit per
//! block for that; a [`Permutation`] keeps nothing: it is a small cipher over block numbers, and a cipher
//! is a bijection whatever its round function is. Uniform picks would be simpler, but would leave a third
//! of the blocks unwritten where fio writes all.

/// SplitMix64: a counter and a finalizer, good enough to choose blocks.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// True `percent` times in a hundred.
    pub fn percent(&mut self, percent: u8) -> bool {
        self.below(100) < u64::from(percent)
    }

    /// A number below a count.
    pub fn below(&mut self, count: u64) -> u64 {
        // The high half of a product spreads 64 bits over the count without a modulo's bias.
        ((u128::from(self.next_u64()) * u128::from(count)) >> 64) as u64
    }

    /// Fills memory with bytes that no device compresses.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
    }
}

/// A random order of the numbers below a count: a Feistel network, walked until it lands below the count.
#[derive(Clone, Debug)]
pub struct Permutation {
    count: u64,
    /// Half the bits of the network's domain: at most four times the count, so that a walk is short.
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The order of `count` numbers (at least one) that the seed chooses.
    pub fn new(count: u64, seed: u64) -> Permutation {
        assert!(count > 0, "an order of nothing");
        let bits = u64::BITS - (count - 1).leading_zeros();
        let mut random = Random::new(seed);
        Permutation {
            count,
            half_bits: bits.div_ceil(2).max(1),
            keys: [(); ROUNDS].map(|()| random.next_u64()),
        }
    }

    /// The number at a place of the order. `index` is below the count, and so is the number.
    pub fn at(&self, index: u64) -> u64 {
        assert!(index < self.count, "place {index} of {}", self.count);
        let mut number = index;
        loop {
            number = self.encipher(number);
            // A cycle that starts below the count comes back below it.
            if number < self.count {
                return number;
            }
        }
    }

    fn encipher(&self, number: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (number >> self.half_bits, number & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        (left << self.half_bits) | right
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Rounds of the network: with four, neighbours in the order aren't neighbours on the disk.
const ROUNDS: usize = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_order_visits_each_number_once(count in 1u64..5000, seed: u64) {
            let order = Permutation::new(count, seed);
            let mut numbers: Vec<u64> = (0..count).map(|index| order.at(index)).collect();
            numbers.sort_unstable();
            prop_assert!(numbers.into_iter().eq(0..count));
        }

        #[test]
        fn large_orders_stay_below_their_count(count in 1u64..=u64::MAX, index: u64, seed: u64) {
            prop_assert!(Permutation::new(count, seed).at(index % count) < count);
        }
    }

    #[test]
    fn an_order_looks_random() {
        let order = Permutation::new(1 << 18, 7);
        let steps = (1..10_000u64).map(|index| order.at(index).abs_diff(order.at(index - 1)));
        let mean = steps.sum::<u64>() / 9_999;
        // Two uniform numbers are a third of the range apart on average.
        assert!(mean.abs_diff((1 << 18) / 3) < 5_000, "{mean}");
        let other = Permutation::new(1 << 18, 8);
        assert!((0..1000).filter(|index| order.at(*index) == other.at(*index)).count() < 10);
    }

    #[test]
    fn fill_leaves_no_byte_out() {
        let mut bytes = [0; 61];
        Random::new(1).fill(&mut bytes);
        assert!(bytes.iter().filter(|byte| **byte == 0).count() < 5);
    }
}
