//! `heal status`, `heal run` and `heal history`; the others of `heal` have files of their own.

use brick_client::{
    AgentOptions, BrickState, HealMemory, HealProgress, HealthState, ImageHealth, ScrubOptions,
    ScrubSchedule, Volume,
};
use indicatif::ProgressBar;
use serde::Serialize;

use crate::args::HealCommand;
use crate::error::Error;
use crate::output::{block_bar, bytes, print_json, table};

pub async fn run(volume: &Volume, command: HealCommand) -> Result<(), Error> {
    match command {
        HealCommand::Status { name, json } => {
            let images = volume.heal_status(name.as_ref()).await?;
            if json {
                print_json(&StatusJson { images: images.iter().map(ImageJson::from).collect() });
            } else {
                images.iter().for_each(print_health);
            }
            Ok(())
        }
        HealCommand::Run { name, json } => {
            let bar = block_bar("healing".to_owned());
            let outcomes = volume.heal_run(name.as_ref(), |progress| show_progress(&bar, progress)).await;
            bar.finish_and_clear();
            let outcomes: Vec<OutcomeJson> = outcomes?.into_iter().map(OutcomeJson::from).collect();
            if json {
                print_json(&RunJson { images: outcomes });
            } else {
                outcomes.iter().for_each(print_outcome);
            }
            Ok(())
        }
        HealCommand::Watch { name, interval, json } => {
            super::watch::run(volume, name.as_ref(), interval, json).await
        }
        HealCommand::History { name, json } => {
            let heals = volume.heal_history(name.as_ref()).await?;
            if json {
                print_json(&HistoryJson { heals: heals.iter().map(MemoryJson::from).collect() });
            } else {
                print_history(&heals);
            }
            Ok(())
        }
        HealCommand::Agent { interval, once, scrub_days, scrub_rate, json } => {
            let options = ScrubOptions { bytes_per_second: scrub_rate };
            let scrub = (!scrub_days.is_zero()).then_some(ScrubSchedule { period: scrub_days, options });
            super::agent::run(volume, AgentOptions { interval, once, scrub }, json).await
        }
    }
}

pub(super) fn show_progress(bar: &ProgressBar, progress: &HealProgress) {
    bar.set_message(format!("healing {}", progress.name));
    bar.set_length(progress.healed_blocks + progress.left_blocks);
    bar.set_position(progress.healed_blocks);
}

pub(super) fn print_outcome(outcome: &OutcomeJson) {
    println!(
        "{}: healed {} blocks ({}), {} over the network, in {:.1} s",
        outcome.image,
        outcome.healed_blocks,
        bytes(outcome.healed_bytes),
        bytes(outcome.wire_bytes),
        outcome.seconds
    );
}

#[derive(Serialize)]
struct StatusJson {
    images: Vec<ImageJson>,
}

#[derive(Serialize)]
pub(super) struct ImageJson {
    image: String,
    state: &'static str,
    epoch: u64,
    bricks: Vec<BrickJson>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

#[derive(Serialize)]
struct BrickJson {
    brick: String,
    role: String,
    state: &'static str,
    dirty_blocks: u64,
    dirty_bytes: u64,
}

#[derive(Serialize)]
struct RunJson {
    images: Vec<OutcomeJson>,
}

#[derive(Serialize)]
pub(super) struct OutcomeJson {
    image: String,
    healed_blocks: u64,
    healed_bytes: u64,
    compared_blocks: u64,
    wire_bytes: u64,
    seconds: f64,
}

impl From<brick_client::HealOutcome> for OutcomeJson {
    fn from(outcome: brick_client::HealOutcome) -> OutcomeJson {
        OutcomeJson {
            healed_bytes: outcome.healed_bytes(),
            image: outcome.name,
            healed_blocks: outcome.healed_blocks,
            compared_blocks: outcome.compared_blocks,
            wire_bytes: outcome.wire_bytes,
            seconds: outcome.seconds,
        }
    }
}

#[derive(Serialize)]
struct HistoryJson {
    heals: Vec<MemoryJson>,
}

#[derive(Serialize)]
struct MemoryJson {
    image: String,
    brick: String,
    age_ms: u64,
    seconds: f64,
    healed_blocks: u64,
    healed_bytes: u64,
    compared_blocks: u64,
    wire_bytes: u64,
}

impl From<&HealMemory> for MemoryJson {
    fn from(memory: &HealMemory) -> MemoryJson {
        MemoryJson {
            image: memory.image.clone(),
            brick: memory.brick.clone(),
            age_ms: memory.age.as_millis() as u64,
            seconds: memory.duration.as_secs_f64(),
            healed_blocks: memory.healed_blocks,
            healed_bytes: memory.healed_bytes(),
            compared_blocks: memory.compared_blocks,
            wire_bytes: memory.wire_bytes,
        }
    }
}

fn print_history(heals: &[HealMemory]) {
    let rows = heals.iter().map(|memory| {
        vec![
            memory.image.clone(),
            memory.brick.clone(),
            format!("{} ago", indicatif::HumanDuration(memory.age)),
            format!("{:.1} s", memory.duration.as_secs_f64()),
            format!("{} blocks ({})", memory.healed_blocks, bytes(memory.healed_bytes())),
            memory.compared_blocks.to_string(),
            bytes(memory.wire_bytes),
        ]
    });
    print!("{}", table(&["IMAGE", "BRICK", "ENDED", "TOOK", "HEALED", "COMPARED", "NETWORK"], rows));
}

impl From<&ImageHealth> for ImageJson {
    fn from(health: &ImageHealth) -> ImageJson {
        let brick = |brick: &brick_client::BrickHealth| BrickJson {
            brick: brick.address.clone(),
            role: brick.role.to_string(),
            state: brick_state(brick.state),
            dirty_blocks: brick.dirty_blocks,
            dirty_bytes: brick.dirty_bytes(),
        };
        ImageJson {
            image: health.name.clone(),
            state: image_state(health.state),
            epoch: health.epoch.counter,
            bricks: health.bricks.iter().map(brick).collect(),
            reason: health.reason.clone(),
        }
    }
}

fn print_health(health: &ImageHealth) {
    let reason = if health.reason.is_empty() { String::new() } else { format!(": {}", health.reason) };
    println!("{} {} at epoch {}{reason}", health.name, image_state(health.state), health.epoch.counter);
    let rows = health.bricks.iter().map(|brick| {
        let dirty = match brick.dirty_blocks {
            0 => String::new(),
            blocks => format!("{blocks} blocks ({}) to heal", bytes(brick.dirty_bytes())),
        };
        vec![brick.address.clone(), brick.role.to_string(), brick_state(brick.state).to_owned(), dirty]
    });
    print!("{}", table(&["BRICK", "ROLE", "STATE", ""], rows));
}

pub(super) fn image_state(state: HealthState) -> &'static str {
    match state {
        HealthState::Healthy => "healthy",
        HealthState::Degraded => "degraded",
        HealthState::Healing => "healing",
        HealthState::NoQuorum => "no_quorum",
        HealthState::NoGoodCopy => "no_good_copy",
    }
}

pub(super) fn brick_state(state: BrickState) -> &'static str {
    match state {
        BrickState::InSync => "in_sync",
        BrickState::Stale => "stale",
        BrickState::Offline => "offline",
    }
}
