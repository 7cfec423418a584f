//! `volume replace-brick` and `reset-brick`: a freshly formatted brick takes the place of one whose disk is lost.
//!
//! It takes the lost brick's uuid, so that no record and no list of members changes, and starts blank (rule R2): it
//! doesn't vote and holds nothing until it was taught and healed, as a brick that lost its registers. The danger is the
//! lost disk: should it come back, it is the same brick by its uuid, and has forgotten what the new one promised. So
//! first of all every other brick of the group learns durably which start counters count from now on (its *floor*), far
//! above any the lost disk can count, and tells everybody who connects.
//!
//! The order is what makes this safe to interrupt: looks first; then floors, on *all* others, as any of them may make a
//! quorum with the lost disk; then the new brick; then the volume file. Each step finds out whether it was done
//! already, so the same command finishes what was interrupted.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use brick_wire::body::{Adopt, Retire, Stamp};
use brick_wire::cursor::Body;
use brick_wire::handshake::PeerKind;
use brick_wire::record::{EpochRecord, RecordKind};
use brick_wire::register::{ImageValue, RegisterKind};
use brick_wire::{
    BrickIndex, BrickSet, BrickUuid, CoreIndex, Epoch, Floors, Opcode, Role, StartCounter, Status, VolumeUuid,
};

use super::heal::{HealOutcome, HealProgress};
use super::registers::Reached;
use super::status::{BrickHealth, BrickState, HealthState};
use super::{Volume, VolumeError};
use crate::config::VolumeConfig;
use crate::driver::connection::{Caller, ConnectError};
use crate::driver::control::Control;

/// Starts of the lost disk that nobody may have seen: it can have been started by hand, without any session that
/// looked, but not a million times.
const START_MARGIN: u64 = 1 << 20;
/// How long the new brick may take to start again.
const RESTART_PATIENCE: Duration = Duration::from_secs(30);
const RESTART_PAUSE: Duration = Duration::from_millis(100);
/// How long a copy may take to be good again after its brick closed its connections.
const RETURN_PATIENCE: Duration = Duration::from_secs(60);
const RETURN_PAUSE: Duration = Duration::from_millis(500);

/// How far a replacement has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplacementState {
    /// The new brick is formatted and belongs to nobody; nothing was changed.
    Planned,
    /// It has taken the place; the volume file may not say so yet.
    Adopted,
    /// The volume file says so.
    Listed,
}

/// A brick in another one's place, planned or done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// Which group.
    pub group: usize,
    /// The uuid that stays.
    pub brick: BrickUuid,
    /// Of both bricks.
    pub role: Role,
    /// Where the lost brick was.
    pub old: String,
    /// Where the new one is; the same, if it was reset.
    pub new: String,
    /// How far it has come.
    pub state: ReplacementState,
    index: usize,
    /// The lowest start counter that counts, and the one that the new brick goes on from.
    floor: StartCounter,
}

impl Volume {
    /// Looks whether the brick at `new` can take the place of the one at `old`. Changes nothing.
    pub async fn plan_replacement(&self, old: &str, new: &str) -> Result<Replacement, VolumeError> {
        let (group, index, listed) = self.find_replaced(old, new)?;
        if self.config.unreplicated {
            let reason = "the volume is unreplicated, so no other brick knows its registers or holds a copy to heal the \
                          new one from; bring it back, or create a new volume";
            return Err(VolumeError::CannotReplace { address: old.to_owned(), reason: reason.to_owned() });
        }
        let brick = self.group(group).bricks[index].clone();
        let mut plan = Replacement {
            group,
            brick: brick.brick,
            role: brick.role,
            old: old.to_owned(),
            new: new.to_owned(),
            state: ReplacementState::Listed,
            index,
            floor: StartCounter(0),
        };
        let controls = self.reach(self.group(group), Volume::fresh_session()).await;
        let floors = self.check_others(&plan, &controls)?;
        if listed {
            // Or it was never replaced, and the old address is a slip.
            let replaced = floors.of(plan.brick) > StartCounter(0);
            return if replaced { Ok(plan) } else { Err(VolumeError::NoSuchBrick(old.to_owned())) };
        }
        self.with_address(&self.config, &plan)?;
        plan.state = self.look_at_new(&plan, &floors).await?;
        if plan.state == ReplacementState::Planned {
            let reached = self.check_loss(&plan).await?;
            let recorded = self.highest_start(&plan, &reached).await?;
            let highest = recorded.max(floors.of(plan.brick));
            plan.floor = StartCounter(highest.0 + 1 + START_MARGIN);
        }
        Ok(plan)
    }

