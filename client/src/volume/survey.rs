//! One look at the bricks of some groups: connections to each, made once and all at the same time, however many
//! images are then asked about. Core 0 knows the registers; the other cores are called only for counters.
//!
//! Nothing here waits for one brick after the other: a brick that is silent costs the whole look one
//! `brick_timeout`, and is offline from then on. What is asked are registers and counters, so a look takes as long as
//! there are images to ask about, whatever they hold.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use brick_wire::body::{HealHistory, ImageStatus};
use brick_wire::cursor::Body;
use brick_wire::decode::Frame;
use brick_wire::handshake::PeerKind;
use brick_wire::record::EpochRecord;
use brick_wire::register::{ImageState, ImageValue, NameValue, RegisterKey, RegisterKind, RegisterState};
use brick_wire::{BrickIndex, CoreIndex, Epoch, Flags, Floors, ImageUuid, Opcode, SessionId, Status};

use super::registers::{Reached, list_one};
use super::{Volume, VolumeError};
use crate::driver::connection::{Caller, ConnectError};
use crate::driver::control::Control;
use crate::driver::patience::within;
use crate::replica::BrickConfig;

/// What one brick says of one image.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// Its epoch record, if it has one.
    pub(super) record: Option<EpochRecord>,
    /// Under which epoch it accepted that.
    pub(super) accepted: Epoch,
    /// How long it still keeps others out for the record's holder.
    pub(super) lease_left_ms: u32,
    /// Counters summed over its cores.
    pub(super) counters: ImageStatus,
    /// It lost no dirty bit.
    pub(super) exact: bool,
}

/// One brick's connections.
pub(super) struct BrickLink {
    config: BrickConfig,
    caller: Caller,
    core_zero: Rc<Control>,
    /// To the other cores, once counters were asked for.
    others: RefCell<Vec<Rc<Control>>>,
    /// It stopped answering: nobody waits for it again.
    silent: Cell<bool>,
    timeout: Duration,
}

type Connected = Result<Rc<BrickLink>, Rc<ConnectError>>;

/// The connections of one look, by group; none to groups that weren't asked for.
pub(super) struct Survey {
    groups: BTreeMap<usize, Vec<Connected>>,
    session: SessionId,
}

/// What every brick of every group says, by group, then brick; a brick that isn't there says nothing.
pub(super) type PerBrick<T> = BTreeMap<usize, Vec<Option<T>>>;
/// The same, of images.
pub(super) type Answers<T> = PerBrick<BTreeMap<ImageUuid, T>>;

impl Volume {
    /// Connects to all bricks of `groups`.
    pub(super) async fn survey(&self, groups: impl IntoIterator<Item = usize>) -> Survey {
        let session = Volume::fresh_session();
        let caller = self.caller(PeerKind::Client, session);
        let mut tasks = Vec::new();
        for group in groups {
            let connect = |brick: &BrickConfig| {
                let (brick, caller, timeout) = (brick.clone(), caller.clone(), self.config.brick_timeout);
                monoio::spawn(async move { open_control(&brick, &caller, CoreIndex(0), timeout).await })
            };
            let bricks: Vec<_> = self.config.groups[group].bricks.iter().map(connect).collect();
            tasks.push((group, bricks));
        }
        let mut survey = Survey { groups: BTreeMap::new(), session };
        for (group, tasks) in tasks {
            let (mut controls, mut floors) = (Vec::new(), Floors::default());
            for task in tasks {
                let control = task.await;
                if let Ok(control) = &control {
                    floors.merge(&control.welcome.floors);
                }
                controls.push(control);
            }
            let mut bricks = Vec::new();
            for (control, brick) in controls.into_iter().zip(&self.config.groups[group].bricks) {
                let link = BrickLink::new(control, &floors, brick, &caller, self.config.brick_timeout).await;
                bricks.push(link.map(Rc::new).map_err(Rc::new));
            }
            survey.groups.insert(group, bricks);
        }
        survey
    }

    /// Connects to every brick of the volume.
    pub(super) async fn survey_all(&self) -> Survey {
        self.survey(0..self.config.groups.len()).await
    }

