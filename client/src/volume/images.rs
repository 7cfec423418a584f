//! Images by name: create, list, stat, open, remove.
//!
//! The name register decides whether an image exists. Creation writes it last, removal frees it before
//! the shards go, so whatever is interrupted leaves either a whole image, or leftovers that no name reaches
//! and that the next `rm` or `heal` clears away (rule R3).

use std::time::{Duration, Instant, SystemTime};

use brick_wire::cursor::Body;
use brick_wire::limits::{BLOCK_SIZE, SHARD_SHIFT_MAX, SHARD_SHIFT_MIN};
use brick_wire::record::{EpochRecord, Member, RecordKind};
use brick_wire::register::{ImageState, ImageValue, NameValue, RegisterKey, RegisterKind};
use brick_wire::{Epoch, ImageUuid, Incarnation, OperationUuid, SessionId};

use super::registers::Reached;
use super::{Volume, VolumeError};
use crate::driver::session::Session;
use crate::image::Image;
use crate::name::ImageName;
use crate::replica::{GroupConfig, GroupError, Output, Purpose, Request};

/// How an image is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// Size, bytes; a multiple of 4096.
    pub size_bytes: u64,
    /// log2 of the shard size in bytes.
    pub shard_shift: u8,
}

/// How an image is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Refuse writes.
    pub read_only: bool,
    /// Fence a client that still holds it.
    pub takeover: bool,
    /// Wait so long for a client that holds it to give it back, as a live migration does; without it, an image in
    /// use is an error as soon as its holder is seen to live.
    pub wait: Duration,
}

/// What is known of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// Its name.
    pub name: String,
    /// Its id.
    pub image: ImageUuid,
    /// Size, bytes.
    pub size_bytes: u64,
    /// Size of a shard, bytes.
    pub shard_bytes: u64,
    /// The groups its shards are spread over.
    pub groups: Vec<u16>,
    /// Seconds since 1970.
    pub created_seconds: u64,
    /// Who has it open, if anybody.
    pub holder: Option<SessionId>,
}

/// So often a lease is seen to end later than ever before until its holder counts as alive. A dead holder's can, too:
/// bricks know different ends of it, those that answer change, and one that starts counts anew; but no more often
/// than there are bricks.
const RENEWALS_OF_THE_LIVING: u32 = 4;
/// What the same end of a lease may differ by, from one answer to the next.
const LEASE_NOISE: Duration = Duration::from_millis(300);
/// Pause between attempts to open an image whose holder may be dead.
const HELD_PAUSE: Duration = Duration::from_millis(200);

impl Volume {
    /// Creates an image that reads as zeros.
    pub async fn create_image(
        &self,
        name: &ImageName,
        options: CreateOptions,
    ) -> Result<ImageUuid, VolumeError> {
        check_options(options)?;
        let home = self.reach_quorum(0).await?;
        let key = RegisterKey::Name(name.as_str().to_owned());
        let taken = home.read(&key).await?.as_deref().map(NameValue::from_bytes).transpose()?;
        let taken = taken.map_or(ImageUuid::NIL, |value| value.image);
        if !taken.is_nil() && !self.is_removed(taken).await? {
            return Err(VolumeError::NameTaken(name.clone()));
        }
        let image = ImageUuid(uuid::Uuid::new_v4());
        let operation = OperationUuid(uuid::Uuid::new_v4());
        for group in 0..self.config().groups.len() {
            self.create_epoch(group, image, operation, options.size_bytes).await?;
        }
        let value = ImageValue {
            operation,
            image,
            state: ImageState::Live,
            shard_shift: options.shard_shift,
            groups: (0..self.config().groups.len() as u16).collect(),
            created_seconds: unix_seconds(),
            name: name.as_str().to_owned(),
        };
        home.change(&RegisterKey::Image(image), |_, _| Ok(value.to_bytes())).await?;
        let claim = NameValue { operation, image };
        let claimed = home
            .change(&key, |current, _| match current.map(NameValue::from_bytes).transpose()? {
                Some(other)
                    if !other.image.is_nil() && other.image != taken && other.operation != operation =>
                {
                    Err(VolumeError::NameTaken(name.clone()))
                }
                _ => Ok(claim.to_bytes()),
            })
            .await;
        if let Err(error) = claimed {
            // Nobody can reach it; say so, so that nobody has to wonder later.
            let gone = ImageValue { state: ImageState::Removed, ..value };
            let _best_effort = home.change(&RegisterKey::Image(image), |_, _| Ok(gone.to_bytes())).await;
            return Err(error);
        }
        Ok(image)
    }

