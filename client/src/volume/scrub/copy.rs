//! One copy of an image as a scrub sees it: a data brick that verifies blocks when asked.

use std::collections::BTreeMap;
use std::rc::Rc;

use brick_wire::body::{Attach, VerifyReply};
use brick_wire::checksum::ZERO_BLOCK_CRC;
use brick_wire::cursor::Body;
use brick_wire::decode::Frame;
use brick_wire::handshake::PeerKind;
use brick_wire::limits::{BLOCK_SHIFT, DATA_BLOCKS_MAX};
use brick_wire::placement::{core_of, lane_of};
use brick_wire::register::ImageValue;
use brick_wire::{BlockRange, BlockSet, CoreIndex, Flags, Header, Opcode, RequestId, ShardIndex, Status};

use crate::driver::connection::ConnectError;
use crate::driver::control::Control;
use crate::replica::{BrickConfig, HANDLE};
use crate::volume::{Volume, VolumeError};

/// A data brick and its connections to all cores.
#[derive(Clone)]
pub(super) struct Copy {
    address: String,
    cores: Vec<Rc<Control>>,
    value: ImageValue,
    /// The copy is good, as far as anybody knows.
    pub(super) in_sync: bool,
}

/// What a copy says of some blocks of a shard.
#[derive(Debug, Default)]
pub(super) struct Verified {
    /// Blocks that were read: none of a shard that doesn't exist.
    pub(super) read_blocks: u64,
    /// Blocks that can't be read or aren't what was last written.
    pub(super) bad: BlockSet,
    /// The CRCs of the others.
    pub(super) crcs: BTreeMap<u16, u32>,
}

impl Volume {
    pub(super) async fn open_copy(
        &self,
        brick: &BrickConfig,
        value: &ImageValue,
        in_sync: bool,
    ) -> Result<Copy, VolumeError> {
        let caller = self.caller(PeerKind::Client, Volume::fresh_session());
        let first = Rc::new(Control::open(&brick.address, &caller, brick.brick, CoreIndex(0)).await?);
        let mut cores = vec![first.clone()];
        for core in (1..first.welcome.cores).map(CoreIndex) {
            cores.push(Rc::new(Control::open(&brick.address, &caller, brick.brick, core).await?));
        }
        let attach = Attach { image: value.image, shard_shift: value.shard_shift };
        for control in &cores {
            let mut header = Header::request(Opcode::Attach, RequestId(0));
            header.image = HANDLE;
            control.call(header, attach.to_bytes()).await?;
        }
        Ok(Copy { address: brick.address.clone(), cores, value: value.clone(), in_sync })
    }
}

/// Has all copies verify the same blocks at the same time.
pub(super) async fn verify_all(
    copies: &[Copy],
    shard: ShardIndex,
    blocks: Option<&BlockSet>,
) -> Result<Vec<Verified>, VolumeError> {
    let verify = |copy: &Copy| {
        let (copy, blocks) = (copy.clone(), blocks.cloned());
        monoio::spawn(async move { copy.verify(shard, blocks.as_ref()).await })
    };
    let tasks: Vec<_> = copies.iter().map(verify).collect();
    let mut verified = Vec::new();
    for task in tasks {
        verified.push(task.await?);
    }
    Ok(verified)
}

impl Copy {
    /// Has the brick verify the blocks of a shard (`None`: all).
    pub(super) async fn verify(
        &self,
        shard: ShardIndex,
        blocks: Option<&BlockSet>,
    ) -> Result<Verified, VolumeError> {
        let whole = BlockSet::full(1 << (u32::from(self.value.shard_shift) - BLOCK_SHIFT));
        // All at once: a shard's worth.
        let asked = blocks.unwrap_or(&whole).runs(DATA_BLOCKS_MAX);
        let asked = asked.map(|run| (run, monoio::spawn(self.ask(Opcode::Verify, shard, run))));
        let asked: Vec<_> = asked.collect();
        let mut verified = Verified::default();
        for (run, answer) in asked {
            let reply = answer.await?;
            let body = VerifyReply::from_bytes(&reply.aux);
            let (Status::Ok, Ok(body)) = (reply.header.status, body) else {
                return Err(self.refused("to a verification", reply.header.status));
            };
            if reply.header.flags.contains(Flags::ZEROES) {
                verified.crcs.extend(run.iter().map(|block| (block, ZERO_BLOCK_CRC)));
                continue;
            }
            verified.read_blocks += u64::from(run.count);
            let good = run.iter().zip(body.crcs).filter(|(block, _)| !body.bad.contains(*block));
            verified.crcs.extend(good);
            verified.bad.insert_all(&body.bad);
        }
        Ok(verified)
    }

    /// Tells the brick that another copy differs in these blocks.
    pub(super) async fn suspect(&self, shard: ShardIndex, blocks: &BlockSet) -> Result<(), VolumeError> {
        for run in blocks.runs(DATA_BLOCKS_MAX) {
            let reply = self.ask(Opcode::Suspect, shard, run).await?;
            // One that has heard of many is told again.
            if !matches!(reply.header.status, Status::Ok | Status::Busy) {
                return Err(self.refused("when it was told of copies that differ", reply.header.status));
            }
        }
        Ok(())
    }

    fn ask(
        &self,
        opcode: Opcode,
        shard: ShardIndex,
        blocks: BlockRange,
    ) -> impl Future<Output = Result<Frame, ConnectError>> + use<> {
        let welcome = &self.cores[0].welcome;
        let core = core_of(lane_of(self.value.image, shard, welcome.lanes), welcome.cores);
        let mut header = Header::request(opcode, RequestId(0));
        (header.image, header.shard, header.blocks) = (HANDLE, shard, blocks);
        let control = self.cores[usize::from(core.0)].clone();
        async move { control.call(header, Vec::new()).await }
    }

    fn refused(&self, what: &str, status: Status) -> VolumeError {
        let reason = format!("it answered {status:?} {what}");
        VolumeError::BadBrick { address: self.address.clone(), reason }
    }
}
