//! `volume create` and `volume status`.

use std::path::Path;

use brick_client::{Volume, VolumeUsage};
use serde::Serialize;

use crate::args::GroupArgument;
use crate::error::Error;
use crate::output::{bytes, print_json, table};

pub async fn create(
    file: &Path,
    groups: Vec<GroupArgument>,
    unreplicated: bool,
    client_name: &str,
) -> Result<(), Error> {
    let groups: Vec<_> = groups.into_iter().map(|group| group.0).collect();
    let config = Volume::create(file, &groups, unreplicated, client_name).await?;
    let bricks: usize = config.groups.iter().map(|group| group.bricks.len()).sum();
    println!(
        "created volume {}: {} group(s), {bricks} bricks{}; its file is {}",
        config.volume,
        config.groups.len(),
        if config.unreplicated { ", one copy of everything" } else { "" },
        file.display()
    );
    Ok(())
}

#[derive(Serialize)]
struct StatusJson {
    volume: String,
    unreplicated: bool,
    groups: Vec<GroupJson>,
}

#[derive(Serialize)]
struct GroupJson {
    bricks: Vec<BrickJson>,
}

#[derive(Serialize)]
struct BrickJson {
    brick: String,
    role: String,
    state: &'static str,
    uuid: String,
    free_bytes: Option<u64>,
    used_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

pub async fn status(volume: &Volume, json: bool) -> Result<(), Error> {
    let usage = volume.status().await;
    let report = report(volume, &usage);
    if json {
        print_json(&report);
        return Ok(());
    }
    let note = if report.unreplicated { ", unreplicated: it survives no failure" } else { "" };
    println!("volume {}{note}", report.volume);
    for (index, group) in report.groups.iter().enumerate() {
        println!("group {index}");
        let rows = group.bricks.iter().map(|brick| {
            let amount = |amount: Option<u64>| amount.map_or("-".to_owned(), bytes);
            vec![
                brick.brick.clone(),
                brick.role.clone(),
                brick.state.to_owned(),
                amount(brick.used_bytes),
                amount(brick.free_bytes),
                brick.reason.clone().unwrap_or_default(),
            ]
        });
        print!("{}", table(&["BRICK", "ROLE", "STATE", "USED", "FREE", ""], rows));
    }
    Ok(())
}

fn report(volume: &Volume, usage: &VolumeUsage) -> StatusJson {
    let brick = |brick: &brick_client::BrickUsage| BrickJson {
        brick: brick.address.clone(),
        role: brick.role.to_string(),
        state: if brick.status.is_ok() { "online" } else { "offline" },
        uuid: brick.uuid.to_string(),
        free_bytes: brick.status.as_ref().ok().map(|status| status.free_bytes),
        used_bytes: brick.status.as_ref().ok().map(|status| status.used_bytes),
        reason: brick.status.as_ref().err().cloned(),
    };
    let groups = usage.groups.iter();
    let groups = groups.map(|group| GroupJson { bricks: group.bricks.iter().map(brick).collect() });
    let config = volume.config();
    StatusJson {
        volume: config.volume.to_string(),
        unreplicated: config.unreplicated,
        groups: groups.collect(),
    }
}