    /// The first epoch record of an image in one group: closed, every data brick good (all of it is zeros).
    async fn create_epoch(
        &self,
        group: usize,
        image: ImageUuid,
        operation: OperationUuid,
        size_bytes: u64,
    ) -> Result<(), VolumeError> {
        let reached = self.reach_quorum(group).await?;
        let config =
            self.group_config(group, image, SHARD_SHIFT_MIN, SessionId::NONE, OpenOptions::default());
        let member = |(index, brick): (usize, &crate::replica::BrickConfig)| {
            let incarnation = match &reached.controls[index] {
                Ok(control) => control.welcome.incarnation,
                Err(_) => Incarnation::default(),
            };
            Member { brick: brick.brick, incarnation }
        };
        let members: Vec<Member> = config.bricks.iter().enumerate().map(member).collect();
        let record = |epoch| EpochRecord {
            epoch,
            holder: SessionId::NONE,
            kind: RecordKind::Closed,
            in_sync: config.data_bricks(),
            membership_version: 1,
            members: members.clone(),
            size_bytes,
            operation,
        };
        reached.change(&RegisterKey::Epoch(image), |_, ballot| Ok(record(ballot).to_bytes())).await?;
        Ok(())
    }

    /// All images, by name.
    pub async fn list_images(&self) -> Result<Vec<ImageInfo>, VolumeError> {
        let home = self.reach_quorum(0).await?;
        let mut images = Vec::new();
        for (key, state) in home.list(RegisterKind::Name).await? {
            let RegisterKey::Name(name) = key else { continue };
            if state.accepted == Epoch::ZERO {
                continue;
            }
            let value = NameValue::from_bytes(&state.value)?;
            if value.image.is_nil() {
                continue;
            }
            let Ok(name) = name.parse::<ImageName>() else { continue };
            match self.stat_image(&name).await {
                Ok(info) => images.push(info),
                // Removed meanwhile, or a creation that lost its race for the name.
                Err(VolumeError::UnknownImage(_) | VolumeError::Removing(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(images)
    }

    /// What is known of an image.
    pub async fn stat_image(&self, name: &ImageName) -> Result<ImageInfo, VolumeError> {
        let value = self.resolve(name).await?;
        let reached = self.reach_quorum(0).await?;
        let record = reached.read_newest(&RegisterKey::Epoch(value.image)).await?;
        let record =
            EpochRecord::from_bytes(&record.ok_or_else(|| VolumeError::UnknownImage(name.clone()))?)?;
        Ok(ImageInfo {
            name: name.as_str().to_owned(),
            image: value.image,
            size_bytes: record.size_bytes,
            shard_bytes: 1 << value.shard_shift,
            groups: value.groups,
            created_seconds: value.created_seconds,
            holder: (record.kind != RecordKind::Closed).then_some(record.holder),
        })
    }

    /// An image's attributes by its name.
    pub(super) async fn resolve(&self, name: &ImageName) -> Result<ImageValue, VolumeError> {
        self.resolve_in(&self.reach_quorum(0).await?, name).await
    }

    /// The same, by connections that are there already.
    pub(super) async fn resolve_in(
        &self,
        home: &Reached,
        name: &ImageName,
    ) -> Result<ImageValue, VolumeError> {
        let value = resolve_any(home, name).await?;
        match value.state {
            ImageState::Live => Ok(value),
            ImageState::Removing => Err(VolumeError::Removing(name.clone())),
            ImageState::Removed => Err(VolumeError::UnknownImage(name.clone())),
        }
    }

    pub(super) async fn attributes(&self, image: ImageUuid) -> Result<Option<ImageValue>, VolumeError> {
        attributes_in(&self.reach_quorum(0).await?, image).await
    }

    /// Whether nothing is left of an image but its name: a creation that gave up after the name was decided.
    async fn is_removed(&self, image: ImageUuid) -> Result<bool, VolumeError> {
        let value = self.attributes(image).await?;
        Ok(value.is_none_or(|value| value.state == ImageState::Removed))
    }

    /// Opens an image: in every group of its layout, in order, or not at all.
    pub async fn open_image(&self, name: &ImageName, options: OpenOptions) -> Result<Image, VolumeError> {
        let value = self.resolve(name).await?;
        let sessions = self.open_sessions(&value, Purpose::Client, options).await?;
        // It may have been removed while its lease was waited for; now that it is ours it can't be.
        match self.attributes(value.image).await {
            Ok(Some(current)) if current.state == ImageState::Live => {}
            other => {
                for session in &sessions {
                    let _gave_back = session.close().await;
                }
                return Err(other.err().unwrap_or_else(|| VolumeError::UnknownImage(name.clone())));
            }
        }
        for session in &sessions {
            // Or a fresh image would seem to hold data, and an export would read what was never written.
            session.shards_listed(self.config.io_timeout).await;
        }
        Ok(Image::new(value, options.read_only, sessions, self.config.clone()))
    }

    pub(super) async fn open_sessions(
        &self,
        value: &ImageValue,
        purpose: Purpose,
        options: OpenOptions,
    ) -> Result<Vec<Session>, VolumeError> {
        let listed = self.config.groups.len();
        if let Some(group) = value.groups.iter().find(|group| usize::from(**group) >= listed) {
            return Err(VolumeError::UnknownGroup { name: value.name.clone(), group: *group, listed });
        }
        let mut sessions: Vec<Session> = Vec::new();
        for group in &value.groups {
            let session = Volume::fresh_session();
            let mut config =
                self.group_config(usize::from(*group), value.image, value.shard_shift, session, options);
            config.purpose = purpose;
            match self.open_when_free(config, options.wait).await {
                Ok(session) => sessions.push(session),
                Err(source) => {
                    for session in &sessions {
                        let _gave_back = session.close().await;
                    }
                    return Err(VolumeError::Image { name: value.name.clone(), source });
                }
            }
        }
        Ok(sessions)
    }

    /// Opens one group. If the image is held, watches the lease: while it only runs down its holder may be
    /// dead, so the open waits; when it is renewed again and again the holder lives, and the open fails.
    async fn open_when_free(&self, config: GroupConfig, wait: Duration) -> Result<Session, GroupError> {
        let started = Instant::now();
        // Whoever heals is in no hurry.
        let spin = if config.purpose == Purpose::Heal { Duration::ZERO } else { self.config.spin };
        let mut last: Option<(SessionId, Instant)> = None;
        let mut renewals = 0;
        loop {
            let mut attempt = config.clone();
            attempt.session = Volume::fresh_session();
            match Session::open(attempt, self.config.volume, &self.client_name, spin).await {
                Err(GroupError::Held { holder, lease_left_ms }) if config.purpose != Purpose::Heal => {
                    let end = Instant::now() + Duration::from_millis(lease_left_ms.into());
                    match &mut last {
                        Some((last_holder, latest)) if *last_holder == holder => {
                            if end > *latest + LEASE_NOISE {
                                *latest = end;
                                renewals += 1;
                            }
                        }
                        _ => (last, renewals) = (Some((holder, end)), 0),
                    }
                    if renewals >= RENEWALS_OF_THE_LIVING && started.elapsed() >= wait {
                        return Err(GroupError::Held { holder, lease_left_ms });
                    }
                    monoio::time::sleep(HELD_PAUSE).await;
                }
                other => return other,
            }
        }
    }

    pub(super) fn group_config(
        &self,
        group: usize,
        image: ImageUuid,
        shard_shift: u8,
        session: SessionId,
        options: OpenOptions,
    ) -> GroupConfig {
        let config = self.config();
        let group = &config.groups[group];
        GroupConfig {
            image,
            session,
            shard_shift,
            bricks: group.bricks.clone(),
            quorum: group.quorum,
            purpose: Purpose::Client,
            takeover: options.takeover,
            brick_timeout: config.brick_timeout,
            io_timeout: config.io_timeout,
            no_quorum: config.no_quorum,
        }
    }

    /// Removes an image. Bricks that are away delete their shards when `heal run` finds them again.
    pub async fn remove_image(&self, name: &ImageName) -> Result<(), VolumeError> {
        let value = resolve_any(&self.reach_quorum(0).await?, name).await?;
        if value.state == ImageState::Removed {
            return self.free_name(&value).await;
        }
        let sessions = self.open_sessions(&value, Purpose::Client, OpenOptions::default()).await?;
        let home = self.reach_quorum(0).await?;
        let removing = ImageValue { state: ImageState::Removing, ..value.clone() };
        home.change(&RegisterKey::Image(value.image), |_, _| Ok(removing.to_bytes())).await?;
        // Whoever opens it from here on finds it being removed. Somebody may have taken it over before: then our
        // lease is gone, and the image is theirs.
        for session in &sessions {
            if let Err(source) = session.request(Request::Flush).await {
                home.change(&RegisterKey::Image(value.image), |_, _| Ok(value.to_bytes())).await?;
                return Err(VolumeError::Image { name: value.name.clone(), source });
            }
        }
        self.remove_shards(&removing, sessions).await
    }

    /// Frees the name of an image that is being removed.
    async fn free_name(&self, value: &ImageValue) -> Result<(), VolumeError> {
        let operation = OperationUuid(uuid::Uuid::new_v4());
        let home = self.reach_quorum(0).await?;
        home.change(&RegisterKey::Name(value.name.clone()), |current, _| {
            let current = current.map(NameValue::from_bytes).transpose()?;
            match current {
                // Somebody freed the name and used it again: it isn't ours any more.
                Some(other) if other.image != value.image => Ok(other.to_bytes()),
                _ => Ok(NameValue { operation, image: ImageUuid::NIL }.to_bytes()),
            }
        })
        .await?;
        Ok(())
    }

    /// Frees the name and deletes shards wherever bricks answer; the image is removed when every data brick
    /// did. Whoever finds an interrupted removal repeats it from here.
    pub(super) async fn remove_shards(
        &self,
        value: &ImageValue,
        sessions: Vec<Session>,
    ) -> Result<(), VolumeError> {
        let failed = |source| VolumeError::Image { name: value.name.clone(), source };
        self.free_name(value).await?;
        let mut everywhere = true;
        for (group, session) in value.groups.iter().zip(&sessions) {
            let output = session.request(Request::Remove).await.map_err(failed)?;
            let Output::Removed(bricks) = output else { unreachable!("removals return bricks") };
            let config = self.group_config(
                usize::from(*group),
                value.image,
                value.shard_shift,
                SessionId::NONE,
                OpenOptions::default(),
            );
            everywhere &= config.data_bricks().is_subset_of(bricks);
            session.close().await.map_err(failed)?;
        }
        if everywhere {
            let home = self.reach_quorum(0).await?;
            let removed = ImageValue { state: ImageState::Removed, ..value.clone() };
            home.change(&RegisterKey::Image(value.image), |_, _| Ok(removed.to_bytes())).await?;
            // When it was scrubbed doesn't matter any more.
            let scrubs = RegisterKey::Scrub(value.image);
            if home.read(&scrubs).await?.is_some() {
                home.change(&scrubs, |_, _| Ok(Vec::new())).await?;
            }
        }
        Ok(())
    }

    /// Images whose removal some brick has not seen.
    pub(super) async fn images_being_removed(&self) -> Result<Vec<ImageValue>, VolumeError> {
        let home = self.reach_quorum(0).await?;
        let mut values = Vec::new();
        for state in home.list(RegisterKind::Image).await?.into_values() {
            if state.accepted == Epoch::ZERO {
                continue;
            }
            let value = ImageValue::from_bytes(&state.value)?;
            if value.state == ImageState::Removing {
                values.push(value);
            }
        }
        Ok(values)
    }
}

async fn resolve_any(home: &Reached, name: &ImageName) -> Result<ImageValue, VolumeError> {
    let unknown = || VolumeError::UnknownImage(name.clone());
    let key = RegisterKey::Name(name.as_str().to_owned());
    let value = NameValue::from_bytes(&home.read(&key).await?.ok_or_else(unknown)?)?;
    if value.image.is_nil() {
        return Err(unknown());
    }
    attributes_in(home, value.image).await?.ok_or_else(unknown)
}

async fn attributes_in(home: &Reached, image: ImageUuid) -> Result<Option<ImageValue>, VolumeError> {
    let value = home.read(&RegisterKey::Image(image)).await?;
    Ok(value.as_deref().map(ImageValue::from_bytes).transpose()?)
}

fn check_options(options: CreateOptions) -> Result<(), VolumeError> {
    let CreateOptions { size_bytes, shard_shift } = options;
    if size_bytes == 0 || !size_bytes.is_multiple_of(BLOCK_SIZE as u64) {
        return Err(VolumeError::BadSize(size_bytes));
    }
    if !(SHARD_SHIFT_MIN..=SHARD_SHIFT_MAX).contains(&shard_shift) {
        return Err(VolumeError::BadShardSize);
    }
    if (size_bytes - 1) >> shard_shift > u64::from(u32::MAX) {
        return Err(VolumeError::TooLarge { size_bytes, shard_bytes: 1 << shard_shift });
    }
    Ok(())
}

/// Seconds since 1970.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
