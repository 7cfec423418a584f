//! `scrub`: what rotted, and whether it was repaired.

use brick_client::{ImageName, ScrubOptions, ScrubOutcome, Volume};
use serde::Serialize;

use crate::error::Error;
use crate::output::{block_bar, print_json};

pub async fn run(volume: &Volume, name: &ImageName, rate: u64, json: bool) -> Result<(), Error> {
    let bar = block_bar(format!("scrubbing {name}"));
    let options = ScrubOptions { bytes_per_second: rate };
    let outcome = volume
        .scrub(name, options, |progress| {
            bar.set_length(progress.shards);
            bar.set_position(progress.done_shards);
        })
        .await;
    bar.finish_and_clear();
    let outcome = outcome?;
    if json {
        print_json(&OutcomeJson::new(name, outcome));
    } else {
        println!(
            "{name}: {} blocks checked, {} bad, {} repaired",
            outcome.checked_blocks, outcome.bad_blocks, outcome.repaired_blocks
        );
    }
    match outcome.unrepairable_blocks {
        0 => Ok(()),
        blocks => Err(Error::Unrepairable { name: name.to_string(), blocks }),
    }
}

#[derive(Serialize)]
struct OutcomeJson {
    image: String,
    checked_blocks: u64,
    bad_blocks: u64,
    repaired_blocks: u64,
    unrepairable_blocks: u64,
}

impl OutcomeJson {
    fn new(name: &ImageName, outcome: ScrubOutcome) -> OutcomeJson {
        OutcomeJson {
            image: name.to_string(),
            checked_blocks: outcome.checked_blocks,
            bad_blocks: outcome.bad_blocks,
            repaired_blocks: outcome.repaired_blocks,
            unrepairable_blocks: outcome.unrepairable_blocks,
        }
    }
}
