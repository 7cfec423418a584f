//! Giving a blank brick its registers back (rule R2).
//!
//! A brick that lost its registers may not vote, since it may have forgotten promises. It may again once it
//! holds, for every register, what a majority of the group holds that doesn't count it, and a promise that this
//! majority gave *to us*: any ballot that the brick may have forgotten is below it there, and is refused.
//!
//! Its copies of images are older than the records say. While it is blank every session sees that and leaves it out
//! of S; once it isn't, nothing tells. So it is restored only when no record counts one of its copies as good.
//!
//! Reading alone would not do: a change that counts a vote of the brick's former life could still be accepted by
//! the brick that was read before, and another one, higher, by those that were taught. A holder in the middle of
//! a change is stopped by a bare promise, and prepares again, higher (rule R4).

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use brick_wire::body::Retire;
use brick_wire::cursor::Body;
use brick_wire::handshake::PeerKind;
use brick_wire::record::EpochRecord;
use brick_wire::register::{ImageState, ImageValue, RegisterEntry, RegisterKey, RegisterKind, RegisterState};
use brick_wire::{BrickIndex, BrickSet, CoreIndex, Floors, Opcode, Status};

use super::registers::Reached;
use super::{Volume, VolumeError};
use crate::driver::control::Control;
use crate::replica::GroupError;

const KINDS: [RegisterKind; 4] =
    [RegisterKind::Name, RegisterKind::Image, RegisterKind::Epoch, RegisterKind::Scrub];

/// How long a client that has an image open may take to leave a blank brick's copy out of S.
const EXPEL_PATIENCE: Duration = Duration::from_secs(10);
const EXPEL_PAUSE: Duration = Duration::from_millis(200);

impl Volume {
    /// Restores every blank brick that can be reached, where the others make a majority.
    pub(super) async fn learn_blank_bricks(&self) -> Result<(), VolumeError> {
        for group in 0..self.config().groups.len() {
            for (index, control) in self.blank_bricks(group).await {
                self.restore(group, index, &control, false).await?;
            }
        }
        Ok(())
    }

    /// Restores a brick if it is blank, also where its copy, older or not, is the only good one of an image: the
    /// operator said that it counts.
    pub(super) async fn restore_to_declare(
        &self,
        group: usize,
        brick: BrickIndex,
    ) -> Result<(), VolumeError> {
        for (index, control) in self.blank_bricks(group).await {
            if index == brick {
                self.restore(group, index, &control, true).await?;
            }
        }
        Ok(())
    }

    /// The images of which a blank brick has the only good copy, by name.
    pub(super) async fn only_good_on(
        &self,
        group: usize,
        brick: BrickIndex,
    ) -> Result<Vec<String>, VolumeError> {
        let mut names = Vec::new();
        if self.blank_bricks(group).await.iter().any(|(index, _)| *index == brick) {
            let reached = self.reach_quorum(group).await?;
            for (value, record) in self.images_in(&reached).await? {
                if record.in_sync == BrickSet::only(brick) {
                    names.push(value.name);
                }
            }
        }
        Ok(names)
    }

    async fn blank_bricks(&self, group: usize) -> Vec<(BrickIndex, Rc<Control>)> {
        let controls = self.reach(self.group(group), Volume::fresh_session()).await;
        let controls = controls.into_iter().enumerate();
        let blank = controls.filter_map(|(index, control)| {
            Some((BrickIndex(index as u8), control.ok().filter(|control| control.welcome.blank)?))
        });
        blank.collect()
    }

