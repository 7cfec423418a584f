//! The volume file: which bricks make up a volume, and how clients behave. TOML, written once by
//! `brickctl volume create`, read by everything else.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use brick_wire::limits::{ADDRESS_BYTES_MAX, GROUP_BRICKS_MAX, GROUPS_MAX};
use brick_wire::{BrickUuid, Role, VolumeUuid};
use serde::{Deserialize, Serialize};

use crate::replica::{BrickConfig, NoQuorum, Quorum};

/// The parsed and checked volume file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeConfig {
    /// The volume.
    pub volume: VolumeUuid,
    /// How long a silent brick may hold up I/O.
    pub brick_timeout: Duration,
    /// I/O that can't be served for this long fails.
    pub io_timeout: Duration,
    /// Whether it waits at all.
    pub no_quorum: NoQuorum,
    /// How long a client looks for answers before it sleeps: latency for processor time.
    pub spin: Duration,
    /// One copy of everything, on one data brick a group: for scratch data and measurements. Said in the file, so that
    /// nobody has such a volume because a brick was forgotten.
    pub unreplicated: bool,
    /// The replica groups.
    pub groups: Vec<Group>,
}

/// A replica group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its share of the shards, relative to the other groups.
    pub weight: u32,
    /// Who may decide.
    pub quorum: Quorum,
    /// Its bricks.
    pub bricks: Vec<BrickConfig>,
}

/// Why a volume file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It can't be read.
    #[error("can't read volume file {path}: {source}; check the path given with -v")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It isn't a volume file.
    #[error("bad volume file {path}: line {line}: {}", one_line(source.message()))]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where.
        line: usize,
        /// Why.
        source: Box<toml::de::Error>,
    },
    /// It describes no possible volume.
    #[error("bad volume file {path}: {reason}")]
    Meaning {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: Meaning,
    },
    /// It can't be written.
    #[error("can't write volume file {path}: {source}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What makes a set of groups impossible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Meaning {
    /// No group, or too many.
    #[error("{0} groups; a volume has 1 to {GROUPS_MAX}")]
    Groups(usize),
    /// The roles make no replica group.
    #[error(
        "group {group} has {data} data bricks and {arbiters} arbiters; \
         use 2 data + 1 arbiter, 3 data, or 2 data"
    )]
    Roles {
        /// Which group.
        group: usize,
        /// Data bricks.
        data: usize,
        /// Arbiters.
        arbiters: usize,
    },
    /// One data brick, and nobody said that this is meant.
    #[error(
        "group {0} has one data brick and nothing else, so every failure of it stops the volume and may lose data; use \
         2 data + 1 arbiter, 3 data, or 2 data, or, for a new volume of scratch data, `volume create --unreplicated`"
    )]
    OneBrick(usize),
    /// `unreplicated` elsewhere than on one data brick.
    #[error(
        "group {group} has {data} data bricks and {arbiters} arbiters, but in an unreplicated volume each group is one \
         data brick; drop the other bricks, or drop `unreplicated`"
    )]
    Unreplicated {
        /// Which group.
        group: usize,
        /// Data bricks.
        data: usize,
        /// Arbiters.
        arbiters: usize,
    },
    /// A weight of zero.
    #[error("group {0} has weight 0; use 1 or more")]
    Weight(usize),
    /// One brick twice.
    #[error("brick {0} is listed twice")]
    Duplicate(String),
    /// A brick under two addresses.
    #[error("the brick at {0} is listed under another address, too; each brick counts once")]
    SameBrick(String),
    /// No address.
    #[error("brick address {0:?} is not HOST:PORT")]
    Address(String),
    /// `quorum = "first"` elsewhere than on two data bricks.
    #[error("group {0}: quorum = \"first\" is for groups of 2 data bricks without an arbiter")]
    First(usize),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VolumeFile {
    volume: uuid::Uuid,
    #[serde(default)]
    options: Options,
    groups: Vec<GroupFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    brick_timeout_ms: u64,
    io_timeout_ms: u64,
    no_quorum: NoQuorumFile,
    spin_us: u64,
    /// Not written where it is false: clients that know no such volumes read the others' files.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unreplicated: bool,
}