    /// Does what was planned, up to the volume file at `path`; returns the volume as that describes it then. The new
    /// brick is blank after it: [`Volume::heal_replaced`] does the rest.
    pub async fn replace(&self, plan: &Replacement, path: &Path) -> Result<Volume, VolumeError> {
        if plan.state == ReplacementState::Planned {
            // What was planned may have changed while the operator was asked.
            self.check_loss(plan).await?;
            self.retire(plan).await?;
            self.adopt(plan).await?;
        }
        if plan.state != ReplacementState::Listed {
            self.await_restart(plan).await?;
        }
        // Others may have changed the file meanwhile.
        let listed = VolumeConfig::load(path)?;
        let config = self.with_address(&listed, plan)?;
        if config != listed {
            config.save(path)?;
        }
        Ok(Volume { config: Rc::new(config), client_name: self.client_name.clone() })
    }

    /// Gives the new brick the group's registers.
    pub async fn teach_replaced(&self) -> Result<(), VolumeError> {
        self.learn_blank_bricks().await
    }

    /// Teaches the new brick and brings its copies up to date. Returns what that took, and the images that a client has
    /// open which knows the old address only: those are healed by the client that opens them next.
    pub async fn heal_replaced(
        &self,
        plan: &Replacement,
        mut watch: impl FnMut(&HealProgress),
    ) -> Result<(Vec<HealOutcome>, Vec<String>), VolumeError> {
        self.learn_blank_bricks().await?;
        let (mut outcomes, mut in_use) = (Vec::new(), Vec::new());
        for info in self.list_images().await? {
            let Ok(name) = info.name.parse() else { continue };
            if !info.groups.contains(&(plan.group as u16)) {
                continue;
            }
            if plan.old != plan.new && self.is_in_use(&self.resolve(&name).await?).await {
                in_use.push(info.name);
            } else {
                outcomes.push(self.heal_image(&name, &mut watch).await?);
            }
        }
        Ok((outcomes, in_use))
    }

    /// The place of the brick at `old`; or, if the volume file has been changed already, of the one at `new`.
    fn find_replaced(&self, old: &str, new: &str) -> Result<(usize, usize, bool), VolumeError> {
        let place = |address: &str| {
            let groups = self.config.groups.iter().enumerate();
            let mut bricks = groups.flat_map(|(group, bricks)| {
                bricks.bricks.iter().enumerate().map(move |(index, brick)| (group, index, brick))
            });
            bricks.find(|(.., brick)| brick.address == address).map(|(group, index, _)| (group, index))
        };
        match (place(old), place(new)) {
            (Some((group, index)), other) if old == new || other.is_none() => Ok((group, index, false)),
            (Some(_), _) => {
                Err(bad(new, "it is one of the volume's bricks; format an empty directory for a new one"))
            }
            (None, Some((group, index))) => Ok((group, index, true)),
            (None, None) => Err(VolumeError::NoSuchBrick(old.to_owned())),
        }
    }

    /// The volume with the new brick's address.
    fn with_address(&self, listed: &VolumeConfig, plan: &Replacement) -> Result<VolumeConfig, VolumeError> {
        let mut config = listed.clone();
        let place = config.groups.get_mut(plan.group).and_then(|group| group.bricks.get_mut(plan.index));
        match place.filter(|place| place.brick == plan.brick) {
            Some(place) => place.address.clone_from(&plan.new),
            None => return Err(bad(&plan.new, "the volume file lists other bricks by now; look at it")),
        }
        config.check().map_err(|meaning| bad(&plan.new, meaning.to_string()))?;
        Ok(config)
    }

