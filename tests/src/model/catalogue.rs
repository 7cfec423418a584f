//! All models in all rooms, for the test and for the command.

use super::data::Data;
use super::epoch::Epoch;
use super::heal::Healing;
use super::names::Names;
use super::size::Resizing;
use super::{Home, Mutation, Rules, Size, Verdict, check};

/// Runs a model, unbroken, in each of its rooms; the name of the room comes with what was found there.
pub fn whole(home: Home, size: Size, threads: usize) -> Box<dyn Iterator<Item = (String, Verdict)>> {
    match home {
        Home::Epoch => Box::new(
            Epoch::rooms(size, Rules::WHOLE)
                .map(move |model| (format!("epoch, {}", model.room.name), check(model, threads))),
        ),
        Home::Data => Box::new(
            Data::rooms(size, Rules::WHOLE)
                .map(move |model| (format!("data, {}", model.room.name), check(model, threads))),
        ),
        Home::Heal => Box::new(
            Healing::rooms(size, Rules::WHOLE)
                .map(move |model| (format!("heal, {}", model.room.name), check(model, threads))),
        ),
        Home::Size => Box::new(
            Resizing::rooms(size, Rules::WHOLE)
                .map(move |model| (format!("size, {}", model.room.name), check(model, threads))),
        ),
        Home::Names => Box::new(
            Names::rooms(size, Rules::WHOLE)
                .map(move |model| (format!("names, {}", model.room.name), check(model, threads))),
        ),
    }
}

/// Runs the model that has to notice a broken rule, until it does.
pub fn find(mutation: Mutation) -> (String, Verdict) {
    match mutation.home() {
        Home::Epoch => {
            let model = Epoch::without(mutation);
            (format!("epoch, {}", model.room.name), check(model, 1))
        }
        Home::Data => {
            let model = Data::without(mutation);
            (format!("data, {}", model.room.name), check(model, 1))
        }
        Home::Heal => {
            let model = Healing::without(mutation);
            (format!("heal, {}", model.room.name), check(model, 1))
        }
        Home::Size => {
            let model = Resizing::without(mutation);
            (format!("size, {}", model.room.name), check(model, 1))
        }
        Home::Names => {
            let model = Names::without(mutation);
            (format!("names, {}", model.room.name), check(model, 1))
        }
    }
}
