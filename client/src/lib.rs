//! Opens replicated images: quorum writes, dummy writes to the arbiter, granular heal.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use brick_client::{OpenOptions, Volume, VolumeConfig};
//!
//! let volume = Volume::new(VolumeConfig::load("volume.toml".as_ref())?, "example");
//! let image = volume.open_image(&"vm1".parse()?, OpenOptions::default()).await?;
//! image.write_at(0, bytes::Bytes::from_static(b"hello"), false).await?;
//! image.flush().await?;
//! image.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Everything runs on one thread of a monoio runtime with its timer enabled, best one of [`start_runtime`]. The layers,
//! from the outside: [`Volume`] and [`Image`] (names, byte ranges), `driver` (sockets and tasks), [`replica`] (the rules,
//! sans-IO, shared with the simulator).

mod config;
mod driver;
mod image;
mod memory;
mod name;
pub mod replica;
mod volume;

pub use brick_wire::Role;
pub use config::{ConfigError, Group, Meaning, VolumeConfig};
pub use driver::connection::ConnectError;
pub use driver::runtime::{Runtime, start_runtime};
pub use image::{Extent, Image, ImageError};
pub use memory::keep_freed_memory;
pub use name::{ImageName, NameError};
pub use volume::{
    AgentEvent, AgentOptions, BrickHealth, BrickSpec, BrickState, BrickUsage, CreateOptions, DeclarePrice,
    GroupUsage, HEALS_MAX, HealMemory, HealOutcome, HealProgress, HealthState, ImageHealth, ImageInfo,
    OpenOptions, Replacement, ReplacementState, ScrubOptions, ScrubOutcome, ScrubProgress, ScrubSchedule,
    ScrubState, Volume, VolumeError, VolumeUsage,
};