    /// Whether all other bricks are there to learn the floor; returns the floors that they know.
    fn check_others(
        &self,
        plan: &Replacement,
        controls: &[Result<Rc<Control>, Rc<ConnectError>>],
    ) -> Result<Floors, VolumeError> {
        let refuse = |reason: String| VolumeError::CannotReplace { address: plan.old.clone(), reason };
        let group = self.group(plan.group);
        let others: BrickSet = (0..controls.len())
            .filter(|index| *index != plan.index)
            .map(|index| BrickIndex(index as u8))
            .collect();
        if !group.quorum.is_reached_by(others, controls.len()) {
            return Err(refuse(
                "the other bricks of its group are no quorum without it, so nobody can say what it has promised; \
                 it has to come back"
                    .to_owned(),
            ));
        }
        let mut floors = Floors::default();
        for index in others.iter() {
            let address = &group.bricks[usize::from(index.0)].address;
            match &controls[usize::from(index.0)] {
                Ok(control) if control.welcome.blank => {
                    return Err(refuse(format!(
                        "{address} has lost its registers itself; run `heal run` first"
                    )));
                }
                Ok(control) => {
                    floors.merge(&control.welcome.floors);
                }
                Err(error) => {
                    return Err(refuse(format!(
                        "every other brick of the group has to know of it, and one doesn't answer ({error})"
                    )));
                }
            }
        }
        Ok(floors)
    }

    /// Whether the brick at the new address is an empty one, or has taken the place already.
    async fn look_at_new(
        &self,
        plan: &Replacement,
        floors: &Floors,
    ) -> Result<ReplacementState, VolumeError> {
        let caller = self.operator(VolumeUuid::NIL);
        let control = Control::open(&plan.new, &caller, BrickUuid::NIL, CoreIndex(0)).await?;
        let welcome = &control.welcome;
        let refuse = |reason: String| Err(bad(&plan.new, reason));
        if welcome.role != plan.role {
            return refuse(format!(
                "it was formatted as {}, and the brick at {} is {}; format it anew",
                welcome.role, plan.old, plan.role
            ));
        }
        if welcome.volume.is_nil() {
            return Ok(ReplacementState::Planned);
        }
        if welcome.volume != self.config.volume || welcome.brick != plan.brick {
            return refuse(format!(
                "it is brick {} of volume {} already; format an empty directory for a new one",
                welcome.brick, welcome.volume
            ));
        }
        let (start, floor) = (welcome.incarnation.start, floors.of(plan.brick));
        if floor.0 == 0 || start < floor {
            return refuse(
                "it is the brick itself, or was in its place before; serve a freshly formatted, empty directory there"
                    .to_owned(),
            );
        }
        Ok(ReplacementState::Adopted)
    }

    /// Whether nothing is lost with the old brick: it is down, so that no record can come to count on it alone from now
    /// on, and none does.
    async fn check_loss(&self, plan: &Replacement) -> Result<Reached, VolumeError> {
        let controls = self.reach(self.group(plan.group), Volume::fresh_session()).await;
        self.check_others(plan, &controls)?;
        let answers = plan.old != plan.new && controls[plan.index].is_ok();
        let quorum = self.group(plan.group).quorum;
        let reached = Reached::new(controls, Volume::fresh_session(), plan.group, quorum)?;
        self.check_copies(plan, &reached).await?;
        if answers {
            let reason = "it still answers; stop it first, so that the images go on without it".to_owned();
            return Err(VolumeError::CannotReplace { address: plan.old.clone(), reason });
        }
        Ok(reached)
    }

    /// Whether every image has another good copy.
    async fn check_copies(&self, plan: &Replacement, reached: &Reached) -> Result<(), VolumeError> {
        for (value, record) in self.images_in(reached).await? {
            if record.in_sync == BrickSet::only(BrickIndex(plan.index as u8)) {
                return Err(VolumeError::SoleGoodCopy { address: plan.old.clone(), name: value.name });
            }
        }
        Ok(())
    }

    /// The highest start of the brick that any record of the group knows.
    async fn highest_start(
        &self,
        plan: &Replacement,
        reached: &Reached,
    ) -> Result<StartCounter, VolumeError> {
        let mut highest = StartCounter(0);
        for state in reached.list(RegisterKind::Epoch).await?.into_values() {
            if state.accepted == Epoch::ZERO {
                continue;
            }
            let record = EpochRecord::from_bytes(&state.value)?;
            let lives = record.members.iter().filter(|member| member.brick == plan.brick);
            highest = lives.map(|member| member.incarnation.start).fold(highest, StartCounter::max);
        }
        Ok(highest)
    }

