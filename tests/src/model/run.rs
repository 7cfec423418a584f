//! Runs a checker to its end and says what came of it.

use std::fmt::{self, Debug};
use std::hash::Hash;
use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// How much of a model's room is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Seconds, in a development build.
    Small,
    /// Minutes, in a release build.
    Full,
}

/// What a checker found.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Different states, mirror images counted once.
    pub states: usize,
    /// The longest of the shortest ways to a state.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// Properties checked.
    pub properties: usize,
    /// Properties that don't hold, each with the way there: the actions, then the state.
    pub violated: Vec<(&'static str, Vec<String>)>,
    /// What should be possible and never happened.
    pub missing: Vec<&'static str>,
}

impl Verdict {
    /// Nothing is violated, and everything that should be possible is.
    pub fn is_clean(&self) -> bool {
        self.violated.is_empty() && self.missing.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { states, depth, took, properties, .. } = self;
        let seconds = took.as_secs_f64();
        write!(f, "{states} states, depth {depth}, {seconds:.1} s, {properties} properties")?;
        for (property, way) in &self.violated {
            write!(f, "\n  VIOLATED in {} steps: {property}", way.len() - 1)?;
            for step in way {
                write!(f, "\n    {step}")?;
            }
        }
        for property in &self.missing {
            write!(f, "\n  NEVER HAPPENED: {property}")?;
        }
        Ok(())
    }
}

/// Explores everything there is, breadth-first, on `threads` threads; stops when a property is violated.
///
/// The checker looks for violations in blocks of 1500 states, and shows the last one of a block: the way there
/// may be longer than the shortest by a step or two.
pub fn check<M>(model: M, threads: usize) -> Verdict
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + PartialEq + Hash + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let finish = HasDiscoveries::AnyFailures;
    let began = Instant::now();
    let checker = model.checker().threads(threads).finish_when(finish).spawn_bfs().join();
    let took = began.elapsed();
    let properties = checker.model().properties();
    let mut found = checker.discoveries();
    let (mut violated, mut missing) = (Vec::new(), Vec::new());
    for property in &properties {
        match (&property.expectation, found.remove(property.name)) {
            (Expectation::Sometimes, None) => missing.push(property.name),
            (Expectation::Always, Some(path)) => {
                let last = format!("{:?}", path.last_state());
                let mut way: Vec<String> =
                    path.into_actions().iter().map(|action| format!("{action:?}")).collect();
                way.push(last);
                violated.push((property.name, way));
            }
            _ => {}
        }
    }
    Verdict {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        took,
        properties: properties.len(),
        violated,
        missing,
    }
}