    async fn restore(
        &self,
        group: usize,
        brick: BrickIndex,
        control: &Control,
        accept_only: bool,
    ) -> Result<(), VolumeError> {
        let address = &self.group(group).bricks[usize::from(brick.0)].address;
        let started = Instant::now();
        loop {
            let reached = self.reach_quorum(group).await?;
            let mut counted_good = None;
            for (value, record) in self.images_in(&reached).await? {
                if record.in_sync == BrickSet::only(brick) {
                    let floor = control
                        .welcome
                        .floors
                        .of(control.welcome.brick)
                        .max(reached.floors().of(control.welcome.brick));
                    if record
                        .members
                        .get(usize::from(brick.0))
                        .is_some_and(|member| member.incarnation.start < floor)
                    {
                        // What it is said to have was on the disk whose place it took.
                        return Err(VolumeError::EmptyCopy { address: address.clone(), name: value.name });
                    }
                    if !accept_only {
                        return Err(VolumeError::OlderCopy { address: address.clone(), name: value.name });
                    }
                } else if record.in_sync.contains(brick) {
                    self.expel(&value).await?;
                    counted_good = Some(value.name);
                }
            }
            let Some(name) = counted_good else {
                let registers = gather(&reached).await?;
                self.teach_floors(address, control, &reached.floors()).await?;
                // Hearing of them it closed what was connected before.
                let caller = self.caller(PeerKind::Client, Volume::fresh_session());
                let control = Control::open(address, &caller, control.welcome.brick, CoreIndex(0)).await?;
                return teach(&control, address, &registers).await;
            };
            if started.elapsed() > EXPEL_PATIENCE {
                return Err(VolumeError::NotExpelled { address: address.clone(), name });
            }
            monoio::time::sleep(EXPEL_PAUSE).await;
        }
    }

    /// Which lives of its neighbours don't count any more, as the others know it: a brick that votes has to tell.
    async fn teach_floors(
        &self,
        address: &str,
        control: &Control,
        floors: &Floors,
    ) -> Result<(), VolumeError> {
        let own = control.welcome.brick;
        let unknown = floors
            .iter()
            .filter(|(brick, floor)| *brick != own && *floor > control.welcome.floors.of(*brick));
        let unknown: Vec<_> = unknown.collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let caller = self.caller(PeerKind::Operator, Volume::fresh_session());
        let operator = Control::open(address, &caller, own, CoreIndex(0)).await?;
        for (brick, floor) in unknown {
            let reply = operator.ask(Opcode::Retire, Retire { brick, floor }.to_bytes()).await?;
            if reply.header.status != Status::Ok {
                return Err(refused(address, reply.header.status));
            }
        }
        Ok(())
    }

    /// Has the image's next record leave blank bricks out of S. A client that has it open does that by itself.
    async fn expel(&self, value: &ImageValue) -> Result<(), VolumeError> {
        for session in self.open_to_heal(value).await? {
            match session.close().await {
                Ok(()) | Err(GroupError::Fenced { .. }) => {}
                Err(source) => return Err(VolumeError::Image { name: value.name.clone(), source }),
            }
        }
        Ok(())
    }

    /// The images with a record in the group, as a majority knows it.
    pub(super) async fn images_in(
        &self,
        reached: &Reached,
    ) -> Result<Vec<(ImageValue, EpochRecord)>, VolumeError> {
        let mut images = Vec::new();
        for (key, state) in reached.list(RegisterKind::Epoch).await? {
            let RegisterKey::Epoch(image) = key else { continue };
            if state.value.is_empty() {
                continue;
            }
            let record = EpochRecord::from_bytes(&state.value)?;
            let value = self.attributes(image).await?;
            images.extend(
                value.filter(|value| value.state != ImageState::Removed).map(|value| (value, record)),
            );
        }
        Ok(images)
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
    for (key, state) in registers {
        let entry = RegisterEntry { key: key.clone(), state: state.clone() };
        let reply = control.ask(Opcode::RegisterLearn, entry.to_bytes()).await?;
        if reply.header.status != Status::Ok {
            return Err(refused(address, reply.header.status));
        }
    }
    let reply = control.ask(Opcode::BlankClear, Vec::new()).await?;
    if reply.header.status == Status::Ok { Ok(()) } else { Err(refused(address, reply.header.status)) }
}

fn refused(address: &str, status: Status) -> VolumeError {
    VolumeError::BadBrick {
        address: address.to_owned(),
        reason: format!("it answered {status:?} when its registers were restored"),
    }
}
