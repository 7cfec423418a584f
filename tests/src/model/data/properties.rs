//! What must always hold in the data model, and what has to be possible for that to mean something.

use stateright::Property;

use super::super::{Bricks, DATA};
use super::state::{COPIES, Heal, State};
use super::{Data, Room};

pub(super) fn of(room: &Room) -> Vec<Property<Data>> {
    let mut properties = vec![
        Property::always(
            "nothing readable is older than what was completed or read",
            |model: &Data, state: &State| {
                readable(model, state, |index| state.copies[index].value >= state.floor)
            },
        ),
        Property::always(
            "every readable copy has what was flushed, on its medium (I7)",
            |model, state: &State| {
                readable(model, state, |index| state.copies[index].durable >= state.flushed)
            },
        ),
        Property::always("clean implies equal (I6)", |_, state: &State| {
            let [one, other] = &state.copies;
            one.dirty || other.dirty || (one.value, one.durable) == (other.value, other.durable)
        }),
        Property::always("S is never empty (I9)", |_, state: &State| state.record & DATA != 0),
        Property::sometimes("a write completes", |_, state: &State| state.holder.completed > 0),
    ];
    if room.cuts > 0 {
        properties.push(Property::sometimes("a brick is dropped and joins again", |_, state: &State| {
            state.left.cuts == 0 && state.floor > 0 && matches!(state.holder.heal, Some(Heal::Joining { .. }))
        }));
    }
    if room.takeovers > 0 {
        properties.push(Property::sometimes(
            "a successor converges two copies and serves",
            |_, state: &State| {
                let [one, other] = &state.copies;
                let lasts = state.left.takeovers == 0 && state.holder.serves && state.holder.in_sync == DATA;
                lasts && one.value == other.value && one.value > 0 && one.durable == 0
            },
        ));
    }
    if room.flushes > 0 {
        properties.push(Property::sometimes("bits are dropped", |_, state: &State| {
            state.flushed > 0 && state.copies.iter().all(|copy| !copy.dirty)
        }));
    }
    if room.powers > 0 {
        properties.push(Property::sometimes(
            "a completed unflushed write is lost with the power of both",
            |_, state| {
                let state: &State = state;
                state.holder.completed > state.floor
            },
        ));
    }
    properties
}

fn readable(model: &Data, state: &State, holds: impl Fn(usize) -> bool) -> bool {
    let readable: Bricks = model.readable(state);
    COPIES.iter().filter(|brick| readable & brick.bit() != 0).all(|brick| holds(brick.index()))
}
