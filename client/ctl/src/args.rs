//! The command line. Every command has an example in its help.

use std::path::PathBuf;
use std::time::Duration;

use brick_client::{BrickSpec, ImageName, Role};
use brickctl::size::parse_size;
use brickctl::source::SourceFormat;
use clap::{Args, Parser, Subcommand};

/// Manages brick volumes and the images on them.
#[derive(Parser, Debug)]
#[command(version, propagate_version = true, max_term_width = 100)]
pub struct Arguments {
    /// The volume file that `volume create` wrote
    #[arg(short = 'v', long = "volume", global = true, value_name = "FILE.toml", env = "BRICK_VOLUME")]
    pub volume: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Creates volumes and shows how their bricks are
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Creates, lists, removes, imports and exports images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Shows which copies are good and brings the others back
    #[command(subcommand)]
    Heal(HealCommand),
    /// Reads every copy of an image, finds blocks that rotted, and has them repaired
    #[command(
        after_help = "Works beside a client that has the image open. Exits with an error if a block stays \
                            bad.\n\nExample:\n  brickctl -v vms.toml scrub vm1 --rate 200M"
    )]
    Scrub {
        /// Which image
        name: ImageName,
        /// Bytes that each brick may read a second, e.g. 200M; as fast as it can if left out
        #[arg(long, value_parser = parse_size, default_value = "0", hide_default_value = true)]
        rate: u64,
        /// Only say when it was scrubbed, and how far a pass of the heal agents is
        #[arg(long, conflicts_with = "rate")]
        status: bool,
        /// One line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Serves an image over NBD until SIGTERM or SIGINT
    #[command(after_help = "Example:\n  brickctl -v vms.toml nbd vm1 --socket /run/vm1.sock\n  \
                            qemu-system-x86_64 -drive driver=nbd,path=/run/vm1.sock,if=virtio …")]
    Nbd(NbdArguments),
}

impl Command {
    /// Whether it runs until SIGTERM or SIGINT, and then ends in order.
    pub fn ends_by_signal(&self) -> bool {
        let heal = matches!(self, Command::Heal(HealCommand::Agent { .. } | HealCommand::Watch { .. }));
        heal || matches!(self, Command::Nbd(_))
    }

    /// What it logs if `BRICK_LOG` doesn't say.
    pub fn log_level(&self) -> &'static str {
        // An agent's log is what an operator has of it.
        if matches!(self, Command::Heal(HealCommand::Agent { .. })) { "brickctl=info,warn" } else { "warn" }
    }
}

#[derive(Subcommand, Debug)]
pub enum VolumeCommand {
    /// Makes freshly formatted, running bricks into a volume and writes its file
    #[command(after_help = "Example:\n  brickctl volume create vms.toml \
                            --group data=10.0.0.1:7070,data=10.0.0.2:7070,arbiter=10.0.0.3:7070")]
    Create {
        /// The volume file to write
        file: PathBuf,
        /// A replica group: ROLE=HOST:PORT of each brick; 2 data + 1 arbiter, 3 data, or 2 data;
        /// with --unreplicated 1 data
        #[arg(long = "group", required = true, value_parser = parse_group, value_name = "ROLE=H:P,…")]
        groups: Vec<GroupArgument>,
        /// One copy of everything: each group is one data brick. Survives no failure; for scratch data and measurements
        #[arg(long)]
        unreplicated: bool,
    },
    /// Asks every brick how it is
    #[command(after_help = "Example:\n  brickctl -v vms.toml volume status --json")]
    Status {
        /// One line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Puts a freshly formatted brick in the place of one whose disk is lost, and heals it
    #[command(
        after_help = "The new brick is formatted with the old one's role, runs, and belongs to no volume yet. It takes \
                            the old one's place in every record, and in the volume file, which all clients then need \
                            anew: those that run go on without the new brick until they are started again. Says first \
                            what will happen, and changes nothing without a yes. Interrupted, it is finished by the \
                            same command.\n\nExample:\n  brickd format --dir /srv/brick5 --role data\n  brickd run \
                            --dir /srv/brick5 --listen 10.0.0.5:7070\n  brickctl -v vms.toml volume replace-brick \
                            10.0.0.2:7070 10.0.0.5:7070"
    )]
    ReplaceBrick {
        /// The brick that is lost, as the volume file names it
        old: String,
        /// Where the new one is
        new: String,
        #[command(flatten)]
        how: ReplaceArguments,
    },
    /// Puts a freshly formatted brick in the place of the one that was at the same address, and heals it
    #[command(
        after_help = "For a disk that was changed: format an empty directory on it, and serve that where the old one \
                            was. Clients that run go on, and heal the new brick. Says first what will happen, and \
                            changes nothing without a yes. Interrupted, it is finished by the same command.\n\n\
                            Example:\n  brickd format --dir /srv/brick2 --role data\n  brickd run --dir /srv/brick2 \
                            --listen 10.0.0.2:7070\n  brickctl -v vms.toml volume reset-brick 10.0.0.2:7070"
    )]
    ResetBrick {
        /// Where the brick was and is, as the volume file names it
        brick: String,
        #[command(flatten)]
        how: ReplaceArguments,
    },
}

