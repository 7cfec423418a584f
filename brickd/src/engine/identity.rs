//! What the brick is, on core 0: member of which volume, whether it lost its registers, and which lives of the other
//! members don't count any more (rule R2).
//!
//! Every change is durable before its reply. A brick told that it is blank stops voting at once, before
//! that is durable; it votes again only after the clearing is durable. Changes are written one at a time.
//!
//! Clients rely on what their welcome said of blankness and floors for as long as the connection lives. So when it
//! isn't so any more the connection is closed: whoever asks for another vote here has heard of it.
//!
//! A brick that takes the place of another one is that one from its next start on. Until then it does nothing more.

use std::collections::VecDeque;

use brick_wire::body::{Adopt, Retire, Stamp};
use brick_wire::handshake::PeerKind;
use brick_wire::{BrickUuid, Floors, Header, StartCounter, Status, VolumeUuid};

use super::requests::Outcome;
use super::{
    Action, ConnectionId, CoreMessage, DiskRequest, Engine, EngineConfig, Membership, Purpose, Standing,
    Token,
};

#[derive(Clone, Debug)]
enum Change {
    DeclareBlank,
    ClearBlank,
    Stamp(Membership),
    Retire(Retire),
    Adopt { brick: BrickUuid, start: StartCounter, membership: Membership },
}

/// Membership, blankness and floors, and the changes that wait to be written.
#[derive(Debug)]
pub(super) struct Identity {
    membership: Option<Membership>,
    blank: bool,
    floors: Floors,
    standing: Standing,
    running: Option<(Token, Change)>,
    waiting: VecDeque<(Token, Change)>,
}

impl Identity {
    pub(super) fn new(config: &EngineConfig) -> Identity {
        Identity {
            membership: config.membership.clone(),
            blank: config.blank,
            floors: config.floors.clone(),
            standing: Standing::default(),
            running: None,
            waiting: VecDeque::new(),
        }
    }

    /// Whether the brick may not vote.
    pub(super) fn is_blank(&self) -> bool {
        self.blank
    }

    /// Retired lives of the other members.
    pub(super) fn floors(&self) -> &Floors {
        &self.floors
    }

    /// What a welcome tells now.
    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    /// Whether the brick is becoming another one.
    fn is_adopting(&self) -> bool {
        let mut changes = self.running.iter().chain(&self.waiting);
        changes.any(|(_, change)| matches!(change, Change::Adopt { .. }))
    }
}

impl Engine {
    /// `Stamp`: a formatted brick becomes a member of a volume.
    pub(super) fn stamp(&mut self, id: ConnectionId, header: Header, stamp: Stamp) -> Outcome {
        let membership = self.membership_of(id, stamp, self.own_brick())?;
        self.change_identity(id, header, Change::Stamp(membership))
    }

    /// `Adopt`: a formatted brick takes the place of a member whose disk is lost.
    pub(super) fn adopt(&mut self, id: ConnectionId, header: Header, adopt: Adopt) -> Outcome {
        let Adopt { brick, start, stamp } = adopt;
        let membership = self.membership_of(id, stamp, brick)?;
        match &self.identity.membership {
            // Done, perhaps by a request whose answer was lost.
            Some(before) if *before == membership && brick == self.own_brick() => {
                return Ok(Some(Status::Ok.into()));
            }
            Some(_) => return Err(Status::AlreadyStamped),
            None if !self.registers.is_empty() || self.files.images().next().is_some() => {
                return Err(Status::Invalid);
            }
            None => {}
        }
        self.change_identity(id, header, Change::Adopt { brick, start, membership })
    }

    /// What a stamp makes of `brick`, if an operator sent it and it makes sense.
    fn membership_of(&self, id: ConnectionId, stamp: Stamp, brick: BrickUuid) -> Result<Membership, Status> {
        if self.hello_of(id).kind != PeerKind::Operator
            || stamp.volume == VolumeUuid::NIL
            || stamp.role != self.config.role
            || !stamp.members.contains(&brick)
        {
            return Err(Status::Invalid);
        }
        Ok(Membership { volume: stamp.volume, group: stamp.group, members: stamp.members })
    }

