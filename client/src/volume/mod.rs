//! A volume as an operator or a front end sees it: images by name, status, heal.
//!
//! Names and image attributes are registers in the first group of the volume file (its *home* group);
//! epoch records are registers in every group that holds shards of the image. Everything here is control
//! path: a connection per call, no state kept between calls.

mod agent;
mod create;
mod declare;
mod heal;
mod history;
mod images;
mod learn;
mod registers;
mod replace;
mod scrub;
mod status;
mod survey;

use std::rc::Rc;

use brick_wire::handshake::PeerKind;
use brick_wire::{CoreIndex, Floors, SessionId};

pub use self::agent::{AgentEvent, AgentOptions, HEALS_MAX, ScrubSchedule};
pub use self::create::BrickSpec;
pub use self::declare::DeclarePrice;
pub use self::heal::{HealOutcome, HealProgress};
pub use self::history::HealMemory;
pub use self::images::{CreateOptions, ImageInfo, OpenOptions};
pub use self::replace::{Replacement, ReplacementState};
pub use self::scrub::{ScrubOptions, ScrubOutcome, ScrubProgress, ScrubState};
pub use self::status::{
    BrickHealth, BrickState, BrickUsage, GroupUsage, HealthState, ImageHealth, VolumeUsage,
};
use crate::config::{ConfigError, Group, VolumeConfig};
use crate::driver::clock;
use crate::driver::connection::{Caller, ConnectError};
use crate::driver::control::Control;
use crate::name::ImageName;
use crate::replica::GroupError;

/// An open volume file; every call connects by itself.
#[derive(Clone, Debug)]
pub struct Volume {
    config: Rc<VolumeConfig>,
    client_name: Rc<str>,
}

/// Why something about a volume failed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The volume file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A brick can't be reached, and the call needs exactly that one.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Too few bricks of a group answer.
    #[error(
        "no quorum in group {group}: {answered} of {bricks} bricks answer ({reasons}); bring another one back"
    )]
    NoQuorum {
        /// Which group.
        group: usize,
        /// Bricks that answered.
        answered: usize,
        /// Bricks of the group.
        bricks: usize,
        /// Why the others don't.
        reasons: String,
    },
    /// The volume file was edited.
    #[error(
        "image {name:?} has a part in group {group}, and the volume file lists {listed} groups; use the file that `volume \
         create` wrote, with every group"
    )]
    UnknownGroup {
        /// Which image.
        name: String,
        /// Which of its groups.
        group: u16,
        /// Groups of the file.
        listed: usize,
    },
    /// Nobody knows the name.
    #[error("no image named {:?} in this volume; `image ls` lists those there are", .0.as_str())]
    UnknownImage(ImageName),
    /// The name is taken.
    #[error("an image named {:?} exists already; choose another name or remove that one first", .0.as_str())]
    NameTaken(ImageName),
    /// The image is going away.
    #[error("image {:?} is being removed; `image rm` finishes that", .0.as_str())]
    Removing(ImageName),
    /// The size makes no image.
    #[error("bad image size {0}: an image has at least 4096 bytes and a multiple of that")]
    BadSize(u64),
    /// More shards than a shard index can count.
    #[error("image size {size_bytes} is too large for shards of {shard_bytes} bytes; use larger shards")]
    TooLarge {
        /// Asked for, bytes.
        size_bytes: u64,
        /// Size of a shard, bytes.
        shard_bytes: u64,
    },
    /// The shard size is none.
    #[error("bad shard size: use a power of two from 1 MiB to 64 MiB")]
    BadShardSize,
    /// A register was changed by others again and again.
    #[error("somebody else keeps changing the same record; try again")]
    Contended,
    /// What a brick sent makes no sense.
    #[error("{address} sent an answer that can't be read: {source}; do all bricks run the same version?")]
    BadAnswer {
        /// Which brick.
        address: String,
        /// What was wrong.
        source: brick_wire::cursor::BodyError,
    },
    /// A register holds what can't be read.
    #[error("a record of the volume can't be read: {0}; do all bricks run the same version?")]
    BadRecord(#[from] brick_wire::cursor::BodyError),
    /// A brick isn't what the operator said.
    #[error("brick {address} can't join the volume: {reason}")]
    BadBrick {
        /// Which brick.
        address: String,
        /// Why.
        reason: String,
    },
    /// A brick can't be replaced now.
    #[error("{address} can't be replaced: {reason}")]
    CannotReplace {
        /// Which brick.
        address: String,
        /// Why, and what to do.
        reason: String,
    },
    /// It has what nobody else has.
    #[error(
        "{address} can't be replaced: the only good copy of image {name:?} is on it; bring it back until that is \
         healed, or say with `image declare-good {name}` that another copy counts"
    )]
    SoleGoodCopy {
        /// Which brick.
        address: String,
        /// Which image.
        name: String,
    },
    /// The volume file doesn't list it.
    #[error("{0} is no brick of this volume; `volume status` lists them")]
    NoSuchBrick(String),
    /// An arbiter has no data that could be good.
    #[error("{0} is an arbiter: it holds no data that could be declared good; name a data brick")]
    NoCopyThere(String),
    /// A restored brick has the only good copy.
    #[error(
        "{address} was restored from an older copy, and the only good copy of image {name:?} is there: what was \
         written since is gone; say that the older copy counts with `image declare-good {name} {address}`"
    )]
    OlderCopy {
        /// Which brick.
        address: String,
        /// Which image.
        name: String,
    },
    /// The only good copy was on a disk that is gone.
    #[error(
        "{address} is an empty brick in the place of one that had the only good copy of image {name:?}; that is lost, \
         and declaring this one good would lose the rest: say with `image declare-good {name}` that another copy counts"
    )]
    EmptyCopy {
        /// Which brick.
        address: String,
        /// Which image.
        name: String,
    },
    /// A restored brick still counts as good.
    #[error(
        "{address} was restored from an older copy, and image {name:?} still counts that as good; see with \
         `heal status {name}` who has it open, and run `heal run` again"
    )]
    NotExpelled {
        /// Which brick.
        address: String,
        /// Which image.
        name: String,
    },
    /// No brick of the image is there.
    #[error("{address} is no brick of image {name:?}; `heal status {name}` lists them")]
    UnknownBrick {
        /// What was named.
        address: String,
        /// Which image.
        name: String,
    },
    /// The volume file exists and describes another volume.
    #[error("{0} exists and lists other bricks; choose another file name")]
    FileExists(std::path::PathBuf),
    /// The image can't be opened, or failed.
    #[error("image {name:?}: {source}")]
    Image {
        /// Which image.
        name: String,
        /// Why.
        source: GroupError,
    },
    /// A brick that should be healed isn't there.
    #[error("image {name:?} can't be healed completely: {bricks} is offline; start it and run heal again")]
    Offline {
        /// Which image.
        name: String,
        /// Addresses.
        bricks: String,
    },
    /// Heal makes no progress.
    #[error("heal of image {name:?} made no progress for {seconds} s; look into the bricks' logs")]
    HealStuck {
        /// Which image.
        name: String,
        /// For how long.
        seconds: u64,
    },
}

