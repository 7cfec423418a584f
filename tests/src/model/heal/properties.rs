//! What must always hold in the heal model, and what has to be possible for that to mean something.

use stateright::Property;

use super::super::DATA;
use super::state::State;
use super::{Healing, Room, Start};

pub(super) fn of(room: &Room) -> Vec<Property<Healing>> {
    let mut properties = vec![
        Property::always(
            "every copy in S has the last completed write, and so they are equal",
            |_, state: &State| state.readable().all(|side| side.value == state.expected),
        ),
        Property::always("clean implies equal (I6)", |_, state: &State| {
            let [one, other] = &state.sides;
            one.dirty.is_some() || other.dirty.is_some() || one.value == other.value
        }),
    ];
    if room.start == Start::Stale {
        properties.push(Property::sometimes("D2 joins after both writes", |_, state: &State| {
            state.in_sync == DATA && state.expected == 2
        }));
        properties.push(Property::sometimes(
            "a write waits for a pull, then is followed",
            |_, state: &State| {
                state.heal.as_ref().is_some_and(|heal| heal.listed && !heal.followed.is_empty())
            },
        ));
    }
    if room.flushes > 0 {
        properties.push(Property::sometimes(
            "bits are dropped while a write is under way",
            |_, state: &State| {
                state.in_sync == DATA
                    && state.write.is_some()
                    && state.sides.iter().all(|side| side.dirty.is_none())
            },
        ));
    }
    if room.takeovers > 0 {
        properties.push(Property::sometimes(
            "a successor finds a write that wasn't completed",
            |_, state: &State| {
                state.session == 2 && state.serves && state.expected == state.written && state.in_sync == DATA
            },
        ));
    }
    if room.powers > 0 {
        properties.push(Property::sometimes(
            "the source is dropped, and the other copy serves",
            |_, state: &State| state.serves && state.sides[0].rebooted,
        ));
    }
    properties
}
