//! What has to be in order for the program to do its work: named conditions, each with the state that its owner says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All conditions of the program; a clone is the same list.
#[derive(Clone, Debug, Default)]
pub struct Conditions(Arc<Mutex<BTreeMap<&'static str, Standing>>>);

/// The owner's end of one of them.
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    conditions: Conditions,
}

/// How it is with one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub state: State,
    /// For people: which address, or what is wrong. No secret.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Up,
    /// The program does its work, but not as well as it should: the detail says what is missing.
    Degraded,
    /// The program cannot do its work.
    Down,
    /// The program does its work without it.
    Off,
}

impl Conditions {
    /// A new condition, which is down until its owner says something else.
    pub fn add(&self, name: &'static str) -> Condition {
        let condition = Condition { name, conditions: self.clone() };
        condition.set(State::Down, "not there yet");
        condition
    }

    /// In the order of their names.
    pub fn standings(&self) -> BTreeMap<&'static str, Standing> {
        self.lock().clone()
    }

    /// Nobody panics while he holds the list, and if he did the list would be whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Standing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Condition {
    pub fn set(&self, state: State, detail: impl Into<String>) {
        self.conditions.lock().insert(self.name, Standing { state, detail: detail.into() });
    }
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Down => "down",
            Self::Off => "off",
        }
    }
}
