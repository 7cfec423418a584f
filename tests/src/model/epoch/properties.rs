//! What must always hold in the epoch model, and what has to be possible for that to mean something.

use stateright::Property;

use super::super::{DATA, is_majority};
use super::state::{Accident, Record, Session, Stage, State};
use super::{Epoch, Room};

pub(super) fn of(room: &Room) -> Vec<Property<Epoch>> {
    let mut properties = vec![
        Property::always("no ballot is used for two records (R1)", |_, state: &State| {
            state.accident != Some(Accident::BallotUsedTwice)
        }),
        Property::always("one decided record per predecessor, all in one chain (R1)", |_, state: &State| {
            is_chain(&state.history)
        }),
        Property::always("S is never empty", |_, state: &State| {
            state.history.iter().all(|(record, _)| record.in_sync & DATA != 0)
        }),
        Property::always("no write is applied behind a successor's back (I1)", |_, state: &State| {
            state.accident != Some(Accident::LateWrite)
        }),
        Property::always("no read is returned behind a successor's back (I8)", |_, state: &State| {
            state.accident != Some(Accident::StaleRead)
        }),
        Property::always("two sessions never hold the lease (I8)", |_, state: &State| {
            state.clients[1].force || !Session::CLIENTS.iter().all(|client| holds(state, *client))
        }),
        Property::sometimes("Y takes over", |_, state: &State| state.clients[1].stage == Stage::Serving),
    ];
    if room.drops > 0 {
        properties.push(Property::sometimes("a brick leaves S", |_, state: &State| {
            state.clients[0].record.is_some_and(|record| record.in_sync != DATA)
        }));
    }
    if !room.close {
        properties.push(Property::sometimes("X finds itself fenced", |_, state: &State| {
            state.clients[0].stage == Stage::Ended
        }));
    }
    if room.close {
        properties.push(Property::sometimes("X closes, then Y opens", |_, state: &State| {
            let base = |record: Record| state.history.iter().find(|(known, _)| known.ballot == record.base);
            let y = state.clients[1].record.filter(|_| state.clients[1].stage == Stage::Serving);
            y.and_then(base).is_some_and(|(record, _)| record.closed)
        }));
    }
    if room.force {
        properties.push(Property::sometimes(
            "a forced takeover waits for a brick it can't fence",
            |_, state: &State| {
                let [x, y] = &state.clients;
                y.stage == Stage::Serving && y.unfenced & x.believes != 0
            },
        ));
    }
    if room.wipes > 0 {
        properties.push(Property::sometimes("a brick that was blank votes for Y", |_, state: &State| {
            let voted = |brick: &super::state::Acceptor| brick.accepted.owner == Session::Y;
            let blank = state.bricks.iter().any(|brick| brick.blank);
            state.wipes_left == 0 && !blank && state.bricks.iter().all(voted)
        }));
    }
    properties
}

/// Whether every decided record descends from the one decided before it.
fn is_chain(history: &[(Record, u8)]) -> bool {
    let mut decided = history.iter().filter(|(_, bricks)| is_majority(*bricks)).map(|(record, _)| record);
    let Some(mut last) = decided.next() else { return true };
    for record in decided {
        let mut ancestor = record;
        while ancestor.base > last.ballot {
            let found = history.iter().find(|(known, _)| known.ballot == ancestor.base);
            let Some((found, _)) = found else { return false };
            ancestor = found;
        }
        if ancestor.base != last.ballot {
            return false;
        }
        last = record;
    }
    true
}

/// By its own count, nobody else can have the image.
fn holds(state: &State, client: Session) -> bool {
    let me = &state.clients[client.index()];
    me.record.is_some() && !matches!(me.stage, Stage::Ended) && is_majority(me.believes)
}
