//! What must always hold in the size model, and what has to be possible for that to mean something.

use stateright::Property;

use super::super::DATA;
use super::state::{FIRST, State};
use super::{Resizing, Room};

pub(super) fn of(room: &Room) -> Vec<Property<Resizing>> {
    let mut properties = vec![
        Property::always("what a grow brought back reads zero until it is written", |_, state: &State| {
            !state.fresh || state.readable().all(|copy| copy.value == 0)
        }),
        Property::always("every readable copy has what the user wrote last", |_, state: &State| {
            state.readable().all(|copy| state.may_read & 1 << copy.value != 0)
        }),
        Property::always("clean implies equal (I6)", |_, state: &State| {
            let [one, other] = &state.copies;
            one.dirty || other.dirty || (one.value, one.durable) == (other.value, other.durable)
        }),
        Property::always("the copies of S are equal when they are read", |_, state: &State| {
            let mut readable = state.readable();
            let first = readable.next();
            readable.all(|copy| first.is_some_and(|first| first.value == copy.value))
        }),
        Property::sometimes("a discarded block is clean", |_, state: &State| {
            state.blocks == 1 && state.copies.iter().all(|copy| copy.durable == 0 && !copy.dirty)
        }),
        Property::sometimes("what a grow brought back is written", |_, state: &State| {
            let since = state.blocks == 2 && state.left.shrinks == 0 && state.resize.is_none();
            since && state.written > FIRST && state.may_read == 1 << state.written && state.flushed == 1
        }),
    ];
    if room.cuts > 0 {
        properties.push(Property::sometimes(
            "a brick that still has what was cut off is healed by bits",
            |_, state: &State| {
                let healed = state.heal.is_some_and(|heal| !heal.listed);
                healed && state.blocks == 1 && state.copies.iter().all(|copy| copy.value == 0 && copy.dirty)
            },
        ));
    }
    if room.takeovers > 0 {
        properties.push(Property::sometimes(
            "a successor finds what was cut off and never discarded",
            |_, state: &State| {
                let both = state.copies.iter().all(|copy| copy.value == FIRST);
                state.serves && state.blocks == 1 && state.resize.is_none() && both
            },
        ));
    }
    if room.powers > 0 {
        properties.push(Property::sometimes("a power loss undoes a discard", |_, state: &State| {
            let undone = state.copies.iter().all(|copy| copy.value == FIRST && copy.dirty);
            state.left.powers == 0 && state.blocks == 1 && state.in_sync == DATA && undone
        }));
    }
    properties
}
