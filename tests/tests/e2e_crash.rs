//! Bricks, NBD servers and all of them killed at random under loads that know what every block may hold. A
//! short campaign; `scripts/crash` runs long ones, on other file systems too.

use std::time::Duration;

use brick_tests::cluster::tools::have;
use brick_tests::crash::campaign::{Campaign, Setup};
use brick_tests::crash::schedule::{Absence, Event, Lag, Overlap, Reopen};

/// Steps drawn from a seed of their own, after one of each kind.
const STEPS: u32 = 6;

/// The seed: as given, or another one each time.
fn seed() -> u64 {
    let given = std::env::var("BRICK_CRASH_SEED").ok();
    given.map_or_else(|| u64::from(std::process::id()), |text| text.parse().expect("a number"))
}

fn start() -> Campaign {
    let seed = seed();
    println!("to replay the schedule: BRICK_CRASH_SEED={seed}");
    Campaign::start(Setup { seed, images: 2, fio: have(&["fio"]), can_cut_off: false, disks: Vec::new() })
}

#[track_caller]
fn finish(campaign: Campaign) {
    let tally = campaign.finish();
    println!("{tally}");
    // Stalls depend on what else this machine does; long runs judge them.
    assert_eq!(tally.findings.texts, Vec::<String>::new());
}

/// crash: one of each kind.
/// A brick, two, all bricks, a server (taken over, and after its lease), everything, a server that goes on
/// after it was taken over: I/O goes on, nothing is lost or goes back, and the copies agree.
#[test]
fn nothing_is_lost_by_one_of_each() {
    let (gap, away) = (Duration::from_millis(150), Duration::from_millis(400));
    let lag = |brick| Lag { brick, time: Duration::from_millis(100) };
    let mut campaign = start();
    for event in [
        Event::KillBrick(Absence { brick: 0, away }),
        Event::KillBrick(Absence { brick: 2, away }),
        Event::KillServer(0, Reopen::Lease, lag(1)),
        Event::KillSecond(Overlap { first: 1, second: 0, gap, away }),
        Event::KillBricks(away),
        Event::KillEverything(Reopen::Takeover, lag(0)),
        Event::KillDuringHeal(Overlap { first: 0, second: 1, gap, away }),
        Event::Usurp(1),
    ] {
        campaign.cause(event);
    }
    finish(campaign);
}

/// crash: as a seed says.
#[test]
fn nothing_is_lost_at_random() {
    let mut campaign = start();
    (0..STEPS).for_each(|_| campaign.step());
    finish(campaign);
}
