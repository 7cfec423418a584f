//! What must always hold in the names model, and what has to be possible for that to mean something.

use stateright::Property;

use super::Names;
use super::state::{State, Value, majorities};

pub(super) fn all() -> Vec<Property<Names>> {
    vec![
        Property::always("a removed name isn't read, nor an image that had it before", |_, state: &State| {
            read(state).all(|value| value == Value::Nothing || state.allowed.contains(&value))
        }),
        Property::always("a created name is read", |_, state: &State| {
            state.allowed.contains(&Value::Nothing) || read(state).all(|value| value != Value::Nothing)
        }),
        Property::sometimes("all bricks have forgotten a name that was there", |_, state: &State| {
            state.changes.len() == 2
                && state.changes.iter().all(|change| change.accepted != 0)
                && state.sides.iter().all(|side| side.accepted.is_none())
        }),
        Property::sometimes("a name is created again beside a tombstone", |_, state: &State| {
            let again = state.changes.len() == 3 && matches!(state.allowed[..], [Value::Image(2)]);
            again && state.sides.iter().any(|side| side.accepted.is_none())
        }),
        Property::sometimes("a brick that missed the removal is told afterwards", |_, state: &State| {
            let told = state.changes.get(1).is_some_and(|removal| removal.accepted == 0b111);
            told && state.cuts_left == 0 && !state.waits
        }),
    ]
}

/// What is read, whichever two bricks are asked.
fn read(state: &State) -> impl Iterator<Item = Value> {
    majorities().map(|bricks| state.read(bricks))
}