    /// The home group's registers as a look reaches them, or which quorum is missing.
    pub(super) fn home_of(&self, survey: &Survey) -> Result<Reached, VolumeError> {
        let control =
            |brick: &Connected| brick.as_ref().map(|link| link.core_zero.clone()).map_err(Rc::clone);
        let controls = survey.groups[&0].iter().map(control).collect();
        Reached::new(controls, survey.session, 0, self.home().quorum)
    }

    /// The attributes of all images that have a name, in the order of their names, and of those that are being
    /// removed. As the newest voter knows them: whoever changes something on the strength of it looks again.
    pub(super) async fn images_of(
        &self,
        home: &Reached,
    ) -> Result<(Vec<ImageValue>, Vec<ImageValue>), VolumeError> {
        let mut values = BTreeMap::new();
        for (key, state) in home.list(RegisterKind::Image).await? {
            if let (RegisterKey::Image(image), false) = (key, state.accepted == Epoch::ZERO) {
                values.insert(image, ImageValue::from_bytes(&state.value)?);
            }
        }
        let mut named = Vec::new();
        for state in home.list(RegisterKind::Name).await?.into_values() {
            if state.accepted == Epoch::ZERO {
                continue;
            }
            let image = NameValue::from_bytes(&state.value)?.image;
            named.extend(values.get(&image).filter(|value| value.state == ImageState::Live).cloned());
        }
        let removing = values.into_values().filter(|value| value.state == ImageState::Removing).collect();
        Ok((named, removing))
    }
}

impl Survey {
    /// Whether the brick answers, so far.
    pub(super) fn is_online(&self, group: usize, brick: usize) -> bool {
        self.groups[&group][brick].as_ref().is_ok_and(|link| !link.silent.get())
    }

    /// Whether a brick that answers may not vote (rule R2).
    pub(super) fn has_blank(&self) -> bool {
        let links = self.groups.values().flatten().flatten();
        links.into_iter().any(|link| link.core_zero.welcome.blank)
    }

    /// Asks every brick about the images that it has a part in.
    pub(super) async fn ask(&self, images: &[ImageValue]) -> Answers<Answer> {
        self.each_brick(|group, _, link| {
            let group = group as u16;
            let wanted: Vec<ImageUuid> = images
                .iter()
                .filter(|value| value.groups.contains(&group))
                .map(|value| value.image)
                .collect();
            async move { link.ask_images(&wanted).await }
        })
        .await
    }

    /// The epoch registers of all images, a few hundred to a message.
    pub(super) async fn epochs(&self) -> Answers<RegisterState> {
        self.each_brick(|_, brick, link| async move { link.epochs(brick).await }).await
    }

    /// The last heals of every brick's copies, core by core.
    pub(super) async fn histories(&self) -> PerBrick<Vec<HealHistory>> {
        self.each_brick(|_, _, link| async move { link.history().await }).await
    }

    /// Asks all bricks at the same time.
    async fn each_brick<T: 'static, F>(
        &self,
        ask: impl Fn(usize, BrickIndex, Rc<BrickLink>) -> F,
    ) -> PerBrick<T>
    where
        F: Future<Output = Option<T>> + 'static,
    {
        let mut tasks = Vec::new();
        for (group, links) in &self.groups {
            for (index, link) in links.iter().enumerate() {
                let task = link
                    .as_ref()
                    .ok()
                    .map(|link| monoio::spawn(ask(*group, BrickIndex(index as u8), link.clone())));
                tasks.push((*group, task));
            }
        }
        let mut answers: PerBrick<T> = BTreeMap::new();
        for (group, task) in tasks {
            let answer = match task {
                Some(task) => task.await,
                None => None,
            };
            answers.entry(group).or_default().push(answer);
        }
        answers
    }
}

impl BrickLink {
    /// From the connection to core 0, which says how many others there are. A retired life counts as away.
    async fn new(
        control: Result<Control, ConnectError>,
        floors: &Floors,
        brick: &BrickConfig,
        caller: &Caller,
        timeout: Duration,
    ) -> Result<BrickLink, ConnectError> {
        let counted = within(timeout, control?.unless_retired(floors)).await;
        let first = counted.ok_or_else(|| silence(brick, timeout))??;
        Ok(BrickLink {
            config: brick.clone(),
            caller: caller.clone(),
            core_zero: Rc::new(first),
            others: RefCell::default(),
            silent: Cell::new(false),
            timeout,
        })
    }