#[derive(Serialize, Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum NoQuorumFile {
    #[default]
    Suspend,
    Error,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupFile {
    #[serde(default = "one")]
    weight: u32,
    #[serde(default)]
    quorum: QuorumFile,
    bricks: Vec<BrickFile>,
}

#[derive(Serialize, Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum QuorumFile {
    #[default]
    Majority,
    First,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BrickFile {
    role: RoleFile,
    address: String,
    uuid: uuid::Uuid,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum RoleFile {
    Data,
    Arbiter,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            brick_timeout_ms: 4000,
            io_timeout_ms: 30_000,
            no_quorum: NoQuorumFile::Suspend,
            spin_us: 200,
            unreplicated: false,
        }
    }
}

/// Nobody looks longer for one answer.
const SPIN_US_MAX: u64 = 10_000;

const _: () = assert!(GROUP_BRICKS_MAX >= 3, "the largest group");

fn one() -> u32 {
    1
}

impl VolumeConfig {
    /// A replicated volume of these groups with default options.
    pub fn new(volume: VolumeUuid, groups: Vec<Group>) -> VolumeConfig {
        let options = Options::default();
        VolumeConfig {
            volume,
            brick_timeout: Duration::from_millis(options.brick_timeout_ms),
            io_timeout: Duration::from_millis(options.io_timeout_ms),
            no_quorum: NoQuorum::Suspend,
            spin: Duration::from_micros(options.spin_us),
            unreplicated: options.unreplicated,
            groups,
        }
    }

    /// Reads and checks a volume file.
    pub fn load(path: &Path) -> Result<VolumeConfig, ConfigError> {
        let owned = || path.to_path_buf();
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: owned(), source })?;
        let file: VolumeFile = toml::from_str(&text).map_err(|source| parse_error(path, &text, source))?;
        let config = VolumeConfig {
            volume: VolumeUuid(file.volume),
            brick_timeout: Duration::from_millis(file.options.brick_timeout_ms.max(1)),
            io_timeout: Duration::from_millis(file.options.io_timeout_ms.max(1)),
            no_quorum: match file.options.no_quorum {
                NoQuorumFile::Suspend => NoQuorum::Suspend,
                NoQuorumFile::Error => NoQuorum::Error,
            },
            spin: Duration::from_micros(file.options.spin_us.min(SPIN_US_MAX)),
            unreplicated: file.options.unreplicated,
            groups: file.groups.into_iter().map(Group::from).collect(),
        };
        config.check().map_err(|reason| ConfigError::Meaning { path: owned(), reason })?;
        Ok(config)
    }

    /// Writes the file, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<(), ConfigError> {
        let failed = |source| ConfigError::Write { path: path.to_path_buf(), source };
        let text = toml::to_string(&self.to_file()).expect("the file's types are representable in TOML");
        let partial = path.with_extension("partial");
        let mut file = std::fs::File::create(&partial).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&partial, path).map_err(failed)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = std::fs::File::open(parent.unwrap_or(Path::new("."))).map_err(failed)?;
        directory.sync_all().map_err(failed)
    }

    /// Whether the groups make a volume.
    pub fn check(&self) -> Result<(), Meaning> {
        if self.groups.is_empty() || self.groups.len() > GROUPS_MAX {
            return Err(Meaning::Groups(self.groups.len()));
        }
        let mut seen = Vec::new();
        let mut uuids: Vec<BrickUuid> = Vec::new();
        for (index, group) in self.groups.iter().enumerate() {
            let data = group.bricks.iter().filter(|brick| brick.role == Role::Data).count();
            let arbiters = group.bricks.len() - data;
            match (data, arbiters) {
                (1, 0) if self.unreplicated => {}
                (1, 0) => return Err(Meaning::OneBrick(index)),
                _ if self.unreplicated => {
                    return Err(Meaning::Unreplicated { group: index, data, arbiters });
                }
                (2, 1) | (3, 0) | (2, 0) => {}
                _ => return Err(Meaning::Roles { group: index, data, arbiters }),
            }
            if group.weight == 0 {
                return Err(Meaning::Weight(index));
            }
            if group.quorum == Quorum::First && (data, arbiters) != (2, 0) {
                return Err(Meaning::First(index));
            }
            for brick in &group.bricks {
                check_address(&brick.address)?;
                if seen.contains(&&brick.address) {
                    return Err(Meaning::Duplicate(brick.address.clone()));
                }
                seen.push(&brick.address);
                // Two names of one brick: it would vote twice, and hold every copy.
                if !brick.brick.is_nil() && uuids.contains(&brick.brick) {
                    return Err(Meaning::SameBrick(brick.address.clone()));
                }
                uuids.push(brick.brick);
            }
        }
        Ok(())
    }

    fn to_file(&self) -> VolumeFile {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        VolumeFile {
            volume: self.volume.0,
            options: Options {
                brick_timeout_ms: millis(self.brick_timeout),
                io_timeout_ms: millis(self.io_timeout),
                no_quorum: match self.no_quorum {
                    NoQuorum::Suspend => NoQuorumFile::Suspend,
                    NoQuorum::Error => NoQuorumFile::Error,
                },
                spin_us: self.spin.as_micros() as u64,
                unreplicated: self.unreplicated,
            },
            groups: self.groups.iter().map(GroupFile::from).collect(),
        }
    }
}

