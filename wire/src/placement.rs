//! Where a shard lives: its lane inside a brick, and its replica group inside a volume.
//!
//! Both are part of the format: a change here would make every existing brick unreadable, so the
//! fixtures below pin them.

use xxhash_rust::xxh3::xxh3_64;

use crate::ids::{CoreIndex, GroupIndex, ImageUuid, LaneIndex, ShardIndex};
use crate::limits::GROUPS_MAX;

/// The lane of a shard in a brick with `lanes` lanes.
pub fn lane_of(image: ImageUuid, shard: ShardIndex, lanes: u16) -> LaneIndex {
    assert!(lanes > 0);
    LaneIndex((xxh3_64(&shard_key(image, shard)) % u64::from(lanes)) as u16)
}

/// The core that owns a lane in a brick that runs `cores` cores.
pub fn core_of(lane: LaneIndex, cores: u16) -> CoreIndex {
    assert!(cores > 0);
    CoreIndex(lane.0 % cores)
}

/// The replica group of a shard, by weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted
/// distributed hash tables", 2005): every group draws a score and the highest wins, so that a group added
/// or removed moves only its own share of the shards. Group `i` has `weights[i]` > 0.
///
/// The score is `-weight / ln(u)` with `u` uniform in (0, 1), a float: IEEE 754 does not fix the last bit
/// of `ln`, so it is computed here, from additions, multiplications and divisions only.
pub fn group_of(image: ImageUuid, shard: ShardIndex, weights: &[u32]) -> GroupIndex {
    assert!((1..=GROUPS_MAX).contains(&weights.len()));
    let mut best = (f64::NEG_INFINITY, 0);
    for (index, &weight) in weights.iter().enumerate() {
        assert!(weight > 0, "a group's weight is at least 1");
        let mut key = [0; 24];
        key[..20].copy_from_slice(&shard_key(image, shard));
        key[20..].copy_from_slice(&(index as u32).to_le_bytes());
        // 52 bits, moved off zero by half a step: u is exact, and never 0 or 1. (53 bits and a half don't fit
        // in a float: the highest would be rounded up to 1, whose score is no number to compare.)
        let uniform = ((xxh3_64(&key) >> 12) as f64 + 0.5) / (1u64 << 52) as f64;
        let score = -f64::from(weight) / natural_log(uniform);
        if score > best.0 {
            best = (score, index);
        }
    }
    GroupIndex(best.1 as u16)
}

fn shard_key(image: ImageUuid, shard: ShardIndex) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&image.to_bytes());
    key[16..].copy_from_slice(&shard.0.to_le_bytes());
    key
}

/// ln(x) for a normal x in (0, 1), the same to the bit on every machine: split into mantissa and
/// exponent, then the series 2·artanh((m-1)/(m+1)) with m in [0.7, 1.4): around 1, so that the logarithm of
/// an x just below 1 is that series alone and not the difference of two numbers near ln 2.
fn natural_log(x: f64) -> f64 {
    const LN_2: f64 = std::f64::consts::LN_2;
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if mantissa > std::f64::consts::SQRT_2 {
        exponent += 1;
        mantissa *= 0.5;
    }
    let ratio = (mantissa - 1.0) / (mantissa + 1.0);
    let square = ratio * ratio;
    let mut power = ratio;
    let mut sum = 0.0;
    // |ratio| < 0.172, so 20 terms leave an error below 1e-31.
    for term in 0..20 {
        sum += power / f64::from(2 * term + 1);
        power *= square;
    }
    exponent as f64 * LN_2 + 2.0 * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(byte: u8) -> ImageUuid {
        ImageUuid::from_bytes([byte; 16])
    }

    #[test]
    fn placement_is_pinned() {
        let lanes: Vec<u16> = (0..8).map(|shard| lane_of(image(7), ShardIndex(shard), 16).0).collect();
        let groups: Vec<u16> =
            (0..8).map(|shard| group_of(image(7), ShardIndex(shard), &[1, 1, 2]).0).collect();
        assert_eq!((lanes, groups), (PINNED_LANES.to_vec(), PINNED_GROUPS.to_vec()));
    }

    const PINNED_LANES: [u16; 8] = [15, 3, 2, 14, 12, 1, 0, 14];
    const PINNED_GROUPS: [u16; 8] = [2, 0, 2, 0, 0, 1, 0, 2];

    #[test]
    fn log_agrees_with_the_library() {
        let highest = 1.0 - f64::EPSILON / 2.0;
        for x in [1e-16, 1e-9, 0.1, 0.25, 0.5, 0.7, 0.71, 0.75, 0.999_999_999, 1.0 - f64::EPSILON, highest] {
            let error = (natural_log(x) - f64::ln(x)) / f64::ln(x);
            assert!(error.abs() < 1e-14, "{x}: relative error {error}");
            assert!(natural_log(x) < 0.0, "{x}");
        }
    }

    #[test]
    fn lanes_and_cores_are_in_range_and_all_used() {
        for (lanes, cores) in [(1, 1), (16, 5), (256, 256), (7, 3)] {
            let mut used = vec![false; usize::from(lanes)];
            for shard in (0..8_000).map(ShardIndex) {
                let lane = lane_of(image(5), shard, lanes);
                used[usize::from(lane.0)] = true;
                assert_eq!(core_of(lane, cores).0, lane.0 % cores);
            }
            assert!(used.iter().all(|used| *used), "{lanes} lanes");
        }
    }

    #[test]
    fn a_removed_last_group_only_gives() {
        for shard in (0..2_000).map(ShardIndex) {
            let before = group_of(image(9), shard, &[3, 1, 2]);
            let after = group_of(image(9), shard, &[3, 1]);
            assert!(after == before || before == GroupIndex(2));
        }
    }

    #[test]
    fn weights_are_shares() {
        let mut counts = [0u32; 3];
        for shard in 0..40_000 {
            counts[group_of(image(3), ShardIndex(shard), &[1, 1, 2]).0 as usize] += 1;
        }
        assert!(counts[0].abs_diff(10_000) < 500 && counts[2].abs_diff(20_000) < 500, "{counts:?}");
    }

    #[test]
    fn an_added_group_only_takes() {
        for shard in (0..2_000).map(ShardIndex) {
            let before = group_of(image(9), shard, &[1, 1]);
            let after = group_of(image(9), shard, &[1, 1, 1]);
            assert!(after == before || after == GroupIndex(2));
        }
    }
}
