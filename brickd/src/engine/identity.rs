//! What the brick is, on core 0: member of which volume, and whether it lost its registers (rule R2).
//!
//! Every change is durable before its reply. A brick told that it is blank stops voting at once, before
//! that is durable; it votes again only after the clearing is durable. Changes are written one at a time.

use std::collections::VecDeque;

use brick_wire::Header;
use brick_wire::body::Stamp;
use brick_wire::handshake::PeerKind;
use brick_wire::{Status, VolumeUuid};

use super::requests::Outcome;
use super::{ConnectionId, CoreMessage, DiskRequest, Engine, Membership, Purpose, Token};

#[derive(Clone, Debug)]
enum Change {
    DeclareBlank,
    ClearBlank,
    Stamp(Membership),
}

/// Membership and blankness, and the changes that wait to be written.
#[derive(Debug)]
pub(super) struct Identity {
    membership: Option<Membership>,
    blank: bool,
    running: Option<(Token, Change)>,
    waiting: VecDeque<(Token, Change)>,
}

impl Identity {
    pub(super) fn new(membership: Option<Membership>, blank: bool) -> Identity {
        Identity { membership, blank, running: None, waiting: VecDeque::new() }
    }

    /// Whether the brick may not vote.
    pub(super) fn is_blank(&self) -> bool {
        self.blank
    }
}

impl Engine {
    /// `Stamp`: a formatted brick becomes a member of a volume.
    pub(super) fn stamp(&mut self, id: ConnectionId, header: Header, stamp: Stamp) -> Outcome {
        if self.hello_of(id).kind != PeerKind::Operator
            || stamp.volume == VolumeUuid::NIL
            || stamp.role != self.config.role
            || !stamp.members.contains(&self.own_brick())
        {
            return Err(Status::Invalid);
        }
        let membership = Membership { volume: stamp.volume, group: stamp.group, members: stamp.members };
        self.change_identity(id, header, Change::Stamp(membership))
    }

    /// `BlankDeclare`: the record knows a later start of this brick than this one.
    pub(super) fn blank_declare(&mut self, id: ConnectionId, header: Header) -> Outcome {
        self.identity.blank = true;
        self.tell_others(|| CoreMessage::Distrust);
        self.distrust_maps();
        self.change_identity(id, header, Change::DeclareBlank)
    }

    /// The brick is an older copy of itself: what its maps don't mark may differ all the same.
    pub(super) fn distrust_maps(&mut self) {
        let images: Vec<_> = self.files.images().chain(self.fences.images()).collect();
        images.into_iter().for_each(|image| self.dirty.set_inexact(image));
    }

    /// `BlankClear`: every register was learned.
    pub(super) fn blank_clear(&mut self, id: ConnectionId, header: Header) -> Outcome {
        if self.registers.is_vote_lost() {
            return Err(Status::Io);
        }
        // Images that it knows of only now have maps here that are as old as it was, too.
        self.tell_others(|| CoreMessage::Distrust);
        self.distrust_maps();
        self.change_identity(id, header, Change::ClearBlank)
    }

    fn change_identity(&mut self, id: ConnectionId, header: Header, change: Change) -> Outcome {
        let token = self.open_issued(id, header, None);
        self.identity.waiting.push_back((token, change));
        self.write_identity();
        Ok(None)
    }

    /// Starts the next change that needs a write; answers those that don't.
    fn write_identity(&mut self) {
        while self.identity.running.is_none() {
            let Some((token, change)) = self.identity.waiting.pop_front() else { return };
            let (mut membership, mut blank) = (self.identity.membership.clone(), self.identity.blank);
            match &change {
                Change::DeclareBlank => blank = true,
                Change::ClearBlank => blank = false,
                Change::Stamp(stamp) => match &membership {
                    Some(before) => {
                        let same = before == stamp;
                        self.answer(token, if same { Status::Ok } else { Status::AlreadyStamped }.into());
                        continue;
                    }
                    None => membership = Some(stamp.clone()),
                },
            }
            self.identity.running = Some((token, change));
            self.disk(Purpose::Identity, DiskRequest::WriteIdentity { membership, blank });
        }
    }

    pub(super) fn identity_written(&mut self, good: bool) {
        let (token, change) = self.identity.running.take().expect("one write runs");
        if good {
            match change {
                Change::DeclareBlank => {}
                // A declaration that came meanwhile stands.
                Change::ClearBlank => {
                    let mut waiting = self.identity.waiting.iter();
                    self.identity.blank = waiting.any(|(_, next)| matches!(next, Change::DeclareBlank));
                }
                Change::Stamp(membership) => {
                    self.identity.membership = Some(membership.clone());
                    self.config.membership = Some(membership.clone());
                    self.tell_others(|| CoreMessage::Stamped { membership: membership.clone() });
                }
            }
        }
        self.answer(token, if good { Status::Ok } else { Status::Io }.into());
        self.write_identity();
    }
}
