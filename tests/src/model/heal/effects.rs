//! Where each step of the heal model leads.

use super::super::{Brick, DATA, Mutation};
use super::Healing;
use super::state::{Flush, Heal, Issued, Pull, Reply, Request, State, Write};
use super::steps::{Step, members};

impl Healing {
    pub(super) fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Write => self.start_write(state),
            Step::Resend(brick) => send(state, brick),
            Step::Request(brick) => {
                let request = state.side(brick).requests.remove(0);
                self.take_request(state, brick, request, false);
            }
            Step::OldRequest(brick) => {
                let request = state.side(brick).unread.remove(0);
                self.take_request(state, brick, request, true);
            }
            Step::Done(brick, place) => {
                let side = state.side(brick);
                let issued = side.ring.remove(place);
                side.value = issued.value;
                if !issued.old {
                    side.replies.push(Reply::Written { value: issued.value });
                }
            }
            Step::Reply(brick) => self.take_reply(state, brick),
            Step::Flush => {
                state.flushes_left -= 1;
                // Below every write that is in flight now (I6).
                let in_flight = state.write.map(|write| write.generation - 1);
                state.flush = Some(Flush { boundary: in_flight.unwrap_or(state.generation) });
                state.generation += 1;
            }
            Step::FlushDone => {
                let flush = state.flush.take().expect("a flush is under way");
                if state.in_sync == DATA && state.sides.iter().all(|side| side.connected) {
                    let clean = Request::Clean { generation: flush.boundary };
                    state.sides.iter_mut().for_each(|side| side.requests.push(clean));
                }
            }
            Step::Breaks(brick) => self.break_connection(state, brick),
            Step::Reconnects(brick) => state.side(brick).connected = true,
            Step::TakeOver => self.take_over(state),
            Step::PowerLost => {
                state.powers_left -= 1;
                let source = state.side(Brick::D1);
                source.value = 0;
                source.dirty = Some(0);
                source.rebooted = true;
            }
            Step::SourceLeaves => {
                state.in_sync = Brick::D2.bit();
                state.serves = true;
                state.heal = None;
                // A write that its holder didn't complete may be there, or not.
                let left = state.sides[1].value;
                if left == state.completed || (left == state.written && left > 0) {
                    state.expected = left;
                }
                // Its connection is reset.
                let target = state.side(Brick::D2);
                target.requests.clear();
                target.replies.clear();
            }
            _ => self.heal(state, step),
        }
    }

    fn start_write(&self, state: &mut State) {
        state.written += 1;
        let (value, generation) = (state.written, state.generation);
        state.write = Some(Write { value, generation, sent: 0, applied: 0 });
        for brick in members(state.in_sync) {
            if state.sides[brick.index()].connected {
                send(state, brick);
            }
        }
        // A brick outside S gets it as well, but never a second one that overlaps (I13).
        let Some(heal) = &mut state.heal else { return };
        if state.in_sync == DATA {
            return;
        }
        heal.listed = true;
        let overlaps = !heal.followed.is_empty();
        if overlaps && !self.rules.breaks(Mutation::SecondWriteOvertakes) {
            heal.followed.iter_mut().for_each(|(_, stale)| *stale = true);
        } else {
            heal.followed.push((value, false));
            state.side(Brick::D2).requests.push(Request::Write { value, generation });
        }
    }

    fn take_request(&self, state: &mut State, brick: Brick, request: Request, old: bool) {
        let session = state.session;
        let side = state.side(brick);
        match request {
            Request::Write { value, generation } => {
                // The bit is set before the disk is touched.
                side.dirty = side.dirty.max(Some(generation));
                side.ring.push(Issued { value, old });
            }
            Request::Clean { generation } => {
                let covered = side.dirty.is_some_and(|dirty| dirty <= generation);
                if covered || self.rules.breaks(Mutation::CleanIgnoresGenerations) {
                    side.dirty = None;
                }
            }
            Request::Pull => side.pull = Some(Pull { fetched: None, session, old: false }),
        }
    }

    fn take_reply(&self, state: &mut State, brick: Brick) {
        match state.side(brick).replies.remove(0) {
            Reply::Written { value } => {
                if let Some(write) = state.write.as_mut().filter(|write| write.value == value) {
                    write.applied |= brick.bit();
                }
                if let Some(heal) = state.heal.as_mut().filter(|_| brick == Brick::D2)
                    && let Some(place) = heal.followed.iter().position(|(followed, _)| *followed == value)
                {
                    let (_, stale) = heal.followed.remove(place);
                    heal.listed &= stale;
                }
                if state.write.is_some_and(|write| state.in_sync & !write.applied == 0) {
                    state.expected = state.write.take().expect("just seen").value;
                    state.completed = state.expected;
                }
            }
            Reply::Pulled { good } => {
                if let Some(heal) = &mut state.heal {
                    heal.pulling = false;
                    heal.listed = false;
                    if !good {
                        self.stop_heal(state);
                    }
                }
            }
        }
    }

    fn break_connection(&self, state: &mut State, brick: Brick) {
        state.breaks_left -= 1;
        self.disconnect(state, brick);
        // Whatever was pulled is compared again.
        if state.heal.is_some() {
            self.stop_heal(state);
        }
    }

    fn disconnect(&self, state: &mut State, brick: Brick) {
        let side = state.side(brick);
        side.connected = false;
        let unread = std::mem::take(&mut side.requests);
        if self.rules.breaks(Mutation::OldConnectionSurvives) {
            side.unread.extend(unread);
        }
        side.replies.clear();
        side.ring.iter_mut().for_each(|issued| issued.old = true);
        if let Some(pull) = &mut side.pull {
            pull.old = true;
        }
        if let Some(write) = &mut state.write {
            write.sent &= write.applied | !brick.bit();
        }
    }

    /// Given up: what it has in flight is drained with the target's connection.
    fn stop_heal(&self, state: &mut State) {
        state.heal = None;
        self.disconnect(state, Brick::D2);
    }

    /// The next session: everything of the older is refused, or was drained (I1).
    fn take_over(&self, state: &mut State) {
        state.takeovers_left -= 1;
        state.session += 1;
        let session = state.session;
        for side in &mut state.sides {
            side.fence = session;
            side.stray_pull = side.requests.contains(&Request::Pull);
            side.requests.clear();
            side.replies.clear();
            side.connected = true;
            side.dirty = side.dirty.map(|_| 0);
            if let Some(pull) = &mut side.pull {
                pull.old = true;
            }
        }
        // What the holder completed is on every brick of S; what it didn't complete may be on this one.
        let kept = members(state.in_sync).find(|brick| !state.sides[brick.index()].rebooted);
        state.expected = kept.map_or(state.expected, |brick| state.sides[brick.index()].value);
        state.serves = state.in_sync != DATA;
        (state.write, state.flush, state.heal, state.generation) = (None, None, None, 1);
    }

    fn heal(&self, state: &mut State, step: Step) {
        match step {
            Step::HealStarts => {
                let listed = state.write.is_some();
                state.heal = Some(Heal { gathered: 0, listed, pulling: false, followed: Vec::new() });
            }
            Step::Gathered(brick) => {
                let dirty = state.side(brick).dirty.is_some();
                let heal = state.heal.as_mut().expect("a heal gathers");
                heal.gathered |= brick.bit();
                heal.listed |= dirty;
            }
            Step::PullSent => {
                state.heal.as_mut().expect("a heal pulls").pulling = true;
                state.side(Brick::D2).requests.push(Request::Pull);
            }
            Step::SourceReads => self.read_source(state),
            Step::TargetWrites => {
                let target = state.side(Brick::D2);
                let pull = target.pull.take().expect("something was fetched");
                let value = pull.fetched.expect("something was fetched");
                if target.value != value {
                    target.dirty = target.dirty.max(Some(0));
                    target.value = value;
                }
                if !pull.old {
                    target.replies.push(Reply::Pulled { good: true });
                }
            }
            Step::StrayPull => {
                let target = state.side(Brick::D2);
                target.stray_pull = false;
                if self.rules.breaks(Mutation::HealWithoutEpoch) {
                    target.pull = Some(Pull { fetched: None, session: 1, old: true });
                }
            }
            Step::Joins | Step::Serves => {
                state.in_sync = DATA;
                state.serves = true;
                state.completed = state.expected;
                state.heal = None;
            }
            _ => unreachable!("a heal's steps"),
        }
    }

    /// The source serves a pull of its own epoch, and only in the life that the holder meant.
    fn read_source(&self, state: &mut State) {
        let [source, target] = &mut state.sides;
        let pull = target.pull.as_mut().expect("a pull asks");
        let current = pull.session == source.fence || self.rules.breaks(Mutation::HealWithoutEpoch);
        let same_life = !source.rebooted || self.rules.breaks(Mutation::PullFromRestarted);
        if current && same_life {
            pull.fetched = Some(source.value);
        } else {
            let old = pull.old;
            target.pull = None;
            if !old {
                target.replies.push(Reply::Pulled { good: false });
            }
        }
    }
}

fn send(state: &mut State, brick: Brick) {
    let write = state.write.as_mut().expect("a write is sent");
    write.sent |= brick.bit();
    let request = Request::Write { value: write.value, generation: write.generation };
    state.side(brick).requests.push(request);
}
