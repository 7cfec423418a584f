//! What is done to a cluster, step by step: drawn from a seed, and nothing else.

use std::time::Duration;

use crate::cluster::pattern::Sequence;

/// How a dead client's image is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reopen {
    /// At once.
    Takeover,
    /// When the dead client's lease is over.
    Lease,
}

/// Something that happens to processes. Bricks and images are named by their index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A brick is killed, and restarted after a while.
    KillBrick(Absence),
    /// A second brick is killed while the first is away.
    KillSecond(Overlap),
    /// A second brick is killed as soon as the first is back, while that is healed.
    KillDuringHeal(Overlap),
    /// All bricks are killed at once, and restarted after a while; their clients live.
    KillBricks(Duration),
    /// The NBD server of an image is killed.
    KillServer(usize, Reopen, Lag),
    /// All bricks and NBD servers are killed at once.
    KillEverything(Reopen, Lag),
    /// A brick is stopped until I/O went on without it.
    PauseBrick(usize),
    /// A brick's packets are dropped, in both directions, until I/O went on without it.
    CutOff(usize),
    /// The NBD server of an image is stopped, the image taken over by another, and then the first goes on with
    /// what it had begun.
    Usurp(usize),
}

/// A brick that is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Absence {
    /// Which.
    pub brick: usize,
    /// For how long.
    pub away: Duration,
}

/// A brick that is stopped for a moment before something else dies. What is in flight then is on the other copy
/// and not on this one; else both have it within a fraction of a millisecond, and no kill comes between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Which.
    pub brick: usize,
    /// For how long.
    pub time: Duration,
}

/// Two bricks that are killed one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// Killed first.
    pub first: usize,
    /// Killed then, another one.
    pub second: usize,
    /// Between one thing and the next.
    pub gap: Duration,
    /// How long one is away.
    pub away: Duration,
}

/// An event, and whether everything heals before the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What happens.
    pub event: Event,
    /// Whether to wait afterwards until every image is healthy.
    pub heals: bool,
}

/// What there is to be hurt.
#[derive(Clone, Copy, Debug)]
pub struct Targets {
    /// How many bricks.
    pub bricks: usize,
    /// How many images whose NBD server may be killed.
    pub images: usize,
    /// Whether packets can be dropped.
    pub can_cut_off: bool,
}

/// Longest time for which a brick stays away; two of them and a recovery fit into any I/O timeout in use.
const AWAY_MS_MAX: u64 = 1500;

/// The next step.
pub fn draw(draws: &mut Sequence, targets: Targets) -> Step {
    let heals = draws.draw() % 10 < 7;
    Step { event: draw_event(draws, targets), heals }
}

fn draw_event(draws: &mut Sequence, targets: Targets) -> Event {
    let image = draws.draw() as usize % targets.images;
    let first = draws.draw() as usize % targets.bricks;
    let second = (first + 1 + draws.draw() as usize % (targets.bricks - 1)) % targets.bricks;
    let (gap, away) = (draw_duration(draws), draw_duration(draws));
    let overlap = Overlap { first, second, gap, away };
    let lag = Lag { brick: first, time: gap / 4 };
    let reopen = if draws.draw().is_multiple_of(3) { Reopen::Lease } else { Reopen::Takeover };
    match draws.draw() % 100 {
        0..30 => Event::KillBrick(Absence { brick: first, away }),
        30..42 => Event::KillSecond(overlap),
        42..54 => Event::KillDuringHeal(overlap),
        54..62 => Event::KillBricks(away),
        62..78 => Event::KillServer(image, reopen, lag),
        78..90 => Event::KillEverything(reopen, lag),
        90..94 => Event::PauseBrick(first),
        94..97 if targets.can_cut_off => Event::CutOff(first),
        _ => Event::Usurp(image),
    }
}

/// Short ones are as likely as long ones: the interesting moments are in the first milliseconds.
fn draw_duration(draws: &mut Sequence) -> Duration {
    let limit_ms = 1 + draws.draw() % AWAY_MS_MAX;
    Duration::from_millis(draws.draw() % limit_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_it_all_and_everything_comes() {
        let targets = Targets { bricks: 3, images: 2, can_cut_off: true };
        let draw_all = |seed| {
            let mut draws = Sequence::new(seed);
            (0..500).map(|_| draw(&mut draws, targets)).collect::<Vec<Step>>()
        };
        assert_eq!(draw_all(7), draw_all(7));
        assert_ne!(draw_all(7), draw_all(8));
        let kinds: std::collections::HashSet<_> =
            draw_all(7).iter().map(|step| std::mem::discriminant(&step.event)).collect();
        assert_eq!(kinds.len(), 9);
        for step in draw_all(7) {
            if let Event::KillSecond(overlap) = step.event {
                assert_ne!(overlap.first, overlap.second);
            }
        }
    }
}