    /// `Retire`: lives of another member below a start counter don't count any more.
    pub(super) fn retire(&mut self, id: ConnectionId, header: Header, retire: Retire) -> Outcome {
        let membership = self.identity.membership.as_ref();
        let is_other = retire.brick != self.own_brick()
            && membership.is_some_and(|membership| membership.members.contains(&retire.brick));
        if self.hello_of(id).kind != PeerKind::Operator || !is_other {
            return Err(Status::Invalid);
        }
        self.change_identity(id, header, Change::Retire(retire))
    }

    /// `BlankDeclare`: the record knows a later start of this brick than this one, or the others a floor above it.
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
        if self.identity.is_adopting() {
            return Err(Status::Busy);
        }
        let token = self.open_issued(id, header, None);
        self.identity.waiting.push_back((token, change));
        self.write_identity();
        Ok(None)
    }

    /// Whether registers may not be changed any more, as they would be another brick's.
    pub(super) fn is_adopting(&self) -> bool {
        self.identity.is_adopting()
    }

    /// Starts the next change that needs a write; answers those that don't.
    fn write_identity(&mut self) {
        while self.identity.running.is_none() {
            let Some((token, change)) = self.identity.waiting.pop_front() else { return };
            let (mut membership, mut blank) = (self.identity.membership.clone(), self.identity.blank);
            let mut floors = self.identity.floors.clone();
            match &change {
                Change::DeclareBlank => blank = true,
                Change::ClearBlank => blank = false,
                Change::Retire(retire) => {
                    if !floors.raise(retire.brick, retire.floor) {
                        self.answer(token, Status::Ok.into());
                        continue;
                    }
                }
                Change::Stamp(stamp) => match &membership {
                    Some(before) => {
                        let same = before == stamp;
                        self.answer(token, if same { Status::Ok } else { Status::AlreadyStamped }.into());
                        continue;
                    }
                    None => membership = Some(stamp.clone()),
                },
                Change::Adopt { .. } if membership.is_some() => {
                    self.answer(token, Status::AlreadyStamped.into());
                    continue;
                }
                Change::Adopt { brick, start, membership } => {
                    let (brick, start, membership) = (*brick, *start, membership.clone());
                    self.identity.running = Some((token, change));
                    return self.disk(Purpose::Identity, DiskRequest::Adopt { brick, membership, start });
                }
            }
            self.identity.running = Some((token, change));
            self.disk(Purpose::Identity, DiskRequest::WriteIdentity { membership, blank, floors });
        }
    }

    pub(super) fn identity_written(&mut self, good: bool) {
        let (token, change) = self.identity.running.take().expect("one write runs");
        if !good {
            self.answer(token, Status::Io.into());
            return self.write_identity();
        }
        // First, or whoever asked would be closed without it.
        self.answer(token, Status::Ok.into());
        match change {
            Change::DeclareBlank => {}
            // A declaration that came meanwhile stands.
            Change::ClearBlank => {
                let mut waiting = self.identity.waiting.iter();
                let blank = waiting.any(|(_, next)| matches!(next, Change::DeclareBlank));
                if std::mem::replace(&mut self.identity.blank, blank) != blank {
                    self.change_standing();
                }
            }
            Change::Retire(retire) => {
                self.identity.floors.raise(retire.brick, retire.floor);
                self.change_standing();
            }
            Change::Stamp(membership) => {
                self.identity.membership = Some(membership.clone());
                self.config.membership = Some(membership.clone());
                self.tell_others(|| CoreMessage::Stamped { membership: membership.clone() });
            }
            Change::Adopt { .. } => {
                self.begin_shutdown();
                return self.actions.push_back(Action::Restart);
            }
        }
        self.write_identity();
    }

    /// Whoever was told otherwise has to ask again.
    fn change_standing(&mut self) {
        self.identity.standing.0 += 1;
        let standing = self.identity.standing;
        self.tell_others(|| CoreMessage::Outdated { standing });
        self.close_outdated(standing);
    }
}
