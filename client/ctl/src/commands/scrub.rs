//! `scrub`: what rotted, and whether it was repaired; and when an image was scrubbed.

use std::time::{Duration, SystemTime};

use brick_client::{ImageName, ScrubOptions, ScrubOutcome, ScrubState, Volume};
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
        print_json(&OutcomeJson::new(name.as_str(), outcome));
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

/// When it was scrubbed last, and how far the pass is that runs or was interrupted.
pub async fn status(volume: &Volume, name: &ImageName, json: bool) -> Result<(), Error> {
    let state = volume.scrub_state(name).await?;
    if json {
        print_json(&StateJson::new(name.as_str(), state));
        return Ok(());
    }
    let last = match state.finished {
        Some(at) => {
            let age = SystemTime::now().duration_since(at).unwrap_or(Duration::ZERO);
            format!("scrubbed {} ago", indicatif::HumanDuration(age))
        }
        None => "never scrubbed whole".to_owned(),
    };
    let ScrubOutcome { bad_blocks, repaired_blocks, .. } = state.outcome;
    match state.under_way {
        Some((done, shards)) => println!(
            "{name}: {last}; {done} of {shards} shards of the next pass are done: {bad_blocks} blocks bad, \
             {repaired_blocks} repaired"
        ),
        None => println!("{name}: {last}: {bad_blocks} blocks bad, {repaired_blocks} repaired"),
    }
    Ok(())
}

#[derive(Serialize)]
struct StateJson {
    image: String,
    finished_seconds: Option<u64>,
    done_shards: Option<u32>,
    shards: Option<u32>,
    checked_blocks: u64,
    bad_blocks: u64,
    repaired_blocks: u64,
    unrepairable_blocks: u64,
}

impl StateJson {
    fn new(name: &str, state: ScrubState) -> StateJson {
        let since = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        StateJson {
            image: name.to_owned(),
            finished_seconds: state.finished.map(|at| since(at).as_secs()),
            done_shards: state.under_way.map(|(done, _)| done),
            shards: state.under_way.map(|(_, shards)| shards),
            checked_blocks: state.outcome.checked_blocks,
            bad_blocks: state.outcome.bad_blocks,
            repaired_blocks: state.outcome.repaired_blocks,
            unrepairable_blocks: state.outcome.unrepairable_blocks,
        }
    }
}

#[derive(Serialize)]
pub(super) struct OutcomeJson {
    image: String,
    checked_blocks: u64,
    bad_blocks: u64,
    repaired_blocks: u64,
    unrepairable_blocks: u64,
}

impl OutcomeJson {
    pub(super) fn new(name: &str, outcome: ScrubOutcome) -> OutcomeJson {
        OutcomeJson {
            image: name.to_owned(),
            checked_blocks: outcome.checked_blocks,
            bad_blocks: outcome.bad_blocks,
            repaired_blocks: outcome.repaired_blocks,
            unrepairable_blocks: outcome.unrepairable_blocks,
        }
    }
}
