//! Threads for what would block a core: the register log, the activity log, directories, and names.
//!
//! Five of them, shared by all cores: promises, first writes to a shard and flushes must not wait behind the
//! deletion of a large image, and none of these behind a name server. Each does its chores in order. The queues hold at most
//! what the cores' disk limits and dials allow, so they need no bound of their own.

use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};

use brick_wire::cursor::Body;
use brick_wire::record::EpochRecord;
use brick_wire::register::{RegisterEntry, RegisterKey};
use brick_wire::{BrickUuid, CoreIndex, Floors, ImageUuid, Incarnation, LaneIndex, StartCounter};
use crossbeam::channel::{Receiver, Sender, unbounded};
use tracing::{error, info};

use super::disk::disk_error;
use super::mail::{Mail, Mailbox};
use crate::engine::{ActiveShard, ConnectionId, DiskError, Membership, OperationId, SavedDirty};
use crate::store::activity::ActivityFile;
use crate::store::error::StoreError;
use crate::store::register_log::RegisterLog;
use crate::store::superblock::SuperblockFile;
use crate::store::{self, dirty, shards};

/// A disk request for a helper; see the variants of [`crate::engine::DiskRequest`] with the same names.
#[derive(Debug)]
pub enum HelperRequest {
    /// To the register log.
    AppendRegisters(Vec<RegisterEntry>),
    /// To the superblock.
    WriteIdentity(Option<Membership>, bool, Floors),
    /// To the superblock.
    Adopt(BrickUuid, Membership, StartCounter),
    /// To a lane's `activity`.
    WriteActivity(LaneIndex, Vec<ActiveShard>),
    /// To a lane's `dirty`.
    SaveDirty(LaneIndex, Vec<SavedDirty>),
    /// Of an image in a lane.
    SyncDirectory(LaneIndex, ImageUuid),
    /// From a lane.
    RemoveImage(LaneIndex, ImageUuid),
}

#[derive(Debug)]
enum Chore {
    Disk { core: CoreIndex, operation: OperationId, request: HelperRequest },
    Resolve { core: CoreIndex, connection: ConnectionId, address: String },
}

/// What the helpers work on.
#[derive(Debug)]
pub struct Tools {
    /// The brick's directory.
    pub path: PathBuf,
    /// This life of the brick.
    pub incarnation: Incarnation,
    /// Shared with whoever notes the clean stop.
    pub superblock: Arc<Mutex<SuperblockFile>>,
    /// Bytes of disk under shard files.
    pub used_bytes: Arc<AtomicU64>,
    /// Where answers go, by core.
    pub mailboxes: Arc<Vec<Mailbox>>,
}

/// Files of which one helper is the only writer.
#[derive(Debug, Default)]
struct Logs {
    registers: Option<RegisterLog>,
    /// By lane.
    activity: Vec<ActivityFile>,
}

/// Where the cores leave their chores. Dropping it ends the helpers, once they have done what is queued.
#[derive(Debug)]
pub struct Helpers {
    identity: Sender<Chore>,
    activity: Sender<Chore>,
    files: Sender<Chore>,
    removals: Sender<Chore>,
    names: Sender<Chore>,
}

impl Helpers {
    /// Starts the threads.
    pub fn start(
        tools: Tools,
        registers: RegisterLog,
        activity: Vec<ActivityFile>,
    ) -> std::io::Result<(Helpers, Vec<JoinHandle<()>>)> {
        let tools = Arc::new(tools);
        let mut threads = Vec::new();
        let mut start = |name: &str, logs: Logs| {
            let (sender, chores) = unbounded();
            let tools = tools.clone();
            threads.push(Builder::new().name(name.to_owned()).spawn(move || work(&chores, &tools, logs))?);
            Ok::<_, std::io::Error>(sender)
        };
        let helpers = Helpers {
            identity: start("registers", Logs { registers: Some(registers), ..Logs::default() })?,
            activity: start("activity", Logs { activity, ..Logs::default() })?,
            files: start("files", Logs::default())?,
            removals: start("removals", Logs::default())?,
            names: start("names", Logs::default())?,
        };
        Ok((helpers, threads))
    }