impl From<GroupFile> for Group {
    fn from(file: GroupFile) -> Group {
        let brick = |brick: BrickFile| BrickConfig {
            brick: BrickUuid(brick.uuid),
            role: match brick.role {
                RoleFile::Data => Role::Data,
                RoleFile::Arbiter => Role::Arbiter,
            },
            address: brick.address,
        };
        Group {
            weight: file.weight,
            quorum: match file.quorum {
                QuorumFile::Majority => Quorum::Majority,
                QuorumFile::First => Quorum::First,
            },
            bricks: file.bricks.into_iter().map(brick).collect(),
        }
    }
}

impl From<&Group> for GroupFile {
    fn from(group: &Group) -> GroupFile {
        let brick = |brick: &BrickConfig| BrickFile {
            role: match brick.role {
                Role::Data => RoleFile::Data,
                Role::Arbiter => RoleFile::Arbiter,
            },
            address: brick.address.clone(),
            uuid: brick.brick.0,
        };
        GroupFile {
            weight: group.weight,
            quorum: match group.quorum {
                Quorum::Majority => QuorumFile::Majority,
                Quorum::First => QuorumFile::First,
            },
            bricks: group.bricks.iter().map(brick).collect(),
        }
    }
}

fn parse_error(path: &Path, text: &str, source: toml::de::Error) -> ConfigError {
    let before = source.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = 1 + before.matches('\n').count();
    ConfigError::Parse { path: path.to_path_buf(), line, source: Box::new(source) }
}

/// Errors are sentences, and sentences have no line breaks.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(", ")
}

