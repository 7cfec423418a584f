//! `heal agent`: heals what nobody has open, until a signal. Its log goes to stderr, one line a heal; with `--json`
//! each finished heal and scrub is a line on stdout as well.

use brick_client::{AgentEvent, AgentOptions, HealOutcome, ScrubOutcome, Volume};

use super::heal::OutcomeJson;
use super::scrub;
use crate::error::Error;
use crate::output::{bytes, print_json};
use crate::signals;

pub async fn run(volume: &Volume, options: AgentOptions, json: bool) -> Result<(), Error> {
    let AgentOptions { interval, once, .. } = options;
    tracing::info!(volume = %volume.config().volume, interval_ms = interval.as_millis() as u64, "the heal agent runs");
    let failures = volume.heal_agent(options, signals::stop_requested(), |event| tell(event, json)).await;
    tracing::info!("the heal agent ends; it holds no image");
    if once && failures > 0 {
        return Err(Error::HealsFailed(failures));
    }
    Ok(())
}

fn tell(event: AgentEvent, json: bool) {
    match event {
        AgentEvent::Started { name } => tracing::info!(image = name, "heals"),
        AgentEvent::Healed(outcome) => tell_healed(outcome, json),
        AgentEvent::Yielded { name } => {
            tracing::info!(image = name, "yields: a client opened the image, and heals by itself");
        }
        AgentEvent::Interrupted { name } => tracing::info!(image = name, "gives the image back unfinished"),
        AgentEvent::Scrubbed { name, outcome } => tell_scrubbed(&name, outcome, json),
        AgentEvent::Removed { name } => tracing::info!(image = name, "finished the image's removal"),
        AgentEvent::Failed { error, retry } => {
            tracing::warn!("{error} (next attempt in {} s)", retry.as_secs());
        }
    }
}

fn tell_healed(outcome: HealOutcome, json: bool) {
    tracing::info!(
        image = outcome.name,
        healed = %bytes(outcome.healed_bytes()),
        compared_blocks = outcome.compared_blocks,
        network = %bytes(outcome.wire_bytes),
        seconds = format_args!("{:.1}", outcome.seconds),
        "healed"
    );
    if json {
        print_json(&OutcomeJson::from(outcome));
    }
}

fn tell_scrubbed(name: &str, outcome: ScrubOutcome, json: bool) {
    let ScrubOutcome { checked_blocks, bad_blocks, repaired_blocks, unrepairable_blocks } = outcome;
    if unrepairable_blocks > 0 {
        tracing::warn!(image = name, unrepairable_blocks, "scrubbed: no good copy of some blocks answers");
    }
    tracing::info!(image = name, checked_blocks, bad_blocks, repaired_blocks, "scrubbed");
    if json {
        print_json(&scrub::OutcomeJson::new(name, outcome));
    }
}
