//! Giving a blank brick its registers back (rule R2).
//!
//! A brick that lost its registers may not vote, since it may have forgotten promises. It may again once it
//! holds, for every register, the highest promise and the last accepted value of a majority of the group
//! that doesn't count it: any ballot it may have promised was promised there, too.

use std::collections::BTreeMap;

use brick_wire::cursor::Body;
use brick_wire::register::{RegisterEntry, RegisterKey, RegisterKind, RegisterState};
use brick_wire::{BrickIndex, Opcode, Status};

use super::registers::{Reached, list_one};
use super::{Volume, VolumeError};
use crate::driver::control::Control;

const KINDS: [RegisterKind; 3] = [RegisterKind::Name, RegisterKind::Image, RegisterKind::Epoch];

impl Volume {
    /// Restores every blank brick that can be reached, where the others make a majority.
    pub(super) async fn learn_blank_bricks(&self) -> Result<(), VolumeError> {
        for index in 0..self.config().groups.len() {
            let session = Volume::fresh_session();
            let controls = self.reach(self.group(index), session).await;
            let blank: Vec<usize> = (0..controls.len())
                .filter(|brick| controls[*brick].as_ref().is_ok_and(|control| control.welcome.blank))
                .collect();
            if blank.is_empty() {
                continue;
            }
            let reached = self.reach_quorum(index).await?;
            let registers = gather(&reached).await?;
            for brick in blank {
                if let Ok(control) = &controls[brick] {
                    teach(control, &self.group(index).bricks[brick].address, &registers).await?;
                }
            }
        }
        Ok(())
    }
}

/// The highest promise and the last accepted value of every register, from a majority.
async fn gather(reached: &Reached) -> Result<BTreeMap<RegisterKey, RegisterState>, VolumeError> {
    let mut registers: BTreeMap<RegisterKey, RegisterState> = BTreeMap::new();
    let voters = reached.controls.iter().enumerate().filter_map(|(index, control)| {
        let control = control.as_ref().ok().filter(|control| !control.welcome.blank)?;
        Some((BrickIndex(index as u8), control))
    });
    for (brick, control) in voters {
        for kind in KINDS {
            for entry in list_one(control, brick, kind).await? {
                let known = registers.entry(entry.key).or_default();
                known.promised = known.promised.max(entry.state.promised);
                if entry.state.accepted > known.accepted {
                    known.accepted = entry.state.accepted;
                    known.value = entry.state.value;
                }
            }
        }
    }
    Ok(registers)
}

async fn teach(
    control: &Control,
    address: &str,
    registers: &BTreeMap<RegisterKey, RegisterState>,
) -> Result<(), VolumeError> {
    let bad = |status: Status| VolumeError::BadBrick {
        address: address.to_owned(),
        reason: format!("it answered {status:?} when its registers were restored"),
    };
    for (key, state) in registers {
        let entry = RegisterEntry { key: key.clone(), state: state.clone() };
        let reply = control.ask(Opcode::RegisterLearn, entry.to_bytes()).await?;
        if reply.header.status != Status::Ok {
            return Err(bad(reply.header.status));
        }
    }
    let reply = control.ask(Opcode::BlankClear, Vec::new()).await?;
    if reply.header.status == Status::Ok { Ok(()) } else { Err(bad(reply.header.status)) }
}
