//! `volume replace-brick` and `volume reset-brick`: says what will happen, asks, does it, and heals the new brick.
//!
//! The file is written before anything is healed: from then on every other command goes on with what is left.

use std::path::Path;

use brick_client::{Replacement, ReplacementState, Role, Volume};
use serde::Serialize;

use super::heal::{OutcomeJson, print_outcome, show_progress};
use crate::args::ReplaceArguments;
use crate::error::Error;
use crate::output::{block_bar, confirmed, print_json};

#[derive(Serialize)]
struct ReplaceJson {
    brick: String,
    uuid: String,
    images: Vec<OutcomeJson>,
    /// Open by clients that know the old address only.
    in_use: Vec<String>,
}

pub async fn run(
    volume: &Volume,
    file: &Path,
    (old, new): (&str, &str),
    how: &ReplaceArguments,
) -> Result<(), Error> {
    let plan = volume.plan_replacement(old, new).await?;
    eprintln!("{}", announcement(&plan));
    // What has begun is to be finished.
    if plan.state == ReplacementState::Planned && !how.yes && !confirmed("old brick's address", old) {
        return Err(Error::NotConfirmed);
    }
    let volume = volume.replace(&plan, file).await?;
    let (images, in_use) = if how.no_heal {
        volume.teach_replaced().await?;
        Default::default()
    } else {
        let bar = block_bar("healing".to_owned());
        let healed = volume.heal_replaced(&plan, |progress| show_progress(&bar, progress)).await;
        bar.finish_and_clear();
        healed?
    };
    let images: Vec<OutcomeJson> = images.into_iter().map(OutcomeJson::from).collect();
    if how.json {
        print_json(&ReplaceJson { brick: plan.new, uuid: plan.brick.to_string(), images, in_use });
        return Ok(());
    }
    println!("{new} is brick {} of group {} now{}", plan.brick, plan.group, file_news(&plan, file));
    images.iter().for_each(print_outcome);
    for name in in_use {
        println!("{name}: a client has it open that knows {old} only; it is healed when it is opened again");
    }
    Ok(())
}

fn announcement(plan: &Replacement) -> String {
    let Replacement { old, new, group, brick, .. } = plan;
    match plan.state {
        ReplacementState::Listed => {
            return format!(
                "The volume file names {new} and not {old}: what is left to be done is done now."
            );
        }
        ReplacementState::Adopted => {
            return format!("{new} has taken the place of brick {brick} already: the rest is done now.");
        }
        ReplacementState::Planned => {}
    }
    let mut text = if old == new {
        format!(
            "The empty brick at {new} takes the place of brick {brick} of group {group}, which was there before."
        )
    } else {
        format!(
            "The empty brick at {new} takes the place of the one at {old}: brick {brick} of group {group}."
        )
    };
    text += " The lost disk never counts again, whatever is on it.";
    if plan.role == Role::Data {
        text += " Everything that is allocated is copied to the new one.";
    }
    text
}

fn file_news(plan: &Replacement, file: &Path) -> String {
    if plan.old == plan.new {
        return String::new();
    }
    format!("; give every client the new {}", file.display())
}