impl Volume {
    /// A volume by its file's content. `client_name` is for the bricks' logs.
    pub fn new(config: VolumeConfig, client_name: &str) -> Volume {
        Volume { config: Rc::new(config), client_name: client_name.into() }
    }

    /// The volume file's content.
    pub fn config(&self) -> &VolumeConfig {
        &self.config
    }

    fn caller(&self, kind: PeerKind, session: SessionId) -> Caller {
        Caller { kind, volume: self.config.volume, session, name: self.client_name.to_string() }
    }

    /// Connections to core 0 of every brick of a group, under one session. Retired lives count as away: any quorum has
    /// a brick that knows their floor.
    async fn reach(&self, group: &Group, session: SessionId) -> Vec<Result<Rc<Control>, Rc<ConnectError>>> {
        let caller = self.caller(PeerKind::Client, session);
        let tasks: Vec<_> = group
            .bricks
            .iter()
            .map(|brick| {
                let (address, caller, uuid) = (brick.address.clone(), caller.clone(), brick.brick);
                monoio::spawn(async move { Control::open(&address, &caller, uuid, CoreIndex(0)).await })
            })
            .collect();
        let (mut opened, mut floors) = (Vec::new(), Floors::default());
        for task in tasks {
            let control = task.await;
            if let Ok(control) = &control {
                floors.merge(&control.welcome.floors);
            }
            opened.push(control);
        }
        let mut controls = Vec::new();
        for control in opened {
            let counted = match control {
                Ok(control) => control.unless_retired(&floors).await,
                Err(error) => Err(error),
            };
            controls.push(counted.map(Rc::new).map_err(Rc::new));
        }
        controls
    }

    fn home(&self) -> &Group {
        &self.config.groups[0]
    }

    fn fresh_session() -> SessionId {
        clock::random_session()
    }
}