    /// Answered by [`Mail::Helped`].
    pub fn disk(&self, core: CoreIndex, operation: OperationId, request: HelperRequest) {
        let helper = match request {
            HelperRequest::AppendRegisters(_)
            | HelperRequest::WriteIdentity(..)
            | HelperRequest::Adopt(..) => &self.identity,
            // Shards may have to wait for these maps before they leave the log.
            HelperRequest::WriteActivity(..) | HelperRequest::SaveDirty(..) => &self.activity,
            HelperRequest::SyncDirectory(..) => &self.files,
            HelperRequest::RemoveImage(..) => &self.removals,
        };
        helper.send(Chore::Disk { core, operation, request }).expect("helpers outlive the cores");
    }

    /// Answered by [`Mail::Resolved`].
    pub fn resolve(&self, core: CoreIndex, connection: ConnectionId, address: String) {
        let chore = Chore::Resolve { core, connection, address };
        self.names.send(chore).expect("helpers outlive the cores");
    }
}

fn work(chores: &Receiver<Chore>, tools: &Tools, mut logs: Logs) {
    for chore in chores {
        let (core, mail) = match chore {
            Chore::Disk { core, operation, request } => {
                let result = perform(request, tools, &mut logs).map_err(|failure| {
                    error!("{failure}");
                    to_disk_error(&failure)
                });
                (core, Mail::Helped { operation, result })
            }
            Chore::Resolve { core, connection, address } => {
                let found = address.to_socket_addrs();
                let result = found.map(Iterator::collect).map_err(|failure| failure.to_string());
                (core, Mail::Resolved { connection, result })
            }
        };
        tools.mailboxes[usize::from(core.0)].send(mail);
    }
}

fn perform(request: HelperRequest, tools: &Tools, logs: &mut Logs) -> Result<(), StoreError> {
    match request {
        HelperRequest::AppendRegisters(entries) => {
            let log = logs.registers.as_mut();
            log.expect("appends go to the helper that has the log").append(&entries)?;
            entries.iter().for_each(note_record);
            Ok(())
        }
        HelperRequest::WriteActivity(lane, entries) => {
            let log = logs.activity.get_mut(usize::from(lane.0));
            log.expect("tables go to the helper that has the logs").write(tools.incarnation.start, entries)
        }
        HelperRequest::WriteIdentity(membership, blank, floors) => {
            let mut superblock = tools.superblock.lock().expect("nobody panics while writing it");
            store::write_identity(&tools.path, &mut superblock, membership, blank, floors)
        }
        HelperRequest::Adopt(brick, membership, start) => {
            let mut superblock = tools.superblock.lock().expect("nobody panics while writing it");
            store::write_adoption(&mut superblock, brick, membership, start)?;
            info!(
                "this brick takes the place of brick {brick}, whose disk is lost, and starts again as that one"
            );
            Ok(())
        }
        HelperRequest::SaveDirty(lane, maps) => dirty::save(&tools.path, lane, tools.incarnation, &maps),
        HelperRequest::SyncDirectory(lane, image) => shards::sync_image(&tools.path, lane, image),
        HelperRequest::RemoveImage(lane, image) => {
            let freed_bytes = shards::remove_image(&tools.path, lane, image)?;
            let subtract = |used: u64| Some(used.saturating_sub(freed_bytes));
            let _ = tools.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, subtract);
            Ok(())
        }
    }
}

/// Operators see in the log who took an image, and which copies count: each change of S is a line.
fn note_record(entry: &RegisterEntry) {
    let RegisterKey::Epoch(image) = entry.key else { return };
    let is_news = entry.state.accepted == entry.state.promised;
    if let Some(record) = EpochRecord::from_bytes(&entry.state.value).ok().filter(|_| is_news) {
        let in_sync: Vec<_> = record
            .in_sync
            .iter()
            .map(|index| record.members[usize::from(index.0)].brick.to_string())
            .collect();
        info!(
            "image {image}: epoch {} accepted, {:?} of session {}, in sync: {}",
            record.epoch,
            record.kind,
            record.holder,
            in_sync.join(", ")
        );
    }
}

/// What isn't the kernel's refusal is an I/O error to the engine; the log line said more.
fn to_disk_error(failure: &StoreError) -> DiskError {
    disk_error(failure.errno().unwrap_or(libc::EIO))
}
