//! `image create|ls|stat|rm`; import and export are in [`super::transfer`], the last resort in
//! [`super::declare`].

use brick_client::{CreateOptions, ImageInfo, Volume};
use serde::Serialize;

use super::{declare, transfer};
use crate::args::ImageCommand;
use crate::error::Error;
use crate::output::{bytes, print_json, table};

pub async fn run(volume: &Volume, command: ImageCommand) -> Result<(), Error> {
    match command {
        ImageCommand::Create { name, size, shard_size } => {
            let options = CreateOptions { size_bytes: size, shard_shift: shard_shift(shard_size)? };
            volume.create_image(&name, options).await?;
            println!("created image {name}: {}, shards of {}", bytes(size), bytes(shard_size));
            Ok(())
        }
        ImageCommand::Ls { json } => list(volume, json).await,
        ImageCommand::Stat { name, json } => {
            let info = InfoJson::from(volume.stat_image(&name).await?);
            if json {
                print_json(&info);
            } else {
                info.print();
            }
            Ok(())
        }
        ImageCommand::Rm { name } => {
            volume.remove_image(&name).await?;
            println!("removed image {name}");
            Ok(())
        }
        ImageCommand::DeclareGood { name, brick, yes } => declare::run(volume, &name, &brick, yes).await,
        ImageCommand::Import { file, name, format, overwrite, shard_size, takeover } => {
            let options = transfer::ImportOptions {
                format: format.map(Into::into),
                overwrite,
                shard_shift: shard_shift(shard_size)?,
                takeover,
            };
            transfer::import(volume, &file, &name, options).await
        }
        ImageCommand::Export { name, file, force, takeover } => {
            transfer::export(volume, &name, &file, force, takeover).await
        }
    }
}

#[derive(Serialize)]
struct InfoJson {
    image: String,
    uuid: String,
    size_bytes: u64,
    shard_bytes: u64,
    groups: Vec<u16>,
    created_seconds: u64,
    in_use: bool,
}

impl From<ImageInfo> for InfoJson {
    fn from(info: ImageInfo) -> InfoJson {
        InfoJson {
            image: info.name,
            uuid: info.image.to_string(),
            size_bytes: info.size_bytes,
            shard_bytes: info.shard_bytes,
            groups: info.groups,
            created_seconds: info.created_seconds,
            in_use: info.holder.is_some(),
        }
    }
}

impl InfoJson {
    fn print(&self) {
        println!("image       {}", self.image);
        println!("uuid        {}", self.uuid);
        println!("size        {} ({} bytes)", bytes(self.size_bytes), self.size_bytes);
        println!("shard size  {}", bytes(self.shard_bytes));
        println!("groups      {:?}", self.groups);
        println!("in use      {}", if self.in_use { "yes" } else { "no" });
    }
}

async fn list(volume: &Volume, json: bool) -> Result<(), Error> {
    let infos: Vec<InfoJson> = volume.list_images().await?.into_iter().map(InfoJson::from).collect();
    if json {
        #[derive(Serialize)]
        struct ListJson {
            images: Vec<InfoJson>,
        }
        print_json(&ListJson { images: infos });
        return Ok(());
    }
    let rows = infos.iter().map(|info| {
        let in_use = if info.in_use { "in use" } else { "" };
        vec![info.image.clone(), bytes(info.size_bytes), info.uuid.clone(), in_use.to_owned()]
    });
    print!("{}", table(&["NAME", "SIZE", "UUID", ""], rows));
    Ok(())
}

fn shard_shift(shard_size: u64) -> Result<u8, Error> {
    if !shard_size.is_power_of_two() {
        return Err(brick_client::VolumeError::BadShardSize.into());
    }
    Ok(shard_size.trailing_zeros() as u8)
}
