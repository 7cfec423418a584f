//! Everything that can end a command, each as one sentence.

use std::path::PathBuf;

use brick_client::{ImageError, VolumeError};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No volume file was named.
    #[error("no volume file: this command works on a volume; give its file with -v FILE.toml")]
    NoVolume,
    /// The volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The image.
    #[error("image {name:?}: {source}")]
    Image {
        /// Which.
        name: String,
        /// Why.
        source: ImageError,
    },
    /// The image was being served and can't be any more.
    #[error("image {name:?} is not served any more: {source}")]
    Ended {
        /// Which.
        name: String,
        /// Why.
        source: brick_client::replica::GroupError,
    },
    /// `heal agent --once` left something undone.
    #[error("{0} heals failed, each told above; `heal status` shows what is left")]
    HealsFailed(u64),
    /// The NBD socket.
    #[error(transparent)]
    Bind(#[from] brick_nbd::BindError),
    /// The NBD server.
    #[error("the NBD server stopped: {0}")]
    Serve(std::io::Error),
    /// The file to import.
    #[error(transparent)]
    Source(#[from] brickctl::source::SourceError),
    /// The file to write.
    #[error(transparent)]
    Sink(#[from] brickctl::sink::SinkError),
    /// A scrub that left something bad.
    #[error(
        "image {name:?}: {blocks} blocks stay bad, for no other good copy of them answers; bring the other brick back, \
         or write them anew from a backup"
    )]
    Unrepairable {
        /// Which.
        name: String,
        /// How many, over all copies.
        blocks: u64,
    },
    /// A signal, before anything was served.
    #[error("image {name:?} was not served: a signal came while it was being opened")]
    Interrupted {
        /// Which.
        name: String,
    },
    /// Nobody said yes.
    #[error("nothing was changed: this needs a yes; answer with what is asked for, or give --yes")]
    NotConfirmed,
    /// Import into an image that is too small.
    #[error(
        "{path} doesn't fit: it holds {source_bytes} bytes and image {name:?} has {image_bytes}; \
         import it under another name"
    )]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size.
        source_bytes: u64,
        /// Which image.
        name: String,
        /// Its size.
        image_bytes: u64,
    },
    /// Import of nothing.
    #[error("{0} is empty: an image has at least 4096 bytes; import a file that holds something")]
    EmptySource(PathBuf),
    /// Import into an image that holds data.
    #[error("image {0:?} exists and holds data; give --overwrite to replace it, or another name")]
    HoldsData(String),
}