fn check_address(address: &str) -> Result<(), Meaning> {
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    let valid = port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    if valid && address.len() <= ADDRESS_BYTES_MAX {
        Ok(())
    } else {
        Err(Meaning::Address(address.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brick(number: u8, role: Role) -> BrickConfig {
        BrickConfig {
            brick: BrickUuid::from_bytes([number; 16]),
            role,
            address: format!("127.0.0.1:{}", 7000 + u16::from(number)),
        }
    }

    fn group(roles: &[Role]) -> Group {
        let bricks = roles.iter().enumerate().map(|(index, role)| brick(index as u8, *role)).collect();
        Group { weight: 1, quorum: Quorum::Majority, bricks }
    }

    #[test]
    fn a_saved_file_loads_as_it_was() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("volume.toml");
        let groups = vec![group(&[Role::Data, Role::Data, Role::Arbiter])];
        let config = VolumeConfig::new(VolumeUuid::from_bytes([9; 16]), groups);
        config.save(&path).expect("saved");
        assert_eq!(VolumeConfig::load(&path).expect("loaded"), config);
    }

    #[test]
    fn impossible_groups_are_refused() {
        let check = |group: Group| VolumeConfig::new(VolumeUuid::NIL, vec![group]).check();
        assert!(check(group(&[Role::Data, Role::Data, Role::Data])).is_ok());
        assert!(matches!(check(group(&[Role::Data, Role::Arbiter])), Err(Meaning::Roles { .. })));
        let mut twice = group(&[Role::Data, Role::Data]);
        twice.bricks[1].address = twice.bricks[0].address.clone();
        assert!(matches!(check(twice), Err(Meaning::Duplicate(_))));
        let mut one = group(&[Role::Data, Role::Data]);
        for (index, brick) in one.bricks.iter_mut().enumerate() {
            (brick.brick, brick.address) = (BrickUuid::from_bytes([7; 16]), format!("name{index}:7070"));
        }
        assert!(matches!(check(one), Err(Meaning::SameBrick(_))));
        let mut portless = group(&[Role::Data, Role::Data]);
        portless.bricks[1].address = "somewhere".to_owned();
        assert!(matches!(check(portless), Err(Meaning::Address(_))));
    }

    #[test]
    fn one_brick_is_a_group_where_the_file_says_so() {
        let check = |unreplicated: bool, groups: Vec<Group>| {
            VolumeConfig { unreplicated, ..VolumeConfig::new(VolumeUuid::NIL, groups) }.check()
        };
        let one = || group(&[Role::Data]);
        let mut another = one();
        another.bricks[0] = brick(9, Role::Data);
        assert_eq!(check(true, vec![one()]), Ok(()));
        assert_eq!(check(true, vec![one(), another.clone()]), Ok(()));
        assert_eq!(check(false, vec![one()]), Err(Meaning::OneBrick(0)));
        let replicated = group(&[Role::Data, Role::Data, Role::Arbiter]);
        assert_eq!(check(false, vec![replicated.clone(), another.clone()]), Err(Meaning::OneBrick(1)));
        let refused = Err(Meaning::Unreplicated { group: 1, data: 2, arbiters: 1 });
        assert_eq!(check(true, vec![another, replicated]), refused);
        for roles in [&[][..], &[Role::Arbiter], &[Role::Data, Role::Data], &[Role::Data, Role::Arbiter]] {
            let check = check(true, vec![group(roles)]);
            assert!(matches!(check, Err(Meaning::Unreplicated { group: 0, .. })), "{roles:?}: {check:?}");
        }
        assert_eq!(check(true, vec![Group { quorum: Quorum::First, ..one() }]), Err(Meaning::First(0)));
    }

    #[test]
    fn only_the_file_of_an_unreplicated_volume_says_so() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("volume.toml");
        let new = |roles: &[Role]| VolumeConfig::new(VolumeUuid::from_bytes([9; 16]), vec![group(roles)]);
        let config = VolumeConfig { unreplicated: true, ..new(&[Role::Data]) };
        config.save(&path).expect("saved");
        assert_eq!(VolumeConfig::load(&path).expect("loaded"), config);
        let text = std::fs::read_to_string(&path).expect("text");
        std::fs::write(&path, text.replace("unreplicated = true", "")).expect("written");
        let error = VolumeConfig::load(&path).expect_err("refused").to_string();
        assert!(error.contains("volume.toml") && error.contains("has one data brick"), "{error}");
        new(&[Role::Data, Role::Data]).save(&path).expect("saved");
        let text = std::fs::read_to_string(&path).expect("text");
        assert!(!text.contains("unreplicated"), "older clients refuse keys that they don't know: {text}");
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_line() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("volume.toml");
        std::fs::write(&path, "volume = \"00000000-0000-0000-0000-000000000000\"\ncolour = 1\ngroups = []\n")
            .expect("written");
        let error = VolumeConfig::load(&path).expect_err("refused").to_string();
        assert!(error.contains("line 2") && error.contains("colour"), "{error}");
    }
}
