//! Giving a blank brick its registers back (rule R2).
//!
//! A brick that lost its registers may not vote, since it may have forgotten promises. It may again once it
//! holds, for every register, what a majority of the group holds that doesn't count it, and a promise that this
//! majority gave *to us*: any ballot that the brick may have forgotten is below it there, and is refused.
//!
//! Reading alone would not do: a change that counts a vote of the brick's former life could still be accepted by
//! the brick that was read before, and another one, higher, by those that were taught. A holder in the middle of
//! a change is stopped by a bare promise, and prepares again, higher (rule R4).

use std::collections::BTreeMap;

use brick_wire::cursor::Body;
use brick_wire::register::{RegisterEntry, RegisterKey, RegisterKind, RegisterState};
use brick_wire::{Opcode, Status};

use super::registers::Reached;
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

/// What a majority holds of every register, promised to us by that majority.
async fn gather(reached: &Reached) -> Result<BTreeMap<RegisterKey, RegisterState>, VolumeError> {
    let mut registers = BTreeMap::new();
    for kind in KINDS {
        for key in reached.keys(kind).await? {
            let state = reached.claim(&key).await?;
            registers.insert(key, state);
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
