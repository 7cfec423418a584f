//! Bytes that say where they belong and which write they are of, and offsets that look random.

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4096;

/// `blocks` blocks for writing at `offset_bytes`: no two blocks alike, nor two versions of one.
pub fn blocks(offset_bytes: u64, blocks: usize, version: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(blocks * BLOCK_BYTES);
    let first = offset_bytes / BLOCK_BYTES as u64;
    for block in first..first + blocks as u64 {
        let mut state = Sequence::new(block << 20 ^ version);
        for _ in 0..BLOCK_BYTES / 8 {
            bytes.extend(state.draw().to_le_bytes());
        }
    }
    bytes
}

/// Numbers that look random and are the same in every run (splitmix64).
#[derive(Clone, Debug)]
pub struct Sequence(u64);

impl Sequence {
    /// Starts at a seed.
    pub fn new(seed: u64) -> Sequence {
        Sequence(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// `count` different numbers below `limit`.
    pub fn distinct(&mut self, count: usize, limit: u64) -> Vec<u64> {
        assert!(count as u64 <= limit, "there are that many");
        let mut seen = std::collections::BTreeSet::new();
        let mut numbers = Vec::new();
        while numbers.len() < count {
            let number = self.draw() % limit;
            if seen.insert(number) {
                numbers.push(number);
            }
        }
        numbers
    }
}