#[derive(Args, Debug)]
pub struct ReplaceArguments {
    /// Don't ask
    #[arg(long)]
    pub yes: bool,
    /// Leave the copying to clients, agents, or `heal run`
    #[arg(long)]
    pub no_heal: bool,
    /// One line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Subcommand, Debug)]
pub enum ImageCommand {
    /// Creates an image that reads as zeros
    #[command(after_help = "Example:\n  brickctl -v vms.toml image create vm1 --size 20G")]
    Create {
        /// Name of the new image
        name: ImageName,
        /// Size, e.g. 20G, 512MiB or bytes; a multiple of 4096
        #[arg(long, value_parser = parse_size)]
        size: u64,
        /// Size of a shard, a power of two from 1M to 64M
        #[arg(long, value_parser = parse_size, default_value = "4M")]
        shard_size: u64,
    },
    /// Lists all images
    #[command(after_help = "Example:\n  brickctl -v vms.toml image ls")]
    Ls {
        /// One line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Shows an image's attributes
    #[command(after_help = "Example:\n  brickctl -v vms.toml image stat vm1")]
    Stat {
        /// Which image
        name: ImageName,
        /// One line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Removes an image and its data
    #[command(after_help = "Example:\n  brickctl -v vms.toml image rm vm1")]
    Rm {
        /// Which image
        name: ImageName,
    },
    /// Makes one copy the only good one, when the good ones are lost for good. May lose data
    #[command(
        after_help = "Says first what may be lost, and changes nothing without a yes. Every other copy \
                            counts as old from then on: a brick that comes back after all is healed from this \
                            one.\n\nExample:\n  brickctl -v vms.toml image declare-good vm1 10.0.0.2:7070"
    )]
    DeclareGood {
        /// Which image
        name: ImageName,
        /// The data brick with the copy, as `heal status` names it
        brick: String,
        /// Don't ask
        #[arg(long)]
        yes: bool,
    },
    /// Copies a raw or qcow2 file into an image, keeping holes; creates the image if it doesn't exist
    #[command(after_help = "Example:\n  brickctl -v vms.toml image import debian-12.qcow2 vm1")]
    Import {
        /// The file to read
        file: PathBuf,
        /// The image to write: a new one, or one without data that is large enough
        name: ImageName,
        /// What the file is, if it should not be guessed
        #[arg(long, value_enum)]
        format: Option<FormatArgument>,
        /// Write into an image that holds data
        #[arg(long)]
        overwrite: bool,
        /// Size of a shard of a new image
        #[arg(long, value_parser = parse_size, default_value = "4M")]
        shard_size: u64,
        /// Fence a client that has the image open
        #[arg(long)]
        takeover: bool,
    },
    /// Copies an image into a raw file, keeping holes
    #[command(after_help = "Example:\n  brickctl -v vms.toml image export vm1 vm1.raw")]
    Export {
        /// The image to read
        name: ImageName,
        /// The file to write
        file: PathBuf,
        /// Replace the file if it exists
        #[arg(long)]
        force: bool,
        /// Fence a client that has the image open
        #[arg(long)]
        takeover: bool,
    },
}

#[derive(Subcommand, Debug)]
pub enum HealCommand {
    /// Shows the state of every copy
    #[command(after_help = "Example:\n  brickctl -v vms.toml heal status vm1 --json")]
    Status {
        /// Which image; all if left out
        name: Option<ImageName>,
        /// One line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Brings every copy up to date and says what that took
    #[command(after_help = "Example:\n  brickctl -v vms.toml heal run vm1")]
    Run {
        /// Which image; all if left out
        name: Option<ImageName>,
        /// One line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Shows the images that aren't healthy, and how fast they heal, until SIGINT or SIGTERM
    #[command(after_help = "Example:\n  brickctl -v vms.toml heal watch --interval 1")]
    Watch {
        /// Which image; all if left out
        name: Option<ImageName>,
        /// Seconds between two looks
        #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_seconds)]
        interval: Duration,
        /// One line of JSON at every interval
        #[arg(long)]
        json: bool,
    },
    /// Shows the last heals that the bricks remember since they were started
    #[command(after_help = "Example:\n  brickctl -v vms.toml heal history vm1")]
    History {
        /// Which image; all if left out
        name: Option<ImageName>,
        /// One line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Heals the images that nobody has open, until SIGTERM or SIGINT
    #[command(
        after_help = "Any number of agents share the images; one on each node is usual. A client that opens an \
                            image in the middle gets it at once, and heals by itself. Logs to stderr; BRICK_LOG \
                            says how much.\n\nExample:\n  brickctl -v vms.toml heal agent --interval 5"
    )]
    Agent {
        /// Seconds between two looks at all images
        #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse_seconds)]
        interval: Duration,
        /// Heal what can be healed now, and end
        #[arg(long)]
        once: bool,
        /// Scrub each image so many days after it was scrubbed last; 0 for never
        #[arg(long, value_name = "DAYS", default_value = "30", value_parser = parse_days)]
        scrub_days: Duration,
        /// Bytes that each brick may read a second for that
        #[arg(long, value_name = "BYTES", value_parser = parse_scrub_rate, default_value = "32M")]
        scrub_rate: u64,
        /// A line of JSON on stdout for each finished heal and scrub
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args, Debug)]
pub struct NbdArguments {
    /// Which image
    pub name: ImageName,
    /// Listen on a unix socket
    #[arg(long, required_unless_present = "listen", conflicts_with = "listen")]
    pub socket: Option<PathBuf>,
    /// Listen on TCP; anybody who can connect can read and write
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Fence a client that has the image open
    #[arg(long)]
    pub takeover: bool,
    /// Wait so many seconds for a client that has the image open to give it back (live migration)
    #[arg(long, value_name = "SECONDS", default_value_t = 0, conflicts_with = "takeover")]
    pub wait: u64,
    /// Refuse writes
    #[arg(long)]
    pub read_only: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum FormatArgument {
    /// Bytes as they are
    Raw,
    /// QEMU's copy-on-write format
    Qcow2,
}

impl From<FormatArgument> for SourceFormat {
    fn from(format: FormatArgument) -> SourceFormat {
        match format {
            FormatArgument::Raw => SourceFormat::Raw,
            FormatArgument::Qcow2 => SourceFormat::Qcow2,
        }
    }
}

/// A pause: an hour at most, and not so short that looking is all that is done.
fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "give 0.1 to 3600 seconds".to_owned())
}

/// Slower than this a pass would be taken for one that was given up.
fn parse_scrub_rate(text: &str) -> Result<u64, String> {
    parse_size(text).ok().filter(|rate| *rate >= 1 << 20).ok_or_else(|| "give 1M or more".to_owned())
}

/// A period; zero for never.
fn parse_days(text: &str) -> Result<Duration, String> {
    let days = text.parse::<f64>().ok().filter(|days| (0.0..=3650.0).contains(days));
    days.map(|days| Duration::from_secs_f64(days * 86400.0)).ok_or_else(|| "give 0 to 3650 days".to_owned())
}

/// The bricks of one `--group`.
#[derive(Clone, Debug)]
pub struct GroupArgument(pub Vec<BrickSpec>);

fn parse_group(text: &str) -> Result<GroupArgument, String> {
    let brick = |part: &str| {
        let (role, address) = part
            .split_once('=')
            .ok_or_else(|| format!("{part:?} is not ROLE=HOST:PORT; write e.g. data=10.0.0.1:7070"))?;
        let role = match role {
            "data" => Role::Data,
            "arbiter" => Role::Arbiter,
            _ => return Err(format!("{role:?} is no role; use data or arbiter")),
        };
        Ok(BrickSpec { role, address: address.to_owned() })
    };
    text.split(',').map(brick).collect::<Result<_, _>>().map(GroupArgument)
}