    /// Every other brick learns the floor, durably.
    async fn retire(&self, plan: &Replacement) -> Result<(), VolumeError> {
        let caller = self.operator(self.config.volume);
        let retire = Retire { brick: plan.brick, floor: plan.floor };
        for (index, brick) in self.group(plan.group).bricks.iter().enumerate() {
            if index == plan.index {
                continue;
            }
            let control = Control::open(&brick.address, &caller, brick.brick, CoreIndex(0)).await?;
            let status = control.ask(Opcode::Retire, retire.to_bytes()).await?.header.status;
            if status != Status::Ok {
                let reason = format!("{} answered {status:?} when it was told so", brick.address);
                return Err(VolumeError::CannotReplace { address: plan.old.clone(), reason });
            }
            self.await_return(plan, &brick.address).await?;
        }
        Ok(())
    }

    /// The brick has closed its clients' connections, so that they hear of the floor. Who writes meanwhile may have gone
    /// on without it: the next brick isn't told before this one's copies are good again.
    async fn await_return(&self, plan: &Replacement, address: &str) -> Result<(), VolumeError> {
        let started = Instant::now();
        loop {
            monoio::time::sleep(RETURN_PAUSE).await;
            let mut stale = None;
            for info in self.list_images().await? {
                let Ok(name) = info.name.parse() else { continue };
                let health = self.image_health(&self.resolve(&name).await?).await;
                let is_stale =
                    |brick: &BrickHealth| brick.address == address && brick.state == BrickState::Stale;
                if health.bricks.iter().any(is_stale) && health.state == HealthState::Healing {
                    stale = Some(info.name);
                }
            }
            let Some(name) = stale else { return Ok(()) };
            if started.elapsed() > RETURN_PATIENCE {
                let reason =
                    format!("image {name:?} is being healed on {address}; run this again when that is done");
                return Err(VolumeError::CannotReplace { address: plan.old.clone(), reason });
            }
        }
    }

    async fn adopt(&self, plan: &Replacement) -> Result<(), VolumeError> {
        let caller = self.operator(VolumeUuid::NIL);
        let control = Control::open(&plan.new, &caller, BrickUuid::NIL, CoreIndex(0)).await?;
        let members = self.group(plan.group).bricks.iter().map(|brick| brick.brick).collect();
        let stamp = Stamp { volume: self.config.volume, group: plan.group as u16, role: plan.role, members };
        let adopt = Adopt { brick: plan.brick, start: plan.floor, stamp };
        let reason = match control.ask(Opcode::Adopt, adopt.to_bytes()).await?.header.status {
            Status::Ok => return Ok(()),
            Status::AlreadyStamped => "it has become a member of a volume meanwhile".to_owned(),
            Status::Invalid => "it isn't empty; format an empty directory for a new brick".to_owned(),
            status => format!("it answered {status:?}"),
        };
        Err(bad(&plan.new, reason))
    }

    /// The new brick starts again as the lost one.
    async fn await_restart(&self, plan: &Replacement) -> Result<(), VolumeError> {
        let started = Instant::now();
        let caller = self.operator(self.config.volume);
        loop {
            let error = match Control::open(&plan.new, &caller, plan.brick, CoreIndex(0)).await {
                Ok(control) if control.welcome.incarnation.start >= plan.floor => return Ok(()),
                Ok(_) => bad(&plan.new, "it doesn't count the starts that it should; look into its log"),
                Err(error) => error.into(),
            };
            if started.elapsed() > RESTART_PATIENCE {
                return Err(error);
            }
            monoio::time::sleep(RESTART_PAUSE).await;
        }
    }

    /// Whether a client has the image open: its lease runs.
    async fn is_in_use(&self, value: &ImageValue) -> bool {
        let survey = self.survey(value.groups.iter().map(|group| usize::from(*group))).await;
        let answers = survey.ask(std::slice::from_ref(value)).await;
        answers.values().any(|bricks| {
            let answers: Vec<_> =
                bricks.iter().flatten().filter_map(|images| images.get(&value.image)).collect();
            let newest = answers.iter().map(|answer| answer.accepted).max();
            let mut current = answers.iter().filter(|answer| Some(answer.accepted) == newest);
            let is_held =
                |record: &EpochRecord| record.kind != RecordKind::Closed && !record.kind.is_preemptible();
            current.any(|answer| answer.lease_left_ms > 0 && answer.record.as_ref().is_some_and(is_held))
        })
    }

    fn operator(&self, volume: VolumeUuid) -> Caller {
        Caller { volume, ..self.caller(PeerKind::Operator, Volume::fresh_session()) }
    }
}

fn bad(address: &str, reason: impl Into<String>) -> VolumeError {
    VolumeError::BadBrick { address: address.to_owned(), reason: reason.into() }
}
