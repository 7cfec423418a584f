//! One file per group of commands; this one picks.

mod agent;
mod declare;
mod heal;
mod image;
mod nbd;
mod replace;
mod scrub;
mod transfer;
mod volume;
mod watch;

use brick_client::{Volume, VolumeConfig};

use crate::args::{Arguments, Command, HealCommand, ImageCommand, VolumeCommand};
use crate::error::Error;
use crate::signals;

/// Runs a command to its end.
pub async fn run(arguments: Arguments) -> Result<(), Error> {
    if !arguments.command.ends_by_signal() {
        signals::unblock();
    }
    let path = arguments.volume;
    let verb = match &arguments.command {
        Command::Volume(VolumeCommand::ReplaceBrick { .. }) => "volume replace-brick",
        Command::Volume(VolumeCommand::ResetBrick { .. }) => "volume reset-brick",
        Command::Volume(_) => "volume",
        Command::Image(ImageCommand::DeclareGood { .. }) => "image declare-good",
        Command::Image(_) => "image",
        Command::Heal(HealCommand::Agent { .. }) => "heal agent",
        Command::Heal(_) => "heal",
        Command::Scrub { .. } => "scrub",
        Command::Nbd(_) => "nbd",
    };
    let open = || {
        let path = path.as_deref().ok_or(Error::NoVolume)?;
        let config = VolumeConfig::load(path).map_err(brick_client::VolumeError::from)?;
        Ok::<_, Error>(Volume::new(config, &client_name(verb)))
    };
    match arguments.command {
        Command::Volume(VolumeCommand::Create { file, groups, unreplicated }) => {
            volume::create(&file, groups, unreplicated, &client_name(verb)).await
        }
        Command::Volume(VolumeCommand::Status { json }) => volume::status(&open()?, json).await,
        Command::Volume(VolumeCommand::ReplaceBrick { old, new, how }) => {
            replace::run(&open()?, path.as_deref().ok_or(Error::NoVolume)?, (&old, &new), &how).await
        }
        Command::Volume(VolumeCommand::ResetBrick { brick, how }) => {
            replace::run(&open()?, path.as_deref().ok_or(Error::NoVolume)?, (&brick, &brick), &how).await
        }
        Command::Image(command) => image::run(&open()?, command).await,
        Command::Heal(command) => heal::run(&open()?, command).await,
        Command::Scrub { name, status: true, json, .. } => scrub::status(&open()?, &name, json).await,
        Command::Scrub { name, rate, json, .. } => scrub::run(&open()?, &name, rate, json).await,
        Command::Nbd(arguments) => nbd::serve(&open()?, arguments).await,
    }
}

/// Who we are in the bricks' logs.
fn client_name(verb: &str) -> String {
    format!("brickctl {verb} (pid {})", std::process::id())
}
