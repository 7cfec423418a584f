//! Making formatted bricks into a volume: the file first, then the stamps, so that a creation that was
//! interrupted is finished by the same command.

use std::path::Path;

use brick_wire::body::Stamp;
use brick_wire::cursor::Body;
use brick_wire::handshake::PeerKind;
use brick_wire::{BrickUuid, CoreIndex, Opcode, Role, Status, VolumeUuid};

use super::{Volume, VolumeError};
use crate::config::{ConfigError, Group, VolumeConfig};
use crate::driver::connection::Caller;
use crate::driver::control::Control;
use crate::replica::{BrickConfig, Quorum};

/// A brick as the operator names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrickSpec {
    /// The role it was formatted with.
    pub role: Role,
    /// `host:port`.
    pub address: String,
}

impl Volume {
    /// Creates a volume of `groups` and writes its file to `path`. All bricks must be reachable. Groups of one brick
    /// have to be meant: `unreplicated` says that. Running it again with the same arguments finishes what was
    /// interrupted and changes nothing else.
    pub async fn create(
        path: &Path,
        groups: &[Vec<BrickSpec>],
        unreplicated: bool,
        client_name: &str,
    ) -> Result<VolumeConfig, VolumeError> {
        let caller = Caller {
            kind: PeerKind::Operator,
            volume: VolumeUuid::NIL,
            session: Volume::fresh_session(),
            name: client_name.to_owned(),
        };
        let uuid = VolumeUuid(uuid::Uuid::new_v4());
        let checked = |groups| {
            let config = VolumeConfig { unreplicated, ..VolumeConfig::new(uuid, groups) };
            let meaning = |reason| ConfigError::Meaning { path: path.to_path_buf(), reason };
            config.check().map_err(meaning).map(|()| config)
        };
        // Also where a file exists: a volume of one brick is meant each time, or it isn't.
        let planned = checked(planned_groups(groups))?;
        let config = match path.exists() {
            true => existing_config(path, groups)?,
            false => {
                let config = checked(inspect_bricks(planned.groups, &caller).await?)?;
                config.save(path)?;
                config
            }
        };
        stamp_all(&config, &caller).await?;
        Ok(config)
    }
}

/// The file of an interrupted creation, if it lists the same bricks.
fn existing_config(path: &Path, groups: &[Vec<BrickSpec>]) -> Result<VolumeConfig, VolumeError> {
    let config = VolumeConfig::load(path)?;
    let listed: Vec<Vec<BrickSpec>> = config
        .groups
        .iter()
        .map(|group| {
            let spec = |brick: &BrickConfig| BrickSpec { role: brick.role, address: brick.address.clone() };
            group.bricks.iter().map(spec).collect()
        })
        .collect();
    if listed == groups { Ok(config) } else { Err(VolumeError::FileExists(path.to_path_buf())) }
}

fn planned_groups(groups: &[Vec<BrickSpec>]) -> Vec<Group> {
    let brick = |spec: &BrickSpec| BrickConfig {
        brick: BrickUuid::NIL,
        role: spec.role,
        address: spec.address.clone(),
    };
    groups
        .iter()
        .map(|specs| Group { weight: 1, quorum: Quorum::Majority, bricks: specs.iter().map(brick).collect() })
        .collect()
}

/// Asks every brick who it is, and refuses those that can't become members before any is changed.
async fn inspect_bricks(mut planned: Vec<Group>, caller: &Caller) -> Result<Vec<Group>, VolumeError> {
    for brick in planned.iter_mut().flat_map(|group| &mut group.bricks) {
        let control = Control::open(&brick.address, caller, BrickUuid::NIL, CoreIndex(0)).await?;
        let bad = |reason: String| VolumeError::BadBrick { address: brick.address.clone(), reason };
        let welcome = &control.welcome;
        if !welcome.volume.is_nil() {
            return Err(bad(format!(
                "it is a member of volume {} already; format an empty directory for a new brick",
                welcome.volume
            )));
        }
        if welcome.role != brick.role {
            return Err(bad(format!(
                "it was formatted as {}, not as {}; correct the role or format it anew",
                welcome.role, brick.role
            )));
        }
        brick.brick = welcome.brick;
    }
    Ok(planned)
}

async fn stamp_all(config: &VolumeConfig, caller: &Caller) -> Result<(), VolumeError> {
    for (index, group) in config.groups.iter().enumerate() {
        let members: Vec<BrickUuid> = group.bricks.iter().map(|brick| brick.brick).collect();
        for brick in &group.bricks {
            let control = Control::open(&brick.address, caller, brick.brick, CoreIndex(0)).await?;
            let stamp = Stamp {
                volume: config.volume,
                group: index as u16,
                role: brick.role,
                members: members.clone(),
            };
            let reply = control.ask(Opcode::Stamp, stamp.to_bytes()).await?;
            let reason = match reply.header.status {
                Status::Ok => continue,
                Status::AlreadyStamped => "it is a member of another volume already".to_owned(),
                status => format!("it answered {status:?}"),
            };
            return Err(VolumeError::BadBrick { address: brick.address.clone(), reason });
        }
    }
    Ok(())
}