    /// A connection to every core.
    async fn cores(&self) -> Option<Vec<Rc<Control>>> {
        let known = self.others.borrow().len() as u16;
        for core in known + 1..self.core_zero.welcome.cores {
            let control = open_control(&self.config, &self.caller, CoreIndex(core), self.timeout).await;
            let Ok(control) = control else {
                self.silent.set(true);
                return None;
            };
            self.others.borrow_mut().push(Rc::new(control));
        }
        Some(std::iter::once(&self.core_zero).chain(self.others.borrow().iter()).cloned().collect())
    }

    async fn ask_images(&self, images: &[ImageUuid]) -> Option<BTreeMap<ImageUuid, Answer>> {
        let mut answers = BTreeMap::new();
        for image in images {
            answers.insert(*image, self.ask_image(*image).await?);
        }
        Some(answers)
    }

    async fn ask_image(&self, image: ImageUuid) -> Option<Answer> {
        let key = RegisterKey::Epoch(image).to_bytes();
        let reply = self.ask(&self.core_zero, Opcode::RegisterRead, key).await?;
        let state = RegisterState::from_bytes(&reply.aux).ok()?;
        let mut answer = Answer {
            record: EpochRecord::from_bytes(&state.value).ok(),
            accepted: state.accepted,
            lease_left_ms: state.lease_left_ms,
            counters: ImageStatus::default(),
            exact: true,
        };
        for core in self.cores().await? {
            let reply = self.ask(&core, Opcode::ImageStatus, image.to_bytes().to_vec()).await?;
            let counters = ImageStatus::from_bytes(&reply.aux).ok()?;
            answer.exact &= reply.header.flags.contains(Flags::EXACT);
            answer.counters = sum(answer.counters, counters);
        }
        Some(answer)
    }

    async fn history(&self) -> Option<Vec<HealHistory>> {
        let mut histories = Vec::new();
        for core in self.cores().await? {
            let reply = self.ask(&core, Opcode::HealHistory, Vec::new()).await?;
            histories.push(HealHistory::from_bytes(&reply.aux).ok()?);
        }
        Some(histories)
    }

    async fn epochs(&self, brick: BrickIndex) -> Option<BTreeMap<ImageUuid, RegisterState>> {
        let Ok(entries) = list_one(&self.core_zero, brick, RegisterKind::Epoch).await else {
            self.silent.set(true);
            return None;
        };
        let image = |entry: brick_wire::register::RegisterEntry| match entry.key {
            RegisterKey::Epoch(image) => Some((image, entry.state)),
            _ => None,
        };
        Some(entries.into_iter().filter_map(image).collect())
    }

    /// One request; a brick that doesn't answer it isn't asked again.
    async fn ask(&self, core: &Control, opcode: Opcode, aux: Vec<u8>) -> Option<Frame> {
        if self.silent.get() {
            return None;
        }
        match core.ask(opcode, aux).await {
            Ok(frame) if frame.header.status == Status::Ok => Some(frame),
            _ => {
                self.silent.set(true);
                None
            }
        }
    }
}

async fn open_control(
    brick: &BrickConfig,
    caller: &Caller,
    core: CoreIndex,
    timeout: Duration,
) -> Result<Control, ConnectError> {
    let connect = Control::open(&brick.address, caller, brick.brick, core);
    let control = within(timeout, connect).await.unwrap_or_else(|| Err(silence(brick, timeout)))?;
    Ok(control.answering_within(timeout))
}

fn silence(brick: &BrickConfig, timeout: Duration) -> ConnectError {
    ConnectError::Timeout { address: brick.address.clone(), seconds: timeout.as_secs() }
}

fn sum(left: ImageStatus, right: ImageStatus) -> ImageStatus {
    ImageStatus {
        dirty_blocks: left.dirty_blocks + right.dirty_blocks,
        shards: left.shards + right.shards,
        pulled_blocks: left.pulled_blocks + right.pulled_blocks,
        compared_blocks: left.compared_blocks + right.compared_blocks,
        pulled_wire_bytes: left.pulled_wire_bytes + right.pulled_wire_bytes,
        bad_blocks: left.bad_blocks + right.bad_blocks,
        repaired_blocks: left.repaired_blocks + right.repaired_blocks,
        heal_compared_blocks: left.heal_compared_blocks + right.heal_compared_blocks,
    }
}
